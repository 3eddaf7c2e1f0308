"""Reproducible samples of the rows of a service day, the same in training and in monitoring."""

import numpy as np
import pandas as pd
import pyarrow as arrow

from mbta_assets.transit.distances import REPORT_KEY
from mbta_assets.transit.schema import ROW_KEY, to_frame

REPORT_SHARE = 0.1
"""Share of a sample that is whole reports: what is predicted along a trip can be measured on these only. The rows of a
report are alike, so that models learn less from them than from as many single rows."""


def sample_rows(features: pd.DataFrame, max_rows: int) -> pd.DataFrame:
    """Return at most `max_rows` rows of `transit_features`, in order.

    `REPORT_SHARE` of them are all rows of some reports, chosen by a hash of the report's key; the others are single
    rows, chosen by a hash of theirs. So the sample does not depend on the order of the rows.
    """
    return features if len(features) <= max_rows else features[_choose_rows(features, max_rows)]


def sample_table(features: arrow.Table, max_rows: int) -> pd.DataFrame:
    """Return the rows that `sample_rows` does, of a table, without a frame or an object for each of the others."""
    if len(features) > max_rows:
        keys = features.select(ROW_KEY)
        for index, field in enumerate(keys.schema):
            if arrow.types.is_string(field.type) or arrow.types.is_large_string(field.type):
                keys = keys.set_column(index, field.name, keys[field.name].dictionary_encode())  # has the same hashes
        features = features.filter(arrow.array(_choose_rows(to_frame(keys), max_rows)))
    return to_frame(features)


def _choose_rows(features: pd.DataFrame, max_rows: int) -> np.ndarray:
    """Return a mask (n,) of `max_rows` rows."""
    chosen = _choose_reports(features, int(max_rows * REPORT_SHARE))
    hashes = pd.util.hash_pandas_object(features[ROW_KEY], index=False).to_numpy()
    rest = np.flatnonzero(~chosen)
    chosen[rest[np.argsort(hashes[rest], kind="stable")[: max_rows - np.count_nonzero(chosen)]]] = True
    return chosen


def _choose_reports(features: pd.DataFrame, max_rows: int) -> np.ndarray:
    """Return a mask (n,) of all rows of some reports, at most `max_rows`."""
    hashes = pd.util.hash_pandas_object(features[REPORT_KEY], index=False).to_numpy()
    _, report, sizes = np.unique(hashes, return_inverse=True, return_counts=True)
    return (np.cumsum(sizes) <= max_rows)[report]
