"""`hfft plugins`: what is installed, and whether a plugin fits a model."""

from __future__ import annotations

from hfft.arguments import PluginCheckArguments
from hfft.cli.commands import summary_of
from hfft.cli.reply import Reply
from hfft.errors import ArgumentError
from hfft.parsing import closest, parse
from hfft.plugin.installed import installed_plugins


def plugin_list() -> Reply:
    """Return each installed plugin: name, distribution, version and model types, or its error."""
    rows = [
        {
            "name": found.name,
            "distribution": found.distribution,
            "version": found.version,
            "model_types": None if found.plugin is None else sorted(found.plugin.model_types),
            "error": found.error if found.plugin is None else None,
        }
        for found in installed_plugins()
    ]
    lines = [
        f"{row['name']:<14} {row['distribution']} {row['version']}: "
        + (f"does not load: {row['error']}" if row["model_types"] is None else ", ".join(row["model_types"]))
        for row in rows
    ]
    return Reply({"plugins": rows}, "\n".join(lines) or "No plugin is installed.")


def plugins_command(argv: list[str]) -> Reply:
    """List the installed plugins, or check one on a model: hfft plugins check NAME --model M."""
    if argv and argv[0] == "check":
        name = {"metavar": "NAME", "help": "Name of an installed plugin."}
        options, plugin = parse((PluginCheckArguments,), argv[1:], "plugins check", summary_of("plugins"), name)
        from hfft.jobs.check_plugin import check_plugin

        text, results = check_plugin(plugin, options)
        return Reply({"plugin": plugin, "checks": results}, text, int(not all(result.ok for result in results)))
    if argv and not argv[0].startswith("-"):
        raise ArgumentError(f"hfft plugins has no {argv[0]!r}{closest(argv[0], ['check'])}; see hfft plugins --help")
    parse((), argv, "plugins", summary_of("plugins"))
    return plugin_list()
