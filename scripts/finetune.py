"""Fine-tune an image classifier: ``accelerate launch scripts/finetune.py [FLAGS | CONFIG.yaml [FLAGS]]``."""

import itertools
import os
import sys

import psutil

from hfft.cli import main


def start_missing_processes() -> None:
    """Become as many processes as ``accelerate launch --cpu --num_processes N`` was asked for.

    With --cpu and without an MPI hostfile, accelerate starts one process and says nothing about the others.
    """
    parent = psutil.Process().parent()
    command = parent.cmdline() if parent is not None else []
    wanted = next((after for flag, after in itertools.pairwise(command) if flag == "--num_processes"), "1")
    if "--cpu" in command and wanted.isdecimal() and int(wanted) > 1 and "WORLD_SIZE" not in os.environ:
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", wanted]
        os.execv(sys.executable, [sys.executable, *launcher, *sys.argv])  # noqa: S606  (our own arguments, no shell)


if __name__ == "__main__":
    start_missing_processes()
    sys.exit(main(["finetune", *sys.argv[1:]]))
