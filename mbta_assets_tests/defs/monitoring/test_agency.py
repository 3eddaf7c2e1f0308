"""The agency's own predictions, from archived TripUpdates to the leaderboard and `prediction_accuracy`."""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import dagster as dg
import numpy as np
import pandas as pd
import pytest
from google.transit.gtfs_realtime_pb2 import FeedMessage

from mbta_assets.defs.production.leaderboard import predict_baselines, rank_models
from mbta_assets.ml.evaluation.checks import accuracy_within_bounds, drift_within_bounds
from mbta_assets.ml.training.dataset import read_rows, select_labelled
from mbta_assets.realtime.places import DirectoryPlace
from mbta_assets.settings import Settings
from mbta_assets.sources.gtfs.archive import FeedArchive, FetchedSnapshot
from mbta_assets.sources.gtfs.editions import Editions
from mbta_assets.sources.synthetic import SyntheticSource
from mbta_assets.storage.model_registry import ModelRegistry
from mbta_assets.storage.parquet_tables import ParquetTables
from mbta_assets.transit import schema
from mbta_assets_tests.defs.automation.conftest import Deployment
from mbta_assets_tests.defs.monitoring.test_predictions import train_production_model
from mbta_assets_tests.sources.gtfs.messages import make_feed
from mbta_assets_tests.support.gtfs_day import SNAPSHOTS, STATIC, WMATA, WMATA_DAY, read_timetable

pytestmark = pytest.mark.integration

INTERVAL_SECONDS = 240
Predictions = dict[tuple[str, int], list[tuple[int, int]]]
"""Times and predicted arrivals, in epoch seconds, by trip and stop sequence, in order."""


def read_positions() -> Iterator[tuple[int, bytes, FeedMessage]]:
    """Yield each snapshot of the real day with its time."""
    with ZipFile(WMATA / SNAPSHOTS) as archive:
        for name in sorted(archive.namelist()):
            content = archive.read(name)
            message = FeedMessage()
            message.ParseFromString(content)
            yield message.header.timestamp, content, message


def archive_day(place: DirectoryPlace) -> Predictions:
    """Archive the real day with TripUpdates that are made up for it, and return what those predict."""
    Editions(place).add((WMATA / STATIC).read_bytes(), 0, "a test")
    scheduled: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for row in read_timetable(WMATA / STATIC, WMATA_DAY)["schedule"]:
        scheduled[row["trip_id"]].append((row["stop_sequence"], int(row["arrival_time"].timestamp())))
    archive, predictions, due = FeedArchive(place), defaultdict(list), 0
    for time, content, message in read_positions():
        archive.append("vehicle_positions", [FetchedSnapshot(time, content)])
        if time < due:
            continue
        due, updates = time + INTERVAL_SECONDS, {}
        for vehicle in (entity.vehicle for entity in message.entity):
            delay, passed = time % 400 - 100, vehicle.current_stop_sequence
            ahead = [(n, at + delay) for n, at in scheduled.get(vehicle.trip.trip_id, ()) if n >= passed and n % 7]
            updates[vehicle.trip.trip_id] = ahead
        for trip, ahead in updates.items():
            for sequence, arrival in ahead:
                predictions[trip, sequence].append((time, arrival))
        archive.append("trip_updates", [FetchedSnapshot(time, make_feed(time, make_updates(time, updates)))])
    return dict(predictions)


def make_updates(time: int, updates: dict[str, list[tuple[int, int]]]) -> list[dict[str, Any]]:
    """Return the entities of a snapshot of TripUpdates, given stop sequences and arrivals by trip."""
    return [
        {
            "trip_update": {
                "trip": {"trip_id": trip, "start_date": f"{WMATA_DAY:%Y%m%d}"},
                "timestamp": time,
                "stop_time_update": [{"stop_sequence": n, "arrival": {"time": arrival}} for n, arrival in ahead],
            }
        }
        for trip, ahead in updates.items()
        if ahead
    ]


def find_delays(rows: pd.DataFrame, predictions: Predictions) -> np.ndarray:
    """Return the predicted delay (n,) of each row, by looking through the predictions of its stop visit."""
    delays = []
    for row in rows.to_dict("records"):
        is_arrival = row["event"] == "arrival"
        known = predictions.get((row["trip_id"], row["stop_sequence"]), []) if is_arrival else []
        latest = [arrival for time, arrival in known if time <= row["time_stamp"].timestamp()][-1:]
        delays.append(latest[0] - row["scheduled_arrival"].timestamp() if latest else np.nan)
    return np.array(delays)


def run(deployment: Deployment, job: str, assets: list[str] | None = None, *, partitioned: bool = True) -> None:
    """Run a job, or some of its assets."""
    result = deployment.defs.resolve_job_def(job).execute_in_process(
        instance=deployment.instance,
        partition_key=str(WMATA_DAY) if partitioned else None,
        asset_selection=[dg.AssetKey(name) for name in assets] if assets else None,
    )
    assert result.success


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Deployment, Predictions]]:
    """Return a deployment that has made everything of the real day but the models of the leaderboard."""
    root = tmp_path_factory.mktemp("agency")
    place = DirectoryPlace(root / "archive")
    predictions = archive_day(place)
    with dg.DagsterInstance.ephemeral() as instance:
        deployment = Deployment(Settings(store=root / "store", source="gtfs", feed_archive=place.name), instance)
        run(deployment, "daily_tables")
        run(deployment, "training", ["training_set", "runtime_lookup"], partitioned=False)
        train_production_model(deployment.settings.store)
        run(deployment, "daily_predictions", ["delay_predictions", "prediction_accuracy"])
        yield deployment, predictions


def read_table(deployment: Deployment, table: str) -> pd.DataFrame:
    return schema.to_frame(ParquetTables(deployment.settings.store).read(table, [WMATA_DAY]))


def test_each_row_has_the_prediction_that_riders_saw(made: tuple[Deployment, Predictions]) -> None:
    deployment, predictions = made
    features = read_table(deployment, "transit_features")
    expected = find_delays(features, predictions)
    assert 0.3 < np.isfinite(expected).mean() < 1
    np.testing.assert_allclose(features["agency_delay_seconds"], expected)


def test_the_leaderboard_has_the_agency_and_every_row_on_its_arrivals(made: tuple[Deployment, Predictions]) -> None:
    deployment, predictions = made
    registry = ModelRegistry(deployment.settings.store)
    test = select_labelled(read_rows(registry.current("training_set")), "test")
    baselines = predict_baselines(test, registry.current("runtime_lookup"), SyntheticSource(0))
    baselines.pop("oracle", None)
    rows = {row["model"]: row for row in rank_models(baselines, [], test)}
    key = schema.ROW_KEY
    features = test[key].merge(read_table(deployment, "transit_features"), on=key, how="left", validate="1:1")
    expected = find_delays(features, predictions)
    scored = np.isfinite(expected)
    label = test["delay_seconds"].to_numpy()
    assert rows["agency"]["n"] == scored.sum() < len(test)
    assert rows["agency"]["mae"] == pytest.approx(np.abs(label - expected)[scored].mean())
    assert rows["agency"]["mae_beside_agency"] == rows["agency"]["mae"]
    assert rows["schedule"]["mae_beside_agency"] == pytest.approx(np.abs(label[scored]).mean())
    assert rows["schedule"]["n"] == len(test)


def test_accuracy_compares_the_model_and_the_agency_on_the_same_arrivals(
    made: tuple[Deployment, Predictions],
) -> None:
    deployment, predictions = made
    rows = read_table(deployment, "prediction_accuracy")
    features = read_table(deployment, "transit_features")
    error = np.abs(features["delay_seconds"].to_numpy() - find_delays(features, predictions))
    key = ["model_version", "measure", "dimension", "member"]
    values = {tuple(row[name] for name in key): row for row in rows.to_dict("records")}
    agency = values["agency", "mae_seconds", "all", "all"]
    assert agency["n"] == np.isfinite(error).sum()
    assert agency["value"] == pytest.approx(np.nanmean(error))
    [version] = set(rows["model_version"]) - {"agency"}
    beside = values[version, "mae_seconds", "beside_agency", "all"]
    delays = read_table(deployment, "delay_predictions")["predicted_delay_seconds"].to_numpy()
    of_model = np.abs(features["delay_seconds"].to_numpy() - delays)[np.isfinite(error)]
    assert beside["n"] == agency["n"]
    assert beside["value"] == pytest.approx(of_model.mean())


def test_checks_do_not_judge_the_agency(made: tuple[Deployment, Predictions]) -> None:
    rows = read_table(made[0], "prediction_accuracy")
    of_agency = rows["model_version"] == "agency"
    worst = rows.assign(value=rows["value"].mask(of_agency, 0.0), n=rows["n"].mask(of_agency, 10_000))
    for check in (accuracy_within_bounds, drift_within_bounds):
        assert check(worst) == check(rows[~of_agency])
    assert drift_within_bounds(rows[of_agency]).problem is None


def test_a_day_without_trip_updates_is_made_without_them(tmp_path: Path) -> None:
    place = DirectoryPlace(tmp_path / "archive")
    Editions(place).add((WMATA / STATIC).read_bytes(), 0, "a test")
    for time, content, _ in read_positions():
        FeedArchive(place).append("vehicle_positions", [FetchedSnapshot(time, content)])
    with dg.DagsterInstance.ephemeral() as instance:
        deployment = Deployment(Settings(store=tmp_path / "store", source="gtfs", feed_archive=place.name), instance)
        run(deployment, "daily_tables")
        assert read_table(deployment, "agency_predictions").empty
        assert read_table(deployment, "transit_features")["agency_delay_seconds"].isna().all()
