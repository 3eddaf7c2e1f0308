"""The service day: its time zone, the hour at which it begins, and the instant from which GTFS counts its times.

Nothing here knows tables; features, sources and partitions all take the definition from this module.
"""

from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import numpy as np

from mbta_assets.agency import AGENCY

TIME_ZONE = AGENCY.time_zone
SERVICE_DAY_START_HOUR = AGENCY.service_day_start_hour
"""Local hour at which one service day ends and the next begins."""
MAX_EPOCH_SECONDS = datetime(9999, 1, 1, tzinfo=UTC).timestamp()
"""Epoch seconds, the end excluded, that are times: those of a feed in milliseconds by mistake are past it."""


def start_time(service_date: date) -> datetime:
    """Return the instant (UTC) from which GTFS counts the times of a service day: noon minus twelve hours.

    It differs from midnight on the two days a year on which the clocks change.
    """
    noon = datetime.combine(service_date, time(12), ZoneInfo(TIME_ZONE))
    return noon.astimezone(ZoneInfo("UTC")) - timedelta(hours=12)


def to_time(epoch_seconds: float) -> datetime | None:
    """Return epoch seconds, any number, as a time (UTC); None if they are before 1970 or not before the year 9999."""
    return datetime.fromtimestamp(epoch_seconds, UTC) if 0 <= epoch_seconds < MAX_EPOCH_SECONDS else None


def service_date_at(time: datetime) -> date:
    """Return the service date on which a time (UTC) falls by the hour at which service days begin."""
    return (time.astimezone(ZoneInfo(TIME_ZONE)).replace(tzinfo=None) - timedelta(hours=SERVICE_DAY_START_HOUR)).date()


def start_epoch_seconds(service_dates: np.ndarray) -> np.ndarray:
    """Return the epoch seconds (n,) float64 of the start times of service dates (n,) datetime64[D]."""
    distinct, index = np.unique(service_dates.astype("datetime64[D]"), return_inverse=True)
    return np.array([start_time(day).timestamp() for day in distinct.tolist()], dtype=np.float64)[index]
