"""Training on several workers: as good as in one process, the same again, and not undone by the loss of a node."""

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from mbta_assets.learning import boosting, distil, distributed, prune, search, tune
from mbta_assets.learning.arrays import Arrays, Parts
from mbta_assets.learning.boosting import Growth
from mbta_assets.learning.encode import Encoder
from mbta_assets.learning.model import RESIDUALS, Encoding, learning_parts
from mbta_assets.learning.train import TrainConfig, predict
from mbta_assets.learning.tune import ONE_CORE
from mbta_assets.transit import schema
from mbta_assets_tests.transit.days import Simulation

pytestmark = pytest.mark.timeout(600)

WORKERS, BLOCK = 2, 7_000
TREES_TOLERANCE, NETWORKS_TOLERANCE = 0.01, 0.02
"""How much worse than of one process an error on unseen rows may be."""


@pytest.fixture(scope="module")
def encoder(simulation: Simulation) -> Encoder:
    names = (schema.columns(schema.TransitFeatures, role) for role in ("numeric", "category"))
    rows = simulation.rows
    return Encoder.fit(rows[rows["delay_seconds"].notna() & (rows["part"] == "train")], *names)


@pytest.fixture(scope="module")
def parts(encoder: Encoder, simulation: Simulation) -> Parts:
    return learning_parts(encoder, simulation.rows, seed=0)[1].labelled()


@pytest.fixture(scope="module")
def growth(parts: Parts) -> Growth:
    return Growth(boosting.STEADY, parts.names, rounds=150, seed=0)


def blocks(arrays: Arrays) -> Iterator[Arrays]:
    """The rows as they would be read."""
    return (arrays.take(np.arange(at, min(at + BLOCK, len(arrays)))) for at in range(0, len(arrays), BLOCK))


def error_of_trees(booster, rows: Arrays) -> float:
    return float(np.abs(booster.inplace_predict(boosting.inputs(rows)) - rows.target).mean())


def halves(rows: Arrays) -> tuple[Arrays, Arrays]:
    """One half stops the training, the other judges it."""
    return rows.share(0, 2), rows.share(1, 2)


def test_blocks_as_they_are_read_make_the_arrays_of_all_rows(encoder, simulation, parts):
    rows = simulation.rows
    train = (rows["delay_seconds"].notna() & (rows["part"] == "train")).to_numpy()
    frames = [rows[at : at + BLOCK] for at in range(0, len(rows), BLOCK)]
    encoding = Encoding.fit(encoder, rows, train)
    for to in RESIDUALS:
        read = Arrays.concat(encoding.blocks(frames, train, to))
        for name, values in vars(parts.train[to]).items():
            np.testing.assert_array_equal(getattr(read, name), values)


def test_shares_are_all_rows_once_and_of_every_time(parts):
    rows = parts.train["lookup"]
    shares = [rows.share(rank, 3) for rank in range(3)]
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert sorted(np.concatenate([share.label for share in shares])) == sorted(rows.label)
    np.testing.assert_array_equal(shares[1].label, rows.label[1::3])


def test_trees_of_two_workers_are_as_good_as_of_one_process_and_so_again_when_a_node_is_lost(parts, growth, tmp_path):
    from ray.cluster_utils import Cluster

    class Watched(Growth):
        """Says where it is at work, and takes its time."""

        def grow(self, *arguments):
            import ray

            (tmp_path / ray.get_runtime_context().get_node_id()).touch()
            time.sleep(2)
            return super().grow(*arguments)

    train = parts.train["lookup"]
    stopping, judging = halves(parts.validation["lookup"])
    alone = error_of_trees(boosting.fit(growth, train, stopping), judging)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}, connect=False)

    def lose_a_node_at_work() -> None:
        while len(at_work := list(tmp_path.iterdir())) < WORKERS:
            time.sleep(0.1)
        lost.append(next(node for node in cluster.list_all_nodes() if node.node_id == at_work[0].name))
        cluster.remove_node(lost[0], allow_graceful=False)

    lost = []
    try:
        for _ in range(WORKERS + 1):
            cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        with tune.ray_session(cluster.address):
            once = distributed.grow_trees(growth, blocks(train), stopping, WORKERS, ONE_CORE)
            killer = threading.Thread(target=lose_a_node_at_work, daemon=True)
            killer.start()
            watched = Watched(**vars(growth))
            again = distributed.grow_trees(watched, blocks(train), stopping, WORKERS, ONE_CORE)
            killer.join(timeout=60)
    finally:
        cluster.shutdown()
    assert error_of_trees(once, judging) <= (1 + TREES_TOLERANCE) * alone
    assert lost
    assert len(list(tmp_path.iterdir())) > WORKERS, "the other node has not taken over"
    assert again.save_raw("ubj") == once.save_raw("ubj")


def test_networks_of_two_workers_are_as_good_as_of_one_process(parts):
    few = parts.smaller(20_000)
    train, validation = few.train["lookup"], few.validation["lookup"]
    room = search.Classroom(train, validation, np.zeros(len(train), np.float32), epochs=6, seed=0)
    teacher = search.teacher({**search.TEACHER, "inputs": "all"}, (few, 4)).network
    targets = distil.lesson(train, predict(teacher, train), distil.LessonConfig())
    training = TrainConfig(epochs=2, learning_rate=0.003)
    tuning = prune.FineTuning(teacher, targets, training, train, validation)
    cut = prune.Cut(neurons=0.5, weights=0.6)
    pruned = prune.task(cut, tuning)
    alone = [search.teacher(search.TEACHER, (few, 6)), search.student(search.STUDENT, room), pruned.fitted]
    with tune.ray_session(None):
        jobs = [(search.teacher, search.TEACHER, (few, 6)), (search.student, search.STUDENT, room)]
        spread = [distributed.together(*job, WORKERS, ONE_CORE) for job in jobs]
        also_pruned = distributed.together(prune.task, cut, tuning, WORKERS, ONE_CORE)
    assert also_pruned.non_zero == pruned.non_zero
    for one, many in zip(alone, [*spread, also_pruned.fitted], strict=True):
        print("RATIO", many.validation_error / one.validation_error)
        assert many.validation_error <= (1 + NETWORKS_TOLERANCE) * one.validation_error
