"""The Dagster IO manager of model bundles.

Where bundles are stored is up to `storage`; the resources in `defs.resources` choose it.
"""

import dagster as dg

from mbta_assets.storage.bundle import Bundle, Draft
from mbta_assets.storage.model_registry import ModelRegistry


class BundleIOManager(dg.ConfigurableIOManager):
    """Models as bundles. An asset returns a Draft or a Bundle, which becomes its current version in the registry."""

    model_registry: dg.ResourceDependency[ModelRegistry]

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        """Check, before any asset of the run is made, that bundles can be stored."""
        self.model_registry.prepare()

    def handle_output(self, context: dg.OutputContext, obj: Draft | Bundle) -> None:
        """Store a version and make it the current one."""
        asset = context.asset_key.path[-1]
        current = self.model_registry.current_digest(asset)
        stored = self.model_registry.put(asset, obj)
        self.model_registry.set_current(asset, stored.digest, current)
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
        """Return the current version, verified. Raises BundleError."""
        return self.model_registry.current(context.asset_key.path[-1])
