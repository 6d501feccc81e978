"""Find the anatomy of a model, from the plugin that speaks for it or from a file."""

from __future__ import annotations

from dataclasses import asdict
from textwrap import shorten
from typing import TYPE_CHECKING

from hfft.arguments import ModelArguments
from hfft.errors import PluginError, UnsupportedModelError, one_line
from hfft.plugin.contract import Anatomy
from hfft.plugin.installed import find_plugin
from hfft.plugin.table import backbone_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def find_anatomy(model: PreTrainedModel, plugin: str | None = None) -> Anatomy:
    """Return the checked anatomy of a model from the plugin that speaks for it.

    Raises:
        PluginError: see `find_plugin`; also when the plugin fails, or its anatomy is none or does not fit the model.
    """
    from hfft.planning.anatomy_file import anatomy_from_dict, check_anatomy

    found = find_plugin(backbone_of(model.config).model_type, plugin)
    assert found.plugin is not None
    whose, kind = found.whose, type(model).__name__
    try:
        given: object = found.plugin.anatomy(model)
        if not isinstance(given, Anatomy):
            raise PluginError(f"it gives {shorten(repr(given), 100)} in place of an Anatomy")
        anatomy = anatomy_from_dict(asdict(given))  # which names what is of the wrong type
        check_anatomy(anatomy, model)
    except UnsupportedModelError:
        raise
    except PluginError as error:
        raise PluginError(f"{whose} does not fit {kind}: {error}") from error
    except Exception as error:  # whatever a third party's code raises
        raise PluginError(f"{whose} fails on {kind}: {type(error).__name__}: {one_line(error)}") from error
    return anatomy


def resolve_anatomy(model: PreTrainedModel, arguments: ModelArguments) -> Anatomy:
    """Return the anatomy from ``--anatomy``, else from the plugin that speaks for the model."""
    if arguments.anatomy is not None:
        from hfft.planning.anatomy_file import load_anatomy

        return load_anatomy(arguments.anatomy, model)
    return find_anatomy(model, arguments.plugin)
