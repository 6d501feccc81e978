"""Fill one activation cache from all workers of a Dask cluster, without training.

``python scripts/fill_with_dask.py [--scheduler HOST:PORT] [--workers N] [the flags of hfft finetune]``
Each task is ``hfft cache fill --shard i/n``: parts know nothing of each other, so Dask may run them anywhere, and
again. Workers need hfft, the images and the cache folder under the same paths. Without a scheduler, N processes of
this machine are the cluster. hfft itself does not depend on Dask: ``pip install "dask[distributed]"``.
"""

from __future__ import annotations

import argparse
import os
import sys

from distributed import Client, LocalCluster, as_completed

from hfft.cli import main as hfft


def fill(part: int, parts: int, flags: list[str]) -> str:
    """Fill one part, in a worker process; what is there already is not computed again.

    Raises:
        RuntimeError: it could not be filled; the worker's log says why.
    """
    if hfft(["cache", "fill", *flags, "--shard", f"{part}/{parts}"]):
        raise RuntimeError(f"part {part} of {parts} could not be filled")
    return f"part {part} of {parts} is there, by process {os.getpid()}"


def main() -> int:
    """Start one task for each part and say which ones are done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scheduler", help="HOST:PORT of a running cluster")
    parser.add_argument("--workers", type=int, default=2, help="processes of this machine, where there is no scheduler")
    options, flags = parser.parse_known_args()
    cluster = options.scheduler or LocalCluster(n_workers=options.workers, threads_per_worker=1, dashboard_address=None)
    with Client(cluster) as client:
        parts = len(client.scheduler_info(n_workers=-1)["workers"])
        tasks = [client.submit(fill, part, parts, flags, pure=False) for part in range(1, parts + 1)]
        for task in as_completed(tasks):
            print(task.result(), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
