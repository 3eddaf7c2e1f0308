"""One snapshot of a GTFS-realtime feed, from protobuf or JSON, compressed or not.

The JSON is protobuf's own or the MBTA's enhanced one, which has further fields. What the entities mean is up to
`feed_rows`, fetching and keeping snapshots to `collector` and `archive`.
"""

import bz2
import gzip
import json
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from google.protobuf import json_format
from google.protobuf.message import DecodeError
from google.transit.gtfs_realtime_pb2 import FeedEntity, FeedHeader, FeedMessage

from mbta_assets.realtime.utf8 import make_utf8

GZIP, BZIP2, BYTE_ORDER_MARK = b"\x1f\x8b", b"BZh", b"\xef\xbb\xbf"
"""First bytes of compressed content, and of JSON that some servers write."""
MAX_SHOWN_BYTES = 40


class FeedError(ValueError):
    """Content that is no GTFS-realtime snapshot; the message says what was found, where, and what to do."""

    def __init__(self, message: str, *, is_truncated: bool = False) -> None:
        super().__init__(message)
        self.is_truncated = is_truncated
        """Whether it begins as a feed does, so that its end is missing or damaged."""


@dataclass(frozen=True)
class Snapshot:
    """A feed as it was at one time."""

    entities: list[Any]
    """Entities as `FeedEntity`, blank ones included, and those not that the feed has deleted."""
    header_time: int | None
    """Time at which the agency made it, epoch seconds; None where the header has none."""
    unreadable: int = 0
    """Number of records that are no entities."""


def parse_feed(content: bytes, place: str) -> Snapshot:
    """Parse a snapshot; `place` says in errors where it is from. Raises FeedError.

    A record that cannot be read is counted and left out, unless none can be read. Fields that are not in the standard
    are ignored, and text that is not UTF-8 has its other bytes as `\\xff`.
    """
    plain = decompress(content, place)
    if plain.removeprefix(BYTE_ORDER_MARK).lstrip()[:1] == b"{":
        return _parse_json(plain, place)
    message = FeedMessage()
    try:
        message.ParseFromString(plain)
    except DecodeError:
        raise FeedError(
            f"{place}: {describe_bytes(plain)} is no GTFS-realtime feed, or was cut short. Fetch it again; if it stays "
            "so, check that the address is of a feed in protobuf or JSON.",
            is_truncated=_begins_with_header(plain),
        ) from None
    if not message.header.gtfs_realtime_version:
        raise FeedError(
            f"{place}: {describe_bytes(plain)} has no header of a GTFS-realtime feed. Check that the address is of a "
            "feed in protobuf or JSON."
        )
    make_utf8(message, plain)
    return _make_snapshot(message.header, message.entity, [], place)


def _make_snapshot(header: FeedHeader, entities: Iterable[FeedEntity], reasons: list[str], place: str) -> Snapshot:
    """Return a snapshot without entities that are deleted; `reasons` has why records are none."""
    readable = [entity for entity in entities if not entity.is_deleted]
    if reasons and not readable:
        raise FeedError(
            f"{place}: none of its {len(reasons)} records can be read; the first because: {reasons[0]}. Check that the "
            "address is of a GTFS-realtime feed."
        )
    return Snapshot(readable, header.timestamp or None, len(reasons))


def decompress(content: bytes, place: str) -> bytes:
    """Return content without its compression by gzip or bzip2, if it has one. Raises FeedError."""
    if not content:
        raise FeedError(
            f"{place}: it is empty (0 bytes), where a feed has at least a header. Fetch it again.", is_truncated=True
        )
    try:
        if content.startswith(GZIP):
            return gzip.decompress(content)
        return bz2.decompress(content) if content.startswith(BZIP2) else content
    except (EOFError, OSError, ValueError, zlib.error) as error:
        raise FeedError(
            f"{place}: {len(content)} compressed bytes are cut short or damaged ({error}). Fetch it again.",
            is_truncated=True,
        ) from None


def describe_bytes(content: bytes) -> str:
    """Describe content in an error: its size and how it begins."""
    return f"content of {len(content)} bytes that begins with {content[:MAX_SHOWN_BYTES]!r}"


def _begins_with_header(content: bytes) -> bool:
    """Return whether content begins with the header of a feed in protobuf: field 1, its length, and the header."""
    header = FeedHeader()
    try:
        header.ParseFromString(content[2 : 2 + content[1]])
    except (DecodeError, IndexError):
        return False
    return content[:1] == b"\x0a" and bool(header.gtfs_realtime_version)


def _parse_json(plain: bytes, place: str) -> Snapshot:
    try:
        document = json.loads(plain.removeprefix(BYTE_ORDER_MARK))
    except (ValueError, RecursionError) as error:  # also bytes that are not UTF-8, or brackets in brackets
        raise FeedError(
            f"{place}: {describe_bytes(plain)} is JSON that was cut short or damaged ({error}). Fetch it again.",
            is_truncated=True,
        ) from None
    header, records = document.get("header"), document.get("entity", [])
    if not isinstance(header, dict) or not isinstance(records, list):
        raise FeedError(
            f"{place}: the JSON has {', '.join(document) or 'no fields'}, and a feed has 'header' and 'entity'. Check "
            "that the address is of a GTFS-realtime feed."
        )
    message, reasons = FeedMessage(), []
    try:
        json_format.ParseDict({"header": header}, message, ignore_unknown_fields=True)
    except json_format.ParseError as error:
        raise FeedError(f"{place}: the header of the JSON cannot be read: {error}. Fetch it again.") from None
    entities = []
    for record in records:
        try:
            entities.append(json_format.ParseDict(record, FeedEntity(), ignore_unknown_fields=True))
        except (json_format.ParseError, AttributeError, TypeError) as error:
            reasons.append(str(error))
    return _make_snapshot(message.header, entities, reasons, place)
