"""The command `mbta-assets live`: where its timetables and vehicle updates come from, and its threads.

`timetables` reads the timetables of service days, `updates` makes vehicle updates of snapshots, `following` says where
snapshots come from, `service` takes them in and publishes, and `command` puts them together. What is predicted, and
what is served, is up to `serving.live`. Nothing here imports Dagster.
"""
