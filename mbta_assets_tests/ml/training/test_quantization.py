import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from mbta_assets.defs.models.quantized_student import QuantizationConfig
from mbta_assets.ml.inference.arrays import Arrays
from mbta_assets.ml.inference.onnx_session import Feed, create_session, make_feed, predict
from mbta_assets.ml.training.hyperparameters import NetworkConfig, NumericEmbedding, TrainConfig
from mbta_assets.ml.training.int8_variants import quantize_weights
from mbta_assets.ml.training.network_trainer import Fitted, fit
from mbta_assets.ml.training.network_weights import from_files, to_files
from mbta_assets.ml.training.onnx_export import max_difference_seconds, to_onnx
from mbta_assets.ml.training.quantization import Variant, judge_variants, make_models, sample_evenly, select_variant
from mbta_assets_tests.ml.conftest import Problem

pytestmark = pytest.mark.xdist_group("networks")

QUANTIZATION = QuantizationConfig()


def to_feed(rows: Arrays) -> Feed:
    """Return the model inputs of some rows."""
    return make_feed(rows.numeric, rows.codes)


def corrupt(rows: Arrays) -> Arrays:
    """Return the rows with values missing or far out of range in every column, and codes out of range."""
    generator = np.random.default_rng(0)
    numeric = np.where(generator.random(rows.numeric.shape) < 0.3, np.float32(np.nan), rows.numeric)
    far = generator.random(rows.numeric.shape) < 0.1
    numeric = np.where(far, generator.choice([-1e9, 1e9], rows.numeric.shape).astype(np.float32), numeric)
    codes = np.where(generator.random(rows.codes.shape) < 0.3, generator.choice([-5, 0, 999]), rows.codes)
    return replace(rows, numeric=numeric, codes=codes.astype(np.int32))


def make_variants_by_name(fitted: Fitted, train: Problem, validation: Problem) -> dict[str, Variant]:
    """Return fp32 and every int8 variant of a network, by name."""
    models = make_models(to_onnx(fitted.network), sample_evenly(train.rows, QUANTIZATION.calibration_rows))
    variants = judge_variants(models, models, validation.rows, QUANTIZATION.max_error_ratio)
    return {variant.name: variant for variant in variants}


@pytest.mark.parametrize("numeric", ["none", "linear_relu", "periodic", "piecewise_linear"])
@pytest.mark.parametrize("batch_norm", [True, False])
def test_onnx_predicts_what_torch_predicts_on_every_row(
    numeric: NumericEmbedding, batch_norm: bool, train: Problem, validation: Problem
) -> None:
    config = NetworkConfig(hidden=(16, 8), numeric=numeric, batch_norm=batch_norm, dropout=0.1)
    network = fit(config, TrainConfig(epochs=1), train.rows, validation.rows).network
    model = to_onnx(network)
    for rows in (train.rows, validation.rows, corrupt(validation.rows)):
        assert max_difference_seconds(network, model, rows) < 0.001


def test_a_network_without_missing_values_in_training_is_exported(train: Problem, validation: Problem) -> None:
    whole = replace(train.rows, numeric=np.nan_to_num(train.rows.numeric))
    network = fit(NetworkConfig(hidden=(8,)), TrainConfig(epochs=1), whole, validation.rows).network
    assert max_difference_seconds(network, to_onnx(network), corrupt(validation.rows)) < 0.01


def test_rows_have_the_same_predictions_alone_and_in_batches_and_no_rows_have_none(
    teacher: Fitted, validation: Problem
) -> None:
    session = create_session(to_onnx(teacher.network))
    feed = to_feed(validation.rows.take(np.arange(50)))
    together = predict(session, feed)
    alone = [predict(session, to_feed(validation.rows.take(np.array([row]))))[0] for row in range(50)]
    assert together == pytest.approx(np.array(alone), abs=0.01)
    assert predict(session, feed, batch_rows=7) == pytest.approx(together, abs=0.01)
    assert len(predict(session, to_feed(validation.rows.take(np.arange(0))))) == 0


def test_the_same_network_gives_the_same_onnx_bytes(teacher: Fitted) -> None:
    assert to_onnx(teacher.network) == to_onnx(from_files(to_files(teacher.network)))
    assert quantize_weights(to_onnx(teacher.network)) == quantize_weights(to_onnx(teacher.network))


def test_the_onnx_model_has_the_weights_and_no_names_of_tools(teacher: Fitted) -> None:
    weights = 4 * sum(value.numel() for value in teacher.network.parameters())
    model = to_onnx(teacher.network)
    assert len(model) < weights + 8_000
    proto = onnx.load_from_string(model)
    assert not proto.metadata_props and not any(node.doc_string or node.metadata_props for node in proto.graph.node)


def test_piecewise_linear_features_of_few_bins_have_the_same_predictions_in_onnx_and_torch(
    train: Problem, validation: Problem
) -> None:
    def with_columns(rows: Arrays, binary: Sequence[float], absent: float) -> Arrays:
        columns = [rows.numeric, np.resize(binary, (len(rows), 1)), np.full((len(rows), 1), absent)]
        return replace(rows, numeric=np.hstack(columns).astype(np.float32))

    config = NetworkConfig(hidden=(8,), numeric="piecewise_linear", bins=5)
    before, later = with_columns(train.rows, [0, 1], np.nan), with_columns(validation.rows, [0, 1, np.nan, -3], 5)
    network = fit(config, TrainConfig(epochs=1), before, with_columns(validation.rows, [0, 1], np.nan)).network
    assert max_difference_seconds(network, to_onnx(network), corrupt(later)) < 0.001


@pytest.fixture(scope="module")
def variants(teacher: Fitted, train: Problem, validation: Problem) -> dict[str, Variant]:
    """Return the variants of the teacher, by name."""
    return make_variants_by_name(teacher, train, validation)


def test_every_variant_is_judged_against_fp32(variants: dict[str, Variant]) -> None:
    assert set(variants) == {"fp32", "int8_weight_only", "int8_dynamic", "int8_static"}
    bound = 1.002 * variants["fp32"].validation_error
    for variant in variants.values():
        assert variant.passes == (variant.validation_error <= bound)
        assert variant.validation_error < 1.05 * variants["fp32"].validation_error
        assert variant.size_bytes == len(variant.model) and variant.latency_us > 0


def test_weight_only_int8_adds_next_to_no_error_and_has_a_fraction_of_the_bytes(variants: dict[str, Variant]) -> None:
    assert variants["int8_weight_only"].passes
    assert variants["int8_weight_only"].size_bytes < variants["fp32"].size_bytes / 2.5


def test_weight_only_int8_becomes_the_fp32_graph_when_it_is_loaded(
    variants: dict[str, Variant], tmp_path: Path
) -> None:
    def load_operators(name: str) -> list[str]:
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / f"{name}.onnx")
        onnxruntime.InferenceSession(variants[name].model, options, providers=["CPUExecutionProvider"])
        return sorted(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)

    assert load_operators("int8_weight_only") == load_operators("fp32")


def test_a_piecewise_linear_network_can_be_quantized_in_every_way(train: Problem, validation: Problem) -> None:
    config = NetworkConfig(hidden=(32,), numeric="piecewise_linear")
    variants = make_variants_by_name(fit(config, TrainConfig(epochs=4), train.rows, validation.rows), train, validation)
    assert variants["int8_weight_only"].passes
    bound = 1.05 * variants["fp32"].validation_error
    assert all(variant.validation_error < bound for variant in variants.values())


def test_the_smallest_variant_that_passes_is_selected_and_the_more_accurate_of_equals() -> None:
    def make_variant(name: str, error: float, size_bytes: int, passes: bool) -> Variant:
        return Variant(name, b"", error, size_bytes, 20, passes)

    fp32, small = make_variant("fp32", 1.0, 400, True), make_variant("small", 1.002, 100, True)
    accurate, broken = make_variant("accurate", 1.001, 100, True), make_variant("broken", 9.0, 50, False)
    assert select_variant([fp32, small, accurate, broken]) is accurate
    assert select_variant([fp32, broken]) is fp32


@pytest.mark.integration
def test_serving_a_network_needs_neither_torch_nor_pandas_nor_onnx() -> None:
    forbidden = "{'torch', 'pandas', 'onnx'}"
    code = f"import sys, mbta_assets.ml.inference.onnx_session; print(sorted({forbidden} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
