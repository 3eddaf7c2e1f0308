"""Publications for tests: one of a given size, and random ones together with the schedule that they are about."""

from datetime import UTC, date, datetime, timedelta

from mbta_assets.serving.live.publication import Publication, StopPrediction, TripPrediction

NOON = datetime(2024, 3, 6, 17, tzinfo=UTC)
"""Noon in Boston."""
DAY = date(2024, 3, 6)


def make_stop(
    index: int,
    predicted: datetime,
    delay_seconds: float = 0.0,
    half_width_seconds: float | None = 30.0,
    *,
    stop_id: str | None = None,
    event: str = "arrival",
) -> StopPrediction:
    """Return the prediction of the stop visit with an index, whose stop sequence is ten times that."""
    half_width = None if half_width_seconds is None else timedelta(seconds=half_width_seconds)
    return StopPrediction(
        stop_sequence=10 * index,
        stop_id=f"s{index}" if stop_id is None else stop_id,
        event="departure" if event == "departure" else "arrival",
        scheduled=predicted - timedelta(seconds=delay_seconds),
        predicted=predicted,
        delay_seconds=delay_seconds,
        earliest=None if half_width is None else predicted - half_width,
        latest=None if half_width is None else predicted + half_width,
        stops_ahead=0 if event == "departure" else index,
    )


def make_trip(trip_id: str, vehicle_id: str, stops: tuple[StopPrediction, ...], **changes: object) -> TripPrediction:
    """Return a trip of the Red Line on its way to its first predicted stop, with changes."""
    fields: dict[str, object] = {
        "service_date": DAY,
        "trip_id": trip_id,
        "route_id": "Red",
        "direction_id": 0,
        "vehicle_id": vehicle_id,
        "reported_at": NOON,
        "latitude": 42.36,
        "longitude": -71.06,
        "current_status": "IN_TRANSIT_TO",
        "current_stop_id": stops[0].stop_id if stops else "s1",
        "current_stop_sequence": stops[0].stop_sequence if stops else 1,
        "stops": stops,
    }
    return TripPrediction(**{**fields, **changes})  # type: ignore[arg-type]


def make_publication(*trips: TripPrediction, made_at: datetime = NOON + timedelta(seconds=10)) -> Publication:
    """Return a publication of trips."""
    return Publication(made_at, made_at - timedelta(seconds=3), "a-model", 0.9, trips)


def make_large_publication(trips: int, stops: int) -> Publication:
    """Return a publication of many trips with as many stops ahead each."""
    return make_publication(
        *(
            make_trip(
                f"t{trip}",
                f"v{trip}",
                tuple(
                    make_stop(index + 1, NOON + timedelta(seconds=90.3 * (index + 1) + trip), trip % 200 - 20.5)
                    for index in range(stops)
                ),
            )
            for trip in range(trips)
        )
    )
