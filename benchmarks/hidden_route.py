"""Measure how models predict routes that they have not seen: the same models, trained with the routes and without.

    python benchmarks/hidden_route.py STORE ROUTE…

STORE has a training set. Rows of the routes are left out of everything that is learned: lookup, encoder, scales, trees
and a network, all with fixed configurations. Scored are the rows of these routes in the test part, in seconds of MAE.
Stops of a hidden route that other routes serve too stay known.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from mbta_assets.defs.models.xgboost_model import IN_SCALE
from mbta_assets.ml.evaluation.metrics import predict_baselines
from mbta_assets.ml.inference.encoder import Encoder
from mbta_assets.ml.inference.model import ResidualFunction, load_onnx, predict_delay
from mbta_assets.ml.training import network_trainer, onnx_export, xgboost_trainer
from mbta_assets.ml.training.cross_fitting import (
    FIT_COLUMNS,
    CrossFittedPreprocessor,
    prepare_training_data,
    select_learned,
)
from mbta_assets.ml.training.dataset import (
    CATEGORICAL_FEATURES,
    LEARNED_PARTS,
    NUMERIC_FEATURES,
    read_labelled,
    read_rows,
    select_labelled,
)
from mbta_assets.ml.training.hyperparameters import BoostingConfig, NetworkConfig, TrainConfig
from mbta_assets.ml.training.training_data import TrainingData
from mbta_assets.storage.model_registry import ModelRegistry

SEED = 0
DISTANCES = (1, 3, 5, 10)
BASE = "lookup"
BOOSTING = BoostingConfig(max_rounds=200, patience_rounds=40, rounds_per_step=50)
NETWORK, TRAINING = NetworkConfig(hidden=(128, 64)), TrainConfig(epochs=6, seed=SEED)


def main() -> None:
    """Train with the routes and without, and print their errors."""
    arguments = parse_arguments()
    training_set = ModelRegistry(arguments.store).current("training_set")
    learned = read_rows(training_set, parts=LEARNED_PARTS)
    test = read_labelled(training_set, "test")
    test = test[test["route_id"].isin(arguments.routes)].reset_index(drop=True)
    hidden = learned["route_id"].isin(arguments.routes)
    without = learned[~hidden].reset_index(drop=True)
    known = test["stop_id"].isin(set(without["stop_id"])).mean()
    print(f"{hidden.mean():.1%} of the learned rows hidden, {len(test):,} test rows, {known:.0%} about a known stop\n")
    predicted = {"`persistence`": predict_baselines(test)["persistence"]}
    for name, rows in {"with": learned, "without": without}.items():
        delays = train_and_predict(rows, test, arguments.rows)
        predicted |= {f"{model}, {name}": delay for model, delay in delays.items()}
    print(tabulate_errors(test, predicted))


def train_and_predict(rows: pd.DataFrame, test: pd.DataFrame, max_rows: int) -> dict[str, np.ndarray]:
    """Train on rows of the training and validation parts, and return the delays (n,) of n test rows by model."""
    encoder = Encoder.fit(select_labelled(rows, "train"), NUMERIC_FEATURES, CATEGORICAL_FEATURES)
    fitted = CrossFittedPreprocessor.fit(encoder, rows[FIT_COLUMNS], select_learned(rows))
    preprocessor, (data, _) = fitted.preprocessor, prepare_training_data(fitted, rows, [rows], SEED)
    data = data.drop_unlabelled().subsample(max_rows)
    delays = {"`runtime_lookup`": preprocessor.lookup.predict_delay(test)}
    for model, predict_residual in {"trees": train_trees(data), "network": train_network(data)}.items():
        delays[model] = predict_delay(preprocessor, BASE, predict_residual, test)
    return delays


def train_trees(data: TrainingData) -> ResidualFunction:
    """Train trees of both residual bases and return the function that predicts the mean of their residuals."""
    trees = {}
    for base in ("lookup", "now"):
        trainer = xgboost_trainer.XGBoostTrainer({**IN_SCALE, "residual_to": base}, BOOSTING, SEED)
        trees[base] = xgboost_trainer.fit(trainer, data.train.relative_to(base), data.validation.relative_to(base))
    return lambda arrays: xgboost_trainer.predict_residual(trees, BASE, arrays)


def train_network(data: TrainingData) -> ResidualFunction:
    """Train a network and return the function that predicts residuals with it."""
    train, validation = data.train.relative_to(BASE), data.validation.relative_to(BASE)
    return load_onnx(onnx_export.to_onnx(network_trainer.fit(NETWORK, TRAINING, train, validation).network))


def tabulate_errors(test: pd.DataFrame, predicted: Mapping[str, np.ndarray]) -> str:
    """Return a Markdown table of the MAE of each model by distance and over all rows."""
    stops_ahead, label = test["stops_ahead"].to_numpy(), test["delay_seconds"].to_numpy(dtype=np.float64)
    masks = {str(n): stops_ahead == n for n in DISTANCES} | {"all": np.ones(len(test), dtype=bool)}
    lines = [f"| | {' | '.join(masks)} |", "|---" * (1 + len(masks)) + "|"]
    for model, delay in predicted.items():
        errors = [f"{np.abs(delay - label)[mask].mean():.1f}" for mask in masks.values()]
        lines.append(f"| {model} | {' | '.join(errors)} |")
    return "\n".join(lines)


def parse_arguments() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("routes", nargs="+")
    parser.add_argument("--rows", type=int, default=150_000, help="maximum number of training rows of each model")
    return parser.parse_args()


if __name__ == "__main__":
    main()
