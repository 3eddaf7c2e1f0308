"""The split of a training set into parts and its samples, on rows that can be checked by hand."""

from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbta_assets.ml.inference.arrays import Arrays
from mbta_assets.ml.inference.transit_network import describe_network
from mbta_assets.ml.training import dataset
from mbta_assets.ml.training.assembly import build_training_set
from mbta_assets.ml.training.dataset import (
    CATEGORICAL_FEATURES,
    LEARNED_PARTS,
    MIN_LABELLED_ROWS,
    NUMERIC_FEATURES,
    PARTS,
    SplitConfig,
    TrainingSetError,
    assign_parts,
    make_provenance,
    read_rows,
    select_labelled,
    take_rows,
    walk_forward,
)
from mbta_assets.ml.training.training_data import TrainingData, TrainingRows
from mbta_assets.storage.bundle import Bundle, Draft
from mbta_assets.storage.model_registry import ModelRegistry
from mbta_assets.storage.provenance import MixedVersions
from mbta_assets.transit import schema
from mbta_assets.transit.table import FeatureGroup

SPLIT = SplitConfig()


def make_days(days: int, rows_per_day: int = 40) -> pd.DataFrame:
    """Return rows a minute apart from noon UTC of each day, each of which arrives five minutes later.

    There is a report of each of four trips before there is another of the same.
    """
    minutes = pd.to_timedelta(np.arange(rows_per_day), unit="min")
    starts = pd.date_range("2024-03-01 12:00", periods=days, tz="UTC")
    time = pd.DatetimeIndex(np.concatenate([start + minutes for start in starts]))
    return pd.DataFrame(
        {
            "service_date": time.tz_convert(None).normalize(),
            "trip_id": np.tile([f"{row // 20}-{row % 4}" for row in range(rows_per_day)], days),
            "time_stamp": time,
            "actual_arrival_time": time + pd.Timedelta(minutes=5),
            "delay_seconds": 1.0,
        }
    )


@pytest.mark.parametrize(
    ("days", "rows_per_day", "unlearnable"),
    [(1, 60, ("calendar", "network")), (10, 12, ("calendar",)), (25, 12, ())],
)
def test_no_model_reads_what_so_few_days_cannot_teach(
    days: int, rows_per_day: int, unlearnable: tuple[FeatureGroup, ...]
) -> None:
    built = build_training_set(make_samples([rows_per_day] * days, rows_per_day).items(), SPLIT)
    expected = {*NUMERIC_FEATURES, *CATEGORICAL_FEATURES} - schema.feature_group(*unlearnable)
    assert {*built.encoder.numeric, *built.encoder.vocabularies} == expected
    of_calendar = build_training_set(make_samples([12] * 10).items(), SPLIT, min_calendar_days=8)
    assert {*of_calendar.encoder.numeric, *of_calendar.encoder.vocabularies} >= schema.feature_group("calendar")


def test_ten_days_are_split_by_whole_days_in_time() -> None:
    rows = make_days(10)
    parts = pd.Series(assign_parts(rows, SPLIT)).groupby(rows["service_date"]).unique()
    assert [list(part) for part in parts] == [["train"]] * 6 + [["validation"]] * 2 + [["test"]] * 2


@pytest.mark.parametrize("days", [2, 5, 9])
def test_fewer_days_are_split_by_time_and_no_label_is_known_only_in_a_later_part(days: int) -> None:
    rows = make_days(days)
    part = assign_parts(rows, SPLIT)
    times = rows.groupby(part)["time_stamp"].agg(["min", "max"])
    assert times["max"]["train"] < times["min"]["validation"] < times["min"]["test"]
    assert rows.loc[part == "train", "actual_arrival_time"].max() < times["min"]["validation"]
    assert (part == "test").sum() == round(0.15 * len(rows))
    assert (part == "").sum() == 2 * 5


@given(st.integers(40, 600), st.integers(0, 99))
def test_the_validation_part_of_a_single_day_is_trips_of_all_hours_before_the_test_part(n: int, seed: int) -> None:
    rows = make_days(1, n)
    part = assign_parts(rows, SPLIT)
    begin = rows["time_stamp"][part == "test"].min()
    before = rows["actual_arrival_time"] < begin
    assert np.isin(part[before], LEARNED_PARTS).all() and (part[~before & (rows["time_stamp"] < begin)] == "").all()
    assert (part == "test").sum() == round(0.15 * len(rows))
    assert 0 <= (part == "validation").sum() - round(0.15 * len(rows)) < 5
    assert (rows.assign(part=part)[before].groupby(["service_date", "trip_id"])["part"].nunique() == 1).all()
    order = np.random.default_rng(seed).permutation(len(rows))
    assert (assign_parts(rows.iloc[order], SPLIT) == part[order]).all()


def test_days_without_labels_do_not_make_a_part_of_whole_days_empty() -> None:
    rows = make_days(12)
    unlabelled = rows["service_date"].isin(rows["service_date"].unique()[-2:])
    rows.loc[unlabelled, ["delay_seconds", "actual_arrival_time"]] = None
    labelled = rows[~unlabelled]
    parts = pd.Series(assign_parts(rows, SPLIT))[~unlabelled].groupby(labelled["service_date"]).unique()
    assert [list(part) for part in parts] == [["train"]] * 6 + [["validation"]] * 2 + [["test"]] * 2


def make_samples(labels_by_day: list[int], rows_per_day: int = 12) -> dict[date, pd.DataFrame]:
    """Return features by service day, with so many labels on each; features are missing or one category."""
    samples = {}
    rows = make_days(len(labels_by_day), rows_per_day)
    for labels, (day, group) in zip(labels_by_day, rows.groupby("service_date"), strict=True):
        columns = dict.fromkeys(NUMERIC_FEATURES, np.nan) | dict.fromkeys(CATEGORICAL_FEATURES, "only")
        features = group.assign(**{name: value for name, value in columns.items() if name not in group})
        features.loc[features.index[labels:], ["delay_seconds", "actual_arrival_time"]] = None
        samples[pd.Timestamp(str(day)).date()] = features
    return samples


@settings(max_examples=30)
@given(st.lists(st.integers(0, 12), min_size=1, max_size=12))
def test_a_training_set_has_labels_in_each_part_or_is_an_error_that_says_what_to_do(labels_by_day: list[int]) -> None:
    samples = make_samples(labels_by_day)
    try:
        built = build_training_set(samples.items(), SPLIT)
    except TrainingSetError as error:
        message = str(error)
        assert str(min(samples)) in message and str(max(samples)) in message
        assert "dagster asset materialize" in message
        assert ("none of their" in message) == (sum(labels_by_day) == 0)
    else:
        assert min(len(select_labelled(built.rows, part)) for part in PARTS) >= MIN_LABELLED_ROWS


def test_days_without_rows_are_an_error_that_says_so() -> None:
    samples = {day: rows[:0] for day, rows in make_samples([1, 1]).items()}
    with pytest.raises(TrainingSetError, match=r"2 service days 2024-03-01 to 2024-03-02: .* has no rows"):
        build_training_set(samples.items(), SPLIT)


def test_learned_days_are_those_of_the_training_and_validation_parts() -> None:
    built = build_training_set(make_samples([12] * 10).items(), SPLIT)
    assert built.learned_days == [f"2024-03-{day:02}" for day in range(1, 9)]
    one_day = build_training_set(make_samples([60], rows_per_day=60).items(), SPLIT)
    assert one_day.learned_days == ["2024-03-01"]


def test_the_network_is_that_of_the_rows_that_models_learn_from() -> None:
    samples = make_samples([12] * 10)
    days = sorted(samples)
    for number, day in enumerate(days):
        samples[day] = samples[day].assign(route_id="Red", stop_id=f"{number}")
    built = build_training_set(samples.items(), SPLIT)
    assert built.network == describe_network({("Red", f"{number}") for number in range(8)})


def test_provenance_is_copied_from_the_training_set_and_other_training_sets_are_refused(tmp_path: Path) -> None:
    registry = ModelRegistry(tmp_path)
    first, second = (
        registry.put(
            "training_set", build_training_set(make_samples([n] * 10).items(), SPLIT).draft({"2024-03-01": "v"}, 12)
        )
        for n in (11, 12)
    )
    lookup = registry.put("runtime_lookup", Draft("toy", {}, make_provenance(first)))
    provenance = make_provenance(first, runtime_lookup=lookup)
    assert provenance["inputs"] == {"training_set": first.digest, "runtime_lookup": lookup.digest}
    assert provenance["training_set"] == first.digest
    assert provenance["learned_days"] == lookup.manifest["learned_days"] == first.manifest["learned_days"]
    assert provenance["data_versions"] == {"2024-03-01": "v"}
    assert provenance["network"] == first.manifest["network"]
    assert provenance["training_window"] == first.manifest["parts"]
    with pytest.raises(MixedVersions, match=f"runtime_lookup was made from version {first.digest[:16]}"):
        make_provenance(second, runtime_lookup=lookup)


def make_training_data() -> TrainingData:
    """Return six training rows, the last without a label, and five validation rows, with both residual bases."""
    codes = np.arange(12, dtype=np.int32).reshape(6, 2)
    label = np.array([1, 2, 3, 4, 5, np.nan], dtype=np.float32)
    base, scale, slowdown = np.zeros((3, 6), np.float32)
    arrays = Arrays(np.eye(6, 3, dtype=np.float32), codes, base, scale, label, slowdown)
    rows = TrainingRows.from_arrays(arrays, {"lookup": base, "now": base + np.arange(6, dtype=np.float32)})
    return TrainingData(rows, rows.take(np.arange(5)), list("abcde"), seed=0)


def test_columns_are_dropped_by_name_from_numbers_and_codes() -> None:
    data = make_training_data().drop_columns({"b", "e"})
    assert data.feature_names == ["a", "c", "d"]
    assert np.array_equal(data.train.relative_to("now").numeric, np.eye(6, 3)[:, [0, 2]])
    assert data.validation.relative_to("lookup").codes.tolist() == [[0], [2], [4], [6], [8]]


def test_a_subsample_has_the_same_rows_for_every_residual_base_and_each_time() -> None:
    subsample, again = make_training_data().subsample(3), make_training_data().subsample(3)
    to_lookup, to_now = subsample.train.relative_to("lookup"), subsample.train.relative_to("now")
    assert len(to_lookup) == len(subsample.validation.relative_to("lookup")) == 3
    assert np.array_equal(to_lookup.codes, to_now.codes)
    assert np.array_equal(to_now.base, to_now.codes[:, 0] / 2)  # both count the rows
    assert np.array_equal(to_lookup.codes, again.train.relative_to("lookup").codes)


def test_training_rows_without_a_label_are_dropped_on_request() -> None:
    assert make_training_data().drop_unlabelled().train.label.tolist() == [1, 2, 3, 4, 5]


def test_earlier_folds_predict_whole_days_from_the_days_before() -> None:
    rows = make_days(12)
    rows["part"] = assign_parts(rows, SplitConfig(0.2, 0.2, 10))
    learned = rows[rows["part"].isin(LEARNED_PARTS)].reset_index(drop=True)
    folds = walk_forward(learned, 3)
    assert (folds[0] == learned["part"]).all()
    for before, fold in enumerate(folds[1:], 1):
        first, last = learned["service_date"][fold == "train"].min(), learned["service_date"][fold == "train"].max()
        [validation] = learned["service_date"][fold == "validation"].unique()
        assert first == learned["service_date"].min() and last == validation - pd.Timedelta(days=1)
        assert validation == learned["service_date"][learned["part"] == "train"].max() - pd.Timedelta(days=before - 1)
        assert (fold[learned["part"] == "validation"] == "").all()


@given(st.lists(st.integers(0, 60), min_size=1, max_size=12), st.integers(1, 5))
def test_every_fold_has_labels_to_learn_and_to_predict_and_half_of_the_days(labels: list[int], max_folds: int) -> None:
    rows = pd.concat(make_samples(labels, 60).values(), ignore_index=True)
    if rows["delay_seconds"].notna().sum() < 10:
        return
    rows["part"] = assign_parts(rows, SPLIT)
    learned = rows[rows["part"].isin(LEARNED_PARTS)].reset_index(drop=True)
    labelled, train_days = learned["delay_seconds"].notna(), learned["service_date"][learned["part"] == "train"]
    folds = walk_forward(learned, max_folds)
    assert 1 <= len(folds) <= max_folds
    for fold in folds[1:]:
        days = [learned["service_date"][labelled & (fold == part)] for part in LEARNED_PARTS]
        assert min(map(len, days)) >= MIN_LABELLED_ROWS and days[0].max() < days[1].min() == days[1].max()
        assert days[0].nunique() >= train_days[labelled].nunique() // 2


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Return a stored training set of 400 rows."""
    built = build_training_set(make_samples([40] * 10, 40).items(), SPLIT)
    return ModelRegistry(tmp_path_factory.mktemp("stored")).put("training_set", built.draft({}, 40))


@given(places=st.sets(st.integers(0, 399), max_size=60))
def test_rows_at_some_places_are_read_in_order(stored: Bundle, places: set[int]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dataset, "BATCH_ROWS", 37)
        learned = read_rows(stored, parts=LEARNED_PARTS)
        index = np.array(sorted(place for place in places if place < len(learned)), dtype=np.int64)
        taken = take_rows(stored, LEARNED_PARTS, index)
    pd.testing.assert_frame_equal(taken, learned.iloc[index].reset_index(drop=True))
