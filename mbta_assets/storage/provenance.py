"""What bundles were made from, and which versions belong together.

The manifest of a bundle has the field `inputs`: the digest of every bundle that it was made from, by asset, ancestors
included. Versions belong together if no two of them name different digests of the same asset. This module imports the
standard library only, because whoever predicts imports it.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Self

from mbta_assets.storage.bundle import Bundle, BundleError
from mbta_assets.storage.materialize import materialize_command

INPUTS = "inputs"
TRAINING_SET = "training_set"
VERSION_DIGITS = 16
"""Digits of a digest that messages show."""


class MixedVersions(BundleError):
    """Bundles were made from different versions of one asset; the message names them and the command to run."""


@dataclass(frozen=True)
class Origin:
    """The digest of a bundle, and those of everything that it was made from, by asset."""

    digest: str
    inputs: Mapping[str, str]

    @classmethod
    def from_bundle(cls, bundle: Bundle) -> Self:
        """Return the origin that a manifest names."""
        return cls(bundle.digest, list_inputs(bundle.manifest))


def list_inputs(manifest: Mapping[str, Any]) -> dict[str, str]:
    """Return the digest of everything that a bundle was made from, by asset.

    A manifest from before there was the field `inputs` names the training set alone.
    """
    if INPUTS in manifest:
        return dict(manifest[INPUTS])
    return {TRAINING_SET: manifest[TRAINING_SET]} if TRAINING_SET in manifest else {}


def list_references(manifest: Mapping[str, Any]) -> dict[str, str]:
    """Return the digest of every bundle that a manifest names, by asset: its inputs, and the control beside it."""
    references = list_inputs(manifest)
    if "held_out" in manifest:  # named so in bundles without `inputs`
        references.setdefault("xgboost_held_out", manifest["held_out"])
    if control := manifest.get("control"):
        references[control["asset"]] = control["digest"]
    return references


def merge_inputs(origins: Mapping[str, Origin], consumer: str = "") -> dict[str, str]:
    """Return the digests of some bundles and of everything that they were made from, by asset.

    Raises MixedVersions where two of them name different digests of one asset; `consumer` is the asset to be made.
    """
    named: dict[str, dict[str, str]] = {}  # by asset, then by who names it
    for asset in sorted(origins):
        for name, digest in {**origins[asset].inputs, asset: origins[asset].digest}.items():
            named.setdefault(name, {})[asset] = digest
    for name in sorted(named, key=lambda name: (name != TRAINING_SET, name)):  # all others come from the training set
        if len(set(named[name].values())) > 1:
            raise _mixed_versions(name, named[name], consumer)
    return {name: next(iter(digests.values())) for name, digests in named.items()}


def resolve_inputs(
    assets: Collection[str],
    pinned: Mapping[str, str],
    find_current: Callable[[str], str | None],
    read_inputs: Callable[[str, str], Mapping[str, str]],
    consumer: str = "",
) -> dict[str, Origin]:
    """Return the version of each input of a step, all of which belong together, whatever the order of `assets`.

    A pinned version comes first. The next is what the chosen ones were made from. Of the rest, those that no other is
    made from have their current version. An asset without any version is left out. `read_inputs` returns what a version
    was made from, given its asset and digest. Raises MixedVersions.
    """

    def read_origin(asset: str, digest: str) -> Origin:
        return Origin(digest, read_inputs(asset, digest))

    chosen = {asset: read_origin(asset, pinned[asset]) for asset in sorted(assets) if asset in pinned}
    while remaining := set(assets) - chosen.keys():
        named = merge_inputs(chosen, consumer)
        if follow := remaining & named.keys():
            chosen |= {asset: read_origin(asset, named[asset]) for asset in follow}
            continue
        digests = {asset: find_current(asset) for asset in sorted(remaining)}
        current = {asset: read_origin(asset, digest) for asset, digest in digests.items() if digest}
        if not current:
            break
        ancestors = {name for asset, origin in current.items() for name in origin.inputs if name != asset}
        chosen |= {asset: origin for asset, origin in current.items() if asset not in ancestors}
    merge_inputs(chosen, consumer)
    return chosen


def _mixed_versions(name: str, digests: Mapping[str, str], consumer: str) -> MixedVersions:
    """Return the error that assets name different versions of one asset; `digests` has which of them names which."""
    first = next(iter(digests.items()))
    second = next(item for item in digests.items() if item[1] != first[1])

    def describe(asset: str, digest: str) -> str:
        version = digest[:VERSION_DIGITS]
        return f"{asset} is version {version}" if asset == name else f"{asset} was made from version {version}"

    selection = f"{name}+ and +{consumer}" if consumer else f"{name}+"
    return MixedVersions(
        f"{consumer or 'A model'} would mix two versions of {name}: {describe(*first)}, and {describe(*second)}. "
        f"Make everything from {name} on in one run: "
        f"{materialize_command(selection)}"
    )
