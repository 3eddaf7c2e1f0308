"""The Dagster IO manager of model bundles.

A step reads versions that belong together: those that its run has made, then those that its other inputs were made
from, then the current ones. Which versions belong together is defined in `storage.provenance`; where bundles are stored
is up to `storage`, and the resources in `defs.resources` choose it.
"""

from dataclasses import replace
from typing import TypeAlias

import dagster as dg
from pydantic import PrivateAttr

from mbta_assets.defs.dagster_internals import StepExecutionContext
from mbta_assets.defs.io_managers.pins import find_pinned_versions
from mbta_assets.defs.run_config import describe_step
from mbta_assets.storage.bundle import Bundle, Draft
from mbta_assets.storage.model_registry import ModelRegistry
from mbta_assets.storage.provenance import INPUTS, Origin, list_inputs, merge_inputs, resolve_inputs

StepAttempt: TypeAlias = tuple[str, str, int]
"""Run, step and number of earlier attempts."""


class BundleIOManager(dg.ConfigurableIOManager):
    """Models as bundles. An asset returns a Draft or a Bundle, which becomes its current version in the registry."""

    model_registry: dg.ResourceDependency[ModelRegistry]
    _origins: dict[StepAttempt, dict[str, Origin]] = PrivateAttr(default_factory=dict)
    """The inputs of each step, resolved once: pointers may move between two inputs of a step."""

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        """Check, before any asset of the run is made, that bundles can be stored."""
        self.model_registry.prepare()

    def handle_output(self, context: dg.OutputContext, obj: Draft | Bundle) -> None:
        """Store a version, whose manifest names what the step has read and how it was configured; make it current.

        Of two runs that store versions at the same time, the last one's is current; the other is not lost. A Bundle is
        stored as it is. Raises MixedVersions.
        """
        asset = context.asset_key.path[-1]
        if isinstance(obj, Draft):
            read = merge_inputs(self._resolve_inputs(context.step_context), asset)
            inputs = {INPUTS: {**list_inputs(obj.fields), **read}}
            of_run = describe_step(context.step_context, is_trained="seed" in obj.fields)
            obj = replace(obj, fields={**obj.fields, **inputs, **of_run})
        stored = self.model_registry.put(asset, obj)
        self.model_registry.make_current(asset, stored.digest)
        context.step_context.set_data_version(context.asset_key, dg.DataVersion(stored.digest))
        context.add_output_metadata(
            {
                "digest": stored.digest,
                "size_bytes": stored.size_bytes,
                **self.model_registry.describe(asset, stored),
                "manifest": dg.MetadataValue.json(stored.manifest),
            }
        )

    def load_input(self, context: dg.InputContext) -> Bundle:
        """Return the version that belongs to the step's other inputs, verified. Raises MixedVersions or BundleError."""
        asset = context.asset_key.path[-1]
        origin = self._resolve_inputs(context.step_context).get(asset)
        return self.model_registry.get(asset, origin.digest) if origin else self.model_registry.current(asset)

    def _resolve_inputs(self, step: StepExecutionContext) -> dict[str, Origin]:
        """Return the versions of a step's inputs that are bundles. Raises MixedVersions or BundleError."""
        attempt = (step.run_id, step.step.key, step.previous_attempt_count)
        if attempt not in self._origins:
            assets = self._list_inputs(step)
            self._origins[attempt] = resolve_inputs(
                assets,
                find_pinned_versions(step.instance, step.dagster_run, assets),
                self.model_registry.current_digest,
                lambda asset, digest: list_inputs(self.model_registry.read_manifest(asset, digest)),
                consumer=step.op_def.name,
            )
        return self._origins[attempt]

    def _list_inputs(self, step: StepExecutionContext) -> list[str]:
        """Return the assets that a step reads and this IO manager stores."""
        layer = step.job_def.asset_layer
        read = [definition.name for definition in step.op_def.input_defs if not definition.dagster_type.is_nothing]
        keys = [layer.get_asset_key_for_node_input(step.node_handle, name) for name in read]
        managers = {key: getattr(step.resources, layer.get(key).io_manager_key) for key in keys if key}
        return [key.path[-1] for key, manager in managers.items() if manager is self]
