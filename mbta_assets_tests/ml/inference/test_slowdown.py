"""Where a network runs slower than a model has ever learned, the time to an event grows in proportion."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbta_assets.defs.models.xgboost_model import IN_SCALE, TO_NOW
from mbta_assets.ml.inference.encoder import Encoder
from mbta_assets.ml.inference.hourly_run_time import N_BINS
from mbta_assets.ml.inference.model import predict_delay
from mbta_assets.ml.inference.preprocessing import PACE_FILE, RESIDUAL_BASES, Preprocessor
from mbta_assets.ml.inference.run_time import MedianRunTime
from mbta_assets.ml.inference.slowdown import MAX_SLOWDOWN, MIN_ROWS, LearnedPace
from mbta_assets.ml.training import xgboost_trainer
from mbta_assets.ml.training.dataset import CATEGORICAL_FEATURES, NUMERIC_FEATURES
from mbta_assets.ml.training.hyperparameters import BoostingConfig
from mbta_assets.ml.training.xgboost_trainer import XGBoostTrainer
from mbta_assets.storage import bundle
from mbta_assets.storage.bundle import Bundle
from mbta_assets_tests.support.days import Simulation

RATIOS = st.one_of(st.floats(0.0625, 8, width=32), st.sampled_from([1.0, float("nan")]))


def make_columns(ratios: list[float], hours: Sequence[float] | float = 12.0) -> dict[str, np.ndarray]:
    """Return feature columns with these ratios of run times at these hours of the service day."""
    angle = np.broadcast_to(np.array(hours), len(ratios)) * (2 * np.pi / 24)
    return {
        "network_run_ratio": np.array(ratios, np.float32),
        "scheduled_seconds_ahead": np.zeros(len(ratios), np.float32),
        "sin_time": np.sin(angle).astype(np.float32),
        "cos_time": np.cos(angle).astype(np.float32),
    }


def test_slowdown_is_how_far_a_ratio_is_above_those_that_were_learned() -> None:
    pace = LearnedPace.fit(make_columns([*np.linspace(0.8, 1.2, 99).tolist(), 9.0, float("nan")]))
    assert pace.highest_ratios == (pytest.approx(1.125, abs=0.01),) * N_BINS
    assert pace.compute_slowdown(make_columns([0.1, 0.85, 1.0, 1.1, float("nan")])).tolist() == [1, 1, 1, 1, 1]
    assert pace.compute_slowdown(make_columns([1.69, 9.0])).tolist() == [pytest.approx(1.5, abs=0.02), MAX_SLOWDOWN]


def test_a_ratio_is_compared_with_those_of_the_same_hours() -> None:
    at_noon, at_night = np.linspace(0.8, 0.9, MIN_ROWS).tolist(), np.linspace(1.0, 1.2, MIN_ROWS).tolist()
    learned = make_columns([*at_noon, *at_night, 3.0], [12.5] * MIN_ROWS + [23.5] * MIN_ROWS + [4.5])
    pace = LearnedPace.fit(learned)
    asked = make_columns([1.07, 1.07, 1.07, 1.4], [12.1, 22.1, 4.1, 22.1])
    assert pace.compute_slowdown(asked) == pytest.approx([1.216, 1, 1, 1.207], abs=0.01)


def test_a_network_of_which_nothing_was_seen_yet_is_not_slower() -> None:
    pace = LearnedPace.fit(make_columns([0.8, 0.85, 0.9]))
    assert pace.compute_slowdown(make_columns([1.0])).tolist() == [1]


def test_a_model_that_has_learned_no_ratio_knows_no_slowdown() -> None:
    for pace in (LearnedPace(), LearnedPace.fit(make_columns([float("nan")]))):
        assert pace.compute_slowdown(make_columns([0.1, 5.0])).tolist() == [1, 1]
        assert pace.compute_row_slowdown({"network_run_ratio": 5.0}) == 1


@given(
    ends=st.lists(st.floats(0.5, 2), min_size=N_BINS, max_size=N_BINS),
    asked=st.lists(st.tuples(RATIOS, st.floats(0, 24)), min_size=1, max_size=20),
)
def test_the_slowdown_of_a_row_by_itself_is_that_among_others(
    ends: list[float], asked: list[tuple[float, float]]
) -> None:
    ratios, hours = map(list, zip(*asked, strict=True))
    pace, columns = LearnedPace.from_json(ends), make_columns(ratios, hours)
    values = {name: column.tolist() for name, column in columns.items()}
    rows = [{name: values[name][place] for name in values} for place in range(len(asked))]
    assert pace.compute_slowdown(columns).tolist() == [pace.compute_row_slowdown(row) for row in rows]


@pytest.fixture(scope="module")
def learned(simulation: Simulation) -> pd.DataFrame:
    """Return labelled rows of some simulated days."""
    rows = simulation.rows
    return rows[(rows["part"] == "train") & rows["delay_seconds"].notna()][::10].reset_index(drop=True)


@pytest.fixture(scope="module")
def preprocessor(learned: pd.DataFrame) -> Preprocessor:
    """Return a preprocessor that was fitted on these rows."""
    encoder, lookup = Encoder.fit(learned, NUMERIC_FEATURES, CATEGORICAL_FEATURES), MedianRunTime.fit(learned)
    return Preprocessor.fit(encoder, lookup, learned, lookup.predict_delay(learned))


@pytest.fixture
def slow_rows(simulation: Simulation) -> pd.DataFrame:
    """Return rows of the test days as if every run took 1.5 times as long as any learned one."""
    rows = simulation.rows
    rows = rows[(rows["part"] == "test") & rows["delay_seconds"].notna()][::20].reset_index(drop=True)
    arrives_in = rows["delay_seconds"] + rows["scheduled_seconds_ahead"]
    runs = rows[["last_run_seconds", "recent_run_seconds"]] * 1.5
    slow_ratio = np.float32(1.5 * np.quantile(rows["network_run_ratio"], 0.98))
    delay = 1.5 * arrives_in - rows["scheduled_seconds_ahead"]
    return rows.assign(delay_seconds=delay, network_run_ratio=slow_ratio, **runs)


def test_trees_predict_a_network_that_runs_slower_than_any_they_have_learned(
    learned: pd.DataFrame, preprocessor: Preprocessor, slow_rows: pd.DataFrame
) -> None:
    def measure_error(preprocessor: Preprocessor) -> float:
        trees = {}
        for base, configuration in {"lookup": IN_SCALE, "now": TO_NOW}.items():
            trainer = XGBoostTrainer({**configuration, "max_depth": 5}, BoostingConfig(40, 40, 40), seed=0)
            trees[base] = xgboost_trainer.fit(trainer, preprocessor.transform(learned, base))
        delay = predict_delay(
            preprocessor, "lookup", lambda rows: xgboost_trainer.predict_residual(trees, "lookup", rows), slow_rows
        )
        return float(np.abs(delay - slow_rows["delay_seconds"]).mean())

    assert measure_error(preprocessor) < 0.7 * measure_error(replace(preprocessor, pace=LearnedPace()))


@pytest.mark.parametrize("residual_to", RESIDUAL_BASES)
def test_inputs_of_a_slow_row_by_itself_are_those_among_others(
    preprocessor: Preprocessor, slow_rows: pd.DataFrame, residual_to: str
) -> None:
    rows = slow_rows[:50]
    arrays = preprocessor.transform(rows, residual_to)
    assert (arrays.slowdown > 1.3).all()
    columns = {name: rows[name].tolist() for name in rows.columns}  # plain Python values
    for place in range(len(rows)):
        row = {name: values[place] for name, values in columns.items()}
        of_row = preprocessor.transform_row(row, residual_to).to_arrays()
        assert (of_row.base[0], of_row.unit[0]) == (arrays.base[place], arrays.unit[place])
        np.testing.assert_array_equal(of_row.numeric[0], arrays.numeric[place])


def test_a_model_sees_the_slowest_network_that_it_has_learned(
    preprocessor: Preprocessor, slow_rows: pd.DataFrame
) -> None:
    def read(name: str, rows: pd.DataFrame) -> np.ndarray:
        return preprocessor.transform(rows, "lookup").numeric[:, preprocessor.feature_names.index(name)]

    slowdown = preprocessor.pace.compute_slowdown(slow_rows)
    assert (read("network_run_ratio", slow_rows) <= max(preprocessor.pace.highest_ratios or ()) + 1e-6).all()
    recent = slow_rows["recent_run_seconds"]
    np.testing.assert_allclose(read("recent_run_seconds", slow_rows), recent / slowdown, rtol=1e-6)
    in_range = slow_rows.assign(network_run_ratio=np.float32(1))
    np.testing.assert_array_equal(read("recent_run_seconds", in_range), recent)


def test_a_model_of_an_earlier_release_predicts_as_it_did(
    preprocessor: Preprocessor, slow_rows: pd.DataFrame, make_bundle: Callable[[dict[str, bytes]], Bundle]
) -> None:
    files = preprocessor.to_files()
    assert Preprocessor.from_bundle(make_bundle(files)).pace == preprocessor.pace != LearnedPace()
    files[PACE_FILE] = b"1.25"  # one upper end for all hours
    assert Preprocessor.from_bundle(make_bundle(files)).pace == LearnedPace((1.25,) * N_BINS)
    del files[PACE_FILE]
    earlier = Preprocessor.from_bundle(make_bundle(files))
    assert (earlier.transform(slow_rows, "lookup").slowdown == 1).all()


@pytest.fixture
def make_bundle(tmp_path_factory: pytest.TempPathFactory) -> Callable[[dict[str, bytes]], Bundle]:
    """Return a function that stores files as a bundle."""
    return lambda files: bundle.write(tmp_path_factory.mktemp("bundle"), "network", files)
