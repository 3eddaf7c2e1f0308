"""Reproducible samples of the rows of a service day, the same in training and in monitoring."""

import numpy as np
import pandas as pd

from mbta_assets.transit.schema import ROW_KEY


def sample_rows(features: pd.DataFrame, max_rows: int) -> pd.DataFrame:
    """Return at most `max_rows` rows of `transit_features`, in order.

    Rows are chosen by a hash of their key, so that the sample does not depend on the order of the rows.
    """
    if len(features) <= max_rows:
        return features
    hashes = pd.util.hash_pandas_object(features[ROW_KEY], index=False).to_numpy()
    rank = np.argsort(np.argsort(hashes, kind="stable"))
    return features[rank < max_rows]
