"""The checks: each finds what it is for, and a blocking one stops the run."""

import json
from collections.abc import Callable
from datetime import date
from pathlib import Path

import dagster as dg
import pandas as pd
import pytest

from mbta_assets.definitions import build_defs
from mbta_assets.defs import checks
from mbta_assets.settings import Settings
from mbta_assets.sources.synthetic import SyntheticSource
from mbta_assets.storage.bundle import Draft
from mbta_assets.storage.model_registry import BundleStore
from mbta_assets.storage.reports import Reports
from mbta_assets.transit import schema

DAY = date(2024, 3, 10)


class OneLine(SyntheticSource):
    """The simulator's Mattapan line alone."""

    def read(self, table: str, service_date: date) -> pd.DataFrame:
        rows = super().read(table, service_date)
        return rows[rows["route_id"] == "Mattapan"].reset_index(drop=True) if table == "vehicle" else rows


class NobodyStops(OneLine):
    """The same, but no arrival is ever seen."""

    def read(self, table: str, service_date: date) -> pd.DataFrame:
        rows = super().read(table, service_date)
        return rows.replace({"current_status": {"STOPPED_AT": "INCOMING_AT"}}) if table == "vehicle" else rows


def run(store: Path, source: SyntheticSource) -> dg.ExecuteInProcessResult:
    job = build_defs(Settings(store=store), source=source).resolve_job_def("daily_tables")
    with dg.DagsterInstance.ephemeral() as instance:
        return job.execute_in_process(partition_key=DAY.isoformat(), raise_on_error=False, instance=instance)


def failed(result: dg.ExecuteInProcessResult) -> set[str]:
    return {check.check_name for check in result.get_asset_check_evaluations() if not check.passed}


def test_a_good_day_passes_every_check(tmp_path: Path) -> None:
    result = run(tmp_path, OneLine(0))
    assert result.success
    assert failed(result) == set()
    assert len(result.get_asset_check_evaluations()) == 9


def test_a_day_without_labels_fails_the_run(tmp_path: Path) -> None:
    result = run(tmp_path, NobodyStops(0))
    assert not result.success
    assert "labels_cover" in failed(result)


@pytest.mark.parametrize(
    ("rule", "column", "value", "said"),
    [
        (checks.schema_holds, "stops_ahead", 2, "column stops_ahead"),
        (checks.schema_holds, "delay_seconds", -5000.0, "column delay_seconds"),
        (checks.labels_cover, "delay_seconds", None, "only 0% of the rows have a label"),
        (checks.features_present, "last_run_seconds", None, "last_run_seconds is missing in 100%"),
    ],
)
def test_a_rule_names_the_column_that_breaks_it(
    features: pd.DataFrame,
    rule: Callable[[str, pd.DataFrame], checks.Finding],
    column: str,
    value: float | None,
    said: str,
) -> None:
    assert rule("transit_features", features) is None
    broken = schema.typed(features.assign(**{column: value}), schema.TransitFeatures)
    assert said in (rule("transit_features", broken) or "")


def test_a_repeated_key_is_found(features: pd.DataFrame) -> None:
    assert checks.keys_unique("transit_features", features) is None
    twice = pd.concat([features, features.head(3)])
    assert (checks.keys_unique("transit_features", twice) or "").startswith("3 rows repeat the key")


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    store = tmp_path_factory.mktemp("good")
    assert run(store, OneLine(0)).success
    from mbta_assets.storage.parquet_tables import Lake

    return schema.to_frame(Lake(store).read("transit_features", [DAY]))


@pytest.mark.parametrize(("apart_seconds", "passed"), [(0.001, True), (0.2, False)])
def test_a_student_that_torch_and_onnx_runtime_disagree_about_is_stopped(
    tmp_path: Path, apart_seconds: float, passed: bool
) -> None:
    store = BundleStore(tmp_path)
    parity = {"max_seconds": apart_seconds, "bound_seconds": 0.05, "rows": 10}
    stored = store.put("quantized_student", Draft("onnx", {"model.onnx": b""}, {"parity": parity}))
    store.point("quantized_student", stored.digest, expected=None)
    result = checks.parity_holds(bundle_store=store)
    assert isinstance(result, dg.AssetCheckResult)
    assert result.passed == passed


def test_models_that_lose_to_the_lookup_are_named(tmp_path: Path) -> None:
    report = tmp_path / "reports/model_leaderboard.json"
    report.parent.mkdir()
    maes = {"runtime_lookup": 5.0, "schedule": 9.0, "dnn_teacher": 4.0, "quantized_student": 6.0}
    rows = [{"model": name, "mae": mae, "beats_runtime_lookup": mae < 5} for name, mae in maes.items()]
    report.write_text(json.dumps(rows))
    result = checks.models_beat_the_lookup(reports=Reports(tmp_path))
    assert isinstance(result, dg.AssetCheckResult)
    assert not result.passed and result.severity == dg.AssetCheckSeverity.WARN
    assert result.metadata["losing"].value == {"quantized_student": 6.0}
