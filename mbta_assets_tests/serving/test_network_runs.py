"""The ratio of the network's run times is that of the runs that are left, in whatever order they come and go."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from mbta_assets.serving.network_runs import NetworkRuns

BEGIN = datetime(2024, 9, 10, 12, tzinfo=UTC)
MINUTE_US = 60_000_000
USUAL_US = 10 * MINUTE_US
Run = tuple[datetime, int, int]
runs = st.tuples(
    st.integers(0, 90).map(lambda minutes: BEGIN + timedelta(minutes=minutes)),
    st.sampled_from([0, 1, MINUTE_US, 7 * MINUTE_US, 60 * MINUTE_US, 60 * MINUTE_US + 1]),
    st.sampled_from([-1, 0, MINUTE_US, 5 * MINUTE_US]),
)


def compute_ratio(left: list[Run], now: datetime) -> float:
    """Return the ratio by its definition."""
    counted = [
        (run, scheduled)
        for ended, run, scheduled in left
        if now - timedelta(minutes=30) <= ended < now and run <= 60 * MINUTE_US and scheduled >= 0
    ]
    run, scheduled = sum(run for run, _ in counted), sum(scheduled for _, scheduled in counted)
    return (run + USUAL_US) / (scheduled + USUAL_US)


@given(st.lists(st.tuples(runs, st.booleans()), max_size=30))
def test_runs_that_are_removed_count_no_longer(changes: list[tuple[Run, bool]]) -> None:
    network, left = NetworkRuns(), list[Run]()
    for run, is_removed in changes:
        network.add(*run)
        left.append(run)
        if is_removed:
            removed = left.pop(len(left) // 2)
            network.remove(*removed)
        for minutes in (0, 30, 31, 95):
            now = BEGIN + timedelta(minutes=minutes)
            assert network.compute_ratio(now) == compute_ratio(left, now)


def test_without_runs_the_network_runs_as_scheduled() -> None:
    assert NetworkRuns().compute_ratio(BEGIN) == 1
