"""Stored days as feeds: snapshots in which a day's vehicles report, and the batch predictions of the same moments."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as arrow
from google.transit.gtfs_realtime_pb2 import FeedMessage, VehiclePosition

from mbta_assets.serving import Predictor
from mbta_assets.serving.live.publication import Publication
from mbta_assets.transit import schema
from mbta_assets_tests.support.days import Tables

Key = tuple[str, str, datetime, str, int | None]
"""Trip, vehicle, time of the report, stop and stop sequence of a prediction."""


@dataclass(frozen=True)
class FeedSnapshot:
    """A snapshot of a feed, and the time of its header."""

    made_at: datetime
    content: bytes


def as_fed(tables: Tables) -> Tables:
    """Return the tables of a day whose vehicles report what a feed can say: whole seconds, single precision."""
    vehicle = tables["vehicle"].copy()
    vehicle["updated_at"] = vehicle["updated_at"].dt.floor("s")
    for name in ("latitude", "longitude"):
        vehicle[name] = vehicle[name].astype(np.float32).astype(np.float64)
    return {**tables, "vehicle": vehicle}


def shift(tables: Tables, service_date: date, shift: timedelta) -> Tables:
    """Return the tables of a day with all times later, as those of another service date."""
    moved = {}
    for name, rows in tables.items():
        later = rows.assign(service_date=service_date)
        for column in rows:
            if isinstance(rows[column].dtype, pd.DatetimeTZDtype):
                later[column] = rows[column] + shift
        moved[name] = later
    return moved


def write_tables(directory: Path, day: date, tables: Tables) -> None:
    """Write the upstream tables of a day as the `files` source reads them."""
    for name, rows in tables.items():
        path = directory / name / f"service_date={day}"
        path.mkdir(parents=True)
        columns = schema.arrow_schema(schema.UPSTREAM[name])
        arrow.parquet.write_table(
            arrow.Table.from_pandas(rows, columns, preserve_index=False).drop_columns("service_date"),
            path / "part.parquet",
        )


def make_snapshots(
    vehicle: pd.DataFrame, day: date, begin: datetime, end: datetime, seconds: float
) -> Iterator[FeedSnapshot]:
    """Yield snapshots at regular times; each has the reports since the one before, and the latest of other vehicles."""
    rows = vehicle.sort_values("updated_at", kind="stable").astype(object).where(vehicle.notna(), None)
    reports = [(row["updated_at"].to_pydatetime(), row) for row in rows.to_dict("records")]
    latest: dict[str, Any] = {}
    at, index = begin, 0
    while at <= end:
        taken: dict[str, list[Any]] = {name: [row] for name, row in latest.items()}
        while index < len(reports) and reports[index][0] <= at:
            row = reports[index][1]
            if row["id"] in latest and taken[row["id"]] == [latest[row["id"]]]:
                taken[row["id"]] = []
            taken.setdefault(row["id"], []).append(row)
            index += 1
        latest = {name: of_vehicle[-1] for name, of_vehicle in taken.items()}
        yield FeedSnapshot(at, make_content([row for of in taken.values() for row in of], day, at))
        at += timedelta(seconds=seconds)


def make_content(rows: list[Any], day: date, at: datetime) -> bytes:
    """Return a snapshot in protobuf with the rows of `vehicle`."""
    message = FeedMessage()
    message.header.gtfs_realtime_version = "2.0"
    message.header.timestamp = int(at.timestamp())
    for number, row in enumerate(rows):
        report = message.entity.add(id=f"{row['id']}-{number}").vehicle
        report.vehicle.id, report.timestamp = row["id"], int(row["updated_at"].timestamp())
        report.current_status = VehiclePosition.VehicleStopStatus.Value(row["current_status"])
        if row["latitude"] is not None:
            report.position.latitude, report.position.longitude = row["latitude"], row["longitude"]
        for target, name in ((report, "stop_id"), (report.trip, "trip_id"), (report.trip, "route_id")):
            if row[name] is not None:
                setattr(target, name, row[name])
        if row["direction_id"] is not None:
            report.trip.direction_id = row["direction_id"]
        if row["current_stop_sequence"] is not None:
            report.current_stop_sequence = row["current_stop_sequence"]
        report.trip.start_date = f"{day:%Y%m%d}"
    content: bytes = message.SerializeToString()
    return content


def predict_batch(predictor: Predictor, features: pd.DataFrame) -> dict[Key, float]:
    """Return the delay that a model predicts for each row of `transit_features` about every stop ahead."""
    ahead = (features["scheduled_arrival"] - features["time_stamp"]).dt.total_seconds().to_numpy()
    groups = features.groupby(["trip_id", "vehicle_id", "time_stamp"], sort=False, dropna=False).ngroup().to_numpy()
    delay, _, _ = predictor.predict_delays({str(name): features[name] for name in features}, ahead, groups)
    names = ["trip_id", "vehicle_id", "time_stamp", "stop_id", "stop_sequence"]
    keys = features[names].astype(object).where(features[names].notna(), None).itertuples(index=False)
    return {
        (trip_id, vehicle_id, time.to_pydatetime().astimezone(UTC), stop_id, sequence): seconds
        for (trip_id, vehicle_id, time, stop_id, sequence), seconds in zip(keys, delay.tolist(), strict=True)
    }


def list_delays(publication: Publication) -> dict[Key, float]:
    """Return the delays of a publication."""
    return {
        (trip.trip_id, trip.vehicle_id, trip.reported_at, stop.stop_id, stop.stop_sequence): stop.delay_seconds
        for trip in publication.trips
        for stop in trip.stops
    }
