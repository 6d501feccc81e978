"""Fine-tune pretrained image classifiers with most of the model frozen.

Everything public is loaded when it is first used, so that ``import hfft`` itself takes no time:

- ``hfft.finetune(...)`` runs the main job; its keywords are the flags of ``hfft finetune``.
- ``hfft.extend(...)`` adds images, or a new class, to a finished run.
- ``hfft.advise(...)`` compares policies on the images themselves, and recommends one.
- ``hfft.plan(...)`` shows what a policy would train, ``hfft.evaluate(...)`` measures a finished model.
- ``hfft.load(...)`` gives back the model and the image processor of a finished run, or of its delta.
- ``hfft.load_classifier(...)`` and ``hfft.classify(...)`` label images with it.
- ``hfft.labels(...)`` finds labels that are probably wrong, ``hfft.embed(...)`` gives a model's pooled features,
  and ``hfft.depth(...)`` says at which block they are good enough.
- ``hfft.Plan`` says what a policy trains when, ``hfft.FreezeTrainer`` is the Trainer of one phase of a plan.

Plugins and policies of other packages import ``hfft.plugin``. All else is private, and may change.
"""

from typing import TYPE_CHECKING, Any

from hfft._version import __version__

__all__ = [
    "FreezeTrainer",
    "Plan",
    "__version__",
    "advise",
    "classify",
    "depth",
    "embed",
    "evaluate",
    "extend",
    "finetune",
    "labels",
    "load",
    "load_classifier",
    "plan",
]

if TYPE_CHECKING:
    from hfft.curate.depth import depth_with as depth
    from hfft.curate.desk import labels_with as labels
    from hfft.curate.embed import embed_with as embed
    from hfft.inference.classifier import classify, load_classifier
    from hfft.jobs.advise import advise_with as advise
    from hfft.jobs.evaluate import evaluate_with as evaluate
    from hfft.jobs.extension.extend import extend_with as extend
    from hfft.jobs.finetune import finetune_with as finetune
    from hfft.jobs.plan import plan_with as plan
    from hfft.models.checkpoint import load
    from hfft.planning.plan import Plan
    from hfft.training.trainer import FreezeTrainer

_PLACES = {
    "FreezeTrainer": "hfft.training.trainer:FreezeTrainer",
    "Plan": "hfft.planning.plan:Plan",
    "advise": "hfft.jobs.advise:advise_with",
    "classify": "hfft.inference.classifier:classify",
    "depth": "hfft.curate.depth:depth_with",
    "embed": "hfft.curate.embed:embed_with",
    "evaluate": "hfft.jobs.evaluate:evaluate_with",
    "extend": "hfft.jobs.extension.extend:extend_with",
    "finetune": "hfft.jobs.finetune:finetune_with",
    "labels": "hfft.curate.desk:labels_with",
    "load": "hfft.models.checkpoint:load",
    "load_classifier": "hfft.inference.classifier:load_classifier",
    "plan": "hfft.jobs.plan:plan_with",
}


if not TYPE_CHECKING:  # a type checker would take every misspelt name for Any

    def __getattr__(name: str) -> Any:
        from importlib import import_module

        if name in _PLACES:
            module, _, attribute = _PLACES[name].partition(":")
            return getattr(import_module(module), attribute)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
