"""Plugins and policies as somebody else might write them, each with one mistake."""

from __future__ import annotations

from typing import Any, ClassVar

from hfft.plugin.contract import Anatomy, BackbonePlugin, LowRank, PhaseSpec, Pooling


class NoTypes(BackbonePlugin):
    """Says for nothing that it speaks for it."""

    def anatomy(self, model: Any) -> Anatomy:
        raise AssertionError


class OneString(NoTypes):
    """A string holds each of its own parts."""

    model_types: ClassVar[Any] = "wavenet"


class NoTwins(NoTypes):
    """Forgets that there is a mapping where nothing is alike."""

    model_types = frozenset({"wavenet"})
    same_encoder: ClassVar[Any] = None


class UnknownTwin(NoTypes):
    """Has a twin that transformers does not know."""

    model_types = frozenset({"wavenet"})
    same_encoder: ClassVar = {"yolos": "wavenet"}


class _Pools(NoTypes):
    model_types = frozenset({"yolos"})


class PoolsByName(_Pools):
    """Gives a name in place of a Pooling."""

    def pooling(self, config: Any) -> Any:
        return "mean"


class PoolsMost(_Pools):
    """Asks for what no head reads."""

    def pooling(self, config: Any) -> Pooling:
        return Pooling("max")


class PoolsBehind(_Pools):
    """Counts tokens in words."""

    def pooling(self, config: Any) -> Any:
        prefix: Any = "1"
        return Pooling("mean", prefix)


class PoolsNothing(_Pools):
    """Reads what is not there."""

    def pooling(self, config: Any) -> Any:
        return config.nothing_like_it


class _Resnet(BackbonePlugin):
    model_types = frozenset({"resnet"})


class Raises(_Resnet):
    """Reads what is not there."""

    def anatomy(self, model: Any) -> Anatomy:
        return model.config.nothing_like_it  # type: ignore[no-any-return]


class ReturnsNone(_Resnet):
    """Forgets to return."""

    def anatomy(self, model: Any) -> Any:
        return None


class ReturnsDict(_Resnet):
    """Returns the parts as they stand in a file."""

    def anatomy(self, model: Any) -> Any:
        return {"stem": (), "blocks": (), "neck": (), "head": ("classifier",)}


class NoTuples(_Resnet):
    """Takes a name for a list of names."""

    def anatomy(self, model: Any) -> Anatomy:
        parts: Any = {"stem": "resnet.embedder", "blocks": ["resnet.encoder"], "neck": (), "head": "classifier"}
        return Anatomy(**parts)


def raises(anatomy: Anatomy, argument: str, epochs: float) -> Any:
    return anatomy.nothing_like_it  # type: ignore[attr-defined]


def returns_none(anatomy: Anatomy, argument: str, epochs: float) -> Any:
    return None


def lone(anatomy: Anatomy, argument: str, epochs: float) -> Any:
    return PhaseSpec("lone", frozenset({"head"}), epochs)


def listed(anatomy: Anatomy, argument: str, epochs: float) -> Any:
    parts: Any = ["head"]
    return (PhaseSpec("listed", parts, epochs),)


def endless(anatomy: Anatomy, argument: str, epochs: float) -> Any:
    return (PhaseSpec("endless", frozenset({"head"}), float("inf")),)


def whole_and_adapted(anatomy: Anatomy, argument: str, epochs: float) -> Any:
    return (PhaseSpec("both", frozenset({"block 1", "head"}), epochs, adapters=LowRank()),)
