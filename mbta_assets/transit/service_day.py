"""The service day: it belongs to Boston, turns at 3 am, and is counted from noon minus twelve hours."""

from datetime import date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import numpy as np

TIME_ZONE = "America/New_York"
TURN_HOUR = 3


def start(service_date: date) -> datetime:
    """The instant a service day's clock reads zero, in UTC.

    GTFS counts from noon minus twelve hours, which is not midnight on the two days a year the clocks change.
    """
    noon = datetime.combine(service_date, time(12), ZoneInfo(TIME_ZONE))
    return (noon.astimezone(ZoneInfo("UTC"))) - timedelta(hours=12)


def start_seconds(service_dates: np.ndarray) -> np.ndarray:
    """Epoch seconds (n,) float64 at which the service days (n,) datetime64[D] start."""
    days, index = np.unique(service_dates.astype("datetime64[D]"), return_inverse=True)
    return np.array([start(day).timestamp() for day in days.tolist()], dtype=np.float64)[index]
