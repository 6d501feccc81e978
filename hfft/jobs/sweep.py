"""`hfft sweep`: a grid or a list of runs that share their activation caches, and a table of what they gave."""

from __future__ import annotations

import copy
import csv
import itertools
import json
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from transformers import TrainerCallback

from hfft.bars import silenced, unsaid
from hfft.errors import ArgumentError, HfftError, PreemptedError, one_line
from hfft.files import whole_file
from hfft.jobs.extension.soup import make_soup
from hfft.jobs.finetune import finetune, set_up
from hfft.jobs.inputs import Shared, what_was_read
from hfft.machine import refuse_launcher
from hfft.metrics import WORDS, SplitMetrics
from hfft.output_folder import RECORD, RESULTS, claim, locked, made_folder, refuse_foreign
from hfft.parsing import split_values
from hfft.planning.policies import AUTO
from hfft.report.markdown import number
from hfft.report.record import RunRecord, read_record
from hfft.report.terminal import aligned
from hfft.tasks.contract import Task
from hfft.training.recipe.soup import Ingredient, KeepIngredients
from hfft.training.resume import differences, identity_of
from hfft.training.setup import Settings

FILES = ("sweep.csv", "sweep.png")
Options = dict[str, str]
Ingredients = dict[Path, list[Ingredient]]
"""By a run's folder, the weights of its best epochs."""
ParseRun = Callable[[list[str]], Settings]


@dataclass(frozen=True)
class SweepRow:
    """One run of a sweep: its options, its task, where it lies, and what it gave on the validation images."""

    options: Options
    folder: Path
    task: Task
    validation: SplitMetrics
    seconds: float
    trained_share: float

    @property
    def score(self) -> float:
        """The metric that decides: accuracy, mAP or R2."""
        return self.validation.values[self.task.metric]

    @property
    def beside(self) -> tuple[float, ...]:
        """The metrics that are shown beside it, as the task names them."""
        return tuple(self.validation.values[name] for name in self.task.beside)

    @property
    def interval(self) -> tuple[float, float] | None:
        """That of the metric; None of a run of an earlier version that had none."""
        return self.validation.intervals.get(self.task.metric)


def sweep(
    base: list[str],
    runs: Sequence[Options],
    folder: Path,
    parse_run: ParseRun,
    say: Callable[[str], None],
    soup: bool = False,
) -> int:
    """Make every run that is not there yet, and write ``sweep.csv`` and ``sweep.png``.

    Runs see the training and validation images alone: choosing between them must not touch the test images.
    What they have in common is loaded once. They have neither baselines nor figures of their own.

    Args:
        base: flags that all runs share.
        runs: the options that differ.
        folder: each run gets a folder of its own in it.
        parse_run: from flags to the settings of a run.
        say: prints a line.
        soup: make one more run, of the mean of the weights of several epochs and runs, in the folder ``soup``.

    Returns:
        The number of runs that failed; the others are in the table all the same.

    Raises:
        ArgumentError: an option is wrong for any run; nothing has been run then.
    """
    refuse_launcher("hfft sweep")
    folder = folder.expanduser()
    planned = list(zip(runs, (folder / name for name in folder_names(runs)), strict=True))
    parsed = [parse_run([*base, *_flags(options), "--output_dir", str(target)]) for options, target in planned]
    settings = [_of_sweep(each) for each in parsed]
    with made_folder(folder), locked(folder), silenced(parsed[0].training.disable_tqdm):
        refuse_foreign(folder, FILES)
        kept: Ingredients | None = {} if soup else None
        rows, failures = _run_all(planned, settings, say, kept)
        _write_table(base, rows, folder, say)
        if kept is not None and rows:
            best = next(each for each in settings if each.training.output_dir == str(rows[0].folder))
            make_soup(best, [row.folder for row in rows], kept, folder / "soup", say)
        return failures


def _write_table(base: list[str], rows: list[SweepRow], folder: Path, say: Callable[[str], None]) -> None:
    rows.sort(key=lambda row: (-row.score, row.beside[-1]))
    if rows:
        say(f"\n{sweep_table(rows)}\n")  # first, since the files may not be writable by now
        claim(folder, FILES)
        write_sweep(folder, rows)
        say(f"Table: {folder / 'sweep.csv'}, figure: {folder / 'sweep.png'}.")
        say(f"The best one again: hfft finetune {shlex.join([*base, *_flags(rows[0].options)])}")


def _run_all(
    planned: Sequence[tuple[Options, Path]],
    settings: Sequence[Settings],
    say: Callable[[str], None],
    kept: Ingredients | None,
) -> tuple[list[SweepRow], int]:
    """Make the runs that are not there yet; return the rows of all that are, and how many failed.

    The weights of the best epochs go into `kept`, by the run's folder.
    """
    rows: list[SweepRow] = []
    failures, shared, said = 0, Shared(), ""
    for place, ((options, target), setting) in enumerate(zip(planned, settings, strict=True), start=1):
        begins = f"[{place}/{len(planned)}] {target.name}"
        try:
            done, others = finished(target, options, setting, shared)
            say(
                begins
                + (": done before" if done else f": trained anew, since its folder holds {others}" if others else "")
            )
            if done is None and (findings := _check(setting, shared)) != said:
                said = findings
                say(said)
            watch = KeepIngredients(target.name, shared.images(setting.data, setting.training.seed, False).task.metric)
            # Averages are evaluated in place of the weights, which are what a callback sees.
            watching = kept is not None and setting.training.ema_decay is None
            row = done or _run(setting, options, target, shared, (watch,) if watching else ())
            if rows and row.task.metric != rows[0].task.metric:
                raise HfftError(f"its {row.task.metric} is not compared with the {rows[0].task.metric} of the others")
            rows.append(row)
            if kept is not None and watch.kept:
                kept[target] = watch.kept
        except PreemptedError:  # the system wants all of them to end
            raise
        except (HfftError, MemoryError, RuntimeError) as error:  # such as PyTorch's when a batch is too large
            failures += 1
            kind = "" if isinstance(error, HfftError) else f"{type(error).__name__}: "
            say(f"{target.name} failed: {kind}{one_line(error)}")
    return rows, failures


def parse_grid(options: Sequence[str]) -> list[Options]:
    """Turn ``name=a,b`` for several names into every combination.

    Raises:
        ArgumentError: an option is not of that form, or a name is given twice.
    """
    grid: dict[str, list[str]] = {}
    for option in options:
        name, equals, values = option.partition("=")
        name = name.lstrip("-")
        if not equals or not name or not all(split_values(values)):
            raise ArgumentError(f"--sweep {option!r} is not of the form name=value,value")
        if name in grid:
            raise ArgumentError(f"--sweep gives {name} twice; list all its values at once")
        grid[name] = split_values(values)
    return _combinations(grid)


def read_runs(path: str) -> tuple[list[Options], dict[str, Any]]:
    """Read a YAML file with a ``sweep`` key: a mapping of names to values (a grid), or a list of mappings.

    Returns:
        The runs, and the file's other options.

    Raises:
        ArgumentError: the file cannot be read, or ``sweep`` is neither.
    """
    try:
        data = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ArgumentError(f"cannot read {path}: {one_line(error)}") from error
    if not isinstance(data, dict):
        raise ArgumentError(f"{path} must map options to values, but it holds a {type(data).__name__}")
    runs = data.pop("sweep", {})
    if isinstance(runs, dict):
        grid = {name: values if isinstance(values, list) else [values] for name, values in runs.items()}
        return _combinations({name: [_text(path, name, value) for value in grid[name]] for name in grid}), data
    if isinstance(runs, list) and runs and all(isinstance(run, dict) for run in runs):
        return [{name: _text(path, name, value) for name, value in run.items()} for run in runs], data
    raise ArgumentError(f"{path}: sweep must map names to lists of values, or list one mapping for each run")


def run_name(options: Options) -> str:
    """Name a run's folder after its options."""
    text = ",".join(f"{name}={value}" for name, value in options.items())
    return "".join(letter if letter.isalnum() or letter in "=,.-_+" else "-" for letter in text) or "run"


def folder_names(runs: Sequence[Options]) -> list[str]:
    """Name the folders of all runs; where names collide, also in case alone, later ones get a number."""
    names: list[str] = []
    for options in runs:
        name = run_name(options)
        tries = (name if number == 1 else f"{name}-{number}" for number in itertools.count(1))
        taken = {earlier.casefold() for earlier in names}
        names.append(next(each for each in tries if each.casefold() not in taken))
    return names


def finished(folder: Path, options: Options, settings: Settings, shared: Shared) -> tuple[SweepRow | None, str]:
    """Look for a run that was completed before with the same options, images and base.

    Returns:
        Its row, or None; and where the folder holds another run, in what that differs.

    Raises:
        HfftError: the record, the images or the model cannot be used.
    """
    if not (folder / RECORD).exists():
        return None, ""
    record = read_record(folder / RECORD)
    names = differences(record.identity, identity_of(set_up(_as_decided(settings, record), shared, test=False)))
    if not names:
        return _row(record, options, folder), ""
    return None, f"a run with other {', '.join(names)}" if record.identity else "a run that does not say of what it was"


def _as_decided(settings: Settings, record: RunRecord) -> Settings:
    """Return settings with the policy that a run decided by its images, where that was left to it."""
    if settings.policy.policy != AUTO:
        return settings
    return replace(settings, policy=replace(settings.policy, policy=record.policy))


def write_sweep(folder: Path, rows: Sequence[SweepRow]) -> None:
    """Write ``sweep.csv``, best first, and ``sweep.png``."""
    from hfft.report.plots import sweep_figure

    names = list(dict.fromkeys(name for row in rows for name in row.options))
    with whole_file(folder / "sweep.csv") as place, place.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        task = rows[0].task
        writer.writerow([*names, task.metric, *task.beside, "seconds", "trained_share", "folder", "low", "high"])
        for row in rows:
            values = [*(row.options.get(name, "") for name in names), row.score, *row.beside]
            ends = row.interval or ("", "")
            writer.writerow([*values, f"{row.seconds:.1f}", row.trained_share, row.folder, *ends])
    shown = [(row.folder.name, row.score, row.interval) for row in rows]
    sweep_figure(shown, WORDS[task.metric].name, folder / "sweep.png")


def sweep_table(rows: Sequence[SweepRow]) -> str:
    """Draw the rows for the terminal, best first."""
    best, task = rows[0], rows[0].task
    head = ("run", WORDS[task.metric].name, "95% interval", *task.beside, "seconds", "trained")
    lines = aligned(head, [_cells(row) for row in rows], words=(0, 2))
    images, whose = best.validation.images, best.validation.method_of(task.metric)
    lines.append(
        f"\nThe best, {task.counted(best.score, images)} on validation, is optimistic: it was chosen on these "
        f"{images} images."
        + (f" Intervals are {whose}'s, each of its run alone: runs see the same images." if best.interval else "")
    )
    return "\n".join(lines)


def _cells(row: SweepRow) -> tuple[str, ...]:
    interval = "{:.3f} to {:.3f}".format(*row.interval) if row.interval else ""
    beside = (number(value) for value in row.beside)
    return row.folder.name, number(row.score), interval, *beside, f"{row.seconds:.1f}", f"{row.trained_share:.1%}"


def _of_sweep(settings: Settings) -> Settings:
    """Return a copy with what all runs of a sweep do without."""
    training = copy.copy(settings.training)
    training.disable_tqdm, training.baselines, training.figures = True, "none", False
    training.calibration_folds = 0
    return replace(settings, training=training)


def _check(settings: Settings, shared: Shared) -> str:
    sets = shared.images(settings.data, settings.training.seed, test=False)
    return "\n".join(filter(None, (*what_was_read(sets), shared.findings(sets))))


def _run(
    settings: Settings, options: Options, folder: Path, shared: Shared, callbacks: Sequence[TrainerCallback]
) -> SweepRow:
    began = time.perf_counter()
    if not settings.training.overwrite_output_dir:
        refuse_foreign(folder, RESULTS)
    training = copy.copy(settings.training)
    training.overwrite_output_dir = True  # what the folder holds is a run that was stopped, or another one's results
    finetune(replace(settings, training=training), unsaid, test=False, callbacks=callbacks, shared=shared)
    row = _row(read_record(folder / RECORD), options, folder)
    return replace(row, seconds=time.perf_counter() - began)


def _row(record: RunRecord, options: Options, folder: Path) -> SweepRow:
    phase = record.plan[-1]
    share = phase.trainable_parameters / phase.total_parameters
    return SweepRow(options, folder, record.solved, record.metrics["validation"], record.seconds["total"], share)


def _combinations(grid: dict[str, list[str]]) -> list[Options]:
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def _text(path: str, name: str, value: Any) -> str:
    if value is None:
        raise ArgumentError(f"{path}: sweep gives {name} nothing; name a value, or leave the option out of that run")
    return json.dumps(value) if isinstance(value, dict) else str(value)


def _flags(options: Options) -> Iterator[str]:
    for name, value in options.items():
        yield from (f"--{name}", value)
