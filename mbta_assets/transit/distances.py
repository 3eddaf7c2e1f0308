"""Which stops ahead of a report `raw_transit_data` has rows about.

The same rule is in `raw_transit_data.sql`; tests hold the two equal. Serving predicts every stop ahead.
"""

from mbta_assets.transit.formulas import STOPS_AHEAD

REPORT_KEY = ["service_date", "trip_id", "vehicle_id", "time_stamp"]
"""Columns that identify a report of a vehicle on a trip, which has a row about each of several stops ahead."""
FULL_INTERVAL_SECONDS = 600
"""Interval in which the first report of a vehicle on a trip has rows about every stop ahead; on the agency's clock."""
MULTIPLIER, MODULUS = 48_271, 2**31 - 1
"""Constants of the generator (Park, Miller, 1993) that hashes the time of a report."""
DEPARTURE = 0
"""`stops_ahead` of the departure from a trip's first stop."""


def choose_stops_ahead(local_seconds: int, n_ahead: int) -> set[int]:
    """Return the numbers of stops ahead that a report has rows about, of a trip with `n_ahead` stops ahead.

    They are the benchmark distances, `formulas.STOPS_AHEAD`, and two others that depend on the whole seconds of the
    report's time alone, so that every distance is seen on every day. `local_seconds` are those since the start of the
    service day, and 86,400 for each day from 1970 to it, so that the choice is the same in every time zone.
    """
    benchmark = {stops for stops in STOPS_AHEAD if stops <= n_ahead}
    n_others = n_ahead - len(benchmark)
    if n_others == 0:
        return benchmark
    first_hash = local_seconds * MULTIPLIER % MODULUS
    first = first_hash % n_others
    chosen = {_other_distance(first)}
    if n_others > 1:
        second_hash = first_hash * MULTIPLIER % MODULUS
        chosen.add(_other_distance((first + 1 + second_hash % (n_others - 1)) % n_others))
    return benchmark | chosen


def _other_distance(index: int) -> int:
    """Return the number of stops ahead at an index, from 0, among those that are no benchmark distances."""
    below_ten = [stops for stops in range(1, max(STOPS_AHEAD)) if stops not in STOPS_AHEAD]
    return below_ten[index] if index < len(below_ten) else index + 1 + len(STOPS_AHEAD)
