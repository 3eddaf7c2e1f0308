"""What runs were configured with when they made a bundle, and the run configuration that makes it again.

The manifest of a bundle has the field `run_config`: what its step was given beside the defaults. Seed and service days
are fields of their own.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from mbta_assets.defs.dagster_internals import StepExecutionContext
from mbta_assets.defs.resources.settings import TrainingSettings
from mbta_assets.storage.bundle import BundleError
from mbta_assets.storage.model_registry import ModelRegistry
from mbta_assets.storage.provenance import list_inputs

RUN_CONFIG = "run_config"


def describe_step(step: StepExecutionContext, is_trained: bool) -> dict[str, Any]:
    """Return the manifest field of what a step makes: empty where nothing differs from the defaults.

    `config` is the configuration that the run was launched with for the step, and `tune_trials` the number of trials of
    a search, which a setting decides, for a step that trains.
    """
    run_config: Mapping[str, Any] = step.dagster_run.run_config
    ops = run_config.get("ops") or {}
    given: dict[str, Any] = {}
    if config := (ops.get(step.op_def.name) or {}).get("config"):
        given["config"] = config
    settings = getattr(step.resources, "settings", None)
    if is_trained and isinstance(settings, TrainingSettings):
        given |= settings.model_dump(include={"tune_trials"}, exclude_defaults=True)
    return {RUN_CONFIG: given} if given else {}


def build_run_config(registry: ModelRegistry, asset: str, model: Mapping[str, Any]) -> dict[str, Any]:
    """Return the run configuration that makes a version of an asset again.

    It is taken from `model`, the version's manifest, and from those of all that it was made from. Versions that the
    registry has no longer are left out: their steps are configured by default.
    """
    settings = {"seed": model.get("seed", 0), "training_days": max(len(model.get("data_versions", ())), 1)}
    ops = {}
    for name, manifest in (*_read_manifests(registry, list_inputs(model)), (asset, model)):
        given = manifest.get(RUN_CONFIG, {})
        if "tune_trials" in given:
            settings["tune_trials"] = given["tune_trials"]
        if "config" in given:
            ops[name] = {"config": given["config"]}
    return {"resources": {"settings": {"config": settings}}, **({"ops": ops} if ops else {})}


def _read_manifests(registry: ModelRegistry, inputs: Mapping[str, str]) -> Iterable[tuple[str, dict[str, Any]]]:
    """Yield the manifests of some versions by asset, in order, without those that are not stored any more."""
    for asset, digest in sorted(inputs.items()):
        try:
            yield asset, registry.read_manifest(asset, digest)
        except BundleError:
            continue
