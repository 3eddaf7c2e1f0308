"""Sources of the four upstream tables: one module for each source and the protocol that all of them implement.

A source reads a table of one service day with the types of `transit.schema`, or raises a SourceError. Storing,
joining and Dagster do not belong here.
"""

from mbta_assets.settings import Settings
from mbta_assets.sources.bigquery import BigQuerySource
from mbta_assets.sources.contract import Source, SourceError, conform
from mbta_assets.sources.files import FilesSource
from mbta_assets.sources.synthetic import SyntheticSource

__all__ = ["SOURCES", "Source", "SourceError", "conform", "open_source"]

SOURCES: dict[str, type[Source]] = {
    SyntheticSource.name: SyntheticSource,
    FilesSource.name: FilesSource,
    BigQuerySource.name: BigQuerySource,
}
"""By value of MBTA_SOURCE."""


def open_source(settings: Settings) -> Source:
    """Return the source that the settings select. Raises SettingsError."""
    return SOURCES[settings.source].from_settings(settings)
