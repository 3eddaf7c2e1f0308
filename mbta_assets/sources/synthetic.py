"""The `synthetic` source: the simulator's service days as the four upstream tables, and its oracle."""

from collections.abc import Mapping
from datetime import date

import numpy as np
import pandas as pd

from mbta_assets.sources.simulation import feed, process
from mbta_assets.sources.simulation.network import network
from mbta_assets.sources.simulation.timetable import Timetable, timetable
from mbta_assets.transit import schema, service_day


class SyntheticSource:
    """Rapid transit that never was: any service day, deterministic by the seed and the day."""

    name = "synthetic"

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def read(self, table: str, service_date: date) -> pd.DataFrame:
        """One upstream table of a service day, typed as `schema.UPSTREAM[table]`. Only `vehicle` runs the process."""
        if table == "vehicle":
            return feed.vehicle_table(process.simulate(service_date, self.seed))
        columns = {"trip": _trips, "stop": _stops, "schedule": _schedule}[table]
        frame = pd.DataFrame({"service_date": service_date} | columns(timetable(service_date, self.seed), service_date))
        return schema.typed(frame, schema.UPSTREAM[table])

    def poll(self, table: str, known: Mapping[date, str]) -> dict[date, str]:
        """No day: every one can be made, and none of them ever changes."""
        return {}

    def oracle(self, rows: pd.DataFrame) -> np.ndarray:
        """The best possible prediction (n,) in seconds of delay, NaN where the day knows no such scheduled arrival.

        `rows` has `service_date`, `trip_id`, `stop_id` and `time_stamp` (UTC): the target and the moment at which it
        is predicted, with full knowledge of the process and its state but none of the noise to come.
        """
        from mbta_assets.sources.simulation.oracle import best_predictions  # SciPy is slow to import

        best = np.full(len(rows), np.nan)
        days = schema.days(rows["service_date"])
        for day in np.unique(days).tolist():
            of_day = np.flatnonzero(days == np.datetime64(day))
            best[of_day] = best_predictions(process.simulate(day, self.seed), rows.iloc[of_day])
        return best


def _trips(plan: Timetable, service_date: date) -> dict[str, object]:
    patterns = [network().patterns[slot.pattern] for slot in plan.slots]
    return {
        "id": [slot.trip_id for slot in plan.slots],
        "name": None,
        "route_id": [pattern.route_id for pattern in patterns],
        "direction_id": [pattern.direction_id for pattern in patterns],
        "headsign": [network().platforms[pattern.stop_ids[-1]].name for pattern in patterns],
    }


def _stops(plan: Timetable, service_date: date) -> dict[str, object]:
    platforms = network().platforms.values()
    return {
        "id": [platform.stop_id for platform in platforms],
        **{
            name: [getattr(platform, name) for platform in platforms]
            for name in ("name", "platform_name", "latitude", "longitude", "parent_station")
        },
    }


def _schedule(plan: Timetable, service_date: date) -> dict[str, object]:
    """Times of the scheduled trips: no arrival where a trip begins, no departure where it ends."""
    visits = np.flatnonzero(plan.scheduled[plan.trip])
    start = pd.Timestamp(service_day.start(service_date))
    times = pd.Series(start + pd.to_timedelta(plan.published_seconds[visits], unit="s"))
    return {
        "trip_id": np.array([slot.trip_id for slot in plan.slots], dtype=object)[plan.trip[visits]],
        "stop_id": plan.stop_ids[visits],
        "arrival_time": times.where(plan.position[visits] > 0),
        "departure_time": times.where(~np.isin(visits, plan.first[1:] - 1)),
        "stop_sequence": feed.stop_sequences(plan)[visits],
    }
