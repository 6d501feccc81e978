"""How large a delta is beside the whole checkpoint, for each policy, as a Markdown table.

Sizes depend on the policy and the architecture, not on the images, so a few of them and one epoch do.

Example:
    python scripts/table_delta.py --policies head last_block last_n:3 full --json docs/measured/delta.json
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import hfft
from hfft.demo import EMBEDDED_MODEL

POLICIES = ("head", "last_block", "last_n:2", "last_n:3", "last_n:4", "full")


def measure(policy: str, model: str | None, folder: Path) -> tuple[int, int]:
    """Fine-tune under a policy for a few steps; return the bytes of the delta and of the checkpoint."""
    hfft.finetune(
        model_name_or_path=model,
        policy=policy,
        output_dir=folder,
        max_train_samples=20,
        max_eval_samples=10,
        image_size=64 if model is None else None,
        num_train_epochs=1,
        per_device_train_batch_size=5,  # several steps: the rate rises from 0, and each tensor must change
        keep="last",
        cache="off",
        use_cpu=True,
        disable_tqdm=True,
        report_to="none",
        say=lambda line: None,
    )
    sizes = [(folder / name).stat().st_size for name in ("delta.safetensors", "model.safetensors")]
    return sizes[0], sizes[1]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policies", nargs="+", default=POLICIES, help="which policies")
    parser.add_argument("--model_name_or_path", help="Hub id or folder; by default the embedded EfficientNet-Lite0")
    parser.add_argument("--json", type=Path, help="file for the figures")
    arguments = parser.parse_args()
    runs = []
    for policy in arguments.policies:
        with tempfile.TemporaryDirectory() as folder:
            delta, whole = measure(policy, arguments.model_name_or_path, Path(folder))
        runs.append({"policy": policy, "delta_mb": round(delta / 1e6, 2), "checkpoint_mb": round(whole / 1e6, 2)})
    print(table(runs))
    if arguments.json:
        conditions = {"model": arguments.model_name_or_path or EMBEDDED_MODEL, "script": "scripts/table_delta.py"}
        text = json.dumps({"conditions": conditions, "runs": runs}, indent=1)
        arguments.json.write_text(f"{text}\n", encoding="utf-8")


def table(runs: list[dict[str, Any]]) -> str:
    """Return each policy's delta beside its checkpoint in Markdown."""
    rows = [
        f"| `{run['policy']}` | {run['delta_mb']:.2f} MB | {run['checkpoint_mb']:.2f} MB "
        f"| {run['delta_mb'] / run['checkpoint_mb']:.1%} |"
        for run in runs
    ]
    return "\n".join(["| Policy | Delta | Checkpoint | Share |", "| --- | ---: | ---: | ---: |", *rows])


if __name__ == "__main__":
    main()
