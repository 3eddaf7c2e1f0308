"""The source itself: upstream tables and versions of service days from the archive's files."""

import hashlib
import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import Self

import pandas as pd
import pyarrow as arrow

from mbta_assets.settings import Settings, SettingsError
from mbta_assets.sources.conform import conform
from mbta_assets.sources.contract import (
    Fault,
    FetchedDay,
    Source,
    SourceRows,
    absent_day_fault,
    translate_faults,
)
from mbta_assets.sources.lamp import archive_rows, stops
from mbta_assets.sources.lamp.archive import LampArchive
from mbta_assets.sources.lamp.client import AbsentFile, DownloadError
from mbta_assets.sources.rejection import describe_rows
from mbta_assets.transit import service_day

TIME_ZONE = "America/New_York"
"""Time zone of the archive's service days."""
MAX_INDEX_AGE_SECONDS = 20.0
"""Age up to which the index is not asked for again when the source is polled: four tables are polled at a time."""
TABLES_WITH_STOPS = ("vehicle", "stop")
"""Tables that the stops of the timetable go into."""
DIGEST_DIGITS = 10

logger = logging.getLogger(__name__)


class LampSource(Source):
    """Source of the service days in the archive of the subway's performance."""

    name = "lamp"

    def __init__(self, archive: LampArchive) -> None:
        self.archive = archive

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Return the source of the archive in the settings; its copies are kept in the store. Raises SettingsError."""
        if service_day.TIME_ZONE != TIME_ZONE:
            raise SettingsError(
                f"MBTA_SOURCE is 'lamp', whose service days are those of {TIME_ZONE}, and the time zone is "
                f"{service_day.TIME_ZONE}. Unset MBTA_TIME_ZONE, or choose another source."
            )
        return cls(LampArchive(settings.lamp_url, settings.store / "lamp"))

    def read(self, table: str, service_date: date) -> SourceRows:
        """Read a table of a service day; all tables of a day are read from one file. Raises SourceError.

        A file without rows is a day without rows.
        """
        with translate_faults(self.name, table, service_date), _translate_download_errors():
            rows = self._read_day(service_date)
            if table in ("vehicle", "trip", "schedule"):
                made = self._make_table(table, rows, service_date)
                read = conform(table, made, service_date, self.name, fill_service_date=False)
                return _reject_predicted_stops(read, rows, service_date) if table == "vehicle" else read
            valid = self._select_stops(service_date)
            served = arrow.Table.from_pandas(valid[valid["id"].isin(rows["stop_id"])], preserve_index=False)
            return conform(table, served, service_date, self.name)

    def _make_table(self, table: str, rows: pd.DataFrame, service_date: date) -> arrow.Table:
        if table == "trip":
            return archive_rows.make_trip(rows)
        if table == "schedule":
            return archive_rows.make_schedule(rows, service_date)
        positions = self._select_stops(service_date).set_index("id")[["latitude", "longitude"]]
        return archive_rows.make_vehicle(rows, positions)

    def poll(self, table: str, known_versions: Mapping[date, str]) -> dict[date, str]:
        """Return a version of each service day in the archive's index. Raises SourceError.

        A version has a digest of what the index says of the file, and for the tables with stops one of those that were
        valid on the day: an edition of the timetable changes the days that it is of.
        """
        with translate_faults(self.name, table, None), _translate_download_errors():
            index = self.archive.refresh(MAX_INDEX_AGE_SECONDS)
            versions = {day: _digest(f"{entry.name} {entry.edition}") for day, entry in index.items()}
            if table not in TABLES_WITH_STOPS:
                return versions
            digests: dict[date, str] = {}
            for year in sorted({day.year for day in index}):
                copy = self.archive.fetch_stops(year)
                digests |= _digest_stops(copy.path, tuple(day for day in index if day.year == year))
            return {day: f"{version}-{digests[day]}" for day, version in versions.items()}

    def fetch(self, service_dates: Iterable[date]) -> Iterator[FetchedDay]:
        """Download what there is no copy of, and yield of each service day how it is. Raises SourceError."""
        with translate_faults(self.name, "vehicle", None), _translate_download_errors():
            index = self.archive.read_index()
        for day in service_dates:
            if day not in index:
                yield FetchedDay(day, "missing", "the archive's index does not have it")
                continue
            try:
                yield self._fetch_day(day)
            except DownloadError as error:
                yield FetchedDay(day, "failed", str(error))
            except Fault as fault:
                yield FetchedDay(day, "failed", f"{fault.problem}. {fault.remedy}")

    def _fetch_day(self, service_date: date) -> FetchedDay:
        try:
            copy = self.archive.fetch_day(service_date)
        except AbsentFile as error:
            return FetchedDay(service_date, "missing", f"the archive's index has it, but {error}")
        if _load_rows(copy.path, service_date).empty:
            return FetchedDay(service_date, "empty", "the archive's file has no rows")
        self.archive.fetch_stops(service_date.year)
        return FetchedDay(service_date, "fetched" if copy.downloaded else "cached", f"SHA-256 {copy.sha256}")

    def _read_day(self, service_date: date) -> pd.DataFrame:
        index = self.archive.read_index()
        if service_date not in index:
            raise absent_day_fault(index, "the archive has no file of the day", "Ask for a day that it has")
        rows = _load_rows(self.archive.fetch_day(service_date).path, service_date)
        if rows.empty:
            logger.warning("The archive's file of service day %s has no rows.", service_date)
        return rows

    def _select_stops(self, service_date: date) -> pd.DataFrame:
        """Return the stops that were valid on a service day. Raises DownloadError, Fault."""
        return stops.select_valid(_load_stops(self.archive.fetch_stops(service_date.year).path), service_date)


def _reject_predicted_stops(read: SourceRows, rows: pd.DataFrame, service_date: date) -> SourceRows:
    """Add the times of stops to the rejected rows that the archive took from the agency's predictions."""
    predicted = archive_rows.describe_predicted_stops(rows)
    if not predicted:
        return read
    rejected = describe_rows("vehicle", service_date, predicted)
    return SourceRows(read.rows, pd.concat([read.rejected, rejected], ignore_index=True))


@contextmanager
def _translate_download_errors() -> Iterator[None]:
    """Turn errors of the archive into Faults."""
    try:
        yield
    except AbsentFile as error:
        raise Fault(
            f"the file is not in the archive: {error}", "Try again later, as the archive may be replacing it"
        ) from error
    except DownloadError as error:
        raise Fault(str(error), "Try again; what was downloaded so far is kept") from error


@lru_cache(maxsize=2)
def _load_rows(path: Path, service_date: date) -> pd.DataFrame:
    """Return the rows of a copy, whose name is its digest."""
    return archive_rows.read_rows(path, service_date)


@lru_cache(maxsize=2)
def _load_stops(path: Path) -> pd.DataFrame:
    return stops.read_stops(path)


@lru_cache(maxsize=16)
def _digest_stops(path: Path, days: tuple[date, ...]) -> dict[date, str]:
    return stops.digest_days(stops.read_stops(path), days)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:DIGEST_DIGITS]
