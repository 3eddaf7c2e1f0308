"""Promotion and rollback as Dagster runs them: the production model afterwards, and the metadata of the run."""

import io
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pandas as pd
import pyarrow as arrow
import pytest
from onnx import TensorProto, helper, numpy_helper

from mbta_assets.defs.automation.jobs import rollback_production
from mbta_assets.defs.dagster_internals import (
    CachingStaleStatusResolver,
    LoadingContextForTest,
    StaleStatus,
    latest_check_records,
)
from mbta_assets.defs.io_managers import BundleIOManager
from mbta_assets.defs.production import promotion
from mbta_assets.defs.resources.settings import TrainingSettings
from mbta_assets.ml.evaluation.promotion_gate import Decision, Gate, Rule
from mbta_assets.ml.inference import onnx_session, transit_network
from mbta_assets.ml.inference.distance_curve import DistanceCurve
from mbta_assets.ml.inference.encoder import Encoder
from mbta_assets.ml.inference.model import ONNX_FILE, ONNX_KIND
from mbta_assets.ml.inference.preprocessing import ENCODER_FILE, Preprocessor
from mbta_assets.ml.inference.run_time import LOOKUP_FILE, MedianRunTime
from mbta_assets.ml.inference.transit_network import describe_network
from mbta_assets.settings import AgencySettings
from mbta_assets.storage.bundle import Bundle, BundleError, Draft
from mbta_assets.storage.model_registry import SHADOW_MODEL, ModelRegistry
from mbta_assets.storage.parquet_tables import ParquetTables
from mbta_assets.storage.provenance import MixedVersions
from mbta_assets.storage.reports import ReportStore, name_model_report
from mbta_assets.storage.tables import to_arrow
from mbta_assets.storage.warehouse import DuckDBWarehouse
from mbta_assets.transit import schema
from mbta_assets_tests.support.dagster_dev import ROOT
from mbta_assets_tests.support.instances import copy_runs

NAME = "production_model"
SECONDS_FOR_CHANGE = 30.0
KEY = dg.AssetKey(NAME)
ANY_LATENCY = {"max_latency_us": 1e6}
"""Configuration of the gate with which no test fails because the machine is busy."""


def make_rows(n: int) -> pd.DataFrame:
    """Return n updates of two routes in two days: a change in delay continues, which no table of medians knows."""
    random = np.random.default_rng(0)
    change, late = random.uniform(-3, 3, n), random.normal(60, 40, n)
    begin = pd.Timestamp("2024-09-10 12:00", tz="UTC")
    return pd.DataFrame(
        {
            "service_date": np.where(np.arange(n) < n / 2, "2024-09-10", "2024-09-11"),
            "trip_id": (np.arange(n) // 5).astype(str),
            "vehicle_id": "v",
            "time_stamp": begin + pd.to_timedelta(np.arange(n) * (86_400 * 2 // n), unit="s"),
            "route_id": np.where(np.arange(n) // 5 % 2, "Red", "Blue"),
            "direction_id": 0,
            "trip_start_seconds": 43_200.0,
            "stops_ahead": 1 + np.arange(n) % 2 * 2,
            "current_status": "IN_TRANSIT_TO",
            "current_stop_id": "a",
            "stop_id": "b",
            "stops_behind": 3.0,
            "timepoint": 0.0,
            "seconds_in_state": 0.0,
            "scheduled_seconds_ahead": 300.0,
            "scheduled_run_seconds": 300.0,
            "sin_time": 0.0,
            "cos_time": 1.0,
            "departure_delay_seconds": late,
            "last_delay_seconds": late,
            "last_change_seconds": change,
            "delay_seconds": SECONDS_FOR_CHANGE * change + random.normal(0, 10, n),
            "part": np.select([np.arange(n) < 0.4 * n, np.arange(n) < 0.5 * n], ["train", "validation"], "test"),
        }
    )


ROWS = make_rows(8_000)
TRAINING_ROWS = ROWS[ROWS["part"] != "test"]
PARTS = [
    {"part": part, "rows": len(rows), "from": str(rows["time_stamp"].min()), "to": str(rows["time_stamp"].max())}
    for part, rows in ROWS.groupby("part")
]
ENCODER = Encoder.fit(TRAINING_ROWS, ["last_change_seconds"], ["route_id"])
MEDIANS = MedianRunTime.fit(TRAINING_ROWS)


def make_linear_model(learned: float, red_error_seconds: float = 0.0) -> Draft:
    """Return a candidate that has learned a fraction of the effect of a change in delay, from 0 to 1.

    On the Red Line its predictions may be off by so many seconds.
    """
    preprocessor = Preprocessor(ENCODER, MEDIANS, DistanceCurve([1.0], [1.0], 1.0))
    weights = np.zeros((len(preprocessor.feature_names) - len(ENCODER.vocabularies), 1), dtype=np.float32)
    weights[0] = SECONDS_FOR_CHANGE * learned
    by_route = np.array([0, 0, red_error_seconds], dtype=np.float32)
    nodes = [
        helper.make_node("MatMul", ["numeric", "weights"], ["learned"]),
        helper.make_node("Gather", ["by_route", "codes"], ["error"]),
        helper.make_node("Add", ["learned", "error"], ["column"]),
        helper.make_node("Squeeze", ["column", "axis"], [onnx_session.OUTPUT]),
    ]
    values = {"weights": weights, "by_route": by_route, "axis": np.array([1])}
    graph = helper.make_graph(
        nodes,
        "linear",
        [
            helper.make_tensor_value_info("numeric", TensorProto.FLOAT, ["n", len(weights)]),
            helper.make_tensor_value_info("codes", TensorProto.INT64, ["n", 1]),
        ],
        [helper.make_tensor_value_info(onnx_session.OUTPUT, TensorProto.FLOAT, ["n"])],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    network = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return Draft(
        ONNX_KIND,
        {ONNX_FILE: network.SerializeToString(), **preprocessor.to_files()},
        {
            "training_window": PARTS,
            "parity": {"max_seconds": 0.01, "bound_seconds": 0.1, "rows": 100},
            "residual_to": "lookup",
        },
    )


@dg.asset
def served_version(production_model: Bundle) -> dg.MaterializeResult:
    return dg.MaterializeResult(metadata={"digest": production_model.digest})


def make_assets() -> list[dg.AssetsDefinition]:
    """Return the production model with its check, the assets upstream of it, and one that is made from it."""

    def make_upstream(name: str) -> dg.AssetsDefinition:
        @dg.asset(name=name, io_manager_key="bundles")
        def stored() -> None: ...

        return stored

    names = ("training_set", "runtime_lookup", "quantized_student", "model_leaderboard")
    return [
        *map(make_upstream, names),
        promotion.production_model,
        promotion.candidate_accepted,
        served_version,
    ]


def make_resources(registry: ModelRegistry, live_arrivals: int = 0) -> dict[str, Any]:
    """Return the resources of these assets, with so many arrivals as the deployment's setting."""
    tables = ParquetTables(registry.root)
    return {
        "model_registry": registry,
        "bundles": BundleIOManager(model_registry=registry),
        "warehouse": DuckDBWarehouse(tables, tables),
        "reports": ReportStore(registry.root),
        "settings": TrainingSettings(live_arrivals=live_arrivals),
    }


class Deployment:
    """A registry with a training set and its lookup, and the assets of a code location."""

    live_arrivals = 0

    def __init__(self, root: Path, instance: dg.DagsterInstance) -> None:
        self.resources: dict[str, Any] = {}
        self.registry, self.instance = ModelRegistry(root), instance
        buffer = io.BytesIO()
        ROWS.to_parquet(buffer)
        files = {"rows.parquet": buffer.getvalue(), ENCODER_FILE: ENCODER.to_bytes()}
        self.set_current("training_set", Draft("training_set", files, {"parts": PARTS}))
        lookup = Draft("runtime_lookup", {LOOKUP_FILE: MEDIANS.to_bytes()}, {"training_window": PARTS})
        self.set_current("runtime_lookup", lookup)

    def set_current(self, asset: str, draft: Draft) -> None:
        """Store a version of an asset and make it the current one."""
        stored = self.registry.put(asset, draft)
        self.registry.set_current(asset, stored.digest, self.registry.current_digest(asset))

    def materialize(self, asset: str, run_config: dict[str, Any] | None = None) -> dg.ExecuteInProcessResult:
        """Materialize one asset."""
        return dg.materialize(
            make_assets(),
            selection=[asset],
            resources={**make_resources(self.registry, self.live_arrivals), **self.resources},
            run_config=run_config,
            instance=self.instance,
        )

    def promote(self, candidate: Draft, **gate: Any) -> dict[str, Any]:
        """Materialize the production model with a candidate and return the metadata; `gate` is its configuration."""
        self.set_current("quantized_student", candidate)
        run_config = {"ops": {NAME: {"config": {**ANY_LATENCY, **gate}}}}
        (event,) = self.materialize(NAME, run_config).asset_materializations_for_node(NAME)
        return {name: value.value for name, value in event.metadata.items()}

    def roll_back(self, version: str = "", raise_on_error: bool = True) -> dg.ExecuteInProcessResult:
        """Run the job that rolls the production model back."""
        return rollback_production.execute_in_process(
            run_config={"ops": {"roll_back": {"config": {"version": version}}}},
            resources={"model_registry": self.registry, "reports": ReportStore(self.registry.root)},
            instance=self.instance,
            raise_on_error=raise_on_error,
        )

    def get_data_version(self) -> str:
        """Return the data version of the production model in Dagster."""
        event = self.instance.get_latest_materialization_event(KEY)
        assert event and event.asset_materialization and event.asset_materialization.tags
        return event.asset_materialization.tags["dagster/data_version"]

    def get_stale_status(self) -> StaleStatus:
        """Return the status of the asset that is made from the production model."""
        graph = dg.Definitions(make_assets(), resources=make_resources(self.registry)).resolve_asset_graph()
        resolver = CachingStaleStatusResolver(self.instance, graph, LoadingContextForTest(self.instance))
        return resolver.get_status(served_version.key)

    @property
    def current_digest(self) -> str | None:
        """Return the digest of the production model."""
        return self.registry.current_digest(NAME)

    @property
    def shadow_digest(self) -> str | None:
        """Return the digest of the candidate in the shadow."""
        return self.registry.current_digest(SHADOW_MODEL)


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    """Yield a deployment without a production model."""
    with dg.DagsterInstance.ephemeral() as instance:
        yield Deployment(tmp_path / "store", instance)


@contextmanager
def promote_in_turn(root: Path, *learned: float) -> Iterator[Deployment]:
    """Yield a deployment that has promoted models which learned more and more."""
    with dg.DagsterInstance.ephemeral() as instance:
        deployment = Deployment(root, instance)
        assert all(deployment.promote(make_linear_model(fraction))["promoted"] for fraction in learned)
        yield deployment


def copy_deployment(source: Deployment, target: Deployment) -> None:
    """Copy the store and the runs of a deployment to one that has no runs."""
    shutil.copytree(source.registry.root, target.registry.root, dirs_exist_ok=True)
    copy_runs(source.instance, target.instance)


@pytest.fixture(scope="module")
def one_promotion(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """Yield a deployment with a model that learned half; tests must not change it."""
    with promote_in_turn(tmp_path_factory.mktemp("one_promotion"), 0.5) as deployment:
        yield deployment


@pytest.fixture(scope="module")
def three_promotions(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """Yield a deployment that has promoted three models; tests must not change it."""
    with promote_in_turn(tmp_path_factory.mktemp("three_promotions"), 0.2, 0.5, 0.9) as deployment:
        yield deployment


@pytest.fixture
def half_learned(deployment: Deployment, one_promotion: Deployment) -> None:
    """Put a model that learned half into production."""
    copy_deployment(one_promotion, deployment)


@pytest.fixture
def versions(deployment: Deployment, three_promotions: Deployment) -> list[str]:
    """Promote three models, one after the other, and return their digests."""
    copy_deployment(three_promotions, deployment)
    return deployment.registry.history(NAME)[::-1]


def test_the_first_candidate_that_beats_the_lookup_is_promoted(deployment: Deployment) -> None:
    metadata = deployment.promote(make_linear_model(0.5))
    stored = deployment.registry.current("quantized_student")
    assert metadata["promoted"]
    assert deployment.current_digest == metadata["current_version"] == deployment.get_data_version() == stored.digest
    assert metadata["decision"].startswith("**Promoted:**")
    assert metadata["candidate_mae_seconds"] < metadata["runtime_lookup_mae_seconds"]
    overall = metadata["comparison"].records[0].data
    assert (overall["rows"], overall["n"]) == ("all", 4000)
    (move,) = deployment.registry.moves(NAME)
    assert move.why and move.why.startswith("promoted: MAE on 4,000 rows: candidate ")
    assert [record.data["why"] for record in metadata["history"].records] == [move.why]


def test_a_better_candidate_replaces_the_production_model(deployment: Deployment, half_learned: None) -> None:
    first = deployment.current_digest
    metadata = deployment.promote(make_linear_model(0.9))
    assert metadata["promoted"]
    assert metadata["candidate_mae_seconds"] < metadata["production_model_mae_seconds"]
    assert deployment.registry.history(NAME) == [deployment.registry.current_digest("quantized_student"), first]


def test_a_production_model_of_an_earlier_version_is_replaced_without_a_comparison(deployment: Deployment) -> None:
    draft = make_linear_model(0.9)
    files = {name: content for name, content in draft.files.items() if name != LOOKUP_FILE}
    deployment.set_current(NAME, replace(draft, files={**files, "lookup.npz": b"of an earlier version"}))
    metadata = deployment.promote(make_linear_model(0.5))
    assert metadata["promoted"]
    assert "in production is not compared with. The model was made by an earlier version" in metadata["decision"]
    assert "production_model_mae_seconds" not in metadata


def test_a_production_model_of_another_agency_is_replaced_without_a_comparison(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    draft = make_linear_model(0.9)
    network = {**describe_network(()), "agency": "WMATA"}
    deployment.set_current(NAME, replace(draft, fields={**draft.fields, "network": network}))
    with monkeypatch.context() as allowed:
        allowed.setattr(transit_network, "AGENCY", AgencySettings(foreign_model="allow"))
        assert not deployment.promote(make_linear_model(0.5))["promoted"]
    metadata = deployment.promote(make_linear_model(0.6))
    assert metadata["promoted"]
    assert "was trained for the agency 'WMATA'" in metadata["decision"]


def test_a_worse_candidate_leaves_the_production_model_and_says_why(deployment: Deployment) -> None:
    deployment.promote(make_linear_model(0.9))
    first = deployment.current_digest
    assert first
    metadata = deployment.promote(make_linear_model(0.5))
    assert not metadata["promoted"]
    assert "✗ MAE" in metadata["decision"] and f"{first[:16]} stays in production" in metadata["decision"]
    assert deployment.registry.history(NAME) == [first]
    assert deployment.get_data_version() == first == metadata["current_version"]
    assert metadata["report_path"].endswith(name_model_report(first))


def test_a_candidate_worse_on_one_route_is_refused_and_the_route_named(deployment: Deployment) -> None:
    deployment.promote(make_linear_model(0.4))
    first = deployment.current_digest
    metadata = deployment.promote(make_linear_model(0.9, red_error_seconds=36.0))
    assert metadata["candidate_mae_seconds"] < 0.9 * metadata["production_model_mae_seconds"]
    assert not metadata["promoted"]
    assert "✗ Worse than production_model on Red" in metadata["decision"]
    assert deployment.current_digest == first


def test_with_nothing_in_production_a_refusal_succeeds_and_says_what_to_do(deployment: Deployment) -> None:
    metadata = deployment.promote(make_linear_model(0.0))
    assert not metadata["promoted"]
    assert deployment.current_digest is None
    assert deployment.get_data_version() == metadata["current_version"] == "none"
    assert "nothing is in production yet. Train a better candidate" in metadata["decision"]


def test_a_check_warns_of_a_refused_candidate_and_passes_where_it_is_in_production_or_waits(
    deployment: Deployment,
) -> None:
    key = dg.AssetCheckKey(KEY, "candidate_accepted")
    for candidate, gate, reason in (
        (make_linear_model(0.0), {}, "**Not promoted:**"),
        (make_linear_model(0.5), {}, None),
        (make_linear_model(0.5), {}, None),
        (make_linear_model(0.9), {"live_arrivals": 50}, None),
        (make_linear_model(0.1), {}, "MAE"),
    ):
        deployment.promote(candidate, **gate)
        evaluation = latest_check_records(deployment.instance, [key])[key].evaluation
        assert evaluation
        assert evaluation.severity == dg.AssetCheckSeverity.WARN
        assert evaluation.passed is (reason is None)
        assert (reason or "") in (evaluation.description or "")


def test_the_launchpad_configures_the_gate(deployment: Deployment) -> None:
    metadata = deployment.promote(make_linear_model(0.9), max_size_bytes=1)
    assert not metadata["promoted"]
    assert "bytes; 1 is the maximum" in metadata["decision"]
    assert deployment.promote(make_linear_model(0.9))["promoted"]


def store_live_day(
    deployment: Deployment, day: date, candidate_error: float, production_error: float, *, out_of_sample: bool = True
) -> None:
    """Store what a candidate and the production model, by their current versions, have said live of 40 arrivals."""
    start = pd.Timestamp(day, tz="UTC") + pd.Timedelta(hours=17)
    features = schema.arrow_schema(schema.TransitFeatures).empty_table()
    visits = {name: [None] * 40 for name in features.column_names} | {
        "service_date": [day] * 40,
        "trip_id": [f"t{n % 8}" for n in range(40)],
        "vehicle_id": [f"v{n % 8}" for n in range(40)],
        "stop_sequence": [n // 8 + 1 for n in range(40)],
        "time_stamp": [start] * 40,
        "event": ["arrival"] * 40,
        "stops_ahead": [n // 8 + 1 for n in range(40)],
        "delay_seconds": [60.0] * 40,
    }
    tables = ParquetTables(deployment.registry.root)
    rows = arrow.table(visits, features.schema)
    tables.write("transit_features", day, rows)
    kept = schema.to_frame(rows)[[*schema.ROW_KEY, "event", "stops_ahead"]]
    said = [
        kept.assign(
            stop_id="s", route_id="Red", scheduled_arrival=start, predicted_arrival=start, out_of_sample=out_of_sample,
            published_at=start + pd.Timedelta(seconds=5), role=role, model_version=version,
            predicted_delay_seconds=60 + error + np.arange(40) % 3,
        )
        for role, version, error in (
            ("shadow", deployment.registry.current_digest("quantized_student"), candidate_error),
            ("production", deployment.current_digest, production_error),
        )
    ]  # fmt: skip
    tables.write("delay_predictions", day, to_arrow("delay_predictions", pd.concat(said, ignore_index=True)))


def test_a_better_candidate_waits_in_the_shadow_for_live_evidence_where_the_gate_asks_for_it(
    deployment: Deployment,
) -> None:
    assert deployment.promote(make_linear_model(0.5), live_arrivals=50)["promoted"]  # nothing to compare with live
    first = deployment.current_digest
    assert deployment.registry.assets() == [NAME, "quantized_student", "runtime_lookup", "training_set"]
    better = make_linear_model(0.9)
    refused = deployment.promote(better, live_arrivals=50)
    assert not refused["promoted"] and deployment.current_digest == first
    assert "Waits for live evidence (0 of 50 arrivals)." in str(refused["decision"])
    assert f"**Not promoted yet:** {refused['candidate'][:16]} predicts in the shadow" in str(refused["decision"])
    assert deployment.shadow_digest == deployment.registry.current(SHADOW_MODEL).digest == refused["candidate"]
    store_live_day(deployment, date(2024, 3, 6), candidate_error=10, production_error=20)
    assert "(40 of 50 arrivals)" in str(deployment.promote(better, live_arrivals=50)["decision"])
    assert deployment.shadow_digest == refused["candidate"]
    store_live_day(deployment, date(2024, 3, 7), candidate_error=10, production_error=20)
    promoted = deployment.promote(better, live_arrivals=50)
    assert promoted["promoted"] and deployment.current_digest == refused["candidate"] != first
    decision = str(promoted["decision"])
    assert "Not worse live: MAE 10.9" in decision and "80 arrivals on 2 days" in decision
    assert deployment.shadow_digest is None
    left, entered = (str(move.why) for move in deployment.registry.moves(SHADOW_MODEL))
    assert "promoted: " in left and "80 arrivals" in left and "(0 of 50 arrivals)" in entered


def test_a_candidate_that_is_worse_live_is_refused_whatever_the_test_part_says(
    deployment: Deployment, half_learned: None
) -> None:
    first = deployment.current_digest
    better = make_linear_model(0.9)
    waits = deployment.promote(better, live_arrivals=10)
    assert deployment.shadow_digest == waits["candidate"]
    store_live_day(deployment, date(2024, 3, 6), candidate_error=30, production_error=20)
    refused = deployment.promote(better, live_arrivals=10)
    assert not refused["promoted"] and deployment.current_digest == first
    assert "Worse live" in str(refused["decision"])
    assert deployment.shadow_digest is None and "Worse live" in str(deployment.registry.moves(SHADOW_MODEL)[0].why)


def test_a_newer_candidate_replaces_one_that_waits_and_leaves_the_shadow_empty_if_it_is_refused(
    deployment: Deployment,
    half_learned: None,
) -> None:
    first, second = (deployment.promote(make_linear_model(learned), live_arrivals=50) for learned in (0.8, 0.9))
    assert [move.digest for move in deployment.registry.moves(SHADOW_MODEL)] == [
        second["candidate"],
        first["candidate"],
    ]
    assert not deployment.promote(make_linear_model(0.1), live_arrivals=50)["promoted"]
    assert deployment.shadow_digest is None
    assert "not promoted: MAE" in str(deployment.registry.moves(SHADOW_MODEL)[0].why)


@pytest.mark.parametrize("gate", [{"max_size_bytes": 1}, {"min_test_rows": 100_000}])
def test_a_candidate_that_another_rule_refuses_does_not_wait(
    deployment: Deployment, half_learned: None, gate: dict[str, int]
) -> None:
    refused = deployment.promote(make_linear_model(0.9), live_arrivals=50, **gate)
    assert "Waits for live evidence" in str(refused["decision"]) and "**Not promoted:**" in str(refused["decision"])
    assert deployment.shadow_digest is None


def test_a_run_that_is_killed_after_the_promotion_is_followed_by_one_that_clears_the_shadow(
    deployment: Deployment,
    half_learned: None,
) -> None:
    candidate = deployment.promote(make_linear_model(0.9), live_arrivals=50)["candidate"]
    stored = deployment.registry.put(NAME, make_linear_model(0.9))
    deployment.registry.make_current(NAME, stored.digest)
    assert deployment.shadow_digest == candidate == stored.digest
    assert "nothing changes" in str(deployment.promote(make_linear_model(0.9), live_arrivals=50)["decision"])
    assert deployment.shadow_digest is None and deployment.current_digest == candidate


def test_the_setting_says_how_many_live_arrivals_are_asked_for_and_the_launchpad_may_say_otherwise(
    deployment: Deployment,
    half_learned: None,
) -> None:
    deployment.live_arrivals = 50
    assert "(0 of 50 arrivals)" in str(deployment.promote(make_linear_model(0.9))["decision"])
    assert "(0 of 60 arrivals)" in str(deployment.promote(make_linear_model(0.9), live_arrivals=60)["decision"])
    assert deployment.promote(make_linear_model(0.9), live_arrivals=0)["promoted"]
    assert deployment.shadow_digest is None


class RacingRegistry(ModelRegistry):
    """A registry in which somebody else makes another version the production model just before this one does."""

    rival: str | None = None

    def set_current(self, asset: str, digest: str | None, expected: str | None, why: str = "materialized") -> None:
        if asset == NAME and self.rival:
            rival, self.rival = self.rival, None
            self.make_current(NAME, rival)
        super().set_current(asset, digest, expected, why)


@dataclass(frozen=True)
class ReportingWarehouse(DuckDBWarehouse):
    """A warehouse that notes which tables are read."""

    tables_read: list[str] = field(default_factory=list)

    def read(self, table: str, day: date, columns: Sequence[str] | None = None) -> pd.DataFrame:
        self.tables_read.append(table)
        return super().read(table, day, columns)


def test_a_decision_that_is_made_again_reads_the_evidence_once_and_judges_it_by_the_production_model_of_then(
    deployment: Deployment,
    half_learned: None,
) -> None:
    better = make_linear_model(0.9)
    deployment.promote(better, live_arrivals=40)
    store_live_day(deployment, date(2024, 3, 6), candidate_error=10, production_error=20)
    registry = RacingRegistry(deployment.registry.root)
    registry.rival = registry.put(NAME, make_linear_model(0.6)).digest
    tables = ParquetTables(registry.root)
    deployment.registry, deployment.resources["warehouse"] = registry, ReportingWarehouse(tables, tables)
    decided = deployment.promote(better, live_arrivals=40)
    assert "(0 of 40 arrivals)" in str(decided["decision"]), "40 were enough beside the model before"
    assert deployment.shadow_digest == decided["candidate"] != deployment.current_digest
    assert deployment.resources["warehouse"].tables_read == ["delay_predictions", "transit_features"]


def test_days_from_which_a_model_has_learned_are_no_evidence(deployment: Deployment, half_learned: None) -> None:
    better = make_linear_model(0.9)
    deployment.promote(better, live_arrivals=40)
    store_live_day(deployment, date(2024, 3, 6), candidate_error=10, production_error=20, out_of_sample=False)
    assert "(0 of 40 arrivals)" in str(deployment.promote(better, live_arrivals=40)["decision"])


def test_the_launchpad_starts_from_the_defaults_of_the_gate() -> None:
    assert promotion.GateConfig().build_gate(Gate.live_arrivals) == Gate()


def test_a_candidate_that_is_in_production_changes_nothing_but_repairs_a_damaged_copy(
    deployment: Deployment, half_learned: None
) -> None:
    moves = deployment.registry.moves(NAME)
    (deployment.registry.current(NAME).path / LOOKUP_FILE).write_bytes(b"")
    with pytest.raises(BundleError):
        deployment.registry.current(NAME)
    metadata = deployment.promote(make_linear_model(0.5))
    assert not metadata["promoted"] and "nothing changes" in metadata["decision"]
    assert deployment.registry.current(NAME).digest == moves[0].digest
    assert deployment.registry.moves(NAME) == moves


def test_a_candidate_is_judged_by_the_test_part_of_its_own_training_set_whichever_is_current(
    deployment: Deployment,
) -> None:
    inputs = {asset: deployment.registry.current_digest(asset) for asset in ("training_set", "runtime_lookup")}
    deployment.set_current("training_set", Draft("training_set", {"rows.parquet": b"no rows at all"}))
    deployment.set_current("runtime_lookup", Draft("runtime_lookup", {LOOKUP_FILE: b"{}"}))
    candidate = make_linear_model(0.5)
    metadata = deployment.promote(Draft(candidate.kind, candidate.files, {**candidate.fields, "inputs": inputs}))
    assert metadata["promoted"]
    assert metadata["training_set"] == inputs["training_set"]
    assert metadata["comparison"].records[0].data["n"] == 4000


def test_a_lookup_of_another_training_set_than_the_candidate_is_refused_with_the_command(
    deployment: Deployment,
) -> None:
    first = deployment.registry.current("training_set")
    other = deployment.registry.put("training_set", Draft("training_set", {}))
    lookup = Draft("runtime_lookup", {LOOKUP_FILE: MEDIANS.to_bytes()}, {"inputs": {"training_set": other.digest}})
    deployment.set_current("runtime_lookup", lookup)
    candidate = make_linear_model(0.5)
    with pytest.raises(MixedVersions) as error:
        deployment.promote(
            Draft(candidate.kind, candidate.files, {**candidate.fields, "inputs": {"training_set": first.digest}})
        )
    message = str(error.value)
    assert f"quantized_student was made from version {first.digest[:16]}" in message
    assert f"runtime_lookup was made from version {other.digest[:16]}" in message
    assert "--select 'training_set+ and +production_model'" in message
    assert deployment.current_digest is None


def make_definitions(*checks: dg.AssetChecksDefinition) -> dg.Definitions:
    """Return a table with checks, a model made from it, and a check of the model, which fails."""

    @dg.asset
    def table() -> None: ...

    @dg.asset(deps=[table])
    def model() -> None: ...

    @dg.asset_check(asset=model, blocking=True)
    def model_is_sound() -> dg.AssetCheckResult:
        return dg.AssetCheckResult(passed=False)

    return dg.Definitions([table, model], asset_checks=[model_is_sound, *checks])


def make_check(result: dg.AssetCheckResult | None, blocking: bool = True) -> dg.AssetChecksDefinition:
    """Return a check of the table with this result; None raises an error instead."""

    @dg.asset_check(asset="table", blocking=blocking)
    def table_is_sound() -> dg.AssetCheckResult:
        if result is None:
            raise RuntimeError("the check has no result")
        return result

    return table_is_sound


PASSED, FAILED = dg.AssetCheckResult(passed=True), dg.AssetCheckResult(passed=False)
WARNED = dg.AssetCheckResult(passed=False, severity=dg.AssetCheckSeverity.WARN)


@pytest.mark.parametrize(
    ("check", "failed"),
    [
        (make_check(PASSED), []),
        (make_check(FAILED), ["table:table_is_sound"]),
        (make_check(None), ["table:table_is_sound"]),
        (make_check(WARNED), []),
        (make_check(FAILED, blocking=False), []),
    ],
)
def test_a_check_counts_if_it_blocks_and_failed_or_raised_an_error(
    check: dg.AssetChecksDefinition, failed: list[str]
) -> None:
    defs = make_definitions(check)
    with dg.DagsterInstance.ephemeral() as instance:
        job = defs.resolve_implicit_global_asset_job_def()
        job.execute_in_process(instance=instance, raise_on_error=False)
        _, names = promotion.find_failed_checks(instance, defs.resolve_asset_graph(), dg.AssetKey("model"))
    assert names == failed


def test_a_check_that_failed_once_and_passes_now_is_no_obstacle() -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        for result in (FAILED, PASSED):
            defs = make_definitions(make_check(result))
            defs.resolve_implicit_global_asset_job_def().execute_in_process(instance=instance, raise_on_error=False)
        graph = defs.resolve_asset_graph()
        assert promotion.find_failed_checks(instance, graph, dg.AssetKey("model")) == (1, [])


def test_a_refused_service_day_upstream_is_no_obstacle() -> None:
    """It is not published, so that nothing was made from it."""

    @dg.asset(partitions_def=dg.DailyPartitionsDefinition("2024-03-01"))
    def table() -> None: ...

    @dg.asset(deps=[table])
    def model() -> None: ...

    defs = dg.Definitions([table, model], asset_checks=[make_check(FAILED)])
    with dg.DagsterInstance.ephemeral() as instance:
        job = defs.resolve_implicit_global_asset_job_def()
        selection = [dg.AssetKey("table")]
        job.execute_in_process(
            instance=instance, asset_selection=selection, partition_key="2024-03-01", raise_on_error=False
        )
        graph = defs.resolve_asset_graph()
        assert promotion.find_failed_checks(instance, graph, dg.AssetKey("model")) == (0, [])


CODE_LOCATION = """
import sys
from pathlib import Path
import dagster as dg
sys.path.insert(0, {tests!r})
from mbta_assets_tests.defs.production.test_promotion import make_assets, make_resources
from mbta_assets.storage.model_registry import SHADOW_MODEL, ModelRegistry

@dg.asset_check(asset="training_set", blocking=True)
def sound():
    return dg.AssetCheckResult(passed=False)

defs = dg.Definitions(make_assets(), asset_checks=[sound], resources=make_resources(ModelRegistry(Path({store!r}))))
"""


@pytest.mark.integration
def test_a_check_that_failed_in_an_earlier_run_refuses_a_candidate_in_another_process_by_name(
    tmp_path: Path,
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}")
    location = tmp_path / "location.py"
    location.write_text(CODE_LOCATION.format(tests=str(ROOT), store=str(tmp_path)))
    with dg.DagsterInstance.from_config(str(home)) as instance:
        deployment = Deployment(tmp_path, instance)
        deployment.set_current("quantized_student", make_linear_model(0.9))
        failing = dg.asset_check(asset="training_set", name="sound", blocking=True)(lambda: FAILED)
        dg.materialize(
            [*make_assets(), failing],
            selection=dg.AssetSelection.checks(failing),
            resources=make_resources(deployment.registry),
            instance=instance,
            raise_on_error=False,
        )
        command = [sys.executable, "-m", "dagster", "asset", "materialize", "-f", str(location), "--select", NAME]
        run = subprocess.run(command, env=os.environ | {"DAGSTER_HOME": str(home)}, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr[-3000:]
        event = instance.get_latest_materialization_event(KEY)
    assert event and event.asset_materialization
    decision = event.asset_materialization.metadata["decision"].value
    assert isinstance(decision, str)
    assert "✗ Blocking checks upstream failed when they last ran: training_set:sound." in decision
    assert deployment.current_digest is None


def test_rollback_restores_the_earlier_bytes_and_makes_downstream_assets_stale(
    deployment: Deployment, half_learned: None
) -> None:
    first = deployment.registry.current(NAME)
    weights = first.file(ONNX_FILE)
    deployment.promote(make_linear_model(0.9))
    second = deployment.current_digest
    assert second
    deployment.materialize("served_version")
    assert deployment.get_stale_status() == StaleStatus.FRESH

    (event,) = deployment.roll_back().asset_materializations_for_node("roll_back")
    assert event.asset_key == KEY
    assert deployment.registry.current(NAME).file(ONNX_FILE) == weights
    assert deployment.current_digest == deployment.get_data_version() == first.digest
    assert deployment.registry.moves(NAME)[0].why == f"rolled back to {first.digest[:16]} from {second[:16]}"
    report = event.metadata["report_path"].value
    assert str(report).endswith(name_model_report(first.digest)) and Path(str(report)).exists()
    assert deployment.get_stale_status() == StaleStatus.STALE

    used = deployment.materialize("served_version").asset_materializations_for_node("served_version")
    assert used[0].metadata["digest"].value == first.digest


def test_rollback_goes_to_any_earlier_version_by_its_first_digits(deployment: Deployment, versions: list[str]) -> None:
    deployment.roll_back(versions[0][:6])
    assert deployment.registry.history(NAME) == [versions[0], *reversed(versions)]


def test_rollback_after_rollback_goes_further_back(deployment: Deployment, versions: list[str]) -> None:
    deployment.roll_back()
    assert deployment.current_digest == versions[1]
    deployment.roll_back()
    assert deployment.current_digest == versions[0]
    assert not deployment.roll_back(raise_on_error=False).success
    assert deployment.current_digest == versions[0]


@pytest.mark.parametrize("version", ["abcdef", "{current}", "{earlier:.5}"])
def test_a_version_that_cannot_be_rolled_back_to_is_an_error_that_lists_the_versions(
    deployment: Deployment, versions: list[str], version: str
) -> None:
    _, earlier, current = versions
    with pytest.raises(dg.Failure, match=f"{current[:16]} .*promoted: MAE.*; {earlier[:16]} "):
        deployment.roll_back(version.format(current=current, earlier=earlier))
    assert deployment.current_digest == current


def test_a_damaged_version_is_not_rolled_back_to(deployment: Deployment, versions: list[str]) -> None:
    (deployment.registry.get(NAME, versions[1]).path / LOOKUP_FILE).write_bytes(b"")
    with pytest.raises(BundleError, match=LOOKUP_FILE):
        deployment.roll_back()
    assert deployment.current_digest == versions[2]


def test_a_version_that_was_rolled_back_from_is_not_promoted_again(deployment: Deployment, versions: list[str]) -> None:
    deployment.roll_back()
    metadata = deployment.promote(make_linear_model(0.9))
    assert not metadata["promoted"]
    assert "was rolled back from" in metadata["decision"]
    assert deployment.current_digest == versions[1]
    assert deployment.promote(make_linear_model(0.7))["promoted"]


def make_small_draft(n: int) -> Draft:
    """Return a small bundle with a number, by which the tests below compare bundles."""
    return Draft("toy", {"weights.bin": bytes([n])}, {"n": n})


def test_a_decision_is_made_again_against_a_version_that_became_current_meanwhile(tmp_path: Path) -> None:
    registry = ModelRegistry(tmp_path)
    candidate, meanwhile = registry.put("candidate", make_small_draft(2)), registry.put(NAME, make_small_draft(3))
    judged = []

    def judge(production: Bundle | None) -> Decision:
        judged.append(production and production.manifest["n"])
        if production is None:
            registry.set_current(NAME, meanwhile.digest, expected=None)
        return Decision((Rule(production is None, "higher"),))

    assert not promotion.promote_if_better(registry, candidate, judge).promoted
    assert judged == [None, 3]
    assert registry.history(NAME) == [meanwhile.digest]


def test_promotion_fails_if_the_current_version_changes_during_every_decision(tmp_path: Path) -> None:
    registry = ModelRegistry(tmp_path)
    versions = iter([registry.put(NAME, make_small_draft(n)).digest for n in range(3)])

    def judge(production: Bundle | None) -> Decision:
        registry.set_current(NAME, next(versions), expected=production.digest if production else None)
        return Decision((Rule(True, "always"),))

    with pytest.raises(dg.Failure, match="changed during each of 3 decisions"):
        promotion.promote_if_better(registry, registry.put("candidate", make_small_draft(9)), judge, max_attempts=3)
    assert len(registry.history(NAME)) == 3


PROMOTER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from mbta_assets.defs.production.promotion import promote_if_better
from mbta_assets.storage.bundle import Draft
from mbta_assets.ml.evaluation.promotion_gate import Decision, Rule
from mbta_assets.storage.model_registry import SHADOW_MODEL, ModelRegistry
registry = ModelRegistry(Path.cwd())
print("ready", flush=True)
sys.stdin.readline()
for n in range(int(sys.argv[2]), 40, 2):
    candidate = registry.put(sys.argv[2], Draft("toy", {"weights.bin": bytes([n])}, {"n": n}))
    def judge(production):
        return Decision((Rule(production is None or production.manifest["n"] < n, "higher"),))
    if promote_if_better(registry, candidate, judge, max_attempts=1000).promoted:
        print(candidate.digest, flush=True)
"""


@pytest.mark.integration
def test_two_promoters_at_once_leave_one_pointer_and_a_history_of_every_promotion_once(tmp_path: Path) -> None:
    promoters = [
        subprocess.Popen(
            [sys.executable, "-c", PROMOTER, str(ROOT), first],
            cwd=tmp_path,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for first in ("0", "1")
    ]
    assert [read_line(promoter) for promoter in promoters] == ["ready", "ready"]
    start_promoter(promoters[0])
    promoted = [read_line(promoters[0])]  # the second one always has a higher number to follow with
    start_promoter(promoters[1])
    promoted += [digest for promoter in promoters for digest in promoter.communicate()[0].split()]
    assert [promoter.returncode for promoter in promoters] == [0, 0]

    registry = ModelRegistry(tmp_path)
    history = registry.history(NAME)
    assert sorted(history) == sorted(promoted)
    numbers = [registry.get(NAME, digest).manifest["n"] for digest in history]
    # Each version has a higher number than the one before it: no decision was made against an outdated one.
    assert numbers == sorted(set(numbers), reverse=True)
    assert registry.current(NAME).manifest["n"] == 39
    assert {n % 2 for n in numbers} == {0, 1}


def read_line(process: subprocess.Popen[str]) -> str:
    """Read the next line that a process prints."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def start_promoter(process: subprocess.Popen[str]) -> None:
    """Let a promoter that is ready begin."""
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()
