"""Twenty tasks from a folder to an answer, each by at most four calls of the command line's JSON or of the MCP tools.

``python scripts/agent_tasks.py [--only NAME ...] [--json FILE]``
Each task gets a folder of photos (the embedded animals) and nothing else; what it finds out is held against what was
put into the folder. ``scripts/benchmarks.py`` puts the table into ``docs/agents.md``. Exits with 1 where one is not
solved.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from hfft.cli import main as hfft
from hfft.demo import embedded_images
from hfft.space.app import serve
from hfft.space.options import SpaceArguments

MOST_CALLS = 4
ANIMALS = ("bear", "bird", "elephant", "giraffe")
QUICK = ("--num_train_epochs", 20, "--policy", "head", "--figures", "false", "--calibration_folds", 0)

Answer = tuple[str, bool]
"""What a task found out, in words, and whether that is so."""


class Desk:
    """Where a task is solved: a folder with its photos, the ways to ask, and the number of questions so far.

    Args:
        folder: of the task.
        cache: folder of activations; the tasks share it.
    """

    def __init__(self, folder: Path, cache: Path) -> None:
        self.folder, self.cache, self.calls = folder, cache, 0
        self.photos, self.run = folder / "photos", folder / "run"
        self.server = ""

    def fill(self, each: int = 12, split: str = "train", target: str = "photos") -> Path:
        """Write so many photos of each animal, in one folder for each."""
        images = embedded_images()[split]
        names, counts = images.features["label"].names, Counter[str]()
        for row in images:
            name = names[row["label"]]
            if name in ANIMALS and counts[name] < each:
                counts[name] += 1
                place = self.folder / target / name / f"{counts[name]:02d}.png"
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(row["image"]["bytes"])
        return self.folder / target

    def unsorted(self, each: int = 3) -> dict[str, str]:
        """Write unseen photos in one folder, ``new``; return the animal on each."""
        seen = self.fill(each, "test", "seen")
        (self.folder / "new").mkdir()
        truth = {}
        for number, path in enumerate(sorted(seen.rglob("*.png"))):
            truth[f"{number:02d}.png"] = path.parent.name
            shutil.move(path, self.folder / "new" / f"{number:02d}.png")
        return truth

    def ask(self, *argv: object) -> dict[str, Any]:
        """Run a command with ``--json``; return all that it answers."""
        self.calls += 1
        out = io.StringIO()
        with redirect_stdout(out), redirect_stderr(io.StringIO()):
            hfft([*map(str, argv), "--json"])
        answer: dict[str, Any] = json.loads(out.getvalue())
        return answer

    def result(self, *argv: object) -> dict[str, Any]:
        """Run a command that must succeed; return its result."""
        answer = self.ask(*argv)
        if not answer["ok"]:
            raise RuntimeError(f"{argv[0]}: {answer['error']['message']}")
        result: dict[str, Any] = answer["result"]
        return result

    def train(self, *more: object) -> dict[str, Any]:
        """Fine-tune on the photos."""
        place = ("--dataset_name", self.photos, "--output_dir", self.run, "--cache_dir", self.cache)
        return self.result("finetune", *place, *QUICK, *more)

    def finding(self, kind: str) -> dict[str, Any]:
        """Check the photos; return the finding of a kind."""
        findings = self.result("check", self.photos)["findings"]
        found: dict[str, Any] = next(finding for finding in findings if finding["kind"] == kind)
        return found

    def tool(self, name: str, **arguments: object) -> Any:
        """Call a tool of the Space by MCP; return its JSON."""
        self.calls += 1
        return asyncio.run(_call(self.server, name, arguments))


async def _call(url: str, name: str, arguments: dict[str, Any]) -> Any:
    from mcp import ClientSession
    from mcp.client.streamable_http import streamable_http_client

    async with streamable_http_client(url) as (read, write, _), ClientSession(read, write) as session:
        await session.initialize()
        answer = await session.call_tool(name, arguments)
    text = getattr(answer.content[0], "text", "")
    if answer.isError:
        raise RuntimeError(f"{name}: {text}")
    return json.loads(text)


@dataclass(frozen=True)
class Task:
    """One task.

    Args:
        name: of it.
        question: what somebody asks.
        way: ``CLI`` or ``MCP``.
        solve: does it.
    """

    name: str
    question: str
    way: str
    solve: Callable[[Desk], Answer]


TASKS: list[Task] = []


def task(question: str, way: str = "CLI") -> Callable[[Callable[[Desk], Answer]], Callable[[Desk], Answer]]:
    """Make a function one of the tasks; its name is the task's."""

    def added(solve: Callable[[Desk], Answer]) -> Callable[[Desk], Answer]:
        TASKS.append(Task(solve.__name__, question, way, solve))
        return solve

    return added


@task("How many photos are these, and is anything wrong with them?")
def count(desk: Desk) -> Answer:
    """Ask `check`."""
    desk.fill(12)
    found = desk.result("check", desk.photos)
    worst = {finding["severity"] for finding in found["findings"]}
    return f"{found['images']['train']} photos, no errors", found["images"] == {"train": 48} and "error" not in worst


@task("Which photos cannot be read?")
def unreadable(desk: Desk) -> Answer:
    """Ask `check` of a folder with a file that was cut off."""
    path = desk.fill(10) / "bird" / "04.png"
    path.write_bytes(path.read_bytes()[:200])
    files = desk.finding("damaged")["files"]
    return ", ".join(files), files == ["train: bird/04.png"]


@task("Is a photo there twice?")
def twice(desk: Desk) -> Answer:
    """Ask `check` of a folder with a copy."""
    desk.fill(10)
    shutil.copy(desk.photos / "bear" / "01.png", desk.photos / "bear" / "copy.png")
    (group,) = desk.finding("duplicate")["groups"]
    return " = ".join(group), set(group) == {"train: bear/01.png", "train: bear/copy.png"}


@task("Is the same photo filed under two animals?")
def conflict(desk: Desk) -> Answer:
    """Ask `check` of a folder with a copy under another label."""
    desk.fill(10)
    shutil.copy(desk.photos / "bear" / "01.png", desk.photos / "bird" / "bear.png")
    (group,) = desk.finding("conflict")["groups"]
    return " = ".join(group), set(group) == {"train: bear/01.png", "train: bird/bear.png"}


@task("Does a test photo occur among the training photos?")
def leak(desk: Desk) -> Answer:
    """Ask `check` of folders for training and test."""
    desk.fill(10, target="photos/train")
    desk.fill(4, "test", "photos/test")
    shutil.copy(desk.photos / "train" / "bear" / "01.png", desk.photos / "test" / "bear" / "again.png")
    (group,) = desk.finding("leak")["groups"]
    return " = ".join(group), set(group) == {"train: bear/01.png", "test: bear/again.png"}


@task("Which animal needs more photos?")
def few(desk: Desk) -> Answer:
    """Ask `check` of a folder with few photos of one class."""
    desk.fill(12)
    for path in sorted((desk.photos / "giraffe").iterdir())[4:]:
        path.unlink()
    what = desk.finding("few_images")["what"]
    return what, "giraffe" in what and not any(name in what for name in ANIMALS if name != "giraffe")


@task("Which photos are in the wrong folder?")
def mislabelled(desk: Desk) -> Answer:
    """Ask `labels` of a folder with two photos moved."""
    desk.fill(20)
    moved = {"bird/bear.png": "bear", "elephant/giraffe.png": "giraffe"}
    for place, animal in moved.items():
        shutil.move(desk.photos / animal / "02.png", desk.photos / place)
    suspects = [one for one in desk.result("labels", desk.photos)["suspects"] if one["finding"] == "label"]
    found = {one["image"]: one["suggestion"] for one in suspects}
    return ", ".join(f"{image} is a {label}" for image, label in found.items()), moved.items() <= found.items()


@task("What would be trained, and how much of the model is that?")
def plan(desk: Desk) -> Answer:
    """Ask `plan`."""
    (phase,) = desk.result("plan", "--policy", "last_block")["phases"]
    parts = [part["part"] for part in phase["parts"] if part["parameters"]]
    trained = [part["part"] for part in phase["parts"] if part["trainable"]]
    share = phase["trainable"] / phase["parameters"]
    # The last parts of the model, and none before them.
    return f"{', '.join(trained)}: {share:.0%}", trained == parts[-len(trained) :] and 0 < share < 0.5


@task("How good is a model of these photos, compared with guessing?")
def accuracy(desk: Desk) -> Answer:
    """Train."""
    desk.fill()
    found = desk.train()
    reached, guessed = found["metrics"]["validation"]["accuracy"], found["baselines"]["majority"]["accuracy"]
    return f"{reached:.2f}, guessing {guessed:.2f}", reached > guessed + 0.3


@task("Train a model and tell me which animal is on each new photo.")
def label(desk: Desk) -> Answer:
    """Train, then predict."""
    desk.fill()
    truth = desk.unsorted()
    desk.train()
    found = _labels(desk.result("predict", desk.folder / "new", "--model", desk.run))
    right = sum(found[name] == animal for name, animal in truth.items())
    return f"{right} of {len(truth)} right", set(found) == set(truth) and right >= 0.8 * len(truth)


@task("How many of each animal are among the new photos?")
def tally(desk: Desk) -> Answer:
    """Train, predict and count."""
    desk.fill()
    truth = Counter(desk.unsorted().values())
    desk.train()
    found = Counter(_labels(desk.result("predict", desk.folder / "new", "--model", desk.run)).values())
    return json.dumps(found), sum((found - truth).values()) <= 2


@task("Which of the new photos show none of these animals?")
def none_of_these(desk: Desk) -> Answer:
    """Train, then predict a folder with a picture of no animal."""
    desk.fill(30)
    desk.unsorted(1)
    board = Image.new("L", (8, 8))
    board.putdata([255 * ((place + place // 8) % 2) for place in range(64)])
    board.resize((224, 224), Image.Resampling.NEAREST).save(desk.folder / "new" / "board.png")
    desk.train()
    rows = desk.result("predict", desk.folder / "new", "--model", desk.run)["predictions"]
    unknown = [Path(row["file"]).name for row in rows if row["unknown"]]
    return ", ".join(unknown), "board.png" in unknown and len(unknown) <= 2


@task("Train, and tell me which animal the model is worst at on my test photos.")
def worst(desk: Desk) -> Answer:
    """Train, then evaluate."""
    desk.fill()
    test = desk.fill(8, "test", "test")
    desk.train()
    where = ("--validation_dir", test, "--output_dir", desk.folder / "evaluation")
    rows = desk.result("evaluate", "--model", desk.run, *where)["evaluation"]["per_class"]
    lowest = min(rows, key=lambda row: row["recall"])
    return f"{lowest['label']}, recall {lowest['recall']:.2f}", {row["label"] for row in rows} == set(ANIMALS)


@task("Which of these photos should I label next?")
def next_ones(desk: Desk) -> Answer:
    """Train, then choose."""
    desk.fill()
    truth = desk.unsorted()
    desk.train()
    chosen = [
        Path(one["image"]).name
        for one in desk.result("next", desk.folder / "new", "--model", desk.run, "--count", 5)["chosen"]
    ]
    return ", ".join(chosen), len(set(chosen)) == 5 and set(chosen) <= set(truth)


@task("I want a file for other programs that answers as the model does.")
def onnx(desk: Desk) -> Answer:
    """Train, then export."""
    desk.fill()
    desk.train()
    (export,) = desk.result("export", desk.run, "--to", "onnx", "--check_images", 40)["exports"]
    parity = export["parity"]
    text = f"{parity['same_labels']} of {parity['images']} answers the same"
    return text, parity["same_labels"] == parity["images"] and (Path(export["folder"]) / "model.onnx").is_file()


@task("Which of two learning rates is better?")
def learning_rate(desk: Desk) -> Answer:
    """Sweep."""
    desk.fill()
    place = ("--dataset_name", desk.photos, "--output_dir", desk.folder / "sweep", "--cache_dir", desk.cache)
    found = desk.result("sweep", *place, *QUICK, "--sweep", "learning_rate=0.000001,0.003")
    lines = [line for line in Path(found["table"]).read_text(encoding="utf-8").splitlines() if line]
    return f"{found['runs']} runs in {Path(found['table']).name}", found["failed"] == 0 and len(lines) == 3


@task("Give me features of the photos for a plot of my own.")
def features(desk: Desk) -> Answer:
    """Embed."""
    desk.fill()
    found = desk.result("embed", desk.photos, "--output", desk.folder / "features.parquet")
    return f"{found['images']} x {found['features']}", found["images"] == 48 and Path(found["output"]).is_file()


@task("Train with a flag that I remember wrongly.")
def misspelt(desk: Desk) -> Answer:
    """Train with a wrong value, read the hint, train again."""
    desk.fill()
    answer = desk.ask("finetune", "--dataset_name", desk.photos, "--output_dir", desk.run, "--policy", "last")
    error = answer["error"]
    right = "last_block" if "last_block" in f"{error['message']} {error['hint']}" else "last"
    found = desk.train("--policy", right)
    return f"{error['code']}, then {found['policy']}", (error["code"], found["policy"]) == ("argument", "last_block")


@task("Is this zip fit to train on?", "MCP")
def zip_check(desk: Desk) -> Answer:
    """Check a zip with a broken file."""
    (desk.fill(6) / "bird" / "broken.png").write_bytes(b"no image")
    (left,) = desk.tool("check_images", images=_zipped(desk.photos))["left_out"]
    return f"{left['file']} cannot be read", left["file"] == "broken.png"


@task("Train on this zip in the Space, then tell me what is on a photo.", "MCP")
def in_the_space(desk: Desk) -> Answer:
    """Start, watch and classify."""
    desk.fill()
    name, animal = next(iter(desk.unsorted(1).items()))
    visit = desk.tool("start_training", images=_zipped(desk.photos), policy="head", epochs=4)["visit"]
    for _ in range(2):
        state = desk.tool("watch_training", visit=visit, seconds=50)
        if state["state"] == "done":
            break
    photo = base64.b64encode((desk.folder / "new" / name).read_bytes()).decode()
    found = desk.tool("classify_image", image=f"data:image/png;base64,{photo}", visit=visit)
    return f"{found['label']}, {found['probability']:.2f}", found["label"] == animal


def _labels(result: dict[str, Any]) -> dict[str, str]:
    return {Path(row["file"]).name: row["label"] for row in result["predictions"]}


def _zipped(folder: Path) -> str:
    archive = Path(shutil.make_archive(str(folder), "zip", folder))
    return f"data:application/zip;base64,{base64.b64encode(archive.read_bytes()).decode()}"


@contextmanager
def tools(wanted: bool, outputs: Path) -> Iterator[str]:
    """Serve the Space's tools where they are wanted; give their address."""
    if not wanted:
        yield ""
        return
    with serve(SpaceArguments(outputs=str(outputs), mcp=True)) as served:
        yield served.tools


def solved(tasks: Sequence[Task], scratch: Path) -> Iterator[dict[str, Any]]:
    """Solve tasks one after the other, each in a folder of its own; yield what came of each."""
    with tools(any(task.way == "MCP" for task in tasks), scratch / "outputs") as server:
        for one in tasks:
            (scratch / one.name).mkdir()
            desk = Desk(scratch / one.name, scratch / "cache")
            desk.server = server
            try:
                answer, right = one.solve(desk)
            except Exception as error:  # a task that fails is one that is not solved
                answer, right = f"{type(error).__name__}: {error}", False
            done = right and desk.calls <= MOST_CALLS
            yield {"task": one.question, "way": one.way, "calls": desk.calls, "answer": answer, "solved": done}


def table(runs: Sequence[dict[str, Any]]) -> str:
    """Draw what came of the tasks as a Markdown table."""
    lines = ["| Task | By | Calls | Answer | Solved |", "| --- | --- | ---: | --- | --- |"]
    for run in runs:
        cells = [run["task"], run["way"], str(run["calls"]), run["answer"], "yes" if run["solved"] else "no"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def write(file: Path, runs: Sequence[dict[str, Any]]) -> None:
    """Write what came of tasks, in the order of the tasks, beside what the file says of others."""
    before = json.loads(file.read_text(encoding="utf-8"))["runs"] if file.exists() else []
    found = {run["task"]: run for run in (*before, *runs)}
    rows = [found[task.question] for task in TASKS if task.question in found]
    file.write_text(json.dumps({"runs": rows}, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> int:
    """Solve the tasks and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [task.name for task in TASKS]
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="which tasks")
    parser.add_argument("--json", type=Path, help="file for what came of them; what it says of other tasks stays")
    options = parser.parse_args()
    runs: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="hfft-tasks-") as scratch:
        for run in solved([task for task in TASKS if task.name in options.only], Path(scratch)):
            runs.append(run)
            print(f"{'solved' if run['solved'] else 'NOT   '} {run['calls']} {run['task']} {run['answer']}", flush=True)
    print(f"\n{table(runs)}")
    if options.json:
        write(options.json, runs)
    return int(not all(run["solved"] for run in runs))


if __name__ == "__main__":
    sys.exit(main())
