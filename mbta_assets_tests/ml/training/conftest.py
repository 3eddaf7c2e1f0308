"""A Ray cluster for all tests of this folder: starting one takes longer than most of what they run on it."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mbta_assets.ml.training.compute import ray_session
from mbta_assets.ml.training.training_data import TrainingData, TrainingRows
from mbta_assets_tests.ml.conftest import FEATURE_NAMES, Problem

CORES = (1, 2, 1)
"""Number of cores of the head and of the other nodes."""


class LocalRayCluster:
    """A head and two more nodes on this machine; a node that a test has killed is replaced before the next test."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        head = {"num_cpus": CORES[0], "include_dashboard": False}
        self._cluster: Any = Cluster(initialize_head=True, head_node_args=head, connect=False)
        self._nodes: list[Any] = [self._cluster.add_node(num_cpus=cores) for cores in CORES[1:]]
        self._cluster.wait_for_nodes()

    @property
    def address(self) -> str:
        """Return the address that drivers connect to."""
        return str(self._cluster.address)

    def replace_killed_nodes(self) -> None:
        """Add a node for each that was killed."""
        alive = self._cluster.list_all_nodes()
        for index, node in enumerate(self._nodes):
            if node not in alive:
                self._nodes[index] = self._cluster.add_node(num_cpus=CORES[index + 1])
        self._cluster.wait_for_nodes()

    def kill_first_busy_node(self, busy_nodes: Path) -> Callable[[], str]:
        """Kill the first node, other than the head, that `mark_node_busy` names in a directory.

        Return a function that waits until it is killed and returns its id.
        """
        nodes = {node.node_id: node for node in self._nodes}
        killed: list[str] = []

        def kill() -> None:
            deadline = time.monotonic() + 900
            while time.monotonic() < deadline and not killed:
                for node_id in nodes.keys() & {path.name for path in busy_nodes.iterdir()}:
                    self._cluster.remove_node(nodes[node_id], allow_graceful=False)  # as if its machine went down
                    killed.append(node_id)
                    break
                time.sleep(0.05)

        killer = threading.Thread(target=kill, daemon=True)
        killer.start()

        def wait() -> str:
            killer.join(timeout=910)
            assert killed, "no node was seen at work"
            return killed[0]

        return wait

    def shut_down(self) -> None:
        """End all nodes."""
        self._cluster.shutdown()


def mark_node_busy(directory: Path) -> None:
    """Create a file that is named by the id of the Ray node of this process."""
    from ray import get_runtime_context

    (directory / get_runtime_context().get_node_id()).touch()


@pytest.fixture(scope="session")
def shared_ray() -> Iterator[LocalRayCluster]:
    """Start the cluster, and end it after the last test."""
    cluster = LocalRayCluster()
    try:
        yield cluster
    finally:
        cluster.shut_down()


@pytest.fixture
def ray(shared_ray: LocalRayCluster) -> Iterator[LocalRayCluster]:
    """Yield the cluster with all of its nodes, and with this process as a driver."""
    shared_ray.replace_killed_nodes()
    with ray_session(shared_ray.address):
        yield shared_ray


@pytest.fixture(scope="session")
def training_data(train: Problem, validation: Problem) -> TrainingData:
    """Return the small problem as the data of a search, in which every row has a label."""
    labelled = [problem.rows.take(~np.isnan(problem.rows.label)) for problem in (train, validation)]
    train_rows, validation_rows = (
        TrainingRows.from_arrays(rows, {"lookup": rows.base, "now": rows.base}) for rows in labelled
    )
    return TrainingData(train_rows, validation_rows, FEATURE_NAMES, seed=3)
