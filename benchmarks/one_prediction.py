"""Measure one prediction, and many at a time, beside the calls of ONNX Runtime and of XGBoost that they could be.

Run by `make bench`. The peers get their inputs ready made: they turn no query into features, and know no interval.
"""

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import xgboost
from http_function import example_body
from onnx import TensorProto, helper

from mbta_assets.ml.inference import onnx_session
from mbta_assets.ml.inference.model import ONNX_FILE, Model
from mbta_assets.ml.inference.preprocessing import Preprocessor
from mbta_assets.ml.training.xgboost_trainer import stack_features
from mbta_assets.serving import ArrivalQuery, Predictor
from mbta_assets.serving.openapi import parse_queries
from mbta_assets.serving.predictor import MAX_ROWS, feature_columns, to_columns
from mbta_assets.serving.query_row import compute_feature_row
from mbta_assets.storage.bundle import Bundle
from mbta_assets.storage.model_registry import ModelRegistry

[QUERY] = parse_queries(example_body())
"""The example of the interface as the HTTP function has it: its times are in UTC, as those of the live stream are."""
MANY = 20_000
MAX_DIFFERENCE = 1e-3
"""Greatest difference of predicted residuals that single precision explains."""

Calls = dict[str, Callable[[], Any]]
"""What is measured, by name; the first is what the others are compared with."""


def prepare_one(store: Path) -> Calls:
    """Return the calls that make one prediction with the models of a store."""
    predictor = Predictor.load(str(store))
    session, feed = _open_session(predictor, [QUERY])
    trees = ModelRegistry(store).current("xgboost_model")
    return {
        "ONNX Runtime, the bare call": lambda: session.run([onnx_session.OUTPUT], feed),
        "`predict_one`: query to delay and interval": lambda: predictor.predict_one(QUERY),
        "the same in columns of one value": lambda: predictor.predict_events(to_columns([QUERY])),
        **_prepare_trees(trees),
    }


def prepare_many(store: Path) -> Calls:
    """Return the calls that make `MANY` predictions with the model of a store."""
    predictor, queries = _open_batch(store, MANY)
    bare, in_columns = _prepare_batch(predictor, queries)
    return {
        "ONNX Runtime, bare calls": bare,
        "queries in columns": in_columns,
        "queries as objects": lambda: predictor.predict(queries),
    }


def prepare_batch(store: Path, size: int) -> Calls:
    """Return the bare calls for so many queries, and the one that predicts them: in columns, or few row by row."""
    bare, predict = _prepare_batch(*_open_batch(store, size))
    return {"bare": bare, "predict": predict}


def _open_batch(store: Path, size: int) -> tuple[Predictor, list[ArrivalQuery]]:
    """Return the predictor of a store and so many queries."""
    return Predictor.load(str(store)), [_vary(number) for number in range(size)]


def _prepare_batch(predictor: Predictor, queries: list[ArrivalQuery]) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Return the bare calls for some queries, and the one that predicts them."""
    columns = to_columns(queries)
    session, feed = _open_session(predictor, queries)
    if len(queries) <= MAX_ROWS:
        return lambda: session.run([onnx_session.OUTPUT], feed), lambda: predictor.predict(queries)
    return lambda: onnx_session.predict(session, feed), lambda: predictor.predict_events(columns)


def _vary(number: int) -> ArrivalQuery:
    """Return a query of a report of its own."""
    values = {name: getattr(QUERY, name) for name in ArrivalQuery.__dataclass_fields__}
    later = QUERY.time_stamp + timedelta(milliseconds=number)
    return ArrivalQuery(**values | {"time_stamp": later, "stops_ahead": 1 + number % 10, "trip_id": str(number // 10)})


def _open_session(predictor: Predictor, queries: list[ArrivalQuery]) -> tuple[Any, onnx_session.Feed]:
    """Return a session of a predictor's network, and its inputs for some queries."""
    model = Model(predictor.bundle)
    arrays = model.preprocessor.transform(feature_columns(queries), model.residual_to)
    session = onnx_session.create_session(predictor.bundle.file(ONNX_FILE))
    return session, onnx_session.make_feed(arrays.numeric, arrays.codes)


def _prepare_trees(bundle: Bundle) -> Calls:
    """Return the calls that predict one residual with the trees of a bundle, and one that begins with the query."""
    columns = feature_columns([QUERY])
    features = stack_features(Preprocessor.from_bundle(bundle).transform(columns, bundle.manifest["residual_to"]))
    boosters = [xgboost.Booster(model_file=bytearray(bundle.file(name))) for name in bundle.manifest["trees"]]
    for booster in boosters:
        booster.set_param({"nthread": 1})
    sessions = [onnx_session.create_session(convert_trees(booster, features.shape[1])) for booster in boosters]

    def predict() -> list[float]:
        return [float(booster.inplace_predict(features)[0]) for booster in boosters]

    def run_sessions(features: np.ndarray) -> list[float]:
        return [session.run(None, {"features": features})[0].item() for session in sessions]

    if np.abs(np.subtract(predict(), run_sessions(features))).max() > MAX_DIFFERENCE:
        raise ValueError("the converted trees predict something else")
    model = Model(bundle, lambda arrays: np.mean(run_sessions(stack_features(arrays)), keepdims=True))
    return {
        "XGBoost in ONNX Runtime, the bare calls": lambda: run_sessions(features),
        "XGBoost in ONNX Runtime: query to delay": lambda: model.predict_row(compute_feature_row(QUERY)),
        "XGBoost, `inplace_predict`": predict,
    }


def convert_trees(booster: Any, n_features: int) -> bytes:
    """Return an ONNX model of a booster whose predictions are sums of leaves."""
    nodes: dict[str, list[Any]] = {
        name: []
        for name in ("treeids", "nodeids", "featureids", "values", "modes", "truenodeids", "falsenodeids", "missing")
    }
    leaves: dict[str, list[Any]] = {name: [] for name in ("treeids", "nodeids", "ids", "weights")}

    def add(tree: int, node: dict[str, Any]) -> None:
        is_leaf = "leaf" in node
        row = (
            tree,
            node["nodeid"],
            0 if is_leaf else int(node["split"][1:]),
            0.0 if is_leaf else node["split_condition"],
            "LEAF" if is_leaf else "BRANCH_LT",
            0 if is_leaf else node["yes"],
            0 if is_leaf else node["no"],
            0 if is_leaf else int(node["missing"] == node["yes"]),
        )
        for values, value in zip(nodes.values(), row, strict=True):
            values.append(value)
        if is_leaf:
            for values, value in zip(leaves.values(), (tree, node["nodeid"], 0, node["leaf"]), strict=True):
                values.append(value)
        for child in node.get("children", ()):
            add(tree, child)

    for tree, text in enumerate(booster.get_dump(dump_format="json")):
        add(tree, json.loads(text))
    base_score = json.loads(booster.save_config())["learner"]["learner_model_param"]["base_score"]
    missing = nodes.pop("missing")
    ensemble = helper.make_node(
        "TreeEnsembleRegressor",
        ["features"],
        ["residual"],
        domain="ai.onnx.ml",
        n_targets=1,
        base_values=[float(base_score.strip("[]"))],
        nodes_missing_value_tracks_true=missing,
        **{f"nodes_{name}": values for name, values in nodes.items()},
        **{f"target_{name}": values for name, values in leaves.items()},
    )
    graph = helper.make_graph(
        [ensemble],
        "trees",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, [None, n_features])],
        [helper.make_tensor_value_info("residual", TensorProto.FLOAT, [None, 1])],
    )
    versions = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 3)]
    return onnx.ModelProto.SerializeToString(helper.make_model(graph, opset_imports=versions, ir_version=9))
