"""The archive of what was published: the first publication of each minute, whole, beside the snapshots of the feeds.

How the rows are stored and read is up to `sources.gtfs.published`.
"""

from datetime import date
from typing import Literal, TypeAlias

import pyarrow as arrow

from mbta_assets.serving.live.publication import Publication
from mbta_assets.sources.gtfs.archive import FeedArchive, FetchedSnapshot
from mbta_assets.sources.gtfs.published import FEED, MINUTE_SECONDS, SCHEMA, encode_rows, read_published

Role: TypeAlias = Literal["production", "shadow"]
"""Whether riders saw the predictions, or a candidate model made them beside."""


class PublicationArchive:
    """Publications in a feed archive."""

    def __init__(self, archive: FeedArchive) -> None:
        self._archive = archive
        self._minutes: dict[str, int] = {}

    def append(self, publication: Publication, role: Role) -> bool:
        """Write a publication if it is the first of its role in a minute of its time, and return whether it was.

        One without predictions is not written. Raises ArchiveError or CloudError, after which the next publication of
        the minute is written instead.
        """
        made_at = publication.made_at.timestamp()
        minute = int(made_at // MINUTE_SECONDS)
        if self._minutes.get(role) == minute or not any(trip.stops for trip in publication.trips):
            return False
        content = encode_rows(_make_rows(publication, role))
        self._archive.append(FEED, [FetchedSnapshot(made_at, content, made_at=made_at)])
        self._minutes[role] = minute
        return True

    def read_day(self, service_date: date) -> arrow.Table:
        """Return the rows of a service day, of both roles, with one publication a minute.

        Raises ArchiveError or CloudError.
        """
        return read_published(self._archive, service_date)


def _make_rows(publication: Publication, role: Role) -> arrow.Table:
    """Return a row for each predicted event, with the columns of SCHEMA."""
    rows = [
        (
            trip.service_date,
            trip.trip_id,
            trip.vehicle_id,
            trip.route_id,
            trip.reported_at,
            stop.stop_id,
            stop.stop_sequence,
            stop.event,
            stop.stops_ahead,
            stop.scheduled,
            stop.delay_seconds,
            stop.earliest,
            stop.latest,
            publication.made_at,
            publication.model_version,
            role,
        )
        for trip in publication.trips
        for stop in trip.stops
    ]
    columns = [arrow.array(values, field.type) for values, field in zip(zip(*rows, strict=True), SCHEMA, strict=True)]
    return arrow.Table.from_arrays(columns, schema=SCHEMA)
