"""Training on several workers: as good as in one process, the same again, and not undone by the loss of a node."""

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from mbta_assets.ml.inference.arrays import Arrays, Parts
from mbta_assets.ml.inference.encoder import Encoder
from mbta_assets.ml.inference.model import RESIDUALS, Encoding, learning_parts
from mbta_assets.ml.training import distillation, distributed, pruning, search_spaces, tuning, xgboost_trainer
from mbta_assets.ml.training.network_trainer import TrainConfig, predict
from mbta_assets.ml.training.tuning import ONE_CORE
from mbta_assets.ml.training.xgboost_trainer import Growth
from mbta_assets.transit import schema
from mbta_assets_tests.support.days import Simulation

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
    return Growth(xgboost_trainer.STEADY, parts.names, rounds=150, seed=0)


def blocks(arrays: Arrays) -> Iterator[Arrays]:
    """The rows as they would be read."""
    return (arrays.take(np.arange(at, min(at + BLOCK, len(arrays)))) for at in range(0, len(arrays), BLOCK))


def error_of_trees(booster, rows: Arrays) -> float:
    return float(np.abs(booster.inplace_predict(xgboost_trainer.inputs(rows)) - rows.target).mean())


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
    alone = error_of_trees(xgboost_trainer.fit(growth, train, stopping), judging)
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
        with tuning.ray_session(cluster.address):
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
    """A teacher, one that is pruned, and a student, each as the assets train it."""
    few = parts.smaller(20_000)
    train, validation = few.train["lookup"], few.validation["lookup"]
    network = search_spaces.teacher({**search_spaces.TEACHER, "inputs": "all"}, (few, 4)).network
    targets = distillation.lesson(train, predict(network, train), distillation.LessonConfig())
    training = TrainConfig(epochs=2, learning_rate=0.003)
    tuning = pruning.FineTuning(network, targets, training, train, validation)
    classroom = search_spaces.Classroom(train, validation, predict(network, train), epochs=6, seed=0)
    cut = pruning.Cut(neurons=0.5, weights=0.6)

    def each(cut: pruning.Cut, data: tuple, threads: int = 1) -> tuple:
        parts_and_epochs, tuning, classroom = data
        return (
            search_spaces.teacher(search_spaces.TEACHER, parts_and_epochs, threads=threads),
            pruning.task(cut, tuning, threads),
            search_spaces.student(search_spaces.STUDENT, classroom, threads=threads),
        )

    data = ((few, 6), tuning, classroom)
    with tuning.ray_session(None):
        teacher, pruned, student = distributed.together(each, cut, data, WORKERS, ONE_CORE)
    alone = each(cut, data)
    assert pruned.non_zero == alone[1].non_zero
    spread = (teacher, pruned.fitted, student)
    for many, one in zip(spread, (alone[0], alone[1].fitted, alone[2]), strict=True):
        assert many.validation_error <= (1 + NETWORKS_TOLERANCE) * one.validation_error
