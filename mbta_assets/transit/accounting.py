"""Account of a service day's upstream rows: which of them the point-in-time join uses, and why it drops the others.

Each row of each table has exactly one outcome. The rules are those of the join, by way of `reports`. Which account is
good enough is decided in `checks`.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from mbta_assets.transit import plausibility, schema
from mbta_assets.transit.ids import clean_ids
from mbta_assets.transit.plausibility import NAT
from mbta_assets.transit.reports import Reports, match_reports
from mbta_assets.transit.stop_times import StopTimes, start_microseconds, to_microseconds

MATCHED = ""
"""Reason of a row that is used."""
TIME_OUT_OF_RANGE = "time_out_of_range"
REPEATED = "repeated"
ORDER_UNKNOWN = "order_unknown"
JOIN = "raw_transit_data"
MAX_REJECTED_ROWS = 10_000
"""Rejected rows of a service day that are kept; all of them are counted."""
MAX_EXAMPLES = 3

Case: TypeAlias = tuple[str, np.ndarray]
"""A reason and the rows (n,) that it applies to."""


@dataclass(frozen=True)
class Accounting:
    """Account of a service day.

    - `usage`: rows matched and dropped by reason, typed as `schema.UpstreamUsage`.
    - `rejected`: the reports and stop times without a plausible time, typed as `schema.RejectedRows`.
    - `values_made_missing`: number of implausible values by column, such as `vehicle.latitude`, in rows that are used
      without them.
    - `interpolated_stop_times`: number of rows of `schedule` that are used with an interpolated time.
    - `unmatched`: a sentence on each kind of id that reports and schedule do not have in common.
    """

    usage: pd.DataFrame
    rejected: pd.DataFrame
    values_made_missing: dict[str, int]
    interpolated_stop_times: int
    unmatched: tuple[str, ...]

    def describe_unmatched(self) -> str:
        """Return which ids or times of the reports do not match the schedule, with examples of both."""
        return " ".join(self.unmatched)


def account_for_rows(
    vehicle: pd.DataFrame, trip: pd.DataFrame, stop: pd.DataFrame, schedule: pd.DataFrame, service_date: date
) -> Accounting:
    """Account for every row of the upstream tables of a service day."""
    start = start_microseconds(service_date)
    reports = match_reports(vehicle, schedule, stop, service_date)
    of_vehicle = _find_reasons(len(vehicle), _judge_reports(vehicle, reports))
    is_used = of_vehicle == MATCHED
    reported_trips = np.unique(reports.trip[is_used])
    named_stops = np.unique(reports.named_stop[is_used & (reports.named_stop >= 0)])
    reasons = {
        "vehicle": of_vehicle,
        "trip": _find_reasons(len(trip), _judge_trips(trip, reports, reported_trips)),
        "stop": _find_reasons(len(stop), _judge_stops(stop, reports, named_stops)),
        "schedule": _find_reasons(len(schedule), _judge_stop_times(schedule, reports, reported_trips, start)),
    }
    columns_out_of_range = {
        "vehicle": np.where(of_vehicle == TIME_OUT_OF_RANGE, "updated_at", ""),
        "schedule": np.where(_has_implausible(schedule["arrival_time"], start), "arrival_time", "departure_time"),
    }
    tables = {"vehicle": vehicle, "schedule": schedule}
    interpolated = reports.stop_times.row[reports.stop_times.is_interpolated]
    return Accounting(
        usage=_count_outcomes(reasons, service_date),
        rejected=_reject(tables, reasons, columns_out_of_range, service_date),
        values_made_missing=_count_missing(vehicle, stop, schedule, reasons, start),
        interpolated_stop_times=int((reasons["schedule"][interpolated] == MATCHED).sum()),
        unmatched=tuple(_describe_unmatched(vehicle, schedule, reports, of_vehicle)),
    )


def _find_reasons(n_rows: int, cases: Sequence[Case]) -> np.ndarray:
    """Return for each row (n,) the reason of the first case that applies, or `MATCHED`."""
    reasons = np.full(n_rows, MATCHED, dtype=object)
    for reason, applies in reversed(cases):
        reasons[applies] = reason
    return reasons


def _judge_reports(vehicle: pd.DataFrame, reports: Reports) -> list[Case]:
    """Return why reports make no rows; several reports of a vehicle on a trip at one time are used as one.

    Reports without a scheduled trip are dropped by the join, but count for the headways of other vehicles.
    """
    first_time, _ = reports.stop_times.trip_times(reports.trip)
    cases = [
        (TIME_OUT_OF_RANGE, ~reports.is_plausible),
        ("no_trip", reports.trip < 0),
        ("no_stop", (reports.named_stop < 0) & ~reports.is_served),
        ("unscheduled_trip", reports.codes.find_unscheduled(reports.trip)),
        ("trip_not_in_schedule", first_time == NAT),
        ("stop_not_on_trip", ~reports.is_served),
        ("too_early", reports.is_early),
        ("too_late", reports.is_late),
        (ORDER_UNKNOWN, reports.order_unknown),
    ]
    located = _find_reasons(len(vehicle), cases) == MATCHED
    keys = pd.DataFrame({"vehicle": reports.vehicle, "trip": reports.trip, "time": reports.time})
    repeated = np.zeros(len(vehicle), dtype=bool)
    repeated[located] = keys[located].duplicated().to_numpy()
    return [*cases, (REPEATED, repeated)]


def _judge_stop_times(schedule: pd.DataFrame, reports: Reports, reported_trips: np.ndarray, start: int) -> list[Case]:
    """Return why stop times are not used; `start` is that of the service day."""
    stop_times = reports.stop_times
    trips = reports.codes.encode_trips(schedule["trip_id"])
    has_time = (schedule["arrival_time"].notna() | schedule["departure_time"].notna()).to_numpy(dtype=bool)
    is_ordered, is_repeated, order_unknown = np.zeros((3, len(schedule)), dtype=bool)
    is_ordered[stop_times.row], is_repeated[stop_times.repeated_row] = True, True
    order_unknown[stop_times.row] = stop_times.order_unknown
    times = ("arrival_time", "departure_time")
    has_plausible_time = np.logical_or.reduce(
        [schedule[name].notna().to_numpy(dtype=bool) & ~_has_implausible(schedule[name], start) for name in times]
    )
    return [
        ("no_trip", trips < 0),
        ("no_stop", reports.codes.encode_stops(schedule["stop_id"]) < 0),
        ("unscheduled_trip", reports.codes.find_unscheduled(trips)),
        (TIME_OUT_OF_RANGE, has_time & ~has_plausible_time & ~is_ordered),
        (REPEATED, is_repeated),
        ("no_time", ~is_ordered),
        (ORDER_UNKNOWN, order_unknown),
        ("trip_not_reported", ~np.isin(trips, reported_trips)),
    ]


def _judge_trips(trip: pd.DataFrame, reports: Reports, reported_trips: np.ndarray) -> list[Case]:
    """Return why trips are not used."""
    trips = reports.codes.encode_trips(trip["id"])
    return [
        ("not_scheduled", ~np.isin(trips, reports.stop_times.trip)),
        ("not_reported", ~np.isin(trips, reported_trips)),
        (REPEATED, clean_ids(trip["id"]).duplicated().to_numpy()),
    ]


def _judge_stops(stop: pd.DataFrame, reports: Reports, named_stops: np.ndarray) -> list[Case]:
    """Return why stops are not used: a stop is if a trip serves it, or if a report names it for one in its station."""
    stops = reports.codes.encode_stops(stop["id"])
    return [
        ("not_scheduled", ~np.isin(stops, reports.stop_times.stop) & ~np.isin(stops, named_stops)),
        (REPEATED, clean_ids(stop["id"]).duplicated().to_numpy()),
    ]


def _count_outcomes(reasons: dict[str, np.ndarray], service_date: date) -> pd.DataFrame:
    """Return the number of rows of each table by outcome and reason; a table always has its matched rows."""
    rows = []
    for table, of_table in reasons.items():
        counts = Counter(of_table.tolist())
        for reason in sorted({MATCHED, *counts}):
            outcome = "matched" if reason == MATCHED else "dropped"
            rows.append((service_date, table, outcome, reason, counts[reason]))
    names = ["service_date", "source_table", "outcome", "reason", "row_count"]
    return schema.cast_frame(pd.DataFrame(rows, columns=names), schema.UpstreamUsage)


def _reject(
    tables: dict[str, pd.DataFrame],
    reasons: dict[str, np.ndarray],
    columns: dict[str, np.ndarray],
    service_date: date,
) -> pd.DataFrame:
    """Return the rows without a plausible time, the first `MAX_REJECTED_ROWS` of them."""
    rejected: list[dict[str, Any]] = []
    for name, table in tables.items():
        index = np.flatnonzero(reasons[name] == TIME_OUT_OF_RANGE)[: MAX_REJECTED_ROWS - len(rejected)]
        for column, row in zip(columns[name][index], table.iloc[index].to_dict("records"), strict=True):
            rejected.append(
                {
                    "service_date": service_date,
                    "source_table": name,
                    "rejected_by": JOIN,
                    "reason": TIME_OUT_OF_RANGE,
                    "column_name": column,
                    "row": to_json(row),
                }
            )
    names = list(schema.RejectedRows.to_schema().columns)
    return schema.cast_frame(pd.DataFrame(rejected, columns=names), schema.RejectedRows)


def to_json(row: Mapping[Any, Any]) -> str:
    """Return a row as JSON: times and dates in ISO 8601, missing values as null."""
    values = {name: None if pd.isna(value) else value for name, value in row.items()}
    return json.dumps(values, default=lambda value: value.isoformat() if hasattr(value, "isoformat") else str(value))


def _count_missing(
    vehicle: pd.DataFrame, stop: pd.DataFrame, schedule: pd.DataFrame, reasons: dict[str, np.ndarray], start: int
) -> dict[str, int]:
    """Return how many values of used rows are treated as missing because they are implausible, by column."""
    positions = {
        name: tuple(frame[part].to_numpy(dtype=np.float64, na_value=np.nan) for part in ("latitude", "longitude"))
        for name, frame in (("vehicle", vehicle), ("stop", stop))
    }
    box = plausibility.enclose_stops(zip(*(part.tolist() for part in positions["stop"]), strict=True))
    boxes = {"vehicle": box, "stop": None}
    counts = {}
    for name, (latitude, longitude) in positions.items():
        given = ~(np.isnan(latitude) & np.isnan(longitude)) & (reasons[name] == MATCHED)
        implausible = given & ~plausibility.find_plausible_positions(latitude, longitude, boxes[name])
        counts[f"{name}.latitude"] = int(implausible.sum())
    for name in ("arrival_time", "departure_time"):
        implausible = _has_implausible(schedule[name], start) & (reasons["schedule"] == MATCHED)
        counts[f"schedule.{name}"] = int(implausible.sum())
    return {name: count for name, count in counts.items() if count}


def _has_implausible(times: pd.Series, start: int) -> np.ndarray:
    """Return which scheduled times (n,) are given and not of the service day."""
    microseconds = to_microseconds(times)
    return (microseconds != NAT) & ~plausibility.find_plausible_scheduled_times(microseconds, start)


def _describe_unmatched(
    vehicle: pd.DataFrame, schedule: pd.DataFrame, reports: Reports, reasons: np.ndarray
) -> list[str]:
    """Return a sentence for each kind of mismatch between reports and schedule."""
    sentences = []
    for reason, column in (("trip_not_in_schedule", "trip_id"), ("stop_not_on_trip", "stop_id")):
        dropped = reasons == reason
        if dropped.any():
            given, scheduled = _list_examples(vehicle.loc[dropped, column]), _list_examples(schedule[column])
            sentences.append(
                f"{dropped.sum():,} reports have a {column} that {_UNKNOWN[column]}, such as {given}; "
                f"`schedule` has ids such as {scheduled}."
            )
    late = reasons == TIME_OUT_OF_RANGE
    if late.any():
        times, due = vehicle.loc[late, "updated_at"], _scheduled_range(reports.stop_times)
        sentences.append(
            f"{late.sum():,} reports are of {times.min():%Y-%m-%d %H:%M} to {times.max():%Y-%m-%d %H:%M} UTC, too far "
            f"from their trips or the service day; the schedule has {due}."
        )
    nameless = reasons == "no_trip"
    if nameless.any():
        sentences.append(f"{nameless.sum():,} reports name no trip.")
    return sentences


_UNKNOWN = {"trip_id": "is not in `schedule`", "stop_id": "their trip does not serve"}


def _list_examples(ids: pd.Series) -> str:
    """Return a few ids in quotes, so that blanks and endings show."""
    return ", ".join(repr(value) for value in ids.dropna().unique()[:MAX_EXAMPLES]) or "none"


def _scheduled_range(stop_times: StopTimes) -> str:
    """Return the range of scheduled times in words."""
    times = np.concatenate([stop_times.arrival, stop_times.departure])
    times = times[times != NAT]
    if not len(times):
        return "no time of that day"
    first, last = (pd.Timestamp(int(time), unit="us") for time in (times.min(), times.max()))
    return f"{first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M} UTC"
