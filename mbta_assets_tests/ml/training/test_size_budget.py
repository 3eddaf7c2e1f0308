"""How much of a bundle a network may take, and how much it takes."""

from pathlib import Path

import pytest

from mbta_assets.ml.training.hyperparameters import NetworkConfig, TrainConfig, apply_configuration
from mbta_assets.ml.training.int8_variants import quantize_weights
from mbta_assets.ml.training.network_trainer import fit
from mbta_assets.ml.training.onnx_export import to_onnx
from mbta_assets.ml.training.size_budget import SizeBudget, count_bytes
from mbta_assets.storage import bundle
from mbta_assets_tests.ml.conftest import Problem

pytestmark = pytest.mark.xdist_group("networks")


@pytest.mark.parametrize("numeric", ["none", "piecewise_linear"])
def test_the_size_of_a_configuration_is_that_of_its_trained_network_in_int8(
    numeric: str, train: Problem, validation: Problem
) -> None:
    configuration = {"hidden": [48, 24], "numeric": numeric, "bins": 8, "numeric_dim": 2, "weight": 0.5}
    architecture, _ = apply_configuration(configuration, NetworkConfig(), TrainConfig())
    network = fit(architecture, TrainConfig(epochs=1), train.rows, validation.rows).network
    size = len(quantize_weights(to_onnx(network)))
    assert count_bytes(configuration, NetworkConfig(), train.rows) == pytest.approx(size, rel=0.01)


def test_a_network_has_what_other_files_leave_of_the_bundle_but_never_less_than_the_minimum(tmp_path: Path) -> None:
    teacher = bundle.write(tmp_path, "network", {"weights": bytes(800_000)})
    budget = SizeBudget(60_000, 1 / 8, 20_000)
    assert budget.for_network(teacher, 25_000) == 35_000
    assert budget.for_network(teacher, 55_000) == budget.for_network(teacher, 80_000) == 20_000
    assert budget.for_network(teacher, 120_000) == 30_000
    assert budget.for_network(teacher, 900_000) == 60_000
    small_teacher = bundle.write(tmp_path / "small", "network", {"weights": bytes(320_000)})
    assert 15_000 < SizeBudget(60_000, 1 / 8, 1).for_network(small_teacher, 25_000) < 16_000
