"""Every task by name, and that of a model by its configuration."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from hfft.errors import HfftError, ModelError
from hfft.tasks.contract import THRESHOLDS, Task
from hfft.tasks.label_tree import LABEL_TREE, SEPARATOR, LabelTree
from hfft.tasks.multi_label import MULTI_LABEL, MultiLabel
from hfft.tasks.regression import REGRESSION
from hfft.tasks.single_label import SINGLE_LABEL, SingleLabel
from hfft.trust.calibration import KEY, temperature_of

TASKS: dict[str, Task] = {task.name: task for task in (SINGLE_LABEL, LABEL_TREE, MULTI_LABEL, REGRESSION)}


def task_of(config: Any, name: str = "the model") -> Task:
    """Return the task of a finished model, with what its configuration says of reading it.

    Args:
        config: of transformers; that of a stranger may hold anything.
        name: what an error calls the model.

    Raises:
        ModelError: its configuration does not say what its output means.
    """
    kind = getattr(config, "problem_type", None)
    outputs = len(getattr(config, "id2label", None) or {})
    if kind is None and outputs == 1:
        raise ModelError(
            f"{name!r} has a single output and does not say what it means: set problem_type in its config.json to "
            f"{REGRESSION.problem_type!r} for a number, or to {MULTI_LABEL.problem_type!r} for a label that is there "
            "or not"
        )
    if kind == MULTI_LABEL.problem_type:
        return MultiLabel(_thresholds(config, outputs))
    if kind == REGRESSION.problem_type:
        return REGRESSION
    temperature, threshold = temperature_of(config) if hasattr(config, KEY) else None, _thresholds(config, 1)
    if threshold and any(SEPARATOR in str(name) for name in (getattr(config, "id2label", None) or {}).values()):
        return LabelTree(temperature, *threshold)
    return SingleLabel(temperature)


def task_as(name: str, temperature: float, thresholds: Sequence[float]) -> Task:
    """Return a task by its name, as a model solves it: with what was fitted, as far as the task has it.

    Raises:
        HfftError: no task has this name.
    """
    found: dict[str, Task] = {
        SINGLE_LABEL.name: SingleLabel(temperature),
        LABEL_TREE.name: LabelTree(temperature, *thresholds[:1]),
        MULTI_LABEL.name: MultiLabel(tuple(thresholds)),
        REGRESSION.name: REGRESSION,
    }
    if name not in found:
        raise HfftError(f"there is no task {name!r}, but {', '.join(found)}; read it with a newer hfft")
    return found[name]


def _thresholds(config: Any, outputs: int) -> tuple[float, ...]:
    """Return so many thresholds; none where the configuration holds none that can be used."""
    found = getattr(config, THRESHOLDS, None)
    if not isinstance(found, list | tuple) or len(found) != outputs:
        return ()
    usable = all(isinstance(each, int | float) and math.isfinite(each) for each in found)
    return tuple(float(each) for each in found) if usable else ()
