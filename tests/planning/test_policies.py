"""Each policy's phases: exact sets, epochs that add up, and refusals; policies of other packages."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest
from small_models import SMALL, small_model
from toy import ANATOMY, HEAD, LAST, NORM, Toy

from hfft.arguments import PolicyArguments
from hfft.errors import ArgumentError, PluginError
from hfft.planning import policies
from hfft.planning.plan import count_fillable_together, make_plan
from hfft.planning.policies import KINDS, installed_policies
from hfft.planning.registry import find_anatomy
from hfft.plugin.contract import Anatomy

EVERYTHING = {name for name, _ in Toy().named_parameters()}
MIDDLE = {name.replace("blocks.2", "blocks.1") for name in LAST}
FIRST = {name.replace("blocks.2", "blocks.0") for name in LAST}
STEM = {"stem.weight", "stem.bias"}
BATCH_NORMS = {f"blocks.{block}.1.{name}" for block in range(3) for name in ("weight", "bias")}


@pytest.mark.parametrize(
    ("policy", "phases"),
    [
        ("norm", [(5, BATCH_NORMS | NORM | HEAD)]),
        ("bias", [(5, {name for name in EVERYTHING if name.endswith("bias")} | HEAD)]),
        ("surgical:first", [(5, STEM | FIRST | HEAD)]),
        ("surgical:middle", [(5, MIDDLE | HEAD)]),
        ("surgical:last", [(5, LAST | HEAD)]),
        ("lp_ft", [(2, HEAD), (3, HEAD | NORM | LAST)]),
        ("lp_ft:last_block", [(2, HEAD), (3, HEAD | NORM | LAST)]),
        ("lp_ft:full", [(2, HEAD), (3, EVERYTHING)]),
        ("auto_rgn", [(2, HEAD), (3, EVERYTHING)]),
        (
            "gradual",
            [(1, HEAD), (1, HEAD | NORM | LAST), (1, HEAD | NORM | LAST | MIDDLE), (2, EVERYTHING)],
        ),
        ("gradual:2", [(2, HEAD), (3, HEAD | NORM | LAST)]),
    ],
)
def test_phases_train_exactly(policy: str, phases: list[tuple[float, set[str]]]) -> None:
    plan = make_plan(Toy(), ANATOMY, policy, 5)
    assert [(phase.epochs, set(phase.trainable)) for phase in plan.phases] == phases
    assert [phase.gradient_ratio for phase in plan.phases] == [False] * (len(phases) - 1) + [policy == "auto_rgn"]
    assert count_fillable_together(plan.phases) == len(phases)


@pytest.mark.parametrize(
    "policy",
    ["norm", "attention", "norm:1", "lp_ft:head", "gradual:0", "gradual:3", "surgical", "auto_rgn:2", "auto:2"],
)
def test_policy_that_does_not_fit_is_refused(policy: str) -> None:
    model = Toy()
    if policy == "norm":
        with pytest.raises(ArgumentError, match="no norm parameters"):
            make_plan(model.blocks[0][0], Anatomy((), (("weight",),), (), ("bias",)), policy, 5)  # type: ignore[index]
    else:
        with pytest.raises(ArgumentError, match="--policy"):
            make_plan(model, ANATOMY, policy, 5)


@pytest.mark.parametrize("policy", ["lp_ft", "auto_rgn"])
def test_two_phases_need_two_epochs(policy: str) -> None:
    with pytest.raises(ArgumentError, match="at least 2, not 1"):
        make_plan(Toy(), ANATOMY, policy, 1)


def test_bias_policy_holds_batch_norm_statistics() -> None:
    held = make_plan(Toy(), ANATOMY, "bias", 1).phases[0].eval_modules
    assert {f"blocks.{block}.1" for block in range(3)} <= held
    assert not {f"blocks.{block}.1" for block in range(3)} & make_plan(Toy(), ANATOMY, "norm", 1).phases[0].eval_modules


def test_head_goes_faster_in_the_first_phase_alone() -> None:
    first, second = make_plan(Toy(), ANATOMY, "lp_ft:full", 4, head_lr_scale=5, layer_decay=0.5).phases
    assert set(first.lr_scales.values()) == {5}
    assert second.lr_scales["head.weight"] == 1
    assert second.lr_scales["stem.weight"] == 0.125


@pytest.mark.parametrize(("policy", "scale"), [("head", 5), ("lp_ft", 5), ("last_block", 1), ("full", 1), ("bias", 1)])
def test_a_new_head_goes_faster_where_it_is_trained_alone(policy: str, scale: float) -> None:
    first, *later = make_plan(Toy(), ANATOMY, policy, 4).phases
    assert first.lr_scales["head.weight" if policy != "bias" else "head.bias"] == scale
    assert {factor for phase in later for factor in phase.lr_scales.values()} <= {1}


@pytest.mark.parametrize("kind", sorted(set(SMALL) - {"perceiver", "mobilenet_v1"}))
def test_kinds_of_every_architecture(kind: str) -> None:
    model, _ = small_model(kind)
    names = {name for name, _ in model.named_parameters()}
    found = {kind: set(select(model)) for kind, select in KINDS.items()}
    assert found["all"] == names
    assert found["bias"] == {name for name in names if name.endswith("bias")}
    assert found["bias"]
    modules = dict(model.named_modules())
    for name in found["norm"]:
        owner = modules[name.rpartition(".")[0]]
        assert "Norm" in type(owner).__name__
    for name in found["attention"]:
        assert not any(
            part in name.replace("position_bias_mlp", "") for part in ("mlp", "fc1", "patch_embed", "classifier")
        )
    anatomy = find_anatomy(model)
    plan = make_plan(model, anatomy, "norm", 1) if found["norm"] else None
    if plan is not None:
        parts = {name for name in names if anatomy.part_of(name) == "head"}
        assert plan.phases[0].trainable == (found["norm"] & names) | parts


def test_attention_of_a_vit() -> None:
    model, _ = small_model("vit")
    trainable = make_plan(model, find_anatomy(model), "attention", 1).phases[0].trainable
    inside = {name for name, _ in model.named_parameters() if ".attention." in name or name.startswith("classifier")}
    assert trainable == inside
    assert len(inside) > 2


def test_help_names_every_policy() -> None:
    text = PolicyArguments.__dataclass_fields__["policy"].metadata["help"]
    assert all(name in text for name in installed_policies())
    functions = [
        point.load() for point in installed_policies().values() if point.value.startswith("hfft.planning.policies:")
    ]
    assert len(functions) == 11
    assert all(len(function.__doc__.splitlines()) > 1 for function in functions)


@pytest.mark.usefixtures("installed")
def test_policies_of_other_packages() -> None:
    plan = make_plan(Toy(), ANATOMY, "outside", 3)
    assert [set(phase.trainable) for phase in plan.phases] == [LAST | HEAD, HEAD]
    assert count_fillable_together(plan.phases) == 1  # the second phase freezes what the first one trains
    with pytest.raises(PluginError, match="no model can train"):
        make_plan(Toy(), ANATOMY, "nonsense", 3)
    with pytest.raises(PluginError, match="'gone' does not load: KeyError"):
        make_plan(Toy(), ANATOMY, "gone", 3)
    with pytest.raises(ArgumentError, match="choose one of attention, auto_rgn"):
        make_plan(Toy(), ANATOMY, "best", 3)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("raises", "fails: AttributeError: .*nothing_like_it"),
        ("returns_none", "must return a tuple of PhaseSpec, not None"),
        ("lone", "must return a tuple of PhaseSpec, not PhaseSpec"),
        ("listed", r"gives a phase that no model can train: .*parts is a frozenset of some of stem, block 1"),
        ("endless", r"gives a phase that no model can train: .*epochs above 0 and finite"),
        ("whole_and_adapted", r"gives a phase that no model can train: .*adapters a LowRank where"),
    ],
)
def test_a_policy_that_fails_is_named(monkeypatch: pytest.MonkeyPatch, name: str, reason: str) -> None:
    point = EntryPoint("faulty", f"broken_plugins:{name}", policies.GROUP)
    monkeypatch.setattr(policies, "entry_points", lambda group: [point])
    with pytest.raises(PluginError, match=f"policy 'faulty:2' of an unknown distribution {reason}"):
        make_plan(Toy(), ANATOMY, "faulty:2", 3)


def test_two_policies_of_one_name_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [EntryPoint("twice", f"{owner}:policy", "hfft.policies") for owner in ("one", "two")]
    monkeypatch.setattr(policies, "entry_points", lambda group: points)
    with pytest.raises(PluginError, match="'twice'"):
        installed_policies()
