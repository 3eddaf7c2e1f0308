"""The `synthetic` source: simulated service days as the four upstream tables, with the best possible predictions.

The simulation itself is in `simulation`; this module puts its results into the columns of the contract.
"""

from collections.abc import Mapping
from datetime import date
from typing import Self

import numpy as np
import pandas as pd

from mbta_assets.settings import Settings
from mbta_assets.sources.contract import Source, SourceRows
from mbta_assets.sources.simulation import feed, process
from mbta_assets.sources.simulation.network import BERTHS, load_network
from mbta_assets.sources.simulation.timetable import Timetable, build_timetable
from mbta_assets.transit import schema, service_day


class SyntheticSource(Source):
    """Simulated rapid transit: any service day, determined by the seed and the date alone."""

    name = "synthetic"

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Return the source with the seed in the settings."""
        return cls(settings.seed)

    def read(self, table: str, service_date: date) -> SourceRows:
        """Make an upstream table of a service day, of which no row is rejected; `vehicle` runs the simulation."""
        if table == "vehicle":
            return SourceRows.from_usable(feed.publish_vehicle_updates(process.simulate(service_date, self.seed)))
        if table == "stop":
            columns = _stop_columns()
        elif table == "trip":
            columns = _trip_columns(build_timetable(service_date, self.seed))
        else:
            columns = _schedule_columns(build_timetable(service_date, self.seed), service_date)
        rows = schema.cast_frame(pd.DataFrame({"service_date": service_date} | columns), schema.UPSTREAM[table])
        return SourceRows.from_usable(rows)

    def poll(self, table: str, known_versions: Mapping[date, str]) -> dict[date, str]:
        """Return no service day: any can be simulated, and none ever changes."""
        return {}

    def oracle(self, rows: pd.DataFrame) -> np.ndarray:
        """Return the best possible predictions (n,) in seconds of delay; NaN where no event is scheduled.

        `rows` has `service_date`, `trip_id`, `stop_id` and `time_stamp` (UTC). A prediction uses the parameters of the
        simulation and its state at `time_stamp`, and none of the randomness after it.
        """
        from mbta_assets.sources.simulation.oracle import predict_delays  # SciPy is slow to import

        delays = np.full(len(rows), np.nan)
        service_dates = schema.to_service_dates(rows["service_date"])
        for day in np.unique(service_dates).tolist():
            of_day = np.flatnonzero(service_dates == np.datetime64(day))
            delays[of_day] = predict_delays(process.simulate(day, self.seed), rows.iloc[of_day])
        return delays


def _trip_columns(timetable: Timetable) -> dict[str, object]:
    network = load_network()
    patterns = [network.patterns[trip.pattern] for trip in timetable.trips]
    return {
        "id": [trip.trip_id for trip in timetable.trips],
        "name": None,
        "route_id": [pattern.route_id for pattern in patterns],
        "direction_id": [pattern.direction_id for pattern in patterns],
        "headsign": [network.platforms[pattern.stop_ids[-1]].name for pattern in patterns],
    }


def _stop_columns() -> dict[str, object]:
    """Return the platforms, and the berths of terminals as further platforms of their stations."""
    platforms = load_network().platforms
    by_id = {**platforms, **{berth: platforms[platform] for berth, platform in BERTHS.items()}}
    return {
        "id": list(by_id),
        "name": [platform.name for platform in by_id.values()],
        "platform_name": [platform.platform_name for platform in by_id.values()],
        "latitude": [platform.latitude for platform in by_id.values()],
        "longitude": [platform.longitude for platform in by_id.values()],
        "parent_station": [platform.parent_station for platform in by_id.values()],
    }


def _schedule_columns(timetable: Timetable, service_date: date) -> dict[str, object]:
    """Return the stop times of scheduled trips: no arrival at a trip's origin, no departure at its terminal."""
    stop_times = np.flatnonzero(timetable.scheduled[timetable.trip])
    start = pd.Timestamp(service_day.start_time(service_date))
    times = pd.Series(start + pd.to_timedelta(timetable.published_seconds[stop_times], unit="s"))
    trip_ids = np.array([trip.trip_id for trip in timetable.trips], dtype=object)
    return {
        "trip_id": trip_ids[timetable.trip[stop_times]],
        "stop_id": timetable.stop_ids[stop_times],
        "arrival_time": times.where(timetable.position[stop_times] > 0),
        "departure_time": times.where(~np.isin(stop_times, timetable.terminals)),
        "stop_sequence": feed.compute_stop_sequences(timetable)[stop_times],
        "timepoint": None,
    }


SOURCE = SyntheticSource
