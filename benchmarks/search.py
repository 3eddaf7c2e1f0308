"""Measure a search of 16 trials against the same fits one after the other, with the training set of a store.

`performance.py` makes tables of it. Each trial has one core; the Ray session is started before, once a run. Times are
those that one waits.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mbta_assets.defs.models.dnn_teacher import TeacherConfig
from mbta_assets.defs.models.xgboost_model import XGBoostConfig
from mbta_assets.ml.training import tuning
from mbta_assets.ml.training.compute import Resources
from mbta_assets.ml.training.executor import TrainingExecutor
from mbta_assets.ml.training.network_data import NetworkData
from mbta_assets.ml.training.teacher import search_teachers
from mbta_assets.ml.training.xgboost_model import LabelledRows, search_trees
from mbta_assets.storage.model_registry import ModelRegistry

TRIALS, SEED = 16, 0
ONE_AFTER_THE_OTHER, IN_A_SEARCH, WITH_HALVING = "one after the other", "trials of a search", "with successive halving"


@dataclass
class TimedExecutor(TrainingExecutor):
    """Runs the trials of a search in three ways, and keeps how long each took, and what it found in how many steps."""

    seconds: dict[str, float] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)
    """The smallest error of a trial."""
    steps: dict[str, int] = field(default_factory=dict)
    """Steps of all trials, each until it was stopped."""

    def search(
        self,
        trial: tuning.Trial,
        configurations: Sequence[tuning.Configuration],
        folds: Sequence[Any],
        halving: tuning.Halving,
    ) -> list[tuning.Result]:
        """Run all trials to their end in this process, then in a search, then in one that stops the worse ones."""
        search = super().search
        search(_report_nothing, configurations[:2], folds, halving)  # starts the session

        def run_each() -> list[tuning.Result]:
            return [
                result
                for configuration in configurations
                for result in tuning.run_trials(trial, configuration, folds, self.trial_resources)
            ]

        to_the_end = replace(halving, grace=halving.steps)
        self._time(ONE_AFTER_THE_OTHER, run_each)
        self._time(IN_A_SEARCH, lambda: search(trial, configurations, folds, to_the_end))
        return self._time(WITH_HALVING, lambda: search(trial, configurations, folds, halving))

    def _time(self, name: str, run: Callable[[], list[tuning.Result]]) -> list[tuning.Result]:
        started_at = time.perf_counter()
        results = run()
        self.seconds[name] = time.perf_counter() - started_at
        self.errors[name] = tuning.best_result(results).best
        self.steps[name] = sum(len(result.curve) for result in results)
        return results


def _report_nothing(_: tuning.Configuration, data: Any, report: tuning.Report, resources: Resources) -> None:
    """Report one error, as a trial that takes no time."""
    report(0.0)


def measure_searches(store: Path) -> Iterator[tuple[str, TimedExecutor]]:
    """Measure a search for trees and one for a teacher, each on the validation part alone."""
    registry = ModelRegistry(store)
    training_set, runtime_lookup = registry.current("training_set"), registry.current("runtime_lookup")
    rows = LabelledRows.from_bundle(training_set)
    training = XGBoostConfig(folds=1).build_training(TRIALS, SEED)
    yield "boosted trees", _measure(lambda executor: search_trees(rows, training, executor))
    folds = NetworkData.iterate_folds(training_set, runtime_lookup, SEED, 1)
    of_teacher = TeacherConfig(folds=1).build_training(TRIALS, SEED)
    yield "networks", _measure(lambda executor: search_teachers(folds, of_teacher, executor))


def _measure(search: Callable[[TrainingExecutor], object]) -> TimedExecutor:
    """Return the times of a search."""
    executor = TimedExecutor()
    try:
        search(executor)
    finally:
        executor.close()
    return executor
