"""Asset checks: each finds the problem it is made for, and a blocking one fails the run."""

import json
from collections.abc import Callable
from datetime import date
from functools import partial
from pathlib import Path

import dagster as dg
import pyarrow as arrow
import pytest

from mbta_assets.definitions import build_defs
from mbta_assets.defs.models.quantized_student import parity_holds
from mbta_assets.defs.production.leaderboard import models_beat_the_lookup
from mbta_assets.settings import Settings
from mbta_assets.sources.contract import SourceRows
from mbta_assets.sources.synthetic import SyntheticSource
from mbta_assets.storage.bundle import Draft
from mbta_assets.storage.model_registry import ModelRegistry
from mbta_assets.storage.parquet_tables import ParquetTables
from mbta_assets.storage.reports import ReportStore
from mbta_assets.transit import checks

pytestmark = pytest.mark.integration

DAY = date(2024, 3, 10)


class MattapanSource(SyntheticSource):
    """The simulator, of whose vehicles only those of the Mattapan line send updates."""

    def read(self, table: str, service_date: date) -> SourceRows:
        result = super().read(table, service_date)
        if table != "vehicle":
            return result
        return SourceRows.from_usable(result.rows[result.rows["route_id"] == "Mattapan"].reset_index(drop=True))


class SourceWithoutArrivals(MattapanSource):
    """The Mattapan line, whose vehicles are never reported as stopped."""

    def read(self, table: str, service_date: date) -> SourceRows:
        result = super().read(table, service_date)
        if table != "vehicle":
            return result
        return SourceRows.from_usable(result.rows.replace({"current_status": {"STOPPED_AT": "INCOMING_AT"}}))


NEWEST_DAY = "newest_day_published"
"""Warns in every run of a past day, as here."""


def run(store: Path, source: SyntheticSource, **settings: float) -> dg.ExecuteInProcessResult:
    """Make the tables of a service day of a source, with their checks."""
    job = build_defs(Settings(store=store, **settings), source=source).resolve_job_def("daily_tables")  # type: ignore[arg-type]
    with dg.DagsterInstance.ephemeral() as instance:
        return job.execute_in_process(partition_key=DAY.isoformat(), raise_on_error=False, instance=instance)


def list_failed_checks(result: dg.ExecuteInProcessResult) -> set[str]:
    """Return the checks that did not pass, but for that of the newest service day."""
    return {check.check_name for check in result.get_asset_check_evaluations() if not check.passed} - {NEWEST_DAY}


def test_a_good_day_passes_every_check_and_each_gives_its_numbers(tmp_path: Path) -> None:
    result = run(tmp_path, MattapanSource(0))
    assert result.success
    assert list_failed_checks(result) == set()
    compared = next(
        check for check in result.get_asset_check_evaluations() if check.check_name == "point_in_time_correct"
    )
    rows, changed = (compared.metadata[name].value for name in ("rows_compared", "features_changed"))
    assert isinstance(rows, int) and rows > 1000 and changed == 0
    of_features = {
        check.check_name
        for check in result.get_asset_check_evaluations()
        if check.asset_key == dg.AssetKey("transit_features") and check.partition == str(DAY) and check.metadata
    }
    assert of_features == {
        "schema_holds", "keys_unique", "labels_cover", "point_in_time_correct", "features_present", "row_count_anomaly",
        "published",
    }  # fmt: skip


def test_a_day_with_fewer_labels_than_the_setting_requires_is_refused(tmp_path: Path) -> None:
    result = run(tmp_path / "required", SourceWithoutArrivals(0), min_labelled_share=0.05)
    assert not result.success
    assert {"labels_cover", "published"} <= list_failed_checks(result)
    assert ParquetTables(tmp_path / "required").days("transit_features") == []
    assert run(tmp_path / "default", SourceWithoutArrivals(0)).success
    assert ParquetTables(tmp_path / "default").days("transit_features") == [DAY]


schema_holds = partial(checks.schema_holds, table="transit_features")
labels_cover = partial(checks.labels_cover, min_share=0.05)


@pytest.mark.parametrize(
    ("rule", "column", "value", "problem"),
    [
        (schema_holds, "stops_ahead", -1, "column stops_ahead"),
        (schema_holds, "delay_seconds", -5000.0, "column delay_seconds"),
        (labels_cover, "delay_seconds", None, "only 0.0% of the rows have a label"),
        (checks.features_present, "last_run_seconds", None, "last_run_seconds is missing in 100%"),
    ],
)
def test_a_rule_names_the_column_that_breaks_it(
    features: arrow.Table,
    rule: Callable[[arrow.Table], checks.Outcome],
    column: str,
    value: float | None,
    problem: str,
) -> None:
    assert rule(features).problem is None
    index = features.column_names.index(column)
    values = arrow.array([value] * len(features), features.schema.field(index).type)
    broken = features.set_column(index, column, values)
    assert problem in (rule(broken).problem or "")


def test_a_repeated_key_is_found(features: arrow.Table) -> None:
    assert checks.keys_unique(features).problem is None
    twice = arrow.concat_tables([features, features.slice(0, 3)])
    assert (checks.keys_unique(twice).problem or "").startswith("3 rows repeat the key")


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> arrow.Table:
    """Return the features of a day that passes every check."""
    store = tmp_path_factory.mktemp("good")
    assert run(store, MattapanSource(0)).success
    return ParquetTables(store).read("transit_features", [DAY])


@pytest.mark.parametrize(("difference_seconds", "passed"), [(0.001, True), (0.2, False)])
def test_a_student_is_blocked_if_onnx_runtime_and_pytorch_predict_otherwise(
    tmp_path: Path, difference_seconds: float, passed: bool
) -> None:
    registry = ModelRegistry(tmp_path)
    parity = {"max_seconds": difference_seconds, "bound_seconds": 0.05, "rows": 10}
    stored = registry.put("quantized_student", Draft("onnx", {"model.onnx": b""}, {"parity": parity}))
    result = parity_holds(stored)
    assert isinstance(result, dg.AssetCheckResult)
    assert result.passed == passed


def test_models_that_lose_to_the_lookup_are_named(tmp_path: Path) -> None:
    report = tmp_path / "reports/model_leaderboard.json"
    report.parent.mkdir()
    maes = {"runtime_lookup": 5.0, "schedule": 9.0, "dnn_teacher": 4.0, "quantized_student": 6.0}
    rows = [{"model": name, "mae": mae, "beats_runtime_lookup": mae < 5} for name, mae in maes.items()]
    report.write_text(json.dumps(rows))
    result = models_beat_the_lookup(reports=ReportStore(tmp_path))
    assert isinstance(result, dg.AssetCheckResult)
    assert not result.passed and result.severity == dg.AssetCheckSeverity.WARN
    assert result.metadata["losing"].value == {"quantized_student": 6.0}
