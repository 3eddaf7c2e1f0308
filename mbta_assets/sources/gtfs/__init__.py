"""Any agency's GTFS and GTFS-realtime: the archive of feeds, its collector, and the source that reads it.

`feed_rows` has the rows of snapshots, `static_feed` the timetable, `static_file` its files; `archive` and `editions`
keep both; `polling` and `collector` fetch them; `validity`, `trips`, `alterations` and `source` make service days.
"""

from importlib import import_module
from typing import Any


def __getattr__(name: str) -> Any:
    """Return `SOURCE`, the class that MBTA_SOURCE=gtfs selects; the collector does without it."""
    if name == "SOURCE":
        return import_module(f"{__name__}.source").SOURCE
    raise AttributeError(f"module {__name__} has no {name}")
