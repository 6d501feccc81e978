"""Find the plugin that speaks for a type of model, through the entry-point group ``hfft.backbones``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from textwrap import shorten

from hfft.errors import PluginError, one_line
from hfft.packages import entry_points
from hfft.plugin.contract import BackbonePlugin

GROUP = "hfft.backbones"


@dataclass(frozen=True)
class InstalledPlugin:
    """One entry point of the group: either a working `plugin` or the `error` that it failed with."""

    name: str
    distribution: str
    version: str
    plugin: BackbonePlugin | None
    error: str = ""

    @property
    def whose(self) -> str:
        """What an error calls it, so that its author is found."""
        return f"plugin {self.name!r} of {self.distribution}"


def installed_plugins() -> list[InstalledPlugin]:
    """Load every plugin of the group, in order of name; one that fails is listed with its error."""
    return [_load(point) for point in sorted(entry_points(group=GROUP), key=lambda point: point.name)]


def find_plugin(model_type: str, name: str | None = None) -> InstalledPlugin:
    """Return the one plugin that speaks for a model type, or the one called `name`.

    Raises:
        PluginError: no plugin or more than one claims the type, or `name` is not installed or broken.
    """
    found = installed_plugins()
    asked = ", ".join(f"{p.name} ({p.distribution} {p.version})" for p in found) or "none is installed"
    if name is not None:
        named = [p for p in found if p.name == name]
        if not named:
            raise PluginError(f"no plugin is called {name!r}; installed are: {asked}")
        if len(named) > 1:
            owners = " and ".join(f"{p.distribution} {p.version}" for p in named)
            raise PluginError(f"{owners} both install a plugin called {name!r}; uninstall one of them")
        if named[0].plugin is None:
            raise PluginError(f"{named[0].whose} does not load: {named[0].error}")
        return named[0]
    claims = [p for p in found if p.plugin is not None and model_type in p.plugin.model_types]
    if len(claims) > 1:
        claimants = " and ".join(f"{p.name} ({p.distribution} {p.version})" for p in claims)
        raise PluginError(f"model type {model_type!r} is claimed by {claimants}; choose with --plugin NAME")
    if not claims:
        broken = "".join(f"; {p.name} does not load: {p.error}" for p in found if p.error)
        raise PluginError(
            f"no plugin knows model type {model_type!r}; asked were: {asked}{broken}. "
            "Describe the model with --anatomy FILE.yaml or write a plugin (docs/plugins.md)"
        )
    return claims[0]


def _load(point: EntryPoint) -> InstalledPlugin:
    owner, version = (point.dist.name, point.dist.version) if point.dist else ("an unknown distribution", "?")
    try:
        plugin = point.load()()
    except Exception as error:  # whatever a third party's import raises must not stop the others
        return InstalledPlugin(point.name, owner, version, None, f"{type(error).__name__}: {one_line(error)}")
    if not isinstance(plugin, BackbonePlugin):
        return InstalledPlugin(point.name, owner, version, None, f"{point.value} is not a BackbonePlugin")
    types = getattr(plugin, "model_types", None)
    if not isinstance(types, set | frozenset) or not all(isinstance(each, str) for each in types):
        wrong = f"{point.value} must have a frozenset of strings as its model_types, not {shorten(repr(types), 100)}"
        return InstalledPlugin(point.name, owner, version, None, wrong)
    twins = plugin.same_encoder
    if not isinstance(twins, Mapping) or not all(isinstance(each, str) for pair in twins.items() for each in pair):
        wrong = f"{point.value} must have a mapping of strings as its same_encoder, not {shorten(repr(twins), 100)}"
        return InstalledPlugin(point.name, owner, version, None, wrong)
    return InstalledPlugin(point.name, owner, version, plugin)
