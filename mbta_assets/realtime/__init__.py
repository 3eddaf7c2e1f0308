"""GTFS-realtime as it is fetched: `fetching` asks for snapshots, `sequence` says of each what it is, `feed` parses it.

`places` says where archives keep their files. Both the source of stored days and live predictions use these; what the
entities of a snapshot mean is up to them. Nothing here needs pandas, Arrow or DuckDB.
"""
