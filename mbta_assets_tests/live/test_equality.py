"""What is published equals the batch predictions of the same moments, to the bit of the model's output."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from zipfile import ZipFile

import pandas as pd
import pytest

from mbta_assets.realtime.feed import parse_feed
from mbta_assets.settings import Settings
from mbta_assets.sources import open_source
from mbta_assets.sources.files import FilesSource
from mbta_assets.sources.synthetic import SyntheticSource
from mbta_assets_tests.live.days import FeedSnapshot, as_fed, list_delays, make_snapshots, predict_batch
from mbta_assets_tests.live.harness import MAX_AGE, Live, files_settings
from mbta_assets_tests.serving.conftest import ModelStore
from mbta_assets_tests.serving.test_stream import compute_features, read_tables, select_routes
from mbta_assets_tests.sources.gtfs.feed_server import FeedServer
from mbta_assets_tests.support.days import REAL, SIMULATED, Tables
from mbta_assets_tests.support.gtfs_day import WMATA, WMATA_DAY

pytestmark = pytest.mark.integration


def assert_equal_predictions(
    live: Live, snapshots: list[FeedSnapshot], tables: Tables, features: pd.DataFrame, published_from: datetime
) -> int:
    """Raise AssertionError unless what is published is what the table has; return the number of predictions.

    The rows are those of the latest report of each vehicle; of two vehicles on a trip one is published.
    """
    expected = predict_batch(live.predictors.get(), features)
    vehicle, count = tables["vehicle"], 0
    for snapshot in snapshots:
        if snapshot.made_at < published_from:
            live.service.take(snapshot.content, snapshot.made_at.timestamp(), "before")
            continue
        published = list_delays(live.play(snapshot))
        assert published == {key: expected[key] for key in published}
        reported = vehicle[vehicle["updated_at"] <= snapshot.made_at].groupby("id")["updated_at"].max()
        latest = set(reported[reported >= snapshot.made_at - MAX_AGE].items())
        trips = {key[0] for key in published}
        assert not [key for key in expected if (key[1], key[2]) in latest and key[0] not in trips]
        count += len(published)
    return count


def test_a_simulated_day_through_a_feed_server_equals_the_batch(
    server: FeedServer, model_store: ModelStore, tmp_path: Path
) -> None:
    tables = as_fed(read_tables(SyntheticSource(0), SIMULATED))
    tables["vehicle"] = select_routes(tables["vehicle"], ["Blue", "Mattapan"])
    noon = tables["vehicle"]["updated_at"].min().to_pydatetime() + timedelta(hours=4)
    tables["vehicle"] = tables["vehicle"][tables["vehicle"]["updated_at"] <= noon].reset_index(drop=True)
    live = Live(files_settings(tmp_path / "files", SIMULATED, tables), model_store, server)
    begin = tables["vehicle"]["updated_at"].min().to_pydatetime()
    snapshots = list(make_snapshots(tables["vehicle"], SIMULATED, begin, noon, 30))
    features = compute_features(SIMULATED, tables)
    assert assert_equal_predictions(live, snapshots, tables, features, noon - timedelta(minutes=20)) > 3_000


def test_the_seed_day_through_a_feed_server_equals_the_batch(
    server: FeedServer, model_store: ModelStore, tmp_path: Path, seed_upstream: Path
) -> None:
    tables = as_fed(read_tables(FilesSource(seed_upstream), REAL))
    live = Live(files_settings(tmp_path / "files", REAL, tables), model_store, server)
    times = tables["vehicle"]["updated_at"]
    begin, end = times.min().to_pydatetime(), times.sort_values().iloc[len(times) * 6 // 10].to_pydatetime()
    snapshots = list(make_snapshots(tables["vehicle"], REAL, begin, end, 30))
    features = compute_features(REAL, tables)
    assert assert_equal_predictions(live, snapshots, tables, features, end - timedelta(minutes=20)) > 1_500


def test_snapshots_of_wmata_through_a_feed_server_equal_the_batch(
    server: FeedServer, model_store: ModelStore, tmp_path: Path
) -> None:
    settings = Settings(
        source="gtfs",
        feed_archive=str(WMATA / "vehicle_positions.zip"),
        gtfs_static=str(WMATA / "gtfs.zip"),
        store=tmp_path,
    )
    live = Live(settings, model_store, server)
    with ZipFile(WMATA / "vehicle_positions.zip") as archive:
        contents = [archive.read(name) for name in sorted(archive.namelist())]
    headers = [parse_feed(content, "wmata").header_time or 0 for content in contents]
    snapshots = [
        FeedSnapshot(datetime.fromtimestamp(header, UTC), content)
        for header, content in sorted(zip(headers, contents, strict=True))
    ]
    tables = read_tables(open_source(settings), WMATA_DAY)
    features = compute_features(WMATA_DAY, tables)
    assert assert_equal_predictions(live, snapshots, tables, features, snapshots[-60].made_at) > 1_000
