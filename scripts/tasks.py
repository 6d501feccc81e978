"""Write the table of ``docs/tasks.md``: what holds for which task, and the test that tries it; ``--check`` compares.

A cell names a test that pytest collects; where there is none, it says "not tested".
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "tasks.md"
TASKS = ("single_label", "label_tree", "multi_label", "regression")
_TABLE = re.compile(r"(<!-- matrix -->\n).*?(<!-- end -->)", re.DOTALL)

E2E, TREE, LABELS, ALL = (
    "end_to_end/test_tasks.py::",
    "end_to_end/test_label_tree.py::",
    "data/test_label_columns.py::",
    "tasks/test_tasks.py::",
)
REFUSED = "refused: "

MATRIX: dict[str, tuple[str, ...]] = {
    "every packing of a data set": (
        "data/readers/test_archives.py::test_every_packing_gives_the_same_images_labels_and_findings",
        f"{TREE}test_tables_and_archives_hold_trees_as_well",
        f"{LABELS}test_several_labels_however_they_are_written",
        f"{LABELS}test_numbers",
    ),
    "loss of transformers": (
        f"{ALL}test_the_loss_is_transformers_own[single_label]",
        f"{ALL}test_the_loss_is_transformers_own[label_tree]",
        f"{ALL}test_the_loss_is_transformers_own[multi_label]",
        f"{ALL}test_the_loss_is_transformers_own[regression]",
    ),
    "policies, cached and uncached to the bit": (
        "end_to_end/test_finetune.py::test_cached_and_uncached_runs_are_equal_to_the_last_bit",
        f"{TREE}test_cached_and_uncached_are_equal",
        *(f"{E2E}test_cached_and_uncached_are_equal[{task}" for task in TASKS[2:]),
    ),
    "`--frofa`, `--mixup`": (
        "training/augmentation/test_boundary.py::test_cached_and_uncached_runs_have_the_same_bits",
        f"{TREE}test_augmented_at_the_boundary_cached_and_uncached_are_equal",
        *(f"{E2E}test_augmented_at_the_boundary_cached_and_uncached_are_equal[{task}" for task in TASKS[2:]),
    ),
    "`--cutmix`": (
        "training/augmentation/test_boundary.py::test_cached_and_uncached_runs_have_the_same_bits",
        f"{TREE}test_augmented_at_the_boundary_cached_and_uncached_are_equal",
        f"{E2E}test_augmented_at_the_boundary_cached_and_uncached_are_equal[multi_label",
        f"{REFUSED}{E2E}test_numbers_are_not_cut_and_pasted",
    ),
    "adapters (`--policy lora`)": (
        "end_to_end/test_lora.py::test_cached_and_uncached_are_equal",
        *(f"end_to_end/test_lora.py::test_other_tasks[{task}" for task in TASKS[1:]),
    ),
    "resume to the bit": (
        "training/test_resume.py::test_killed_after_any_step_and_resumed",
        f"{TREE}test_interrupted_and_resumed_is_the_same_to_the_bit",
        *(f"{E2E}test_interrupted_and_resumed_is_the_same_to_the_bit[{task}" for task in TASKS[2:]),
    ),
    "two processes": (
        "end_to_end/test_distributed.py::test_two_processes_give_the_losses_of_one",
        *(f"end_to_end/test_distributed.py::test_two_processes_train_other_tasks[{task}" for task in TASKS[1:]),
    ),
    "delta and merge": (
        "models/test_delta.py::test_merged_bytes_for_each_policy",
        f"{TREE}test_a_delta_merges_to_the_same_model",
        *(f"{E2E}test_a_delta_merges_to_the_same_weights[{task}" for task in TASKS[2:]),
    ),
    "card and model index": (
        "report/test_write.py::test_card_metadata_comes_back",
        f"{TREE}test_metrics_are_in_record_and_card",
        *(f"{E2E}test_the_card_says_what_it_is[{task}" for task in TASKS[2:]),
    ),
    "stock `pipeline`": (
        "hub/test_push.py::test_stock_transformers_in_a_clean_process",
        f"{TREE}test_stock_transformers_gives_the_labels",
        *(f"{E2E}test_stock_transformers_gives_the_same_answers[{task}" for task in TASKS[2:]),
    ),
    "`hfft predict`": (
        "models/test_delta.py::test_predict_takes_a_delta",
        f"{TREE}test_predict_shows_the_node",
        "inference/test_classifier.py::test_several_labels_are_printed",
        "inference/test_classifier.py::test_numbers_are_printed",
    ),
    "`hfft evaluate`": (
        "inference/test_evaluate.py::test_agrees_with_scikit_learn",
        f"{TREE}test_evaluate",
        *(f"{E2E}test_evaluate[{task}" for task in TASKS[2:]),
    ),
    "ONNX": (
        "inference/export/test_job.py::test_any_size_and_any_number_of_images",
        f"{TREE}test_onnx_gives_the_same_answers",
        *(f"{E2E}test_onnx_gives_the_same_answers[{task}" for task in TASKS[2:]),
    ),
    "`hfft check`": (
        "data/test_check.py::test_each_fault_is_found_and_its_file_named",
        f"{TREE}test_check_names_faults_by_their_path",
        *([f"{LABELS}test_check_knows_images_in_several_class_folders"] * 2),
    ),
    "baselines": tuple(f"{ALL}test_a_probe_that_fits_the_task_learns[{task}" for task in TASKS),
    "the Space": (
        "space/test_app.py::test_classify_says_what_the_model_says",
        f"{TREE}test_the_space_names_the_node",
        *(f"{E2E}test_the_space_says_what_the_model_says[{task}" for task in TASKS[2:]),
    ),
    "`advise`, `sweep`, `--policy auto`": (
        "jobs/test_sweep.py::test_sweep",
        f"{TREE}test_what_compares_policies_compares_trees",
        *(f"{E2E}test_advice_compares_by_the_metric_of_the_task[{task}" for task in TASKS[2:]),
    ),
}
"""By what is to hold, for each task the node id of a test, or how it begins; empty where there is none."""


def collected(files: set[str]) -> list[str]:
    """Return the node ids below ``tests/`` that pytest finds in some of its files."""
    paths = [f"tests/{file}" for file in sorted(files) if (ROOT / "tests" / file).exists()]
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-n", "0", "-m", "slow or not slow", *paths]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise SystemExit(f"pytest cannot collect its tests:\n{done.stdout}{done.stderr}")
    return [line.removeprefix("tests/") for line in done.stdout.splitlines() if "::" in line]


def cell(test: str, ids: list[str]) -> str:
    """Return what a table says of a test: its name if it is there."""
    refused, name = test.startswith(REFUSED), test.removeprefix(REFUSED)
    there = bool(name) and any(each == name or each.startswith((f"{name}[", f"{name}-", f"{name}]")) for each in ids)
    return f"{REFUSED * refused}`{name.partition('[')[0]}`" if there else "not tested"


def page() -> str:
    """Return the page with its table anew."""
    tests = [test.removeprefix(REFUSED) for row in MATRIX.values() for test in row if test]
    ids = collected({test.partition("::")[0] for test in tests})
    rows = [f"| {what} | {' | '.join(cell(test, ids) for test in row)} |" for what, row in MATRIX.items()]
    head = [f"| | {' | '.join(f'`{task}`' for task in TASKS)} |", "| --- " * (len(TASKS) + 1) + "|"]
    text = "\n".join([*head, *rows])
    return _TABLE.sub(lambda found: f"{found[1]}{text}\n{found[2]}", PAGE.read_text(encoding="utf-8"))


def main() -> None:
    """Write the page, or say that it is not current."""
    found = page()
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(found, encoding="utf-8")
    elif found != PAGE.read_text(encoding="utf-8"):
        raise SystemExit(f"{PAGE} is not current: run python scripts/tasks.py")


if __name__ == "__main__":
    main()
