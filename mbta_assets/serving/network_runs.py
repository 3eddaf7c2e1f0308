"""The run times from stop to stop of all vehicles of a service day, for their ratio to the scheduled ones.

They are those that the column `network_run_ratio` of the table `transit_features` counts.
"""

from bisect import bisect_left, bisect_right
from datetime import datetime, timedelta

from mbta_assets.serving.scheduled_trip import MICROSECOND
from mbta_assets.transit import formulas

_WINDOW = timedelta(seconds=formulas.NETWORK_WINDOW_SECONDS)
_MAX_RUN_US = timedelta(seconds=formulas.MAX_NETWORK_RUN_SECONDS) // MICROSECOND
_USUAL_RUN_US = timedelta(seconds=formulas.USUAL_NETWORK_RUN_SECONDS) // MICROSECOND


class NetworkRuns:
    """Runs from one arrival of a trip to its next, in order of their ends; times are in microseconds."""

    def __init__(self) -> None:
        self._ends: list[datetime] = []
        self._runs: list[tuple[int, int]] = []
        """Run time of each run, and the scheduled one."""
        self._sums = [(0, 0)]
        """Their sums over all runs before each, and over all."""

    def add(self, ended_at: datetime, run_us: int, scheduled_us: int) -> None:
        """Add a run, unless it does not count: it took too long, or the schedule has its ends in another order."""
        if not _counts(run_us, scheduled_us):
            return
        index = bisect_right(self._ends, ended_at)
        self._ends.insert(index, ended_at)
        self._runs.insert(index, (run_us, scheduled_us))
        self._add_up(index)

    def remove(self, ended_at: datetime, run_us: int, scheduled_us: int) -> None:
        """Remove a run that was added with the same arguments."""
        if not _counts(run_us, scheduled_us):
            return
        index = self._runs.index((run_us, scheduled_us), bisect_left(self._ends, ended_at))
        del self._ends[index], self._runs[index]
        self._add_up(index)

    def compute_ratio(self, now: datetime) -> float:
        """Return the sum of the runs that ended within the last half hour, before now, relative to the scheduled one.

        A usual run is counted with them, so that the ratio is near 1 where there are few, and 1 where there are none.
        """
        run, scheduled = self._sums[bisect_left(self._ends, now)]
        run_before, scheduled_before = self._sums[bisect_left(self._ends, now - _WINDOW)]
        return (run - run_before + _USUAL_RUN_US) / (scheduled - scheduled_before + _USUAL_RUN_US)

    def _add_up(self, begin: int) -> None:
        """Make the sums those of the runs again, from an index on."""
        del self._sums[begin + 1 :]
        run, scheduled = self._sums[-1]
        for run_us, scheduled_us in self._runs[begin:]:
            run, scheduled = run + run_us, scheduled + scheduled_us
            self._sums.append((run, scheduled))


def _counts(run_us: int, scheduled_us: int) -> bool:
    """Return whether a run says something about the network."""
    return run_us <= _MAX_RUN_US and scheduled_us >= 0
