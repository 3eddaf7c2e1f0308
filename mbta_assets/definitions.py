"""Dagster definitions of one deployment: its resources, bound to the assets.

`defs` is the code location of the environment's settings.
"""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import dagster as dg

from mbta_assets.defs import automation, models, training, transit, upstream
from mbta_assets.defs.executor import step_executor
from mbta_assets.defs.freshness import newest_day_checks
from mbta_assets.defs.io_managers import BundleIOManager, TablesIOManager, UpstreamIOManager
from mbta_assets.defs.labels import label_assets
from mbta_assets.defs.metadata import CODE_REFERENCES
from mbta_assets.defs.monitoring import network_snapshot, predictions, width_correction
from mbta_assets.defs.partitions import DailyAsset, DailyDefinition, service_days
from mbta_assets.defs.production import leaderboard, promotion
from mbta_assets.defs.resources.experiment_tracker import ExperimentTracker
from mbta_assets.defs.resources.local import (
    DuckDBWarehouseResource,
    ModelRegistryResource,
    ParquetTablesResource,
    ReportStoreResource,
)
from mbta_assets.defs.resources.ray_cluster import RayCluster
from mbta_assets.defs.resources.settings import JoinSettings, RetentionSettings, TrainingLogs, TrainingSettings
from mbta_assets.defs.resources.source import (
    PublishedPredictionsResource,
    SourceResource,
    TablesInPlaceResource,
)
from mbta_assets.settings import Settings, SettingsError
from mbta_assets.storage.model_registry import cache_directory

MODULES = [training, leaderboard, promotion]
DAILY_MODULES = [transit, predictions, network_snapshot, width_correction]
"""Modules whose assets are partitioned by the service days of a deployment."""


def build_defs(settings: Settings | None = None, **resource_overrides: Any) -> dg.Definitions:
    """Return new definitions for some settings, by default those of the environment.

    Each keyword replaces the resource of that name, by another resource or by a plain object. Raises SettingsError.
    """
    settings = settings or Settings.from_environment()
    daily = build_daily_assets(settings)
    assets: list[Any] = [
        *dg.load_assets_from_modules(MODULES),
        *dg.load_assets_from_package_module(models),
        *(definition for definition in daily if not isinstance(definition, dg.AssetChecksDefinition)),
    ]
    assets = automation.with_conditions(settings, label_assets(settings, assets))
    return dg.Definitions(
        assets=[*link_to_source(assets)],
        asset_checks=[
            *dg.load_asset_checks_from_modules(MODULES),
            *dg.load_asset_checks_from_package_module(models),
            *(definition for definition in daily if isinstance(definition, dg.AssetChecksDefinition)),
            *newest_day_checks(settings),
        ],
        jobs=automation.JOBS,
        schedules=automation.schedules(settings),
        sensors=automation.sensors(settings),
        resources={**build_resources(settings), **resource_overrides},
        executor=step_executor,
    )


def link_to_source(assets: Iterable[Any]) -> Iterator[Any]:
    """Yield the assets, each with a link to its source line."""
    for asset in assets:
        specs = asset.specs if isinstance(asset, dg.AssetsDefinition) else []
        if any(CODE_REFERENCES in spec.metadata for spec in specs):
            yield asset
        else:
            yield from dg.with_source_code_references([asset])


def build_daily_assets(settings: Settings) -> list[DailyDefinition]:
    """Return the assets that are partitioned by service day, with their checks."""
    days, tables = service_days(settings), upstream.list_upstream_tables(settings)
    policy = (
        dg.BackfillPolicy.multi_run(settings.backfill_days)
        if settings.backfill_days
        else dg.BackfillPolicy.single_run()
    )
    in_modules = [value for module in DAILY_MODULES for value in vars(module).values() if isinstance(value, DailyAsset)]
    return [
        definition
        for asset in (*upstream.upstream_assets(settings), *in_modules)
        for definition in asset.build(days, policy, tables)
    ]


def build_resources(settings: Settings) -> dict[str, Any]:
    """Return the resources of a deployment by name, as `Definitions` takes them; nothing is opened or called yet.

    Raises SettingsError if the settings do not describe a deployment.
    """
    source = SourceResource.from_settings(settings)
    build_storage = _build_gcp_storage if settings.deployment == "gcp" else _build_local_storage
    return {
        "settings": TrainingSettings.from_settings(settings),
        "join_settings": JoinSettings(every_stop_ahead=settings.stops_ahead == "all"),
        "retention": RetentionSettings.from_settings(settings),
        "training_logs": TrainingLogs(keep_plots=settings.keep_plots),
        "source": source,
        "published": PublishedPredictionsResource.from_settings(settings),
        "tracker": ExperimentTracker(
            project=settings.wandb_project,
            mode=settings.wandb_mode,
            directory=str(settings.store / "experiments"),
            api_key=dg.EnvVar("WANDB_API_KEY") if settings.wandb_api_key else None,
        ),
        "cluster": RayCluster(
            address=settings.ray_address,
            trial_cpus=settings.trial_cpus,
            trial_gpus=settings.trial_gpus,
            xgboost_workers=settings.xgboost_workers,
            torch_workers=settings.torch_workers,
            threads=settings.training_threads,
        ),
        **build_storage(settings, source),
    }


def open_resources(settings: Settings, *names: str) -> AbstractContextManager[Any]:
    """Open some resources of a deployment outside of a run: a context manager with them as attributes.

    Each attribute is the plain object, such as a `ModelRegistry` as `model_registry`. Raises SettingsError as
    `build_resources` does, and KeyError for a name that is none of its.
    """
    resources = build_resources(settings)
    return dg.build_resources({name: resources[name] for name in names})


def _tables_io_manager(settings: Settings, tables: Any) -> TablesIOManager:
    return TablesIOManager(
        tables=tables,
        min_labelled_share=settings.min_labelled_share,
        min_matched_share=settings.min_matched_share,
    )


def _build_local_storage(settings: Settings, source: SourceResource) -> dict[str, Any]:
    store = str(settings.store)
    tables, model_registry = ParquetTablesResource(store=store), ModelRegistryResource(store=store)
    upstream_tables = TablesInPlaceResource(source=source) if upstream.reads_in_place(settings) else tables
    return {
        "table_store": tables,
        "upstream_store": upstream_tables,
        "warehouse": DuckDBWarehouseResource(tables=tables, upstream=upstream_tables),
        "model_registry": model_registry,
        "reports": ReportStoreResource(store=store),
        "tables": _tables_io_manager(settings, tables),
        "upstream_tables": UpstreamIOManager(tables=upstream_tables),
        "bundles": BundleIOManager(model_registry=model_registry),
    }


def _build_gcp_storage(settings: Settings, source: SourceResource) -> dict[str, Any]:
    # Google's libraries take seconds to import, and a deployment on one machine needs none of them.
    from mbta_assets.defs.resources.gcp import (
        AccountResource,
        BigQueryTablesResource,
        BigQueryWarehouseResource,
        GCSModelRegistryResource,
        GCSReportStoreResource,
    )

    dataset, bucket, store = settings.bigquery_dataset, settings.gcs_bucket, settings.store
    if dataset is None or bucket is None:
        raise SettingsError("MBTA_DEPLOYMENT=gcp requires BIGQUERY_DATASET and GCS_BUCKET to be set.")
    account = AccountResource.from_settings(settings)
    tables = BigQueryTablesResource(
        account=account,
        dataset=dataset,
        maximum_bytes_billed=settings.bigquery_maximum_bytes_billed,
        keep_refused_days=settings.keep_staged_days,
    )
    upstream_tables = TablesInPlaceResource(source=source) if upstream.reads_in_place(settings) else tables
    cache = str(cache_directory(store, bucket))
    model_registry = GCSModelRegistryResource(account=account, bucket=bucket, cache=cache)
    return {
        "google": account,
        "table_store": tables,
        "upstream_store": upstream_tables,
        "warehouse": BigQueryWarehouseResource(tables=tables, upstream=upstream_tables),
        "model_registry": model_registry,
        "reports": GCSReportStoreResource(account=account, bucket=bucket, store=str(store)),
        "tables": _tables_io_manager(settings, tables),
        "upstream_tables": UpstreamIOManager(tables=upstream_tables),
        "bundles": BundleIOManager(model_registry=model_registry),
    }


defs = build_defs()
"""Definitions of the environment's settings: the code location that `dg` and `dagster` load."""
