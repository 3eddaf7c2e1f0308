"""The collector against a server with every fault, and killed at random moments: nothing written is lost or doubled."""

import json
import random
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path

import pandas as pd
import pytest

from mbta_assets.realtime import sequence
from mbta_assets.realtime.fetching import Fetcher, compute_backoff, open_client, show_address
from mbta_assets.realtime.places import DirectoryPlace
from mbta_assets.settings import Settings
from mbta_assets.sources import open_source
from mbta_assets.sources.gtfs.archive import FeedArchive, FetchedSnapshot
from mbta_assets.sources.gtfs.collector import MetricsRecorder
from mbta_assets.sources.gtfs.editions import Editions
from mbta_assets.sources.gtfs.polling import MAX_BACKOFF_SECONDS, Clocks, SnapshotPoller, StaticPoller
from mbta_assets_tests.sources.gtfs.feed_server import FeedServer, Reply, Request, conditional, feed_server, in_turn
from mbta_assets_tests.sources.gtfs.messages import make_feed, vehicle
from mbta_assets_tests.sources.gtfs.test_archive import static_feed
from mbta_assets_tests.support.dagster_dev import ROOT, eventually, free_port

pytestmark = pytest.mark.integration

FEED = "vehicle_positions"
NOW = 1_700_000_000
WMATA = Path(__file__).parents[2] / "data" / "wmata"


@pytest.fixture
def feeds() -> Iterator[FeedServer]:
    """Run a server of feeds."""
    with feed_server() as running:
        yield running


@pytest.fixture
def recorder() -> MetricsRecorder:
    """Return a recorder of both kinds of feeds."""
    return MetricsRecorder({FEED: 100, "static": 100})


class SettableClock:
    """A clock of the wall that can be set."""

    def __init__(self) -> None:
        self.jump = 0.0
        self.began = time.monotonic()

    def wall(self) -> float:
        """Return the time of day."""
        return NOW + time.monotonic() - self.began + self.jump


def make_poller(
    feeds: FeedServer,
    place: DirectoryPlace,
    recorder: MetricsRecorder,
    clock: SettableClock | None = None,
    **options: float,
) -> SnapshotPoller:
    """Return a poller of /positions.pb that writes after each answer unless another batch is asked for."""
    return SnapshotPoller(
        FEED,
        Fetcher(f"{feeds.url}/positions.pb", open_client(), 10**6),
        FeedArchive(place),
        recorder,
        interval_seconds=options.get("interval", 0.01),
        batch_seconds=options.get("batch", 0.0),
        clocks=Clocks((clock or SettableClock()).wall),
    )


def answers(recorder: MetricsRecorder) -> dict[str, int]:
    """Return the number of answers by outcome."""
    return dict(recorder.feeds[FEED].answers)


def stored(place: DirectoryPlace) -> list[bytes]:
    """Return the content of every snapshot in the archive, one by one, as often as it is there."""
    archive = FeedArchive(place)
    return [snapshot.content for piece in archive.find_pieces(FEED) for snapshot in archive.read_piece(piece)]


def content(second: int, n_vehicles: int = 3) -> bytes:
    """Return a snapshot with a header some seconds after `NOW`."""
    return make_feed(NOW + second, [vehicle(f"v{n}", NOW + second) for n in range(n_vehicles)])


def test_each_odd_answer_is_counted_as_what_it_is(feeds: FeedServer, recorder: MetricsRecorder, tmp_path: Path) -> None:
    place = DirectoryPlace(tmp_path)
    first, second, third, late = (content(n) for n in (-30, -20, -10, -25))
    replies = [
        (Reply(first), "new"),
        (Reply(first), "unchanged"),
        (Reply(status=304), "not_modified"),
        (Reply(second), "new"),
        (Reply(first), "older"),
        (Reply(late), "older"),
        (Reply(status=429, headers={"Retry-After": "7"}), "throttled"),
        (Reply(status=500), "server_error"),
        (Reply(status=503), "server_error"),
        (Reply(status=404), "refused"),
        (Reply(third, sent=0.5), "truncated"),
        (Reply(third[:-4]), "truncated"),
        (Reply(b""), "truncated"),
        (Reply(b"<html>Back soon</html>"), "foreign"),
        (Reply(content(-15, 0)), "empty"),
        (Reply(content(4000)), "from_the_future"),
        (Reply(b"x" * (10**6 + 1)), "too_large"),
        (Reply(third), "new"),
    ]
    feeds.plays["/positions.pb"] = in_turn([reply for reply, _ in replies])
    poller = make_poller(feeds, place, recorder)
    expected: Counter[str] = Counter()
    for _, outcome in replies:
        poller.poll()
        expected[outcome] += 1
        assert answers(recorder) == expected, outcome
    assert sorted(stored(place)) == sorted([first, second, late, content(-15, 0), content(4000), third])
    assert recorder.registry.get_sample_value(
        "mbta_collector_answers_total", {"feed": FEED, "outcome": "truncated"}
    ) == 3  # fmt: skip
    assert recorder.registry.get_sample_value("mbta_collector_snapshots_written_total", {"feed": FEED}) == 6


def test_a_server_that_is_gone_or_silent_is_counted(
    feeds: FeedServer, recorder: MetricsRecorder, tmp_path: Path
) -> None:
    poller = make_poller(feeds, DirectoryPlace(tmp_path), recorder)
    poller.fetcher.address = f"http://127.0.0.1:{free_port()}/positions.pb"
    poller.poll()
    assert answers(recorder) == {"unreachable": 1}


def test_requests_are_conditional_only_after_an_answer_that_was_read(
    feeds: FeedServer, recorder: MetricsRecorder, tmp_path: Path
) -> None:
    place, current = DirectoryPlace(tmp_path), content(0)

    def play(request: Request) -> Reply:
        reply = conditional(current)(request)
        return Reply(reply.content, headers=reply.headers, sent=0.3) if request.number == 0 else reply

    feeds.plays["/positions.pb"] = play
    poller = make_poller(feeds, place, recorder)
    for _ in range(3):
        poller.poll()
    # The first answer was cut short: had its ETag been used, the content would never have come.
    assert ["if-none-match" in request.headers for request in feeds.requests] == [False, False, True]
    assert answers(recorder) == {"truncated": 1, "new": 1, "not_modified": 1}
    assert stored(place) == [current]


def test_last_modified_makes_requests_conditional_too(
    feeds: FeedServer, recorder: MetricsRecorder, tmp_path: Path
) -> None:
    date = "Tue, 14 Nov 2023 22:13:20 GMT"
    feeds.plays["/positions.pb"] = in_turn([Reply(content(0), headers={"Last-Modified": date}), Reply(status=304)])
    poller = make_poller(feeds, DirectoryPlace(tmp_path), recorder)
    for _ in range(2):
        poller.poll()
    assert [request.headers.get("if-modified-since") for request in feeds.requests] == [None, date]


@pytest.mark.parametrize("jump", [3600.0, -3600.0, 30.0])
def test_a_clock_that_jumps_loses_and_doubles_nothing(
    jump: float, feeds: FeedServer, recorder: MetricsRecorder, tmp_path: Path
) -> None:
    place, clock = DirectoryPlace(tmp_path), SettableClock()
    contents = [content(n) for n in range(6)]
    feeds.plays["/positions.pb"] = in_turn([Reply(c) for c in contents])
    poller = make_poller(feeds, place, recorder, clock, batch=1000)
    for number in range(6):
        if number == 3:
            clock.jump = jump
        poller.poll()
    poller.flush()
    assert recorder.registry.get_sample_value("mbta_collector_clock_jumps_total", {"feed": FEED}) == 1
    assert sorted(stored(place)) == sorted(contents)
    times = [s.time for s in FeedArchive(place).read_snapshots(FEED, 0, 2e9) if isinstance(s, FetchedSnapshot)]
    # Kept under the agency's time, unless that is ahead of a clock that has gone back.
    assert times[:3] == [NOW, NOW + 1, NOW + 2] or jump < -300
    assert set(answers(recorder)) <= {"new", "from_the_future"}


def test_a_feed_that_is_played_again_is_kept_under_its_own_time(
    feeds: FeedServer, recorder: MetricsRecorder, tmp_path: Path
) -> None:
    place, clock = DirectoryPlace(tmp_path), SettableClock()
    clock.jump = 1e6
    contents = [content(600 * n) for n in range(8)]
    feeds.plays["/positions.pb"] = in_turn([Reply(c) for c in contents])
    poller = make_poller(feeds, place, recorder, clock, batch=1000)
    for _ in contents:
        poller.poll()
    poller.flush()
    read = FeedArchive(place).read_snapshots(FEED, NOW + 600, NOW + 1800)
    assert [(s.time - NOW, s.content) for s in read if isinstance(s, FetchedSnapshot)] == [
        (600, contents[1]),
        (1200, contents[2]),
    ]
    assert len(place.list_files(f"{FEED}/")) == 4  # of at most a quarter of an hour


def test_a_header_that_stays_is_not_the_time_of_a_snapshot(
    feeds: FeedServer, recorder: MetricsRecorder, tmp_path: Path
) -> None:
    stuck = [make_feed(NOW - 10**6, [vehicle("v", NOW + n)]) for n in range(3)]
    feeds.plays["/positions.pb"] = in_turn([Reply(c) for c in stuck])
    place = DirectoryPlace(tmp_path)
    poller = make_poller(feeds, place, recorder)
    for _ in stuck:
        poller.poll()
    assert len(list(FeedArchive(place).read_snapshots(FEED, NOW, NOW + 100))) == 2


def test_a_restarted_collector_knows_what_it_has(feeds: FeedServer, recorder: MetricsRecorder, tmp_path: Path) -> None:
    place = DirectoryPlace(tmp_path)
    feeds.plays["/positions.pb"] = in_turn([Reply(content(0)), Reply(content(10))])
    make_poller(feeds, place, recorder).poll()
    make_poller(feeds, place, recorder).poll()
    feeds.plays["/positions.pb"] = in_turn([Reply(content(0)), Reply(content(10)), Reply(content(5))])
    feeds.requests.clear()
    again = make_poller(feeds, place, recorder)
    for _ in range(3):
        again.poll()
    assert answers(recorder) == {"new": 2, "unchanged": 1, "older": 2}
    assert stored(place) == [content(0), content(5), content(10)]


def test_a_restarted_collector_compares_with_as_many_snapshots_as_one_that_goes_on(
    feeds: FeedServer, recorder: MetricsRecorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, contents = DirectoryPlace(tmp_path), [content(n) for n in range(12)]

    def poll_after_a_restart(numbers: Sequence[int], batch: float) -> None:
        feeds.requests.clear()
        feeds.plays["/positions.pb"] = in_turn([Reply(content(n)) for n in numbers])
        poller = make_poller(feeds, place, recorder, batch=batch)
        for _ in numbers:
            poller.poll()
        poller.flush()

    poll_after_a_restart(range(12), batch=0)
    poll_after_a_restart(range(12), batch=60)
    assert stored(place) == contents
    monkeypatch.setattr(sequence, "RECENT_SNAPSHOTS", 3)
    poll_after_a_restart([9, 12, 10, 8], batch=60)
    assert sorted(stored(place)) == sorted([*contents, content(12), contents[8]])


def test_what_cannot_be_written_waits(feeds: FeedServer, recorder: MetricsRecorder, tmp_path: Path) -> None:
    place = DirectoryPlace(tmp_path / "archive")
    contents = [content(n) for n in range(4)]
    feeds.plays["/positions.pb"] = in_turn([Reply(c) for c in contents])
    poller = make_poller(feeds, place, recorder)
    (tmp_path / "archive").write_text("in the way")
    for _ in range(3):
        poller.poll()
    assert recorder.registry.get_sample_value("mbta_collector_failed_writes_total", {"feed": FEED}) == 1
    (tmp_path / "archive").unlink()
    poller.poll()
    poller.flush()
    assert stored(place) == contents


@pytest.mark.parametrize(("first", "longest"), [(0.01, 300.0), (10.0, 300.0), (60.0, 3600.0)])
def test_backoff_grows_with_jitter_up_to_a_limit(first: float, longest: float) -> None:
    for failures in range(1, 40):
        waits = [compute_backoff(first, longest, failures) for _ in range(50)]
        assert all(first <= wait <= longest for wait in waits)
        assert min(waits) >= min(longest, first * 2 ** min(failures, 20)) / 2
    assert len(set(waits)) > 10


def test_a_server_that_asks_for_time_gets_it(feeds: FeedServer, recorder: MetricsRecorder, tmp_path: Path) -> None:
    feeds.plays["/positions.pb"] = in_turn([Reply(status=429, headers={"Retry-After": "7"}), Reply(status=503)])
    poller = make_poller(feeds, DirectoryPlace(tmp_path), recorder)
    assert poller.poll() == 7
    assert all(0.01 <= poller.poll() <= MAX_BACKOFF_SECONDS for _ in range(20))
    assert poller.poll() > 100


def test_each_edition_of_the_static_feed_is_kept(feeds: FeedServer, recorder: MetricsRecorder, tmp_path: Path) -> None:
    first, second = static_feed(), static_feed("trip_id\nt\n")
    editions = Editions(DirectoryPlace(tmp_path))
    poller = StaticPoller(
        Fetcher(f"{feeds.url}/gtfs.zip", open_client(), 10**6), editions, recorder, interval_seconds=0.01
    )
    for current in (first, first, second):
        feeds.plays["/gtfs.zip"] = conditional(current)
        poller.poll()
    feeds.plays["/gtfs.zip"] = in_turn([Reply(second, sent=0.5)])
    poller.poll()
    feeds.plays["/gtfs.zip"] = in_turn([Reply(b"<html>")])
    poller.poll()
    assert dict(recorder.feeds["static"].answers) == {"new": 2, "not_modified": 1, "truncated": 1, "foreign": 1}
    assert [editions.read(sighting.digest) for sighting in editions.sightings()] == [first, second]
    assert editions.sightings()[0].last_seen > editions.sightings()[0].first_seen


def start(feeds: FeedServer, archive: Path, *options: str) -> "subprocess.Popen[str]":
    """Start the command."""
    command = [sys.executable, "-m", "mbta_assets", "collect", *options]
    environment = {
        "MBTA_FEED_ARCHIVE": str(archive),
        "MBTA_VEHICLE_POSITIONS": f"{feeds.url}/positions.pb",
        "MBTA_TRIP_UPDATES": f"{feeds.url}/updates.pb",
        "MBTA_GTFS_STATIC": f"{feeds.url}/gtfs.zip",
    }
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def fetch(url: str) -> tuple[int, str]:
    """Return the status and the text of a page."""
    try:
        with urllib.request.urlopen(url, timeout=60) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_the_command_collects_serves_its_health_and_stops(feeds: FeedServer, tmp_path: Path) -> None:
    feeds.plays["/positions.pb"] = lambda request: Reply(content(request.number))
    feeds.plays["/updates.pb"] = lambda request: Reply(make_feed(NOW + request.number, []))
    feeds.plays["/gtfs.zip"] = conditional(static_feed())
    port = free_port()
    process = start(feeds, tmp_path, "--every", "0.02", "--check-static-every", "0.05", "--port", str(port))
    try:
        eventually("answers", 60, lambda: len(feeds.paths("/positions.pb")) > 20 and len(feeds.paths("/gtfs.zip")) > 2)
        status, text = fetch(f"http://127.0.0.1:{port}/health")
        assert status == 200
        assert {feed: health["healthy"] for feed, health in json.loads(text)["feeds"].items()} == {
            "vehicle_positions": True,
            "trip_updates": True,
            "static": True,
        }
        status, metrics = fetch(f"http://127.0.0.1:{port}/metrics")
        assert status == 200
        assert 'mbta_collector_answers_total{feed="trip_updates",outcome="empty"}' in metrics
        assert fetch(f"http://127.0.0.1:{port}/other")[0] == 404
    finally:
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert output.count("vehicle_positions: ") >= 1 and " new" in output, output
    served = len(feeds.paths("/positions.pb"))
    kept = stored(DirectoryPlace(tmp_path))
    assert served - 1 <= len(kept) <= served  # the answer to the last request may have come too late
    assert len(list((tmp_path / "static").glob("*.zip"))) == 1


def test_an_unhealthy_feed_is_named(recorder: MetricsRecorder) -> None:
    recorder.healthy_seconds[FEED] = -1
    recorder.count_answer(FEED, "throttled", "status 429")
    healthy, feeds = recorder.describe_health()
    assert not healthy
    assert feeds[FEED]["problem"] == "throttled: status 429"
    assert feeds["static"]["healthy"]


def test_a_real_day_that_is_played_again_gives_the_tables_of_its_snapshots(feeds: FeedServer, tmp_path: Path) -> None:
    with zipfile.ZipFile(WMATA / "vehicle_positions.zip") as archive:
        snapshots = [archive.read(name) for name in archive.namelist()]
    rng, served = random.Random(18), [0]

    def play(request: Request) -> Reply:
        """Answer with one snapshot after the other, and with faults in between."""
        fault = rng.random()
        if fault < 0.1:
            return Reply(status=rng.choice([304, 500]))
        current = snapshots[min(served[0], len(snapshots) - 1)]
        if fault < 0.2:
            return Reply(current, sent=0.5)
        if fault < 0.3:
            return Reply(snapshots[max(0, served[0] - 3)])
        served[0] += 1
        return Reply(current)

    feeds.plays["/positions.pb"] = play
    feeds.plays["/gtfs.zip"] = conditional((WMATA / "gtfs.zip").read_bytes())
    options = ("--every", "0.01", "--write-every", "0.2", "--port", "0")
    process = start(feeds, tmp_path, *options)
    eventually("the snapshots have been served", 120, lambda: served[0] > len(snapshots))
    process.terminate()
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    zipped = Settings(
        source="gtfs", feed_archive=str(WMATA / "vehicle_positions.zip"), gtfs_static=str(WMATA / "gtfs.zip")
    )
    theirs, ours = open_source(zipped), open_source(Settings(source="gtfs", feed_archive=str(tmp_path)))
    for table in ("vehicle", "trip", "stop", "schedule"):
        day = date(2026, 2, 16)
        pd.testing.assert_frame_equal(theirs.read(table, day).rows, ours.read(table, day).rows)


def test_a_port_that_is_taken_is_named(feeds: FeedServer, tmp_path: Path) -> None:
    process = start(feeds, tmp_path, "--port", feeds.url.rpartition(":")[2])
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "Address already in use. Choose another --port" in output and "Traceback" not in output


def test_a_second_collector_is_refused(feeds: FeedServer, tmp_path: Path) -> None:
    with DirectoryPlace(tmp_path).hold_exclusively():
        process = start(feeds, tmp_path, "--port", "0")
        output, _ = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "Another collector writes in" in output and "Traceback" not in output


def test_killed_at_random_moments_with_every_fault_it_loses_and_doubles_nothing(
    feeds: FeedServer, tmp_path: Path
) -> None:
    rng = random.Random(18)
    made: list[bytes] = []

    def play(request: Request) -> Reply:
        fault = rng.random()
        if fault < 0.1:
            return Reply(status=rng.choice([304, 429, 500, 503]))
        if fault < 0.2 and made:
            return Reply(rng.choice(made[-20:]))  # the same again, or an older one
        made.append(content(len(made)))
        if fault < 0.3:
            return Reply(made[-1], sent=rng.random() * 0.9)
        return Reply(made[-1])

    feeds.plays["/positions.pb"] = play
    feeds.plays["/gtfs.zip"] = lambda request: Reply(static_feed("trip_id\n" * (request.number // 40)))
    place, before = DirectoryPlace(tmp_path), set[bytes]()
    options = ("--every", "0.01", "--write-every", "0.05", "--check-static-every", "0.01", "--port", "0")
    for _ in range(5):
        begun = len(feeds.requests)
        process = start(feeds, tmp_path, *options)
        eventually("answers", 60, lambda: len(feeds.requests) > begun + 10)  # noqa: B023
        time.sleep(rng.uniform(0, 0.6))
        process.kill()
        process.communicate()
        kept = stored(place)
        assert len(kept) == len(set(kept))
        assert before <= set(kept) <= set(made)
        assert len(set(kept) - before) > 0
        before = set(kept)
    process = start(feeds, tmp_path, *options, "--stop-after", "1")
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    kept = stored(place)
    assert before < set(kept) and len(kept) == len(set(kept))
    assert not list(tmp_path.rglob(".*.unfinished"))
    editions = Editions(place)
    assert len({editions.read(sighting.digest) for sighting in editions.sightings()}) >= 2
    assert [s.first_seen for s in editions.sightings()] == sorted(s.first_seen for s in editions.sightings())


def test_the_same_snapshots_come_out_as_went_in(feeds: FeedServer, recorder: MetricsRecorder, tmp_path: Path) -> None:
    contents = [content(n) for n in range(40)]
    feeds.plays["/positions.pb"] = in_turn([Reply(c) for c in contents])
    place = DirectoryPlace(tmp_path)
    poller = make_poller(feeds, place, recorder, batch=0.02)
    for _ in contents:
        poller.poll()
    poller.flush()
    read = [s.content for s in FeedArchive(place).read_snapshots(FEED, 0, 2e9) if isinstance(s, FetchedSnapshot)]
    assert read == contents


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("https://feeds.example/a.pb", "https://feeds.example/a.pb"),
        ("https://me:secret@feeds.example:81/a@b.pb?key=secret#secret", "https://feeds.example:81/a@b.pb?..."),
        ("https://me:se@cret@feeds.example?key=https://secret", "https://feeds.example?..."),
        ("https://[::1]:8080/a.pb", "https://[::1]:8080/a.pb"),
        ("https://me:sec/ret@feeds.example/a.pb", "https://..."),
        ("/feeds/a?b.pb", "/feeds/a?b.pb"),
    ],
)
def test_an_address_is_shown_without_user_and_query(address: str, shown: str) -> None:
    assert show_address(address) == shown


def test_the_health_of_a_feed_has_no_key_of_its_address(feeds: FeedServer, tmp_path: Path) -> None:
    feeds.plays["/feed?key=hunter2"] = in_turn([Reply(b"<html>"), Reply(b'{"no": 1}')])
    recorder = MetricsRecorder({"vehicle_positions": -1.0, "static": -1.0})
    place = DirectoryPlace(tmp_path)
    with open_client() as client:
        fetcher = Fetcher(f"{feeds.url}/feed?key=hunter2", client, 2**20)
        archive = FeedArchive(place)
        SnapshotPoller("vehicle_positions", fetcher, archive, recorder, interval_seconds=1, batch_seconds=1).poll()
        StaticPoller(fetcher, Editions(place), recorder, interval_seconds=1).poll()
    health = json.dumps(recorder.describe_health())
    assert health.count("/feed?...") == 2 and "hunter2" not in health + recorder.describe_minute()
