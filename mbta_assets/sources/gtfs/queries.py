"""SQL on tables in memory. Rows of a whole day, which may not fit there, are up to `day_rows`."""

from functools import cache
from typing import TYPE_CHECKING, Any

import pyarrow as arrow

if TYPE_CHECKING:
    import duckdb


def query_tables(sql: str, parameters: dict[str, Any] | None = None, **tables: arrow.Table) -> arrow.Table:
    """Return the result of a query on some tables."""
    with _open_database().cursor() as connection:
        for name, rows in tables.items():
            connection.register(name, rows)
        return connection.execute(sql, parameters or {}).to_arrow_table()


@cache
def _open_database() -> "duckdb.DuckDBPyConnection":
    """Return an empty database, as each takes 20 ms to make; a cursor of it has tables of its own."""
    import duckdb  # takes a tenth of a second to import; the code location imports this module and must load fast

    return duckdb.connect()
