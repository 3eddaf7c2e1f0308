"""Training on several workers: as good as in one process, the same again, and not undone by the loss of a node."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mbta_assets.ml.inference.arrays import Arrays, Parts
from mbta_assets.ml.inference.encoder import Encoder
from mbta_assets.ml.inference.model import RESIDUALS, Encoding, learning_parts
from mbta_assets.ml.training import distillation, distributed, pruning, search_spaces, xgboost_trainer
from mbta_assets.ml.training.network_trainer import TrainConfig, predict
from mbta_assets.ml.training.tuning import ONE_CORE
from mbta_assets.ml.training.xgboost_trainer import Growth
from mbta_assets.transit import schema
from mbta_assets_tests.ml.training.conftest import RayCluster, say_at_work
from mbta_assets_tests.support.days import Simulation

WORKERS, BLOCK = 2, 3_000
TREES_TOLERANCE, NETWORKS_TOLERANCE = 0.02, 0.05
"""How much worse than of one process an error on unseen rows may be; docs/ray.md has figures of a real training."""
on_ray = [pytest.mark.timeout(300), pytest.mark.xdist_group("ray")]


def blocks(arrays: Arrays) -> Iterator[Arrays]:
    """The rows as they would be read."""
    return (arrays.take(np.arange(at, min(at + BLOCK, len(arrays)))) for at in range(0, len(arrays), BLOCK))


def error_of_trees(booster: Any, rows: Arrays) -> float:
    return float(np.abs(booster.inplace_predict(xgboost_trainer.inputs(rows)) - rows.target).mean())


def test_blocks_as_they_are_read_make_the_arrays_of_all_rows(simulation: Simulation) -> None:
    rows = simulation.rows
    train = (rows["delay_seconds"].notna() & (rows["part"] == "train")).to_numpy()
    names = (schema.columns(schema.TransitFeatures, role) for role in ("numeric", "category"))
    encoder = Encoder.fit(rows[train], *names)
    whole = learning_parts(encoder, rows, seed=0)[1].labelled()
    frames = [rows[at : at + BLOCK] for at in range(0, len(rows), BLOCK)]
    encoding = Encoding.fit(encoder, rows, train)
    for to in RESIDUALS:
        read = Arrays.concat(encoding.blocks(frames, train, to))
        for name, values in vars(whole.train[to]).items():
            np.testing.assert_array_equal(getattr(read, name), values)


def test_shares_are_all_rows_once_and_of_every_time(parts: Parts) -> None:
    rows = parts.train["lookup"]
    shares = [rows.share(rank, 3) for rank in range(3)]
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert sorted(np.concatenate([share.label for share in shares])) == sorted(rows.label)
    np.testing.assert_array_equal(shares[1].label, rows.label[1::3])


class TestOnRay:
    """Two workers of the cluster, each with its share of the rows."""

    pytestmark = on_ray

    def test_trees_of_two_workers_are_as_good_as_of_one_process_and_so_again_when_a_node_is_lost(
        self, ray: RayCluster, parts: Parts, tmp_path: Path
    ) -> None:
        class Watched(Growth):
            """Says where it is at work, and takes its time."""

            def grow(self, *arguments: Any) -> Any:
                say_at_work(tmp_path)
                time.sleep(1)
                return super().grow(*arguments)

        growth = Growth(xgboost_trainer.EVERYTHING, parts.names, rounds=60, seed=0)
        train, held_out = parts.train["lookup"], parts.validation["lookup"]
        stopping, judging = held_out.share(0, 2), held_out.share(1, 2)
        alone = error_of_trees(xgboost_trainer.fit(growth, train, stopping), judging)
        once = distributed.grow_trees(growth, blocks(train), stopping, WORKERS, ONE_CORE)
        killed = ray.kill_first_at_work(tmp_path)
        again = distributed.grow_trees(Watched(**vars(growth)), blocks(train), stopping, WORKERS, ONE_CORE)
        lost = killed()
        assert {path.name for path in tmp_path.iterdir()} - {lost}, "no other node has taken over"
        assert error_of_trees(once, judging) <= (1 + TREES_TOLERANCE) * alone
        assert again.save_raw("ubj") == once.save_raw("ubj")

    def test_networks_of_two_workers_are_as_good_as_of_one_process(self, ray: RayCluster, parts: Parts) -> None:
        """A teacher, one that is pruned, and a student, each as the assets train it."""
        train, validation = parts.train["lookup"], parts.validation["lookup"]
        small = {**search_spaces.TEACHER, "inputs": "all", "hidden": [32, 16], "bins": 8}
        network = search_spaces.teacher(small, (parts, 2)).network
        targets = distillation.lesson(train, predict(network, train), distillation.LessonConfig())
        training = TrainConfig(epochs=2, learning_rate=0.003)
        tuning = pruning.FineTuning(network, targets, training, train, validation)
        classroom = search_spaces.Classroom(train, validation, predict(network, train), epochs=4, seed=0)
        cut = pruning.Cut(neurons=0.5, weights=0.6)

        def each(cut: pruning.Cut, data: tuple, threads: int = 1) -> tuple:
            parts_and_epochs, tuning, classroom = data
            return (
                search_spaces.teacher(small, parts_and_epochs, threads=threads),
                pruning.task(cut, tuning, threads),
                search_spaces.student(search_spaces.STUDENT, classroom, threads=threads),
            )

        data = ((parts, 4), tuning, classroom)
        teacher, pruned, student = distributed.together(each, cut, data, WORKERS, ONE_CORE)
        alone = each(cut, data)
        assert pruned.non_zero == alone[1].non_zero
        spread = (teacher, pruned.fitted, student)
        for many, one in zip(spread, (alone[0], alone[1].fitted, alone[2]), strict=True):
            assert many.validation_error <= (1 + NETWORKS_TOLERANCE) * one.validation_error
