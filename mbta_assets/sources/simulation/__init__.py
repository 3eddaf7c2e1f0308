"""Simulation of the MBTA's rapid transit by a known random process, from which the best possible prediction follows.

`network` has the lines, `timetable` the trips of a service day, `process` the random process (read it first), `feed`
the published vehicle updates, and `oracle` the best possible predictions. Times are seconds since the start of the
service day. Stored tables, models and Dagster do not belong here.
"""
