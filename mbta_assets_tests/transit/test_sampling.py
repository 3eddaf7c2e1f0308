"""Samples of a day: the same rows whatever their order, and whole reports among them."""

import numpy as np
import pandas as pd
import pyarrow as arrow

from mbta_assets.transit.distances import REPORT_KEY
from mbta_assets.transit.sampling import REPORT_SHARE, sample_rows, sample_table
from mbta_assets.transit.schema import to_frame


def make_rows(n_reports: int) -> pd.DataFrame:
    """Return reports of one to six rows each."""
    sizes = np.arange(n_reports) % 6 + 1
    report = np.repeat(np.arange(n_reports), sizes)
    return pd.DataFrame(
        {
            "service_date": pd.Timestamp("2024-03-06"),
            "trip_id": (report % 50).astype(str),
            "vehicle_id": "v",
            "time_stamp": pd.Timestamp("2024-03-06 12:00", tz="UTC") + pd.to_timedelta(report, unit="s"),
            "stop_sequence": np.concatenate([np.arange(size) for size in sizes]),
        }
    )


def test_a_tenth_of_a_sample_is_whole_reports_and_its_size_is_exact() -> None:
    rows = make_rows(3_000)
    sample = sample_rows(rows, 1_000)
    assert len(sample) == 1_000
    sizes, sampled = rows.groupby(REPORT_KEY).size(), sample.groupby(REPORT_KEY).size()
    several = sampled[sizes[sampled.index] > 1]
    whole = several[several == sizes[several.index]].sum()
    assert whole >= 0.8 * REPORT_SHARE * len(sample)
    assert len(several) > len(several[several == sizes[several.index]]), "single rows are sampled too"


def test_every_row_is_as_likely_as_any_other() -> None:
    rows = make_rows(20_000)
    sample = sample_rows(rows, 7_000)
    share = sample.groupby("stop_sequence").size() / rows.groupby("stop_sequence").size()
    np.testing.assert_allclose(share, 0.1, atol=0.015)


def test_a_sample_does_not_depend_on_the_order_of_the_rows() -> None:
    rows = make_rows(500)
    shuffled = sample_rows(rows.sample(frac=1, random_state=1), 200)
    pd.testing.assert_frame_equal(sample_rows(rows, 200), shuffled.sort_index())


def test_a_small_day_is_taken_whole() -> None:
    rows = make_rows(10)
    assert sample_rows(rows, len(rows)) is rows


def test_a_table_is_sampled_as_a_frame_is() -> None:
    table = arrow.Table.from_pandas(make_rows(1_000), preserve_index=False)
    for max_rows in (300, len(table)):
        expected = sample_rows(to_frame(table), max_rows).reset_index(drop=True)
        pd.testing.assert_frame_equal(sample_table(table, max_rows), expected)
