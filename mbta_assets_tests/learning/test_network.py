import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from mbta_assets.learning.network import Network, NetworkConfig
from mbta_assets.learning.train import TrainConfig, fit, labels, predict
from mbta_assets.learning.weights import from_files, to_files

SMALL = NetworkConfig(hidden=(16,), numeric="none", embedding_dim=2, spread_category=2)
SHORT = TrainConfig(epochs=2)


def digest(fitted):
    return to_files(fitted.network)


def test_a_network_comes_close_to_the_oracle(teacher, validation):
    labelled = ~np.isnan(validation.rows.label)
    base_mae = np.abs(validation.rows.label - validation.rows.base)[labelled].mean()
    assert teacher.validation_mae < 1.1 * validation.oracle_mae() < 0.8 * base_mae


def test_preprocessing_is_fitted_on_the_training_part_alone(train, validation):
    network = Network.fitted_to(SMALL, train.rows)
    assert network.center.numpy() == pytest.approx(np.nanmedian(train.rows.numeric, axis=0))
    shifted = replace(validation.rows, numeric=validation.rows.numeric + 100)
    fitted = fit(SMALL, SHORT, train.rows, shifted).network
    assert fitted.center.equal(network.center) and fitted.width.equal(network.width)


def test_the_residual_spreads_more_the_more_stops_ahead(train):
    spread = Network.fitted_to(SMALL, train.rows).residual_spread.numpy()
    assert (np.diff(spread[1:]) > 0).all()


def test_the_base_shifts_the_prediction_one_for_one(teacher, validation):
    later = replace(validation.rows, base=validation.rows.base + 60)
    assert predict(teacher.network, later) == pytest.approx(predict(teacher.network, validation.rows) + 60, abs=0.01)


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


def test_columns_that_are_constant_or_always_missing_do_no_harm(train, validation):
    nothing = np.full((len(train.rows), 1), np.nan, np.float32)
    rows = replace(train.rows, numeric=np.hstack([train.rows.numeric, nothing]))
    fitted = fit(SMALL, SHORT, rows, rows)
    assert np.isfinite(predict(fitted.network, rows)).all()


def test_a_value_far_outside_training_gives_a_finite_delay(teacher, validation):
    far = replace(validation.rows, numeric=np.full_like(validation.rows.numeric, 1e9))
    assert np.isfinite(predict(teacher.network, far)).all()


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
    assert fitted.validation_mae == min(fitted.history) == fitted.history[fitted.best_epoch - 1]


def test_training_ends_when_validation_stops_improving_or_the_tuner_says_so(train, validation):
    impatient = TrainConfig(epochs=50, learning_rate=0.3, patience=2)
    fitted = fit(SMALL, impatient, train.rows, validation.rows)
    assert len(fitted.history) == fitted.best_epoch + 2 < 50
    stopped = fit(SMALL, SHORT, train.rows, validation.rows, on_epoch=lambda epoch, mae: epoch == 1)
    assert len(stopped.history) == 1


def test_a_training_that_diverges_says_so(train, validation):
    broken = replace(train.rows, base=np.where(np.arange(len(train.rows)) < 100, np.float32(np.inf), train.rows.base))
    with pytest.raises(FloatingPointError, match="validation MAE is (nan|inf) after epoch 1"):
        fit(replace(SMALL, spread_category=None), SHORT, broken, validation.rows)


@pytest.mark.parametrize("numeric", ["none", "linear_relu", "periodic"])
def test_a_network_comes_back_from_its_files_as_it_was(numeric, train, validation):
    fitted = fit(replace(SMALL, numeric=numeric, dropout=0.1), SHORT, train.rows, validation.rows)
    files = to_files(fitted.network)
    back = from_files(files)
    assert np.array_equal(predict(back, validation.rows), predict(fitted.network, validation.rows))
    assert to_files(back) == files


def test_the_shapes_of_the_dense_layers_can_be_read(teacher):
    assert [shape[0] for shape in json.loads(to_files(teacher.network)["network.json"])["layers"]] == [64, 32, 1]
