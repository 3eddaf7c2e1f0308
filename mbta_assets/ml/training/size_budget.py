"""Sizes: how much of the bundle of a quantized student its network may take, and how much one takes."""

import json
from dataclasses import dataclass

from mbta_assets.ml.inference.arrays import Arrays
from mbta_assets.ml.training.hyperparameters import NetworkConfig, TrainConfig, apply_configuration
from mbta_assets.ml.training.int8_variants import quantize_weights
from mbta_assets.ml.training.network import Network
from mbta_assets.ml.training.network_data import NetworkData
from mbta_assets.ml.training.onnx_export import to_onnx
from mbta_assets.ml.training.tuning import Configuration
from mbta_assets.storage.bundle import Bundle

SHARE_OF_OTHERS = 0.25
"""Size of a network, compared with the other files of a bundle, which hardly makes the bundle larger."""
MANIFEST_BYTES, INTERVAL_BYTES = 5_000, 3_000
"""Sizes to reserve for the manifest of a student, without its provenance, and for its prediction interval."""


@dataclass(frozen=True)
class SizeBudget:
    """Maximum size of the bundle of a quantized student, and what its network may have of it in any case."""

    max_bytes: int
    max_fraction_of_teacher: float
    min_network_bytes: int
    """Size that a network may have whatever the lookup and the names of many stops take of the bundle.

    Where these alone take several times as much, it may have as much as `SHARE_OF_OTHERS` of them.
    """

    def for_network(self, teacher: Bundle, fixed_bytes: int) -> int:
        """Return the maximum size in bytes of the network of a student of this teacher, beside other files."""
        of_bundle = int(min(self.max_bytes, teacher.size_bytes * self.max_fraction_of_teacher))
        beside_others = min(of_bundle, int(SHARE_OF_OTHERS * fixed_bytes))
        return max(of_bundle - fixed_bytes, self.min_network_bytes, beside_others)


def count_bytes(configuration: Configuration, network: NetworkConfig, train: Arrays) -> int:
    """Return the size of a network with this configuration as ONNX with int8 weights, as most students are served."""
    architecture, _ = apply_configuration(configuration, network, TrainConfig())
    return len(quantize_weights(to_onnx(Network.from_training_rows(architecture, train).eval())))


def count_fixed_bytes(data: NetworkData, teacher: Bundle) -> int:
    """Return the size of the files of a bundle beside the network: preprocessor, interval and manifest."""
    preprocessor = sum(map(len, data.preprocessor.to_files().values()))
    provenance = len(json.dumps(data.make_provenance({"dnn_teacher": teacher}), indent=1))
    return preprocessor + INTERVAL_BYTES + MANIFEST_BYTES + provenance
