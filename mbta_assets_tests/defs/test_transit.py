"""What the pages of the assets of `transit` show."""

import numpy as np
import pandas as pd
import pyarrow as arrow

from mbta_assets.defs.transit import describe_features
from mbta_assets.transit import schema


def test_a_day_has_plots_of_its_labels_and_of_its_missing_values() -> None:
    numeric = schema.columns_with_role(schema.TransitFeatures, "numeric")
    rows = pd.DataFrame({name: [1.0, np.nan] for name in numeric}).assign(
        service_date=pd.Timestamp("2024-09-10"),
        time_stamp=pd.Timestamp("2024-09-10 14:00"),
        route_id=pd.Series(["Red", None], dtype="string"),
        delay_seconds=[30.0, np.nan],
    )
    features = arrow.Table.from_pandas(rows)
    plots = describe_features(features)
    assert list(plots) == [
        "labels_by_hour", "labels_by_route", "missing_values", "missing_values_by_hour_and_route"
    ]  # fmt: skip
    assert all(plot.value.startswith("![plot](data:image/png;base64,") for plot in plots.values())
    assert describe_features(features[:0]) == {}
