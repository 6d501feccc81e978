"""Every option of hfft, each defined once: the dataclasses that flags, YAML keys and keywords come from.

Those of a training run inherit from transformers, and are loaded when they are asked for.
"""

from typing import TYPE_CHECKING, Any

from hfft.arguments.groups import (
    OWN_GROUPS,
    AdviseArguments,
    CacheArguments,
    CacheToolArguments,
    CheckArguments,
    CheckpointArguments,
    DataArguments,
    DepthArguments,
    EmbedArguments,
    EvaluateArguments,
    ExportArguments,
    ExtendArguments,
    FeatureArguments,
    FillArguments,
    LabelsArguments,
    MergeArguments,
    ModelArguments,
    NextArguments,
    PlanArguments,
    PluginCheckArguments,
    PolicyArguments,
    PredictArguments,
    PushArguments,
    option,
)

__all__ = [
    "OWN_GROUPS",
    "RUN_ARGUMENTS",
    "AdviseArguments",
    "CacheArguments",
    "CacheToolArguments",
    "CheckArguments",
    "CheckpointArguments",
    "DataArguments",
    "DepthArguments",
    "EmbedArguments",
    "EvaluateArguments",
    "ExportArguments",
    "ExtendArguments",
    "FeatureArguments",
    "FillArguments",
    "FinetuneArguments",
    "LabelsArguments",
    "MergeArguments",
    "ModelArguments",
    "NextArguments",
    "PlanArguments",
    "PluginCheckArguments",
    "PolicyArguments",
    "PredictArguments",
    "PushArguments",
    "option",
]

if TYPE_CHECKING:
    from hfft.arguments.training import RUN_ARGUMENTS, FinetuneArguments
else:  # a type checker would take every misspelt name for Any

    def __getattr__(name: str) -> Any:
        if name in ("RUN_ARGUMENTS", "FinetuneArguments"):
            from hfft.arguments import training

            return getattr(training, name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
