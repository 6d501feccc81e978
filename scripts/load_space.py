"""Ask a Space for labels from many clients at once, and hold every answer against the model's own.

Serves a finished run on loopback: ``python scripts/load_space.py OUTPUTS_FOLDER [--clients 32] [--seconds 60]``.
"""

from __future__ import annotations

import argparse
import statistics
import threading
import time
from pathlib import Path

import psutil
from gradio_client import Client, handle_file

from hfft.predict import classify, load_classifier
from hfft.space import serve
from hfft.space_arguments import SpaceArguments


def main() -> int:
    """Run the clients and print what they saw; return 1 where an answer was wrong or a request failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("outputs")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=60)
    options = parser.parse_args()
    seconds: list[float] = []
    problems: list[str] = []
    with serve(SpaceArguments(outputs=options.outputs)) as served:
        source = served.space.models.default()
        files = served.space.examples()
        expected = [row.top[0] for row in classify(load_classifier(source), files)]
        clients = [Client(served.url, verbose=False) for _ in range(options.clients)]
        clients[0].predict(handle_file(files[0]), 0.5, api_name="/classify")
        before, end = psutil.Process().memory_info().rss, time.monotonic() + options.seconds

        def ask(client: Client, place: int) -> None:
            while time.monotonic() < end:
                place = (place + 1) % len(files)
                began = time.perf_counter()
                try:
                    label = client.predict(handle_file(files[place]), 0.5, api_name="/classify")[0]
                except Exception as error:
                    problems.append(f"{Path(files[place]).name}: {error}")
                    continue
                seconds.append(time.perf_counter() - began)
                found = label["confidences"][0]
                if (
                    found["label"] != expected[place].label
                    or abs(found["confidence"] - expected[place].probability) > 1e-4
                ):
                    problems.append(f"{Path(files[place]).name}: {found} instead of {expected[place]}")

        threads = [threading.Thread(target=ask, args=item) for item in zip(clients, range(len(clients)), strict=True)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        grown = (psutil.Process().memory_info().rss - before) / 1e6
    print(
        f"{len(seconds)} answers to {options.clients} clients in {options.seconds:g} s, {len(problems)} problems; "
        f"median {statistics.median(seconds):.2f} s, slowest {max(seconds):.2f} s; memory grew by {grown:.0f} MB"
    )
    for problem in problems[:5]:
        print(problem)
    return int(bool(problems))


if __name__ == "__main__":
    raise SystemExit(main())
