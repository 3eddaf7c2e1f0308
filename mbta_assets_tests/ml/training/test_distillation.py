from dataclasses import replace

import numpy as np
import pytest

from mbta_assets.ml.inference.arrays import Arrays
from mbta_assets.ml.training.compute import ONE_CORE
from mbta_assets.ml.training.distillation import (
    FURTHER,
    DistillationData,
    distillation_targets,
    select_mixture,
    train_configuration,
    train_final,
)
from mbta_assets.ml.training.hyperparameters import (
    DistillationConfig,
    NetworkConfig,
    TrainConfig,
    limit_epochs,
)
from mbta_assets.ml.training.network_trainer import fit, predict
from mbta_assets_tests.ml.conftest import MakeProblem, Problem

pytestmark = pytest.mark.xdist_group("networks")

STUDENT = NetworkConfig(hidden=(32, 16), numeric="none", embedding_dim=2)
TREE_FRACTIONS = (0.0, 0.25, 0.5)


def test_a_student_with_a_good_teacher_beats_the_same_network_without(
    make_problem: MakeProblem, validation: Problem
) -> None:
    small = make_problem(3_000, 5)
    config = TrainConfig(epochs=8)
    targets = distillation_targets(small.rows, small.oracle, DistillationConfig())
    distilled = fit(STUDENT, config, small.rows, validation.rows, targets=targets)
    control = fit(STUDENT, config, small.rows, validation.rows)
    assert distilled.validation_error < control.validation_error


def test_a_student_learns_from_rows_without_a_label(make_problem: MakeProblem, validation: Problem) -> None:
    large = make_problem(6_000, 5)
    few_labels = np.where(np.arange(len(large.rows)) < 500, large.rows.label, np.float32(np.nan))
    mostly_unlabelled = replace(large.rows, label=few_labels)
    config = TrainConfig(epochs=6)
    targets = distillation_targets(mostly_unlabelled, large.oracle, DistillationConfig())
    distilled = fit(STUDENT, config, mostly_unlabelled, validation.rows, targets=targets)
    control = fit(STUDENT, config, mostly_unlabelled, validation.rows)
    assert distilled.validation_error < 0.95 * control.validation_error


def test_a_row_weighs_label_and_teacher_as_configured_and_an_unlabelled_one_the_teacher_alone(train: Problem) -> None:
    config = DistillationConfig(teacher_weight=0.7, bound_quantile=1)
    targets = distillation_targets(train.rows, np.zeros(len(train.rows)), config)
    labelled = ~np.isnan(train.rows.label)
    assert targets.weights[labelled] == pytest.approx(np.tile([0.3, 0.7], (labelled.sum(), 1)))
    assert targets.weights[~labelled] == pytest.approx(np.tile([0, 0.7], ((~labelled).sum(), 1)))


def test_a_teacher_far_from_the_label_pulls_no_harder_than_the_bound(train: Problem) -> None:
    teacher = np.nan_to_num(train.rows.target) + np.where(np.arange(len(train.rows)) % 10 == 0, 50, 2)
    targets = distillation_targets(train.rows, teacher, DistillationConfig(teacher_weight=0.7, bound_quantile=0.5))
    labelled = ~np.isnan(train.rows.label)
    pull = targets.weights[labelled, 1] * np.abs(teacher - train.rows.target)[labelled]
    assert pull.max() == pytest.approx(0.7 * 2, rel=1e-3)


def test_the_mixture_has_the_fraction_of_trees_with_the_smallest_validation_error() -> None:
    label, scale = np.array([0, 10, np.nan, 20], np.float32), np.array([1, 1, 1, 4], np.float32)
    base, slowdown = np.zeros(4, np.float32), np.ones(4, np.float32)
    rows = Arrays(np.zeros((4, 1), np.float32), np.zeros((4, 1), np.int32), base, scale, label, slowdown)
    target = rows.target
    assert select_mixture(rows, target - 5, target + 5, TREE_FRACTIONS) == (0.5, {0.0: 10, 0.25: 5, 0.5: 0})
    assert select_mixture(rows, target - 5, target + 15, TREE_FRACTIONS)[0] == 0.25
    assert select_mixture(rows, target + 1, target + 100, TREE_FRACTIONS)[0] == 0
    near, far = (
        np.array([3, 3, 0, 0]),
        np.array([0, 0, 0, 2]),
    )  # 6 s of error in sum are less than 8, not 6 units than 2
    assert select_mixture(rows, target + near, target + far, (0.0, 1.0))[0] == 0


@pytest.mark.parametrize(("configured", "chosen", "epochs"), [(16, 9, 9), (16, 1, 3), (2, 1, 2)])
def test_a_student_of_an_earlier_day_is_trained_for_the_epochs_that_were_chosen(
    configured: int, chosen: int, epochs: int, make_problem: MakeProblem, validation: Problem
) -> None:
    small = make_problem(1_000, 5)
    config = TrainConfig(epochs=configured)
    data = DistillationData(small.rows, validation.rows, small.oracle, STUDENT, config, DistillationConfig())
    earlier = data.end_after(chosen)
    fitted = fit(STUDENT, earlier.optimization, earlier.train, earlier.validation)
    assert fitted.best_epoch == epochs and fitted.validation_rows == 0


def test_a_final_student_goes_on_from_the_one_that_validation_chose(
    make_problem: MakeProblem, validation: Problem
) -> None:
    learned, config = make_problem(3_000, 5), TrainConfig(epochs=8, learning_rate=0.02)
    data = DistillationData(learned.rows, validation.rows, learned.oracle, STUDENT, config, DistillationConfig())
    chosen = train_configuration({"weight": 0.5}, data.shard(0, 2))
    before = {name: value.clone() for name, value in chosen.network.state_dict().items()}
    final = train_final(({"weight": 0.5}, chosen.network), data, ONE_CORE)
    assert final.best_epoch == FURTHER.epochs and final.validation_rows == 0
    assert all(value.equal(before[name]) for name, value in chosen.network.state_dict().items())
    error = validation.rows.mean_absolute_error(predict(final.network, validation.rows))
    assert error < chosen.validation_error


def test_more_rows_than_a_training_should_see_get_fewer_epochs() -> None:
    assert [limit_epochs(16, rows, 7_000_000) for rows in (0, 400_000, 700_000, 2_000_000, 9_000_000)] == [
        16, 16, 10, 4, 3
    ]  # fmt: skip
    assert limit_epochs(2, 9_000_000, 7_000_000) == 2
