"""The drift of a service day: how far its features and errors are from those the model was trained on.

Drift is reported as rows of `prediction_accuracy`; the accuracy of the day's predictions is scored in `accuracy`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
import pandas as pd

from mbta_assets.ml.evaluation.accuracy import MetricRow, group_by_stops_ahead, measure_errors
from mbta_assets.ml.evaluation.grouping import bin_distances
from mbta_assets.ml.inference.encoder import UNKNOWN_CODE, Encoder
from mbta_assets.ml.inference.model import Model
from mbta_assets.ml.inference.monotone import correct_delays
from mbta_assets.transit import schema
from mbta_assets.transit.sampling import sample_rows

SHARED_FEATURES = schema.feature_group("calendar", "time_of_day", "network")
"""Model inputs that all vehicles share at a time: a day has few values of them, which differ from those of other days
by chance."""
MAX_SAMPLE_ROWS = 30_000
"""Rows of a service day whose features are compared with the training part."""


@dataclass(frozen=True)
class DriftReference:
    """The training data and test error of a model, which drift is measured against."""

    encoder: Encoder
    train: pd.DataFrame
    """Numeric features of the training part."""
    test_mae_seconds: dict[str, float]
    """MAE on the test part, by bin of stops ahead."""

    @classmethod
    def from_rows(cls, model: Model, train: pd.DataFrame, test: pd.DataFrame) -> Self:
        """Compute the reference of a model from rows of its training set: of the training part, and labelled test rows.

        `train` has the numeric features of the model's encoder at least.
        """
        absolute_error = np.abs(test["delay_seconds"].to_numpy() - correct_delays(test, model.predict(test)).delay)
        mae = pd.Series(absolute_error).groupby(bin_distances(test["stops_ahead"].to_numpy())).mean()
        encoder = model.preprocessor.encoder
        return cls(encoder, train[encoder.numeric], {str(stops): float(seconds) for stops, seconds in mae.items()})


def measure_drift(features: pd.DataFrame, predicted: np.ndarray, reference: DriftReference) -> list[MetricRow]:
    """Measure the drift of n rows of `transit_features` and of the predicted delays (n,) in seconds.

    - `feature_drift`: Kolmogorov-Smirnov statistic of a numeric feature against the training part; a missing value
      counts as the lowest.
    - `unknown_share`: share of the rows whose category is not in the encoder's vocabulary.
    - `error_drift`: MAE over that on the test part, by stops ahead.

    Features are compared on a sample of the rows.
    """
    sample = sample_rows(features, MAX_SAMPLE_ROWS)
    return [
        *_measure_feature_drift(sample, reference),
        *_measure_unknown_categories(sample, reference.encoder),
        *_measure_error_drift(features, predicted, reference),
    ]


def _measure_feature_drift(sample: pd.DataFrame, reference: DriftReference) -> Iterator[MetricRow]:
    """Yield the Kolmogorov-Smirnov statistic of each numeric feature."""
    # SciPy's statistics take a second to import; the Dagster code location imports this module and must load fast.
    from scipy.stats import ks_2samp

    for name in reference.encoder.numeric:
        if name not in SHARED_FEATURES:
            trained_on, current = _fill_missing_lowest(reference.train[name]), _fill_missing_lowest(sample[name])
            statistic = float(ks_2samp(trained_on, current, method="asymp").statistic)
            yield MetricRow("feature_drift", "feature", name, len(sample), statistic)


def _measure_unknown_categories(sample: pd.DataFrame, encoder: Encoder) -> Iterator[MetricRow]:
    """Yield for each category the share of rows whose value is neither missing nor in the vocabulary."""
    codes = encoder.encode_categories(sample)
    for name, column in zip(encoder.vocabularies, codes.T, strict=True):
        unknown = (column == UNKNOWN_CODE) & sample[name].notna().to_numpy()
        yield MetricRow("unknown_share", "category", name, len(sample), float(unknown.mean()))


def _measure_error_drift(
    features: pd.DataFrame, predicted: np.ndarray, reference: DriftReference
) -> Iterator[MetricRow]:
    """Yield the MAE relative to that on the test part, by stops ahead; None where either is not known."""
    error = features["delay_seconds"].to_numpy() - predicted
    for row in measure_errors("stops_ahead", group_by_stops_ahead(features), error):
        if row.measure == "mae_seconds":
            test_mae = reference.test_mae_seconds.get(row.member)
            ratio = row.value / test_mae if row.value is not None and test_mae else None
            yield MetricRow("error_drift", "stops_ahead", row.member, row.n, ratio)


def _fill_missing_lowest(values: pd.Series) -> np.ndarray:
    """Return values (n,) as float64 with minus infinity where missing."""
    numbers = values.to_numpy(dtype=np.float64)
    return np.where(np.isnan(numbers), -np.inf, numbers)
