"""A small static feed and archives of snapshots for tests."""

import io
import zipfile
from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from mbta_assets.realtime.places import DirectoryPlace
from mbta_assets.sources.gtfs.archive import FeedArchive, FetchedSnapshot
from mbta_assets.sources.gtfs.editions import Editions
from mbta_assets.sources.gtfs.source import GtfsSource
from mbta_assets.transit.service_day import TIME_ZONE
from mbta_assets_tests.sources.gtfs.messages import make_feed

FILES: dict[str, str] = {
    "agency.txt": "agency_id,agency_name,agency_timezone\n1,Tram,America/New_York\n",
    "stops.txt": "stop_id,stop_name,stop_lat,stop_lon,location_type,parent_station\n"
    "s1,First,42.1,-71.1,,\ns2,Second,42.2,-71.2,0,\ns3,Third,42.3,-71.3,0,place-third\nplace-third,Third,42.3,-71.3,1,\n",
    "calendar.txt": "service_id,monday,tuesday,wednesday,thursday,friday,saturday,sunday,start_date,end_date\n"
    "daily,1,1,1,1,1,1,1,20260101,20261231\nsundays,0,0,0,0,0,0,1,20260101,20261231\n",
    "calendar_dates.txt": "service_id,date,exception_type\n",
    "trips.txt": "route_id,service_id,trip_id,trip_headsign,trip_short_name,direction_id\n"
    "R,daily,morning,Third,,0\nR,daily,night,Third,,0\nR,sundays,sunday,Third,,0\n",
    "stop_times.txt": "trip_id,arrival_time,departure_time,stop_id,stop_sequence,timepoint\n"
    "morning,08:00:00,08:00:00,s1,1,1\nmorning,,,s2,5,0\nmorning,8:20:00,8:20:30,s3,9,\n"
    "night,25:30:00,25:30:00,s1,1,1\nnight,27:40:00,27:40:00,s3,9,1\n"
    "sunday,10:00:00,10:00:00,s1,1,1\nsunday,10:20:00,10:20:00,s3,9,1\n",
}
"""Trips on every day at 8 am and from 1:30 to 3:40 am of the next day, and one on Sundays."""


def make_static_feed(**changes: str) -> bytes:
    """Return the zip of the static feed, with other texts for some files (without `.txt`)."""
    files = FILES | {f"{name}.txt": text for name, text in changes.items()}
    stored = io.BytesIO()
    with zipfile.ZipFile(stored, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(zipfile.ZipInfo(name), text)
    return stored.getvalue()


def local_time(day: date, clock: str) -> int:
    """Return the epoch seconds of a time of the wall clock, which may be past 24:00."""
    hours, minutes = map(int, clock.split(":"))
    midnight = datetime(day.year, day.month, day.day, tzinfo=ZoneInfo(TIME_ZONE)) + timedelta(days=hours // 24)
    return int(midnight.replace(hour=hours % 24, minute=minutes).timestamp())


def make_source(
    directory: Path,
    static: bytes | None = None,
    positions: Mapping[int, Sequence[dict[str, Any]]] | None = None,
    updates: Mapping[int, Sequence[dict[str, Any]]] | None = None,
) -> GtfsSource:
    """Return a source of an archive with a static feed, and with entities by the time of their snapshot."""
    place = DirectoryPlace(directory)
    Editions(place).add(static or make_static_feed(), 0, "a test")
    for feed, snapshots in {"vehicle_positions": positions, "trip_updates": updates}.items():
        for second, entities in (snapshots or {}).items():
            FeedArchive(place).append(feed, [FetchedSnapshot(second, make_feed(second, entities))])
    return GtfsSource(place, "https://feeds.example/gtfs.zip")
