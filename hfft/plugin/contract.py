"""The whole plugin contract: a plugin looks at a model and says where its parts are.

A plugin is found through the entry-point group ``hfft.backbones`` (see ``docs/plugins.md``). It returns
an `Anatomy`, which is data; everything else that hfft does is derived from that data.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from hfft.errors import PluginError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


@dataclass(frozen=True)
class TokenLayout:
    """How a block's output of shape (batch, tokens, dim) lies on the image.

    Args:
        grid: rows and columns of patch tokens; their product plus `prefix` is the count of tokens.
        prefix: how many tokens (class, distillation, registers) come before the patches.
        class_token: whether the first of them is a class token.
        earlier: whether the tokens of earlier blocks lie row by row as well; where they are more, on a square.
    """

    grid: tuple[int, int]
    prefix: int = 0
    class_token: bool = True
    earlier: bool = True


@dataclass(frozen=True)
class Pooling:
    """What a new head reads of a backbone that has no classifier of its own.

    Args:
        how: ``token`` (the first one), ``mean`` (of the patches' tokens, or of a feature map), ``token+mean`` (both,
            one after the other) or ``pooler`` (the backbone's own ``pooler_output``).
        prefix: how many tokens come before those of the patches.
    """

    how: str
    prefix: int = 0


@dataclass(frozen=True)
class ClassTokenBlock:
    """The modules of a pre-norm attention block of whose output the head reads the class token alone.

    With it the core computes everything but the first norm for the class token alone.
    Names are relative to the block. Give either `qkv` (one projection) or `query`, `key` and `value`.
    The block must compute ``x = x + scale1(proj(attention(norm1(x))))`` and then
    ``x = x + scale2(mlp(norm2(x)))``; modules left empty are the identity. hfft compares both ways of
    computing on a real batch before it uses this.
    """

    heads: int
    norm1: str
    proj: str
    norm2: str
    mlp: tuple[str, ...]
    qkv: str = ""
    query: str = ""
    key: str = ""
    value: str = ""
    q_norm: str = ""
    k_norm: str = ""
    scale1: str = ""
    scale2: str = ""


@dataclass(frozen=True)
class Anatomy:
    """Where a model's parts are: module or parameter names, in order of depth.

    A name covers the tensor of exactly that name and every tensor below it (``name.*``). Each parameter
    and each buffer of the model lies under exactly one name.

    Args:
        stem: what comes before the first block (patch embedding, first convolution, position embedding).
        blocks: from the input to the head. A CNN's or a hierarchical transformer's block is its stage,
            a plain transformer's its encoder layer. Each is a tuple of names, since some models keep a
            stage's downsampling and its layers in different lists.
        neck: what follows the last block before the head (final norm, pooler, top convolution).
        head: the classifier.
        tokens: the layout of the last block's tokens, for activation maps; None for feature maps of
            shape (batch, channels, height, width).
        class_token: set where the head reads nothing but the class token of the last block.
        projections: how the names of the blocks' attention and MLP projections end, such as ``attention.q_proj``, for
            low-rank adapters; empty where every linear layer of a block is one.
    """

    stem: tuple[str, ...]
    blocks: tuple[tuple[str, ...], ...]
    neck: tuple[str, ...]
    head: tuple[str, ...]
    tokens: TokenLayout | None = None
    class_token: ClassTokenBlock | None = None
    projections: tuple[str, ...] = ()

    def parts(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Yield ``(label, names)`` in order of depth: stem, block 1 .. block n, neck, head."""
        yield "stem", self.stem
        for number, names in enumerate(self.blocks, start=1):
            yield f"block {number}", names
        yield "neck", self.neck
        yield "head", self.head

    def part_of(self, tensor_name: str) -> str:
        """Return the label of the part that holds a parameter or buffer.

        Raises:
            PluginError: no part holds it, or more than one does.
        """
        found = [label for label, names in self.parts() for name in names if covers(name, tensor_name)]
        if len(found) != 1:
            where = "no part" if not found else " and ".join(found)
            raise PluginError(f"the anatomy puts {tensor_name!r} in {where}; each tensor belongs in exactly one part")
        return found[0]


class BackbonePlugin(ABC):
    """Knows the anatomy of some architectures.

    Attributes:
        model_types: the ``config.model_type`` values this plugin speaks for.
        same_encoder: by the type of a backbone without a classifier, that of a classifier with the very same encoder,
            tensor by tensor, which it then becomes.
    """

    model_types: ClassVar[frozenset[str]]
    same_encoder: ClassVar[Mapping[str, str]] = {}

    @abstractmethod
    def anatomy(self, model: PreTrainedModel) -> Anatomy:
        """Return the anatomy of a model whose ``config.model_type`` is among `model_types`.

        It may read names, config and modules; it must not run, move or change the model, which may
        lie on the meta device.

        Raises:
            UnsupportedModelError: this architecture cannot be split into blocks, and why.
        """

    def pooling(self, config: PreTrainedConfig) -> Pooling | None:
        """Return what a head reads of a backbone of this configuration; None where it brings a classifier.

        The parts of such a model lie below ``backbone``, the head is ``norm`` and ``classifier``.

        Raises:
            UnsupportedModelError: this architecture cannot be given a head, and why.
        """
        return None


def covers(name: str, tensor_name: str) -> bool:
    """Return whether an anatomy's name covers a tensor: the same name, or one of its ancestors."""
    return tensor_name == name or tensor_name.startswith(name + ".")


@dataclass(frozen=True)
class LowRank:
    """Low-rank adapters: what is added to the output of a frozen projection.

    Args:
        r: rank, the width of each adapter.
        alpha: what an adapter gives is multiplied by ``alpha / r``.
        dropout: share of an adapter's inputs that is dropped in training.
        dora: let the norm of each output's weights learn apart from their direction (DoRA).
    """

    r: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    dora: bool = False


@dataclass(frozen=True)
class PhaseSpec:
    """What a policy says of one phase.

    Args:
        name: what the trace calls the phase.
        parts: labels of the anatomy's parts (``stem``, ``block 1`` .. ``block n``, ``neck``, ``head``) that learn.
        epochs: passes over the training images.
        tensors: which parameters of these parts learn, a key of `KINDS`; of the head, all of them do.
        gradient_ratio: whether each tensor's learning rate is scaled by the ratio of the norm of its gradient
            to its own norm, measured when the phase begins.
        adapters: put beside the projections of these parts' blocks before the first phase; ``tensors`` is
            ``"adapters"`` then.
    """

    name: str
    parts: frozenset[str]
    epochs: float
    tensors: str = "all"
    gradient_ratio: bool = False
    adapters: LowRank | None = None
