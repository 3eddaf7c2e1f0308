"""The production model as it is now, followed from version to version."""

from mbta_assets.serving import logs
from mbta_assets.serving.predictor import Predictor
from mbta_assets.serving.refreshing_cache import Kept
from mbta_assets.serving.store import Store


def follow(where: str, refresh_seconds: float = 30) -> Kept[Predictor]:
    """The predictor of a store's current version, at any time: `follow(".local").get()`; see `Store.at`.

    Raises BundleError where there can be no model; `get` raises Unavailable while there is none.
    """
    return production(Store.at(where), refresh_seconds)


def production(store: Store, refresh_seconds: float) -> Kept[Predictor]:
    """The predictor of the current version; another one takes its place once it is whole and has been tried."""

    def load(held: Predictor | None) -> Predictor:
        version = store.version()
        if held is not None and version in (None, held.version):
            return held
        found = Predictor(store.bundle(version))
        logs.write("NOTICE", "model loaded", version=found.version, before=held and held.version)
        return found

    return Kept("model", load, refresh_seconds)
