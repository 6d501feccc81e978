"""Launchers that each take themselves for a machine of their own, on this one."""

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).parents[1] / "scripts" / "finetune.py"
PATIENCE = 3600
"""Seconds after which processes that wait for each other are given up; no time that a busy machine may need."""


def run_on_machines(flags: Sequence[Sequence[Any]], **environment: str) -> None:
    """Run scripts/finetune.py with one process on each of as many machines as there are lists of flags."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = []
    for rank, own in enumerate(flags):
        launcher = ["-m", "torch.distributed.run", "--nnodes", len(flags), "--node_rank", rank, "--nproc_per_node", 1]
        launcher += ["--master_addr", "127.0.0.1", "--master_port", port]
        command = [str(part) for part in (sys.executable, *launcher, SCRIPT, *own)]
        pipe = subprocess.PIPE
        started.append(
            subprocess.Popen(command, env={**os.environ, **environment}, stdout=pipe, stderr=pipe, text=True)
        )
    for process in started:
        _, error = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, error[-3000:]
