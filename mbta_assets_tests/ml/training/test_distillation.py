from dataclasses import replace

import numpy as np
import pytest

from mbta_assets.ml.training.distillation import LessonConfig, best_mixture, lesson
from mbta_assets.ml.training.network import NetworkConfig
from mbta_assets.ml.training.network_trainer import TrainConfig, fit

STUDENT = NetworkConfig(hidden=(32, 16), numeric="none", embedding_dim=2)


def test_a_student_with_a_good_teacher_beats_the_same_network_without(problem, validation):
    few = problem(3_000, 5)
    config = TrainConfig(epochs=8)
    targets = lesson(few.rows, few.oracle, LessonConfig())
    taught = fit(STUDENT, config, few.rows, validation.rows, targets=targets)
    untaught = fit(STUDENT, config, few.rows, validation.rows)
    assert taught.validation_error < untaught.validation_error


def test_rows_without_a_label_still_teach(problem, validation):
    many = problem(6_000, 5)
    few_labels = np.where(np.arange(len(many.rows)) < 500, many.rows.label, np.float32(np.nan))
    hidden = replace(many.rows, label=few_labels)
    config = TrainConfig(epochs=6)
    targets = lesson(hidden, many.oracle, LessonConfig())
    taught = fit(STUDENT, config, hidden, validation.rows, targets=targets)
    untaught = fit(STUDENT, config, hidden, validation.rows)
    assert taught.validation_error < 0.95 * untaught.validation_error


def test_a_row_weighs_label_and_teacher_as_configured_and_an_unlabelled_one_the_teacher_alone(train):
    targets = lesson(train.rows, np.zeros(len(train.rows)), LessonConfig(weight=0.7, bound_quantile=1))
    labelled = ~np.isnan(train.rows.label)
    assert targets.weights[labelled] == pytest.approx(np.tile([0.3, 0.7], (labelled.sum(), 1)))
    assert targets.weights[~labelled] == pytest.approx(np.tile([0, 0.7], ((~labelled).sum(), 1)))


def test_a_teacher_far_from_the_label_pulls_no_harder_than_the_bound(train):
    teacher = np.nan_to_num(train.rows.target) + np.where(np.arange(len(train.rows)) % 10 == 0, 50, 2)
    targets = lesson(train.rows, teacher, LessonConfig(weight=0.7, bound_quantile=0.5))
    labelled = ~np.isnan(train.rows.label)
    pull = targets.weights[labelled, 1] * np.abs(teacher - train.rows.target)[labelled]
    assert pull.max() == pytest.approx(0.7 * 2, rel=1e-3)


def test_trees_have_the_share_in_the_teaching_that_validation_gives_them():
    label = np.array([0.0, 10.0, np.nan, 20.0])
    assert best_mixture(label, label - 5, label + 5) == (0.5, {0.0: 5, 0.25: 2.5, 0.5: 0})
    assert best_mixture(label, label - 5, label + 15)[0] == 0.25
    assert best_mixture(label, label + 1, label + 100)[0] == 0
