"""A model of another network is refused, and no schedule change makes a network another one."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mbta_assets.ml.inference import transit_network
from mbta_assets.ml.inference.transit_network import ForeignNetwork, describe_network, require_network
from mbta_assets.settings import AgencySettings
from mbta_assets.storage.bundle import Bundle
from mbta_assets_tests.support.gtfs_day import STATIC, WMATA, WMATA_DAY, read_timetable
from mbta_assets_tests.support.real_day import SEED_UPSTREAM

Served = set[tuple[str, str]]
MAX_BYTES = 1050


def make_network(routes: int, stops: int, prefix: str = "") -> Served:
    """Return the routes and stops of a network, some of whose stops are served by two routes."""
    own = {(f"{prefix}{route}", f"{route * stops + stop}") for route in range(routes) for stop in range(stops)}
    return own | {(f"{prefix}{(route + 1) % routes}", f"{route * stops}") for route in range(routes)}


def make_model(served: Served) -> Bundle:
    """Return a model that was trained on a network."""
    return Bundle(Path("bundles/production_model/0"), {"network": describe_network(served)}, "0")


def set_agency(monkeypatch: pytest.MonkeyPatch, **settings: Any) -> None:
    """Change the settings of this process."""
    monkeypatch.setattr(transit_network, "AGENCY", AgencySettings(**settings))


networks = st.tuples(st.integers(1, 60), st.integers(12, 60))


@given(networks, st.integers(0, 3))
def test_a_quarter_of_the_stops_may_be_renamed(size: tuple[int, int], remainder: int) -> None:
    served = make_network(*size)
    changed = {(route, f"{stop}{'-new' if int(stop) % 4 == remainder else ''}") for route, stop in served}
    require_network(make_model(served), changed)


@given(networks, st.integers(1, 9))
def test_routes_and_stops_may_be_added_and_taken_away(size: tuple[int, int], kept: int) -> None:
    served = make_network(*size)
    stops = {stop for route, stop in served if int(route) % 10 < kept}
    require_network(
        make_model(served), {pair for pair in served if pair[1] in stops} | {("new", stop) for stop in stops}
    )


@given(networks, networks)
def test_a_network_with_the_same_ids_of_stops_on_other_routes_is_another_one(
    size: tuple[int, int], other: tuple[int, int]
) -> None:
    model = make_model(make_network(*size))
    asked = make_network(*other, prefix="bus ")
    # Of a network that is much larger than what is asked about, too few pairs can be compared.
    assume(len(asked) * transit_network.SKETCH_SIZE > 40 * size[0] * size[1])
    with pytest.raises(ForeignNetwork, match="another network.*of this network, or train.*MBTA_FOREIGN_MODEL=allow"):
        require_network(model, asked)


@given(networks)
def test_the_description_is_small_and_does_not_depend_on_the_order(size: tuple[int, int]) -> None:
    served = make_network(*size)
    described = describe_network(sorted(served))
    assert described == describe_network(sorted(served, reverse=True))
    assert sum(map(len, described.values())) < MAX_BYTES


@pytest.fixture
def mbta() -> Served:
    """Return the network of the real day of the MBTA."""
    schedule, trip = (pd.read_parquet(SEED_UPSTREAM / f"{table}.parquet") for table in ("schedule", "trip"))
    served = schedule.merge(trip.rename(columns={"id": "trip_id"}), on="trip_id")
    return set(zip(served["route_id"], served["stop_id"], strict=True))


@pytest.fixture
def wmata() -> Served:
    """Return the network of the real day of WMATA, one route."""
    rows = read_timetable(WMATA / STATIC, WMATA_DAY)
    routes = {row["id"]: row["route_id"] for row in rows["trip"]}
    return {(routes[row["trip_id"]], row["stop_id"]) for row in rows["schedule"]}


def test_real_networks_are_told_apart_and_the_setting_allows_either(
    mbta: Served, wmata: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    for own, other in ((mbta, wmata), (wmata, mbta)):
        model = make_model(own)
        require_network(model, own)
        with pytest.raises(ForeignNetwork, match="it has seen 0"):
            require_network(model, other)
    set_agency(monkeypatch, foreign_model="allow")
    require_network(make_model(mbta), wmata)


def test_a_model_of_another_agency_is_refused_whatever_it_is_asked(
    mbta: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model(mbta)
    set_agency(monkeypatch, agency_name="WMATA")
    with pytest.raises(ForeignNetwork, match=r"agency 'MBTA' \(America/New_York\), and this is 'WMATA'"):
        require_network(model)
    set_agency(monkeypatch, time_zone="Pacific/Auckland")
    with pytest.raises(ForeignNetwork, match="Pacific/Auckland"):
        require_network(model, mbta)
    set_agency(monkeypatch, agency_name="WMATA", foreign_model="allow")
    require_network(model)


def test_what_tells_too_little_is_not_refused(mbta: Served, wmata: Served) -> None:
    require_network(make_model(mbta), sorted(wmata)[: transit_network.MIN_COMPARED - 1])
    require_network(make_model(mbta), {(None, stop) for _, stop in wmata} | {(pd.NA, float("nan"))})
    require_network(make_model(set()), wmata)


def test_models_from_before_there_was_the_field_are_used_as_before(
    wmata: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_agency(monkeypatch, agency_name="WMATA")
    require_network(Bundle(Path("bundles/production_model/0"), {}, "0"), wmata)
