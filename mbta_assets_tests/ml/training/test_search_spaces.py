"""The configurations that searches try, and the networks that they describe."""

from dataclasses import replace

import numpy as np
import pytest
from pydantic import ValidationError

from mbta_assets.defs.models import distilled_student, dnn_teacher
from mbta_assets.defs.models.distilled_student import StudentConfig
from mbta_assets.defs.models.dnn_teacher import TeacherConfig
from mbta_assets.defs.models.xgboost_model import TO_NOW, XGBoostSpace
from mbta_assets.ml.training import distillation, teacher, xgboost_model
from mbta_assets.ml.training.compute import ONE_CORE
from mbta_assets.ml.training.distillation import DistillationData
from mbta_assets.ml.training.hyperparameters import (
    ABSOLUTE,
    HUBER,
    DistillationConfig,
    NetworkConfig,
    TrainConfig,
    apply_configuration,
)
from mbta_assets.ml.training.int8_variants import quantize_weights
from mbta_assets.ml.training.network import Network
from mbta_assets.ml.training.onnx_export import to_onnx
from mbta_assets.ml.training.size_budget import count_bytes
from mbta_assets.ml.training.teacher import TeacherData
from mbta_assets.ml.training.training_data import TrainingData, TrainingRows
from mbta_assets.ml.training.tuning import Configuration
from mbta_assets_tests.ml.conftest import FEATURE_NAMES, Problem

pytestmark = pytest.mark.xdist_group("networks")

SMALL_TEACHER = {**dnn_teacher.PIECEWISE_LINEAR, "hidden": [16, 8], "numeric": "linear_relu", "inputs": "all"}
ARCHITECTURE = NetworkConfig()


@pytest.fixture(scope="module")
def data_with_month(train: Problem, validation: Problem) -> TrainingData:
    """Return the small problem with a calendar feature as its first column."""
    train_rows, validation_rows = (
        TrainingRows.from_arrays(problem.rows, {"lookup": problem.rows.base}) for problem in (train, validation)
    )
    names = ["month", *FEATURE_NAMES[1:]]
    return TrainingData(train_rows, validation_rows, names, seed=3).drop_unlabelled()


def select_teachers(trials: int, seed: int, has_calendar: bool = True) -> list[Configuration]:
    """Return the configurations of a search for teachers."""
    return teacher.select_configurations(TeacherConfig().space.build_search_space(), trials, seed, has_calendar)


def select_students(train: Problem, max_bytes: int) -> list[Configuration]:
    """Return the configurations of a search for students of at most so many bytes."""
    training = StudentConfig().build_training(trials=6, seed=0)
    return distillation.select_configurations(training, train.rows, max_bytes)


def make_teacher_data(data: TrainingData, epochs: int) -> TeacherData:
    return TeacherData(data, ARCHITECTURE, TrainConfig(epochs=epochs, seed=data.seed))


def test_a_longer_search_begins_like_a_shorter_one_and_another_seed_draws_other_configurations() -> None:
    assert select_teachers(12, 0)[:7] == select_teachers(7, 0)
    assert select_teachers(12, 1) != select_teachers(12, 0)
    assert len(select_teachers(12, 0)) == 12


def test_without_a_calendar_no_teacher_reads_it_and_no_configuration_is_tried_twice() -> None:
    on_few_days, on_many_days = select_teachers(12, 0, has_calendar=False), select_teachers(12, 0)
    assert {configuration["inputs"] for configuration in on_few_days} == {"steady"}
    assert {configuration["inputs"] for configuration in on_many_days} == {"steady", "all"}
    assert len({str(configuration) for configuration in on_few_days}) == len(on_few_days) == 12


def test_the_plain_network_is_among_the_first_configurations() -> None:
    assert dnn_teacher.PLAIN in select_teachers(8, 0)
    network, optimization = apply_configuration(dnn_teacher.PLAIN, ARCHITECTURE, TrainConfig(epochs=3))
    assert network.hidden == (128, 64, 32, 16) and network.dropout == 0.1 and network.numeric == "none"
    assert optimization.epochs == 3 and optimization.learning_rate == dnn_teacher.PLAIN["learning_rate"]


def test_no_trees_relative_to_now_have_a_huber_loss() -> None:
    space = XGBoostSpace()
    drawn = xgboost_model.draw_configurations(space.build_search_space(), 64, 0)
    losses = {(configuration["residual_to"], configuration["objective"]) for configuration in drawn}
    assert losses == {("lookup", HUBER), ("lookup", ABSOLUTE), ("now", ABSOLUTE)}
    with pytest.raises(ValidationError, match="set its objective to reg:absoluteerror"):
        XGBoostSpace(first_configurations=[{**TO_NOW, "objective": HUBER}])


def test_trees_of_some_inputs_are_refused() -> None:
    with pytest.raises(ValidationError, match="trees have all inputs"):
        XGBoostSpace(first_configurations=[{**TO_NOW, "inputs": "steady"}])


@pytest.mark.parametrize("max_bytes", [6_000, 8_000])
def test_students_are_no_larger_than_the_size_budget(train: Problem, max_bytes: int) -> None:
    configurations = select_students(train, max_bytes)
    assert configurations
    for configuration in configurations:
        architecture, _ = apply_configuration(configuration, ARCHITECTURE, TrainConfig())
        network = Network.from_training_rows(architecture, train.rows).eval()
        assert len(quantize_weights(to_onnx(network))) <= max_bytes


def test_where_no_student_is_small_enough_the_smallest_is_tried(train: Problem) -> None:
    (selected,) = select_students(train, 10)
    configurations = StudentConfig().space.build_search_space().draw_configurations(24, 0)
    sizes = [count_bytes(configuration, ARCHITECTURE, train.rows) for configuration in configurations]
    assert len(set(sizes)) > 1
    assert count_bytes(selected, ARCHITECTURE, train.rows) == min(sizes)


def test_a_teacher_reads_the_calendar_only_where_its_configuration_says_so(data_with_month: TrainingData) -> None:
    data = make_teacher_data(data_with_month, epochs=1)
    with_calendar = teacher.train_configuration(SMALL_TEACHER, data).network
    without_calendar = teacher.train_configuration({**SMALL_TEACHER, "inputs": "steady"}, data).network
    assert with_calendar.features == 8 and without_calendar.features == 7


def test_a_trial_reports_the_error_after_each_epoch_of_the_training(data_with_month: TrainingData) -> None:
    data, reported = make_teacher_data(data_with_month, epochs=2), list[float]()
    teacher.run_trial(SMALL_TEACHER, data, reported.append, ONE_CORE)
    assert reported == list(teacher.train_configuration(SMALL_TEACHER, data).history)


def make_distillation_data(train: Problem, validation: Problem, predicted: np.ndarray, epochs: int) -> DistillationData:
    """Return the data of students of a teacher that predicts `predicted` (n,)."""
    optimization = TrainConfig(epochs=epochs)
    return DistillationData(train.rows, validation.rows, predicted, ARCHITECTURE, optimization, DistillationConfig())


def test_a_student_of_weight_0_does_not_depend_on_its_teacher(train: Problem, validation: Problem) -> None:
    configuration = {**distilled_student.PIECEWISE_LINEAR, "hidden": [8], "numeric": "none", "weight": 0.0}
    data = make_distillation_data(train, validation, train.oracle, epochs=2)
    with_wrong_teacher = replace(data, teacher=train.oracle + 100)
    control = to_onnx(distillation.train_configuration(configuration, data).network)
    assert to_onnx(distillation.train_configuration(configuration, with_wrong_teacher).network) == control
    distilled = distillation.train_configuration({**configuration, "weight": 0.5}, data)
    assert to_onnx(distilled.network) != control


def test_a_subsample_keeps_the_teachers_prediction_of_each_row(train: Problem, validation: Problem) -> None:
    data = make_distillation_data(train, validation, train.rows.base, epochs=9).for_trials(100, epochs=4)
    assert len(data.train) == 100 and data.optimization.epochs == 4
    assert np.array_equal(data.teacher, data.train.base)
