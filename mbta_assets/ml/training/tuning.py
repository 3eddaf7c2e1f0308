"""Hyperparameter search: trials run in parallel on Ray Tune and stopped by successive halving, reproducibly.

A configuration is judged on several folds of the data, each in a trial of its own; its error is the mean over them.

Ray's own asynchronous halving compares a trial with whichever results have arrived, so that two runs of one search may
select different winners. Here a configuration is compared only with those before it in the search; one that is ahead
of them runs on until it can be compared. The outcome depends on the configurations and the seed alone, not on the
number of workers, their speed, or the loss of one.
"""

import math
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Self

import numpy as np

from mbta_assets.ml.training.compute import MAX_RETRIES_ON_NODE_FAILURE, ONE_CORE, Resources
from mbta_assets.progress.lines import ProgressLog

Configuration = dict[str, Any]
Curve = list[float]
"""Validation error after each step of a trial, from step 1, or the mean of several trials."""
Report = Callable[[float], None]
"""Called by a trial after each step with its validation error."""
Trial = Callable[[Configuration, Any, Report, Resources], Any]
"""Trains one configuration on one fold of the data with some resources and reports after each step."""


@dataclass(frozen=True)
class Halving:
    """Successive halving: configurations are compared at steps `grace`, `grace` x `factor`, …, below `steps`.

    At each of these rungs one goes on if its error is within the best 1 / `factor` of those before it.
    """

    grace: int
    steps: int
    factor: int = 3
    within: str | None = None
    """Key of a configuration: only those with the same value are compared, where others start far behind, say."""

    @classmethod
    def from_fraction(cls, steps: int, grace_fraction: float, factor: int, within: str | None = None) -> Self:
        """Place the first rung after a fraction of the steps of a full trial, rounded down, but not before step 1."""
        return cls(max(1, int(steps * grace_fraction)), steps, factor, within)

    @property
    def rungs(self) -> list[int]:
        """Return the steps at which configurations are compared."""
        rungs = []
        step = self.grace
        while step < self.steps:
            rungs.append(step)
            step *= self.factor
        return rungs

    def stopping_steps(
        self, configurations: Sequence[Configuration], curves: Sequence[Curve], ended: Sequence[bool]
    ) -> list[int | None]:
        """Return the step at which each configuration has to stop; None for one that goes on or cannot be compared yet.

        `curves` and `ended` give the errors of each configuration so far, and whether it has ended.
        """
        groups = [configuration.get(self.within) if self.within else None for configuration in configurations]
        stops: list[int | None] = [None] * len(curves)
        for group in dict.fromkeys(groups):
            members = [index for index, of_configuration in enumerate(groups) if of_configuration == group]
            for rung in self.rungs:
                self._compare(rung, members, curves, ended, stops)
        return stops

    def _compare(
        self,
        rung: int,
        members: Sequence[int],
        curves: Sequence[Curve],
        ended: Sequence[bool],
        stops: list[int | None],
    ) -> None:
        """Compare the configurations with these indices at a rung, and set the step of those that stop there."""
        earlier_errors: list[float] = []
        for index in members:
            if stops[index] is not None:
                continue
            if len(curves[index]) < rung:
                if not ended[index]:
                    return  # later ones wait for the result of this one
                continue
            error = min(curves[index][:rung])
            if earlier_errors and error > np.quantile(earlier_errors, 1 / self.factor):
                stops[index] = rung
            earlier_errors.append(error)


@dataclass(frozen=True)
class Result:
    """One configuration, and its mean validation error over the folds at each step until it was stopped."""

    index: int
    configuration: Configuration
    curve: Curve

    @property
    def best(self) -> float:
        """Return the smallest validation error."""
        return min(self.curve)


def search(
    trial: Trial,
    configurations: Sequence[Configuration],
    folds: Sequence[Any],
    halving: Halving,
    resources: Resources = ONE_CORE,
) -> list[Result]:
    """Run a trial of each configuration on each fold within a `ray_session` and return their results in order.

    The curves of stopped configurations end where they were stopped. The data of the folds are stored once for all
    trials. A trial whose node is lost starts again on another. Raises RuntimeError with the error of the first trial
    that failed, if any did.
    """
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # the newer reporter prints even if verbose is 0
    from ray import tune  # takes seconds to import; the code location imports this module and must load fast

    trials, progress = _Trials(configurations, len(folds), halving), ProgressLog("search", "trials")
    trainable = tune.with_parameters(
        _report_trial, trial=trial, configurations=list(configurations), folds=list(folds), resources=resources
    )
    with tempfile.TemporaryDirectory() as scratch:
        grid = tune.Tuner(
            tune.with_resources(trainable, {"cpu": resources.cpus, "gpu": resources.gpus}),
            param_space={"index": tune.grid_search(list(range(len(configurations) * len(folds))))},
            tune_config=tune.TuneConfig(
                scheduler=_create_scheduler(trials, progress), metric="error", mode="min", reuse_actors=True
            ),
            run_config=tune.RunConfig(
                storage_path=scratch,
                name="search",
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=MAX_RETRIES_ON_NODE_FAILURE),
            ),
        ).fit()
    if grid.errors:
        raise RuntimeError(f"a trial of the search failed: {grid.errors[0]}") from grid.errors[0]
    if trials.failures:
        _, failure = min(trials.failures.items())
        raise RuntimeError(f"a trial of the search failed: {failure}")
    progress.end(len(trials.curves), trials.describe_best())
    curves = trials.mean_curves()
    stops = halving.stopping_steps(configurations, curves, [True] * len(configurations))
    return [
        Result(index, configuration, curve[:stop])
        for index, (configuration, curve, stop) in enumerate(zip(configurations, curves, stops, strict=True))
    ]


def run_trials(
    trial: Trial, configuration: Configuration, folds: Sequence[Any], resources: Resources = ONE_CORE
) -> list[Result]:
    """Run the trials of the only configuration of a search in this process, without Ray; return its result in a list.

    Raises RuntimeError with the error of the trial if one failed.
    """
    curves: list[Curve] = [[] for _ in folds]
    try:
        for data, curve in zip(folds, curves, strict=True):
            trial(configuration, data, curve.append, resources)
    except Exception as error:
        raise RuntimeError(f"a trial of the search failed: {error}") from error
    return [Result(0, configuration, mean_curve(curves, [True] * len(folds)))]


def mean_curve(curves: Sequence[Curve], ended: Sequence[bool]) -> Curve:
    """Return the mean of the curves of several folds at each step that all of them have reached.

    A trial that has ended has its smallest error from there on.
    """
    lengths = [len(curve) for curve, has_ended in zip(curves, ended, strict=True) if not has_ended]
    steps = min(lengths) if lengths else max(map(len, curves))
    if not all(curves):
        return []
    return [
        sum(curve[step] if step < len(curve) else min(curve) for curve in curves) / len(curves) for step in range(steps)
    ]


def best_result(results: Sequence[Result]) -> Result:
    """Return the result with the smallest validation error, the first one of equals."""
    return min(results, key=lambda result: (result.best, result.index))


def _report_trial(
    config: dict[str, int], trial: Trial, configurations: list[Configuration], folds: list[Any], resources: Resources
) -> None:
    """Run the trial of one index and report its steps, or its failure, to Ray Tune."""
    from ray import tune  # see `search`

    index, steps = config["index"], count(1)

    def report(error: float) -> None:
        tune.report({"error": error, "index": index, "step": next(steps)})

    try:
        trial(configurations[index // len(folds)], folds[index % len(folds)], report, resources)
    except Exception as error:  # an error of the trial itself, which a retry would meet again
        tune.report({"error": math.inf, "index": index, "step": 0, "failure": f"{type(error).__name__}: {error}"})


@dataclass
class _Trials:
    """What the trials of a search have reported; those of a configuration follow one another, one for each fold."""

    configurations: Sequence[Configuration]
    folds: int
    halving: Halving
    curves: list[Curve] = field(init=False)
    ended: list[bool] = field(init=False)
    failures: dict[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Begin without a report."""
        self.curves = [[] for _ in range(len(self.configurations) * self.folds)]
        self.ended = [False] * len(self.curves)

    def record(self, result: dict[str, Any]) -> None:
        """Append a reported error to the curve of its trial, unless the step is there already."""
        curve = self.curves[result["index"]]
        if "failure" in result:
            self.failures[result["index"]] = result["failure"]
        elif result["step"] == len(curve) + 1:  # a trial that started again repeats its first steps
            curve.append(result["error"])

    def mean_curves(self) -> list[Curve]:
        """Return the mean curve of each configuration."""
        return [mean_curve(self.curves[trials], self.ended[trials]) for trials in self._list_trials()]

    def has_to_stop(self, index: int) -> bool:
        """Return whether the configuration of a trial has to stop."""
        ended = [all(self.ended[trials]) for trials in self._list_trials()]
        stops = self.halving.stopping_steps(self.configurations, self.mean_curves(), ended)
        return stops[index // self.folds] is not None

    def describe_best(self) -> str:
        """Return the smallest error of a configuration as a text; empty if there is none yet."""
        errors = [min(curve) for curve in self.mean_curves() if curve]
        return f"best error {min(errors):.1f} s" if errors else ""

    def _list_trials(self) -> list[slice]:
        """Return the indices of the trials of each configuration."""
        return [slice(first, first + self.folds) for first in range(0, len(self.curves), self.folds)]


def _create_scheduler(trials: _Trials, progress: ProgressLog) -> Any:
    """Create the scheduler of a search; its class needs Ray, which is imported late (see `search`)."""
    from ray.tune.schedulers import FIFOScheduler, TrialScheduler

    class OrderedHalving(FIFOScheduler):
        """Collects the curves of all trials and stops those of configurations that `halving` says to stop."""

        def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
            super().on_trial_add(tune_controller, trial)
            trials.ended[trial.config["index"]] = False  # it may have been lost and start again

        def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
            trials.record(result)
            over = sum(other.is_finished() for other in tune_controller.get_trials())
            progress.update(over, len(trials.curves), trials.describe_best())
            return TrialScheduler.STOP if trials.has_to_stop(result["index"]) else TrialScheduler.CONTINUE

        def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
            trials.record(result)
            trials.ended[trial.config["index"]] = True

        def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
            trials.ended[trial.config["index"]] = True

    return OrderedHalving()
