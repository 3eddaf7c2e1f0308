"""One Ray cluster for all tests of this folder: starting one takes longer than most of what they do on it."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mbta_assets.ml.inference.arrays import Parts
from mbta_assets.ml.training import tuning
from mbta_assets_tests.ml.conftest import Problem

CORES = (1, 2, 1)
"""Of the head and of the cluster's other nodes."""
NAMES = [*"abcdefgh", *"ijk"]
"""Of the columns of a `Problem`."""


class RayCluster:
    """A head and two more nodes on this machine; a node that a test has killed is replaced before the next test."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        head = {"num_cpus": CORES[0], "include_dashboard": False}
        self._cluster: Any = Cluster(initialize_head=True, head_node_args=head, connect=False)
        self._nodes: list[Any] = [self._cluster.add_node(num_cpus=cores) for cores in CORES[1:]]
        self._cluster.wait_for_nodes()

    @property
    def address(self) -> str:
        """Where drivers connect to."""
        return str(self._cluster.address)

    def restore(self) -> None:
        """Replace the nodes that were killed."""
        alive = self._cluster.list_all_nodes()
        for index, node in enumerate(self._nodes):
            if node not in alive:
                self._nodes[index] = self._cluster.add_node(num_cpus=CORES[index + 1])
        self._cluster.wait_for_nodes()

    def kill_first_at_work(self, at_work: Path) -> Callable[[], str]:
        """Kill the first node, other than the head, that says in a directory that it is at work; see `say_at_work`.

        Return what waits for that and gives the id of the node.
        """
        nodes = {node.node_id: node for node in self._nodes}
        killed: list[str] = []

        def kill() -> None:
            deadline = time.monotonic() + 120
            while time.monotonic() < deadline and not killed:
                for name in nodes.keys() & {path.name for path in at_work.iterdir()}:
                    self._cluster.remove_node(nodes[name], allow_graceful=False)  # as if its machine went down
                    killed.append(name)
                    break
                time.sleep(0.05)

        killer = threading.Thread(target=kill, daemon=True)
        killer.start()

        def wait() -> str:
            killer.join(timeout=130)
            assert killed, "no node was seen at work"
            return killed[0]

        return wait

    def shutdown(self) -> None:
        """End all nodes."""
        self._cluster.shutdown()


def say_at_work(directory: Path) -> None:
    """Leave a file named by the Ray node of this process."""
    import ray

    (directory / ray.get_runtime_context().get_node_id()).touch()


@pytest.fixture(scope="session")
def started_ray() -> Iterator[RayCluster]:
    cluster = RayCluster()
    try:
        yield cluster
    finally:
        cluster.shutdown()


@pytest.fixture
def ray(started_ray: RayCluster) -> Iterator[RayCluster]:
    """The cluster, whole, with this process as its driver."""
    started_ray.restore()
    with tuning.ray_session(started_ray.address):
        yield started_ray


@pytest.fixture(scope="session")
def parts(train: Problem, validation: Problem) -> Parts:
    """The small problem as what a search learns from and is judged by: every row has a label."""
    known = [problem.rows.take(~np.isnan(problem.rows.label)) for problem in (train, validation)]
    return Parts(*(dict.fromkeys(("lookup", "now"), rows) for rows in known), NAMES, seed=3)
