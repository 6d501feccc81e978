"""The delta of a run: the tensors that differ from the base model's, and proof of which base that was.

The file is plain safetensors. Its metadata has a single entry, ``hfft_delta``, whose value is JSON (several
entries would be written in an order that changes from run to run): the fields of `DeltaInfo`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModelForImageClassification

from hfft.arguments import ModelArguments
from hfft.demo import EMBEDDED_MODEL, embedded_model
from hfft.errors import ModelError
from hfft.files import cannot_write, whole_file
from hfft.models.adapters import TENSORS, adapted, adapter_tensors, apply_adapter, write_adapter
from hfft.models.channels import check_channels
from hfft.models.download import DELTA, fetch
from hfft.models.headless.backbones import encoder_of, load_with_head
from hfft.models.pretrained import load_config, load_pretrained, load_processor
from hfft.models.tensors import digest
from hfft.output_folder import ADAPTER

if TYPE_CHECKING:
    from transformers import BaseImageProcessor, PreTrainedConfig, PreTrainedModel


FORMAT = 1
_ENTRY = "hfft_delta"


@dataclass(frozen=True)
class DeltaInfo:
    """What a delta says about itself.

    Args:
        base_id: Hub id, folder, or the embedded model's package and version.
        base_revision: commit on the Hub; empty where there is none.
        base_sha256: `hfft.models.tensors.digest` of all tensors that the base gives (see `fresh`).
        fresh: names of the tensors that the base does not give: the new head's above all.
        tensors: by name, the digest of each tensor in the delta.
        format: version of the format.
    """

    base_id: str
    base_revision: str
    base_sha256: str
    fresh: tuple[str, ...]
    tensors: dict[str, str]
    format: int = FORMAT


@dataclass(frozen=True)
class Pretrained:
    """The state that a run began from, as hashes: what a delta is the difference to.

    Args:
        sha256: digest of all tensors that the base gives.
        tensors: by name, the digest of each of them.
    """

    sha256: str
    tensors: dict[str, str]

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> Pretrained:
        """Hash the tensors that the base gives, before they are trained."""
        return cls(digest(tensors), {name: _digest(name, tensor) for name, tensor in tensors.items()})


def write_delta(folder: Path, model: PreTrainedModel, pretrained: Pretrained, base: tuple[str, str]) -> Path:
    """Write ``delta.safetensors``: every tensor that the base does not give or that is no longer the base's.

    Args:
        folder: where to.
        model: fine-tuned.
        pretrained: what it was before.
        base: id and revision of the base model.

    Raises:
        OutputError: the file cannot be written.
    """
    state = model.state_dict()
    digests = {name: _digest(name, tensor) for name, tensor in state.items()}
    changed = [name for name in state if pretrained.tensors.get(name) != digests[name]]
    fresh = tuple(name for name in state if name not in pretrained.tensors)
    info = DeltaInfo(*base, pretrained.sha256, fresh, {name: digests[name] for name in changed})
    # Copies, since safetensors refuses tensors that share memory, as tied weights do.
    tensors = {name: state[name].detach().to("cpu", copy=True).contiguous() for name in changed}
    try:
        with whole_file(folder / DELTA) as partial:
            save_file(tensors, partial, {_ENTRY: json.dumps(asdict(info))})
    except (OSError, SafetensorError) as error:
        raise cannot_write(folder / DELTA, error) from error
    return folder / DELTA


def write_adapters(folder: Path, model: PreTrainedModel, pretrained: Pretrained, base: tuple[str, str]) -> None:
    """Write the adapters of a model, if it has any, as PEFT does, with what a delta says of itself.

    Args:
        folder: gets a folder `hfft.output_folder.ADAPTER`.
        model: with adapters that are not folded in.
        pretrained: what it was before.
        base: id and revision of the base model.
    """
    if not adapted(model):
        return
    tensors = adapter_tensors(model)
    plain = [name.replace(".base_layer.", ".") for name in model.state_dict()]
    fresh = tuple(name for name in plain if name not in pretrained.tensors and ".lora_" not in name)
    digests = {name: _digest(name, tensor) for name, tensor in tensors.items()}
    info = DeltaInfo(*base, pretrained.sha256, fresh, digests)
    write_adapter(folder / ADAPTER, model, base[0], tensors, {_ENTRY: json.dumps(asdict(info))})


def has_delta(folder: Path) -> bool:
    """Return whether a folder holds a delta, or the adapters of a run."""
    return _delta_file(folder).exists()


def _delta_file(folder: Path) -> Path:
    """Return where the delta is: adapters are read where it is missing."""
    own, adapters = folder / DELTA, folder / ADAPTER / TENSORS
    return adapters if adapters.exists() and not own.exists() else own


def read_delta(path: Path) -> tuple[DeltaInfo, dict[str, Tensor]]:
    """Read a delta, and hold every tensor against its hash.

    Raises:
        ModelError: the file is damaged, or is not a delta that this version reads; a bad tensor is named.
    """
    try:
        with safe_open(path, framework="pt") as file:
            info = _info(path, file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (it is not a mapping)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"cannot read {path}: {error}; copy or download it again") from error
    for name in sorted(info.tensors.keys() | tensors.keys()):
        if name not in tensors:
            raise ModelError(f"{path} lacks the tensor {name!r}, which its metadata lists; copy or download it again")
        if info.tensors.get(name) != _digest(name, tensors[name]):
            raise ModelError(f"{path}: the tensor {name!r} is not what was written; copy or download it again")
    return info, tensors


def load_delta(
    folder: Path, base: str | None = None, token: str | None = None, trust_remote_code: bool = False
) -> tuple[PreTrainedModel, BaseImageProcessor]:
    """Apply a delta to its base model.

    Args:
        folder: holds ``delta.safetensors`` (or the adapters of a run), ``config.json`` and
            ``preprocessor_config.json``.
        base: where the base model lies, if not where the delta says.
        token: access token for the Hub.
        trust_remote_code: run code that the repository of delta or base brings along.

    Returns:
        The fine-tuned model, on the CPU in eval mode, and its image processor.

    Raises:
        ModelError: delta or base cannot be loaded, the base is another one, or a tensor does not fit, by name.
    """
    path = _delta_file(folder)
    info, tensors = read_delta(path)
    arguments = ModelArguments(model_name_or_path=str(folder), trust_remote_code=trust_remote_code)
    processor, config = load_processor(arguments), load_config(arguments)
    check_channels(config, str(folder))
    model = _load_base(info, base, config, ModelArguments(token=token, trust_remote_code=trust_remote_code))
    state = model.state_dict()
    given = {name: tensor for name, tensor in state.items() if name not in info.fresh}
    if digest(given) != info.base_sha256:
        raise ModelError(
            f"{base or info.base_id} is not the base model that {path} was made from: "
            f"its tensors have the SHA-256 {digest(given)}, not {info.base_sha256}"
        )
    if path.name == TENSORS:
        model = apply_adapter(model, path.parent)
    else:
        _check_fit(path, info, tensors, state)
        model.load_state_dict({**state, **tensors})
    model.eval()
    return model, processor


def _info(path: Path, metadata: Mapping[str, str]) -> DeltaInfo:
    try:
        values = json.loads(metadata[_ENTRY])
        if values["format"] != FORMAT:
            raise ModelError(f"{path} has delta format {values['format']}, but this hfft reads {FORMAT}; update hfft")
        return DeltaInfo(**values | {"fresh": tuple(values["fresh"])})
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{path} is not a delta that hfft wrote: its metadata lacks or garbles {_ENTRY!r}") from error


def _load_base(info: DeltaInfo, base: str | None, config: PreTrainedConfig, options: ModelArguments) -> PreTrainedModel:
    """The base model in the fine-tuned one's architecture; its fresh tensors hold anything."""
    name = base or info.base_id
    if name == EMBEDDED_MODEL:
        embedded: PreTrainedModel = embedded_model(config.label_names)[0]
        embedded.config = config  # its own knows nothing of the task, its temperature or its thresholds
        return embedded
    revision = None if base is not None else info.base_revision or None
    try:
        folder = fetch(name, revision, options.token, options.trust_remote_code)
    except ModelError as error:
        raise ModelError(
            f"the delta's base model cannot be had: {error}; where it lies elsewhere, run hfft merge DELTA --base "
            "PLACE --output_dir NEW, and give NEW in place of the delta"
        ) from error
    arguments = ModelArguments(model_name_or_path=str(folder), trust_remote_code=options.trust_remote_code)
    encoder = encoder_of(load_config(arguments), name)
    if encoder is None:
        model, lacking = _load_as(arguments, config)
    else:
        model, missing = load_with_head(arguments, encoder, config)
        lacking = dict.fromkeys(missing, "not at all")
    for tensor in sorted(lacking.keys() - set(info.fresh)):
        raise ModelError(
            f"{name} is not the base model that the delta was made from: it has the tensor {tensor!r} {lacking[tensor]}"
        )
    return model


def _load_as(arguments: ModelArguments, config: PreTrainedConfig) -> tuple[PreTrainedModel, dict[str, str]]:
    """A classifier in another's architecture, and by tensor that it does not give how so."""
    model: PreTrainedModel
    model, report = load_pretrained(
        AutoModelForImageClassification,
        arguments,
        config=config,
        ignore_mismatched_sizes=True,
        use_safetensors=True,
        dtype=torch.float32,
        output_loading_info=True,
    )
    shapes = {
        name: f"in the shape {tuple(found)}, not {tuple(wanted)}" for name, found, wanted in report["mismatched_keys"]
    }
    return model, dict.fromkeys(report["missing_keys"], "not at all") | shapes


def _check_fit(path: Path, info: DeltaInfo, tensors: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    for name in info.fresh:
        if name not in tensors:
            raise ModelError(f"{path} lacks the tensor {name!r}, which the base does not give either")
    for name, tensor in tensors.items():
        if name not in state:
            raise ModelError(f"{path}: the model of config.json has no tensor {name!r}; they do not belong together")
        wanted = state[name]
        if tensor.shape != wanted.shape or tensor.dtype != wanted.dtype:
            raise ModelError(
                f"{path}: the tensor {name!r} is {tuple(tensor.shape)} {tensor.dtype}, but the model of config.json "
                f"takes {tuple(wanted.shape)} {wanted.dtype}"
            )


def _digest(name: str, tensor: Tensor) -> str:
    return digest({name: tensor})
