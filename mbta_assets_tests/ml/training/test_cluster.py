"""A search on a Ray cluster of several nodes, one of which may be lost, has the outcome of trials run one by one."""

import time
from pathlib import Path
from typing import Any

import pytest

from mbta_assets.defs.models.xgboost_model import XGBoostConfig
from mbta_assets.ml.training import compute, tuning, xgboost_model
from mbta_assets.ml.training.compute import Resources
from mbta_assets.ml.training.hyperparameters import BoostingConfig
from mbta_assets.ml.training.training_data import TrainingData
from mbta_assets.ml.training.tuning import Halving
from mbta_assets.ml.training.xgboost_model import TrialData
from mbta_assets_tests.ml.training.conftest import CORES, LocalRayCluster, mark_node_busy
from mbta_assets_tests.support.dagster_dev import eventually

pytestmark = pytest.mark.xdist_group("ray")

TRIALS, SEED = 6, 3
BOOSTING = BoostingConfig(max_rounds=60, patience_rounds=60, rounds_per_step=20)
HALVING = Halving(grace=1, steps=BOOSTING.steps)


def draw_configurations() -> list[tuning.Configuration]:
    """Return the configurations of a search for trees."""
    return XGBoostConfig().space.build_search_space().draw_configurations(TRIALS, SEED)[:TRIALS]


def run_trials_one_by_one(folds: list[TrialData]) -> list[tuning.Result]:
    """Run each trial to its end in this process, then cut the curves where halving stops them."""
    configurations = draw_configurations()
    curves = [
        tuning.run_trials(xgboost_model.run_trial, configuration, folds)[0].curve for configuration in configurations
    ]
    stops = HALVING.stopping_steps(configurations, curves, [True] * TRIALS)
    assert any(stops), "halving stops no trial, so that there is nothing to compare"
    return [
        tuning.Result(index, configuration, curve[:stop])
        for index, (configuration, curve, stop) in enumerate(zip(configurations, curves, stops, strict=True))
    ]


def test_a_node_that_is_killed_costs_only_its_trial_and_the_outcome_is_the_same(
    ray: LocalRayCluster, training_data: TrainingData, tmp_path: Path
) -> None:
    from ray import cluster_resources

    def run_slow_trial(
        configuration: tuning.Configuration, data: TrialData, report: tuning.Report, resources: Resources
    ) -> None:
        """Run a trial of the search for trees slowly, so that a node can be lost in the middle of it."""
        mark_node_busy(tmp_path)

        def report_late(error: float) -> None:
            time.sleep(0.3)
            report(error)

        xgboost_model.run_trial(configuration, data, report_late, resources)

    assert cluster_resources()["CPU"] == sum(CORES)
    folds = [TrialData(training_data, BOOSTING), TrialData(training_data.subsample(500), BOOSTING)]
    wait_for_kill = ray.kill_first_busy_node(tmp_path)
    results = tuning.search(run_slow_trial, draw_configurations(), folds, HALVING)
    assert wait_for_kill()
    eventually("the head knows that the node is gone", 60, lambda: cluster_resources()["CPU"] < sum(CORES))
    assert results == run_trials_one_by_one(folds)


def test_parallel_tasks_survive_the_loss_of_a_node(ray: LocalRayCluster, tmp_path: Path) -> None:
    def multiply_slowly(item: int, data: int, resources: Resources) -> int:
        mark_node_busy(tmp_path)
        time.sleep(0.5)
        return item * data

    wait_for_kill = ray.kill_first_busy_node(tmp_path)
    assert compute.map_tasks(multiply_slowly, [(n, 10) for n in range(9)]) == [10 * n for n in range(9)]
    assert wait_for_kill()


def test_a_trial_gets_the_resources_that_are_requested_for_it(ray: LocalRayCluster) -> None:
    def report_cores(
        configuration: tuning.Configuration, data: Any, report: tuning.Report, resources: Resources
    ) -> None:
        from ray import get_runtime_context

        assigned = get_runtime_context().get_assigned_resources()["CPU"]
        assert assigned == resources.cpus
        report(assigned * 100 + configuration["n"])

    results = tuning.search(report_cores, [{"n": 1}, {"n": 2}], [None], Halving(grace=1, steps=1), Resources(cpus=2))
    assert [result.curve for result in results] == [[201], [202]]
