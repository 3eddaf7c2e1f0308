import json
from dataclasses import replace

import numpy as np
import pytest

from mbta_assets.defs.models.pruned_teacher import PruningConfig
from mbta_assets.ml.training.distillation import distillation_targets
from mbta_assets.ml.training.hyperparameters import NetworkConfig, TrainConfig
from mbta_assets.ml.training.network import Network, count_parameters
from mbta_assets.ml.training.network_trainer import Fitted, predict
from mbta_assets.ml.training.network_weights import from_files, to_files
from mbta_assets.ml.training.pruning import (
    UNPRUNED,
    Candidate,
    Cut,
    FineTuning,
    group_distances,
    make_candidate,
    select_candidate,
)
from mbta_assets.ml.training.sparsity import remove_neurons
from mbta_assets_tests.ml.conftest import Problem

pytestmark = pytest.mark.xdist_group("networks")

CUTS = (UNPRUNED, Cut(weights=0.6), Cut(weights=0.8), Cut(neurons=0.5), Cut(neurons=0.25, weights=0.6))
TRAINING = replace(
    PruningConfig().build_training(seed=0),
    optimization=TrainConfig(epochs=4, learning_rate=0.003, warmup_fraction=0.1),
)


@pytest.fixture(scope="module")
def candidates(teacher: Fitted, train: Problem, validation: Problem) -> dict[str, Candidate]:
    """Make a candidate of each of `CUTS`, by name."""
    targets = distillation_targets(train.rows, predict(teacher.network, train.rows), TRAINING.distillation)
    data = FineTuning(teacher.network, targets, TRAINING, train.rows, validation.rows)
    return {cut.name: make_candidate(cut, data) for cut in CUTS}


def select(*candidates: Candidate) -> Candidate:
    """Select a candidate with the default bounds."""
    return select_candidate(candidates, TRAINING.max_error_increase, TRAINING.preferred_size)


def test_removing_neurons_leaves_smaller_dense_layers_and_the_embeddings_as_they_were(teacher: Fitted) -> None:
    pruned = remove_neurons(teacher.network, 0.5, TRAINING.width_multiple)
    inputs = teacher.network.dense_layers()[0].in_features
    assert json.loads(to_files(pruned)["network.json"])["layers"] == [[32, inputs], [16, 32], [1, 16]]
    assert pruned.table.weight.equal(teacher.network.table.weight)
    assert count_parameters(pruned)["non_embedding"] < count_parameters(teacher.network)["non_embedding"] / 1.9


def test_a_network_with_neurons_removed_is_the_same_after_a_round_trip_through_its_files(
    candidates: dict[str, Candidate], validation: Problem
) -> None:
    network = candidates["neurons-50"].fitted.network
    assert np.array_equal(predict(from_files(to_files(network)), validation.rows), predict(network, validation.rows))


@pytest.mark.parametrize("sparsity", [0.6, 0.8])
def test_the_configured_fraction_of_dense_weights_is_zero_and_no_mask_is_left(
    candidates: dict[str, Candidate], sparsity: float
) -> None:
    network = candidates[f"weights-{100 * sparsity:.0f}"].fitted.network
    weights = np.concatenate([layer.weight.detach().numpy().ravel() for layer in network.dense_layers()])
    assert np.mean(weights == 0) == pytest.approx(sparsity, abs=1e-3)
    assert not [name for name in network.state_dict() if "mask" in name or "orig" in name]


def test_zeros_are_stored_sparse_and_survive_a_round_trip(
    candidates: dict[str, Candidate], validation: Problem
) -> None:
    network = candidates["weights-80"].fitted.network
    assert candidates["weights-80"].size_bytes < 0.6 * candidates["unpruned"].size_bytes
    assert np.array_equal(predict(from_files(to_files(network)), validation.rows), predict(network, validation.rows))


def test_half_the_parameters_are_as_good_as_the_teacher_trained_as_long(candidates: dict[str, Candidate]) -> None:
    selected = select(*candidates.values())
    assert selected.non_zero <= candidates["unpruned"].non_embedding / 2
    assert selected.fitted.validation_error <= 1.01 * candidates["unpruned"].fitted.validation_error


def test_pruning_leaves_the_teacher_as_it_was(
    teacher: Fitted, candidates: dict[str, Candidate], validation: Problem
) -> None:
    assert candidates
    assert teacher.network.config.hidden == (64, 32)
    error = validation.rows.mean_absolute_error(predict(teacher.network, validation.rows))
    assert error == pytest.approx(teacher.validation_error, rel=1e-6)


def scored(cut: Cut, errors: tuple[float, ...], non_zero: int, size_bytes: int) -> Candidate:
    """Return a candidate with these numbers and an untrained network, which selection does not look at."""
    network = Network(NetworkConfig(hidden=(), numeric="none"), features=1, cardinalities=[1], missing=[])
    fitted = Fitted(network, float(np.mean(errors)), 1, tuple(errors), 1)
    return Candidate(
        cut, fitted, errors, parameters=1200, non_embedding=1000, non_zero=non_zero, size_bytes=size_bytes, latency_us=1
    )


def test_the_smallest_accurate_candidate_of_half_the_parameters_is_selected() -> None:
    unpruned = scored(UNPRUNED, (10.0, 20.0), 1000, 4000)
    too_large = scored(Cut(neurons=0.25), (10.0, 20.0), 600, 900)
    halved = scored(Cut(neurons=0.5), (10.05, 20.0), 500, 2000)
    sparse = scored(Cut(weights=0.8), (10.09, 20.1), 200, 1500)
    inaccurate = scored(Cut(weights=0.9), (10.2, 20.0), 100, 800)
    assert select(unpruned, too_large, halved, sparse, inaccurate) is sparse
    assert select(unpruned, halved, replace(sparse, size_bytes=2000)) is halved
    assert select(unpruned, too_large, inaccurate) is too_large
    assert select(unpruned, inaccurate) is unpruned


def test_an_error_within_the_bound_on_average_but_not_at_each_distance_is_refused() -> None:
    unpruned = scored(UNPRUNED, (10.0, 20.0), 1000, 4000)
    uneven = scored(Cut(weights=0.8), (10.2, 19.0), 200, 1500)
    assert select(unpruned, uneven) is unpruned


def test_distances_with_few_rows_are_judged_with_further_ones() -> None:
    scale = np.repeat(np.array([5.0, 7.0, 9.0, 11.0, 13.0], np.float32), [500, 5, 480, 10, 5])
    groups = group_distances(scale)
    assert groups.tolist() == [0] * 500 + [1] * 500
    assert group_distances(scale[:3]).tolist() == [0] * 3
