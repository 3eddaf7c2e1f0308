"""GTFS-realtime messages for tests, written by the official bindings."""

from collections.abc import Iterable
from typing import Any

from google.protobuf import json_format
from google.transit.gtfs_realtime_pb2 import FeedMessage


def make_feed(timestamp: int | None, entities: Iterable[dict[str, Any]]) -> bytes:
    """Return a snapshot in protobuf with entities that are described as in JSON; each has an id unless it says one."""
    records = [{"id": str(index), **entity} for index, entity in enumerate(entities)]
    header = {"gtfs_realtime_version": "2.0"} | ({} if timestamp is None else {"timestamp": timestamp})
    message = json_format.ParseDict({"header": header, "entity": records}, FeedMessage())
    content: bytes = message.SerializeToString()
    return content


def vehicle(vehicle_id: str, timestamp: int | None, **fields: Any) -> dict[str, Any]:
    """Return an entity with the position of a vehicle."""
    report = {"vehicle": {"id": vehicle_id}, "position": {"latitude": 42.0, "longitude": -71.0}, **fields}
    return {"vehicle": report if timestamp is None else {**report, "timestamp": timestamp}}
