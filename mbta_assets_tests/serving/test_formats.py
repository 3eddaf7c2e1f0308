"""The stored format of the network snapshot."""

from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mbta_assets.serving.formats import DamagedSnapshot, NetworkSnapshot
from mbta_assets.storage.reports import NETWORK_SNAPSHOT, ReportStore
from mbta_assets_tests.serving.conftest import ModelStore
from mbta_assets_tests.support.days import SIMULATED_DAYS


def test_a_snapshot_is_read_as_it_was_written_and_equal_snapshots_give_equal_bytes(full_store: ModelStore) -> None:
    content = ReportStore(full_store.root).read(NETWORK_SNAPSHOT)
    snapshot = NetworkSnapshot.from_bytes(content)
    assert snapshot.to_bytes() == content
    assert snapshot.service_date == SIMULATED_DAYS[-1]


@given(data=st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_snapshot_is_recognized_or_gives_one_that_can_be_shown(
    full_store: ModelStore, data: st.DataObject
) -> None:
    content = bytearray(ReportStore(full_store.root).read(NETWORK_SNAPSHOT))
    end = data.draw(st.integers(0, len(content)))
    for position in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=4)):
        content[position] ^= data.draw(st.integers(1, 255))
    try:
        snapshot = NetworkSnapshot.from_bytes(bytes(content[:end]))
    except DamagedSnapshot:
        return
    assert all(len(values) == len(snapshot.time_index) for values in snapshot.columns.values())
    assert all(len(snapshot.rows_at(index)) for index in set(snapshot.time_index.tolist()))


def test_arrays_that_do_not_belong_together_are_recognized(full_store: ModelStore) -> None:
    snapshot = NetworkSnapshot.from_bytes(ReportStore(full_store.root).read(NETWORK_SNAPSHOT))
    [name, *_] = [name for name, values in snapshot.columns.items() if values.dtype == np.float32]
    for damaged in (
        replace(snapshot, time_index=snapshot.time_index[::-1]),
        replace(snapshot, time_index=snapshot.time_index + len(snapshot.times)),
        replace(snapshot, vehicle_id=snapshot.vehicle_id[1:]),
        replace(snapshot, trip_id=snapshot.trip_id[1:]),
        replace(snapshot, reported_at=snapshot.reported_at // 10**6),
        replace(snapshot, later_visits=snapshot.later_visits.astype(np.float64)),
        replace(snapshot, columns={**snapshot.columns, name: snapshot.columns[name][1:]}),
        replace(snapshot, columns={**snapshot.columns, name: snapshot.columns[name].astype(np.str_)}),
        replace(snapshot, times=snapshot.times + 10**15),
        replace(snapshot, scheduled_arrival=np.zeros_like(snapshot.scheduled_arrival)),
        replace(snapshot, service_date=snapshot.service_date - timedelta(days=365)),
    ):
        with pytest.raises(DamagedSnapshot, match="not a whole snapshot"):
            NetworkSnapshot.from_bytes(damaged.to_bytes())
