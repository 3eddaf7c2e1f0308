"""Rows of the archive become the rows of the upstream tables that the documentation says, whatever their types."""

import re
from datetime import UTC, date, datetime
from pathlib import Path

import pandas as pd
import pyarrow as arrow
import pytest

from mbta_assets.sources import Source, SourceError, SourceRows
from mbta_assets.sources.files import FilesSource
from mbta_assets.sources.lamp.archive_rows import PREDICTED_STOP
from mbta_assets.transit import schema
from mbta_assets_tests.support import plain_day, real_day
from mbta_assets_tests.support.lamp_archive import (
    SAMPLE_DAY,
    ServedArchive,
    convert_upstream,
    make_stops,
    read_sample,
    to_parquet,
)

pytestmark = pytest.mark.integration

DOCUMENT = Path(__file__).parents[3] / "docs/lamp.md"
ON_TIME, TURNED = "60746253-20:45-HarvardParkSuspend", "60746383-20:45-HarvardParkSuspend"


def read(archive: ServedArchive, rows: arrow.Table, day: date = SAMPLE_DAY) -> dict[str, SourceRows]:
    """Serve rows of the archive as a service day, and return its upstream tables."""
    archive.add_day(day, to_parquet(rows), str(len(archive.answers)))
    archive.add_stops(day.year, make_stops(read_sample()))
    source = archive.open_source()
    return {table: source.read(table, day) for table in schema.UPSTREAM}


def cast(rows: arrow.Table, **types: arrow.DataType) -> arrow.Table:
    """Return rows with columns of other types."""
    for name, target in types.items():
        rows = rows.set_column(rows.column_names.index(name), name, rows[name].cast(target))
    return rows


def of_trip(read: SourceRows, trip: str, column: str = "trip_id") -> pd.DataFrame:
    """Return the rows of a trip."""
    return read.rows[read.rows[column] == trip]


def label(source: Source, day: date) -> pd.DataFrame:
    """Return the trip, stop and time of each arrival that the join labels predictions with."""
    joined = plain_day.join({table: source.read(table, day).rows for table in schema.UPSTREAM}, day)
    arrivals = joined[joined["stops_ahead"] > 0]
    columns = ["trip_id", "stop_id", "actual_arrival_time"]
    return arrivals[columns].dropna().drop_duplicates().sort_values(columns, ignore_index=True)


@pytest.mark.parametrize("table", ["vehicle", "trip", "schedule"])
def test_rows_become_what_is_documented(archive: ServedArchive, table: str) -> None:
    """The documentation has the rows of a trip, in tables whose first column is of that name."""
    text = DOCUMENT.read_text().partition(f"\n`{table}`:\n")[2].strip().partition("\n\n")[0]
    header, _, *lines = [[cell.strip("` ") for cell in re.split(r"\|", line)[1:-1]] for line in text.splitlines()]
    rows = of_trip(read(archive, read_sample())[table], ON_TIME, "id" if table == "trip" else "trip_id")
    shown = rows[header].astype("string").fillna("")
    assert [list(row) for row in shown.itertuples(index=False)] == lines


def test_the_sample_is_read_whole(archive: ServedArchive) -> None:
    tables = read(archive, read_sample())
    sample = read_sample().to_pandas()
    times = sample["move_timestamp"].count() + sample["stop_timestamp"].count()
    predicted = tables["vehicle"].rejected
    assert (len(sample), times, len(predicted)) == (2417, 4700, 17)
    assert len(tables["vehicle"].rows) == times - len(predicted)
    assert len(tables["trip"].rows) == sample["trip_id"].nunique()
    scheduled = sample[~sample["trip_id"].str.startswith(("ADDED-", "NONREV-"))]
    assert len(tables["schedule"].rows) == len(scheduled)
    assert len(tables["stop"].rows) == sample["stop_id"].nunique()
    assert all(tables[table].rejected.empty for table in ("trip", "stop", "schedule"))


def test_a_stop_after_the_vehicle_was_seen_elsewhere_is_a_prediction_of_the_agency(archive: ServedArchive) -> None:
    """At terminals the vehicle is on its next trip before it is reported to stand there."""
    vehicle = read(archive, read_sample())["vehicle"]
    assert set(vehicle.rejected["reason"]) == {PREDICTED_STOP}
    assert set(vehicle.rejected["column_name"]) == {"stop_timestamp"}
    turned = of_trip(vehicle, TURNED)
    # It left for Harvard at 9:26 am, was elsewhere from 9:31 am, and stood at Harvard at 12:05 pm, says the archive.
    at_harvard = turned[turned["stop_id"] == "70068"]
    assert list(at_harvard["current_status"]) == ["IN_TRANSIT_TO"]
    assert list(at_harvard["updated_at"]) == [datetime(2024, 2, 7, 14, 26, 31, tzinfo=UTC)]
    [row] = [row for row in vehicle.rejected["row"] if TURNED in row and '"70068"' in row]
    assert '"stop_timestamp": 1707325514' in row


def test_added_trips_are_vehicles_without_a_schedule(archive: ServedArchive) -> None:
    tables = read(archive, read_sample())
    for prefix in ("ADDED-", "NONREV-"):
        assert tables["vehicle"].rows["trip_id"].str.startswith(prefix).any()
        assert tables["trip"].rows["id"].str.startswith(prefix).any()
        assert not tables["schedule"].rows["trip_id"].str.startswith(prefix).any()


def test_a_vehicle_has_the_position_of_the_stop_at_which_it_stands_or_which_it_has_left(
    archive: ServedArchive,
) -> None:
    tables = read(archive, read_sample())
    places = tables["stop"].rows.set_index("id")[["latitude", "longitude"]]
    reports = of_trip(tables["vehicle"], ON_TIME)
    assert list(reports["stop_id"]) == ["70092", "70092", "70088", "70088", "70076", "70076"]
    expected = places.reindex([None, "70092", "70092", "70088", "70088", "70076"])
    pd.testing.assert_frame_equal(
        reports[["latitude", "longitude"]].reset_index(drop=True), expected.reset_index(drop=True)
    )


@pytest.mark.parametrize(
    ("day", "utc"),
    [
        (date(2024, 3, 9), "2024-03-10 06:30"),  # 1:30 am of the next day
        (date(2024, 3, 10), "2024-03-11 05:30"),  # the clocks went forward
        (date(2024, 11, 3), "2024-11-04 06:30"),  # the clocks went back
    ],
)
def test_scheduled_times_count_from_noon_minus_twelve_hours_and_may_be_after_midnight(
    archive: ServedArchive, day: date, utc: str
) -> None:
    row = {
        "service_date": [int(f"{day:%Y%m%d}")],
        "trip_id": ["1"],
        "stop_id": ["70061"],
        "vehicle_id": ["R-1"],
        "move_timestamp": arrow.array([None], arrow.int64()),
        "stop_timestamp": [int(pd.Timestamp(utc, tz="UTC").timestamp()) + 40],
        "scheduled_arrival_time": [25 * 3600 + 1800],
    }
    tables = read(archive, arrow.table(row), day)
    assert list(tables["schedule"].rows["arrival_time"]) == [pd.Timestamp(utc, tz="UTC")]
    assert list(tables["vehicle"].rows["updated_at"]) == [pd.Timestamp(utc, tz="UTC") + pd.Timedelta(seconds=40)]


def test_types_of_other_years_mean_the_same(archive: ServedArchive) -> None:
    rows = read_sample(200)
    expected = read(archive, rows)
    text, whole, real = arrow.string(), arrow.int64(), arrow.float64()
    variants = {
        "direction as a number": cast(rows, direction_id=arrow.int8()),
        "numbers as floats": cast(rows, move_timestamp=real, stop_timestamp=real, scheduled_arrival_time=real),
        "small numbers": cast(rows, stop_sequence=whole, service_date=arrow.int32()),
        "times as times": cast(
            rows, move_timestamp=arrow.timestamp("s", "UTC"), stop_timestamp=arrow.timestamp("s", "UTC")
        ),
        "dictionaries": cast(rows, route_id=arrow.dictionary(arrow.int32(), text), stop_id=text, vehicle_id=text),
        "the day as text": cast(rows, service_date=text),
        "another order, and more columns": rows.select(sorted(rows.column_names)).append_column(
            "is_revenue", arrow.array([True] * len(rows))
        ),
    }
    for name, variant in variants.items():
        tables = read(archive, variant)
        for table in schema.UPSTREAM:
            pd.testing.assert_frame_equal(tables[table].rows, expected[table].rows, obj=f"{table}, {name}")


def test_optional_columns_may_be_absent(archive: ServedArchive) -> None:
    optional = ["direction_id", "direction_destination", "route_id", "stop_sequence", "scheduled_departure_time"]
    rows = read_sample(200)
    expected, tables = read(archive, rows), read(archive, rows.drop_columns([*optional, "service_date"]))
    assert len(tables["schedule"].rows) == len(expected["schedule"].rows)
    columns = ["id", "updated_at", "current_status", "stop_id", "trip_id", "latitude"]
    pd.testing.assert_frame_equal(tables["vehicle"].rows[columns], expected["vehicle"].rows[columns])
    assert tables["vehicle"].rows[["route_id", "direction_id", "current_stop_sequence"]].isna().all(axis=None)


@pytest.mark.parametrize("name", ["trip_id", "stop_id", "vehicle_id", "move_timestamp", "scheduled_arrival_time"])
def test_a_required_column_that_is_absent_is_an_error_that_names_it(archive: ServedArchive, name: str) -> None:
    message = f"source lamp, table vehicle, column {name}, service day 2024-02-07: the required column is missing"
    with pytest.raises(SourceError, match=message):
        read(archive, read_sample(10).drop_columns([name]))


def test_a_column_of_another_type_is_an_error_that_names_it(archive: ServedArchive) -> None:
    rows = read_sample(10)
    rows = rows.set_column(rows.column_names.index("stop_timestamp"), "stop_timestamp", [["noon"] * 10])
    with pytest.raises(SourceError, match="column stop_timestamp, service day 2024-02-07: wrong type string"):
        read(archive, rows)


def test_a_row_that_cannot_be_used_is_rejected_by_itself(archive: ServedArchive) -> None:
    frame = read_sample(50).to_pandas(types_mapper=pd.ArrowDtype)
    frame.loc[3, "vehicle_id"] = None
    frame.loc[4, "service_date"] = 20240206
    frame.loc[5, "stop_timestamp"] = 10**15
    frame.loc[6, "service_date"] = 99
    rows = arrow.Table.from_pandas(frame, schema=read_sample().schema, preserve_index=False)
    vehicle = read(archive, rows)["vehicle"]
    causes = set(zip(vehicle.rejected["reason"], vehicle.rejected["column_name"], strict=True))
    assert causes == {
        ("missing_value", "id"),
        ("other_service_day", "service_date"),
        ("time_out_of_range", "updated_at"),
        ("missing_value", "service_date"),
    }
    assert len(vehicle.rows) + len(vehicle.rejected) == frame[["move_timestamp", "stop_timestamp"]].count().sum()


def test_the_seed_day_in_the_format_of_the_archive_has_the_same_arrivals(
    archive: ServedArchive, seed_upstream: Path
) -> None:
    rows, stops = convert_upstream(seed_upstream, real_day.DAY)
    archive.add_day(real_day.DAY, to_parquet(rows))
    archive.add_stops(2023, stops)
    from_archive = label(archive.open_source(), real_day.DAY)
    assert len(from_archive) == 710
    pd.testing.assert_frame_equal(from_archive, label(FilesSource(seed_upstream), real_day.DAY))
