"""A store with a small but real production model, and servers that serve it, as processes of their own."""

import contextlib
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from mbta_assets.defs.monitoring.network_snapshot import snapshot
from mbta_assets.ml.evaluation import metrics
from mbta_assets.ml.inference import intervals
from mbta_assets.ml.inference.encoder import Encoder
from mbta_assets.ml.inference.intervals import Interval
from mbta_assets.ml.inference.model import INTERVAL, ONNX, Inputs, Model, predict, run_onnx
from mbta_assets.ml.inference.run_time import RuntimeLookup, cross_fitted_delay
from mbta_assets.ml.training import dataset
from mbta_assets.storage.bundle import Bundle, Draft, write
from mbta_assets.storage.model_registry import BundleStore
from mbta_assets.storage.reports import LEADERBOARD, NETWORK_SNAPSHOT, Reports
from mbta_assets.transit import schema
from mbta_assets_tests.support.dagster_dev import ROOT, eventually, free_port
from mbta_assets_tests.support.days import SIMULATED_DAYS, Simulation


@dataclass(frozen=True)
class World:
    """Simulated days, and models that have learned from the first of them."""

    test: pd.DataFrame
    """Labelled rows that no model has seen."""
    last_day: pd.DataFrame
    names: pd.DataFrame
    models: list[Bundle]
    """Two versions; the second is another network with the same inputs."""


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory, simulation: Simulation) -> World:
    """The simulated days, and two small networks."""
    root = tmp_path_factory.mktemp("world")
    rows = simulation.rows[simulation.rows["delay_seconds"].notna()].reset_index(drop=True)
    train, validation, test = (rows[rows["part"] == part].reset_index(drop=True) for part in dataset.PARTS)
    models = [_model(root / f"model{seed}", train, validation, seed) for seed in (0, 1)]
    stops = simulation.stops.rename(columns={"id": "stop_id", "name": "destination"})
    return World(test, simulation.last_day, stops[["stop_id", "destination", "platform_name"]], models)


def _model(directory: Path, train: pd.DataFrame, validation: pd.DataFrame, seed: int) -> Bundle:
    from mbta_assets.ml.training import onnx_export, search_spaces
    from mbta_assets.ml.training.network import NetworkConfig
    from mbta_assets.ml.training.network_trainer import TrainConfig, fit

    numeric, categories = (schema.columns(schema.TransitFeatures, role) for role in ("numeric", "category"))
    cross_fitted = cross_fitted_delay(train)
    encoder = Encoder.fit(train, numeric, categories).without(search_spaces.CALENDAR)
    inputs = Inputs.fit(encoder, RuntimeLookup.fit(train), train, cross_fitted)
    network = fit(
        NetworkConfig(hidden=(32, 16)),
        TrainConfig(epochs=2, seed=seed),
        inputs.arrays(train, "lookup", cross_fitted),
        inputs.arrays(validation, "lookup"),
    ).network
    onnx = onnx_export.to_onnx(network)
    delay = predict(inputs, "lookup", run_onnx(onnx), validation)
    calibrated = Interval.calibrate(validation, validation["delay_seconds"].to_numpy() - delay)
    files = {ONNX: onnx, INTERVAL: calibrated.to_json(), **inputs.files()}
    return write(directory, "onnx", files, residual_to="lookup", features=inputs.names, seed=seed)


@dataclass
class Production:
    """A store that somebody serves."""

    root: Path
    models: list[Bundle]

    def promote(self, model: Bundle | Draft) -> str:
        """Make a model the current one; its digest."""
        bundles = BundleStore(self.root)
        stored = bundles.put("production_model", model)
        bundles.point("production_model", stored.digest, bundles.current_digest("production_model"), "promoted")
        return stored.digest


@pytest.fixture
def empty(tmp_path: Path, world: World) -> Production:
    """A store without anything in it."""
    return Production(tmp_path / "store", world.models)


@pytest.fixture
def production(empty: Production) -> Production:
    """A store with the first model."""
    empty.promote(empty.models[0])
    return empty


@pytest.fixture(scope="session")
def whole_store(tmp_path_factory: pytest.TempPathFactory, world: World) -> Production:
    """A store with the first model, the leaderboard and the snapshot of the last day."""
    stored = Production(tmp_path_factory.mktemp("whole") / "store", world.models)
    version, model = stored.promote(world.models[0]), Model(world.models[0])
    delay, reports = model.predict(world.test), Reports(stored.root)
    assert model.interval
    row = metrics.leaderboard_row("quantized_student", world.test, delay)
    row |= {"version": version, "interval": intervals.scored(model.interval, world.test, delay)}
    board = [row, *(metrics.leaderboard_row(n, world.test, d) for n, d in metrics.baselines(world.test).items())]
    reports.write(LEADERBOARD, json.dumps(board).encode())
    reports.write(NETWORK_SNAPSHOT, snapshot(SIMULATED_DAYS[-1], world.last_day, world.names).to_bytes())
    return stored


@dataclass(frozen=True)
class Answer:
    """What a server said."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The body as JSON, which it must be."""
        assert self.headers["Content-Type"] == "application/json", self
        return json.loads(self.body)


class Server:
    """functions-framework with one of the functions, as a process of its own."""

    def __init__(self, process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
        self._process, self.port, self.log = process, port, log

    @classmethod
    def start(cls, target: str, log: Path, **variables: str) -> "Server":
        """Start one, with settings in its environment."""
        port = free_port()
        program = Path(sys.executable).with_name("functions-framework")
        command = [str(program), "--source", str(ROOT / "deploy/functions/main.py"), "--target", target]
        with log.open("ab") as output:
            process = subprocess.Popen(
                [*command, "--host", "127.0.0.1", "--port", str(port)],
                env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        server = cls(process, port, log)
        try:
            eventually(f"{target} answers", 60, server.answers)
        except BaseException:
            server.stop()
            raise
        return server

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def ask(self, path: str, body: Any = None, method: str | None = None, **headers: str) -> Answer:
        """Send a request, on a connection of its own; a body that is not bytes is sent as JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        if body is not None and not isinstance(body, bytes | Iterator):
            body, headers = json.dumps(body).encode(), {"Content-Type": "application/json", **headers}
        with contextlib.closing(connection):
            connection.request(method or ("GET" if body is None else "POST"), path, body, headers)
            response = connection.getresponse()
            return Answer(response.status, dict(response.getheaders()), response.read())

    def logged(self) -> list[dict[str, Any]]:
        """Every line it has logged, each of which is a JSON object."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def stop(self) -> None:
        """End it."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGTERM)
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def answers(self) -> bool:
        """Whether it listens yet. Raises AssertionError where it has ended."""
        assert self._process.poll() is None, self.log.read_text()[-3000:]
        try:
            return self.ask("/healthz").status in (200, 405)
        except OSError:
            return False


@contextlib.contextmanager
def serving(root: Path, log: Path, **variables: str) -> Iterator[Server]:
    """The HTTP function on a store."""
    server = Server.start("predict", log, **{"MBTA_STORE": str(root), "MBTA_REFRESH_SECONDS": "1", **variables})
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def server(whole_store: Production, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The HTTP function on the whole store."""
    with serving(whole_store.root, tmp_path_factory.mktemp("server") / "log") as running:
        yield running


@pytest.fixture
def copied(whole_store: Production, tmp_path: Path) -> Production:
    """A copy of the whole store, to be changed."""
    shutil.copytree(whole_store.root, tmp_path / "copy")
    return Production(tmp_path / "copy", whole_store.models)
