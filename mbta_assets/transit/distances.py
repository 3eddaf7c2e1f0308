"""Constants of the rule by which `raw_transit_data` has rows about some stops ahead of a report.

They are the benchmark distances, `formulas.STOPS_AHEAD`, and two others that depend on the whole seconds of the
report's time alone, so that every distance is seen on every day. `raw_transit_data.sql` has the rule. Serving predicts
every stop ahead.
"""

REPORT_KEY = ["service_date", "trip_id", "vehicle_id", "time_stamp"]
"""Columns that identify a report of a vehicle on a trip, which has a row about each of several stops ahead."""
FULL_INTERVAL_SECONDS = 600
"""Interval in which the first report of a vehicle on a trip has rows about every stop ahead; on the agency's clock."""
MULTIPLIER, MODULUS = 48_271, 2**31 - 1
"""Constants of the generator (Park, Miller, 1993) that hashes the time of a report."""
DEPARTURE = 0
"""`stops_ahead` of the departure from a trip's first stop."""
