"""Reports that people and other programs read: files below `reports`, each replaced whole.

The store in a bucket is in `storage.gcs`.
"""

from pathlib import Path
from typing import Any

from mbta_assets.storage.atomic import lock_directory, sync

LEADERBOARD = "model_leaderboard.json"
NETWORK_SNAPSHOT = "network_snapshot.npz"
ACCURACY_HISTORY = "accuracy_history.json"
WIDTH_CORRECTION = "width_correction.json"


def name_model_report(digest: str) -> str:
    """Return the name of the report about a version of the production model."""
    return f"model_{digest[:16]}.html"


class ReportStore:
    """The reports below a root directory."""

    def __init__(self, root: Path) -> None:
        self.directory = root / "reports"

    def write(self, name: str, content: bytes) -> dict[str, Any]:
        """Replace a report and return metadata with its location."""
        path = self.directory / name
        with lock_directory(path.parent):
            incoming = path.with_name(f".incoming-{path.name}")
            incoming.write_bytes(content)
            sync(incoming)
            incoming.replace(path)
        return {"path": path}

    def find(self, name: str) -> dict[str, Any]:
        """Return metadata with the location of a report, as `write` does; empty if there is none."""
        path = self.directory / name
        return {"path": path} if path.exists() else {}

    def read(self, name: str) -> bytes:
        """Read a report. Raises FileNotFoundError."""
        return (self.directory / name).read_bytes()
