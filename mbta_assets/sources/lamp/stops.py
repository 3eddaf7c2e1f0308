"""The stops that were valid on a service day, of the archive's file of all of a year's editions of the timetable."""

import hashlib
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as arrow
from pyarrow import parquet

from mbta_assets.sources.contract import Fault

NAMES = {
    "stop_id": "id",
    "stop_name": "name",
    "platform_name": "platform_name",
    "stop_lat": "latitude",
    "stop_lon": "longitude",
    "parent_station": "parent_station",
}
"""Column of the contract for each column of GTFS."""
VALIDITY = ("gtfs_active_date", "gtfs_end_date")
"""First and last day of an edition, as numbers YYYYMMDD."""
REQUIRED = ("stop_id", "stop_lat", "stop_lon", *VALIDITY)


def read_stops(path: Path) -> pd.DataFrame:
    """Read the stops of all editions, with the names of the contract and the days of `VALIDITY`. Raises Fault."""
    try:
        with parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            rows = file.read([name for name in (*NAMES, *VALIDITY) if name in names])
    except (arrow.ArrowException, OSError) as error:
        raise Fault(f"{path} cannot be read: {error}", "Remove it, and it is downloaded again") from error
    if missing := next((name for name in REQUIRED if name not in names), None):
        remedy = "The format of the archive has changed, and this version of the platform does not know it"
        raise Fault(f"the required column is missing in the stops, which have {', '.join(names)}", remedy, missing)
    stops = rows.to_pandas()
    for name in VALIDITY:
        stops[name] = pd.to_numeric(stops[name], errors="coerce")
    for name in ("stop_lat", "stop_lon"):
        stops[name] = pd.to_numeric(stops[name], errors="coerce").astype(float)
    return stops.reindex(columns=[*NAMES, *VALIDITY]).rename(columns=NAMES)


def select_valid(stops: pd.DataFrame, service_date: date) -> pd.DataFrame:
    """Return the stops that were valid on a service day, once each, in order. Raises Fault where none was."""
    number = int(f"{service_date:%Y%m%d}")
    valid = stops[(stops[VALIDITY[0]] <= number) & (number <= stops[VALIDITY[1]])]
    if valid.empty:
        raise Fault("no stop was valid on the day", "Wait until the archive has the timetable of that day")
    latest = valid.sort_values(VALIDITY[0], kind="stable").drop_duplicates("id", keep="last")
    return latest.drop(columns=list(VALIDITY)).sort_values("id", ignore_index=True)


def digest_days(stops: pd.DataFrame, days: Sequence[date]) -> dict[date, str]:
    """Return a digest of the stops that were valid on each of some days of a year."""
    hashes = pd.util.hash_pandas_object(stops.drop(columns=list(VALIDITY)).astype(str), index=False).to_numpy()
    first, last = (stops[name].to_numpy(dtype=float) for name in VALIDITY)
    digests: dict[date, str] = {}
    by_rows: dict[bytes, str] = {}
    for day in days:
        number = int(f"{day:%Y%m%d}")
        valid = np.sort(hashes[(first <= number) & (number <= last)]).tobytes()
        digests[day] = by_rows.setdefault(valid, hashlib.sha256(valid).hexdigest()[:10])
    return digests
