"""How many channels a model reads: three are red, green and blue, one is grey, and others are refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from PIL import Image

from hfft.data.preprocessing import Pixels, change_settings, is_timm, reads_grey
from hfft.errors import ModelError, one_line
from hfft.plugin.table import backbone_of
from hfft.wording import count_of

if TYPE_CHECKING:
    from transformers import BaseImageProcessor, PreTrainedConfig


GREY = "It reads one channel: images are turned grey, as Pillow's mode L has it."


def check_channels(config: PreTrainedConfig, name: str) -> int:
    """Return how many channels a model reads, which is 3 or 1.

    Raises:
        ModelError: it reads another number, or its configuration garbles how many.
    """
    try:
        channels = channels_of(config)
    except (AttributeError, LookupError, TypeError, ValueError) as error:  # nobody checks the types of timm's settings
        raise ModelError(f"the config.json of {name!r} garbles the size of its input: {one_line(error)}") from error
    if channels not in (1, 3):
        raise ModelError(
            f"{name!r} reads {channels} channels; hfft gives 3 (red, green and blue) or 1 (grey) and reads "
            "no further ones of multi-page TIFF or .npy: choose a model that reads 3 or 1"
        )
    return channels


def channels_of(config: PreTrainedConfig) -> int:
    """Channels of a model's input as its configuration says, timm's included; 3 where it does not."""
    timm_size = (getattr(config, "pretrained_cfg", None) or {}).get("input_size")
    if timm_size is not None:
        timm_given = (getattr(config, "model_args", None) or {}).get("in_chans")
        return int(timm_given or timm_size[0])
    backbone = backbone_of(config)
    part = getattr(backbone, "vision_config", None) or backbone
    return int(getattr(part, "num_channels", None) or 3)


def fit_channels(processor: BaseImageProcessor, config: PreTrainedConfig, name: str) -> None:
    """Make an image processor give as many channels as its model reads, also once saved and loaded again.

    One that normalises by one mean and deviation is that of a model that reads grey, see
    `hfft.data.preprocessing.reads_grey`.

    Args:
        processor: changed in place.
        config: the model's configuration, which timm's processor is saved in; changed with it.
        name: what an error calls the model.

    Raises:
        ModelError: the model reads neither 1 nor 3 channels, or its image processor does not fit it.
    """
    channels = check_channels(config, name)
    if is_timm(processor):
        _fit_timm(processor, config, channels, name)
    elif channels == 1 or reads_grey(processor):
        given = {key: getattr(processor, key, None) or 0.5 for key in ("image_mean", "image_std")}
        fitted: dict[str, Any] = {key: _per_channel(value, channels, name) for key, value in given.items()}
        change_settings(processor, fitted | ({"do_convert_rgb": False} if channels == 1 else {}))
    if channels == 1:
        _try(processor, name)


def _fit_timm(processor: Any, config: PreTrainedConfig, channels: int, name: str) -> None:
    """Rebuild timm's processor, which reads the channels from ``pretrained_cfg``, where these are others."""
    given: dict[str, Any] = config.pretrained_cfg
    fitted = {key: _per_channel(given[key], channels, name) for key in ("mean", "std") if given.get(key) is not None}
    if channels == 1:
        fitted = {"mean": [0.5], "std": [0.5]} | fitted
    fitted["input_size"] = [channels, *given["input_size"][1:]]
    if all(_plain(given.get(key)) == value for key, value in fitted.items()):
        return
    given.update(fitted)
    fresh = type(processor)(pretrained_cfg=given, architecture=processor.to_dict().get("architecture"))
    vars(processor).update(vars(fresh))


def _per_channel(value: Any, channels: int, name: str) -> list[float]:
    """Return a mean or deviation with one number for each channel.

    Raises:
        ModelError: which of several numbers belongs to the one channel is not known.
    """
    numbers = _plain(value) if isinstance(value, list | tuple) else [value]
    if len(numbers) == channels:
        return numbers
    if len(set(numbers)) == 1:
        return numbers[:1] * channels
    raise ModelError(
        f"{name!r} reads {count_of(channels, 'channel')}, but its image processor normalises "
        f"{len(numbers)} by unlike numbers ({', '.join(f'{number:g}' for number in numbers)}): give as many as it reads"
    )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, list | tuple) else value


def _try(processor: BaseImageProcessor, name: str) -> None:
    """Make sure that images of one channel come out.

    Raises:
        ModelError: it gives something else.
    """
    inputs = Pixels(processor)(Image.new("RGB", (64, 64)))
    shape = tuple(inputs[processor.model_input_names[0]].shape)
    if len(shape) != 3 or shape[0] != 1:
        raise ModelError(
            f"{name!r} reads 1 channel, but {type(processor).__name__} makes inputs of shape {shape}; "
            "give the model an image processor for grey images"
        )
