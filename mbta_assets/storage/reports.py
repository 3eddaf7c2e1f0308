"""What people and other programs read of the results: files below `reports`, each replaced whole."""

from pathlib import Path
from typing import Any

from mbta_assets.storage.atomic import locked, sync

LEADERBOARD = "model_leaderboard.json"
NETWORK_SNAPSHOT = "network_snapshot.npz"


class ReportStore:
    """The reports below a root directory."""

    def __init__(self, root: Path) -> None:
        self.directory = root / "reports"

    def write(self, name: str, content: bytes) -> dict[str, Any]:
        """Replace a report. Returns metadata that says where it is."""
        path = self.directory / name
        with locked(path.parent):
            incoming = path.with_name(f".incoming-{path.name}")
            incoming.write_bytes(content)
            sync(incoming)
            incoming.replace(path)
        return {"path": path}

    def read(self, name: str) -> bytes:
        """A report as it was last written. Raises FileNotFoundError."""
        return (self.directory / name).read_bytes()
