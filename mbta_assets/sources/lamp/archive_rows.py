"""Conversion of the archive's rows of a service day to the upstream tables.

The archive has a row for each trip and stop, with when the vehicle was first seen on its way there and first seen
standing there: two reports, as which it is read. Columns and types have changed over the years; they are read by name.
"""

import json
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as arrow
import pyarrow.compute as pc
from pyarrow import parquet

from mbta_assets.sources.contract import Fault
from mbta_assets.transit.formulas import UNSCHEDULED_TRIP_PREFIXES
from mbta_assets.transit.service_day import start_time

TEXTS = ("trip_id", "stop_id", "vehicle_id", "route_id", "direction_destination")
NUMBERS = (
    "service_date",
    "direction_id",
    "stop_sequence",
    "move_timestamp",
    "stop_timestamp",
    "scheduled_arrival_time",
    "scheduled_departure_time",
)
REQUIRED = ("trip_id", "stop_id", "vehicle_id", "move_timestamp", "stop_timestamp", "scheduled_arrival_time")
"""Columns that a file must have; values of another one that is absent are missing."""
PREDICTED_STOP = "agency_prediction"
"""Reason for which a time of a stop is rejected that the archive took from the agency's prediction."""
MAX_SECONDS = 10**11
"""Largest time in epoch seconds that is read as it is; conformance rejects it, like all that are not of the day."""
UTC_MICROSECONDS = arrow.timestamp("us", "UTC")


def read_rows(path: Path, service_date: date) -> pd.DataFrame:
    """Read the columns that are used, missing where a file does not have them. Raises Fault.

    Ids are text, and all other columns Int64: `service_date` as YYYYMMDD, observed times in epoch seconds, scheduled
    ones in seconds since the start of the service day. A file without a byte has no rows.
    """
    if not path.stat().st_size:
        return pd.DataFrame({name: pd.Series(dtype="str") for name in TEXTS} | {n: _no_numbers(0) for n in NUMBERS})
    try:
        with parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            rows = file.read([name for name in (*TEXTS, *NUMBERS) if name in names])
    except (arrow.ArrowException, OSError) as error:
        raise Fault(f"{path} cannot be read: {error}", "Remove it, and it is downloaded again") from error
    missing = next((name for name in REQUIRED if name not in names), None)
    if missing and len(rows):
        remedy = "The format of the archive has changed, and this version of the platform does not know it"
        raise Fault(f"the required column is missing in the file, which has {', '.join(names)}", remedy, missing)
    texts = {name: _to_text(rows, name) for name in TEXTS}
    frame = pd.DataFrame(texts | {name: _to_numbers(rows, name) for name in NUMBERS})
    return frame.fillna({"service_date": int(f"{service_date:%Y%m%d}")})


def find_predicted_stops(rows: pd.DataFrame) -> np.ndarray:
    """Return which rows (n,) have a time of the stop that no report of the vehicle can be the source of.

    Where the archive has no STOPPED_AT, it takes the agency's last prediction. It says so nowhere; but a vehicle that
    was seen at a later stop, or on its next trip, was not seen standing at this one after that. An earlier prediction
    cannot be told from a report.
    """
    first_seen = rows[["move_timestamp", "stop_timestamp"]].min(axis=1)
    ordered = first_seen.groupby(rows["vehicle_id"], sort=False)
    sequence = pd.DataFrame({"vehicle": ordered.ngroup(), "time": first_seen}).sort_values(["vehicle", "time"])
    next_seen = sequence.groupby("vehicle")["time"].shift(-1).reindex(rows.index)
    is_later = (rows["stop_timestamp"] > next_seen) & (rows["stop_timestamp"] < MAX_SECONDS)
    predicted: np.ndarray = is_later.fillna(False).to_numpy(dtype=bool)
    return predicted


def make_vehicle(rows: pd.DataFrame, positions: pd.DataFrame) -> arrow.Table:
    """Return a report for each time at which a vehicle was first seen on its way to a stop, and standing there.

    `positions` has `latitude` and `longitude` by stop. A vehicle has the position of the stop at which it stands; on
    its way, that of the stop of the trip where it was seen before, since it is the time at which it left.
    """
    first_seen = rows[["move_timestamp", "stop_timestamp"]].min(axis=1)
    ordered = rows.assign(first_seen=first_seen).sort_values("first_seen", kind="stable")
    previous_stop = ordered.groupby(["service_date", "vehicle_id", "trip_id"], dropna=False)["stop_id"].shift()
    moving = rows.assign(time=rows["move_timestamp"], status="IN_TRANSIT_TO", place=previous_stop)
    standing = rows.assign(time=rows["stop_timestamp"], status="STOPPED_AT", place=rows["stop_id"])
    reports = pd.concat([moving, standing[~find_predicted_stops(rows)]]).dropna(subset="time")
    reports = reports.sort_values(["time", "vehicle_id"], kind="stable")
    place = positions.reindex(reports["place"])
    return arrow.table(
        {
            "service_date": _to_days(reports["service_date"]),
            "id": _to_array(reports["vehicle_id"]),
            "updated_at": _to_times(reports["time"], 0),
            "current_status": _to_array(reports["status"]),
            "latitude": arrow.array(place["latitude"].to_numpy(), from_pandas=True),
            "longitude": arrow.array(place["longitude"].to_numpy(), from_pandas=True),
            "stop_id": _to_array(reports["stop_id"]),
            "trip_id": _to_array(reports["trip_id"]),
            "route_id": _to_array(reports["route_id"]),
            "direction_id": _to_array(reports["direction_id"]),
            "current_stop_sequence": _to_array(reports["stop_sequence"]),
        }
    )


def describe_predicted_stops(rows: pd.DataFrame) -> list[tuple[str, str, str]]:
    """Return reason, column and JSON of each row with a predicted time of the stop; see `rejection.describe_rows`."""
    predicted = rows[find_predicted_stops(rows)]
    return [(PREDICTED_STOP, "stop_timestamp", json.dumps(_to_plain(row))) for row in predicted.to_dict("records")]


def make_trip(rows: pd.DataFrame) -> arrow.Table:
    """Return the trips, each with the first route, direction and destination that its rows have."""
    trips = rows.groupby(["service_date", "trip_id"], as_index=False)[
        ["route_id", "direction_id", "direction_destination"]
    ].first()
    return arrow.table(
        {
            "service_date": _to_days(trips["service_date"]),
            "id": _to_array(trips["trip_id"]),
            "name": arrow.nulls(len(trips), arrow.string()),
            "route_id": _to_array(trips["route_id"]),
            "direction_id": _to_array(trips["direction_id"]),
            "headsign": _to_array(trips["direction_destination"]),
        }
    )


def make_schedule(rows: pd.DataFrame, service_date: date) -> arrow.Table:
    """Return the scheduled times of the stops that were served, once for each trip and stop.

    Trips that were added have those of a trip that was scheduled at about their time, which are left out.
    """
    is_added = rows["trip_id"].fillna("").str.startswith(UNSCHEDULED_TRIP_PREFIXES)
    has_time = rows[["scheduled_arrival_time", "scheduled_departure_time"]].notna().any(axis=1)
    times = rows[has_time & ~is_added].drop_duplicates(["service_date", "trip_id", "stop_id", "stop_sequence"])
    start = int(start_time(service_date).timestamp())
    return arrow.table(
        {
            "service_date": _to_days(times["service_date"]),
            "trip_id": _to_array(times["trip_id"]),
            "stop_id": _to_array(times["stop_id"]),
            "arrival_time": _to_times(times["scheduled_arrival_time"], start),
            "departure_time": _to_times(times["scheduled_departure_time"], start),
            "stop_sequence": _to_array(times["stop_sequence"]),
        }
    )


def _to_text(rows: arrow.Table, name: str) -> pd.Series:
    if name not in rows.column_names:
        return pd.Series([None] * len(rows), dtype=object)
    column = rows[name]
    if arrow.types.is_floating(column.type):
        column = _cast(column, name, arrow.int64())
    return _cast(column, name, arrow.string()).to_pandas().astype(object)


def _to_numbers(rows: arrow.Table, name: str) -> pd.Series:
    """Return whole numbers; those of a boolean are 0 and 1, of a time its epoch seconds, of a day YYYYMMDD."""
    if name not in rows.column_names:
        return _no_numbers(len(rows))
    column = rows[name]
    if arrow.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if arrow.types.is_timestamp(column.type) and name != "service_date":
        column = column.cast(arrow.timestamp("s", column.type.tz), safe=False)
    if arrow.types.is_temporal(column.type) and name == "service_date":
        column = pc.strftime(column, "%Y%m%d")
    if arrow.types.is_string(column.type) or arrow.types.is_large_string(column.type):
        column = pc.replace_substring(column, "-", "") if name == "service_date" else column
    if arrow.types.is_floating(column.type):
        column = pc.round(pc.if_else(pc.is_finite(column), column, None))
    numbers = _cast(column, name, arrow.int64())
    return pd.Series(numbers.combine_chunks(), dtype=pd.ArrowDtype(arrow.int64())).astype("Int64")


def _cast(column: arrow.ChunkedArray, name: str, target: arrow.DataType) -> arrow.ChunkedArray:
    try:
        return column.cast(target)
    except (arrow.ArrowInvalid, arrow.ArrowNotImplementedError) as error:
        remedy = "The format of the archive has changed, and this version of the platform does not know it"
        raise Fault(f"wrong type {column.type} in the file: {error}", remedy, name) from error


def _no_numbers(n: int) -> pd.Series:
    return pd.Series(pd.array([pd.NA] * n, dtype="Int64"))


def _to_array(values: pd.Series) -> arrow.Array:
    target = arrow.int64() if values.dtype == "Int64" else arrow.string()
    return arrow.array(values, target, from_pandas=True)


def _to_days(days: pd.Series) -> arrow.Array:
    """Return days of numbers YYYYMMDD; None for a number that is no day."""
    distinct = {day: _parse_day(day) for day in days.unique().tolist()}
    return arrow.array([distinct[day] for day in days], arrow.date32())


def _parse_day(number: int) -> date | None:
    try:
        return date(number // 10_000, number // 100 % 100, number % 100)
    except ValueError:
        return None


def _to_times(seconds: pd.Series, start: int) -> arrow.Array:
    microseconds = (seconds.clip(-MAX_SECONDS, MAX_SECONDS) + start) * 1_000_000
    return arrow.array(microseconds, arrow.int64(), from_pandas=True).cast(UTC_MICROSECONDS)


def _to_plain(row: dict[Any, Any]) -> dict[str, Any]:
    return {str(name): None if pd.isna(value) else value for name, value in row.items()}
