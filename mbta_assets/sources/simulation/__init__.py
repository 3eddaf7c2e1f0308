"""A simulator of the MBTA's rapid transit whose random process is known, so that it can say what no model can beat.

`network` holds the lines, `timetable` the trips of a service day, `process` what happens to them (start there: it
documents the random process), `feed` what is published of it, and `oracle` the best possible prediction.
Times inside are seconds since the start of the service day. Nothing here knows tables on disk, Dagster or models.
"""
