"""Define every table once: the name, type, unit, range and meaning of each of its columns.

Parquet files, pandera checks, Dagster's column schema, BigQuery schemas and the data dictionary come from these
models, and so do the feature groups that trainers and reports select columns by. Nothing here reads data or computes
features.
"""

import numpy as np
import pandas as pd
import pyarrow as arrow
from pandera.typing import Series

from mbta_assets.transit.formulas import SEASONS, STATUSES
from mbta_assets.transit.table import (
    FRAME_TYPES,
    FeatureGroup,
    Float32,
    Integer,
    Role,
    Table,
    Text,
    Timestamp,
    column,
    optional,
    ordered_by,
    seconds_feature,
    to_arrow_type,
)

ROW_KEY = ["service_date", "trip_id", "vehicle_id", "time_stamp", "stop_sequence"]
"""Columns that identify a row of `raw_transit_data`, `transit_features` and `delay_predictions`."""
EVENTS = ("arrival", "departure")
"""Values of `event`, as in GTFS-realtime: the arrival at a stop ahead, or the departure from the trip's first stop."""


class Vehicle(Table):
    """Vehicle positions: one row for each published update, duplicates included."""

    id: Series[Text] = column("Vehicle.")
    updated_at: Series[Timestamp] = column("Time of the update, UTC.")
    current_status: Series[Text] = column("Status of the vehicle with respect to `stop_id`.", isin=STATUSES)
    latitude: Series[float] = column("Position.", "degrees", nullable=True, ge=-90, le=90)
    longitude: Series[float] = column("Position.", "degrees", nullable=True, ge=-180, le=180)
    stop_id: Series[Text] = column("Stop that it stands at or goes to; missing when unknown.", nullable=True)
    trip_id: Series[Text] = column("Trip that it serves, unique only within the service day.", nullable=True)
    route_id: Series[Text] = optional("Route that it serves.")
    direction_id: Series[Integer] = optional("Direction that it serves.", isin=(0, 1))
    current_stop_sequence: Series[Integer] = optional("Stop sequence of `stop_id` in the trip, as in the feed.")
    bearing: Series[float] = optional("Bearing, clockwise from north.", "degrees")
    speed: Series[float] = optional("Speed.", "metres per second")
    occupancy_status: Series[Text] = optional("Occupancy status, as in the feed.")

    Config = ordered_by("updated_at", "id")


class Trip(Table):
    """Trips of the service day."""

    id: Series[Text] = column("Trip.")
    name: Series[Text] = column("Trip name shown to riders; often empty.", nullable=True)
    route_id: Series[Text] = optional("Route of the trip.")
    direction_id: Series[Integer] = optional("Direction of the trip.", isin=(0, 1))
    headsign: Series[Text] = optional("Headsign.")

    Config = ordered_by("id")


class Stop(Table):
    """Stops of the service day: the platforms of stations."""

    id: Series[Text] = column("Stop.")
    name: Series[Text] = column("Station name.", nullable=True)
    platform_name: Series[Text] = column("Platform name, as signed.", nullable=True)
    latitude: Series[float] = column("Position.", "degrees", nullable=True, ge=-90, le=90)
    longitude: Series[float] = column("Position.", "degrees", nullable=True, ge=-180, le=180)
    parent_station: Series[Text] = optional("Parent station.")

    Config = ordered_by("id")


class Schedule(Table):
    """Scheduled stop times of each trip."""

    trip_id: Series[Text] = column("Trip.")
    stop_id: Series[Text] = column("Stop.")
    arrival_time: Series[Timestamp] = column("Scheduled arrival, UTC; missing at the trip's origin.", nullable=True)
    departure_time: Series[Timestamp] = column("Scheduled departure, UTC; missing at its terminal.", nullable=True)
    stop_sequence: Series[Integer] = optional("Stop sequence in the trip, as in the feed.")
    timepoint: Series[Integer] = optional(
        "1 if a vehicle waits there for its scheduled departure, 0 if its times are approximate.", isin=(0, 1)
    )

    Config = ordered_by("trip_id", "departure_time", "arrival_time")


class AgencyPredictions(Table):
    """The agency's own predictions, as riders saw them: optional, and no input of any model."""

    predicted_at: Series[Timestamp] = column("Time of the prediction, UTC.")
    trip_id: Series[Text] = column("Trip.")
    stop_id: Series[Text] = column("Stop.")
    arrival_time: Series[Timestamp] = column(
        "Predicted arrival, UTC; missing where only a departure is predicted.", nullable=True
    )
    stop_sequence: Series[Integer] = optional("Stop sequence in the trip, as in the feed.")
    departure_time: Series[Timestamp] = optional("Predicted departure, UTC.")
    uncertainty: Series[Integer] = optional("Uncertainty, as in the feed.", "seconds")

    Config = ordered_by("predicted_at", "trip_id", "stop_sequence")


PRODUCTION, SHADOW = ROLES = ("production", "shadow")
"""Roles of a model on live traffic: what it predicts is served, or only archived."""
_PREDICTION_ORDER = ("time_stamp", "vehicle_id", "trip_id", "stops_ahead")


class RawTransitData(Table):
    """Point-in-time join: rows for each vehicle update about stops ahead of it, with the observed arrivals.

    An update has rows about the stops 1, 3, 5 and 10 ahead and about two others, chosen by a hash of its time;
    the first update of a vehicle on a trip in each ten minutes has rows about every stop ahead. With
    MBTA_STOPS_AHEAD=all every update has. A vehicle at the trip's first stop has a row about its departure too.
    """

    time_stamp: Series[Timestamp] = column("Time of the vehicle update, UTC.")
    vehicle_id: Series[Text] = column("Vehicle.")
    current_status: Series[Text] = column("Status with respect to `current_stop_id`.", isin=STATUSES)
    current_stop_id: Series[Text] = column("Stop that the vehicle stood at or went to.")
    current_stop_sequence: Series[Integer] = column(
        "Stop sequence of that visit, as in `schedule`; its position in the trip where that has none."
    )
    timepoint: Series[Integer] = optional("Timepoint of that visit, as in `schedule`.", isin=(0, 1))
    stops_behind: Series[Integer] = column("Stops of the trip that it stood at or had left.", "stops", ge=0)
    scheduled_last_departure: Series[Timestamp] = optional(
        "Scheduled departure from the stop that it stood at or last left, UTC."
    )
    current_latitude: Series[float] = column("Position of the vehicle.", "degrees", nullable=True)
    current_longitude: Series[float] = column("Position of the vehicle.", "degrees", nullable=True)
    event: Series[Text] = column("Event that the row is about.", isin=EVENTS)
    stops_ahead: Series[Integer] = column(
        "Number of stops to the destination; 0 for the departure from the first stop.", "stops", ge=0
    )
    stop_id: Series[Text] = column("Destination: the stop that the row is about.")
    stop_sequence: Series[Integer] = column("Stop sequence of the destination, as `current_stop_sequence`.")
    destination: Series[Text] = optional("Station name of the destination.")
    platform_name: Series[Text] = optional("Platform name of the destination.")
    destination_latitude: Series[float] = optional("Position of the destination.", "degrees")
    destination_longitude: Series[float] = optional("Position of the destination.", "degrees")
    trip_id: Series[Text] = column("Trip, unique only within the service day.")
    trip_name: Series[Text] = optional("Trip name shown to riders.")
    route_id: Series[Text] = optional("Route.")
    direction_id: Series[Integer] = optional("Direction.", isin=(0, 1))
    scheduled_departure: Series[Timestamp] = optional("Scheduled departure from the destination, UTC.")
    scheduled_arrival: Series[Timestamp] = column(
        "Scheduled arrival at the destination, UTC; for a departure the scheduled departure."
    )
    is_interpolated: Series[bool] = column("Whether `schedule` has no time there, so that it was interpolated.")
    actual_arrival_time: Series[Timestamp] = optional(
        "Time of the vehicle's first STOPPED_AT on this stop visit, UTC; missing if none was observed. For a departure "
        "the time of its first update on the way to the second stop."
    )

    Config = ordered_by(*_PREDICTION_ORDER)


class TransitFeatures(Table):
    """Features of an arrival at a stop ahead as known at `time_stamp`, and the observed delay as the label."""

    time_stamp: Series[Timestamp] = column("Time of the prediction; no feature uses later data, UTC.")
    vehicle_id: Series[Text] = column("Vehicle.")
    trip_id: Series[Text] = column("Trip, unique only within the service day.")
    stop_id: Series[Text] = column("Destination.", role="category")
    stop_sequence: Series[Integer] = column("Stop sequence of the destination.")
    event: Series[Text] = column("Event that is predicted.", isin=EVENTS)
    stops_ahead: Series[Integer] = column(
        "Number of stops to the destination; 0 for the departure from the first stop.", "stops", role="numeric", ge=0
    )
    current_stop_id: Series[Text] = column("Stop that the vehicle stands at or goes to.", role="category")
    current_status: Series[Text] = column("Status with respect to that stop.", role="category", isin=STATUSES)
    route_id: Series[Text] = column("Route.", role="category", required=False, nullable=True)
    direction_id: Series[Integer] = column("Direction.", role="category", nullable=True, isin=(0, 1))
    season: Series[Text] = column("Season of the service day.", role="category", group="calendar", isin=tuple(SEASONS))
    current_stop_sequence: Series[Integer] = column("Stop sequence of the visit of the current stop.")
    scheduled_arrival: Series[Timestamp] = column(
        "Scheduled arrival at the destination, UTC; for a departure the scheduled departure."
    )
    actual_arrival_time: Series[Timestamp] = optional("Observed arrival or departure, UTC; missing if none was seen.")
    vehicle_cell: Series[Integer] = optional("H3 cell of the vehicle, resolution 9.")
    destination_cell: Series[Integer] = optional("H3 cell of the destination, resolution 9.")
    month: Series[Float32] = column("Month of the service day.", role="numeric", group="calendar", ge=1, le=12)
    day_of_week: Series[Float32] = column("Day of the week, Monday is 0.", role="numeric", group="calendar", ge=0, le=6)
    day_of_year: Series[Float32] = column("Day of the year.", role="numeric", group="calendar", ge=1, le=366)
    sin_time: Series[Float32] = column(
        "Sine of the time of the service day.", role="numeric", group="time_of_day", ge=-1, le=1
    )
    cos_time: Series[Float32] = column(
        "Cosine of the time of the service day.", role="numeric", group="time_of_day", ge=-1, le=1
    )
    stops_behind: Series[Float32] = column(
        "Stops of the trip that the vehicle stands at or has left.", "stops", role="numeric", ge=0
    )
    timepoint: Series[Float32] = column(
        "1 if the current stop is a timepoint, where a vehicle that is early waits, else 0.",
        role="numeric",
        isin=(0, 1),
    )
    distance_travel_miles: Series[Float32] = column(
        "Great-circle distance to the destination.", "miles", role="numeric", nullable=True, ge=0, le=12_500
    )
    scheduled_seconds_ahead: Series[Float32] = seconds_feature(
        "Time until the scheduled arrival; negative after the scheduled arrival."
    )
    seconds_late_already: Series[Float32] = seconds_feature("Time past the scheduled arrival, else 0.", ge=0)
    scheduled_run_seconds: Series[Float32] = seconds_feature(
        "Scheduled run time from the last scheduled departure to the scheduled arrival."
    )
    trip_start_seconds: Series[Float32] = column(
        "Scheduled start of the trip, from that of the service day.", "seconds", role="lookup", nullable=True
    )
    seconds_in_state: Series[Float32] = seconds_feature(
        "Time since the vehicle began to stand at the current stop, or to go there.", ge=0
    )
    departure_delay_seconds: Series[Float32] = seconds_feature(
        "Delay of the departure from the last stop, so far if the vehicle still stands there."
    )
    last_delay_seconds: Series[Float32] = seconds_feature("Delay at the last stop that the trip arrived at.")
    last_change_seconds: Series[Float32] = seconds_feature("Change of delay between the trip's last two arrivals.")
    seconds_since_last_arrival: Series[Float32] = seconds_feature("Time since the trip's last arrival.", ge=0)
    leader_headway_seconds: Series[Float32] = seconds_feature(
        "Headway to the last vehicle that arrived at the destination.", ge=0
    )
    leader_delay_seconds: Series[Float32] = seconds_feature("Delay of that vehicle.")
    platform_headway_seconds: Series[Float32] = seconds_feature(
        "Headway to the last other vehicle that arrived at the current stop.", ge=0
    )
    platform_clear_seconds: Series[Float32] = seconds_feature("Time since that vehicle departed.", ge=0)
    platform_occupied: Series[Float32] = column(
        "1 if that vehicle still stands there, else 0.", role="numeric", isin=(0, 1)
    )
    last_run_seconds: Series[Float32] = seconds_feature(
        "Run time of the latest vehicle that completed this stretch.", ge=0
    )
    recent_run_seconds: Series[Float32] = seconds_feature("Mean of the latest three such run times.", ge=0)
    route_delay_seconds: Series[Float32] = seconds_feature(
        "Mean delay of the route and direction over the last 30 minutes."
    )
    route_change_seconds: Series[Float32] = seconds_feature("Mean change of delay per stop over the same arrivals.")
    network_run_ratio: Series[Float32] = column(
        "Run times from stop to stop on all routes in the last 30 minutes, relative to the scheduled ones; 1 if there "
        "are none.",
        role="numeric", group="network", ge=0,
    )  # fmt: skip
    delay_seconds: Series[float] = column(
        "Actual minus scheduled time, + is late; missing if the event was not observed.",
        "seconds", role="label", nullable=True, ge=-1800, le=12 * 3600,
    )  # fmt: skip
    agency_delay_seconds: Series[float] = optional(
        "The agency's latest prediction up to `time_stamp`, minus the scheduled time; no input of any model.", "seconds"
    )

    Config = ordered_by(*_PREDICTION_ORDER)


class RejectedRows(Table):
    """Rows of the upstream tables that cannot be used, each with the reason and the row itself."""

    source_table: Series[Text] = column("Upstream table that the row is from.")
    rejected_by: Series[Text] = column("Asset that rejected it.")
    reason: Series[Text] = column("Reason, such as `time_out_of_range`.")
    column_name: Series[Text] = optional("Column whose value is the reason.")
    row: Series[Text] = column("The row as JSON, as the source has it.")

    Config = ordered_by("source_table", "reason", "row")


class UpstreamUsage(Table):
    """Number of rows of each upstream table that the join of a service day used, and dropped by reason."""

    source_table: Series[Text] = column("Upstream table.")
    outcome: Series[Text] = column("Whether the rows were used.", isin=("matched", "dropped"))
    reason: Series[Text] = column("Why they were dropped; empty for matched rows.")
    row_count: Series[Integer] = column("Number of rows.", "rows", ge=0)

    Config = ordered_by("source_table", "outcome", "reason")


class DelayPredictions(Table):
    """Predictions as they were published live, once a minute; of a day without them, those for `transit_features`.

    These are for each row, labelled or not, by each model that was in production.
    """

    time_stamp: Series[Timestamp] = column("Time of the prediction, UTC.")
    vehicle_id: Series[Text] = column("Vehicle.")
    trip_id: Series[Text] = column("Trip, unique only within the service day.")
    stop_id: Series[Text] = column("Destination.")
    stop_sequence: Series[Integer] = column("Stop sequence of the destination.")
    event: Series[Text] = column("Event that is predicted.", isin=EVENTS)
    stops_ahead: Series[Integer] = column(
        "Number of stops to the destination; 0 for the departure from the first stop.", "stops", ge=0
    )
    route_id: Series[Text] = optional("Route.")
    scheduled_arrival: Series[Timestamp] = column(
        "Scheduled arrival at the destination, UTC; for a departure the scheduled departure."
    )
    predicted_delay_seconds: Series[float] = column("Predicted delay, + is late.", "seconds")
    predicted_arrival: Series[Timestamp] = column("Scheduled arrival plus the predicted delay, UTC.")
    model_version: Series[Text] = column("Digest of the production model's bundle.")
    out_of_sample: Series[bool] = column("Whether the model had not learned from this service day.")
    published_at: Series[Timestamp] = optional("Time at which it was published live, UTC.")
    role: Series[Text] = optional(
        "Whether riders saw what was published, or a model made it in the shadow of another.", isin=ROLES
    )

    Config = ordered_by(*_PREDICTION_ORDER)


class PredictionAccuracy(Table):
    """Accuracy of a service day's out-of-sample predictions, and drift of its features from the training set."""

    model_version: Series[Text] = column(
        "Digest of the bundle of the model that made the predictions, after `shadow ` if riders did not see them; "
        "`agency` for the agency's own, `published` for what riders were told by any model."
    )
    measure: Series[Text] = column("Metric; in seconds if its name says so, else a share or a ratio.")
    dimension: Series[Text] = column("Dimension that predictions are grouped by; `all` if they are not grouped.")
    member: Series[Text] = column("Group of the dimension.")
    n: Series[Integer] = column("Number of predictions scored.", ge=0)
    value: Series[float] = column("Value of the metric; missing if no prediction could be scored.", nullable=True)

    Config = ordered_by("measure", "dimension", "member")


UPSTREAM: dict[str, type[Table]] = {"vehicle": Vehicle, "trip": Trip, "stop": Stop, "schedule": Schedule}
"""Upstream tables without which no service day is made."""
OPTIONAL_UPSTREAM: dict[str, type[Table]] = {"agency_predictions": AgencyPredictions}
"""Upstream tables that only some sources have, and that no service day waits for."""
SOURCE_TABLES = {**UPSTREAM, **OPTIONAL_UPSTREAM}
TABLES: dict[str, type[Table]] = {
    **SOURCE_TABLES,
    "rejected_rows": RejectedRows,
    "upstream_usage": UpstreamUsage,
    "raw_transit_data": RawTransitData,
    "transit_features": TransitFeatures,
    "delay_predictions": DelayPredictions,
    "prediction_accuracy": PredictionAccuracy,
}


def columns_with_role(table: type[Table], role: Role) -> list[str]:
    """Return the names of a table's columns that have a role, in order."""
    return [name for name, spec in table.to_schema().columns.items() if spec.metadata["role"] == role]


def feature_group(*groups: FeatureGroup) -> frozenset[str]:
    """Return the names of the model inputs in one or several feature groups.

    - "calendar": constant within a service day.
    - "time_of_day": determined by the time of the service day.
    - "network": the same for all vehicles at a time.
    """
    columns = TransitFeatures.to_schema().columns
    return frozenset(name for name, spec in columns.items() if spec.metadata["group"] in groups)


def arrow_schema(table: type[Table]) -> arrow.Schema:
    """Return the Arrow schema of a table: its columns in order, with their types."""
    return arrow.schema([(name, to_arrow_type(spec.dtype.type)) for name, spec in table.to_schema().columns.items()])


def cast_frame(frame: pd.DataFrame, table: type[Table]) -> pd.DataFrame:
    """Select the table's columns of a frame, in order, and cast them to the table's types.

    Raises pyarrow.ArrowException or KeyError if a column is missing or holds values of another type.
    """
    return to_frame(arrow.Table.from_pandas(frame, arrow_schema(table), preserve_index=False))


def empty_frame(table: type[Table]) -> pd.DataFrame:
    """Return a frame of the table without rows, each column with its type."""
    return to_frame(arrow_schema(table).empty_table())


def to_frame(table: arrow.Table) -> pd.DataFrame:
    """Convert Arrow to pandas with the types of the models: Arrow text and dates, nullable integers."""
    return table.replace_schema_metadata(None).to_pandas(types_mapper=FRAME_TYPES.get)


def to_service_dates(column: pd.Series) -> np.ndarray:
    """Convert a column of dates (n,) to datetime64[D]; fast where few values are distinct."""
    codes, distinct = pd.factorize(column)
    return np.array(distinct, dtype="datetime64[D]")[codes]
