"""A service day of random trips that serve stops again and again, and of vehicles that report them badly."""

from datetime import timedelta
from random import Random

from mbta_assets.transit import schema
from mbta_assets_tests.support.plain_day import BEGIN, Row, Rows

BERTH = "berth"
_STOPS = (("A", 42.0, "a"), ("B", 42.01, "b"), ("C", 42.03, "b"), ("D", None, None), (BERTH, 42.0, "b"))
"""Id, latitude and station of each stop: B and C are of one station, to which another berth belongs."""


def make_looping_day(seed: int, n_trips: int = 30) -> Rows:
    """Return the rows of the upstream tables, with one or two vehicles on each trip."""
    random = Random(seed)
    schedule: list[Row] = []
    reports: list[Row] = []
    for n in range(n_trips):
        stop_times = _make_stop_times(random, f"trip {n}")
        schedule += stop_times
        for vehicle in ("v", "w")[: random.randint(1, 2)]:
            reports += _make_reports(random, vehicle, stop_times)
    stops = [
        {"id": stop, "name": stop, "latitude": latitude, "longitude": -71.0, "parent_station": station}
        for stop, latitude, station in _STOPS
    ]
    return {"vehicle": reports, "trip": [], "stop": stops, "schedule": schedule}


def _make_stop_times(random: Random, trip: str) -> list[Row]:
    """Return stop times of a trip, some blank or at the same time, with all, some or no stop sequences."""
    stops = random.choice(["AB", "ABC", "ABCD"])
    n_stops, numbering = random.randint(2, 10), random.choice(["none", "none", "ones", "last is 1", "some"])
    rows, seconds = [], 0
    for n in range(n_stops):
        seconds += random.choice([0, 60, 60, 120, 300, 900])
        arrival = BEGIN + timedelta(seconds=seconds)
        departure = arrival + timedelta(seconds=random.choice([0, 0, 30, 600]))
        is_timed = n in (0, n_stops - 1) or random.random() < 0.8
        is_numbered = numbering in ("ones", "last is 1") or (numbering == "some" and n % 2 == 1)
        rows.append(
            {
                "trip_id": trip,
                "stop_id": random.choice(stops),
                "arrival_time": arrival if is_timed and n else None,
                "departure_time": departure if is_timed and (n == 0 or random.random() < 0.9) else None,
                "stop_sequence": n + 2 if is_numbered else None,
            }
        )
    if numbering == "last is 1":
        rows[-1]["stop_sequence"] = 1
    return rows


def _make_reports(random: Random, vehicle: str, stop_times: list[Row]) -> list[Row]:
    """Return the reports of a vehicle on a trip: mostly in order; some skipped, repeated, wrong or out of order."""
    late, now, has_numbers = random.choice([-300, 0, 60, 900, 3600]), random.randint(-60, 60), random.random() < 0.4
    reports = []
    for row in stop_times:
        due = row["arrival_time"] or row["departure_time"]
        late += random.choice([0, 0, 30, -30, 200, -200])
        if due:
            now = max(now - random.choice([0, 0, 30]), int((due - BEGIN).total_seconds()) + late)
        for _ in range(random.randint(0, 4)):
            error = random.choice([10, -600, 40_000]) if random.random() < 0.1 else 0
            reports.append(
                {
                    "id": vehicle,
                    "trip_id": row["trip_id"],
                    "stop_id": random.choice([row["stop_id"]] * 7 + ["A", "B", BERTH, None]),
                    "updated_at": BEGIN + timedelta(seconds=now + error),
                    "current_status": random.choice(schema.STATUSES),
                    "current_stop_sequence": random.choice([row["stop_sequence"]] * 4 + [None, 1, 20])
                    if has_numbers
                    else None,
                }
            )
            now += random.choice([0, 10, 60, 119, 120, 121])
    return reports
