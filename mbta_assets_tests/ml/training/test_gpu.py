"""Trees and networks are trained on a GPU where there is one, and are as good as those of the CPU."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import xgboost

from mbta_assets.defs.models.distilled_student import PIECEWISE_LINEAR as STUDENT
from mbta_assets.defs.models.dnn_teacher import PIECEWISE_LINEAR as TEACHER
from mbta_assets.defs.models.pruned_teacher import PruningConfig
from mbta_assets.defs.models.xgboost_model import IN_SCALE
from mbta_assets.ml.inference.arrays import Arrays
from mbta_assets.ml.inference.onnx_session import create_session, make_feed
from mbta_assets.ml.inference.onnx_session import predict as predict_with_onnx
from mbta_assets.ml.training import distillation, distributed, pruning, teacher, tuning, xgboost_model, xgboost_trainer
from mbta_assets.ml.training.compute import Resources
from mbta_assets.ml.training.distillation import DistillationData, distillation_targets
from mbta_assets.ml.training.executor import TrainingExecutor
from mbta_assets.ml.training.hyperparameters import (
    ABSOLUTE,
    HUBER,
    BoostingConfig,
    DistillationConfig,
    NetworkConfig,
    NumericEmbedding,
    TrainConfig,
)
from mbta_assets.ml.training.network_trainer import Fitted, fit, predict
from mbta_assets.ml.training.network_weights import to_files
from mbta_assets.ml.training.onnx_export import to_onnx
from mbta_assets.ml.training.pruning import Candidate, Cut, FineTuning
from mbta_assets.ml.training.quantization import Variant, judge_variants, make_models, sample_evenly, select_variant
from mbta_assets.ml.training.teacher import TeacherData
from mbta_assets.ml.training.training_data import TrainingData
from mbta_assets.ml.training.tuning import Halving
from mbta_assets.ml.training.xgboost_model import TrialData
from mbta_assets.ml.training.xgboost_trainer import XGBoostTrainer
from mbta_assets_tests.ml.conftest import Problem

pytestmark = [
    pytest.mark.integration,
    pytest.mark.xdist_group("ray"),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU that torch can use"),
]

ON_CPU, ON_GPU, HALF_A_GPU = Resources(cpus=2), Resources(cpus=2, gpus=1), Resources(cpus=1, gpus=0.5)
TREES_TOLERANCE, NETWORKS_TOLERANCE = 0.02, 0.05
"""Maximum relative difference between the errors of trainings on the GPU and on the CPU."""
BOOSTING = BoostingConfig(max_rounds=60, patience_rounds=60, rounds_per_step=20)
SMALL_TEACHER = {**TEACHER, "inputs": "all", "hidden": [32, 16], "bins": 8}
CUT = Cut(neurons=0.5, weights=0.6)


@pytest.fixture
def tree_devices(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Return a set that gets the device of each round of trees that this process trains."""

    if not xgboost.build_info()["USE_CUDA"]:
        pytest.skip("this build of XGBoost has no CUDA: install the extra `gpu` instead of `cpu`")
    devices: set[str] = set()
    train = xgboost.train

    class RecordDevice(xgboost.callback.TrainingCallback):
        """Records the device of each round."""

        def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
            devices.add(read_device(model))
            return False

    def train_and_record(*arguments: Any, callbacks: Any = (), **options: Any) -> Any:
        return train(*arguments, callbacks=[*callbacks, RecordDevice()], **options)

    monkeypatch.setattr(xgboost, "train", train_and_record)
    return devices


@pytest.fixture
def executor(monkeypatch: pytest.MonkeyPatch) -> Iterator[TrainingExecutor]:
    """Yield an executor whose trials and tasks each have the GPU."""
    # A new local cluster would turn on token authentication in this process, which the shared cluster does not use.
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    executor = TrainingExecutor(trial_resources=ON_GPU, local_resources=ON_GPU)
    yield executor
    executor.close()


@pytest.fixture
def gpu_memory() -> Iterator[None]:
    """Fail a test in which torch takes no memory of the GPU in this process."""
    torch.cuda.init()
    torch.cuda.reset_peak_memory_stats()
    yield
    assert torch.cuda.max_memory_allocated() > 0


def read_device(booster: Any) -> str:
    """Return the device of some trees."""
    return json.loads(booster.save_config())["learner"]["generic_param"]["device"]


def make_trainer(resources: Resources) -> XGBoostTrainer:
    """Return the trainer of trees on all columns, with a Huber loss."""
    return XGBoostTrainer(IN_SCALE, BOOSTING, seed=0, resources=resources)


def measure_error(booster: Any, rows: Arrays) -> float:
    """Return the mean absolute error of trees in units of the scale."""
    return float(np.abs(booster.inplace_predict(xgboost_trainer.stack_features(rows)) - rows.target).mean())


def make_teacher_data(data: TrainingData, epochs: int = 4) -> TeacherData:
    """Return the data of a teacher that is trained for a few epochs."""
    return TeacherData(data, NetworkConfig(), TrainConfig(epochs=epochs, seed=data.seed))


def train_networks(
    cut: Cut, data: TrainingData, resources: Resources
) -> tuple[Fitted, Candidate, Fitted, list[Variant]]:
    """Train a teacher, prune it, distill the result into a student and quantize that, as the assets do."""
    train, validation = data.train.relative_to("lookup"), data.validation.relative_to("lookup")
    fitted = teacher.train_configuration(SMALL_TEACHER, make_teacher_data(data), resources)
    loss = DistillationConfig()
    targets = distillation_targets(train, predict(fitted.network, train), loss)
    optimization = TrainConfig(epochs=4, learning_rate=0.003)
    fine_tuning = replace(PruningConfig().build_training(seed=0), optimization=optimization)
    pruned = pruning.make_candidate(cut, FineTuning(fitted.network, targets, fine_tuning, train, validation), resources)
    taught_by = predict(pruned.fitted.network, train)
    student = distillation.train_configuration(
        STUDENT, DistillationData(train, validation, taught_by, NetworkConfig(), TrainConfig(epochs=4), loss), resources
    )
    models = make_models(to_onnx(student.network), sample_evenly(train, 500))
    variants = judge_variants(models, models, validation, max_error_ratio=1.02)
    return fitted, pruned, student, variants


@pytest.mark.parametrize("objective", [HUBER, ABSOLUTE])
def test_trees_are_trained_on_the_gpu_and_predict_on_the_cpu(
    objective: str, tree_devices: set[str], training_data: TrainingData
) -> None:
    train, validation = training_data.train.relative_to("lookup"), training_data.validation.relative_to("lookup")
    trainer = replace(make_trainer(ON_GPU), configuration={**IN_SCALE, "objective": objective})
    of_gpu = xgboost_trainer.fit(trainer, train, validation)
    assert tree_devices == {"cuda:0"}
    assert read_device(of_gpu) == "cpu"
    again = xgboost_trainer.fit(trainer, train, validation)
    assert again.save_raw("ubj") == of_gpu.save_raw("ubj")
    tree_devices.clear()
    of_cpu = xgboost_trainer.fit(replace(trainer, resources=ON_CPU), train, validation)
    assert tree_devices == {"cpu"}
    assert measure_error(of_gpu, validation) == pytest.approx(measure_error(of_cpu, validation), rel=TREES_TOLERANCE)
    restored = xgboost.Booster(model_file=bytearray(of_gpu.save_raw("ubj")))
    features = xgboost_trainer.stack_features(validation)
    assert np.array_equal(restored.inplace_predict(features), of_gpu.inplace_predict(features))


@pytest.mark.usefixtures("gpu_memory")
@pytest.mark.parametrize("numeric", ["none", "linear_relu", "periodic", "piecewise_linear"])
def test_a_network_is_trained_on_the_gpu_and_exported_from_the_cpu(
    numeric: NumericEmbedding, train: Problem, validation: Problem
) -> None:
    architecture = NetworkConfig(hidden=(64, 32), numeric=numeric, dropout=0.05)
    optimization = TrainConfig(epochs=6, device="cuda")
    of_gpu = fit(architecture, optimization, train.rows, validation.rows)
    of_cpu = fit(architecture, replace(optimization, device="cpu"), train.rows, validation.rows)
    assert of_gpu.validation_error == pytest.approx(of_cpu.validation_error, rel=NETWORKS_TOLERANCE)
    assert {value.device.type for value in of_gpu.network.state_dict().values()} == {"cpu"}
    again = fit(architecture, optimization, train.rows, validation.rows)
    assert to_files(again.network) == to_files(of_gpu.network)
    session = create_session(to_onnx(of_gpu.network))
    exported = predict_with_onnx(session, make_feed(validation.rows.numeric, validation.rows.codes))
    assert exported == pytest.approx(predict(of_gpu.network, validation.rows), abs=1e-3)


@pytest.mark.usefixtures("gpu_memory")
def test_a_training_on_the_gpu_leaves_the_random_streams_as_they_were(train: Problem, validation: Problem) -> None:
    before = torch.get_rng_state(), torch.cuda.get_rng_state()
    fit(NetworkConfig(hidden=(8,)), TrainConfig(epochs=1, seed=9, device="cuda"), train.rows, validation.rows)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert torch.equal(torch.cuda.get_rng_state(), before[1])


TRAIN_ON_CPU = """
import torch
from mbta_assets.ml.training.hyperparameters import NetworkConfig, TrainConfig
from mbta_assets.ml.training.network_trainer import fit
from mbta_assets_tests.ml.conftest import create_problem

fit(NetworkConfig(hidden=(8,)), TrainConfig(epochs=1), create_problem(500, 1).rows, create_problem(500, 2).rows)
assert not torch.cuda.is_initialized()
"""


def test_a_training_on_the_cpu_leaves_the_gpu_alone() -> None:
    subprocess.run([sys.executable, "-c", TRAIN_ON_CPU], check=True)


@pytest.mark.usefixtures("gpu_memory")
def test_a_teacher_is_pruned_distilled_and_quantized_on_the_gpu(training_data: TrainingData) -> None:
    fitted, pruned, student, variants = train_networks(CUT, training_data, ON_GPU)
    of_cpu = train_networks(CUT, training_data, ON_CPU)
    assert (pruned.parameters, pruned.non_zero) == (of_cpu[1].parameters, of_cpu[1].non_zero)
    for network, other in ((fitted, of_cpu[0]), (pruned.fitted, of_cpu[1].fitted), (student, of_cpu[2])):
        assert network.validation_error == pytest.approx(other.validation_error, rel=NETWORKS_TOLERANCE)
    assert select_variant(variants).name.startswith("int8")


class TestOnRay:
    """Trials, tasks and data-parallel workers of a Ray session that has the GPU of this machine."""

    def test_trials_of_a_search_for_trees_have_the_gpu_one_after_the_other(
        self, tree_devices: set[str], executor: TrainingExecutor, training_data: TrainingData
    ) -> None:
        configurations = [{**IN_SCALE, "max_depth": depth} for depth in (2, 4, 8)]
        data, halving = TrialData(training_data, BOOSTING), Halving(grace=BOOSTING.steps, steps=BOOSTING.steps)
        results = executor.search(xgboost_model.run_trial, configurations, [data], halving)
        for result, configuration in zip(results, configurations, strict=True):
            [in_this_process] = tuning.run_trials(xgboost_model.run_trial, configuration, [data], ON_GPU)
            assert result.curve == in_this_process.curve
        assert tree_devices == {"cuda:0"}

    @pytest.mark.usefixtures("gpu_memory")
    def test_trials_of_a_search_for_networks_have_the_gpu(
        self, executor: TrainingExecutor, training_data: TrainingData
    ) -> None:
        configurations = [{**SMALL_TEACHER, "learning_rate": rate} for rate in (0.003, 0.006, 0.012)]
        data = make_teacher_data(training_data, epochs=2)
        results = executor.search(teacher.run_trial, configurations, [data], Halving(grace=2, steps=2))
        for result, configuration in zip(results, configurations, strict=True):
            assert result.curve == list(teacher.train_configuration(configuration, data, ON_GPU).history)

    def test_parallel_tasks_have_the_gpu(self, executor: TrainingExecutor) -> None:
        def multiply(item: float, data: float, resources: Resources) -> tuple[str, float]:
            return resources.device, (torch.tensor(item, device=resources.device) * data).item()

        items = [(1.0, 10.0), (2.0, 10.0), (3.0, 10.0)]
        assert executor.train_networks(multiply, items) == [("cuda", 10), ("cuda", 20), ("cuda", 30)]

    def test_a_data_parallel_worker_trains_the_networks_of_one_process(
        self, executor: TrainingExecutor, training_data: TrainingData
    ) -> None:
        executor.train_networks(lambda *_: None, [(None, None)])  # starts the session
        of_worker = distributed.train_data_parallel(train_networks, CUT, training_data, 1, ON_GPU)
        in_this_process = train_networks(CUT, training_data, ON_GPU)
        assert to_files(of_worker[0].network) == to_files(in_this_process[0].network)
        assert to_files(of_worker[1].fitted.network) == to_files(in_this_process[1].fitted.network)
        assert to_files(of_worker[2].network) == to_files(in_this_process[2].network)

    def test_a_data_parallel_worker_trains_the_trees_of_one_process(
        self, tree_devices: set[str], executor: TrainingExecutor, training_data: TrainingData
    ) -> None:
        executor.train_networks(lambda *_: None, [(None, None)])  # starts the session
        train, validation = training_data.train.relative_to("lookup"), training_data.validation.relative_to("lookup")
        trainer = make_trainer(ON_GPU)
        of_worker = distributed.train_trees_data_parallel(trainer, [train], validation, 1, ON_GPU)
        in_this_process = xgboost_trainer.fit(trainer, train, validation)
        assert tree_devices == {"cuda:0"}
        assert of_worker.save_raw("ubj") == in_this_process.save_raw("ubj")

    def test_two_workers_that_share_a_gpu_train_a_network_as_good_as_that_of_one_process(
        self, executor: TrainingExecutor, training_data: TrainingData
    ) -> None:
        executor.train_networks(lambda *_: None, [(None, None)])  # starts the session
        data = make_teacher_data(training_data)
        of_two_workers = distributed.train_data_parallel(
            teacher.train_configuration, SMALL_TEACHER, data, 2, HALF_A_GPU
        )
        of_one_process = teacher.train_configuration(SMALL_TEACHER, data, ON_GPU)
        assert of_two_workers.validation_error <= (1 + NETWORKS_TOLERANCE) * of_one_process.validation_error
