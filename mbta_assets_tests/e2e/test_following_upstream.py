"""With the daemon running: a file changes upstream, and all that follows from it happens without a further hand."""

from datetime import date
from pathlib import Path

import pytest

from mbta_assets.storage.model_registry import ModelRegistry
from mbta_assets.storage.parquet_tables import ParquetTables
from mbta_assets_tests.support import real_day
from mbta_assets_tests.support.dagster_dev import DagsterDev, eventually
from mbta_assets_tests.support.real_day import DAYS

pytestmark = pytest.mark.xdist_group("trained")

MODELS = ("xgboost_model", "dnn_teacher", "pruned_teacher", "distilled_student", "quantized_student")
TABLES = ["vehicle", "trip", "stop", "schedule", "raw_transit_data", "transit_features"]


def test_a_changed_file_leads_to_new_features_of_its_day_only_and_to_new_models(dev: DagsterDev) -> None:
    store, upstream = Path(dev.environment["MBTA_STORE"]), Path(dev.environment["MBTA_FILES_DIR"])
    lake, bundles = ParquetTables(store), ModelRegistry(store)
    changed, other = DAYS[0], DAYS[2]
    dev.succeed(dev.materialize(TABLES, other), 90)

    def features_of(day: date) -> str:
        return lake.versions("transit_features", [day])[day]

    with dev.sensors_on("upstream_changes", "retraining"):
        features = {day: features_of(day) for day in (changed, other)}
        models = {asset: bundles.current_digest(asset) for asset in ("training_set", *MODELS)}
        earlier = {run["runId"] for run in dev.runs()}

        real_day.write_days(upstream, [changed], keep_share=0.9)

        eventually("the day has new features", 120, lambda: features_of(changed) != features[changed])
        eventually(
            "every model is another",
            1200,
            lambda: all(bundles.current_digest(asset) != digest for asset, digest in models.items()),
        )
        assert features_of(other) == features[other]
        eventually("all runs are over", 60, lambda: all(run["endTime"] for run in dev.runs()))
        later = [run for run in dev.runs() if run["runId"] not in earlier]
    assert [run["status"] for run in later] == ["SUCCESS"] * 2, later
    days = {tag["value"] for run in later for tag in run["tags"] if tag["key"] == "dagster/partition"}
    assert days == {str(changed)}
