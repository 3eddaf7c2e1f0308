"""The schedule that a TripUpdates feed is about, as the checker of feeds reads it from GTFS or from tables of a day."""

import csv
import io
import zipfile
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple, Self
from zoneinfo import ZoneInfo


class StaticTrip(NamedTuple):
    """A row of `trips.txt`; None is not said, or not known."""

    route_id: str | None
    direction_id: int | None
    service_id: str | None = None


class StaticStopTime(NamedTuple):
    """A row of `stop_times.txt`; times are seconds since noon minus twelve hours, None where they are blank."""

    stop_sequence: int | None
    stop_id: str
    arrival: int | None
    departure: int | None


class Frequency(NamedTuple):
    """A row of `frequencies.txt`; times are seconds since noon minus twelve hours."""

    start: int
    end: int
    headway: int
    is_exact: bool


@dataclass
class StaticFeed:
    """The schedule that a feed is about."""

    time_zone: str
    trips: Mapping[str, StaticTrip]
    stop_times: Mapping[str, Sequence[StaticStopTime]]
    """In the order of travel, by trip."""
    stops: set[str]
    routes: set[str] | None = None
    """None if they are not known."""
    stations: set[str] = field(default_factory=set)
    """Those of `stops` at which nobody boards: stations, entrances, nodes."""
    frequencies: Mapping[str, Sequence[Frequency]] = field(default_factory=dict)
    """By trip."""
    dates: Mapping[str, set[str]] | None = None
    """The dates, YYYYMMDD, on which a service runs; None if they are not known."""
    repeated: dict[str, set[str]] = field(init=False)
    """The stops that a trip serves more than once, by trip."""

    def __post_init__(self) -> None:
        counts = {trip: Counter(row.stop_id for row in rows) for trip, rows in self.stop_times.items()}
        self.repeated = {trip: {stop for stop, visits in of.items() if visits > 1} for trip, of in counts.items()}

    @classmethod
    def from_gtfs(cls, path: Path) -> Self:
        """Read a zip file of GTFS."""
        with zipfile.ZipFile(path) as archive:

            def rows(name: str) -> list[dict[str, str]]:
                if name not in archive.namelist():
                    return []
                with archive.open(name) as file:
                    return list(csv.DictReader(io.TextIOWrapper(file, "utf-8-sig")))

            stop_times: dict[str, list[StaticStopTime]] = defaultdict(list)
            for row in rows("stop_times.txt"):
                times = (to_seconds(row["arrival_time"]), to_seconds(row["departure_time"]))
                stop_times[row["trip_id"]].append(StaticStopTime(int(row["stop_sequence"]), row["stop_id"], *times))
            for of_trip in stop_times.values():
                of_trip.sort(key=lambda row: row.stop_sequence or 0)
            frequencies: dict[str, list[Frequency]] = defaultdict(list)
            for row in rows("frequencies.txt"):
                start, end = (to_seconds(row[name]) or 0 for name in ("start_time", "end_time"))
                is_exact = row.get("exact_times") == "1"
                frequencies[row["trip_id"]].append(Frequency(start, end, int(row["headway_secs"]), is_exact))
            return cls(
                rows("agency.txt")[0]["agency_timezone"],
                {row["trip_id"]: _read_trip(row) for row in rows("trips.txt")},
                stop_times,
                {row["stop_id"] for row in rows("stops.txt")},
                {row["route_id"] for row in rows("routes.txt")},
                {row["stop_id"] for row in rows("stops.txt") if row.get("location_type") not in (None, "", "0")},
                frequencies,
                _read_dates(rows("calendar.txt"), rows("calendar_dates.txt")),
            )

    @classmethod
    def from_tables(cls, tables: Mapping[str, Any], time_zone: str, service_date: str) -> Self:
        """Return the schedule in the upstream tables (`trip`, `stop`, `schedule`) of a service day, YYYYMMDD."""
        start = start_of_service_day(service_date, time_zone)
        trips = {
            row.id: StaticTrip(_or_none(row.route_id), _or_none(row.direction_id, int))
            for row in tables["trip"].itertuples()
        }
        schedule = tables["schedule"]
        due = schedule["arrival_time"].fillna(schedule["departure_time"])
        stop_times: dict[str, list[StaticStopTime]] = {}
        for row in schedule.assign(due=due).sort_values(["trip_id", "due", "stop_sequence"]).itertuples():
            times = (
                _or_none(time, lambda time: int(time.timestamp()) - start)
                for time in (row.arrival_time, row.departure_time)
            )
            sequence = _or_none(row.stop_sequence, int)
            stop_times.setdefault(row.trip_id, []).append(StaticStopTime(sequence, row.stop_id, *times))
        return cls(time_zone, trips, stop_times, set(tables["stop"]["id"]))


def start_of_service_day(date: str, time_zone: str) -> int:
    """Return the epoch seconds from which the times of a service day, YYYYMMDD, count: noon minus twelve hours."""
    noon = datetime.strptime(date, "%Y%m%d").replace(hour=12, tzinfo=ZoneInfo(time_zone))
    return int((noon.astimezone(ZoneInfo("UTC")) - timedelta(hours=12)).timestamp())


def to_seconds(text: str) -> int | None:
    """Return HH:MM:SS in seconds, None if it is blank."""
    if not text.strip():
        return None
    hours, minutes, seconds = map(int, text.split(":"))
    return hours * 3600 + minutes * 60 + seconds


def _read_trip(row: dict[str, str]) -> StaticTrip:
    direction_id = row.get("direction_id")
    return StaticTrip(row["route_id"], int(direction_id) if direction_id else None, row["service_id"])


def _read_dates(calendar: list[dict[str, str]], exceptions: list[dict[str, str]]) -> dict[str, set[str]]:
    """Return the dates of each service from the rows of `calendar.txt` and `calendar_dates.txt`."""
    dates: dict[str, set[str]] = defaultdict(set)
    for row in calendar:
        day, end = (datetime.strptime(row[name], "%Y%m%d").date() for name in ("start_date", "end_date"))
        while day <= end:
            if row[f"{day:%A}".lower()] == "1":
                dates[row["service_id"]].add(f"{day:%Y%m%d}")
            day += timedelta(days=1)
    for row in exceptions:
        if row["exception_type"] == "1":
            dates[row["service_id"]].add(row["date"])
        else:
            dates[row["service_id"]].discard(row["date"])
    return dates


def _or_none(value: Any, convert: Any = str) -> Any:
    """Return a value of a data frame, None if it is missing."""
    return None if str(value) in ("None", "nan", "<NA>", "NaT") else convert(value)
