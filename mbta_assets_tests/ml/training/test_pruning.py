import json
from dataclasses import replace

import numpy as np
import pytest

from mbta_assets.ml.training.distillation import LessonConfig, lesson
from mbta_assets.ml.training.network import parameters
from mbta_assets.ml.training.network_trainer import Fitted, TrainConfig, predict
from mbta_assets.ml.training.network_weights import from_files, to_files
from mbta_assets.ml.training.pruning import Candidate, Cut, candidate, choose, without_neurons
from mbta_assets_tests.ml.conftest import Problem

CUTS = (Cut(), Cut(weights=0.6), Cut(weights=0.8), Cut(neurons=0.5), Cut(neurons=0.25, weights=0.6))
FINE_TUNING = TrainConfig(epochs=4, learning_rate=0.003, warmup=0.1)


@pytest.fixture(scope="module")
def found(teacher: Fitted, train: Problem, validation: Problem) -> dict[str, Candidate]:
    targets = lesson(train.rows, predict(teacher.network, train.rows), LessonConfig())
    return {
        cut.name: candidate(cut, teacher.network, targets, FINE_TUNING, train.rows, validation.rows) for cut in CUTS
    }


def test_removing_neurons_leaves_smaller_dense_layers_and_the_embeddings_as_they_were(teacher: Fitted) -> None:
    pruned = without_neurons(teacher.network, 0.5)
    inputs = teacher.network.dense_layers()[0].in_features
    assert json.loads(to_files(pruned)["network.json"])["layers"] == [[32, inputs], [16, 32], [1, 16]]
    assert pruned.table.weight.equal(teacher.network.table.weight)
    assert parameters(pruned)["non_embedding"] < parameters(teacher.network)["non_embedding"] / 1.9


def test_a_network_without_neurons_comes_back_from_its_files(found: dict[str, Candidate], validation: Problem) -> None:
    network = found["neurons-50"].fitted.network
    assert np.array_equal(predict(from_files(to_files(network)), validation.rows), predict(network, validation.rows))


@pytest.mark.parametrize("share", [0.6, 0.8])
def test_the_wanted_share_of_dense_weights_is_zero_and_no_mask_is_left(
    found: dict[str, Candidate], share: float
) -> None:
    network = found[f"weights-{share:.0%}".rstrip("%")].fitted.network
    weights = np.concatenate([layer.weight.detach().numpy().ravel() for layer in network.dense_layers()])
    assert np.mean(weights == 0) == pytest.approx(share, abs=1e-3)
    assert not [name for name in network.state_dict() if "mask" in name or "orig" in name]


def test_zeros_are_stored_sparse_and_come_back(found: dict[str, Candidate], validation: Problem) -> None:
    network = found["weights-80"].fitted.network
    assert found["weights-80"].size_bytes < 0.6 * found["unpruned"].size_bytes
    assert np.array_equal(predict(from_files(to_files(network)), validation.rows), predict(network, validation.rows))


def test_half_the_parameters_are_as_good_as_the_teacher_trained_as_long(found: dict[str, Candidate]) -> None:
    chosen = choose(list(found.values()))
    assert chosen.non_zero <= found["unpruned"].non_embedding / 2
    assert chosen.fitted.validation_error <= 1.01 * found["unpruned"].fitted.validation_error


def test_pruning_leaves_the_teacher_as_it_was(
    teacher: Fitted, found: dict[str, Candidate], validation: Problem
) -> None:
    assert teacher.network.config.hidden == (64, 32)
    error = np.nanmean(np.abs(predict(teacher.network, validation.rows) - validation.rows.target), dtype=np.float64)
    assert error == pytest.approx(teacher.validation_error, rel=1e-6)


def judged(cut: Cut, errors: tuple[float, ...], non_zero: int, size_bytes: int) -> Candidate:
    # Candidates are chosen by numbers alone, without a look at their networks.
    fitted = Fitted(None, float(np.mean(errors)), tuple(errors), 1)  # type: ignore[arg-type]
    return Candidate(
        cut, fitted, errors, parameters=1200, non_embedding=1000, non_zero=non_zero, size_bytes=size_bytes, latency_us=1
    )


def test_the_smallest_of_the_accurate_and_halved_is_chosen() -> None:
    uncut = judged(Cut(), (10.0, 20.0), 1000, 4000)
    nearly = judged(Cut(neurons=0.25), (10.0, 20.0), 600, 900)
    halved = judged(Cut(neurons=0.5), (10.05, 20.0), 500, 2000)
    sparse = judged(Cut(weights=0.8), (10.09, 20.1), 200, 1500)
    inaccurate = judged(Cut(weights=0.9), (10.2, 20.0), 100, 800)
    everything = [uncut, nearly, halved, sparse, inaccurate]
    assert choose(everything) is sparse
    assert choose([uncut, halved, replace(sparse, size_bytes=2000)]) is halved
    assert choose([uncut, nearly, inaccurate]) is nearly
    assert choose([uncut, inaccurate]) is uncut


def test_an_error_within_bounds_on_average_but_not_at_each_distance_is_refused() -> None:
    uncut = judged(Cut(), (10.0, 20.0), 1000, 4000)
    lopsided = judged(Cut(weights=0.8), (10.2, 19.0), 200, 1500)
    assert choose([uncut, lopsided]) is uncut
