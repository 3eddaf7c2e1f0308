"""The transit network that a model was trained on, as its manifest names it, and the refusal of a model of another one.

The field `network` of a manifest has the agency, and a bottom-k sketch of the stops that its routes serve: the smallest
hashes of all pairs of a route and a stop. Of other pairs whose hashes are as small, about as many are in the sketch as
of all others are among those that the model has seen. Stops by themselves say less: half of those of one agency may
have the ids of stops of another.
"""

from base64 import b64decode, b64encode
from collections.abc import Collection, Iterable, Mapping
from functools import lru_cache
from hashlib import blake2b
from typing import Any

import numpy as np

from mbta_assets.agency import AGENCY
from mbta_assets.ml.inference.encoder import Columns
from mbta_assets.storage.bundle import Bundle, BundleError

NETWORK = "network"
"""Field of a manifest; models of earlier releases have none, and are not refused."""
SKETCH_SIZE = 250
"""Pairs in a sketch, which takes a kilobyte."""
HASH_BYTES = 3
MIN_COMPARED = 10
"""Fewer pairs tell nothing of a network."""
MIN_SEEN_SHARE = 0.05
"""A schedule change that renames most stops or routes leaves more."""
ALLOW = "allow"

ServedStop = tuple[Any, Any]
"""Ids of a route and of a stop that it serves; where one is missing, the pair tells nothing."""


class ForeignNetwork(BundleError):
    """A model was trained on another network than that of the rows; the message says which, and what to do."""


def list_served_stops(columns: Columns) -> set[ServedStop]:
    """Return the routes and stops of feature columns of n rows."""
    routes, stops = (np.asarray(columns[name], dtype=object).tolist() for name in ("route_id", "stop_id"))
    return set(zip(routes, stops, strict=True))


def describe_network(served: Iterable[ServedStop]) -> dict[str, str]:
    """Return the manifest field of a model that is trained on rows with these routes and stops."""
    smallest = sorted(_hash_known_ids(served))[:SKETCH_SIZE]
    sketch = b64encode(b"".join(value.to_bytes(HASH_BYTES) for value in smallest)).decode()
    return {"agency": AGENCY.agency_name, "time_zone": AGENCY.time_zone, "served_stops": sketch}


def require_network(model: Bundle, served: Collection[ServedStop] = ()) -> None:
    """Raise ForeignNetwork if a model is of another agency than this process, or has seen hardly any of these stops.

    Nothing is refused with MBTA_FOREIGN_MODEL=allow.
    """
    network = model.manifest.get(NETWORK)
    if network is None or AGENCY.foreign_model == ALLOW:
        return
    own = {"agency": AGENCY.agency_name, "time_zone": AGENCY.time_zone}
    if any(network[name] != value for name, value in own.items()):
        raise ForeignNetwork(
            f"{model.path} was trained for the agency {_name_agency(network)}, and this is {_name_agency(own)}. "
            f"Correct MBTA_AGENCY_NAME or MBTA_TIME_ZONE, or {_REMEDY}"
        )
    if len(served) < MIN_COMPARED:
        return
    n_seen, n_compared = _count_seen(network["served_stops"], served)
    if n_compared >= MIN_COMPARED and n_seen < MIN_SEEN_SHARE * n_compared:
        raise ForeignNetwork(
            f"{model.path} was trained on another network than it is asked about: of {n_compared} stops of a route "
            f"that were compared, it has seen {n_seen}. Use the model of this network, or {_REMEDY}"
        )


def _count_seen(sketch: str, served: Iterable[ServedStop]) -> tuple[int, int]:
    """Return how many of the pairs that can be compared with a sketch are in it, and how many these are."""
    content = b64decode(sketch)
    seen = {int.from_bytes(content[begin : begin + HASH_BYTES]) for begin in range(0, len(content), HASH_BYTES)}
    # A sketch that is not full has the hashes of all pairs.
    limit = max(seen) if len(seen) == SKETCH_SIZE else 256**HASH_BYTES
    compared = {value for value in _hash_known_ids(served) if value <= limit} if seen else set()
    return len(compared & seen), len(compared)


def _hash_known_ids(served: Iterable[ServedStop]) -> set[int]:
    """Return the hashes of the pairs whose ids are both known."""
    return {_hash(route, stop) for route, stop in served if isinstance(route, str) and isinstance(stop, str)}


@lru_cache(maxsize=100_000)
def _hash(route: str, stop: str) -> int:
    return int.from_bytes(blake2b(f"{route}\n{stop}".encode(), digest_size=HASH_BYTES).digest())


def _name_agency(network: Mapping[str, str]) -> str:
    return f"{network['agency']!r} ({network['time_zone']})"


_REMEDY = (
    "train on service days of this one: materialize the groups training, models and production. "
    "To use the model all the same, set MBTA_FOREIGN_MODEL=allow."
)
