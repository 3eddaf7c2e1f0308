import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest

from mbta_assets.ml.inference.onnx_session import feed, predict, session
from mbta_assets.ml.training.network import NetworkConfig
from mbta_assets.ml.training.network_trainer import TrainConfig, fit
from mbta_assets.ml.training.network_weights import from_files, to_files
from mbta_assets.ml.training.onnx_export import parity_seconds, to_onnx
from mbta_assets.ml.training.quantization import Variant, choose, variants, weight_only

EMBEDDINGS = ["none", "linear_relu", "periodic", "piecewise_linear"]


def inputs(rows):
    return feed(rows.numeric, rows.codes)


def awkward(rows):
    """The rows with values missing or far out of range everywhere, and codes out of range."""
    generator = np.random.default_rng(0)
    numeric = np.where(generator.random(rows.numeric.shape) < 0.3, np.float32(np.nan), rows.numeric)
    far = generator.random(rows.numeric.shape) < 0.1
    numeric = np.where(far, generator.choice([-1e9, 1e9], rows.numeric.shape).astype(np.float32), numeric)
    codes = np.where(generator.random(rows.codes.shape) < 0.3, generator.choice([-5, 0, 999]), rows.codes)
    return replace(rows, numeric=numeric, codes=codes.astype(np.int32))


@pytest.mark.parametrize("numeric", EMBEDDINGS)
@pytest.mark.parametrize("batch_norm", [True, False])
def test_onnx_says_what_torch_says_on_every_row(numeric, batch_norm, train, validation):
    config = NetworkConfig(hidden=(16, 8), numeric=numeric, batch_norm=batch_norm, dropout=0.1)
    network = fit(config, TrainConfig(epochs=1), train.rows, validation.rows).network
    model = to_onnx(network)
    for rows in (train.rows, validation.rows, awkward(validation.rows)):
        assert parity_seconds(network, model, rows) < 0.001


def test_a_network_without_missing_values_in_training_exports(train, validation):
    whole = replace(train.rows, numeric=np.nan_to_num(train.rows.numeric))
    network = fit(NetworkConfig(hidden=(8,)), TrainConfig(epochs=1), whole, validation.rows).network
    assert parity_seconds(network, to_onnx(network), awkward(validation.rows)) < 0.01


def test_rows_are_predicted_alike_alone_together_and_none(teacher, validation):
    run = session(to_onnx(teacher.network))
    together = predict(run, inputs(validation.rows.take(np.arange(50))))
    alone = [predict(run, inputs(validation.rows.take(np.array([row]))))[0] for row in range(50)]
    assert together == pytest.approx(np.array(alone), abs=0.01)
    assert predict(run, inputs(validation.rows.take(np.arange(50))), batch=7) == pytest.approx(together, abs=0.01)
    assert len(predict(run, inputs(validation.rows.take(np.arange(0))))) == 0


def test_the_same_network_gives_the_same_onnx_bytes(teacher):
    assert to_onnx(teacher.network) == to_onnx(from_files(to_files(teacher.network)))
    assert weight_only(to_onnx(teacher.network)) == weight_only(to_onnx(teacher.network))


def test_the_onnx_model_carries_weights_and_nothing_about_its_making(teacher):
    weights = 4 * sum(value.numel() for value in teacher.network.parameters())
    model = to_onnx(teacher.network)
    assert len(model) < weights + 8_000
    proto = onnx.load_from_string(model)
    assert not proto.metadata_props and not any(node.doc_string or node.metadata_props for node in proto.graph.node)


def test_piecewise_linear_bins_however_many_say_in_onnx_what_they_say_in_torch(train, validation):
    def with_columns(rows, binary, absent):
        columns = [rows.numeric, np.resize(binary, (len(rows), 1)), np.full((len(rows), 1), absent)]
        return replace(rows, numeric=np.hstack(columns).astype(np.float32))

    config = NetworkConfig(hidden=(8,), numeric="piecewise_linear", bins=5)
    known, later = with_columns(train.rows, [0, 1], np.nan), with_columns(validation.rows, [0, 1, np.nan, -3], 5)
    network = fit(config, TrainConfig(epochs=1), known, with_columns(validation.rows, [0, 1], np.nan)).network
    assert parity_seconds(network, to_onnx(network), awkward(later)) < 0.001


@pytest.fixture(scope="module")
def found(teacher, train, validation):
    return {variant.name: variant for variant in variants(to_onnx(teacher.network), train.rows, validation.rows)}


def test_every_variant_is_judged_against_fp32(found):
    assert set(found) == {"fp32", "int8_weight_only", "int8_dynamic", "int8_static"}
    bound = 1.002 * found["fp32"].validation_error
    for variant in found.values():
        assert variant.passes == (variant.validation_error <= bound)
        assert variant.validation_error < 1.05 * found["fp32"].validation_error
        assert variant.size_bytes == len(variant.model) and variant.latency_us > 0


def test_weight_only_int8_costs_next_to_nothing_in_error_and_a_third_of_the_bytes(found):
    assert found["int8_weight_only"].passes
    assert found["int8_weight_only"].size_bytes < found["fp32"].size_bytes / 2.5


def test_weight_only_int8_becomes_the_fp32_graph_when_it_is_loaded(found, tmp_path):
    def loaded(name):
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / f"{name}.onnx")
        onnxruntime.InferenceSession(found[name].model, options, providers=["CPUExecutionProvider"])
        return sorted(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)

    assert loaded("int8_weight_only") == loaded("fp32")


def test_a_piecewise_linear_network_can_be_quantized_in_every_way(train, validation):
    config = NetworkConfig(hidden=(32,), numeric="piecewise_linear")
    network = fit(config, TrainConfig(epochs=4), train.rows, validation.rows).network
    found = {variant.name: variant for variant in variants(to_onnx(network), train.rows, validation.rows)}
    assert found["int8_weight_only"].passes
    assert all(variant.validation_error < 1.05 * found["fp32"].validation_error for variant in found.values())


def test_the_smallest_variant_that_passes_is_chosen_and_the_more_accurate_of_equals():
    def variant(name, error, size_bytes, passes):
        return Variant(name, b"", error, size_bytes, 20, passes)

    fp32, small = variant("fp32", 1.0, 400, True), variant("small", 1.002, 100, True)
    accurate, broken = variant("accurate", 1.001, 100, True), variant("broken", 9.0, 50, False)
    assert choose([fp32, small, accurate, broken]) is accurate
    assert choose([fp32, broken]) is fp32


def test_serving_a_network_needs_neither_torch_nor_pandas_nor_onnx():
    unwanted = "{'torch', 'pandas', 'onnx'}"
    code = f"import sys, mbta_assets.ml.inference.onnx_session; print(sorted({unwanted} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
