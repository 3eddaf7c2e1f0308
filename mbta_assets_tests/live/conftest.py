"""A trained model and a feed server for tests of live predictions."""

from collections.abc import Iterator

import pytest

from mbta_assets_tests.serving.conftest import empty_store, model_store, trained_models
from mbta_assets_tests.sources.gtfs.feed_server import FeedServer, feed_server

__all__ = ["empty_store", "model_store", "server", "trained_models"]


@pytest.fixture
def server() -> Iterator[FeedServer]:
    """Yield a running feed server."""
    with feed_server() as running:
        yield running
