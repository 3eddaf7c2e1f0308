"""Runs that write, audit, publish and train are killed at random moments; `benchmarks/crashes.py` does more of it."""

import multiprocessing
import threading
from pathlib import Path

import pytest

from mbta_assets.storage.bundle import Draft
from mbta_assets.storage.model_registry import ModelRegistry
from mbta_assets.storage.parquet_tables import ParquetTables
from mbta_assets_tests.support.killed_runs import Content, run_kills, temporary_directory, watch
from mbta_assets_tests.support.writers import DAY, make_rows

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("crashes")]

KILLS = 3


def test_readers_see_whole_versions_and_a_restart_leaves_what_an_undisturbed_run_does() -> None:
    with temporary_directory() as root:
        figures = run_kills(root / "runs", KILLS, seed=1, kills_per_restart=KILLS)
    assert figures.problems == []
    assert figures.kills.total() == KILLS and figures.completed >= 1 and figures.reads > 0


@pytest.mark.parametrize("damaged", ["tables/toy/service_date=2023-10-03/data.parquet", "bundles/model/*/a.bin"])
def test_the_reader_notices_what_is_torn(tmp_path: Path, damaged: str) -> None:
    tables, registry = ParquetTables(tmp_path), ModelRegistry(tmp_path)
    tables.write("toy", DAY, make_rows(1))
    registry.make_current("model", registry.put("model", Draft("toy", {"a.bin": b"12345678"})).digest)
    expected = [Content.read(tmp_path)]

    def count_torn() -> int:
        receiver, sender = multiprocessing.Pipe(duplex=False)
        rounds, stop = multiprocessing.Value("q", 0), threading.Event()
        reader = threading.Thread(target=watch, args=(tmp_path, expected, rounds, stop, sender))
        reader.start()
        while not rounds.value:
            stop.wait(0.01)
        stop.set()
        reader.join()
        reads, torn = receiver.recv()
        return len(torn) * 2 // reads

    assert count_torn() == 0
    (path,) = tmp_path.glob(damaged)
    path.write_bytes(path.read_bytes()[:-4])
    assert count_torn() == 1
