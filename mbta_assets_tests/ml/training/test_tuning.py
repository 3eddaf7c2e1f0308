"""A search selects the same configuration whatever order results arrive in."""

import itertools
import logging
import random
import re
from dataclasses import replace
from typing import Any

import pytest

from mbta_assets.ml.training import compute, tuning
from mbta_assets.ml.training.compute import Resources
from mbta_assets.ml.training.executor import TrainingExecutor
from mbta_assets.ml.training.tuning import Halving
from mbta_assets.progress import lines
from mbta_assets_tests.ml.training.conftest import LocalRayCluster

CURVES: list[tuning.Curve] = [
    [9, 8, 7, 6], [5, 5, 5, 5], [7, 7, 2, 1], [6, 6, 6, 6], [4, 4, 4, 4], [8, 8, 8, 0]
]  # fmt: skip
HALVING = Halving(grace=1, factor=2, steps=4)


CONFIGURATIONS: list[tuning.Configuration] = [{"base": name} for name in "aababb"]


def simulate_search(seed: int, halving: Halving) -> list[int]:
    """Return the number of steps of each trial, when two workers report in a random order."""
    order = random.Random(seed)
    reported: list[tuning.Curve] = [[] for _ in CURVES]
    ended = [False] * len(CURVES)
    waiting, running = list(range(len(CURVES))), list[int]()
    while waiting or running:
        while waiting and len(running) < 2:
            running.append(waiting.pop(0))
        index = order.choice(running)
        reported[index].append(CURVES[index][len(reported[index])])
        stopped = halving.stopping_steps(CONFIGURATIONS, reported, ended)[index] is not None
        if stopped or len(reported[index]) == halving.steps:
            ended[index] = True
            running.remove(index)
    stops = halving.stopping_steps(CONFIGURATIONS, reported, [True] * len(CURVES))
    return [len(curve[:stop]) for curve, stop in zip(reported, stops, strict=True)]


@pytest.mark.parametrize("within", [None, "base"])
def test_trials_are_stopped_at_the_same_steps_in_any_order(within: str | None) -> None:
    outcomes = {tuple(simulate_search(seed, replace(HALVING, within=within))) for seed in range(50)}
    assert len(outcomes) == 1
    lengths = outcomes.pop()
    assert min(lengths) < HALVING.steps == max(lengths)


def test_the_best_trial_at_every_rung_is_never_stopped() -> None:
    for permutation in itertools.permutations(CURVES[:4]):
        curves = list(permutation)
        stops = HALVING.stopping_steps(CONFIGURATIONS[:4], curves, [True] * 4)
        assert stops[curves.index(CURVES[1])] is None or min(CURVES[1]) > min(min(curve) for curve in curves)


def test_groups_of_configurations_are_stopped_as_if_each_were_searched_alone() -> None:
    stops = replace(HALVING, within="base").stopping_steps(CONFIGURATIONS, CURVES, [True] * len(CURVES))
    for group in "ab":
        members = [index for index, configuration in enumerate(CONFIGURATIONS) if configuration["base"] == group]
        alone = HALVING.stopping_steps(
            [CONFIGURATIONS[index] for index in members], [CURVES[index] for index in members], [True] * len(members)
        )
        assert [stops[index] for index in members] == alone
    assert stops != HALVING.stopping_steps(CONFIGURATIONS, CURVES, [True] * len(CURVES))


def test_a_configuration_has_the_mean_error_of_its_folds_as_far_as_all_have_come() -> None:
    curves = [[9.0, 6.0, 6.0, 3.0], [4.0, 2.0], [5.0, 1.0, 3.0]]
    assert tuning.mean_curve(curves, [False, False, False]) == [6, 3]
    assert tuning.mean_curve(curves, [False, True, False]) == [6, 3, pytest.approx(11 / 3)]
    assert tuning.mean_curve(curves, [True, True, True]) == [6, 3, pytest.approx(11 / 3), 2]
    assert tuning.mean_curve([*curves, []], [True, True, True, False]) == []


@pytest.mark.integration
@pytest.mark.xdist_group("ray")
def test_ray_runs_the_trials_and_reports_the_error_of_one_that_failed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(lines, "LINE_SECONDS", 0.0)
    caplog.set_level(logging.INFO, lines.logger.name)
    # A new local cluster would turn on token authentication in this process, which the shared cluster does not use.
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")

    def count_down(configuration: tuning.Configuration, data: Any, report: tuning.Report, resources: Resources) -> None:
        for step in range(8):
            report(data[configuration["name"]] - step * configuration["slope"])

    def fail(configuration: tuning.Configuration, data: Any, report: tuning.Report, resources: Resources) -> None:
        raise ValueError("no such column")

    configurations = [{"name": "a", "slope": 1}, {"name": "b", "slope": 2}, {"name": "a", "slope": 3}]
    halving = Halving(grace=2, factor=2, steps=8)
    with compute.ray_session(None):
        results = tuning.search(count_down, configurations, [{"a": 100.0, "b": 90.0}, {"a": 80.0, "b": 50.0}], halving)
        assert tuning.best_result(results).index == 1
        *progress, end = caplog.messages
        assert any(re.match(r"search: [1-5] of 6 trials, .*, best error \d+\.\d s", line) for line in progress)
        assert re.fullmatch(r"search: 6 trials in \d+ s, best error 56\.0 s", end)
        assert results[1].curve == [70.0 - 2 * step for step in range(8)]
        only = configurations[1:2]
        folds = [{"b": 90.0}, {"b": 40.0}]
        assert tuning.search(count_down, only, folds, halving) == tuning.run_trials(count_down, only[0], folds)
        with pytest.raises(RuntimeError, match="no such column"):
            tuning.search(fail, configurations[:1], [None], halving)
    with pytest.raises(RuntimeError, match="no such column"):
        tuning.run_trials(fail, configurations[0], [None])


@pytest.mark.integration
@pytest.mark.xdist_group("ray")
def test_workers_that_this_machine_can_never_start_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # see the test above
    with compute.ray_session(None):
        compute.require_resources(Resources(cpus=1), workers=1)
        with pytest.raises(ValueError, match="needs 100000 Ray CPUs"):
            compute.require_resources(Resources(cpus=50_000), workers=2)
    executor = TrainingExecutor(trial_resources=Resources(cpus=1, gpus=1_000))
    with pytest.raises(ValueError, match="lower MBTA_TRIAL_GPUS or the number of workers"):
        executor.train_networks(lambda *_: None, [(None, None)])


@pytest.mark.xdist_group("ray")
def test_parallel_tasks_return_their_values_in_order(ray: LocalRayCluster) -> None:
    def look_up(item: str, data: dict[str, int], resources: Resources) -> int:
        return data[item]

    data, other = {"a": 1, "b": 2}, {"a": 3}
    assert compute.map_tasks(look_up, [("b", data), ("a", other), ("a", data), ("b", data)]) == [2, 3, 1, 2]
