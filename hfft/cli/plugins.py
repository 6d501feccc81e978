"""`hfft plugins`: what is installed, and whether a plugin fits a model."""

from __future__ import annotations

from hfft.arguments import PluginCheckArguments
from hfft.cli.commands import summary_of
from hfft.parsing import parse
from hfft.plugin.installed import installed_plugins


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


def plugins_command(argv: list[str]) -> int:
    """List the installed plugins, or check one on a model: hfft plugins check NAME --model M."""
    if argv and argv[0] == "check":
        name = {"metavar": "NAME", "help": "Name of an installed plugin."}
        options, plugin = parse((PluginCheckArguments,), argv[1:], "plugins check", summary_of("plugins"), name)
        from hfft.jobs.check_plugin import check_plugin

        text, ok = check_plugin(plugin, options.model)
        print(text)
        return 0 if ok else 1
    parse((), argv, "plugins", summary_of("plugins"))
    print(plugin_table())
    return 0
