"""The stored format of the network snapshot."""

from mbta_assets.serving.formats import NetworkSnapshot
from mbta_assets.storage.reports import NETWORK_SNAPSHOT, ReportStore
from mbta_assets_tests.serving.conftest import ModelStore
from mbta_assets_tests.support.days import SIMULATED_DAYS


def test_a_snapshot_is_read_as_it_was_written_and_equal_snapshots_give_equal_bytes(full_store: ModelStore) -> None:
    content = ReportStore(full_store.root).read(NETWORK_SNAPSHOT)
    snapshot = NetworkSnapshot.from_bytes(content)
    assert snapshot.to_bytes() == content
    assert snapshot.service_date == SIMULATED_DAYS[-1]
