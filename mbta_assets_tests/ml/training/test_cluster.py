"""Tuning on a Ray cluster of several nodes: one may be lost, and the outcome is that of a single machine."""

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from mbta_assets.ml.inference.arrays import Parts
from mbta_assets.ml.training import tuning, xgboost_trainer
from mbta_assets.ml.training.tuning import Halving, Resources

pytestmark = pytest.mark.timeout(600)

ROUNDS, TRIALS, SEED = 60, 6, 3
HALVING = Halving(grace=2, steps=ROUNDS // xgboost_trainer.ROUNDS_PER_STEP)


@pytest.fixture(scope="module")
def parts(train, validation) -> Parts:
    names = [*"abcdefgh", *"ijk"]
    known = [problem.rows.take(~np.isnan(problem.rows.label)) for problem in (train, validation)]
    return Parts(*(dict.fromkeys(("lookup", "now"), rows) for rows in known), names, seed=SEED)


@pytest.fixture(scope="module")
def on_one_machine(parts: Parts) -> list[tuning.Result]:
    with tuning.ray_session(None):
        return tuning.search(xgboost_trainer.trial, _configurations(), (parts, ROUNDS), HALVING)


def _configurations() -> list[tuning.Configuration]:
    return xgboost_trainer.Space().configurations(TRIALS, SEED)


@pytest.fixture
def cluster() -> Iterator:
    """A head and two more nodes, a core each."""
    from ray.cluster_utils import Cluster

    running = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}, connect=False)
    try:
        for _ in range(2):
            running.add_node(num_cpus=1)
        running.wait_for_nodes()
        yield running
    finally:
        running.shutdown()


def test_a_node_that_is_killed_costs_only_its_trial_and_the_outcome_is_the_same(
    cluster, parts: Parts, on_one_machine: list[tuning.Result]
) -> None:
    import ray

    def slow_trial(configuration, data, report) -> None:
        """A trial of the search for trees that takes its time, so that a node can be lost in the middle of it."""

        def after_a_while(error: float) -> None:
            time.sleep(0.4)
            report(error)

        xgboost_trainer.trial(configuration, data, after_a_while)

    lost: list[float] = []

    def kill_one() -> None:
        time.sleep(6)
        lost.append(time.monotonic())
        cluster.remove_node(cluster.list_all_nodes()[-1], allow_graceful=False)

    with tuning.ray_session(cluster.address):
        assert ray.cluster_resources()["CPU"] == 3
        killer = threading.Thread(target=kill_one)
        killer.start()
        results = tuning.search(slow_trial, _configurations(), (parts, ROUNDS), HALVING)
        ended = time.monotonic()
        killer.join()
        known = time.monotonic()
        while ray.cluster_resources()["CPU"] != 2:  # the head may take a while to hear of it
            assert time.monotonic() - known < 60, "the cluster still counts the node that was killed"
            time.sleep(0.2)
    assert lost and lost[0] < ended
    assert results == on_one_machine
    assert tuning.winner(results).configuration == tuning.winner(on_one_machine).configuration


def test_calls_side_by_side_survive_the_loss_of_a_node(cluster) -> None:
    def slowly(item: int, data: int) -> int:
        time.sleep(1.5)
        return item * data

    with tuning.ray_session(cluster.address):
        killer = threading.Timer(2, lambda: cluster.remove_node(cluster.list_all_nodes()[-1], allow_graceful=False))
        killer.start()
        assert tuning.each(slowly, list(range(9)), 10) == [10 * n for n in range(9)]
        killer.join()


def test_a_trial_has_the_resources_it_is_to_have() -> None:
    def tells(configuration, data, report) -> None:
        import ray

        assigned = ray.get_runtime_context().get_assigned_resources()
        report(assigned["CPU"] * 100 + configuration["n"])

    with tuning.ray_session(None):
        results = tuning.search(tells, [{"n": 1}, {"n": 2}], None, Halving(grace=1, steps=1), Resources(cpus=2))
    assert [result.curve for result in results] == [[201], [202]]
