"""Fine-tune pretrained image classifiers with most of the model frozen.

Everything public is loaded when it is first used, so that ``import hfft`` itself takes no time:

- ``hfft.finetune(...)`` runs the main job; its keywords are the flags of ``hfft finetune``.
- ``hfft.load(...)`` gives back the model and the image processor of a finished run, or of its delta.
- ``hfft.Plan`` says what a policy trains when.
- ``hfft.FreezeTrainer`` is the Trainer of one phase of a plan.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["FreezeTrainer", "Plan", "__version__", "finetune", "load"]

if TYPE_CHECKING:
    from hfft.checkpoint import load
    from hfft.finetune import finetune_with as finetune
    from hfft.policies import Plan
    from hfft.trainer import FreezeTrainer

_MODULES = {"FreezeTrainer": "hfft.trainer", "Plan": "hfft.policies", "load": "hfft.checkpoint"}


if not TYPE_CHECKING:  # a type checker would take every misspelt name for Any

    def __getattr__(name: str) -> Any:
        from importlib import import_module

        if name == "finetune":
            return import_module("hfft.finetune")  # a module that can be called, see there
        if name in _MODULES:
            return getattr(import_module(_MODULES[name]), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
