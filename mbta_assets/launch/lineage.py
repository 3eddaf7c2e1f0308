"""Steps of a selection: one for each asset, in topological order, with the machine that the asset's tags ask for.

The asset graph is the only source of steps and of the dependencies between them.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Self

import dagster as dg

from mbta_assets.defs.machines import ACCELERATOR, ACCELERATORS, MACHINE_TYPE
from mbta_assets.launch import LaunchError

DEFAULT_MACHINE_TYPE = "e2-standard-4"
GIGABYTES_PER_CORE = {"standard": 4.0, "highmem": 8.0, "highcpu": 1.0}
N1_GIGABYTES_PER_CORE = {"standard": 3.75, "highmem": 6.5, "highcpu": 0.9}
MACHINE_TYPE_PATTERN = re.compile(r"([a-z]\w*)-(standard|highmem|highcpu)-([1-9]\d*)")
"""Machine series, memory class and number of virtual CPUs, as in n1-highmem-8."""


@dataclass(frozen=True)
class Machine:
    """Machine type, CPUs, memory and accelerators that a step runs on."""

    machine_type: str
    cores: int
    gigabytes: float
    accelerator: str | None = None
    accelerators: int = 0

    @classmethod
    def from_type(cls, machine_type: str, accelerator: str | None = None, accelerators: int = 0) -> Self:
        """Return a machine of one of Google's types, such as n1-standard-8. Raise ValueError for any other."""
        match = MACHINE_TYPE_PATTERN.fullmatch(machine_type)
        if match is None:
            raise ValueError(f"{machine_type!r} is no machine type")
        series, memory, cores = match.groups()
        gigabytes_per_core = N1_GIGABYTES_PER_CORE if series == "n1" else GIGABYTES_PER_CORE
        return cls(machine_type, int(cores), int(cores) * gigabytes_per_core[memory], accelerator, accelerators)

    @classmethod
    def from_tags(cls, asset: str, tags: Mapping[str, str]) -> Self:
        """Return the machine that an asset's tags ask for. Raise LaunchError if they are invalid."""
        accelerator = tags.get(ACCELERATOR)
        try:
            accelerators = int(tags.get(ACCELERATORS, "1" if accelerator else "0"))
            if accelerators < (1 if accelerator else 0):
                raise ValueError(f"{accelerators} accelerators")
            return cls.from_type(tags.get(MACHINE_TYPE, DEFAULT_MACHINE_TYPE), accelerator, accelerators)
        except ValueError as error:
            raise LaunchError(
                f"{asset} is tagged {dict(tags)}. {MACHINE_TYPE} may be such as n1-standard-8 or e2-highmem-4, "
                f"{ACCELERATOR} such as NVIDIA_TESLA_T4, and {ACCELERATORS} how many of them, 1 or more."
            ) from error


@dataclass(frozen=True)
class Step:
    """Asset to materialize, with its dependencies and its machine."""

    asset: str
    upstream: tuple[str, ...]
    """Assets that it depends on and that are steps of the same pipeline."""
    external_inputs: tuple[str, ...]
    """Assets that it depends on and that are not."""
    partitioned: bool
    machine: Machine


def select_steps(definitions: dg.Definitions, selection: str) -> list[Step]:
    """Return the steps of a selection, in the syntax of `dagster asset materialize --select`, in topological order.

    Raise LaunchError if the selection is invalid, or has no asset that can be materialized.
    """
    graph = definitions.resolve_asset_graph()
    try:
        selected = dg.AssetSelection.from_string(selection).resolve(graph)
    except Exception as error:  # Dagster's parser raises errors of many types
        raise LaunchError(f"The selection {selection!r} is invalid: {error}") from error
    nodes = [
        graph.get(key) for key in graph.toposorted_asset_keys if key in selected and graph.get(key).is_materializable
    ]
    if not nodes:
        assets = ", ".join(asset_names(graph.materializable_asset_keys))
        raise LaunchError(f"The selection {selection!r} has no asset that can be materialized. There are {assets}.")
    keys = {node.key for node in nodes}
    return [
        Step(
            asset=node.key.to_user_string(),
            upstream=asset_names(node.parent_keys & keys),
            external_inputs=asset_names(node.parent_keys - keys),
            partitioned=node.is_partitioned,
            machine=Machine.from_tags(node.key.to_user_string(), node.tags),
        )
        for node in nodes
    ]


def asset_names(keys: Iterable[dg.AssetKey]) -> tuple[str, ...]:
    """Return the names of assets in alphabetical order."""
    return tuple(sorted(key.to_user_string() for key in keys))
