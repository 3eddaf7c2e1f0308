"""The source of the upstream tables as a resource."""

from typing import Any, Self

import dagster as dg
from pydantic import Field

from mbta_assets.defs.resources.settings import dump_public_settings
from mbta_assets.settings import Settings
from mbta_assets.sources import Source, open_source
from mbta_assets.sources.contract import TablesInPlace
from mbta_assets.sources.gtfs.published import PublishedPredictions


class SourceResource(dg.ConfigurableResource):
    """The source that MBTA_SOURCE selects."""

    settings: dict[str, Any] = Field(
        description="Settings that differ from their defaults, by name; a source reads those it needs. No secrets."
    )

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Return the source of a deployment. Raises SettingsError if the settings do not describe one."""
        open_source(settings)  # wrong settings are errors when the code location is loaded, not in a run
        return cls(settings=dump_public_settings(settings))

    def create_resource(self, context: dg.InitResourceContext) -> Source:
        """Open the source."""
        return open_source(Settings(**self.settings))


class PublishedPredictionsResource(dg.ConfigurableResource):
    """The archive of what live predictions have published."""

    settings: dict[str, Any] = Field(description="Settings that differ from their defaults, by name. No secrets.")

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Return the archive of a deployment."""
        return cls(settings=dump_public_settings(settings))

    def create_resource(self, context: dg.InitResourceContext) -> PublishedPredictions:
        """Open the archive."""
        return PublishedPredictions.from_settings(Settings(**self.settings))


class TablesInPlaceResource(dg.ConfigurableResource):
    """The upstream tables of a source that reads them in place."""

    source: dg.ResourceDependency[Source]

    def create_resource(self, context: dg.InitResourceContext) -> TablesInPlace:
        """Return the tables. Raises ValueError for a source whose tables are copied."""
        if self.source.tables_in_place is None:
            raise ValueError(f"The source {self.source.name} has no tables to read in place; its tables are copied.")
        return self.source.tables_in_place
