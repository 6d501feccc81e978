"""`hfft plan`: what a policy would train, where the boundary lies and what the cache would take."""

from __future__ import annotations

from typing import Any

from hfft.arguments import ModelArguments, PlanArguments, PolicyArguments
from hfft.data.preprocessing import blank_inputs
from hfft.models.load import load_model
from hfft.planning.freezing import freeze, unfreeze
from hfft.planning.plan import make_plan
from hfft.planning.registry import resolve_anatomy
from hfft.split.cut import cut_phase
from hfft.training.plan_view import plan_data, plan_tree, view_phase


def show_plan(arguments: ModelArguments, policy: PolicyArguments, options: PlanArguments) -> tuple[str, dict[str, Any]]:
    """Plan a policy for a model, without data and without a GPU; return it as text and as data."""
    labels = [f"class {number}" for number in range(1, 11)]
    model, processor, base = load_model(arguments, labels)
    anatomy = resolve_anatomy(model, arguments)
    epochs = options.num_train_epochs
    plan = make_plan(model, anatomy, policy.policy, epochs, policy.head_lr_scale, policy.layer_decay)
    inputs = blank_inputs(processor)
    views = []
    for phase in plan.phases:
        freeze(model, phase)
        cut = cut_phase(model, anatomy, phase, inputs)
        views.append(view_phase(model, plan, phase, cut))
        unfreeze(model)
    text = plan_tree(base.name, views, options.learning_rate)
    return text, plan_data(base.name, views, options.learning_rate)


def show_suggestion(arguments: ModelArguments) -> str:
    """Return a starting point for an anatomy file; no plugin is asked."""
    from hfft.planning.anatomy_file import dump_anatomy, suggest_anatomy

    model, processor, _ = load_model(arguments, ["a", "b"])
    return dump_anatomy(suggest_anatomy(model.eval(), blank_inputs(processor)))
