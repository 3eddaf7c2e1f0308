"""What the searches for networks draw from, and one trial of each.

A configuration is plain JSON: what of it is architecture and what is optimisation, `configs` tells.
"""

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from mbta_assets.ml.inference.arrays import Arrays, Parts, drawn
from mbta_assets.ml.training.distillation import LessonConfig, lesson
from mbta_assets.ml.training.network import Network, NetworkConfig
from mbta_assets.ml.training.network_trainer import Fitted, TrainConfig, fit
from mbta_assets.ml.training.network_weights import to_files
from mbta_assets.ml.training.tuning import Configuration, Report

CALENDAR = frozenset({"month", "day_of_week", "day_of_year", "season"})
"""Inputs that stay the same for a whole service day: of few days a network learns them by heart."""
CALENDAR_DAYS = 21
"""Service days of a training set from which on teachers may read the calendar: a short trial does not see the harm."""
RESIDUAL_TO = "lookup"
"""What networks learn the residual to."""
ORIGINAL: Configuration = {
    "inputs": "all", "hidden": [128, 64, 32, 16], "numeric": "none", "embedding_dim": 4, "dropout": 0.1,
    "learning_rate": 0.01, "weight_decay": 0.01,
}  # fmt: skip
"""The plain network of the system before this one, with an absolute loss."""
TEACHER: Configuration = {
    "inputs": "steady", "hidden": [320, 160, 64], "numeric": "piecewise_linear", "bins": 16, "numeric_dim": 4,
    "embedding_dim": 4, "dropout": 0.0, "learning_rate": 0.006, "batch_size": 512, "weight_decay": 0.01,
}  # fmt: skip
STUDENT: Configuration = {
    "hidden": [48, 24], "numeric": "piecewise_linear", "bins": 8, "numeric_dim": 2, "embedding_dim": 2,
    "learning_rate": 0.03, "weight_decay": 0.01, "weight": 0.5,
}  # fmt: skip


def teachers(n: int, seed: int, service_days: int) -> list[Configuration]:
    """The first `n` configurations of a seeded search for a teacher: some that have served well, then random ones.

    `service_days` is how many the training set has.
    """
    random = np.random.default_rng(seed)
    drawn = [
        {
            "inputs": str(random.choice(["steady", "all"], p=[0.8, 0.2])),
            "hidden": _one_of(random, [320, 160, 64], [384, 128], [256, 256, 64]),
            "numeric": str(random.choice(["piecewise_linear", "periodic"], p=[0.7, 0.3])),
            "bins": int(random.choice([12, 16, 24])),
            "numeric_dim": int(random.choice([4, 6])),
            "embedding_dim": int(random.choice([2, 4, 6])),
            "dropout": float(random.choice([0.0, 0.05, 0.1])),
            "learning_rate": _log_uniform(random, 0.003, 0.012),
            "batch_size": int(random.choice([512, 1024])),
            "weight_decay": _log_uniform(random, 0.001, 0.1),
            "smooth": float(random.choice([0.0, 0.3])),
        }
        for _ in range(n)
    ]
    served = [
        TEACHER,
        {**TEACHER, "numeric": "periodic"},
        {**TEACHER, "numeric": "linear_relu"},
        ORIGINAL,
        {**TEACHER, "inputs": "all"},
        {**TEACHER, "numeric": "none"},
    ]
    configurations = [*served, *drawn]
    if service_days < CALENDAR_DAYS:
        steady = [{**configuration, "inputs": "steady"} for configuration in configurations]
        configurations = [one for index, one in enumerate(steady) if one not in steady[:index]]
    return configurations[:n]


def students(n: int, seed: int, train: Arrays, most_bytes: int) -> list[Configuration]:
    """The first `n` configurations of a seeded search for a student; `weight` is its teacher's share of the loss.

    Those whose files would come to more than `most_bytes` are left out; if all would, the smallest is tried. `train` is
    training rows enough to tell the sizes by.
    """
    random = np.random.default_rng(seed)
    drawn = [
        {
            "hidden": _one_of(random, [64, 32], [48, 24], [64, 24], [40, 20]),
            "numeric": str(random.choice(["piecewise_linear", "periodic", "none"], p=[0.7, 0.15, 0.15])),
            "bins": int(random.choice([6, 8, 12])),
            "numeric_dim": int(random.choice([2, 3])),
            "embedding_dim": int(random.choice([2, 3])),
            "learning_rate": _log_uniform(random, 0.015, 0.04),
            "weight_decay": _log_uniform(random, 0.001, 0.1),
            "weight": float(random.uniform(0.3, 0.8)),
        }
        for _ in range(4 * n)
    ]
    served = [
        STUDENT,
        {**STUDENT, "weight": 0.3},
        {**STUDENT, "weight": 0.7},
        {**STUDENT, "numeric": "linear_relu"},
        {**STUDENT, "numeric": "none", "hidden": [64, 32]},
    ]
    sizes = {index: size_bytes(configuration, train) for index, configuration in enumerate(served + drawn)}
    fitting = [index for index, size in sizes.items() if size <= most_bytes]
    chosen = fitting[:n] or [min(sizes, key=sizes.__getitem__)]
    return [(served + drawn)[index] for index in chosen]


def configs(configuration: Configuration, **training: Any) -> tuple[NetworkConfig, TrainConfig]:
    """A configuration's architecture and its optimisation; `training` is what of that was not searched for."""

    def known(kind: type) -> dict[str, Any]:
        return {field.name: configuration[field.name] for field in fields(kind) if field.name in configuration}

    architecture = {**known(NetworkConfig), "hidden": tuple(configuration["hidden"])}
    return NetworkConfig(**architecture), TrainConfig(**known(TrainConfig), **training)


def teacher(
    configuration: Configuration, data: tuple[Parts, int], report: Report | None = None, threads: int = 1
) -> Fitted:
    """A teacher, trained on the parts for so many epochs."""
    parts, epochs = data
    if configuration["inputs"] == "steady":
        parts = parts.without(CALENDAR)
    network, training = configs(configuration, epochs=epochs, seed=parts.seed, threads=threads)
    told = (lambda _, error: report(error)) if report else None
    return fit(network, training, parts.train[RESIDUAL_TO], parts.validation[RESIDUAL_TO], on_epoch=told)


def teacher_trial(configuration: Configuration, data: tuple[Parts, int], report: Report) -> None:
    """One trial of the search for a teacher, on one core."""
    teacher(configuration, data, report)


@dataclass(frozen=True)
class Classroom:
    """What students learn from."""

    train: Arrays
    """n rows; those without a label have the teacher alone."""
    validation: Arrays
    teacher: np.ndarray
    """(n,) what the teacher says of the training rows, in units of the scale."""
    epochs: int
    seed: int

    def share(self, rank: int, workers: int) -> "Classroom":
        """The same with the training rows of one of several workers, and all validation rows."""
        return replace(self, train=self.train.share(rank, workers), teacher=self.teacher[rank::workers])

    def smaller(self, rows: int, epochs: int) -> "Classroom":
        """The same with at most so many training rows, drawn by the seed, and epochs."""
        chosen = drawn(len(self.train), rows, self.seed)
        return replace(self, train=self.train.take(chosen), teacher=self.teacher[chosen], epochs=epochs)


def student(
    configuration: Configuration, classroom: Classroom, report: Report | None = None, threads: int = 1
) -> Fitted:
    """A student; one with the weight 0 has no teacher."""
    network, training = configs(configuration, epochs=classroom.epochs, seed=classroom.seed, threads=threads)
    weight = configuration["weight"]
    targets = lesson(classroom.train, classroom.teacher, LessonConfig(weight)) if weight else None
    told = (lambda _, error: report(error)) if report else None
    return fit(network, training, classroom.train, classroom.validation, targets=targets, on_epoch=told)


def student_trial(configuration: Configuration, data: Classroom, report: Report) -> None:
    """One trial of the search for a student."""
    student(configuration, data, report)


def size_bytes(configuration: Configuration, train: Arrays) -> int:
    """What the files of a network of this architecture come to."""
    return sum(map(len, to_files(Network.fitted_to(configs(configuration)[0], train)).values()))


def _one_of(random: np.random.Generator, *choices: Any) -> Any:
    return choices[int(random.integers(len(choices)))]


def _log_uniform(random: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(random.uniform(np.log(low), np.log(high))))
