"""What was published is archived once a minute, and comes back as it was."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from mbta_assets.live.publication_archive import PublicationArchive
from mbta_assets.realtime.places import ArchiveError, DirectoryPlace
from mbta_assets.sources.gtfs.archive import FeedArchive
from mbta_assets_tests.support.publications import (
    DAY,
    NOON,
    make_large_publication,
    make_publication,
    make_stop,
    make_trip,
)

PREDICTED = NOON + timedelta(seconds=90)


def open_archive(directory: Path) -> PublicationArchive:
    """Return the archive in a directory, as a process that begins sees it."""
    return PublicationArchive(FeedArchive(DirectoryPlace(directory)))


def test_rows_come_back_as_they_were_published(tmp_path: Path) -> None:
    stops = (make_stop(0, NOON, 0.1 + 0.2, None, event="departure"), make_stop(4, PREDICTED, -1 / 3))
    publication = make_publication(make_trip("t", "v", stops))
    assert open_archive(tmp_path).append(publication, "production")
    departure, arrival = open_archive(tmp_path).read_day(DAY).to_pylist()
    assert departure == {
        "service_date": DAY, "trip_id": "t", "vehicle_id": "v", "route_id": "Red", "time_stamp": NOON, "stop_id": "s0",
        "stop_sequence": 0, "event": "departure", "stops_ahead": 0, "scheduled": stops[0].scheduled,
        "predicted_delay_seconds": 0.1 + 0.2, "earliest": None, "latest": None, "published_at": publication.made_at,
        "model_version": "a-model", "role": "production",
    }  # fmt: skip
    assert (arrival["predicted_delay_seconds"], arrival["stops_ahead"]) == (-1 / 3, 4)
    assert (arrival["earliest"], arrival["latest"]) == (stops[1].earliest, stops[1].latest)


def test_first_publication_of_each_minute_and_role_is_kept_also_over_a_restart(tmp_path: Path) -> None:
    publication = make_large_publication(3, 2)
    archive = open_archive(tmp_path)
    times = [publication.made_at + timedelta(seconds=seconds) for seconds in (0, 10, 49, 50, 60)]
    written = [archive.append(replace(publication, made_at=time), "production") for time in times]
    assert written == [True, False, False, True, False]
    assert archive.append(publication, "shadow")
    assert open_archive(tmp_path).append(replace(publication, made_at=times[1]), "production")
    rows = open_archive(tmp_path).read_day(DAY).to_pylist()
    kept = {(row["published_at"], row["role"]) for row in rows}
    assert kept == {(times[0], "production"), (times[3], "production"), (times[0], "shadow")}
    assert len(rows) == 3 * 6


def test_rows_of_other_service_days_are_left_out(tmp_path: Path) -> None:
    trips = [make_trip(f"t{n}", f"v{n}", (make_stop(1, PREDICTED),), service_date=DAY - timedelta(n)) for n in (0, 1)]
    archive = open_archive(tmp_path)
    archive.append(make_publication(*trips), "production")
    assert archive.read_day(DAY)["trip_id"].to_pylist() == ["t0"]
    assert archive.read_day(DAY + timedelta(days=3)).num_rows == 0


def test_publication_without_predictions_is_not_written(tmp_path: Path) -> None:
    archive = open_archive(tmp_path)
    assert not archive.append(make_publication(), "production")
    assert archive.append(make_large_publication(1, 1), "production")


def test_next_publication_of_the_minute_is_written_after_a_failure(tmp_path: Path) -> None:
    in_the_way, publication = tmp_path / "published", make_large_publication(1, 1)
    in_the_way.write_text("a file where the folder should be")
    archive = open_archive(tmp_path)
    with pytest.raises(ArchiveError, match="published"):
        archive.append(publication, "production")
    in_the_way.unlink()
    assert archive.append(replace(publication, made_at=publication.made_at + timedelta(seconds=1)), "production")


def test_damaged_file_is_named(tmp_path: Path) -> None:
    archive = open_archive(tmp_path)
    archive.append(make_large_publication(1, 1), "production")
    (file,) = tmp_path.glob("published/*/*.parquet")
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ArchiveError, match=file.name):
        archive.read_day(DAY)
