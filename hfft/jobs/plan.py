"""`hfft plan`: what a policy would train, where the boundary lies and what the cache would take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hfft.arguments import ModelArguments, PlanArguments, PolicyArguments
from hfft.data.preprocessing import blank_inputs
from hfft.models.load import load_model
from hfft.parsing import Place, parse_keywords
from hfft.planning.anatomy_file import dump_anatomy, suggest_anatomy
from hfft.planning.freezing import freeze, unfreeze
from hfft.planning.plan import make_plan
from hfft.planning.registry import resolve_anatomy
from hfft.split.cut import cut_phase
from hfft.surroundings import undisturbed
from hfft.training.plan_view import PhaseView, plan_data, plan_tree, view_phase


@dataclass(frozen=True)
class ShownPlan:
    """A plan as people and programs read it: ``print`` draws it as a tree.

    Args:
        model: the model's name.
        phases: what each of them trains, in order.
        learning_rate: that the factors of the parts are multiplied with.
        notes: what is not as usual about the model.
    """

    model: str
    phases: tuple[PhaseView, ...]
    learning_rate: float
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """Return a line; `print` draws the tree."""
        return f"ShownPlan({self.model!r}, {', '.join(phase.name for phase in self.phases)})"

    def __str__(self) -> str:
        return "\n".join([plan_tree(self.model, self.phases, self.learning_rate), *self.notes])

    def data(self) -> dict[str, Any]:
        """Return the same as plain data."""
        return {**plan_data(self.model, self.phases, self.learning_rate), "notes": list(self.notes)}


def show_plan(arguments: ModelArguments, policy: PolicyArguments, options: PlanArguments) -> ShownPlan:
    """Plan a policy for a model, without data and without a GPU."""
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
    return ShownPlan(base.name, tuple(views), options.learning_rate, base.notes)


@undisturbed()
def plan_with(model: Place | None = None, /, **options: Any) -> ShownPlan:
    """Show what a policy would train, without any data; this is ``hfft.plan``.

    Args:
        model: the model, as ``model_name_or_path`` takes it; left out, the embedded one.
        options: the flags of ``hfft plan`` under their own names, for example ``model_name_or_path`` and ``policy``.

    Raises:
        ArgumentError: there is no such option, or its value is wrong.
        HfftError: the model cannot be loaded, or the policy does not fit it.

    Example:
        >>> plan = hfft.plan(policy="head")
        >>> [phase.name for phase in plan.phases]
        ['head']
    """
    groups = (ModelArguments, PolicyArguments, PlanArguments)
    return show_plan(*parse_keywords(groups, options, "hfft.plan", model_name_or_path=model))


def show_suggestion(arguments: ModelArguments) -> str:
    """Return a starting point for an anatomy file; no plugin is asked."""
    model, processor, _ = load_model(arguments, ["a", "b"])
    return dump_anatomy(suggest_anatomy(model.eval(), blank_inputs(processor)))
