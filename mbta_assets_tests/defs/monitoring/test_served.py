"""What live predictions have published becomes the predictions of the day, and is scored beside the agency's."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import dagster as dg
import numpy as np
import pandas as pd
import pytest

from mbta_assets.live.command import list_steps, make_state
from mbta_assets.live.publication_archive import PublicationArchive
from mbta_assets.live.service import LiveService
from mbta_assets.live.shadow import Shadow, make_candidate_cache
from mbta_assets.live.timetables import Timetables
from mbta_assets.ml.evaluation.accuracy import PUBLISHED, make_served_table, name_shadow
from mbta_assets.ml.evaluation.checks import accuracy_within_bounds, predictions_unique
from mbta_assets.realtime.places import DirectoryPlace
from mbta_assets.serving.live.publication import Publication
from mbta_assets.serving.model_source import open_model_source
from mbta_assets.serving.predictor import make_predictor_cache
from mbta_assets.settings import Settings
from mbta_assets.sources import open_source
from mbta_assets.sources.gtfs.archive import FeedArchive
from mbta_assets.sources.gtfs.published import PublishedPredictions
from mbta_assets.transit import schema
from mbta_assets_tests.defs.automation.conftest import Deployment
from mbta_assets_tests.defs.monitoring.test_agency import archive_day, read_table, run
from mbta_assets_tests.defs.monitoring.test_predictions import train_production_model
from mbta_assets_tests.serving.conftest import ModelStore, TrainedModels, trained_models
from mbta_assets_tests.support.gtfs_day import WMATA_DAY

__all__ = ["trained_models"]
pytestmark = pytest.mark.integration
KEY = [*schema.ROW_KEY, "published_at", "role"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, trained_models: TrainedModels) -> ModelStore:
    """Return a store with two models, the first in production and the second in its shadow."""
    store = ModelStore(tmp_path_factory.mktemp("models"), trained_models.bundles)
    store.promote(store.models[0])
    store.set_shadow(store.models[1])
    return store


def replay_live(settings: Settings, models: ModelStore) -> None:
    """Predict the archived day live, and archive what both models predict."""
    source, state = open_source(settings), make_state(settings, is_replay=True)
    published = PublicationArchive(FeedArchive(DirectoryPlace(Path(str(settings.feed_archive)))))

    def keep(publication: Publication) -> None:
        published.append(publication, "shadow")

    model_source = open_model_source(str(models.root))
    shadow = Shadow(make_candidate_cache(model_source, 0), state.registry, keep)
    predictors = make_predictor_cache(model_source, 0)
    service = LiveService(Timetables(source), predictors, state, timedelta(seconds=300), published, shadow)
    for at, take, _ in list_steps(settings, source, service, WMATA_DAY, 30):
        take()
        service.publish(at, is_replay=True)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, models: ModelStore) -> Iterator[Deployment]:
    """Return a deployment that has scored what was published live on the real day."""
    root = tmp_path_factory.mktemp("served")
    place = DirectoryPlace(root / "archive")
    archive_day(place)
    settings = Settings(store=root / "store", source="gtfs", feed_archive=place.name)
    replay_live(settings, models)
    with dg.DagsterInstance.ephemeral() as instance:
        deployment = Deployment(settings, instance)
        run(deployment, "daily_tables")
        run(deployment, "training", ["training_set", "runtime_lookup"], partitioned=False)
        train_production_model(settings.store)
        run(deployment, "daily_predictions", ["delay_predictions", "prediction_accuracy"])
        yield deployment


def test_predictions_are_those_that_were_published_once_a_minute(made: Deployment, models: ModelStore) -> None:
    rows = read_table(made, "delay_predictions")
    published = schema.to_frame(PublishedPredictions.from_settings(made.settings).read(WMATA_DAY))
    expected = make_served_table(published, {}).sort_values(KEY, ignore_index=True)
    pd.testing.assert_frame_equal(rows.sort_values(KEY, ignore_index=True), expected)
    assert set(rows["model_version"]) == {model.digest for model in models.models}
    of_role = rows.groupby("role")["model_version"].unique().map(list).to_dict()
    assert of_role == {"production": [models.models[0].digest], "shadow": [models.models[1].digest]}
    minutes = rows["published_at"].dt.floor("min")
    assert rows.groupby(["role", minutes])["published_at"].nunique().max() == 1
    assert rows["out_of_sample"].all() and predictions_unique(rows).problem is None
    assert predictions_unique(pd.concat([rows, rows[:3]])).problem is not None
    assert rows["time_stamp"].le(rows["published_at"]).all()
    event = made.instance.get_latest_materialization_event(dg.AssetKey("delay_predictions"))
    assert event and event.asset_materialization and "delays_by_stop" in event.asset_materialization.metadata


def test_each_minute_that_riders_looked_counts_for_the_model_and_the_agency(
    made: Deployment, models: ModelStore
) -> None:
    served = read_table(made, "delay_predictions")
    features = read_table(made, "transit_features")
    columns = [*schema.ROW_KEY, "delay_seconds", "agency_delay_seconds"]
    of_production = features[columns].merge(served[served["role"] == "production"], on=schema.ROW_KEY)
    error = (of_production["delay_seconds"] - of_production["predicted_delay_seconds"]).abs()
    of_agency = (of_production["delay_seconds"] - of_production["agency_delay_seconds"]).abs()
    rows = {
        (row["model_version"], row["measure"], row["dimension"]): row
        for row in read_table(made, "prediction_accuracy").to_dict("records")
        if row["member"] == "all"
    }
    version, other = (model.digest for model in models.models)
    scored = rows[version, "mae_seconds", "all"]
    assert scored["n"] == error.notna().sum() > 1000
    assert scored["value"] == pytest.approx(error.mean())
    agency = rows["agency", "mae_seconds", "all"]
    beside = rows[version, "mae_seconds", "beside_agency"]
    assert agency["n"] == beside["n"] == np.isfinite(of_agency).sum() > 100
    assert agency["value"] == pytest.approx(of_agency.mean())
    assert beside["value"] == pytest.approx(error[np.isfinite(of_agency)].mean())
    assert rows[name_shadow(other), "mae_seconds", "all"]["n"] == scored["n"]
    assert other not in {key[0] for key in rows}


def test_checks_do_not_judge_a_model_in_the_shadow(made: Deployment) -> None:
    rows = read_table(made, "prediction_accuracy")
    in_shadow = rows["model_version"].str.startswith("shadow ")
    worst = rows.assign(value=rows["value"].mask(in_shadow, 0.0), n=rows["n"].mask(in_shadow, 10_000))
    assert in_shadow.any() and accuracy_within_bounds(worst) == accuracy_within_bounds(rows)


SERVICE = {"unpredicted_share", "never_came_share", "change_per_minute_seconds", "extra_wait_seconds"}


def list_told(rows: pd.DataFrame, features: pd.DataFrame) -> set[tuple[str, int]]:
    """Return the observed visits of which rows were published in the ten minutes before."""
    arrivals = features[["trip_id", "stop_sequence", "actual_arrival_time"]].drop_duplicates()
    told = rows.merge(arrivals, on=["trip_id", "stop_sequence"])
    before = (told["actual_arrival_time"] - told["published_at"]).dt.total_seconds()
    told = told[(before > 0) & (before <= 600)]
    return set(zip(told["trip_id"], told["stop_sequence"], strict=True))


def test_what_riders_had_beside_the_error_is_measured_of_us_and_the_agency(made: Deployment) -> None:
    rows = read_table(made, "prediction_accuracy").query("dimension == 'all'").set_index("measure")
    values, of_agency = (rows.loc[rows["model_version"] == name, "value"] for name in (PUBLISHED, "agency"))
    assert set(values.index) == SERVICE < set(of_agency.index)
    served = read_table(made, "delay_predictions").query("role == 'production' and event == 'arrival'")
    features = read_table(made, "transit_features").query("event == 'arrival'").dropna(subset=["actual_arrival_time"])
    n_visits = len(features.drop_duplicates(["trip_id", "stop_sequence"]))
    assert values["unpredicted_share"] == pytest.approx(1 - len(list_told(served, features)) / n_visits)
    assert 0 <= values["unpredicted_share"] < 0.5 and values["extra_wait_seconds"] >= 0
    said = read_table(made, "agency_predictions").assign(event="arrival")  # each visit by its stop sequence
    times = pd.DataFrame({"published_at": sorted(served["published_at"].unique())})
    seen = said.merge(times, how="cross").query("predicted_at <= published_at")
    latest = seen.sort_values("predicted_at").drop_duplicates(["trip_id", "stop_sequence", "published_at"], keep="last")
    latest = latest[latest["arrival_time"] >= latest["published_at"]]
    assert of_agency["unpredicted_share"] == pytest.approx(1 - len(list_told(latest, features)) / n_visits)
    assert values["unpredicted_share"] < of_agency["unpredicted_share"] < 0.8


def test_one_table_and_one_plot_show_the_day(made: Deployment, models: ModelStore) -> None:
    event = made.instance.get_latest_materialization_event(dg.AssetKey("prediction_accuracy"))
    assert event and event.asset_materialization
    metadata = event.asset_materialization.metadata
    assert "data:image/png" in str(metadata["scores_plot"].value)
    scores = metadata["scores"]
    assert isinstance(scores, dg.TableMetadataValue)
    table = {str(record.data["measure"]): record.data for record in scores.records}
    model, shadow = (
        f"{prefix} {bundle.digest[:8]}" for prefix, bundle in zip(("model", "shadow"), models.models, strict=True)
    )
    assert set(table["mean absolute error, s"]) >= {model, f"{model} where the agency predicts", "agency", shadow}
    rows = read_table(made, "prediction_accuracy").query("member == 'all'")
    key = ["model_version", "measure", "dimension"]
    values = {tuple(row[name] for name in key): row for row in rows.to_dict("records")}
    of_model, of_service = models.models[0].digest, PUBLISHED
    for measure, column, stored in [
        ("mean absolute error, s", model, (of_model, "mae_seconds", "all")),
        ("ETA benchmark score", f"{model} where the agency predicts", (of_model, "eta_benchmark", "beside_agency")),
        ("share within the window, all", "agency", ("agency", "within_mbta_window", "all")),
        ("extra wait, s", model, (of_service, "extra_wait_seconds", "all")),
        ("extra wait, s", f"{model} where the agency predicts", (of_service, "extra_wait_seconds", "beside_agency")),
        ("change per minute, s", "agency", ("agency", "change_per_minute_seconds", "all")),
    ]:
        value = values[stored]["value"]
        assert value is not None and table[measure][column] == pytest.approx(value, rel=1e-3)
        assert table[measure][f"n of {column}"] == values[stored]["n"] > 0
    assert table["extra wait, s"][shadow] is None


def test_what_a_candidate_says_of_a_day_it_has_learned_from_does_not_count(
    made: Deployment, models: ModelStore
) -> None:
    """These models do not say which days they have learned from, and so count as having learned from every day."""
    ModelStore(made.settings.store, models.models).set_shadow(models.models[1])
    run(made, "daily_predictions", ["delay_predictions"])
    rows = read_table(made, "delay_predictions")
    assert rows.groupby("role")["out_of_sample"].unique().map(list).to_dict() == {
        "production": [True],
        "shadow": [False],
    }
