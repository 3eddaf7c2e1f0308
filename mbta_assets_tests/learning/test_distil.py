from dataclasses import replace

import numpy as np
import pytest

from mbta_assets.learning.distil import LessonConfig, best_teacher, distil, lesson
from mbta_assets.learning.network import NetworkConfig
from mbta_assets.learning.train import TrainConfig, fit

STUDENT = NetworkConfig(hidden=(32, 16), numeric="none", embedding_dim=2, spread_category=2)


def test_a_student_with_a_good_teacher_beats_the_same_network_without(problem, validation):
    few = problem(3_000, 5)
    config = TrainConfig(epochs=8)
    taught = distil(STUDENT, config, LessonConfig(), few.rows, validation.rows, few.oracle)
    untaught = fit(STUDENT, config, few.rows, validation.rows)
    assert taught.validation_mae < untaught.validation_mae


def test_rows_without_a_label_still_teach(problem, validation):
    rows = problem(6_000, 5).rows
    oracle = problem(6_000, 5).oracle
    hidden = replace(rows, label=np.where(np.arange(len(rows)) < 500, rows.label, np.float32(np.nan)))
    config = TrainConfig(epochs=6)
    taught = distil(STUDENT, config, LessonConfig(), hidden, validation.rows, oracle)
    untaught = fit(STUDENT, config, hidden, validation.rows)
    assert taught.validation_mae < 0.95 * untaught.validation_mae


def test_a_row_weighs_label_and_teacher_as_configured_and_an_unlabelled_one_the_teacher_alone(train):
    targets = lesson(train.rows, train.rows.base, LessonConfig(weight=0.7, bound_quantile=1))
    labelled = ~np.isnan(train.rows.label)
    assert targets.weights[labelled] == pytest.approx(np.tile([0.3, 0.7], (labelled.sum(), 1)))
    assert targets.weights[~labelled] == pytest.approx(np.tile([0, 0.7], ((~labelled).sum(), 1)))


def test_a_teacher_far_from_the_label_pulls_no_harder_than_the_bound(train):
    teacher = np.nan_to_num(train.rows.label) + np.where(np.arange(len(train.rows)) % 10 == 0, 500, 20)
    targets = lesson(train.rows, teacher.astype(np.float32), LessonConfig(weight=0.7, bound_quantile=0.5))
    labelled = ~np.isnan(train.rows.label)
    pull = targets.weights[labelled, 1] * np.abs(teacher - train.rows.label)[labelled]
    assert pull.max() == pytest.approx(0.7 * 20, rel=1e-3)


def test_the_mean_of_two_teachers_is_chosen_where_their_errors_cancel():
    label = np.array([0.0, 10.0, np.nan, 20.0])
    early, late, wild = label - 5, label + 5, label + 100
    assert best_teacher(label, {"early": early, "late": late, "wild": wild}) == ("early", "late")
    assert best_teacher(label, {"early": early, "wild": wild}) == ("early",)
