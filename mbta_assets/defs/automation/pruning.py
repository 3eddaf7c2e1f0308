"""Pruning: a job removes versions and files that nothing needs any more. What is needed is in `storage.retention`."""

from datetime import UTC, datetime

import dagster as dg
from pydantic import Field

from mbta_assets.defs.metadata import table_metadata
from mbta_assets.storage.model_registry import ModelRegistry
from mbta_assets.storage.retention import Retention, apply_plan, make_plan


class PruneConfig(dg.Config):
    """Whether anything is removed."""

    dry_run: bool = Field(default=False, description="List what would be removed, and remove nothing.")


@dg.op(
    description="Remove versions of models and training sets, and refused service days, that nothing needs any more."
)
def prune(
    context: dg.OpExecutionContext,
    config: PruneConfig,
    model_registry: dg.ResourceParam[ModelRegistry],
    retention: dg.ResourceParam[Retention],
) -> None:
    now = datetime.now(UTC)
    plan = make_plan(model_registry, retention, now)
    if not config.dry_run:
        plan = apply_plan(model_registry, plan)
    rows = plan.to_table(now)
    context.log.info(f"{'Would remove' if config.dry_run else 'Removed'} {len(rows)} items, {plan.size_bytes:,} bytes.")
    context.add_output_metadata({"items": table_metadata(rows), "size_bytes": plan.size_bytes, "count": len(rows)})
