import copy
import json
import logging
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rtdl_num_embeddings import PiecewiseLinearEmbeddings

from mbta_assets.ml.inference.arrays import Arrays
from mbta_assets.ml.training.hyperparameters import NetworkConfig, NumericEmbedding, TrainConfig
from mbta_assets.ml.training.network import Network
from mbta_assets.ml.training.network_trainer import Fitted, fine_tune, fit, label_targets, predict
from mbta_assets.ml.training.network_weights import from_files, to_files
from mbta_assets.progress import lines
from mbta_assets_tests.ml.conftest import Problem

pytestmark = pytest.mark.xdist_group("networks")

SMALL = NetworkConfig(hidden=(16,), numeric="none", embedding_dim=2)
SHORT = TrainConfig(epochs=2)


def train_to_files(train: Arrays, validation: Arrays, optimization: TrainConfig = SHORT) -> dict[str, bytes]:
    """Train a small network and return its files."""
    return to_files(fit(SMALL, optimization, train, validation).network)


def predict_with(network: Network, rows: Arrays, column: int, value: float) -> np.ndarray:
    """Predict the rows with one value in a numeric column."""
    numeric = rows.numeric.copy()
    numeric[:, column] = value
    return predict(network, replace(rows, numeric=numeric))


def test_a_network_comes_close_to_the_oracle(teacher: Fitted, validation: Problem) -> None:
    base_error = validation.rows.mean_absolute_error(np.zeros(len(validation.rows)))
    assert teacher.validation_error < 1.1 * validation.oracle_error() < 0.8 * base_error


def test_errors_are_seconds_over_the_labelled_rows_and_a_missing_prediction_is_not_passed_over() -> None:
    n = 4
    rows = Arrays(
        np.zeros((n, 1), np.float32),
        np.zeros((n, 1), np.int32),
        base=np.full(n, 100, np.float32),
        scale=np.array([10, 100, 1, 1], np.float32),
        label=np.array([110, 50, np.nan, 100], np.float32),
        slowdown=np.array([1, 1, 1, 2], np.float32),
    )
    residual = np.array([0.0, 0.0, 7.0, 3.0])
    assert rows.mean_absolute_error(residual) == pytest.approx((10 + 50 + 6) / 3)
    assert np.isnan(rows.mean_absolute_error(np.array([0.0, np.nan, 0.0, 0.0])))


def test_preprocessing_is_fitted_on_the_training_part_alone(train: Problem, validation: Problem) -> None:
    network = Network.from_training_rows(SMALL, train.rows)
    assert network.center.numpy() == pytest.approx(np.nanmedian(train.rows.numeric, axis=0))
    shifted = replace(validation.rows, numeric=validation.rows.numeric + 100)
    fitted = fit(SMALL, SHORT, train.rows, shifted).network
    assert all(getattr(fitted, name).equal(getattr(network, name)) for name in ("low", "high", "center", "width"))


def test_codes_out_of_range_mean_unknown(teacher: Fitted, validation: Problem) -> None:
    def with_stop(code: int) -> np.ndarray:
        codes = validation.rows.codes.copy()
        codes[:, 1] = code
        return predict(teacher.network, replace(validation.rows, codes=codes))

    unknown = with_stop(0)
    assert np.array_equal(with_stop(-1), unknown)
    assert np.array_equal(with_stop(1_000_000), unknown)
    assert not np.array_equal(with_stop(1), unknown)


def test_a_feature_never_missing_in_training_may_go_missing_and_counts_as_its_median(
    teacher: Fitted, train: Problem, validation: Problem
) -> None:
    median = float(np.median(train.rows.numeric[:, 0]))
    missing = predict_with(teacher.network, validation.rows, column=0, value=np.nan)
    assert missing == pytest.approx(predict_with(teacher.network, validation.rows, column=0, value=median), abs=1e-3)


@pytest.mark.parametrize("numeric", ["none", "piecewise_linear"])
def test_a_column_that_is_constant_or_absent_in_training_has_no_effect_later(
    numeric: NumericEmbedding, train: Problem, validation: Problem
) -> None:
    def with_columns(rows: Arrays, constant: float, absent: float) -> Arrays:
        columns = [rows.numeric, np.full((len(rows), 1), constant), np.full((len(rows), 1), absent)]
        return replace(rows, numeric=np.hstack(columns).astype(np.float32))

    config = replace(SMALL, numeric=numeric)
    before, later = with_columns(validation.rows, 7, np.nan), with_columns(validation.rows, 1e6, 5)
    network = fit(config, SHORT, with_columns(train.rows, 7, np.nan), before).network
    assert np.isfinite(predict(network, before)).all()
    assert np.array_equal(predict(network, before), predict(network, later))


def test_beyond_the_training_range_the_prediction_stays_level(teacher: Fitted, validation: Problem) -> None:
    def with_elapsed(seconds: float) -> np.ndarray:
        return predict_with(teacher.network, validation.rows, column=1, value=seconds)

    assert np.array_equal(with_elapsed(3_000), with_elapsed(3e9))
    assert not np.array_equal(with_elapsed(100), with_elapsed(3e9))


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(train: Problem, validation: Problem) -> None:
    first = train_to_files(train.rows, validation.rows)
    torch.rand(1)
    second = train_to_files(train.rows, validation.rows)
    other = train_to_files(train.rows, validation.rows, replace(SHORT, seed=1))
    assert first == second != other


def test_unlabelled_rows_are_not_trained_on(train: Problem, validation: Problem) -> None:
    unlabelled = np.isnan(train.rows.label)
    assert unlabelled.any() and not label_targets(train.rows).weights[unlabelled].any()
    absurd = replace(train.rows, base=np.where(unlabelled, np.float32(1e6), train.rows.base))
    assert train_to_files(absurd, validation.rows) == train_to_files(train.rows, validation.rows)


def test_the_best_epoch_is_kept(train: Problem, validation: Problem) -> None:
    config = TrainConfig(epochs=6, learning_rate=0.1, patience=6)
    fitted = fit(SMALL, config, train.rows, validation.rows)
    assert len(fitted.history) == 6
    assert fitted.validation_error == min(fitted.history) == fitted.history[fitted.best_epoch - 1]


@pytest.mark.parametrize("n_validation", [None, 0])
@pytest.mark.parametrize("decay", [0.5, 0.85])
def test_averaged_weights_are_a_moving_average_of_those_of_all_steps(
    decay: float, n_validation: int | None, train: Problem, validation: Problem
) -> None:
    held_out = validation.rows.take(np.arange(len(validation.rows))[:n_validation])
    steps = list[dict[str, torch.Tensor]]()
    untrained = Network.from_training_rows(SMALL, train.rows)
    trained, averaged = copy.deepcopy(untrained), copy.deepcopy(untrained)

    def keep_weights(*_: int) -> None:
        steps.append({name: value.detach().clone() for name, value in trained.named_parameters()})

    config = TrainConfig(epochs=1)
    fine_tune(trained, config, train.rows, held_out, on_step=keep_weights)
    keep_weights()
    fitted = fine_tune(averaged, replace(config, average_decay=decay), train.rows, held_out)
    for name, value in averaged.named_parameters():
        expected = steps[1][name]  # the first are those before any step
        for weights in steps[2:]:
            expected = decay * expected + (1 - decay) * weights[name]
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-6)
    if len(held_out):
        assert fitted.validation_error == held_out.mean_absolute_error(predict(averaged, held_out))


def test_training_ends_when_validation_stops_improving(train: Problem, validation: Problem) -> None:
    impatient = TrainConfig(epochs=50, learning_rate=0.3, patience=2)
    fitted = fit(SMALL, impatient, train.rows, validation.rows)
    assert len(fitted.history) == fitted.best_epoch + 2 < 50


def test_the_callback_gets_the_error_after_each_epoch(train: Problem, validation: Problem) -> None:
    reported = list[tuple[int, float]]()
    fitted = fit(
        SMALL, SHORT, train.rows, validation.rows, on_epoch=lambda epoch, error: reported.append((epoch, error))
    )
    assert reported == list(enumerate(fitted.history, 1))


def test_each_epoch_and_the_end_are_logged(
    train: Problem, validation: Problem, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(lines, "LINE_SECONDS", 0.0)
    caplog.set_level(logging.INFO, lines.logger.name)
    fitted = fit(SMALL, SHORT, train.rows, validation.rows)
    *epochs, end = caplog.messages
    for number, (line, error) in enumerate(zip(epochs, fitted.history, strict=True), 1):
        assert line.startswith(f"network: {number} of {SHORT.epochs} epochs, ")
        assert line.endswith(f", validation error {error:.1f} s")
    assert re.fullmatch(rf"network: {SHORT.epochs} epochs in \d+ s, validation error .* s after \d+", end)
    caplog.clear()
    fit(SMALL, SHORT, train.rows, validation.rows.take(np.arange(0)))
    assert len(caplog.messages) == SHORT.epochs + 1


@pytest.mark.parametrize("n_validation", [0, 1000])
def test_a_training_that_diverges_is_an_error(n_validation: int, train: Problem, validation: Problem) -> None:
    rows = validation.rows.take(np.arange(n_validation))
    with pytest.raises(FloatingPointError, match="diverged: .* nan"):
        fit(SMALL, TrainConfig(epochs=2, learning_rate=1e30), train.rows, rows)


def test_a_training_without_validation_rows_gives_the_network_of_the_last_epoch(
    train: Problem, validation: Problem
) -> None:
    held_out = fit(SMALL, SHORT, train.rows, validation.rows)
    assert held_out.best_epoch == SHORT.epochs, "another epoch is the best, so that there is nothing to compare"
    final = held_out.replace_network(fit(SMALL, SHORT, train.rows, validation.rows.take(np.arange(0))))
    assert to_files(final.network) == to_files(held_out.network)
    assert final.validation_error == held_out.validation_error and final.validation_rows > 0


@pytest.mark.parametrize("numeric", ["none", "linear_relu", "periodic", "piecewise_linear"])
def test_a_network_survives_a_round_trip_through_its_files(
    numeric: NumericEmbedding, train: Problem, validation: Problem
) -> None:
    fitted = fit(replace(SMALL, numeric=numeric, dropout=0.1), SHORT, train.rows, validation.rows)
    files = to_files(fitted.network)
    restored = from_files(files)
    assert np.array_equal(predict(restored, validation.rows), predict(fitted.network, validation.rows))
    assert to_files(restored) == files


def test_the_files_list_the_shapes_of_the_dense_layers(teacher: Fitted) -> None:
    assert [shape[0] for shape in json.loads(to_files(teacher.network)["network.json"])["layers"]] == [64, 32, 1]


def make_rows(*columns: Any) -> Arrays:
    """Return rows of these numeric columns (n,), labelled by the first, with a category that is always unknown."""
    numeric = np.column_stack(columns).astype(np.float32)
    n = len(numeric)
    zeros, ones = np.zeros(n, np.float32), np.ones(n, np.float32)
    return Arrays(numeric, np.zeros((n, 1), np.int32), zeros, ones, numeric[:, 0], ones)


def create_piecewise_linear(rows: Arrays) -> Network:
    """Create an untrained network with at most 8 bins for each feature of the rows."""
    config = NetworkConfig(hidden=(8,), numeric="piecewise_linear", bins=8)
    return Network.from_training_rows(config, rows)


def test_ties_leave_a_feature_fewer_bins_and_a_constant_or_absent_one_a_single_bin() -> None:
    even = np.linspace(-1, 1, 800)
    mostly_zero = np.where(even < 0.6, 0, even)
    rows = make_rows(even, even > 0, mostly_zero, np.full(800, 7), np.full(800, np.nan))
    assert create_piecewise_linear(rows).bins == [8, 1, 2, 1, 1]


def test_each_bin_holds_as_many_training_values_and_missing_ones_do_not_count() -> None:
    seconds = np.where(np.arange(9_000) % 3 == 0, np.nan, np.random.default_rng(0).lognormal(5, 1, 9_000))
    rows = make_rows(seconds)
    network: Any = create_piecewise_linear(rows)
    encoding = network.embed_numeric.impl(network.scale(torch.from_numpy(rows.numeric))[:, :1])[:, 0]
    present = encoding[~torch.isnan(torch.from_numpy(rows.numeric[:, 0]))]
    reached = (present > 0).sum(dim=0)
    assert reached.diff().abs().numpy() == pytest.approx(np.full(7, 6_000 / 8), abs=60)


@pytest.mark.filterwarnings("ignore:.*just two bin edges")
@given(st.lists(st.integers(1, 6), min_size=1, max_size=5), st.integers(0, 2**32 - 1))
def test_bins_are_filled_as_by_the_library(bins: list[int], seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    edges = [(0.01 + torch.rand(n + 1, generator=random)).cumsum(0) - 2 for n in bins]
    network = Network(NetworkConfig(hidden=(), numeric="piecewise_linear"), len(bins), [1], [], edges)
    of_network: Any = network.embed_numeric
    of_library = PiecewiseLinearEmbeddings(edges, network.config.numeric_dim, activation=False, version="B")
    torch.nn.init.normal_(of_network.linear.weight, generator=random)
    of_library.load_state_dict(of_network.state_dict())
    scaled = 4 * torch.randn(32, len(bins), generator=random)
    assert torch.equal(of_network(scaled), of_library(scaled))


def test_a_kink_in_a_feature_is_learned_where_a_linear_layer_alone_cannot() -> None:
    x = np.random.default_rng(0).uniform(-100, 100, 2_000)
    rows = replace(make_rows(x), label=np.abs(x / 100).astype(np.float32))
    piecewise_linear = NetworkConfig(hidden=(), numeric="piecewise_linear", numeric_dim=1, bins=4)
    training = TrainConfig(epochs=8, learning_rate=0.1)
    linear = fit(replace(piecewise_linear, numeric="none"), training, rows, rows)
    bent = fit(piecewise_linear, training, rows, rows)
    assert bent.validation_error < 0.5 * linear.validation_error
