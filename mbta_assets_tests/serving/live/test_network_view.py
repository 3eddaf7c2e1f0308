"""The view of a route on the live page: stations in order, vehicles between them, next arrivals, problems."""

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

from werkzeug.test import Client

from mbta_assets.serving import Stop, StopTime, Timetable, Trip
from mbta_assets.serving.live.app import LiveApp
from mbta_assets.serving.live.network_view import SHOWN_EVENTS, Network, build_view
from mbta_assets.serving.live.publication import TripPrediction
from mbta_assets.serving.live.state import LiveState, Published
from mbta_assets_tests.support.publications import DAY, NOON, make_publication, make_stop, make_trip

TRUNK, BRANCH, LOOP = ["s1", "s2", "s3", "s4"], ["s1", "s2", "s5"], ["s1", "s2", "s1"]
TRIPS = {"trunk": TRUNK, "trunk-2": TRUNK, "branch": BRANCH}


def make_network(trips: dict[str, list[str]], route_id: str = "Red") -> Network:
    """Return the network of some trips, whose stops are ten minutes and a tenth of a degree apart."""
    rows = [
        StopTime(
            trip_id=trip, stop_id=stop, arrival_time=NOON + timedelta(minutes=10 * n),
            departure_time=NOON + timedelta(minutes=10 * n), stop_sequence=10 * (n + 1),
        )
        for trip, stops in trips.items()
        for n, stop in enumerate(stops)
    ]  # fmt: skip
    stops = [
        Stop(id=f"s{n}", name=f"Station {min(n, 4)}", platform_name=f"p{n}", latitude=42 + n / 10, longitude=-71)
        for n in range(1, 6)
    ]  # fmt: skip
    return Network({DAY: Timetable(DAY, rows, stops, [Trip(id=t, route_id=route_id, direction_id=0) for t in trips])})


def make_running(trip_id: str, vehicle_id: str, next_visit: int, stops: list[str], **changes: Any) -> TripPrediction:
    """Return a vehicle on its way to a visit of its trip, counted from 1, with predictions from there on."""
    ahead = tuple(
        make_stop(n, NOON + timedelta(minutes=10 * n, seconds=len(vehicle_id)), stop_id=stops[n - 1])
        for n in range(next_visit, len(stops) + 1)
    )
    return make_trip(trip_id, vehicle_id, ahead, **changes)


def view_route(network: Network, *trips: TripPrediction, route: str | None = "Red") -> dict[str, Any]:
    """Return the view of a route as it is served."""
    served = Published(make_publication(*trips), network).view(route, ["It is late."])
    view: dict[str, Any] = json.loads(served.body)
    return view


def test_a_branch_is_part_of_the_line_and_platforms_tell_stations_of_one_name_apart() -> None:
    view = view_route(make_network(TRIPS))
    [line] = view["lines"]
    assert [station["stop_id"] for station in line["stations"]] == ["s1", "s2", "s5", "s3", "s4"]
    assert [station["name"] for station in line["stations"]][2::2] == ["Station 4 (p5)", "Station 4 (p4)"]
    assert line["towards"] == "Station 4"
    assert view["problems"] == ["It is late."] and view["routes"][0]["vehicles"] == 0


def test_each_station_has_its_next_arrivals_in_order_and_an_origin_its_departures() -> None:
    waiting = make_stop(1, NOON + timedelta(minutes=3), event="departure")
    trips = [make_running("trunk", "v" * n, 2, TRUNK) for n in range(5, 0, -1)]
    trips = [replace(trip, trip_id=trip_id) for trip, trip_id in zip(trips, ["trunk", "trunk-2"] * 3, strict=False)]
    trips.append(replace(trips[0], vehicle_id="w", trip_id="branch", stops=(waiting,), current_status="STOPPED_AT"))
    [line] = view_route(make_network(TRIPS), *trips)["lines"]
    first, second = line["stations"][:2]
    assert [event["vehicle_id"] for event in second["arrivals"]] == ["v", "vv", "vvv"]
    assert len(second["arrivals"]) == SHOWN_EVENTS and first["arrivals"] == []
    assert [event["vehicle_id"] for event in first["departures"]] == ["w"]


def test_a_vehicle_is_where_its_coordinates_say_between_two_stations() -> None:
    def position(**changes: Any) -> float:
        running = make_running("trunk", "v", 2, TRUNK, current_stop_id="s2", current_stop_sequence=20, **changes)
        [line] = view_route(make_network(TRIPS), running)["lines"]
        [vehicle] = line["vehicles"]
        at: float = vehicle["position"]
        return at

    assert position(latitude=42.125, longitude=-71.0) == 0.25
    assert position(latitude=None, longitude=None) == 0.5
    assert position(latitude=42.2, longitude=-71.0) == 0.95
    assert position(latitude=42.2, longitude=-71.0, current_status="STOPPED_AT") == 1.0


def test_the_visits_of_a_loop_are_stations_of_their_own() -> None:
    loop = make_running("loop", "v", 2, LOOP, current_stop_id="s2", current_stop_sequence=20)
    back = replace(loop, current_stop_id="s1", current_stop_sequence=30, stops=loop.stops[1:], latitude=None)
    network = make_network({"loop": LOOP})
    [line] = view_route(network, loop)["lines"]
    assert [(station["stop_id"], len(station["arrivals"])) for station in line["stations"]] == [
        ("s1", 0), ("s2", 1), ("s1", 1)
    ]  # fmt: skip
    assert view_route(network, back)["lines"][0]["vehicles"][0]["position"] == 1.5


def test_without_a_choice_the_route_with_most_vehicles_is_shown_and_what_is_unknown_is_left_out() -> None:
    network = make_network(TRIPS)
    unknown = make_running("another", "u", 2, TRUNK)
    running = make_running("trunk", "v", 2, TRUNK, current_stop_id="elsewhere")
    for route in (None, "Orange", "<script>"):
        view = view_route(network, unknown, running, route=route)
        assert view["route_id"] == "Red"
        [vehicle] = view["lines"][0]["vehicles"]
        assert (vehicle["vehicle_id"], vehicle["position"]) == ("v", None)
    assert build_view(make_publication(), Network({}), None)["lines"] == []


def test_a_notice_is_said_before_the_problems_and_is_none() -> None:
    state = LiveState(lambda: NOON, 90.0)
    state.feed_time, state.notice = NOON, "This is a replay."
    state.publish(Published(make_publication(), make_network(TRIPS)), 0.0)
    client = Client(LiveApp(state))
    assert client.get("/readyz").status_code == 200
    assert json.loads(client.get("/network.json").data)["problems"] == [state.notice]
    state.report_problem("feed", "The feed answers 500.")
    assert json.loads(client.get("/network.json").data)["problems"] == [state.notice, "The feed answers 500."]
