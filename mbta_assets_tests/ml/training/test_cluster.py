"""Tuning on a Ray cluster of several nodes: one may be lost, and the outcome is that of trials run one by one."""

import time
from pathlib import Path
from typing import Any

import pytest

from mbta_assets.ml.inference.arrays import Parts
from mbta_assets.ml.training import tuning, xgboost_trainer
from mbta_assets.ml.training.tuning import Halving, Resources
from mbta_assets_tests.ml.training.conftest import CORES, RayCluster, say_at_work
from mbta_assets_tests.support.dagster_dev import eventually

pytestmark = [pytest.mark.timeout(300), pytest.mark.xdist_group("ray")]

ROUNDS, TRIALS, SEED = 60, 6, 3
HALVING = Halving(grace=1, steps=ROUNDS // xgboost_trainer.ROUNDS_PER_STEP)


def _configurations() -> list[tuning.Configuration]:
    return xgboost_trainer.Space().configurations(TRIALS, SEED)


def one_by_one(parts: Parts) -> list[tuning.Result]:
    """Run each trial to its end in this process, then cut the curves where halving stops them."""
    configurations = _configurations()
    curves = [tuning.alone(xgboost_trainer.trial, one, (parts, ROUNDS))[0].curve for one in configurations]
    stops = HALVING.judged(curves, [True] * TRIALS)
    assert any(stops), "halving stops some trial, or there is nothing to compare"
    return [
        tuning.Result(index, configuration, curve[:stop])
        for index, (configuration, curve, stop) in enumerate(zip(configurations, curves, stops, strict=True))
    ]


def test_a_node_that_is_killed_costs_only_its_trial_and_the_outcome_is_the_same(
    ray: RayCluster, parts: Parts, tmp_path: Path
) -> None:
    from ray import cluster_resources

    def slow_trial(configuration: tuning.Configuration, data: Any, report: tuning.Report) -> None:
        """Run a trial of the search for trees that takes its time, so that a node can be lost in the middle of it."""
        say_at_work(tmp_path)

        def after_a_while(error: float) -> None:
            time.sleep(0.3)
            report(error)

        xgboost_trainer.trial(configuration, data, after_a_while)

    assert cluster_resources()["CPU"] == sum(CORES)
    killed = ray.kill_first_at_work(tmp_path)
    results = tuning.search(slow_trial, _configurations(), (parts, ROUNDS), HALVING)
    assert killed()
    eventually("the head has heard of it", 60, lambda: cluster_resources()["CPU"] < sum(CORES))
    assert results == one_by_one(parts)


def test_calls_side_by_side_survive_the_loss_of_a_node(ray: RayCluster, tmp_path: Path) -> None:
    def slowly(item: int, data: int) -> int:
        say_at_work(tmp_path)
        time.sleep(0.5)
        return item * data

    killed = ray.kill_first_at_work(tmp_path)
    assert tuning.each(slowly, list(range(9)), 10) == [10 * n for n in range(9)]
    assert killed()


def test_a_trial_has_the_resources_it_is_to_have(ray: RayCluster) -> None:
    def tells(configuration: tuning.Configuration, data: Any, report: tuning.Report) -> None:
        from ray import get_runtime_context

        report(get_runtime_context().get_assigned_resources()["CPU"] * 100 + configuration["n"])

    results = tuning.search(tells, [{"n": 1}, {"n": 2}], None, Halving(grace=1, steps=1), Resources(cpus=2))
    assert [result.curve for result in results] == [[201], [202]]
