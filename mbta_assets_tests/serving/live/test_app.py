"""Requests of the published feed name vehicles and stops by any id."""

from datetime import UTC, datetime
from urllib.parse import quote

from hypothesis import given
from hypothesis import strategies as st
from werkzeug.test import Client

from mbta_assets.serving.live.app import LiveApp
from mbta_assets.serving.live.network_view import Network
from mbta_assets.serving.live.state import LiveState, Published
from mbta_assets_tests.support.publications import NOON, make_publication, make_stop, make_trip

IDS = st.text(st.sampled_from("a%2 5/?#é+") | st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=8)


@given(IDS, IDS)
def test_a_vehicle_and_a_stop_are_found_by_their_ids(vehicle_id: str, stop_id: str) -> None:
    state = LiveState(lambda: datetime.now(UTC), 60)
    trip = make_trip("t", vehicle_id, (make_stop(1, NOON, stop_id=stop_id),))
    state.publish(Published(make_publication(trip), Network({})), 0.0)
    client = Client(LiveApp(state))
    vehicle = client.get(f"/vehicles/{quote(vehicle_id, safe='')}")
    assert (vehicle.status_code, (vehicle.json or {}).get("vehicle_id")) == (200, vehicle_id)
    stop = client.get(f"/stops/{quote(stop_id, safe='')}")
    assert (stop.status_code, (stop.json or {}).get("stop_id")) == (200, stop_id)
    assert stop.json and len(stop.json["predictions"]) == 1
