"""Sources of the four upstream tables: one module for each source and the protocol that all of them implement.

A source reads a table of one service day with the types of `transit.schema`, or raises a SourceError. Its module has
the name that MBTA_SOURCE selects it by and defines `SOURCE`, the class. Storing, joining and Dagster do not belong
here.
"""

from importlib import import_module

from mbta_assets.settings import Settings
from mbta_assets.sources.conform import conform
from mbta_assets.sources.contract import Source, SourceError, SourceRows

__all__ = ["Source", "SourceError", "SourceRows", "conform", "find_source", "open_source"]


def find_source(name: str) -> type[Source]:
    """Return the class of the source that a value of MBTA_SOURCE selects. Raises ModuleNotFoundError for any other."""
    source: type[Source] = import_module(f"{__name__}.{name}").SOURCE
    return source


def open_source(settings: Settings) -> Source:
    """Return the source that the settings select. Raises SettingsError if it requires settings that are not set."""
    return find_source(settings.source).from_settings(settings)
