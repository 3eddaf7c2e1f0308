"""Everything bound together for one deployment; the only place that knows deployments."""

from collections.abc import Sequence
from typing import Any

import dagster as dg

from mbta_assets.defs import automation, checks, training, transit, upstream
from mbta_assets.defs.io_managers import UpstreamIOManager, bundle_io_manager, table_io_manager
from mbta_assets.defs.models import networks, xgboost_model
from mbta_assets.defs.monitoring import network_snapshot, predictions
from mbta_assets.defs.production import leaderboard, promotion
from mbta_assets.defs.resources.experiment_tracker import Tracker
from mbta_assets.defs.resources.ray_cluster import Cluster
from mbta_assets.gcp import Account
from mbta_assets.gcp.bucket import Bucket
from mbta_assets.settings import Settings
from mbta_assets.sources import Source
from mbta_assets.sources.bigquery import BigQuerySource
from mbta_assets.sources.files import FilesSource
from mbta_assets.sources.synthetic import SyntheticSource
from mbta_assets.storage.bigquery_tables import BigQueryTables
from mbta_assets.storage.gcs import GCSModelRegistry, GCSReportStore
from mbta_assets.storage.model_registry import ModelRegistry
from mbta_assets.storage.parquet_tables import ParquetTables
from mbta_assets.storage.reports import ReportStore
from mbta_assets.storage.warehouse import BigQueryWarehouse, DuckDBWarehouse

MODULES = [transit, training, xgboost_model, networks, leaderboard, promotion, predictions, network_snapshot]


def build_defs(settings: Settings | None = None, **resource_overrides: Any) -> dg.Definitions:
    """Fresh definitions for some settings, by default the environment's; any resource may be replaced by name."""
    settings = settings or Settings.from_environment()
    where_they_are = settings.source == "bigquery"
    assets = [*dg.load_assets_from_modules(MODULES), *(upstream.observed() if where_they_are else upstream.STORED)]
    return dg.Definitions(
        assets=automation.with_conditions(settings, _in_runs_of(settings.backfill_days, assets)),
        asset_checks=checks.ALL,
        jobs=automation.JOBS,
        schedules=automation.schedules(settings),
        sensors=automation.sensors(settings),
        resources={**_resources(settings), **resource_overrides},
        executor=dg.in_process_executor,
    )


def _in_runs_of(days: int | None, assets: Sequence[Any]) -> list[Any]:
    """The assets, where the daily ones are backfilled in runs of so many service days instead of in one."""
    if days is None:
        return list(assets)
    policy = dg.BackfillPolicy.multi_run(days)
    return [
        asset.with_attributes(backfill_policy=policy)
        if isinstance(asset, dg.AssetsDefinition) and asset.partitions_def
        else asset
        for asset in assets
    ]


def _resources(settings: Settings) -> dict[str, Any]:
    common = {
        "settings": settings,
        "tracker": Tracker(settings),
        "cluster": Cluster(
            address=settings.ray_address,
            trial_cpus=settings.trial_cpus,
            trial_gpus=settings.trial_gpus,
            xgboost_workers=settings.xgboost_workers,
            torch_workers=settings.torch_workers,
        ),
    }
    return common | (_on_google_cloud(settings) if settings.deployment == "gcp" else _on_one_machine(settings))


def _on_one_machine(settings: Settings) -> dict[str, Any]:
    lake, bundle_store = ParquetTables(settings.store), ModelRegistry(settings.store)
    source = _source(settings)
    upstream_tables = source if isinstance(source, BigQuerySource) else lake
    return {
        "source": source,
        "warehouse": DuckDBWarehouse(lake, upstream_tables),
        "bundle_store": bundle_store,
        "reports": ReportStore(settings.store),
        "tables": table_io_manager(lake),
        "upstream_tables": UpstreamIOManager(upstream_tables),
        "bundles": bundle_io_manager(bundle_store),
    }


def _on_google_cloud(settings: Settings) -> dict[str, Any]:
    assert settings.bigquery_dataset and settings.gcs_bucket, "Settings has checked it"
    from mbta_assets.defs.resources.google_cloud import (  # imports Google's libraries
        AccountBigQuery,
        AccountGCS,
        GoogleCloud,
    )

    account = Account.of(settings)
    google = GoogleCloud.of(account)
    tables = BigQueryTables(account, settings.bigquery_dataset, settings.bigquery_maximum_bytes_billed)
    bucket = Bucket(account, settings.gcs_bucket)
    bundle_store = GCSModelRegistry(bucket, settings.store / "cache" / bucket.name)
    source = _source(settings)
    upstream_tables = source if isinstance(source, BigQuerySource) else tables
    return {
        "google": google,
        "bigquery": AccountBigQuery(google=google),
        "gcs": AccountGCS(google=google),
        "source": source,
        "warehouse": BigQueryWarehouse(tables, upstream_tables, tables.bigquery),
        "bundle_store": bundle_store,
        "reports": GCSReportStore(bucket, settings.store),
        "tables": table_io_manager(tables),
        "upstream_tables": UpstreamIOManager(upstream_tables),
        "bundles": bundle_io_manager(bundle_store),
    }


def _source(settings: Settings) -> Source | BigQuerySource:
    if settings.source == "files":
        assert settings.files_dir is not None, "Settings has checked it"
        return FilesSource(settings.files_dir)
    if settings.source == "bigquery":
        return BigQuerySource.of(settings)
    return SyntheticSource(settings.seed)


defs = build_defs()
