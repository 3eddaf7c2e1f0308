"""Rows of a service day on disk, as batches of snapshots come to them.

The predictions of a large agency are tens of millions of rows a day, of which most repeat the one before; whether one
does is known only when all are there, as snapshots and updates may be out of order. DuckDB keeps and compares them in
bounded memory. What the rows mean is up to `source`.
"""

import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as arrow

MEMORY_LIMIT = "512MB"
"""Memory of the database; what does not fit waits in its temporary files."""
THREADS = 2
"""Threads of the database, as each takes memory of its own."""


class DayRows:
    """A table in a temporary database, which is removed at the end of the context."""

    def __init__(self) -> None:
        import duckdb  # takes a tenth of a second to import; the code location imports this module and must load fast

        self._directory = tempfile.TemporaryDirectory(prefix="mbta-assets-")
        config: dict[str, str | bool | int | float | list[str]] = {
            "memory_limit": MEMORY_LIMIT,
            "threads": THREADS,
            "preserve_insertion_order": False,
        }
        self._connection = duckdb.connect(Path(self._directory.name) / "day.duckdb", config=config)
        self._exists = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._connection.close()
        self._directory.cleanup()

    def insert(self, sql: str, parameters: dict[str, Any], **tables: arrow.Table) -> None:
        """Add what a query on some tables returns. Every query returns the same columns."""
        for name, rows in tables.items():
            self._connection.register(name, rows)
        target = "INSERT INTO day_rows" if self._exists else "CREATE TABLE day_rows AS"
        self._connection.execute(f"{target} {sql}", parameters)
        self._exists = True
        for name in tables:
            self._connection.unregister(name)

    def select(self, sql: str) -> arrow.Table:
        """Return the result of a query on the table `day_rows`."""
        return self._connection.execute(sql).to_arrow_table()
