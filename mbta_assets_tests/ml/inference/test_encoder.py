import numpy as np
import pandas as pd

from mbta_assets.ml.inference.encoder import UNKNOWN_CODE, Encoder


def test_a_category_that_is_missing_or_was_not_in_the_fitted_rows_is_unknown() -> None:
    fitted = Encoder.fit({"route_id": pd.Series(["Red", "Blue", None])}, [], ["route_id"])
    encoder = Encoder.from_bytes(fitted.to_bytes())
    codes = encoder.encode_categories({"route_id": np.array(["Blue", "Red", "Mattapan", None], dtype=object)})
    assert codes[:, 0].tolist() == [1, 2, UNKNOWN_CODE, UNKNOWN_CODE]
    assert encoder.vocabularies == {"route_id": ["Blue", "Red"]}
