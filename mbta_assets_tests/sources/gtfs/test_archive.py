"""What an archive was given is there, whole and once, whoever is killed; and archives of others are read."""

import bz2
import gzip
import io
import random
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mbta_assets.gcp.bucket import Bucket
from mbta_assets.realtime.places import ArchiveError, BucketPlace, DirectoryPlace, Place, open_place
from mbta_assets.settings import Settings
from mbta_assets.sources.gtfs.archive import FeedArchive, FetchedSnapshot, UnreadablePiece
from mbta_assets.sources.gtfs.editions import SIGHTINGS, Editions, Sighting, StaticFeedError
from mbta_assets_tests.sources.gtfs.messages import make_feed, vehicle

FEED = "vehicle_positions"
MIDNIGHT = 1_700_006_400
"""2023-11-15 00:00:00 UTC, epoch seconds."""


@pytest.fixture(params=["directory", "bucket"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Return an empty place of each kind."""
    if request.param == "directory":
        return DirectoryPlace(tmp_path / "archive")
    bucket: Bucket = request.getfixturevalue("bucket")
    return BucketPlace(bucket, "feeds/here")


def snapshot(second: float, text: str = "") -> FetchedSnapshot:
    """Return a snapshot that was fetched some seconds after midnight, with a content of its own."""
    return FetchedSnapshot(MIDNIGHT + second, make_feed(int(MIDNIGHT + second), [vehicle(f"v{text}", 1)]))


def contents(archive: FeedArchive, begin: float = -1e9, end: float = 1e9) -> list[tuple[float, bytes]]:
    """Return the time in seconds after midnight and the content of each snapshot."""
    found = []
    for read in archive.read_snapshots(FEED, MIDNIGHT + begin, MIDNIGHT + end):
        assert isinstance(read, FetchedSnapshot)
        found.append((read.fetched_at - MIDNIGHT, read.content))
    return found


def test_batches_are_read_back_in_order_and_each_content_once(place: Place) -> None:
    archive = FeedArchive(place)
    a, b, c, d = (snapshot(second) for second in (-90.25, -30, 10, 100))
    archive.append(FEED, [c, d])
    archive.append(FEED, [a, b])
    archive.append(FEED, [a, b])  # again, as after a lost response
    archive.append(FEED, [FetchedSnapshot(MIDNIGHT + 11, c.content)])  # by a second collector
    archive.append("trip_updates", [snapshot(20)])
    assert contents(archive) == [(-90.25, a.content), (-30, b.content), (10, c.content), (100, d.content)]
    assert [second for second, _ in contents(archive, -30, 100)] == [-30, 10]
    assert contents(archive, 200) == []


def test_a_batch_that_begins_before_midnight_is_found_after_it(place: Place) -> None:
    archive = FeedArchive(place)
    archive.append(FEED, [snapshot(-20), snapshot(40)])
    assert [second for second, _ in contents(archive, 0)] == [40]


def test_snapshots_that_repeat_each_other_take_little_space(tmp_path: Path) -> None:
    # Positions of 300 vehicles, of which a few move from one snapshot to the next.
    rng = random.Random(0)
    positions = [(rng.uniform(42, 43), rng.uniform(-72, -71)) for _ in range(300)]
    snapshots = []
    for second in range(0, 60, 5):
        for index in rng.sample(range(300), 20):
            positions[index] = (rng.uniform(42, 43), rng.uniform(-72, -71))
        entities = [vehicle(f"vehicle-{i}", None, position={"latitude": a, "longitude": o}) for i, (a, o) in
                    enumerate(positions)]  # fmt: skip
        snapshots.append(FetchedSnapshot(MIDNIGHT + second, make_feed(MIDNIGHT + second, entities)))
    archive = FeedArchive(DirectoryPlace(tmp_path))
    path = archive.append(FEED, snapshots)
    gzipped = sum(len(gzip.compress(s.content, 9)) for s in snapshots)
    assert (tmp_path / path).stat().st_size < gzipped / 3


WRITER = """
import sys
from pathlib import Path
from mbta_assets.sources.gtfs.archive import FeedArchive, FetchedSnapshot
from mbta_assets.sources.gtfs.editions import Editions
from mbta_assets.realtime.places import DirectoryPlace
place = DirectoryPlace(Path(sys.argv[1]))
with place.hold_exclusively():
    for number in range(int(sys.argv[2]), 10**6):
        content = f"{number}".encode() * 50_000
        path = FeedArchive(place).append("vehicle_positions", [FetchedSnapshot(1_700_006_400 + number, content)])
        Editions(place).confirm(f"edition{number % 3}", number)
        print(number, flush=True)
"""


def run_until_killed(directory: Path, first: int, seconds: float) -> int:
    """Append numbered batches in another process, kill it after some seconds, and return the last number it said."""
    process = subprocess.Popen([sys.executable, "-c", WRITER, directory, str(first)], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    said = [process.stdout.readline()]
    time.sleep(seconds)
    process.kill()
    said += process.communicate()[0].split("\n")
    assert process.returncode == -signal.SIGKILL
    return max(int(line) for line in said if line.strip())


@pytest.mark.integration
def test_a_killed_writer_leaves_whole_batches_only_and_loses_none(tmp_path: Path) -> None:
    archive, rng, last = FeedArchive(DirectoryPlace(tmp_path)), random.Random(18), -1
    for _ in range(5):
        last = run_until_killed(tmp_path, last + 1, rng.uniform(0, 0.15))
        read = dict(contents(archive))
        assert all(content == f"{int(second)}".encode() * 50_000 for second, content in read.items())
        assert set(range(last + 1)) <= set(read)
        assert len(read) <= last + 2  # the one that was written and not said
        sightings = Editions(archive.place).sightings()
        assert [s.digest for s in sightings[: last + 1]] == [f"edition{n % 3}" for n in range(len(sightings))][
            : last + 1
        ]
    with archive.place.hold_exclusively():
        assert not list(tmp_path.rglob(".*.unfinished"))


KILLED_IN_A_WRITE = """
import random, resource, signal, sys
from pathlib import Path
from mbta_assets.sources.gtfs.archive import FeedArchive, FetchedSnapshot
from mbta_assets.realtime.places import DirectoryPlace
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # the kernel kills a process that makes a file longer than its limit
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
FeedArchive(DirectoryPlace(Path(sys.argv[1]))).append(
    "vehicle_positions", [FetchedSnapshot(1_700_006_400, random.Random(0).randbytes(100_000))]
)
"""


@pytest.mark.integration
def test_a_writer_that_is_killed_in_the_middle_of_a_file_leaves_none(tmp_path: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED_IN_A_WRITE, tmp_path], capture_output=True, check=False)
    assert killed.returncode == -signal.SIGXFSZ
    [unfinished] = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert unfinished.stat().st_size == 50_000
    archive = FeedArchive(DirectoryPlace(tmp_path))
    assert contents(archive) == []
    with archive.place.hold_exclusively():
        assert not unfinished.exists()
    content = random.Random(0).randbytes(100_000)
    archive.append(FEED, [FetchedSnapshot(MIDNIGHT, content)])
    assert contents(archive) == [(0, content)]


def test_two_collectors_do_not_share_a_directory(tmp_path: Path) -> None:
    first, second = DirectoryPlace(tmp_path), DirectoryPlace(tmp_path)
    refused = pytest.raises(ArchiveError, match=r"Another collector writes in .* Stop it first")
    with first.hold_exclusively(), refused, second.hold_exclusively():
        pass
    with second.hold_exclusively():
        pass


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArchiveError, match=r"Cannot write .*file/.*MBTA_FEED_ARCHIVE"):
        FeedArchive(DirectoryPlace(tmp_path / "file")).append(FEED, [snapshot(0)])


def write_names(put: Callable[[str, bytes], object]) -> None:
    """Write snapshots as others keep them, under names of several kinds, with files that are no snapshots."""
    first, second, third, fourth = (snapshot(n).content for n in (0, 30, 60, 90))
    put(f"2023/{MIDNIGHT}.pb", first)
    put(f"2023/vp-{MIDNIGHT + 30}500.pb.gz", gzip.compress(second))
    put("VehiclePositions.json.bz2", bz2.compress(b'{"header": {"gtfs_realtime_version": "2.0", "timestamp": %d}}'
                                                   % (MIDNIGHT + 45)))  # fmt: skip
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{MIDNIGHT + 60}.pb", third)
        archive.writestr(f"nested/{MIDNIGHT + 90}.pb", fourth)
        archive.writestr("README.txt", "not a snapshot")
    put("more/day.zip", zipped.getvalue())
    put("notes.txt", b"not a snapshot")
    put(f"2023/.{MIDNIGHT + 95}.pb", b"being written")


@pytest.fixture(params=["directory", "bucket", "zip"])
def foreign(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """Return an archive that others made, in a place of each kind."""
    if request.param == "bucket":
        bucket: Bucket = request.getfixturevalue("bucket")
        write_names(lambda path, content: bucket.put(f"theirs/{path}", content, 0))
        yield BucketPlace(bucket, "theirs/")
    elif request.param == "directory":

        def put(path: str, content: bytes) -> None:
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_bytes(content)

        write_names(put)
        yield open_place(str(tmp_path), Settings())
    else:
        with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
            for second in (0, 30, 45, 60, 90):
                archive.writestr(f"{MIDNIGHT + second}.pb", snapshot(second).content)
        yield open_place(tmp_path / "all.zip", Settings())


def test_archives_of_others_are_read_by_the_times_in_their_names_or_headers(foreign: Place) -> None:
    archive = FeedArchive(foreign)
    assert [second for second, _ in contents(archive)] == [0, 30, 45, 60, 90]
    assert [second for second, _ in contents(archive, 30, 90)] == [30, 45, 60]


@pytest.mark.parametrize("name", ["2026010203", "vp-2099123123", "feed_0102202603", "2026010203999", "9999999999"])
def test_ten_digits_that_are_a_date_are_no_time_of_a_snapshot(tmp_path: Path, name: str) -> None:
    (tmp_path / f"{name}.pb").write_bytes(snapshot(30).content)
    assert contents(FeedArchive(DirectoryPlace(tmp_path)), 0, 60) == [(30, snapshot(30).content)]


def test_nothing_is_written_to_a_file_of_others(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "all.zip", "w"):
        pass
    with pytest.raises(ArchiveError, match="Set MBTA_FEED_ARCHIVE to a directory or bucket"):
        FeedArchive(open_place(tmp_path / "all.zip", Settings())).append(FEED, [snapshot(0)])


def test_a_damaged_batch_costs_itself_and_is_named(tmp_path: Path) -> None:
    archive = FeedArchive(DirectoryPlace(tmp_path))
    archive.append(FEED, [snapshot(0)])
    damaged = archive.append(FEED, [snapshot(60)])
    (tmp_path / damaged).write_bytes((tmp_path / damaged).read_bytes()[:-20])
    first, second = archive.read_snapshots(FEED, MIDNIGHT, MIDNIGHT + 100)
    assert isinstance(first, FetchedSnapshot)
    assert isinstance(second, UnreadablePiece)
    assert damaged in second.problem and "Restore it" in second.problem


def static_feed(stop_times: str = "", *, mtime: int = 2000) -> bytes:
    """Return the zip of a small static feed."""
    stored = io.BytesIO()
    with zipfile.ZipFile(stored, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in {"trips.txt": "", "stops.txt": "", "stop_times.txt": stop_times}.items():
            archive.writestr(zipfile.ZipInfo(name, (mtime, 1, 1, 0, 0, 0)), text)
    return stored.getvalue()


def test_an_edition_is_kept_once_with_the_times_of_its_sightings(place: Place) -> None:
    editions = Editions(place)
    first, is_new = editions.add(static_feed(), 10, "a test")
    assert is_new
    assert editions.add(static_feed(mtime=2020), 20, "a test") == (first, False)  # packed again
    editions.confirm(first, 30)
    second, _ = editions.add(static_feed("trip_id\nt\n"), 40, "a test")
    editions.add(static_feed(), 50, "a test")
    assert editions.sightings() == [Sighting(first, 10, 30), Sighting(second, 40, 40), Sighting(first, 50, 50)]
    assert editions.read(first) == static_feed()
    assert len(place.list_files("static/")) == 3


FOREIGN_ZIPS = {
    "a page": (b"<html>", "no zip file, or was cut short"),
    "cut": (static_feed("trip_id\n" * 99)[:-30], "no zip file, or was cut short"),
    "damaged": (static_feed("trip_id\n" * 99).replace(b"stop_times.txt", b"stop_timex.txt", 1), "no zip file"),
    "of something else": (b"PK\x05\x06" + b"\0" * 18, "the zip has no stop_times.txt"),
}


@pytest.mark.parametrize(("content", "problem"), FOREIGN_ZIPS.values(), ids=list(FOREIGN_ZIPS))
def test_what_is_no_static_feed_is_not_kept(content: bytes, problem: str, tmp_path: Path) -> None:
    editions = Editions(DirectoryPlace(tmp_path))
    with pytest.raises(StaticFeedError, match=problem) as error:
        editions.add(content, 10, "https://feeds.example/gtfs.zip")
    assert str(error.value).startswith("https://feeds.example/gtfs.zip: ")
    assert "MBTA_GTFS_STATIC" in str(error.value)
    assert editions.sightings() == []


def test_damaged_sightings_are_named(tmp_path: Path) -> None:
    (tmp_path / "static").mkdir()
    (tmp_path / SIGHTINGS).write_text("[{")
    with pytest.raises(ArchiveError, match=r"sightings.json of .* is damaged"):
        Editions(DirectoryPlace(tmp_path)).sightings()
