"""Fine-tune pretrained image classifiers with most of the model frozen.

Everything public is loaded when it is first used, so that ``import hfft`` itself takes no time:

- ``hfft.finetune(...)`` runs the main job; its keywords are the flags of ``hfft finetune``.
- ``hfft.load(...)`` gives back the model and the image processor of a finished run, or of its delta.
- ``hfft.Plan`` says what a policy trains when.
- ``hfft.FreezeTrainer`` is the Trainer of one phase of a plan.
"""

from typing import TYPE_CHECKING, Any

from hfft._version import __version__

__all__ = ["FreezeTrainer", "Plan", "__version__", "finetune", "load"]

if TYPE_CHECKING:
    from hfft.jobs.finetune import finetune_with as finetune
    from hfft.models.checkpoint import load
    from hfft.planning.plan import Plan
    from hfft.training.trainer import FreezeTrainer

_PLACES = {
    "FreezeTrainer": ("hfft.training.trainer", "FreezeTrainer"),
    "Plan": ("hfft.planning.plan", "Plan"),
    "finetune": ("hfft.jobs.finetune", "finetune_with"),
    "load": ("hfft.models.checkpoint", "load"),
}


if not TYPE_CHECKING:  # a type checker would take every misspelt name for Any

    def __getattr__(name: str) -> Any:
        from importlib import import_module

        if name in _PLACES:
            module, attribute = _PLACES[name]
            return getattr(import_module(module), attribute)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
