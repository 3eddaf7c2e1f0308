"""The steps of a selection, as the lineage has them: one an asset, in an order in which each follows what it needs."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import dagster as dg

from mbta_assets.defs.machines import ACCELERATOR, ACCELERATORS, MACHINE_TYPE
from mbta_assets.launch import LaunchError

GIGABYTES = {"standard": 4.0, "highmem": 8.0, "highcpu": 1.0}
"""Memory by core of a family of machines."""
OLDER_GIGABYTES = {"standard": 3.75, "highmem": 6.5, "highcpu": 0.9}
"""The same of n1."""


@dataclass(frozen=True)
class Machine:
    """What a step is to run on."""

    machine_type: str = "e2-standard-4"
    accelerator: str | None = None
    accelerators: int = 0

    @classmethod
    def of(cls, asset: str, tags: Mapping[str, str]) -> "Machine":
        """As an asset's tags say. Raises LaunchError."""
        accelerator = tags.get(ACCELERATOR)
        number = tags.get(ACCELERATORS, "1" if accelerator else "0")
        machine = cls(tags.get(MACHINE_TYPE, cls.machine_type), accelerator, int(number) if number.isdigit() else -1)
        if _SHAPE.fullmatch(machine.machine_type) is None or machine.accelerators < bool(accelerator):
            raise LaunchError(
                f"{asset} is tagged {dict(tags)}. {MACHINE_TYPE} may be such as n1-standard-8 or e2-highmem-4, "
                f"{ACCELERATOR} such as NVIDIA_TESLA_T4, and {ACCELERATORS} how many of them, 1 or more."
            )
        return machine

    @property
    def cores(self) -> int:
        """Virtual processors."""
        return int(self._shape[3])

    @property
    def gigabytes(self) -> float:
        """Memory."""
        by_core = OLDER_GIGABYTES if self._shape[1] == "n1" else GIGABYTES
        return self.cores * by_core[self._shape[2]]

    @property
    def _shape(self) -> re.Match[str]:
        found = _SHAPE.fullmatch(self.machine_type)
        assert found, "`of` has checked it"
        return found


_SHAPE = re.compile(r"([a-z]\w*)-(standard|highmem|highcpu)-([1-9]\d*)")


@dataclass(frozen=True)
class Step:
    """An asset that is to be made."""

    asset: str
    upstream: tuple[str, ...]
    """The assets among the steps that it is made from."""
    outside: tuple[str, ...]
    """The assets that it is made from and that are not among them."""
    partitioned: bool
    machine: Machine


def steps(definitions: dg.Definitions, selection: str) -> list[Step]:
    """The steps of a selection, written as for `dagster asset materialize --select`. Raises LaunchError."""
    graph = definitions.resolve_asset_graph()
    try:
        chosen = dg.AssetSelection.from_string(selection).resolve(graph)
    except Exception as error:  # Dagster's parser has many
        raise LaunchError(f"The selection {selection!r} is not understood: {error}") from error
    nodes = [
        graph.get(key) for key in graph.toposorted_asset_keys if key in chosen and graph.get(key).is_materializable
    ]
    if not nodes:
        known = ", ".join(sorted(key.to_user_string() for key in graph.materializable_asset_keys))
        raise LaunchError(f"The selection {selection!r} has no asset that can be made. There are {known}.")
    keys = {node.key for node in nodes}

    def names(parents: Iterable[dg.AssetKey]) -> tuple[str, ...]:
        return tuple(sorted(key.to_user_string() for key in parents))

    return [
        Step(
            node.key.to_user_string(),
            names(node.parent_keys & keys),
            names(node.parent_keys - keys),
            node.is_partitioned,
            Machine.of(node.key.to_user_string(), node.tags),
        )
        for node in nodes
    ]
