"""Find the anatomy of a model, from the plugin that speaks for it or from a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hfft.arguments import ModelArguments
from hfft.errors import PluginError
from hfft.plugin.contract import Anatomy
from hfft.plugin.installed import find_plugin
from hfft.plugin.table import backbone_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def find_anatomy(model: PreTrainedModel, plugin: str | None = None) -> Anatomy:
    """Return the checked anatomy of a model from the plugin that speaks for it.

    Raises:
        PluginError: see `find_plugin`; also when the plugin's anatomy does not fit the model.
    """
    from hfft.planning.anatomy_file import check_anatomy

    found = find_plugin(backbone_of(model.config).model_type, plugin)
    assert found.plugin is not None
    anatomy = found.plugin.anatomy(model)
    try:
        check_anatomy(anatomy, model)
    except PluginError as error:
        raise PluginError(f"plugin {found.name!r} does not fit {type(model).__name__}: {error}") from error
    return anatomy


def resolve_anatomy(model: PreTrainedModel, arguments: ModelArguments) -> Anatomy:
    """Return the anatomy from ``--anatomy``, else from the plugin that speaks for the model."""
    if arguments.anatomy is not None:
        from hfft.planning.anatomy_file import load_anatomy

        return load_anatomy(arguments.anatomy, model)
    return find_anatomy(model, arguments.plugin)
