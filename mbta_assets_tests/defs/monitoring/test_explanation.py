"""`mbta-assets explain` on a stored service day: what it says equals what is stored, and what there is not is named."""

import json
import math
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner, Result

from mbta_assets.cli import main
from mbta_assets.ml.evaluation import accuracy
from mbta_assets.ml.inference.model import Model
from mbta_assets.ml.inference.width_correction import WidthCorrection
from mbta_assets.sources.synthetic import SyntheticSource
from mbta_assets.storage.model_registry import ModelRegistry
from mbta_assets.storage.parquet_tables import ParquetTables
from mbta_assets.storage.reports import WIDTH_CORRECTION, ReportStore
from mbta_assets.storage.tables import to_arrow
from mbta_assets.transit import schema
from mbta_assets_tests.serving.conftest import ModelStore, TrainedModels, trained_models
from mbta_assets_tests.support.days import SIMULATED_DAYS, Tables, build

__all__ = ["trained_models"]
DAY = SIMULATED_DAYS[-1]
PREFIXES = ("", "corrected_")
"""Prefixes of the bounds of an interval as calibrated, and as corrected since."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, trained_models: TrainedModels) -> ModelStore:
    """Return a store with the tables and predictions of a day of one line, by a model that is not current any more."""
    store = ModelStore(tmp_path_factory.mktemp("explained"), trained_models.bundles)
    source, tables = SyntheticSource(0), ParquetTables(store.root)
    upstream: Tables = {name: source.read(name, DAY).rows for name in schema.UPSTREAM}
    upstream["vehicle"] = upstream["vehicle"][upstream["vehicle"]["route_id"] == "Blue"].reset_index(drop=True)
    features = build(tables, DAY, upstream)
    predicted = accuracy.correct_predictions(features, Model(store.models[0]).predict(features))
    version = store.promote(store.models[0])
    rows = accuracy.make_predictions_table(features, predicted, version, out_of_sample=True)
    tables.write("delay_predictions", DAY, to_arrow("delay_predictions", rows))
    store.promote(store.models[1])
    return store


def explain(store: ModelStore, *arguments: object) -> Result:
    """Run the command on a store."""
    return CliRunner(env={"MBTA_STORE": str(store.root)}).invoke(main, ["explain", *map(str, arguments)])


def read_predictions(store: ModelStore) -> pd.DataFrame:
    """Return the stored predictions of arrivals, in order."""
    rows = schema.to_frame(ParquetTables(store.root).read("delay_predictions", [DAY]))
    return rows[rows["event"] == "arrival"].sort_values(schema.ROW_KEY, ignore_index=True)


def test_an_explanation_is_about_the_stored_prediction_and_its_model(store: ModelStore) -> None:
    predictions = read_predictions(store)
    for row in predictions.sample(3, random_state=0).to_dict("records"):
        at = row["time_stamp"].isoformat()
        result = explain(store, DAY, row["trip_id"], row["stop_sequence"], "--at", at, "--json")
        assert result.exit_code == 0, result.output
        explained = json.loads(result.stdout)
        assert explained["visit"]["time_stamp"] == at and explained["visit"]["vehicle_id"] == row["vehicle_id"]
        assert explained["prediction"]["stored_delay_seconds"] == row["predicted_delay_seconds"]
        parts = sum(part["seconds"] for part in explained["contributions"])
        delay = explained["prediction"]["delay_seconds"]
        assert explained["known_at_first_seconds"] + parts == pytest.approx(delay, abs=1e-6)
        assert explained["model"]["digest"] == store.models[0].digest
        assert explained["prediction"]["lower_delay_seconds"] < delay < explained["prediction"]["upper_delay_seconds"]
        assert set(explained["data_versions"]) >= set(schema.UPSTREAM)
        text = explain(store, DAY, row["trip_id"], row["stop_sequence"], "--at", at).stdout
        assert store.models[0].digest in text and f"{delay:.1f} s" in text and "run-time lookup" in text


def test_the_uncorrected_prediction_is_that_of_the_model(store: ModelStore) -> None:
    """Most stored predictions are the model's own, as few run backwards along a trip."""
    same = []
    for row in read_predictions(store).sample(8, random_state=1).to_dict("records"):
        at = row["time_stamp"].isoformat()
        result = explain(store, DAY, row["trip_id"], row["stop_sequence"], "--at", at, "--json")
        prediction = json.loads(result.stdout)["prediction"]
        same.append(abs(prediction["delay_seconds"] - prediction["stored_delay_seconds"]) < 1e-3)
    assert sum(same) >= 7


def test_the_interval_is_also_shown_as_the_days_since_have_corrected_it(store: ModelStore) -> None:
    row = read_predictions(store).iloc[0]
    visit = DAY, row["trip_id"], row["stop_sequence"], "--at", row["time_stamp"].isoformat()
    before = json.loads(explain(store, *visit, "--json").stdout)["prediction"]
    assert "corrected_lower_delay_seconds" not in before
    bands = [f"{position} {stops}" for position in ("mid_trip", "terminal") for stops in (0, 2, 5, 10, "more")]
    correction = WidthCorrection(by_distance=dict.fromkeys(bands, math.log(2)))
    reports = ReportStore(store.root)
    try:
        reports.write(WIDTH_CORRECTION, correction.to_json(store.models[1].digest))
        assert json.loads(explain(store, *visit, "--json").stdout)["prediction"] == before  # it is another model's
        reports.write(WIDTH_CORRECTION, correction.to_json(store.models[0].digest))
        after = json.loads(explain(store, *visit, "--json").stdout)["prediction"]
        assert {name: after[name] for name in before} == before
        late = [after[f"{prefix}upper_delay_seconds"] - after["delay_seconds"] for prefix in PREFIXES]
        assert late[1] == pytest.approx(2 * late[0], rel=1e-3)  # the early side ends at the present
        assert "corrected upper delay" in explain(store, *visit).stdout
        reports.write(WIDTH_CORRECTION, b"{")
        damaged = explain(store, *visit)
        assert damaged.exit_code == 1 and "Materialize width_correction again" in damaged.stderr
    finally:
        (reports.directory / WIDTH_CORRECTION).unlink()


def test_without_a_stored_prediction_the_current_model_explains(store: ModelStore) -> None:
    row = read_predictions(store).iloc[0]
    tables = ParquetTables(store.root)
    stored = tables.read("delay_predictions", [DAY])
    path = Path(tables.path("delay_predictions", DAY))
    path.unlink()
    try:
        result = explain(store, DAY, row["trip_id"], row["stop_sequence"], "--json")
        explained = json.loads(result.stdout)
        assert explained["model"]["digest"] == ModelRegistry(store.root).current_digest("production_model")
        assert explained["prediction"]["stored_delay_seconds"] is None
    finally:
        tables.write("delay_predictions", DAY, stored)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trip": "no-such-trip"}, f"No vehicle reported on trip no-such-trip on {DAY}"),
        ({"sequence": 987}, "No report was about stop_sequence 987 of trip"),
        ({"options": ("--vehicle", "no-such-vehicle")}, "Vehicle no-such-vehicle made no report about it"),
        ({"options": ("--at", "2020-01-01T00:00:00Z")}, "The first report about it was at"),
        ({"day": "2020-01-01"}, "of service day 2020-01-01 is not in"),
    ],
)
def test_what_there_is_not_is_one_line(store: ModelStore, change: dict[str, object], message: str) -> None:
    row = read_predictions(store).iloc[0]
    options = change.get("options", ())
    assert isinstance(options, tuple)
    visit = change.get("day", DAY), change.get("trip", row["trip_id"]), change.get("sequence", row["stop_sequence"])
    result = explain(store, *visit, *options)
    assert (result.exit_code, result.stdout) == (1, "")
    assert message in result.stderr and len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(("at", "message"), [("noon", "is no time"), ("2024-03-13T08:00:00", "no offset from UTC")])
def test_a_time_needs_its_offset(store: ModelStore, at: str, message: str) -> None:
    result = explain(store, DAY, "trip", 1, "--at", at)
    assert result.exit_code == 2 and message in result.stderr
