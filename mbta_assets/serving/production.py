"""The production model as it is now: followed from version to version without a request being kept waiting."""

import threading
import time

from mbta_assets.bundle import BundleError
from mbta_assets.cloud import CloudError
from mbta_assets.serving import logs
from mbta_assets.serving.predictor import Predictor
from mbta_assets.serving.store import Store


class Unavailable(Exception):
    """There is no model to predict with yet; the message says why."""


class Production:
    """The predictor of the current version.

    Whoever asks after `refresh_seconds` has the pointer looked at in the background; requests go on with the model
    they have, and the next ones take the new one once it is there, whole and tried. What goes wrong meanwhile is
    logged, and the model stays.
    """

    def __init__(self, store: Store, refresh_seconds: float) -> None:
        self.store = store
        self.refresh_seconds = refresh_seconds
        self._predictor: Predictor | None = None
        self._looked_at = float("-inf")
        self._failure: str | None = None
        self._looking = threading.Lock()

    @property
    def held(self) -> Predictor | None:
        """The predictor that is there, if there is one; nothing is looked for."""
        return self._predictor

    def predictor(self) -> Predictor:
        """The predictor to answer a request with. Raises Unavailable."""
        found = self._predictor
        if found is None:
            return self._first()
        if time.monotonic() - self._looked_at >= self.refresh_seconds and self._looking.acquire(blocking=False):
            threading.Thread(target=self._refresh, name="refresh", daemon=True).start()
        return found

    def _first(self) -> Predictor:
        with self._looking:  # all who come meanwhile wait for the one that loads
            lately = time.monotonic() - self._looked_at < min(self.refresh_seconds, 1.0)
            if self._predictor is None and not (self._failure and lately):
                self._look()
        if self._predictor is None:
            raise Unavailable(self._failure)
        return self._predictor

    def _refresh(self) -> None:
        try:
            self._look()
        finally:
            self._looking.release()

    def _look(self) -> None:
        """Take over another version if there is one."""
        held = self._predictor
        try:
            version = self.store.version()
            if held is None or version not in (None, held.version):
                self._predictor = Predictor(self.store.bundle(version))
                logs.write("NOTICE", "model loaded", version=self._predictor.version, before=held and held.version)
            self._failure = None
        except Exception as error:  # whatever it is, what is held is better
            known = isinstance(error, BundleError | CloudError)
            self._failure = str(error) if known else f"{type(error).__name__} while the model was loaded"
            logs.write("ERROR", "model not loaded", problem=str(error), kept=held and held.version)
        finally:
            self._looked_at = time.monotonic()
