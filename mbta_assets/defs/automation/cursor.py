"""The cursor of the sensor `upstream_changes`: what it remembers from one tick to the next.

Dagster stores it as text. Cursors of earlier releases must stay readable, so stored names never change.
"""

import base64
import json
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Self

Versions = dict[str, str]
"""Version by table. A reported version has a key of its own beside the polled one; see `reported_key`."""
REPORTED_PREFIX = "reported "
_STORED_NAMES = {"pending": "asked"}
"""Names in stored cursors that differ from those of the fields."""


def reported_key(table: str) -> str:
    """Return the key in `Versions` of a table's reported version."""
    return REPORTED_PREFIX + table


def is_reported(key: str) -> bool:
    """Return whether a key in `Versions` is that of a reported version."""
    return key.startswith(REPORTED_PREFIX)


def get_table(key: str) -> str:
    """Return the table of a key in `Versions`."""
    return key.removeprefix(REPORTED_PREFIX)


@dataclass(frozen=True)
class PendingRun:
    """A requested run whose outcome is not known yet."""

    key: str
    """The run key of the request, which is also a tag of the run."""
    attempt: int
    """1 for the first run that is requested for these versions."""
    assets: Sequence[str]
    versions: Versions
    """Versions that count as handled once the run has succeeded."""


@dataclass
class Cursor:
    """State of the sensor. Mappings are by service day, written YYYY-MM-DD."""

    epoch: int
    """Time of the first tick in epoch seconds: a new cursor does not repeat the run keys of an earlier one."""
    floor: str
    """The sensor makes service days after this one although they are not stored yet."""
    count: int = 0
    """Number of run keys so far."""
    handled: dict[str, Versions] = field(default_factory=dict)
    """Versions that a run has succeeded with, or that existed at the first tick."""
    pending: dict[str, PendingRun] = field(default_factory=dict)
    failed: dict[str, PendingRun] = field(default_factory=dict)
    """The latest attempt where it failed and another one is to follow."""
    reported: dict[str, Versions] = field(default_factory=dict)
    """Reported versions that no run has handled."""
    given_up: dict[str, Versions] = field(default_factory=dict)
    """Versions that no run has handled, and that no further run is requested for."""
    read_until: int = -1
    """Position in Dagster's event log up to which reports were read."""

    def to_text(self) -> str:
        """Return the cursor as text, compressed because it holds the versions of thousands of service days."""
        stored = {_STORED_NAMES.get(name, name): value for name, value in asdict(self).items()}
        return base64.b85encode(zlib.compress(json.dumps(stored, separators=(",", ":")).encode(), 9)).decode()

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Read a cursor from the text that `to_text` returned, in this release or an earlier one."""
        stored = json.loads(zlib.decompress(base64.b85decode(text)))
        names = {stored_name: name for name, stored_name in _STORED_NAMES.items()}
        fields = {names.get(name, name): value for name, value in stored.items()}
        for name in ("pending", "failed"):
            fields[name] = {day: PendingRun(**run) for day, run in fields[name].items()}
        return cls(**fields)

    def mark_handled(self, day: str) -> None:
        """Move the versions of a pending run to the handled ones."""
        self.handled.setdefault(day, {}).update(self.pending.pop(day).versions)

    def give_up(self, day: str) -> None:
        """Let a pending run be the last one for its versions, although it has not handled them."""
        self.given_up[day] = self.pending.pop(day).versions

    def is_given_up(self, day: str, changed: Versions) -> bool:
        """Return whether the unhandled versions of a day are those it was given up with; any others end that."""
        if self.given_up.get(day) == changed:
            return True
        self.given_up.pop(day, None)
        return False
