"""Hyperparameter search: trials in parallel on Ray Tune, halved successively (ASHA), the same winner every time.

Asynchronous halving as Ray ships it stops a trial by the results that happened to be there first, so two runs of the
same search may end differently. Here a trial is judged only by the trials before it in the search, in whatever
order results arrive: a trial that runs ahead of its judgement goes on until it can be judged. The outcome depends on
the configurations and the seed alone, not on the number of workers, their speed, or a worker that was lost.
"""

import math
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

Configuration = dict[str, Any]
Curve = list[float]
"""Validation error at each step of a trial, the first at step 1."""
Report = Callable[[float], None]
"""What a trial calls at each step with its validation error."""
Trial = Callable[[Configuration, Any, Report], None]


@dataclass(frozen=True)
class Halving:
    """When trials are judged: at steps `grace`, `grace` x `factor`, …; the best 1 / `factor` of those before go on."""

    grace: int
    factor: int = 3
    steps: int = 100

    @property
    def rungs(self) -> list[int]:
        """Steps at which a trial is judged."""
        rungs = []
        step = self.grace
        while step < self.steps:
            rungs.append(step)
            step *= self.factor
        return rungs

    def judged(self, curves: Sequence[Curve], ended: Sequence[bool]) -> list[int | None]:
        """For each trial the step it has to stop at; None for one that goes on, or cannot be judged yet."""
        stops: list[int | None] = [None] * len(curves)
        for rung in self.rungs:
            kept: list[float] = []
            for index, curve in enumerate(curves):
                if stops[index] is not None:
                    continue
                if len(curve) < rung:
                    if not ended[index]:
                        break  # those after it wait for its result
                    continue
                error = min(curve[:rung])
                if kept and error > np.quantile(kept, 1 / self.factor):
                    stops[index] = rung
                kept.append(error)
        return stops


@dataclass(frozen=True)
class Result:
    """One trial: its configuration, the validation error at each step until it was stopped, and its best."""

    index: int
    configuration: Configuration
    curve: Curve

    @property
    def best(self) -> float:
        """The smallest validation error."""
        return min(self.curve)


@dataclass(frozen=True)
class Resources:
    """What one trial has to itself."""

    cpus: float = 1
    gpus: float = 0

    @property
    def threads(self) -> int:
        """How many threads fill its cores."""
        return max(1, int(self.cpus))


ONE_CORE = Resources()
LOST_NODES = 5
"""So many times a trial begins again because its node was lost."""


@contextmanager
def ray_session(address: str | None) -> Iterator[None]:
    """A Ray cluster for the time of some searches: the one at `address`, else this machine's cores.

    To a cluster the package travels along, so that nodes need what it depends on, and not the package itself.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import logging

    import ray

    ray.init(
        address=address or "local",  # and not whatever other cluster there may be on this machine
        include_dashboard=None if address else False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        ignore_reinit_error=True,
        runtime_env={"py_modules": [str(Path(__file__).parents[2])]} if address else None,
    )
    try:
        yield
    finally:
        ray.shutdown()


def search(
    trial: Trial,
    configurations: Sequence[Configuration],
    data: Any,
    halving: Halving,
    resources: Resources = ONE_CORE,
) -> list[Result]:
    """Run a trial for each configuration and return their results in order, stopped ones cut short.

    Within a `ray_session`. `data` is shared once with all trials. A trial whose node is lost begins again elsewhere.
    Raises RuntimeError with the first trial's error if one failed.
    """
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # the newer reporter talks even when told not to
    from ray import tune

    scheduler = _scheduler(halving, len(configurations))
    with tempfile.TemporaryDirectory() as scratch:
        fitted = tune.Tuner(
            tune.with_resources(
                tune.with_parameters(_run_trial, trial=trial, configurations=list(configurations), data=data),
                {"cpu": resources.cpus, "gpu": resources.gpus},
            ),
            param_space={"index": tune.grid_search(list(range(len(configurations))))},
            tune_config=tune.TuneConfig(scheduler=scheduler, metric="error", mode="min", reuse_actors=True),
            run_config=tune.RunConfig(
                storage_path=scratch,
                name="search",
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=LOST_NODES),
            ),
        ).fit()
    if fitted.errors:
        raise RuntimeError(f"a trial of the search failed: {fitted.errors[0]}") from fitted.errors[0]
    if scheduler.failures:
        _, failure = min(scheduler.failures.items())
        raise RuntimeError(f"a trial of the search failed: {failure}")
    stops = halving.judged(scheduler.curves, [True] * len(configurations))
    return [
        Result(index, configuration, curve[:stop])
        for index, (configuration, curve, stop) in enumerate(zip(configurations, scheduler.curves, stops, strict=True))
    ]


def alone(trial: Trial, configuration: Configuration, data: Any) -> list[Result]:
    """What `search` finds of a single configuration, in this process: there is nothing to hold it against.

    Raises RuntimeError with the trial's error if it failed.
    """
    curve: Curve = []
    try:
        trial(configuration, data, curve.append)
    except Exception as error:
        raise RuntimeError(f"a trial of the search failed: {error}") from error
    return [Result(0, configuration, curve)]


def winner(results: Sequence[Result]) -> Result:
    """The result with the smallest validation error; of equals the first."""
    return min(results, key=lambda result: (result.best, result.index))


def each(
    call: Callable[[Any, Any], Any],
    items: Sequence[Any],
    data: Any,
    resources: Resources = ONE_CORE,
) -> list[Any]:
    """`call(item, data)` for each item side by side, within a `ray_session`; results in order.

    What is lost with its node is called again.
    """
    import ray

    shared = ray.put(data)
    task = ray.remote(num_cpus=resources.cpus, num_gpus=resources.gpus, max_retries=LOST_NODES)(call)
    return ray.get([task.remote(item, shared) for item in items])


def _run_trial(config: dict[str, int], trial: Trial, configurations: list[Configuration], data: Any) -> None:
    from ray import tune

    index, steps = config["index"], count(1)
    try:
        trial(configurations[index], data, lambda e: tune.report({"error": e, "index": index, "step": next(steps)}))
    except Exception as error:  # its own fault: to begin again would not help
        tune.report({"error": math.inf, "index": index, "step": 0, "failure": f"{type(error).__name__}: {error}"})


def _scheduler(halving: Halving, trials: int) -> Any:
    from ray.tune.schedulers import FIFOScheduler, TrialScheduler

    class OrderedHalving(FIFOScheduler):
        """Collects the curves and stops each trial that `halving` has judged."""

        def __init__(self) -> None:
            super().__init__()
            self.curves: list[Curve] = [[] for _ in range(trials)]
            self.ended = [False] * trials
            self.failures: dict[int, str] = {}

        def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
            super().on_trial_add(tune_controller, trial)
            self.ended[trial.config["index"]] = False  # for it may have been lost

        def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
            self.record(result)
            stop = halving.judged(self.curves, self.ended)[result["index"]]
            return TrialScheduler.CONTINUE if stop is None else TrialScheduler.STOP

        def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
            self.record(result)
            self.ended[trial.config["index"]] = True

        def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
            self.ended[trial.config["index"]] = True

        def record(self, result: dict[str, Any]) -> None:
            curve = self.curves[result["index"]]
            if "failure" in result:
                self.failures[result["index"]] = result["failure"]
            elif result["step"] == len(curve) + 1:  # what began again repeats itself at first
                curve.append(result["error"])

    return OrderedHalving()
