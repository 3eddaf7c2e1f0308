"""Owners, tags and storage kinds of assets.

They follow from an asset's group and from the deployment, so they are set here for all assets at once. An asset itself
names only the kinds of its computation, such as `pandas` or `pytorch`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import dagster as dg

from mbta_assets.settings import Settings
from mbta_assets.transit import schema


@dataclass(frozen=True)
class GroupLabels:
    """Labels of the assets of a group."""

    domain: str
    """Subject of the data; the domain's team owns it."""
    tier: str
    """Severity of a failure: 1 if predictions become wrong or stale, 2 if the next model is late, 3 if reports are."""

    @property
    def owners(self) -> list[str]:
        """Return the owners, as Dagster writes them."""
        return [f"team:{self.domain}"]

    @property
    def tags(self) -> dict[str, str]:
        """Return the tags, by which the UI filters assets."""
        return {"domain": self.domain, "tier": self.tier}


GROUPS = {
    "upstream": GroupLabels("transit-data", "1"),
    "transit": GroupLabels("transit-data", "1"),
    "training": GroupLabels("machine-learning", "2"),
    "models": GroupLabels("machine-learning", "2"),
    "production": GroupLabels("machine-learning", "1"),
    "monitoring": GroupLabels("machine-learning", "3"),
}


@dataclass(frozen=True)
class StorageKinds:
    """Kinds of what a deployment stores and where it joins."""

    tables: frozenset[str]
    join: frozenset[str]
    models_and_reports: frozenset[str]


STORAGE_KINDS = {
    "local": StorageKinds(frozenset({"parquet"}), frozenset({"duckdb"}), frozenset()),
    "gcp": StorageKinds(frozenset({"bigquery"}), frozenset({"bigquery"}), frozenset({"gcs"})),
}
"""By value of MBTA_DEPLOYMENT."""


def label_assets(settings: Settings, assets: Iterable[Any]) -> list[Any]:
    """Return the assets with owners, tags and the kinds of their storage in this deployment."""
    kinds = STORAGE_KINDS[settings.deployment]

    def label(spec: dg.AssetSpec) -> dg.AssetSpec:
        name, labels = spec.key.path[-1], GROUPS[spec.group_name or ""]
        added = kinds.tables if name in schema.TABLES else kinds.models_and_reports
        if name == "raw_transit_data":
            added |= kinds.join
        return spec.merge_attributes(owners=labels.owners, tags=labels.tags, kinds=set(added))

    labelled: list[Any] = []
    for asset in assets:
        if isinstance(asset, dg.AssetSpec):
            labelled.append(label(asset))
        else:
            labelled.append(asset.map_asset_specs(label) if isinstance(asset, dg.AssetsDefinition) else asset)
    return labelled
