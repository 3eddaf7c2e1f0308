"""The searches for networks: what they draw from, and what a configuration means."""

from dataclasses import replace

import numpy as np
import pytest

from mbta_assets.ml.inference.arrays import Parts
from mbta_assets.ml.training import search_spaces
from mbta_assets.ml.training.network_weights import to_files
from mbta_assets.ml.training.onnx_export import to_onnx

SMALL = {**search_spaces.TEACHER, "hidden": [16, 8], "numeric": "linear_relu", "inputs": "all"}


@pytest.fixture(scope="module")
def parts(train, validation):
    names = ["month", *"bcdefgh", *"ijk"]
    return Parts({"lookup": train.rows}, {"lookup": validation.rows}, names, seed=3).labelled()


MANY_DAYS = 28


def test_a_longer_search_begins_like_a_shorter_one_and_another_seed_draws_others():
    assert search_spaces.teachers(12, 0, MANY_DAYS)[:7] == search_spaces.teachers(7, 0, MANY_DAYS)
    assert search_spaces.teachers(12, 1, MANY_DAYS) != search_spaces.teachers(12, 0, MANY_DAYS)
    assert len(search_spaces.teachers(12, 0, MANY_DAYS)) == 12


def test_on_few_days_no_teacher_reads_the_calendar_and_none_is_tried_twice():
    few, many = search_spaces.teachers(12, 0, 10), search_spaces.teachers(12, 0, MANY_DAYS)
    assert {configuration["inputs"] for configuration in few} == {"steady"}
    assert {configuration["inputs"] for configuration in many} == {"steady", "all"}
    assert len({str(configuration) for configuration in few}) == len(few) == 12


def test_the_original_network_is_among_the_first(train):
    assert search_spaces.ORIGINAL in search_spaces.teachers(8, 0, MANY_DAYS)
    network, training = search_spaces.configs(search_spaces.ORIGINAL, epochs=3)
    assert network.hidden == (128, 64, 32, 16) and network.dropout == 0.1 and network.numeric == "none"
    assert training.epochs == 3 and training.learning_rate == search_spaces.ORIGINAL["learning_rate"]


@pytest.mark.parametrize("most_bytes", [20_000, 40_000])
def test_students_are_no_larger_than_they_may_be(train, most_bytes):
    configurations = search_spaces.students(6, 0, train.rows, most_bytes)
    assert configurations
    for configuration in configurations:
        fitted = search_spaces.Network.fitted_to(search_spaces.configs(configuration)[0], train.rows)
        assert sum(map(len, to_files(fitted).values())) <= most_bytes


def test_where_no_student_is_small_enough_the_smallest_is_tried(train):
    (only,) = search_spaces.students(6, 0, train.rows, 10)
    assert search_spaces.size_bytes(only, train.rows) <= min(
        search_spaces.size_bytes(configuration, train.rows)
        for configuration in search_spaces.students(24, 0, train.rows, 10**6)
    )


def test_a_teacher_reads_the_calendar_only_where_its_configuration_says_so(parts):
    every = search_spaces.teacher(SMALL, (parts, 1)).network
    steady = search_spaces.teacher({**SMALL, "inputs": "steady"}, (parts, 1)).network
    assert every.features == 8 and steady.features == 7


def test_a_trial_reports_each_epoch_and_ends_where_the_training_does(parts):
    told: list[float] = []
    search_spaces.teacher_trial(SMALL, (parts, 2), told.append)
    fitted = search_spaces.teacher(SMALL, (parts, 2))
    assert told == list(fitted.history)


def test_a_student_of_weight_0_has_no_teacher(train, validation):
    configuration = {**search_spaces.STUDENT, "hidden": [8], "numeric": "none", "weight": 0.0}
    classroom = search_spaces.Classroom(train.rows, validation.rows, train.oracle, epochs=2, seed=0)
    misled = replace(classroom, teacher=train.oracle + 100)
    alone = [to_onnx(search_spaces.student(configuration, room).network) for room in (classroom, misled)]
    assert alone[0] == alone[1]
    taught = search_spaces.student({**configuration, "weight": 0.5}, classroom)
    assert to_onnx(taught.network) != alone[0]


def test_a_smaller_classroom_keeps_each_row_with_what_the_teacher_says_of_it(train, validation):
    classroom = search_spaces.Classroom(train.rows, validation.rows, train.rows.base, epochs=9, seed=0).smaller(100, 4)
    assert len(classroom.train) == 100 and classroom.epochs == 4
    assert np.array_equal(classroom.teacher, classroom.train.base)
