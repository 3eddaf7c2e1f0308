"""Everything bound together for one deployment; the only place that knows deployments."""

from typing import Any

import dagster as dg

from mbta_assets import automation, checks
from mbta_assets.assets import monitoring, training, transit, upstream
from mbta_assets.assets.models import networks, trees
from mbta_assets.assets.production import leaderboard, promotion
from mbta_assets.resources.cluster import Cluster
from mbta_assets.resources.tracker import Tracker
from mbta_assets.resources.warehouse import DuckDBWarehouse
from mbta_assets.settings import Settings
from mbta_assets.sources import Source
from mbta_assets.sources.files import FilesSource
from mbta_assets.sources.synthetic import SyntheticSource
from mbta_assets.storage.bundles import BundleStore
from mbta_assets.storage.io_managers import BundleIOManager, ParquetTableIOManager
from mbta_assets.storage.lake import Lake

MODULES = [upstream, transit, training, trees, networks, leaderboard, promotion, monitoring]


def build_defs(settings: Settings | None = None, **resource_overrides: Any) -> dg.Definitions:
    """Fresh definitions for some settings, by default the environment's; any resource may be replaced by name."""
    settings = settings or Settings.from_environment()
    return dg.Definitions(
        assets=dg.load_assets_from_modules(MODULES),
        asset_checks=checks.ALL,
        jobs=automation.JOBS,
        resources={**_resources(settings), **resource_overrides},
        executor=dg.in_process_executor,
    )


def _resources(settings: Settings) -> dict[str, Any]:
    root = str(settings.store)
    return {
        "settings": settings,
        "source": _source(settings),
        "warehouse": DuckDBWarehouse(Lake(settings.store)),
        "tracker": Tracker(settings),
        "cluster": Cluster(address=settings.ray_address),
        "bundle_store": BundleStore(settings.store),
        "tables": ParquetTableIOManager(root=root),
        "bundles": BundleIOManager(root=root),
    }


def _source(settings: Settings) -> Source:
    if settings.source == "files":
        assert settings.files_dir is not None, "Settings has checked it"
        return FilesSource(settings.files_dir)
    return SyntheticSource(settings.seed)


defs = build_defs()
