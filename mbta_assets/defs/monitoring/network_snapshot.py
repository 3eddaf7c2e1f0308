"""What the predictor's page shows: the latest service day, every few minutes."""

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import date
from typing import Any

import dagster as dg
import numpy as np
import pandas as pd

from mbta_assets.defs.io_managers import StoredTable
from mbta_assets.defs.metadata import OWNERS
from mbta_assets.defs.partitions import service_days
from mbta_assets.serving.snapshot import EVERY_SECONDS, Line, Snapshot, Station
from mbta_assets.storage.reports import NETWORK_SNAPSHOT, ReportStore
from mbta_assets.transit import schema

LATEST_SECONDS = 120
"""A vehicle that has not reported for longer is not shown."""
FEW = 10
"""Where fewer than one in so many trips of a line ends, it does not go to."""
CATEGORIES = schema.columns(schema.TransitFeatures, "category")
NUMBERS = schema.columns(schema.TransitFeatures, "numeric")


@dg.asset(
    group_name="monitoring",
    description="What was known of the network every ten minutes of the latest service day, for the predictor's page.",
    owners=OWNERS,
    kinds={"numpy"},
    partitions_def=service_days,
    backfill_policy=dg.BackfillPolicy.single_run(),
)
def network_snapshot(
    context: dg.AssetExecutionContext,
    reports: dg.ResourceParam[ReportStore],
    transit_features: StoredTable,
    raw_transit_data: StoredTable,
) -> dg.MaterializeResult:
    day = max(map(date.fromisoformat, context.partition_keys))
    there = stored_day(reports)
    if there and there > day:
        context.log.info(f"The page goes on showing {there}, which is later than {day}.")
        return dg.MaterializeResult(metadata={"service_date": str(there)})
    names = raw_transit_data.read(day, ["stop_id", "destination", "platform_name"])
    found = snapshot(day, transit_features.read(day), names)
    content = found.to_bytes()
    where = reports.write(NETWORK_SNAPSHOT, content)
    return dg.MaterializeResult(
        metadata={**where, "service_date": str(day), "rows": len(found.step), "size_bytes": len(content)}
    )


def stored_day(reports: ReportStore) -> date | None:
    """The service day that the page shows now."""
    try:
        return Snapshot.from_bytes(reports.read(NETWORK_SNAPSHOT)).service_date
    except FileNotFoundError:
        return None


def snapshot(day: date, features: pd.DataFrame, names: pd.DataFrame) -> Snapshot:
    """The snapshot of a service day from its features, and from rows with `stop_id`, `destination`, `platform_name`."""
    time = features["time_stamp"].to_numpy(dtype="datetime64[s]").astype(np.int64)
    moment = -(-time // EVERY_SECONDS) * EVERY_SECONDS
    recent = features[moment - time < LATEST_SECONDS].assign(moment=moment[moment - time < LATEST_SECONDS])
    latest = recent.groupby(["moment", "vehicle_id"])["time_stamp"].transform("max")
    rows = recent[recent["time_stamp"] == latest].sort_values(["moment", "vehicle_id", "stops_ahead"])
    times, step = np.unique(rows["moment"].to_numpy(dtype=np.int64), return_inverse=True)
    return Snapshot(
        service_date=day,
        times=times,
        step=step.astype(np.int32),
        vehicle_id=rows["vehicle_id"].to_numpy(dtype=np.str_),
        scheduled_arrival=rows["scheduled_arrival"].to_numpy(dtype="datetime64[s]").astype(np.int64),
        columns={
            **{name: rows[name].astype(object).where(rows[name].notna(), None).to_numpy() for name in CATEGORIES},
            **{name: rows[name].to_numpy(dtype=np.float32) for name in NUMBERS},
        },
        lines=tuple(_lines(features, _station_names(names), _platform_names(names))),
    )


def _station_names(names: pd.DataFrame) -> dict[str, str]:
    """By stop, what people call it."""
    known = names[names["destination"].notna()].drop_duplicates("stop_id")
    return dict(zip(known["stop_id"], known["destination"], strict=True))


def _platform_names(names: pd.DataFrame) -> dict[str, str]:
    """By stop, the same with the platform."""
    known = names[names["destination"].notna() & names["platform_name"].notna()].drop_duplicates("stop_id")
    return dict(zip(known["stop_id"], known["destination"] + " (" + known["platform_name"] + ")", strict=True))


def _lines(features: pd.DataFrame, names: dict[str, str], platforms: dict[str, str]) -> Iterable[Line]:
    key: Any
    line, course = ["route_id", "direction_id"], ["trip_id", "scheduled_arrival", "stop_id"]
    visits = features.loc[features["route_id"].notna(), [*line, *course]].drop_duplicates().sort_values(line + course)
    for key, of_line in visits.groupby(line, dropna=False):
        route, direction = key
        patterns = Counter(tuple(of_trip) for _, of_trip in of_line.groupby("trip_id")["stop_id"]).most_common()
        stops = in_order(pattern for pattern, _ in patterns)
        stations_of_line = Counter(names.get(stop, stop) for stop in stops)
        # Where branches meet, a station has a platform for each.
        several = {stop: platforms.get(stop, stop) for stop in stops if stations_of_line[names.get(stop, stop)] > 1}
        stations = tuple(Station(stop, {**names, **several}.get(stop, stop)) for stop in stops)
        yield Line(str(route), None if direction is pd.NA else int(direction), _ends(patterns, names), stations)


def _ends(patterns: Sequence[tuple[Sequence[str], int]], names: dict[str, str]) -> str:
    """The stations where at least one in ten of a line's trips ends."""
    ends: Counter[str] = Counter()
    for pattern, trips in patterns:
        ends[names.get(pattern[-1], pattern[-1])] += trips
    return " and ".join(name for name, trips in ends.most_common() if trips * FEW >= ends.total())


def in_order(patterns: Iterable[Sequence[str]]) -> list[str]:
    """All stops of trips in an order that suits each of them, if there is one; the first pattern stays as it is.

    What another pattern adds goes behind the stop that it follows there, or before the one that it leads to.
    """
    order: list[str] = []
    for pattern in patterns:
        for index, stop in enumerate(pattern):
            if stop in order:
                continue
            before = next((order.index(one) for one in reversed(pattern[:index]) if one in order), None)
            after = next((order.index(one) for one in pattern[index + 1 :] if one in order), len(order))
            order.insert(after if before is None else before + 1, stop)
    return order
