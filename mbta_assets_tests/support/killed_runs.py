"""Kill a run at random moments again and again, on a store that a reader watches all the time.

The run copies, joins and publishes three small service days and trains on them. The upstream tables have two versions:
while the store has everything of one, runs that would replace it by the other are killed one after the other until one
may end. Its tables and bundles must then be those of a run that nobody has disturbed, and no other file may be left.
"""

import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from mbta_assets.storage.bundle import BundleError
from mbta_assets.storage.model_registry import ModelRegistry
from mbta_assets.storage.parquet_tables import ParquetTables
from mbta_assets.storage.tables import MissingPartition, content_version
from mbta_assets_tests.support import plain_day
from mbta_assets_tests.support.dagster_dev import ROOT, environment, eventually
from mbta_assets_tests.support.warm_dagster import WarmDagster

DAYS = [plain_day.DAY + timedelta(days=n) for n in range(3)]
TRIPS = 6
MODULES = ("matplotlib.pyplot", "mbta_assets.definitions", "pandera", "scipy.stats", "xgboost")
CONFIG = {
    "training_set": {"rows_per_day": 200},
    "xgboost_model": {"rounds": 20, "trial_rounds": 20, "trial_rows": 100},
}
ARGUMENTS = (
    *("asset", "materialize", "-m", "mbta_assets.definitions"),
    *("--select", "group:upstream or group:transit or group:training or key:xgboost_model"),
    *("--partition-range", f"{DAYS[0]}...{DAYS[-1]}"),
    *("--config-json", json.dumps({"ops": {asset: {"config": config} for asset, config in CONFIG.items()}})),
)
MEMORY = Path("/dev/shm")
PAUSE_SECONDS = 0.2
"""Time between two rounds of the reader, which leaves most of a core to the runs."""
REJECTED_ROWS = "rejected_rows"
STEP = re.compile(r" - (\w+) - STEP_(START|SUCCESS) - ")
UPSTREAM, CHECKS = "upstream tables", "checks of the run"


@contextmanager
def temporary_directory() -> Iterator[Path]:
    """Yield an empty directory, in memory where there is such a file system, and remove it at the end.

    What a killed process has written stays there too, and nothing waits for a disk.
    """
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as directory:
        yield Path(directory)


def write_upstream(directory: Path, version: int) -> None:
    """Write the service days in version 0 or 1, which differ in every delay and in the rows that are rejected."""
    generator = random.Random(version)
    for day in DAYS:
        rows: plain_day.Rows = {"vehicle": [], "trip": [], "stop": plain_day.make_stops(), "schedule": []}
        for n in range(TRIPS):
            trip, begin = str(n), plain_day.BEGIN + timedelta(minutes=20 * n)
            late = generator.randint(30, 400)
            rows["vehicle"] += plain_day.make_reports(trip, f"R-{n}", begin=begin, late_seconds=late)
            rows["schedule"] += plain_day.make_stop_times(trip, begin=begin)
            rows["trip"].append(plain_day.make_trip(trip))
        if version == 0:
            rows["vehicle"].append(rows["vehicle"][0] | {"id": None})
        plain_day.write(directory, plain_day.shift_rows(rows, day), day)


@dataclass(frozen=True)
class Content:
    """What a store has: content versions of service days, digests of bundles, and paths of files."""

    tables: Mapping[tuple[str, date], str]
    bundles: Mapping[str, str]
    """Digest of the current version by asset."""
    files: frozenset[str]

    @classmethod
    def read(cls, store: Path) -> "Content":
        """Read and verify everything that is stored. Raises BundleError."""
        tables, registry = ParquetTables(store), ModelRegistry(store)
        names = sorted(path.name for path in (store / "tables").iterdir())
        days = [(name, day) for name in names for day in tables.days(name)]
        current = {asset: registry.current_digest(asset) for asset in registry.assets()}
        return cls(
            {(name, day): content_version(tables.read(name, [day])) for name, day in days},
            {asset: registry.get(asset, digest).digest for asset, digest in current.items() if digest},
            frozenset(
                str(path.relative_to(store))
                for path in store.rglob("*")
                if path.is_file() or path.name.startswith(".")  # a directory of a writer, even an empty one
            ),
        )

    @property
    def versions(self) -> frozenset[str]:
        """Return the paths of the files of bundles."""
        return frozenset(file for file in self.files if file.startswith("bundles/"))


@dataclass
class Figures:
    """What was counted."""

    kills: Counter[str] = field(default_factory=Counter)
    """Killed runs by the step in which they were."""
    unfinished: int = 0
    """Kills that left a file half written or not yet in its place."""
    mixed: int = 0
    """Kills that left some service days of a table in the old version and some in the new one."""
    completed: int = 0
    """Runs that were not killed; each followed a killed one."""
    failed: list[str] = field(default_factory=list)
    """Ends of the logs of runs that were not killed and failed."""
    differing: list[str] = field(default_factory=list)
    """Service days and bundles that differ from those of an undisturbed run, after a completed run."""
    litter: list[str] = field(default_factory=list)
    """Files that an undisturbed run does not leave, and those that are missing, after a completed run."""
    reads: int = 0
    """Service days and bundles that were read meanwhile."""
    torn: list[str] = field(default_factory=list)
    """Those of them that were no version that was published whole."""

    def to_table(self) -> str:
        """Return the figures as a table in Markdown."""
        rows = [
            ("kills", self.kills.total()),
            *((f"– in {phase}", number) for phase, number in self.kills.most_common()),
            ("kills that left an unfinished file or directory", self.unfinished),
            ("kills between the days of a table", self.mixed),
            ("runs that completed after kills", self.completed),
            ("runs that failed", len(self.failed)),
            ("digests that differ from those of an undisturbed run", len(self.differing)),
            ("files left that an undisturbed run does not leave", len(self.litter)),
            ("days and bundles read meanwhile", self.reads),
            ("– neither the old version nor the new one", len(self.torn)),
        ]
        return "\n".join(["| | |", "|---|---|", *(f"| {name} | {number:,} |" for name, number in rows)])

    @property
    def problems(self) -> list[str]:
        """Return everything that went wrong."""
        return [*self.failed, *self.differing, *self.litter, *self.torn]


class KilledRuns:
    """A store below a directory, runs that write it, and what is expected of them."""

    def __init__(self, root: Path) -> None:
        """Prepare an empty store."""
        self.store, self.upstream, self.log = root / "store", root / "upstream", root / "log.txt"
        (root / "tmp").mkdir(parents=True)
        write_upstream(self.upstream, 0)
        home = root / "dagster_home"
        home.mkdir()
        shutil.copy(ROOT / "dagster.yaml", home)
        self.variables = environment(
            self.store,
            self.upstream,
            DAGSTER_HOME=str(home),
            MBTA_START_DATE=str(DAYS[0]),
            TMPDIR=str(root / "tmp"),
        )
        shutil.rmtree(self.store)
        self.dagster = WarmDagster(MODULES, self.variables)
        self.figures, self.seconds = Figures(), 0.0
        self.expected = [self._run_undisturbed(version) for version in (0, 1)]
        self.current = 1

    def close(self) -> None:
        """End the process that runs are forked from."""
        self.dagster.close()

    def kill_and_restart(self, moments: random.Random, kills: int) -> None:
        """Replace the version that the store has by the other, in a run that follows so many killed ones."""
        new = 1 - self.current
        write_upstream(self.upstream, new)
        remaining = kills
        while remaining:
            if self._kill_at(moments.uniform(0, self.seconds)):
                remaining -= 1
                self._inspect_killed(new)
            else:  # it was faster than expected
                self._compare(new)
        self._start()
        self._end(self.dagster.wait())
        self._compare(new)

    def remove_earlier(self) -> None:
        """Remove the bundles of the version that is not current, which no run may do; nobody may be reading them."""
        registry = ModelRegistry(self.store)
        keep = {Path(file).parent.name for file in self.expected[self.current].versions}
        for asset in registry.assets():
            for stored in registry.versions(asset):
                if stored.version not in keep:
                    registry.remove(stored)

    def _run_undisturbed(self, version: int) -> Content:
        """Return the content of an empty store after a run."""
        shutil.rmtree(self.store, ignore_errors=True)
        write_upstream(self.upstream, version)
        self._start()
        status = self.dagster.wait()
        self.seconds = time.monotonic() - self.started
        if status:
            raise AssertionError(f"The undisturbed run has failed: {self.log.read_text()[-4000:]}")
        return Content.read(self.store)

    def _start(self) -> None:
        self.log.write_text("")
        self.started = time.monotonic()
        self.group = self.dagster.start(self.variables, self.log, *ARGUMENTS)

    def _kill_at(self, moment: float) -> bool:
        """Start a run and kill its processes after so many seconds; return False if it has ended before."""
        self._start()
        time.sleep(max(0.0, self.started + moment - time.monotonic()))
        try:
            os.killpg(self.group, signal.SIGKILL)
        except ProcessLookupError:
            self._end(self.dagster.wait())
            return False
        status = self.dagster.wait()
        if status != -signal.SIGKILL:
            self._end(status)
            return False
        self.figures.kills[find_phase(self.log.read_text())] += 1
        return True

    def _end(self, status: int) -> None:
        """Count a run that was not killed, and learn how long runs take at present."""
        self.seconds = time.monotonic() - self.started
        if status:
            self.figures.failed.append(self.log.read_text()[-2000:])
        else:
            self.figures.completed += 1

    def _inspect_killed(self, new: int) -> None:
        """Count what a kill has left."""
        self.figures.unfinished += any(True for _ in self.store.rglob(".*"))
        tables = ParquetTables(self.store)
        before, after = self.expected[1 - new].tables, self.expected[new].tables
        for name in {table for table, _ in after} - {REJECTED_ROWS}:
            are_new = {tables.versions(name, [day])[day] == after[name, day] != before[name, day] for day in DAYS}
            if len(are_new) > 1:
                self.figures.mixed += 1
                break

    def _compare(self, new: int) -> None:
        """Compare the store after a completed run with that after an undisturbed one."""
        self.current = new
        actual, expected, earlier = Content.read(self.store), self.expected[new], self.expected[1 - new]
        for kind in ("tables", "bundles"):
            one, other = getattr(actual, kind), getattr(expected, kind)
            self.figures.differing += [str(key) for key in one.keys() | other.keys() if one.get(key) != other.get(key)]
        self.figures.litter += sorted(actual.files - expected.files - earlier.versions)
        self.figures.litter += [f"{file} is missing" for file in sorted(expected.files - actual.files)]


def find_phase(log: str) -> str:
    """Return the step in which a run is whose log ends there."""
    steps = STEP.findall(log)
    if not steps:
        return "the start of the run"
    step, event = steps[-1]
    if step.endswith("_published"):
        return CHECKS
    if event == "SUCCESS" and step == "xgboost_model":
        return "the end of the run"
    return UPSTREAM if step in ("vehicle", "trip", "stop", "schedule") else f"`{step}`"


def watch(store: Path, expected: list[Content], rounds: Any, stop: Any, answer: Any) -> None:
    """Read every day and bundle of a store over and over, and send how many were read, and which were torn."""
    tables, registry = ParquetTables(store), ModelRegistry(store)
    keys = [key for key in expected[0].tables if key[0] != REJECTED_ROWS]
    reads, torn = 0, []
    while not stop.is_set():
        for name, day in keys:
            allowed = {content.tables[name, day] for content in expected}
            try:
                versions = [tables.versions(name, [day])[day]]
                read = content_version(tables.read(name, [day]))
                versions.append(tables.versions(name, [day])[day])
            except (MissingPartition, OSError, ValueError) as error:
                torn.append(f"{name} of {day}: {error!r}")
                continue
            if read not in versions or not {read, *versions} <= allowed:
                torn.append(f"{name} of {day}: content {read}, versions {versions}, published {sorted(allowed)}")
        for asset in expected[0].bundles:
            try:
                digest = registry.current(asset).digest
            except (BundleError, OSError, ValueError) as error:
                torn.append(f"{asset}: {error!r}")
                continue
            if digest not in {content.bundles[asset] for content in expected}:
                torn.append(f"{asset}: {digest}")
        reads += len(keys) + len(expected[0].bundles)
        rounds.value += 1
        stop.wait(PAUSE_SECONDS)
    answer.send((reads, torn))


@contextmanager
def watched(runs: KilledRuns) -> Iterator[Any]:
    """Watch the store in a process of its own, add what it sees to the figures, and yield its number of rounds."""
    context = multiprocessing.get_context("spawn")
    rounds, stop = context.Value("q", 0), context.Event()
    receiver, sender = context.Pipe(duplex=False)
    reader = context.Process(target=watch, args=(runs.store, runs.expected, rounds, stop, sender))
    reader.start()
    try:
        eventually("the reader has read everything once", 120, lambda: rounds.value)
        yield rounds
        stop.set()
        reads, torn = receiver.recv()
        runs.figures.reads += reads
        runs.figures.torn += torn
    finally:
        stop.set()
        reader.join(30)
        reader.kill()


def run_kills(
    root: Path, kills: int, seed: int, kills_per_restart: int, report: Callable[[str], None] | None = None
) -> Figures:
    """Kill runs at so many seeded random moments, restart after some of them, and return the figures."""
    moments, runs = random.Random(seed), KilledRuns(root)
    try:
        with watched(runs) as rounds:
            remaining = kills
            while remaining:
                batch = min(kills_per_restart, remaining)
                runs.kill_and_restart(moments, batch)
                remaining -= batch
                wait_for_reader(rounds)
                runs.remove_earlier()
                if report:
                    report(f"{kills - remaining} of {kills} kills; the last run took {runs.seconds:.1f} s")
    finally:
        runs.close()
    return runs.figures


def wait_for_reader(rounds: Any) -> None:
    """Wait until the reader has begun and ended a round, so that it reads no earlier bundle any more."""
    before = rounds.value
    eventually("the reader has ended a round", 60, lambda: rounds.value > before + 1, every=0.05)
