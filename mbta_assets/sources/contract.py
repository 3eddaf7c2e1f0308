"""The protocol that every source implements, and the errors that it raises.

Converting and validating what a source reads is up to `conform`, reading files, feeds or databases to the sources
themselves, and storing what was read to `storage`.
"""

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date
from typing import ClassVar, Literal, NamedTuple, Protocol, Self

import numpy as np
import pandas as pd
import pyarrow as arrow

from mbta_assets.settings import Settings
from mbta_assets.transit import schema


class SourceRows(NamedTuple):
    """What a source has of a table and service day: rows that can be used, and rows that cannot, with the reason.

    `conform` makes both of a table of Arrow.
    """

    rows: pd.DataFrame
    """Rows that can be used, with the columns and types of `schema.SOURCE_TABLES[table]`; times are UTC."""
    rejected: pd.DataFrame
    """Rows that cannot, with the columns of the table `rejected_rows`, but for `rejected_by`: the asset adds it."""

    @classmethod
    def from_usable(cls, rows: pd.DataFrame) -> Self:
        """Return rows of which all can be used: none is rejected."""
        return cls(rows, schema.to_frame(REJECTED_ROWS.empty_table()))

    @classmethod
    def empty(cls, table: str) -> Self:
        """Return no rows of a table, as of a day that has nothing of an optional one. Raises KeyError."""
        return cls.from_usable(schema.empty_frame(schema.SOURCE_TABLES[table]))


class FetchedDay(NamedTuple):
    """State of a service day after `Source.fetch`."""

    service_date: date
    """The service day."""
    state: Literal["fetched", "cached", "empty", "missing", "failed"]
    """`fetched` now or `cached` before; `empty`: the source has the day, and no rows of it; `missing`: it does not have
    it; `failed`: it may have it."""
    detail: str = ""
    """What was fetched, or the reason why not; for people."""


REJECTED_ROWS = arrow.schema(
    [field for field in schema.arrow_schema(schema.RejectedRows) if field.name != "rejected_by"]
)
"""Arrow schema of `SourceRows.rejected`."""


class TablesInPlace(Protocol):
    """Upstream tables that are queried where others store them: those of a `Source` that `reads_in_place`.

    `table` is a key of `schema.SOURCE_TABLES`.
    """

    def days(self, table: str) -> list[date]:
        """Return the service days of which a table has rows, in order. Raises SourceError."""

    def versions(self, table: str, days: Iterable[date]) -> dict[date, str]:
        """Return a version of each of some service days, which changes with its rows. Raises SourceError."""

    def read(self, table: str, days: Iterable[date], columns: Sequence[str] | None = None) -> arrow.Table:
        """Read the rows of some service days that can be used, one day after the other.

        `columns` are the names of those to read; None means all. Raises SourceError.
        """

    def read_rows(self, table: str, day: date) -> SourceRows:
        """Read the rows of a service day that can be used, and those that are rejected. Raises SourceError."""

    def relation(self, table: str, day: date) -> str:
        """Return a SQL subquery with the rows of a service day that can be used, as `read` has them.

        Raises SourceError.
        """


class Source(Protocol):
    """Provider of the upstream tables, one table of one service day at a time.

    A source is a subclass in the module `mbta_assets.sources.<name>`, which assigns it to `SOURCE`. It needs `name`,
    `from_settings`, `read` and `poll`. `table` is always a key of `schema.SOURCE_TABLES`: one of the four upstream
    tables, or of the `optional_tables` of the source.
    """

    name: ClassVar[str]
    """Value of MBTA_SOURCE that selects the source."""
    reads_in_place: ClassVar[bool] = False
    """True if consumers read the tables where others store them; else the upstream assets copy them with `read`."""
    optional_tables: ClassVar[frozenset[str]] = frozenset()
    """Those of `schema.OPTIONAL_UPSTREAM` that the source may have; of a service day it may have no rows."""
    tables_in_place: TablesInPlace | None = None
    """The tables of a source that `reads_in_place`; None for all others."""

    @classmethod
    @abstractmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Return the source that the settings describe. Raises SettingsError."""
        ...

    @abstractmethod
    def read(self, table: str, service_date: date) -> SourceRows:
        """Read all rows of a table on a service day: those that can be used, and those that are rejected.

        `conform` turns a table of Arrow into them. Of a day that has nothing of an optional table there are no rows.
        Raises SourceError where the table as a whole cannot be used.
        """
        ...

    @abstractmethod
    def poll(self, table: str, known_versions: Mapping[date, str]) -> dict[date, str]:
        """Return a version of each service day of which a table can be read. Raises SourceError.

        A version differs from the earlier one if `read` may return other rows; versions have no order. A source may
        use the `known_versions` of an earlier call to skip what has not changed. A source whose days never change
        returns none.
        """
        ...

    def fetch(self, service_dates: Iterable[date]) -> Iterator[FetchedDay]:
        """Fetch what `read` needs of service days, and yield of each how it is. Raises SourceError.

        `mbta-assets backfill` calls it before `read`. A source that keeps no copies fetches nothing, and has every day:
        it need not define this.
        """
        for day in service_dates:
            yield FetchedDay(day, "cached")

    def oracle(self, rows: pd.DataFrame) -> np.ndarray | None:
        """Return the best possible predictions (n,) in seconds of delay, or None if the source does not know them.

        Only a simulation knows them; other sources need not define this. `rows` (n rows) has `service_date`, `trip_id`,
        `stop_id` and `time_stamp` (UTC). The prediction is NaN for a row whose trip has no scheduled arrival at the
        stop.
        """
        return None


class SourceError(Exception):
    """Failure to read a table from a source; the message has source, table, column, service day and remedy."""


class Fault(Exception):
    """Problem with a table and its remedy, raised by code that does not know source, table or service day."""

    def __init__(self, problem: str, remedy: str, column: str | None = None) -> None:
        super().__init__(problem)
        self.problem, self.remedy, self.column = problem, remedy, column


class AbsentData(Fault):
    """Fault of a table that is not there, or that has nothing of the service day."""


@contextmanager
def translate_faults(source: str, table: str, service_date: date | None) -> Iterator[None]:
    """Turn a Fault raised inside into a SourceError with the source, the table and the service day, if there is one."""
    try:
        yield
    except Fault as fault:
        column = f", column {fault.column}" if fault.column else ""
        day = f", service day {service_date}" if service_date else ""
        raise SourceError(
            f"source {source}, table {table}{column}{day}: {fault.problem}. {fault.remedy}."
        ) from fault.__cause__


def absent_day_fault(days: Iterable[object], problem: str, remedy: str) -> AbsentData:
    """Return the fault of a service day that a table does not have, with the range of the days it has."""
    stored = sorted(map(str, days))
    held = f"it holds {stored[0]} to {stored[-1]}, {len(stored)} in all" if stored else "it holds no rows at all"
    return AbsentData(f"{problem}; {held}", remedy)
