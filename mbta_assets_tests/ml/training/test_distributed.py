"""Training on several workers is as good as in one process, reproducible, and survives the loss of a node."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest

from mbta_assets.defs.models.distilled_student import PIECEWISE_LINEAR as STUDENT
from mbta_assets.defs.models.dnn_teacher import PIECEWISE_LINEAR as TEACHER
from mbta_assets.defs.models.pruned_teacher import PruningConfig
from mbta_assets.defs.models.xgboost_model import IN_SCALE
from mbta_assets.ml.inference.arrays import Arrays
from mbta_assets.ml.inference.encoder import Encoder
from mbta_assets.ml.inference.preprocessing import RESIDUAL_BASES
from mbta_assets.ml.training import distillation, distributed, pruning, teacher, xgboost_trainer
from mbta_assets.ml.training.compute import ONE_CORE, Resources
from mbta_assets.ml.training.cross_fitting import CrossFittedPreprocessor, prepare_training_data
from mbta_assets.ml.training.dataset import CATEGORICAL_FEATURES, NUMERIC_FEATURES
from mbta_assets.ml.training.distillation import DistillationData, distillation_targets
from mbta_assets.ml.training.hyperparameters import BoostingConfig, DistillationConfig, NetworkConfig, TrainConfig
from mbta_assets.ml.training.network_trainer import Fitted, predict
from mbta_assets.ml.training.pruning import Candidate, Cut, FineTuning
from mbta_assets.ml.training.teacher import TeacherData
from mbta_assets.ml.training.training_data import TrainingData
from mbta_assets.ml.training.xgboost_trainer import XGBoostTrainer
from mbta_assets_tests.ml.training.conftest import LocalRayCluster, mark_node_busy
from mbta_assets_tests.support.days import Simulation

WORLD_SIZE, BLOCK_ROWS = 2, 3_000
TREES_TOLERANCE, NETWORKS_TOLERANCE = 0.02, 0.05
"""Maximum relative increase of an error on unseen rows over that of one process; docs/ray.md has real figures."""


def split_into_blocks(arrays: Arrays) -> Iterator[Arrays]:
    """Yield the rows in the blocks in which a training set is read."""
    for begin in range(0, len(arrays), BLOCK_ROWS):
        yield arrays.take(np.arange(begin, min(begin + BLOCK_ROWS, len(arrays))))


def measure_error(booster: Any, rows: Arrays) -> float:
    """Return the mean absolute error of trees in units of the scale."""
    return float(np.abs(booster.inplace_predict(xgboost_trainer.stack_features(rows)) - rows.target).mean())


@pytest.mark.integration  # simulates ten service days, unless another test has
def test_blocks_transformed_one_at_a_time_make_the_arrays_of_all_rows(simulation: Simulation) -> None:
    rows = simulation.rows
    train = (rows["delay_seconds"].notna() & (rows["part"] == "train")).to_numpy()
    encoder = Encoder.fit(rows[train], NUMERIC_FEATURES, CATEGORICAL_FEATURES)
    frames = [rows[begin : begin + BLOCK_ROWS] for begin in range(0, len(rows), BLOCK_ROWS)]
    fitted = CrossFittedPreprocessor.fit(encoder, rows, train)
    whole, in_blocks = (
        prepare_training_data(fitted, rows, blocks, seed=0)[0].drop_unlabelled() for blocks in ([rows], frames)
    )
    for residual_to in RESIDUAL_BASES:
        blocks = Arrays.concat(fitted.transform_blocks(frames, train, residual_to))
        for name, values in vars(whole.train.relative_to(residual_to)).items():
            np.testing.assert_array_equal(getattr(blocks, name), values)
            np.testing.assert_array_equal(getattr(in_blocks.train.relative_to(residual_to), name), values)
        for name, values in vars(whole.validation.relative_to(residual_to)).items():
            np.testing.assert_array_equal(getattr(in_blocks.validation.relative_to(residual_to), name), values)


def test_shards_have_all_rows_once_and_each_covers_the_whole_time(training_data: TrainingData) -> None:
    rows = training_data.train.relative_to("lookup")
    shards = [rows.shard(rank, 3) for rank in range(3)]
    assert max(map(len, shards)) - min(map(len, shards)) <= 1
    assert sorted(np.concatenate([shard.label for shard in shards])) == sorted(rows.label)
    np.testing.assert_array_equal(shards[1].label, rows.label[1::3])


@dataclass(frozen=True)
class NetworkTrainings:
    """The data of a teacher, of a pruned teacher and of a student."""

    teacher: TeacherData
    pruning: FineTuning
    student: DistillationData

    def shard(self, rank: int, world_size: int) -> Self:
        """Return the data of worker `rank` of `world_size`."""
        return replace(
            self,
            teacher=self.teacher.shard(rank, world_size),
            pruning=self.pruning.shard(rank, world_size),
            student=self.student.shard(rank, world_size),
        )


SMALL_TEACHER = {**TEACHER, "inputs": "all", "hidden": [32, 16], "bins": 8}


def train_networks(cut: Cut, data: NetworkTrainings, resources: Resources) -> tuple[Fitted, Candidate, Fitted]:
    """Train a teacher, a pruned teacher and a student as their assets do."""
    return (
        teacher.train_configuration(SMALL_TEACHER, data.teacher, resources),
        pruning.make_candidate(cut, data.pruning, resources),
        distillation.train_configuration(STUDENT, data.student, resources),
    )


class TestOnRay:
    """Two workers of the cluster, each with its shard of the rows."""

    pytestmark = pytest.mark.xdist_group("ray")

    def test_trees_of_two_workers_are_as_good_as_of_one_process_and_the_same_again_when_a_node_is_lost(
        self, ray: LocalRayCluster, training_data: TrainingData, tmp_path: Path
    ) -> None:
        class SlowTrainer(XGBoostTrainer):
            """Names the node that it runs on and waits, so that the node can be lost in the middle of the training."""

            def train(self, *arguments: Any) -> Any:
                mark_node_busy(tmp_path)
                time.sleep(1)
                return super().train(*arguments)

        boosting = BoostingConfig(max_rounds=60, patience_rounds=60, rounds_per_step=20)
        trainer = XGBoostTrainer(IN_SCALE, boosting, seed=0)
        slow_trainer = SlowTrainer(**vars(trainer))
        train, held_out = training_data.train.relative_to("lookup"), training_data.validation.relative_to("lookup")
        validation, test = held_out.shard(0, 2), held_out.shard(1, 2)
        of_one_process = measure_error(xgboost_trainer.fit(trainer, train, validation), test)
        first = distributed.train_trees_data_parallel(
            trainer, split_into_blocks(train), validation, WORLD_SIZE, ONE_CORE
        )
        wait_for_kill = ray.kill_first_busy_node(tmp_path)
        second = distributed.train_trees_data_parallel(
            slow_trainer, split_into_blocks(train), validation, WORLD_SIZE, ONE_CORE
        )
        lost = wait_for_kill()
        assert {path.name for path in tmp_path.iterdir()} - {lost}, "no other node has taken over"
        assert measure_error(first, test) <= (1 + TREES_TOLERANCE) * of_one_process
        assert second.save_raw("ubj") == first.save_raw("ubj")

    def test_networks_of_two_workers_are_as_good_as_of_one_process(
        self, ray: LocalRayCluster, training_data: TrainingData
    ) -> None:
        train, validation = training_data.train.relative_to("lookup"), training_data.validation.relative_to("lookup")
        architecture, loss = NetworkConfig(), DistillationConfig()
        teacher_data = TeacherData(training_data, architecture, TrainConfig(epochs=4, seed=training_data.seed))
        two_epochs = replace(teacher_data, optimization=replace(teacher_data.optimization, epochs=2))
        network = teacher.train_configuration(SMALL_TEACHER, two_epochs).network
        predicted = predict(network, train)
        fine_tuning = replace(
            PruningConfig().build_training(seed=0), optimization=TrainConfig(epochs=2, learning_rate=0.003)
        )
        data = NetworkTrainings(
            teacher_data,
            FineTuning(network, distillation_targets(train, predicted, loss), fine_tuning, train, validation),
            DistillationData(train, validation, predicted, architecture, TrainConfig(epochs=4), loss),
        )
        cut = Cut(neurons=0.5, weights=0.6)
        of_two_workers = distributed.train_data_parallel(train_networks, cut, data, WORLD_SIZE, ONE_CORE)
        of_one_process = train_networks(cut, data, ONE_CORE)
        assert of_two_workers[1].non_zero == of_one_process[1].non_zero
        for many, one in zip(select_fitted(*of_two_workers), select_fitted(*of_one_process), strict=True):
            assert many.validation_error <= (1 + NETWORKS_TOLERANCE) * one.validation_error


def select_fitted(teacher: Fitted, pruned: Candidate, student: Fitted) -> tuple[Fitted, Fitted, Fitted]:
    """Return the three trained networks."""
    return teacher, pruned.fitted, student
