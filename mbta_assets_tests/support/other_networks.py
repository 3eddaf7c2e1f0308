"""Models as if they had been trained on some network."""

from collections.abc import Iterable

from mbta_assets.ml.inference.transit_network import NETWORK, ServedStop, describe_network
from mbta_assets.storage.bundle import Bundle, Draft

OTHER_NETWORK = [("C53", str(stop)) for stop in range(50)]
"""Stops of a bus route that no test runs."""


def with_network(model: Bundle, served: Iterable[ServedStop]) -> Draft:
    """Return a copy of a model whose manifest says that it was trained on some stops of routes."""
    files = {name: model.file(name) for name in model.manifest["files"]}
    written = ("files", "format_version", "kind")
    fields = {name: value for name, value in model.manifest.items() if name not in written}
    return Draft(model.manifest["kind"], files, {**fields, NETWORK: describe_network(served)})
