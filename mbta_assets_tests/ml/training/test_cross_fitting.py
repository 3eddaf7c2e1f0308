"""The cross-fitted lookup: what a fit is remembered by, and for how long."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mbta_assets.ml.inference.encoder import Encoder
from mbta_assets.ml.inference.preprocessing import ENCODER_FILE
from mbta_assets.ml.inference.run_time import LOOKUP_FILE, MedianRunTime
from mbta_assets.ml.training import cross_fitting
from mbta_assets.ml.training.assembly import build_training_set
from mbta_assets.ml.training.cross_fitting import (
    FIT_COLUMNS,
    CrossFittedPreprocessor,
    fit_once,
    select_learned,
)
from mbta_assets.ml.training.dataset import LEARNED_PARTS, SplitConfig, read_rows
from mbta_assets.storage.bundle import Bundle, Draft
from mbta_assets.storage.model_registry import ModelRegistry
from mbta_assets_tests.support.days import Simulation

pytestmark = pytest.mark.integration  # simulates ten service days, unless another test has


@pytest.fixture
def training_set(simulation: Simulation, tmp_path: Path) -> Bundle:
    """Return a stored training set of few rows of the simulated days."""
    features = simulation.rows.drop(columns="part")
    samples = [(pd.Timestamp(day).date(), rows[::40]) for day, rows in features.groupby(features["service_date"])]
    built = build_training_set(samples, SplitConfig())
    return ModelRegistry(tmp_path).put("training_set", built.draft({}, 150))


@pytest.fixture
def rows(training_set: Bundle) -> pd.DataFrame:
    """Return the rows that a fit reads."""
    return read_rows(training_set, FIT_COLUMNS, LEARNED_PARTS)


@pytest.fixture
def count_fits(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Return a function that tells how often a preprocessor was fitted, without any that is remembered before."""
    fits, fit = list[int](), CrossFittedPreprocessor.fit

    def fit_and_count(*arguments: Any) -> CrossFittedPreprocessor:
        fits.append(1)
        return fit(*arguments)

    monkeypatch.setattr(CrossFittedPreprocessor, "fit", fit_and_count)
    monkeypatch.setattr(cross_fitting, "_remembered", {})
    return lambda: len(fits)


def test_a_fit_is_that_of_the_same_rows_and_made_once(
    training_set: Bundle, rows: pd.DataFrame, count_fits: Callable[[], int]
) -> None:
    mask = select_learned(rows)
    first, second = fit_once(training_set, rows, mask), fit_once(training_set, rows, mask.copy())
    assert second is first and count_fits() == 1
    expected = CrossFittedPreprocessor.fit(Encoder.from_bytes(training_set.file(ENCODER_FILE)), rows, mask)
    np.testing.assert_array_equal(first.lookup, expected.lookup)
    assert first.preprocessor.to_files() == expected.preprocessor.to_files()
    with pytest.raises(ValueError, match="read-only"):
        first.lookup[0] = 0


def test_other_rows_another_lookup_or_another_training_set_are_fitted_again(
    training_set: Bundle, rows: pd.DataFrame, tmp_path: Path, count_fits: Callable[[], int]
) -> None:
    mask = select_learned(rows)
    lookup = Draft("lookup", {LOOKUP_FILE: MedianRunTime.fit(rows[mask]).to_bytes()}, {})
    stored = ModelRegistry(tmp_path).put("runtime_lookup", lookup)
    fewer = mask & (np.arange(len(mask)) % 2 == 0)
    fit_once(training_set, rows, mask)
    fit_once(training_set, rows, fewer)
    fit_once(training_set, rows, mask, stored)
    other = ModelRegistry(tmp_path).put(
        "training_set", Draft("training_set", {ENCODER_FILE: training_set.file(ENCODER_FILE)}, {})
    )
    fit_once(other, rows, mask)
    assert count_fits() == 4


def test_what_is_remembered_is_limited_and_the_latest_is_kept(
    training_set: Bundle, rows: pd.DataFrame, count_fits: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    mask = select_learned(rows)
    fewer = mask & (np.arange(len(mask)) % 2 == 0)
    size = fit_once(training_set, rows, mask).lookup.nbytes
    monkeypatch.setattr(cross_fitting, "MAX_REMEMBERED_BYTES", size)
    fit_once(training_set, rows, fewer)
    fit_once(training_set, rows, fewer)
    assert count_fits() == 2
    fit_once(training_set, rows, mask)
    assert count_fits() == 3
    monkeypatch.setattr(cross_fitting, "MAX_REMEMBERED_BYTES", size - 1)
    fit_once(training_set, rows, mask)
    fit_once(training_set, rows, mask)
    assert count_fits() == 4, "what is larger than the limit is not kept"
