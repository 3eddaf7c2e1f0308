"""Where the four upstream tables come from.

In this room: one module for each source, and the contract they all meet (`contract`). A source reads
a table of one service day and hands it over with the types of `transit.schema`, or says why it cannot.
Not here: storing what was read, joining tables, Dagster.
"""

from mbta_assets.sources.contract import Source, SourceError, conform

__all__ = ["Source", "SourceError", "conform"]
