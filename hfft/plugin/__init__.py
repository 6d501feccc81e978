"""All that a plugin or a policy of another package may import: the contract, patterns, the table, the errors."""

from hfft.errors import ArgumentError, PluginError, UnsupportedModelError
from hfft.plugin.contract import Anatomy, BackbonePlugin, ClassTokenBlock, LowRank, PhaseSpec, Pooling, TokenLayout
from hfft.plugin.patterns import anatomy_from_patterns, expand, expand_blocks, known_names
from hfft.plugin.table import Row, TablePlugin, token_grid

__all__ = [
    "Anatomy",
    "ArgumentError",
    "BackbonePlugin",
    "ClassTokenBlock",
    "LowRank",
    "PhaseSpec",
    "PluginError",
    "Pooling",
    "Row",
    "TablePlugin",
    "TokenLayout",
    "UnsupportedModelError",
    "anatomy_from_patterns",
    "expand",
    "expand_blocks",
    "known_names",
    "token_grid",
]
