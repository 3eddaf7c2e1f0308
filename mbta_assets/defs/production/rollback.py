"""The op that makes an earlier version the production model again."""

from collections.abc import Sequence

import dagster as dg
from pydantic import Field

from mbta_assets.defs.dagster_internals import DATA_VERSION_TAG
from mbta_assets.defs.production.promotion import ASSET, ROLLBACK_PREFIX, describe_history
from mbta_assets.storage.model_registry import ModelRegistry, Move
from mbta_assets.storage.reports import ReportStore

MIN_DIGEST_DIGITS = 6


class RollbackConfig(dg.Config):
    """Version to roll back to."""

    version: str = Field(
        default="",
        description=f"Digest of an earlier version or its first digits, {MIN_DIGEST_DIGITS} or more. "
        "Empty: the one before the current version first became current.",
    )


@dg.op(description="Make an earlier version the production model again, after verifying its bytes.")
def roll_back(
    context: dg.OpExecutionContext,
    config: RollbackConfig,
    model_registry: dg.ResourceParam[ModelRegistry],
    reports: dg.ResourceParam[ReportStore],
) -> None:
    moves = model_registry.moves(ASSET)
    version = find_earlier_version(moves, config.version)
    current = moves[0].digest
    reason = f"{ROLLBACK_PREFIX} to {version[:16]} from {current[:16]}"
    model_registry.set_current(ASSET, version, expected=current, why=reason)
    context.log_event(
        dg.AssetMaterialization(
            ASSET,
            description=reason,
            metadata={"promoted": False, "decision": reason, **describe_history(model_registry.moves(ASSET), reports)},
            tags={DATA_VERSION_TAG: version},
        )
    )


def find_earlier_version(moves: Sequence[Move], prefix: str) -> str:
    """Return the digest of the one earlier version that begins with `prefix`.

    An empty prefix means the version before the current one first became current. Raises dagster.Failure, which lists
    all versions, if there is no such version or more than one.
    """
    history = [move.digest for move in moves]
    if prefix:
        matching = {digest for digest in history[1:] if digest.startswith(prefix)} - set(history[:1])
        if len(prefix) >= MIN_DIGEST_DIGITS and len(matching) == 1:
            return matching.pop()
        problem = f"{prefix!r} does not name one earlier version of {ASSET} by {MIN_DIGEST_DIGITS} digits or more."
    else:
        # After a rollback the latest move left a version that rolling back once more must not return to.
        first = len(history) - 1 - history[::-1].index(history[0]) if history else 0
        if history[first + 1 :]:
            return history[first + 1]
        problem = f"{ASSET} has no version before the current one."
    versions = [f"{move.digest[:16]} ({move.at or 'time unknown'}, {move.why or 'why unknown'})" for move in moves]
    listed = "; ".join(versions) or "none"
    raise dg.Failure(f"{problem} Its versions, the current one first: {listed}.", allow_retries=False)
