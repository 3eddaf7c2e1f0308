"""Group `monitoring`: the latest service day at regular times, for the predictor's page.

Its format is in `serving.formats`, the page in `serving`.
"""

from collections import Counter
from collections.abc import Iterator
from datetime import date
from typing import Any

import dagster as dg
import numpy as np
import pandas as pd

from mbta_assets.defs.io_managers import StoredTable
from mbta_assets.defs.partitions import daily_asset, requested_days
from mbta_assets.serving.formats import SNAPSHOT_INTERVAL_SECONDS, DamagedSnapshot, Line, NetworkSnapshot, Station
from mbta_assets.serving.lines import Names, merge_stop_patterns, name_stops, name_terminals
from mbta_assets.storage.reports import NETWORK_SNAPSHOT, ReportStore
from mbta_assets.transit import schema
from mbta_assets.transit.service_day import start_epoch_seconds

CATEGORIES = schema.columns_with_role(schema.TransitFeatures, "category")
NUMBERS = [name for role in ("numeric", "lookup") for name in schema.columns_with_role(schema.TransitFeatures, role)]
VISIT = ["trip_id", "stop_sequence"]
"""Columns that identify a stop visit of the service day."""

StopVisit = tuple[str, int]
"""A stop, and the number of times that a trip serves it again later."""


@daily_asset(
    group_name="monitoring",
    description="The features of all stops ahead of each vehicle, every ten minutes of the latest service day.",
    kinds={"numpy"},
)
def network_snapshot(
    context: dg.AssetExecutionContext,
    reports: dg.ResourceParam[ReportStore],
    transit_features: StoredTable,
    raw_transit_data: StoredTable,
) -> dg.MaterializeResult:
    published = set(transit_features.tables.days(transit_features.table))
    days = requested_days(context)
    day = max((day for day in days if day in published), default=max(days))
    stored_day = read_stored_day(reports)
    if stored_day and stored_day > day:
        context.log.info(f"The page still shows {stored_day}, which is later than {day}.")
        return dg.MaterializeResult(metadata={"service_date": str(stored_day)})
    names = raw_transit_data.read(day, ["stop_id", "destination", "platform_name"])
    snapshot = build_snapshot(day, transit_features.read(day), names)
    content = snapshot.to_bytes()
    location = reports.write(NETWORK_SNAPSHOT, content)
    return dg.MaterializeResult(
        metadata={
            **location,
            "service_date": str(day),
            "rows": len(snapshot.time_index),
            "size_bytes": len(content),
        }
    )


def read_stored_day(reports: ReportStore) -> date | None:
    """Return the service day of the stored snapshot, None if there is none or it is damaged."""
    try:
        return NetworkSnapshot.from_bytes(reports.read(NETWORK_SNAPSHOT)).service_date
    except (FileNotFoundError, DamagedSnapshot):
        return None


def build_snapshot(day: date, features: pd.DataFrame, names: pd.DataFrame) -> NetworkSnapshot:
    """Build the snapshot of a service day from its `transit_features`.

    `names` has the columns `stop_id`, `destination` and `platform_name` of `raw_transit_data`.
    """
    visits = _list_visits(features)
    rows = _select_first_reports(features).merge(visits[[*VISIT, "later_visits"]], on=VISIT)
    rows = rows.sort_values(["snapshot_time", "vehicle_id", "stops_ahead"])
    times, time_index = np.unique(rows["snapshot_time"].to_numpy(dtype=np.int64), return_inverse=True)
    return NetworkSnapshot(
        service_date=day,
        times=times,
        time_index=time_index.astype(np.int32),
        vehicle_id=rows["vehicle_id"].to_numpy(dtype=np.str_),
        trip_id=rows["trip_id"].to_numpy(dtype=np.str_),
        reported_at=rows["time_stamp"].to_numpy(dtype="datetime64[us]").astype(np.int64),
        scheduled_arrival=rows["scheduled_arrival"].to_numpy(dtype="datetime64[s]").astype(np.int64),
        later_visits=rows["later_visits"].to_numpy(dtype=np.int16),
        columns={
            **{name: rows[name].astype(object).where(rows[name].notna(), None).to_numpy() for name in CATEGORIES},
            **{name: rows[name].to_numpy(dtype=np.float32) for name in NUMBERS},
        },
        lines=tuple(_build_lines(features, visits, _station_names(names), _platform_names(names))),
    )


def _list_visits(features: pd.DataFrame) -> pd.DataFrame:
    """Return the stop visits that a day's rows are about, in the order of travel, with their `later_visits`.

    They are counted from the end of the trip, as a trip may be observed from any stop on.
    """
    order = ["trip_id", "scheduled_arrival", "stop_sequence"]
    visits = features[[*order, "stop_id"]].drop_duplicates(VISIT).sort_values(order, ignore_index=True)
    return visits.assign(later_visits=visits.groupby(["trip_id", "stop_id"]).cumcount(ascending=False))


def _select_first_reports(features: pd.DataFrame) -> pd.DataFrame:
    """Select the rows of each vehicle's first report from each snapshot time on, and add `snapshot_time`."""
    time = features["time_stamp"].to_numpy(dtype="datetime64[s]").astype(np.int64)
    start = start_epoch_seconds(schema.to_service_dates(features["service_date"])).astype(np.int64)
    rows = features.assign(snapshot_time=time - (time - start) % SNAPSHOT_INTERVAL_SECONDS)
    report = ["time_stamp", "trip_id"]
    first = rows.sort_values(report).drop_duplicates(["snapshot_time", "vehicle_id"])
    return rows.merge(first[["snapshot_time", "vehicle_id", *report]], on=["snapshot_time", "vehicle_id", *report])


def _station_names(names: pd.DataFrame) -> Names:
    named = names[names["destination"].notna()].drop_duplicates("stop_id")
    return dict(zip(named["stop_id"], named["destination"], strict=True))


def _platform_names(names: pd.DataFrame) -> Names:
    named = names[names["destination"].notna() & names["platform_name"].notna()].drop_duplicates("stop_id")
    return dict(zip(named["stop_id"], named["destination"] + " (" + named["platform_name"] + ")", strict=True))


def _build_lines(
    features: pd.DataFrame, visits: pd.DataFrame, station_names: Names, platform_names: Names
) -> Iterator[Line]:
    key: Any
    line = ["route_id", "direction_id"]
    of_line = features.loc[features["route_id"].notna(), [*line, *VISIT]].drop_duplicates()
    ordered = visits.assign(number=np.arange(len(visits))).merge(of_line, on=VISIT).sort_values("number")
    for key, line_visits in ordered.groupby(line, dropna=False):
        route, direction = key
        stops = pd.Series(list(zip(line_visits["stop_id"], line_visits["later_visits"], strict=True)))
        trips = stops.groupby(line_visits["trip_id"].to_numpy())
        patterns = Counter(tuple(of_trip) for _, of_trip in trips).most_common()
        order = merge_stop_patterns(pattern for pattern, _ in patterns)
        names = name_stops([stop for stop, _ in order], station_names, platform_names)
        stations = tuple(Station(stop, names[stop], int(later_visits)) for stop, later_visits in order)
        direction_id = None if direction is pd.NA else int(direction)
        ends: Counter[str] = Counter()
        for pattern, of_pattern in patterns:
            ends[pattern[-1][0]] += of_pattern
        yield Line(str(route), direction_id, name_terminals(ends, station_names), stations)
