"""What a bundle was configured with is in its manifest, and makes the same bundle in an empty store."""

from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from mbta_assets.defs.io_managers import BundleIOManager
from mbta_assets.defs.resources.settings import TrainingSettings
from mbta_assets.defs.run_config import RUN_CONFIG, build_run_config
from mbta_assets.storage.bundle import Bundle, Draft
from mbta_assets.storage.model_registry import ModelRegistry


class Rows(dg.Config):
    """Configuration with a default."""

    rows: int = 10


class Network(dg.Config):
    """Configuration with a list."""

    layers: list[int] = [3]
    rate: float = 0.1


@dg.asset(io_manager_key="bundles")
def training_set(config: Rows, settings: dg.ResourceParam[TrainingSettings]) -> Draft:
    return Draft("rows", {"rows": b"." * config.rows}, {"data_versions": {"2024-03-06": "a", "2024-03-07": "b"}})


@dg.asset(io_manager_key="bundles")
def quantized_student(config: Network, settings: dg.ResourceParam[TrainingSettings], training_set: Bundle) -> Draft:
    content = f"{config.layers} {config.rate} {settings.tune_trials} {training_set.file('rows')!r}"
    return Draft("network", {"weights": content.encode()}, {"seed": settings.seed, "data_versions": {"2024-03-06": ""}})


def make(root: Path, run_config: dict[str, Any], settings: TrainingSettings) -> Bundle:
    """Make both assets in a store with a run configuration, and return the second one."""
    registry = ModelRegistry(root)
    assets = [training_set, quantized_student]
    resources = {"bundles": BundleIOManager(model_registry=registry), "settings": settings}
    assert dg.materialize(assets, resources=resources, run_config=run_config).success
    return registry.current("quantized_student")


@pytest.mark.parametrize(
    ("ops", "settings"),
    [
        ({}, {}),
        ({"training_set": {"config": {"rows": 7}}}, {}),
        ({"quantized_student": {"config": {"layers": [5, 2]}}}, {"tune_trials": 3}),
        ({"training_set": {"config": {"rows": 9}}, "quantized_student": {"config": {"rate": 0.5}}}, {"seed": 4}),
    ],
)
def test_the_run_configuration_of_a_model_makes_it_again(
    tmp_path: Path, ops: dict[str, Any], settings: dict[str, int]
) -> None:
    first = make(tmp_path / "first", {"ops": ops}, TrainingSettings(**settings))
    manifest = first.manifest
    assert manifest.get(RUN_CONFIG, {}).get("config") == ops.get("quantized_student", {}).get("config")
    run_config = build_run_config(ModelRegistry(tmp_path / "first"), "quantized_student", manifest)
    assert run_config.get("ops", {}) == ops
    assert run_config["resources"]["settings"]["config"]["training_days"] == 1
    again = make(tmp_path / "again", run_config, TrainingSettings())
    assert again.digest == first.digest


def test_a_manifest_of_defaults_says_nothing_and_rows_do_not_depend_on_trials(tmp_path: Path) -> None:
    model = make(tmp_path, {}, TrainingSettings(tune_trials=3))
    assert model.manifest[RUN_CONFIG] == {"tune_trials": 3}
    assert RUN_CONFIG not in ModelRegistry(tmp_path).current("training_set").manifest


def test_what_was_made_from_versions_that_are_gone_is_configured_by_default(tmp_path: Path) -> None:
    ops = {"training_set": {"config": {"rows": 7}}, "quantized_student": {"config": {"rate": 0.5}}}
    model = make(tmp_path / "first", {"ops": ops}, TrainingSettings())
    run_config = build_run_config(ModelRegistry(tmp_path / "empty"), "quantized_student", model.manifest)
    assert run_config["ops"] == {"quantized_student": ops["quantized_student"]}
