"""Pruning: neurons of a trained network are removed, single weights are set to zero, or both.

Every candidate starts from the same teacher, is fine-tuned for the same number of epochs towards the labels and the
teacher's predictions, and is judged on validation. One candidate is not pruned, so that the effect of further epochs is
not credited to pruning. Candidates are made of the teacher that did not learn the validation part; what they show is
then done to the final one. How neurons are removed and weights zeroed is in `sparsity`.
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from mbta_assets.ml.inference.arrays import Arrays
from mbta_assets.ml.inference.onnx_session import create_session, make_feed, measure_latency_us
from mbta_assets.ml.training.compute import ONE_CORE, Resources
from mbta_assets.ml.training.distillation import distillation_targets
from mbta_assets.ml.training.executor import TrainingExecutor
from mbta_assets.ml.training.hyperparameters import DistillationConfig, TrainConfig
from mbta_assets.ml.training.network import Network, count_parameters
from mbta_assets.ml.training.network_data import NetworkData
from mbta_assets.ml.training.network_trainer import Fitted, Targets, fine_tune, predict
from mbta_assets.ml.training.network_weights import from_bundle, to_files
from mbta_assets.ml.training.onnx_export import to_onnx
from mbta_assets.ml.training.sparsity import GradualSparsity, SparsitySchedule, remove_neurons
from mbta_assets.ml.training.teacher import HELD_OUT as TEACHER_HELD_OUT
from mbta_assets.ml.training.training_data import sample_indices
from mbta_assets.ml.training.tuning import Configuration
from mbta_assets.storage.bundle import Bundle, Draft


@dataclass(frozen=True)
class Cut:
    """The parts of a network to remove."""

    neurons: float = 0.0
    """Fraction of the neurons to remove from each hidden layer."""
    weights: float = 0.0
    """Fraction of the remaining dense weights to set to zero."""

    @property
    def family(self) -> str:
        """Return "unpruned", "neurons", "weights" or "both"."""
        if self.neurons and self.weights:
            return "both"
        if self.neurons:
            return "neurons"
        return "weights" if self.weights else "unpruned"

    @property
    def name(self) -> str:
        """Return a name with percentages, such as neurons-50 or neurons-25-weights-60."""
        fractions = {"neurons": self.neurons, "weights": self.weights}
        return "-".join(f"{part}-{100 * share:.0f}" for part, share in fractions.items() if share) or "unpruned"


UNPRUNED = Cut()


HELD_OUT = "pruned_held_out"
"""Name of the pruned teacher that was not trained on the validation part, in the registry."""
MIN_GROUP_SHARE = 0.02
"""Share of the validation rows by which a candidate is judged at some number of stops ahead."""


@dataclass(frozen=True)
class PruningTraining:
    """Candidates, fine-tuning and selection of a pruned network."""

    cuts: Sequence[Cut]
    """Candidates beside the network that is not pruned."""
    schedule: SparsitySchedule
    width_multiple: int
    """Widths of pruned layers are rounded to multiples of this."""
    max_rows: int
    """Maximum number of training rows, drawn by the seed."""
    max_error_increase: float
    """Maximum relative increase of the validation error in any group of `group_distances`."""
    preferred_size: float
    """Fraction of the teacher's parameters that candidates should not exceed, if any of those is accurate."""
    distillation: DistillationConfig
    optimization: TrainConfig


@dataclass(frozen=True)
class FineTuning:
    """The teacher and the data that every candidate is made from."""

    teacher: Network
    targets: Targets
    """Targets of the training rows; see `distillation_targets`."""
    training: PruningTraining
    train: Arrays
    validation: Arrays

    @classmethod
    def from_teacher(cls, teacher: Bundle, data: NetworkData, training: PruningTraining) -> Self:
        """Take a stored teacher, whose predictions for a sample of the training rows are targets beside the labels."""
        network, train = from_bundle(teacher), data.train
        train = train.take(sample_indices(len(train), training.max_rows, training.optimization.seed))
        targets = distillation_targets(train, predict(network, train), training.distillation)
        return cls(network, targets, training, train, data.validation)

    def shard(self, rank: int, world_size: int) -> Self:
        """Return the training rows of worker `rank` of `world_size` (see `Arrays.shard`), with all validation rows."""
        return replace(self, train=self.train.shard(rank, world_size), targets=self.targets.shard(rank, world_size))


@dataclass(frozen=True)
class Candidate:
    """A pruned and fine-tuned network with its errors, size and latency."""

    cut: Cut
    fitted: Fitted
    errors: tuple[float, ...]
    """Validation error in seconds by stops ahead, ascending; see `group_distances`."""
    parameters: int
    non_embedding: int
    """Number of parameters outside the category embeddings."""
    non_zero: int
    """Number of these that are not zero."""
    size_bytes: int
    """Size of the files, in which tensors that are mostly zero are stored sparse."""
    latency_us: float
    """Median latency of one row in ONNX Runtime, which multiplies zeros like any number."""

    def to_row(self) -> dict[str, Any]:
        """Return the candidate as a row of a table, with errors in seconds."""
        return {
            "name": self.cut.name,
            "family": self.cut.family,
            "neurons_removed": self.cut.neurons,
            "weights_zeroed": self.cut.weights,
            "validation_mae_seconds": self.fitted.validation_error,
            "by_distance": " ".join(f"{error:.2f}" for error in self.errors),
            "parameters": self.parameters,
            "non_embedding": self.non_embedding,
            "non_zero": self.non_zero,
            "size_bytes": self.size_bytes,
            "layers": str(self.fitted.network.architecture()["layers"]),
            "latency_us": self.latency_us,
        }


@dataclass(frozen=True)
class PrunedTeacher:
    """The final teacher pruned as the selected candidate, and all candidates."""

    candidates: list[Candidate]
    selected: Candidate
    held_out: Draft
    """The bundle of the selected candidate."""
    fitted: Fitted
    """The final teacher, pruned like that candidate."""
    control: Fitted
    """The final teacher, fine-tuned without being pruned."""
    data: NetworkData
    """Rows of the training and validation parts with the columns that the teacher reads."""
    teacher: Bundle
    workers: int

    def to_table(self) -> list[dict[str, Any]]:
        """Return a row of each candidate."""
        return [candidate.to_row() for candidate in self.candidates]

    def describe(self) -> dict[str, Any]:
        """Return errors and sizes; see `NetworkData.describe`."""
        return {**self.data.describe(self.fitted), "chosen": self.selected.cut.name}

    def control_draft(self) -> Draft:
        """Return the bundle of the teacher that is not pruned."""
        configuration = name_cut(self.teacher, UNPRUNED)
        return self.data.draft(self.control, configuration, self.workers, {"dnn_teacher": self.teacher})

    def draft(self, held_out: Bundle, control_digest: str) -> Draft:
        """Return the bundle, which names its teacher, its control, and the stored bundle `held_out`."""
        return self.data.draft(
            self.fitted,
            name_cut(self.teacher, self.selected.cut),
            self.workers,
            {"dnn_teacher": self.teacher, HELD_OUT: held_out},
            teacher=self.teacher.digest,
            # Without latencies: the same network must give the same digest.
            candidates=[
                {name: value for name, value in row.items() if name != "latency_us"} for row in self.to_table()
            ],
            control={"asset": "unpruned_teacher", "digest": control_digest},
        )


def prune_teacher(
    training_set: Bundle,
    runtime_lookup: Bundle,
    held_out_teacher: Bundle,
    teacher: Bundle,
    training: PruningTraining,
    executor: TrainingExecutor,
) -> PrunedTeacher:
    """Make and fine-tune all candidates, select one, and prune the final teacher like that."""
    seed = training.optimization.seed
    data = NetworkData.from_bundles(training_set, runtime_lookup, seed).select_columns_of(teacher)
    fine_tuning = FineTuning.from_teacher(held_out_teacher, data, training)
    candidates = executor.train_networks(make_candidate, [(cut, fine_tuning) for cut in (UNPRUNED, *training.cuts)])
    selected = select_candidate(candidates, training.max_error_increase, training.preferred_size)
    held_out = data.draft(
        selected.fitted,
        name_cut(teacher, selected.cut),
        executor.torch_workers,
        {TEACHER_HELD_OUT: held_out_teacher},
    )
    data = NetworkData.of_learned_parts(training_set, runtime_lookup, seed).select_columns_of(teacher)
    fine_tuning = FineTuning.from_teacher(teacher, data, training)
    cuts = [UNPRUNED] if selected.cut == UNPRUNED else [UNPRUNED, selected.cut]
    final = executor.train_networks(fine_tune_cut, [(cut, fine_tuning) for cut in cuts])
    return PrunedTeacher(
        candidates,
        selected,
        held_out,
        selected.fitted.replace_network(final[-1]),
        find_unpruned(candidates).fitted.replace_network(final[0]),
        data,
        teacher,
        executor.torch_workers,
    )


def name_cut(teacher: Bundle, cut: Cut) -> Configuration:
    """Return the configuration of a teacher with the name of a cut."""
    return {**teacher.manifest["configuration"], "cut": cut.name}


def make_candidate(cut: Cut, data: FineTuning, resources: Resources = ONE_CORE) -> Candidate:
    """Prune a copy of the teacher, fine-tune it and judge it."""
    return judge(cut, fine_tune_cut(cut, data, resources), data.validation)


def fine_tune_cut(cut: Cut, data: FineTuning, resources: Resources = ONE_CORE) -> Fitted:
    """Prune a copy of the teacher and fine-tune it towards the targets."""
    training = data.training
    config = replace(training.optimization, threads=resources.threads, device=resources.device)
    if cut.neurons:
        network = remove_neurons(data.teacher, cut.neurons, training.width_multiple)
    else:
        network = copy.deepcopy(data.teacher)
    network.to(config.device)  # before masks are made, which lie beside the weights
    sparsity = GradualSparsity(network, cut.weights, training.schedule) if cut.weights else None
    first_epoch_to_keep = math.floor(training.schedule.ramp_fraction * config.epochs) + 1 if sparsity else 1
    fitted = fine_tune(
        network,
        config,
        data.train,
        data.validation,
        targets=data.targets,
        on_step=sparsity,
        first_epoch_to_keep=first_epoch_to_keep,
    )
    if sparsity:
        sparsity.finish()
    return fitted


def judge(cut: Cut, fitted: Fitted, validation: Arrays) -> Candidate:
    """Measure the errors, size and latency of a fine-tuned network."""
    network = fitted.network
    feed = make_feed(validation.numeric, validation.codes)
    error = validation.absolute_errors(predict(network, validation))
    group = group_distances(validation.scale)
    return Candidate(
        cut,
        fitted,
        tuple(float(np.nanmean(error[group == number])) for number in range(group.max() + 1)),
        **count_parameters(network),
        size_bytes=sum(map(len, to_files(network).values())),
        latency_us=measure_latency_us(create_session(to_onnx(network)), feed),
    )


def group_distances(scale: np.ndarray) -> np.ndarray:
    """Return the group (n,) of each row by its scale, which is the same for all rows of one number of stops ahead.

    Numbers of stops ahead with less than `MIN_GROUP_SHARE` of the rows are grouped with further ones: by chance alone
    the error of a few rows changes by more than any bound.
    """
    _, index, counts = np.unique(scale, return_inverse=True, return_counts=True)
    groups = np.zeros(len(counts), dtype=np.int64)
    group, rows = 0, 0
    for number, count in enumerate(counts):
        groups[number] = group
        rows += count
        if rows >= MIN_GROUP_SHARE * len(scale):
            group, rows = group + 1, 0
    if rows and group:
        groups[groups == group] = group - 1
    return groups[index]


def find_unpruned(candidates: Sequence[Candidate]) -> Candidate:
    """Return the candidate that was fine-tuned without being pruned."""
    return next(candidate for candidate in candidates if candidate.cut == UNPRUNED)


def select_candidate(candidates: Sequence[Candidate], max_error_increase: float, preferred_size: float) -> Candidate:
    """Return the smallest candidate whose error is close to that of the unpruned one, the more accurate of equals.

    Its validation error at every number of stops ahead must be at most 1 + `max_error_increase` times the unpruned
    one's. Candidates with at most `preferred_size` of the teacher's parameters outside the embeddings come first.
    """
    unpruned = find_unpruned(candidates)
    bounds = [(1 + max_error_increase) * error for error in unpruned.errors]
    accurate = [
        candidate
        for candidate in candidates
        if all(error <= bound for error, bound in zip(candidate.errors, bounds, strict=True))
    ]
    max_parameters = preferred_size * unpruned.non_embedding
    small = [candidate for candidate in accurate if candidate.non_zero <= max_parameters]
    return min(small or accurate, key=lambda candidate: (candidate.size_bytes, candidate.fitted.validation_error))
