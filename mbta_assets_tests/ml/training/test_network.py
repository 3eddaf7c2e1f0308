import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from mbta_assets.ml.inference.arrays import Arrays
from mbta_assets.ml.training.network import Network, NetworkConfig
from mbta_assets.ml.training.network_trainer import TrainConfig, fit, labels, predict
from mbta_assets.ml.training.network_weights import from_files, to_files

SMALL = NetworkConfig(hidden=(16,), numeric="none", embedding_dim=2)
SHORT = TrainConfig(epochs=2)


def digest(fitted):
    return to_files(fitted.network)


def test_a_network_comes_close_to_the_oracle(teacher, validation):
    base_error = np.nanmean(np.abs(validation.rows.target))
    assert teacher.validation_error < 1.1 * validation.oracle_error() < 0.8 * base_error


def test_preprocessing_is_fitted_on_the_training_part_alone(train, validation):
    network = Network.fitted_to(SMALL, train.rows)
    assert network.center.numpy() == pytest.approx(np.nanmedian(train.rows.numeric, axis=0))
    shifted = replace(validation.rows, numeric=validation.rows.numeric + 100)
    fitted = fit(SMALL, SHORT, train.rows, shifted).network
    assert all(getattr(fitted, name).equal(getattr(network, name)) for name in ("low", "high", "center", "width"))


def test_codes_out_of_range_mean_unknown(teacher, validation):
    def with_stop(code):
        codes = validation.rows.codes.copy()
        codes[:, 1] = code
        return predict(teacher.network, replace(validation.rows, codes=codes))

    unknown = with_stop(0)
    assert np.array_equal(with_stop(-1), unknown)
    assert np.array_equal(with_stop(1_000_000), unknown)
    assert not np.array_equal(with_stop(1), unknown)


def test_a_feature_never_missing_in_training_may_go_missing_and_counts_as_its_median(teacher, train, validation):
    def with_delay(value):
        numeric = validation.rows.numeric.copy()
        numeric[:, 0] = value
        return predict(teacher.network, replace(validation.rows, numeric=numeric))

    assert with_delay(np.nan) == pytest.approx(with_delay(np.median(train.rows.numeric[:, 0])), abs=1e-3)


@pytest.mark.parametrize("numeric", ["none", "piecewise_linear"])
def test_a_column_that_says_nothing_in_training_says_nothing_later(numeric, train, validation):
    def with_columns(rows, constant, absent):
        columns = [rows.numeric, np.full((len(rows), 1), constant), np.full((len(rows), 1), absent)]
        return replace(rows, numeric=np.hstack(columns).astype(np.float32))

    config = replace(SMALL, numeric=numeric)
    before, later = with_columns(validation.rows, 7, np.nan), with_columns(validation.rows, 1e6, 5)
    network = fit(config, SHORT, with_columns(train.rows, 7, np.nan), before).network
    assert np.isfinite(predict(network, before)).all()
    assert np.array_equal(predict(network, before), predict(network, later))


def test_beyond_the_training_range_the_prediction_stays_level(teacher, validation):
    def with_elapsed(seconds):
        numeric = validation.rows.numeric.copy()
        numeric[:, 1] = seconds
        return predict(teacher.network, replace(validation.rows, numeric=numeric))

    assert np.array_equal(with_elapsed(3_000), with_elapsed(3e9))
    assert not np.array_equal(with_elapsed(100), with_elapsed(3e9))


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(train, validation):
    first = fit(SMALL, SHORT, train.rows, validation.rows)
    torch.rand(1)
    again = fit(SMALL, SHORT, train.rows, validation.rows)
    other = fit(SMALL, replace(SHORT, seed=1), train.rows, validation.rows)
    assert digest(first) == digest(again) != digest(other)


def test_unlabelled_rows_are_not_trained_on(train, validation):
    unlabelled = np.isnan(train.rows.label)
    assert unlabelled.any() and not labels(train.rows).weights[unlabelled].any()
    absurd = replace(train.rows, base=np.where(unlabelled, np.float32(1e6), train.rows.base))
    assert digest(fit(SMALL, SHORT, absurd, validation.rows)) == digest(fit(SMALL, SHORT, train.rows, validation.rows))


def test_the_best_epoch_is_kept(train, validation):
    config = TrainConfig(epochs=6, learning_rate=0.1, patience=6)
    fitted = fit(SMALL, config, train.rows, validation.rows)
    assert len(fitted.history) == 6
    assert fitted.validation_error == min(fitted.history) == fitted.history[fitted.best_epoch - 1]


def test_training_ends_when_validation_stops_improving(train, validation):
    impatient = TrainConfig(epochs=50, learning_rate=0.3, patience=2)
    fitted = fit(SMALL, impatient, train.rows, validation.rows)
    assert len(fitted.history) == fitted.best_epoch + 2 < 50


def test_who_asks_is_told_the_error_after_each_epoch(train, validation):
    told = []
    fitted = fit(SMALL, SHORT, train.rows, validation.rows, on_epoch=lambda epoch, error: told.append((epoch, error)))
    assert told == list(enumerate(fitted.history, 1))


def test_a_training_that_diverges_says_so(train, validation):
    with pytest.raises(FloatingPointError, match="validation error nan after epoch 1"):
        fit(SMALL, TrainConfig(epochs=2, learning_rate=1e30), train.rows, validation.rows)


@pytest.mark.parametrize("numeric", ["none", "linear_relu", "periodic", "piecewise_linear"])
def test_a_network_comes_back_from_its_files_as_it_was(numeric, train, validation):
    fitted = fit(replace(SMALL, numeric=numeric, dropout=0.1), SHORT, train.rows, validation.rows)
    files = to_files(fitted.network)
    back = from_files(files)
    assert np.array_equal(predict(back, validation.rows), predict(fitted.network, validation.rows))
    assert to_files(back) == files


def test_the_shapes_of_the_dense_layers_can_be_read(teacher):
    assert [shape[0] for shape in json.loads(to_files(teacher.network)["network.json"])["layers"]] == [64, 32, 1]


def rows_with(*columns):
    """Rows of these numeric features, labelled by the first, without categories to speak of."""
    numeric = np.column_stack(columns).astype(np.float32)
    n = len(numeric)
    return Arrays(numeric, np.zeros((n, 1), np.int32), np.zeros(n, np.float32), np.ones(n, np.float32), numeric[:, 0])


def piecewise_linear(rows, bins=8):
    config = NetworkConfig(hidden=(8,), numeric="piecewise_linear", bins=bins)
    return Network.fitted_to(config, rows)


def test_ties_leave_a_feature_fewer_bins_and_a_constant_or_absent_one_a_single_bin():
    even = np.linspace(-1, 1, 800)
    mostly_zero = np.where(even < 0.6, 0, even)
    network = piecewise_linear(rows_with(even, even > 0, mostly_zero, np.full(800, 7), np.full(800, np.nan)))
    assert network.bins == [8, 1, 2, 1, 1]


def test_each_bin_holds_as_many_training_values_and_missing_ones_do_not_count():
    seconds = np.where(np.arange(9_000) % 3 == 0, np.nan, np.random.default_rng(0).lognormal(5, 1, 9_000))
    rows = rows_with(seconds)
    network = piecewise_linear(rows)
    encoding = network.embed_numeric.impl(network.scale(torch.from_numpy(rows.numeric))[:, :1])[:, 0]
    present = encoding[~torch.isnan(torch.from_numpy(rows.numeric[:, 0]))]
    reached = (present > 0).sum(dim=0)
    assert reached.diff().abs().numpy() == pytest.approx(np.full(7, 6_000 / 8), abs=60)


def test_a_kink_in_a_feature_is_learnt_where_a_linear_layer_alone_cannot():
    x = np.random.default_rng(0).uniform(-100, 100, 2_000)
    rows = replace(rows_with(x), label=np.abs(x / 100).astype(np.float32))
    config = NetworkConfig(hidden=(), numeric="piecewise_linear", numeric_dim=1, bins=4)
    training = TrainConfig(epochs=8, learning_rate=0.1)
    straight = fit(replace(config, numeric="none"), training, rows, rows)
    bent = fit(config, training, rows, rows)
    assert bent.validation_error < 0.5 * straight.validation_error
