"""What every table holds: name, type, unit, range and meaning of each column, written once.

The Parquet files, the pandera checks, Dagster's column schema and the data dictionary all come
from these models. A model describes one table; nothing here reads or computes.
"""

from typing import Annotated, Any

import numpy as np
import pandas as pd
import pandera.pandas as pa
import pyarrow as arrow
from pandera.typing import Series

from mbta_assets.transit.formulas import SEASONS, STATUSES, STOPS_AHEAD

Text = Annotated[pd.StringDtype, "pyarrow", pd.NA]
Timestamp = Annotated[pd.DatetimeTZDtype, "us", "UTC"]
Date = Annotated[pd.ArrowDtype, arrow.date32()]
Integer = pd.Int64Dtype
Single = np.float32


def column(description: str, unit: str | None = None, *, role: str = "", required: bool = True, **rules: Any) -> Any:
    """One column: its meaning, its unit, what it is to a model, and what values it may take.

    `role` is "numeric" or "category" for what a model reads, "label" for what it learns, and empty for the rest.
    `required` says whether a source must have it.
    """
    return pa.Field(description=description, metadata={"unit": unit, "role": role, "required": required}, **rules)


def optional(description: str, unit: str | None = None, **rules: Any) -> Any:
    """A column that may be lacking or missing."""
    return column(description, unit, required=False, nullable=True, **rules)


class Table(pa.DataFrameModel):
    """What all tables share."""

    service_date: Series[Date] = column("The service day, which turns at 3 am in Boston.")

    class Config:
        strict = True


def ordered_by(*names: str) -> Any:
    """A model's configuration that says what its rows are ordered by; see `row_order`."""

    class Config(Table.Config):
        metadata = {"order": names}

    return Config


class Vehicle(Table):
    """Where each vehicle said it was: one row for each published update, duplicates included."""

    id: Series[Text] = column("The vehicle.")
    updated_at: Series[Timestamp] = column("When the vehicle reported, UTC.")
    current_status: Series[Text] = column("How the vehicle stands to `stop_id`.", isin=STATUSES)
    latitude: Series[float] = column("Position.", "degrees", nullable=True, ge=-90, le=90)
    longitude: Series[float] = column("Position.", "degrees", nullable=True, ge=-180, le=180)
    stop_id: Series[Text] = column("The stop it is at or goes to; missing when unknown.", nullable=True)
    trip_id: Series[Text] = column("The trip it serves, unique only within the service day.", nullable=True)
    route_id: Series[Text] = optional("The route it serves.")
    direction_id: Series[Integer] = optional("The direction it serves.", isin=(0, 1))
    current_stop_sequence: Series[Integer] = optional("Position of `stop_id` in the trip, as the feed counts.")
    bearing: Series[float] = optional("Heading, clockwise from north.", "degrees")
    speed: Series[float] = optional("Speed.", "metres per second")
    occupancy_status: Series[Text] = optional("How full it is, as the feed says.")

    Config = ordered_by("updated_at", "id")


class Trip(Table):
    """The trips of the service day."""

    id: Series[Text] = column("The trip.")
    name: Series[Text] = column("The name riders know; often empty.", nullable=True)
    route_id: Series[Text] = optional("The route it belongs to.")
    direction_id: Series[Integer] = optional("The direction it runs in.", isin=(0, 1))
    headsign: Series[Text] = optional("Where it says it goes.")

    Config = ordered_by("id")


class Stop(Table):
    """The platforms of the service day."""

    id: Series[Text] = column("The platform.")
    name: Series[Text] = column("The station.", nullable=True)
    platform_name: Series[Text] = column("The platform, as signed.", nullable=True)
    latitude: Series[float] = column("Position.", "degrees", nullable=True, ge=-90, le=90)
    longitude: Series[float] = column("Position.", "degrees", nullable=True, ge=-180, le=180)
    parent_station: Series[Text] = optional("The station it belongs to.")

    Config = ordered_by("id")


class Schedule(Table):
    """When each trip should be at each of its stops."""

    trip_id: Series[Text] = column("The trip.")
    stop_id: Series[Text] = column("The stop.")
    arrival_time: Series[Timestamp] = column("Scheduled arrival, UTC; missing where a trip begins.", nullable=True)
    departure_time: Series[Timestamp] = column("Scheduled departure, UTC; missing where it ends.", nullable=True)
    stop_sequence: Series[Integer] = optional("Position in the trip, as the feed counts.")

    Config = ordered_by("trip_id", "departure_time", "arrival_time")


_BY_MOMENT = ("time_stamp", "vehicle_id", "trip_id", "stops_ahead")


class RawTransitData(Table):
    """One row for each vehicle update and each stop ahead of it: what was known, and when it then arrived."""

    time_stamp: Series[Timestamp] = column("When the vehicle reported, UTC.")
    vehicle_id: Series[Text] = column("The vehicle.")
    current_status: Series[Text] = column("How the vehicle stood to `current_stop_id`.", isin=STATUSES)
    current_stop_id: Series[Text] = column("The stop it stood at or went to.")
    stops_behind: Series[Integer] = column("Stops of the trip it stood at or had left.", "stops", ge=0)
    scheduled_last_departure: Series[Timestamp] = optional(
        "Scheduled departure from the stop it stood at or last left."
    )
    current_latitude: Series[float] = column("Where it was.", "degrees", nullable=True)
    current_longitude: Series[float] = column("Where it was.", "degrees", nullable=True)
    stops_ahead: Series[Integer] = column("How many stops ahead the destination was.", "stops", isin=STOPS_AHEAD)
    stop_id: Series[Text] = column("The destination: the stop the row is about.")
    destination: Series[Text] = optional("Station of the destination.")
    platform_name: Series[Text] = optional("Platform of the destination.")
    destination_latitude: Series[float] = optional("Where the destination is.", "degrees")
    destination_longitude: Series[float] = optional("Where the destination is.", "degrees")
    trip_id: Series[Text] = column("The trip, unique only within the service day.")
    trip_name: Series[Text] = optional("The name riders know.")
    route_id: Series[Text] = optional("The route.")
    direction_id: Series[Integer] = optional("The direction.", isin=(0, 1))
    scheduled_departure: Series[Timestamp] = optional("Scheduled departure from the destination, UTC.")
    scheduled_arrival: Series[Timestamp] = column("Scheduled arrival at the destination, UTC.")
    actual_arrival_time: Series[Timestamp] = optional("First STOPPED_AT at the destination, UTC; missing if unseen.")

    Config = ordered_by(*_BY_MOMENT)


def seconds(description: str, **rules: Any) -> Any:
    """A numeric feature in seconds, missing where it is not known."""
    return column(description, "seconds", role="numeric", nullable=True, **rules)


class TransitFeatures(Table):
    """What was known at `time_stamp` about the arrival at one stop ahead, and the delay it then had."""

    time_stamp: Series[Timestamp] = column("The moment of the prediction: nothing later is known, UTC.")
    vehicle_id: Series[Text] = column("The vehicle.")
    trip_id: Series[Text] = column("The trip, unique only within the service day.")
    stop_id: Series[Text] = column("The destination.", role="category")
    stops_ahead: Series[Integer] = column("Stops to the destination.", "stops", role="category", isin=STOPS_AHEAD)
    current_stop_id: Series[Text] = column("The stop it stands at or goes to.", role="category")
    current_status: Series[Text] = column("How it stands to that stop.", role="category", isin=STATUSES)
    route_id: Series[Text] = column("The route.", role="category", required=False, nullable=True)
    direction_id: Series[Integer] = column("The direction.", role="category", nullable=True, isin=(0, 1))
    season: Series[Text] = column("Season of the service day.", role="category", isin=tuple(SEASONS))
    scheduled_arrival: Series[Timestamp] = column("Scheduled arrival at the destination, UTC.")
    actual_arrival_time: Series[Timestamp] = optional("When it arrived, UTC; missing if unseen.")
    vehicle_cell: Series[Integer] = optional("H3 cell of the vehicle, resolution 9.")
    destination_cell: Series[Integer] = optional("H3 cell of the destination, resolution 9.")
    month: Series[Single] = column("Month of the service day.", role="numeric", ge=1, le=12)
    day_of_week: Series[Single] = column("Day of the week, Monday is 0.", role="numeric", ge=0, le=6)
    day_of_year: Series[Single] = column("Day of the year.", role="numeric", ge=1, le=366)
    sin_time: Series[Single] = column("Time of the service day on a circle.", role="numeric", ge=-1, le=1)
    cos_time: Series[Single] = column("Time of the service day on a circle.", role="numeric", ge=-1, le=1)
    stops_behind: Series[Single] = column("Stops it stands at or has left.", "stops", role="numeric", ge=0)
    distance_travel_miles: Series[Single] = column(
        "Great-circle distance to the destination.", "miles", role="numeric", nullable=True, ge=0, le=12_500
    )
    scheduled_seconds_ahead: Series[Single] = seconds("Until the scheduled arrival; negative once that has passed.")
    seconds_late_already: Series[Single] = seconds("Past the scheduled arrival, else 0.", ge=0)
    scheduled_run_seconds: Series[Single] = seconds("From the last scheduled departure to the scheduled arrival.")
    seconds_in_state: Series[Single] = seconds("Since it began to stand here, or to go there.", ge=0)
    departure_delay_seconds: Series[Single] = seconds("Departure from the last stop, or now if it still stands, late.")
    last_delay_seconds: Series[Single] = seconds("Delay at the last stop the trip reached.")
    last_change_seconds: Series[Single] = seconds("How much delay it gained between its last two stops.")
    seconds_since_last_arrival: Series[Single] = seconds("Since the trip last reached a stop.", ge=0)
    leader_headway_seconds: Series[Single] = seconds("Since the last vehicle arrived at the destination.", ge=0)
    leader_delay_seconds: Series[Single] = seconds("How late that vehicle was.")
    platform_headway_seconds: Series[Single] = seconds("Since another vehicle last arrived at the current stop.", ge=0)
    platform_clear_seconds: Series[Single] = seconds("Since that vehicle left again.", ge=0)
    platform_occupied: Series[Single] = column("Whether it still stands there.", role="numeric", isin=(0, 1))
    last_run_seconds: Series[Single] = seconds("The latest completed run over this stretch, by any vehicle.", ge=0)
    recent_run_seconds: Series[Single] = seconds("Mean of the latest three such runs.", ge=0)
    route_delay_seconds: Series[Single] = seconds("Mean delay of the route and direction over the last 30 minutes.")
    route_change_seconds: Series[Single] = seconds("Mean delay gained a stop there over the last 30 minutes.")
    delay_seconds: Series[float] = column(
        "Actual minus scheduled arrival, + is late; missing where no arrival was seen.",
        "seconds", role="label", nullable=True, ge=-1800, le=12 * 3600,
    )  # fmt: skip

    Config = ordered_by(*_BY_MOMENT)


class DelayPredictions(Table):
    """What the production model says of each row of `transit_features`, labelled or not, in the same order."""

    time_stamp: Series[Timestamp] = column("The moment of the prediction, UTC.")
    vehicle_id: Series[Text] = column("The vehicle.")
    trip_id: Series[Text] = column("The trip, unique only within the service day.")
    stop_id: Series[Text] = column("The destination.")
    stops_ahead: Series[Integer] = column("Stops to the destination.", "stops", isin=STOPS_AHEAD)
    route_id: Series[Text] = optional("The route.")
    scheduled_arrival: Series[Timestamp] = column("Scheduled arrival at the destination, UTC.")
    predicted_delay_seconds: Series[float] = column("How late it will be, + is late.", "seconds")
    predicted_arrival: Series[Timestamp] = column("Scheduled arrival plus the predicted delay, UTC.")
    model_version: Series[Text] = column("Digest of the production bundle that said so.")

    Config = ordered_by(*_BY_MOMENT)


class PredictionAccuracy(Table):
    """How well the predictions of a service day came true, and how far it is from what their model learned from."""

    model_version: Series[Text] = column("Digest of the production bundle; missing without predictions.", nullable=True)
    measure: Series[Text] = column("What was measured; seconds where its name says so, else a share or a ratio.")
    dimension: Series[Text] = column("What the predictions were grouped by; `all` where they were not.")
    member: Series[Text] = column("Which group.")
    n: Series[Integer] = column("How many predictions were judged.", ge=0)
    value: Series[float] = column("The measure; missing where there was nothing to judge.", nullable=True)

    Config = ordered_by("measure", "dimension", "member")


UPSTREAM: dict[str, type[Table]] = {"vehicle": Vehicle, "trip": Trip, "stop": Stop, "schedule": Schedule}
TABLES: dict[str, type[Table]] = {
    **UPSTREAM,
    "raw_transit_data": RawTransitData,
    "transit_features": TransitFeatures,
    "delay_predictions": DelayPredictions,
    "prediction_accuracy": PredictionAccuracy,
}


def columns(table: type[Table], role: str) -> list[str]:
    """Names of a table's columns that play a role, in order."""
    return [name for name, spec in table.to_schema().columns.items() if spec.metadata["role"] == role]


def meaning(column: Any) -> str:
    """What a column of a model means, with its unit."""
    unit = column.metadata["unit"]
    return f"{column.description} [{unit}]" if unit else column.description


def typed(frame: pd.DataFrame, table: type[Table]) -> pd.DataFrame:
    """The table's columns of a frame, in order and with the table's types."""
    return to_frame(arrow.Table.from_pandas(frame, arrow_schema(table), preserve_index=False))


def arrow_schema(table: type[Table]) -> arrow.Schema:
    """The Arrow schema of a table: its columns in order, with their types."""
    return arrow.schema([(name, _arrow_type(spec.dtype.type)) for name, spec in table.to_schema().columns.items()])


def row_order(table: type[Table]) -> list[str]:
    """What stored rows are ordered by, ascending and missing values first: the order of the model, then all the rest.

    A warehouse keeps no order. With one that the values alone decide, rows read back are those that were written.
    """
    config: Any = table.Config
    first = config.metadata["order"]
    return [*first, *(name for name in table.to_schema().columns if name not in (*first, "service_date"))]


def days(column: pd.Series) -> np.ndarray:
    """Service days (n,) datetime64[D] of a column with few different ones."""
    codes, distinct = pd.factorize(column)
    return np.array(distinct, dtype="datetime64[D]")[codes]


def empty(table: type[Table]) -> pd.DataFrame:
    """A frame of the table without rows, every column with its type."""
    return to_frame(arrow_schema(table).empty_table())


def to_frame(table: arrow.Table) -> pd.DataFrame:
    """Arrow to pandas with the types the models name: Arrow text and dates, nullable integers."""
    return table.replace_schema_metadata(None).to_pandas(types_mapper=_FRAME_TYPES.get)


_FRAME_TYPES = {
    arrow.string(): pd.StringDtype("pyarrow"),
    arrow.date32(): pd.ArrowDtype(arrow.date32()),
    arrow.int64(): pd.Int64Dtype(),
}


def _arrow_type(dtype: Any) -> arrow.DataType:
    if isinstance(dtype, pd.StringDtype):
        return arrow.string()
    if isinstance(dtype, pd.DatetimeTZDtype):
        return arrow.timestamp("us", tz="UTC")
    if isinstance(dtype, pd.ArrowDtype):
        return dtype.pyarrow_dtype
    if isinstance(dtype, pd.Int64Dtype):
        return arrow.int64()
    return arrow.from_numpy_dtype(dtype)
