"""`hfft plugins`: what is installed, and whether a plugin fits a model."""

from __future__ import annotations

from hfft.arguments import ModelArguments
from hfft.conformance import check_model
from hfft.model import load_model
from hfft.planning import blank_inputs
from hfft.registry import find_anatomy, installed_plugins


def plugin_table() -> str:
    """Return one line for each installed plugin: name, distribution, version and model types, or its error."""
    lines = []
    for found in installed_plugins():
        owner = f"{found.name:<14} {found.distribution} {found.version}"
        if found.plugin is None:
            lines.append(f"{owner}: does not load: {found.error}")
        else:
            lines.append(f"{owner}: {', '.join(sorted(found.plugin.model_types))}")
    return "\n".join(lines) or "No plugin is installed."


def check_plugin(name: str, model_name: str | None) -> tuple[str, bool]:
    """Hold a plugin's anatomy of a model against everything hfft does with it.

    Returns:
        A line for each check, and whether all of them passed.

    Raises:
        PluginError: the plugin is not installed, or its anatomy does not fit the model at all.
        ModelError: the model cannot be loaded.
    """
    model, processor, base = load_model(ModelArguments(model_name_or_path=model_name), ["a", "b", "c"])
    anatomy = find_anatomy(model, name)
    results = check_model(model, blank_inputs(processor), anatomy)
    lines = [f"{'ok  ' if result.ok else 'FAIL'}  {result.name:<18} {result.detail}" for result in results]
    return "\n".join([f"Plugin {name} on {base.name}:", *lines]), all(result.ok for result in results)
