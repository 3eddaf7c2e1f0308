"""Published predictions in the feed archive: the columns of a publication, and those of a service day.

`live.publication_archive` writes them, once a minute. They are snapshots of the feed `published`, whose content is an
Arrow file with a row for each predicted event.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Self

import pyarrow as arrow
from pyarrow import compute, ipc

from mbta_assets.gcp import CloudError
from mbta_assets.realtime.places import ArchiveError, open_feed_archive
from mbta_assets.settings import Settings
from mbta_assets.sources.contract import SourceError
from mbta_assets.sources.gtfs.archive import TIMESTAMP, FeedArchive, FetchedSnapshot
from mbta_assets.transit.plausibility import SERVICE_DAY_HOURS
from mbta_assets.transit.service_day import start_time

FEED = "published"
MINUTE_SECONDS = 60
SCHEMA = arrow.schema(
    [
        ("service_date", arrow.date32()),
        ("trip_id", arrow.string()),
        ("vehicle_id", arrow.string()),
        ("route_id", arrow.string()),
        ("time_stamp", TIMESTAMP),
        ("stop_id", arrow.string()),
        ("stop_sequence", arrow.int64()),
        ("event", arrow.string()),
        ("stops_ahead", arrow.int64()),
        ("scheduled", TIMESTAMP),
        ("predicted_delay_seconds", arrow.float64()),
        ("earliest", TIMESTAMP),
        ("latest", TIMESTAMP),
        ("published_at", TIMESTAMP),
        ("model_version", arrow.string()),
        ("role", arrow.string()),
    ]
)
"""`time_stamp` is the vehicle's report, `earliest` and `latest` bound the prediction interval where there is one."""


def encode_rows(rows: arrow.Table) -> bytes:
    """Encode the rows of a publication as an Arrow file, compressed."""
    sink = arrow.BufferOutputStream()
    with ipc.new_file(sink, SCHEMA, options=ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_table(rows)
    return sink.getvalue().to_pybytes()


class PublishedPredictions:
    """What live predictions have published, by service day."""

    def __init__(self, archive: FeedArchive) -> None:
        self._archive = archive

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Open the feed archive of a deployment; nothing is read yet."""
        return cls(FeedArchive(open_feed_archive(settings)))

    def read(self, service_date: date) -> arrow.Table:
        """Return the rows of a service day with the columns of SCHEMA, none if nothing was published.

        Raises SourceError.
        """
        try:
            return read_published(self._archive, service_date)
        except (ArchiveError, CloudError) as error:
            raise SourceError(f"published predictions, service day {service_date}: {error}") from error


def read_published(archive: FeedArchive, service_date: date) -> arrow.Table:
    """Return the rows of a service day with the columns of SCHEMA, in the order in which they were published.

    Of the publications of a role in one minute, which a restart may leave, it is the first. Raises ArchiveError or
    CloudError.
    """
    taken: set[tuple[str, int]] = set()
    tables = []
    for snapshot in _iter_snapshots(archive, service_date):
        rows = _decode_rows(snapshot)
        role, minute = rows["role"][0].as_py(), int(snapshot.time // MINUTE_SECONDS)
        if (role, minute) not in taken:
            taken.add((role, minute))
            tables.append(rows.filter(compute.equal(rows["service_date"], arrow.scalar(service_date))))
    return arrow.concat_tables(tables) if tables else SCHEMA.empty_table()


def _iter_snapshots(archive: FeedArchive, service_date: date) -> Iterator[FetchedSnapshot]:
    """Yield the publications of the time in which vehicles of a service day may run, in order."""
    begin = start_time(service_date)
    first, end = begin.timestamp(), (begin + timedelta(hours=SERVICE_DAY_HOURS)).timestamp()
    for piece in archive.find_pieces(FEED, first, end):
        if piece.feed == FEED:  # an archive of others may also have snapshots whose feed only the content tells
            snapshots: Sequence[FetchedSnapshot] = archive.read_piece(piece)
            yield from (snapshot for snapshot in snapshots if first <= snapshot.time < end)


def _decode_rows(snapshot: FetchedSnapshot) -> arrow.Table:
    """Return the rows of a publication. Raises ArchiveError."""
    try:
        return ipc.open_file(snapshot.content).read_all().select(SCHEMA.names).cast(SCHEMA)
    except (arrow.ArrowException, KeyError, ValueError) as error:
        at = datetime.fromtimestamp(snapshot.time, UTC)
        raise ArchiveError(
            f"The predictions published at {at} in {snapshot.place} cannot be read: {error}. Restore the file, or "
            "remove it to go on without."
        ) from error
