"""The networks: a large teacher, then ever smaller ones that are taught by it.

Each is trained on the training part and chosen by the validation part. Beside the pruned teacher and the student their
controls are stored, which the leaderboard scores too: `unpruned_teacher` had the same extra epochs and lost nothing,
`untaught_student` is the same network without a teacher.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import dagster as dg
import numpy as np
from pydantic import Field

from mbta_assets.defs.metadata import draw_sizes, markdown_table, picture
from mbta_assets.defs.models import model_asset, searched
from mbta_assets.defs.resources.experiment_tracker import Tracker
from mbta_assets.defs.resources.ray_cluster import Cluster
from mbta_assets.defs.training import labelled, provenance, rows_of
from mbta_assets.ml.inference.arrays import Arrays, Parts
from mbta_assets.ml.inference.encoder import Encoder
from mbta_assets.ml.inference.intervals import Interval
from mbta_assets.ml.inference.model import ENCODER, INTERVAL, LOOKUP, ONNX, Inputs, learning_parts, predict, run_onnx
from mbta_assets.ml.inference.run_time import RuntimeLookup
from mbta_assets.ml.training import tuning, xgboost_trainer
from mbta_assets.settings import Settings
from mbta_assets.storage.bundle import Bundle, Draft, library_versions
from mbta_assets.storage.model_registry import ModelRegistry

if TYPE_CHECKING:
    from mbta_assets.ml.training.network_trainer import Fitted

SIZE_BUDGET_BYTES = 60_000
SIZE_AGAINST_TEACHER = 1 / 8
MANIFEST_BYTES = 3_500
"""What to leave for a student's manifest, what it says of the training set apart."""
PARITY_SECONDS = 0.05
"""How far torch and ONNX Runtime may be apart on any row."""


@dataclass(frozen=True)
class Material:
    """What a network is trained on, and what it is stored with."""

    training_set: Bundle
    runtime_lookup: Bundle
    inputs: Inputs
    parts: Parts

    @classmethod
    def of(cls, training_set: Bundle, runtime_lookup: Bundle, seed: int) -> Self:
        """All columns of a training set."""
        encoder = Encoder.from_json(training_set.file(ENCODER))
        return cls(training_set, runtime_lookup, *learning_parts(encoder, rows_of(training_set), seed))

    def without(self, names: Collection[str]) -> Self:
        """The same without some columns."""
        return replace(self, inputs=self.inputs.without(names), parts=self.parts.without(names))

    def like(self, model: Bundle) -> Self:
        """The same with the columns that a stored model reads."""
        return self.without(set(self.inputs.names) - set(model.manifest["features"]))

    @property
    def rows(self) -> tuple[Arrays, Arrays]:
        """Training and validation rows, as networks learn them."""
        from mbta_assets.ml.training.search_spaces import RESIDUAL_TO

        return self.parts.train[RESIDUAL_TO], self.parts.validation[RESIDUAL_TO]

    @property
    def stored_inputs(self) -> Inputs:
        """The inputs the network learned with, but for the lookup, which has seen the validation part too."""
        return replace(self.inputs, lookup=RuntimeLookup.from_bytes(self.runtime_lookup.file(LOOKUP)))

    @property
    def named(self) -> dict[str, Any]:
        """What a trial's log says of it."""
        return {"training_set": self.training_set.digest, "seed": self.parts.seed}

    def validated(self, fitted: "Fitted") -> dict[str, Any]:
        """A trained network's metadata; errors without a unit are in units of the scale."""
        from mbta_assets.ml.training.network import parameters

        return {
            "validation_error": fitted.validation_error,
            "validation_mae_seconds": self._mae_seconds(fitted),
            "epochs": fitted.best_epoch,
            **parameters(fitted.network),
            "layers": str(fitted.network.architecture()["layers"]),
        }

    def draft(self, fitted: "Fitted", configuration: tuning.Configuration, workers: int, **more: Any) -> Draft:
        """The bundle of a trained network; `more` goes into its manifest."""
        from mbta_assets.ml.training.network import parameters
        from mbta_assets.ml.training.network_weights import to_files
        from mbta_assets.ml.training.search_spaces import RESIDUAL_TO

        validation = {"error": fitted.validation_error, "mae": self._mae_seconds(fitted), "n": len(self.rows[1])}
        return Draft(
            "network",
            {**to_files(fitted.network), **self.stored_inputs.files()},
            {
                **provenance(self.training_set),
                "residual_to": RESIDUAL_TO,
                "configuration": configuration,
                "features": self.inputs.names,
                "layers": fitted.network.architecture()["layers"],
                **parameters(fitted.network),
                "seed": self.parts.seed,
                "workers": workers,
                "epochs": fitted.best_epoch,
                "validation": validation,
                "libraries": library_versions("numpy", "torch"),
                **more,
            },
        )

    def _mae_seconds(self, fitted: "Fitted") -> float:
        """Mean absolute error over the validation rows."""
        from mbta_assets.ml.training.network_trainer import predict

        validation = self.rows[1]
        error = (predict(fitted.network, validation) - validation.target) * validation.scale
        return float(np.abs(error).mean(dtype=np.float64))


class TeacherConfig(dg.Config):
    """How long the teacher is searched for and trained."""

    epochs: int = Field(6, ge=2, description="Epochs of the final training; the best by validation is kept.")
    trial_rows: int = Field(30_000, ge=100, description="Training rows of a trial; the final training uses all.")
    trial_epochs: int = Field(5, ge=2, description="Epochs of a trial.")


@model_asset(
    description="A large network on the residual, its architecture and optimisation tuned with Ray Tune.",
    kinds={"pytorch", "ray"},
)
def dnn_teacher(
    context: dg.AssetExecutionContext,
    config: TeacherConfig,
    settings: dg.ResourceParam[Settings],
    tracker: dg.ResourceParam[Tracker],
    cluster: Cluster,
    training_set: Bundle,
    runtime_lookup: Bundle,
) -> Draft:
    from mbta_assets.ml.training import search_spaces

    material = Material.of(training_set, runtime_lookup, settings.seed)
    results = cluster.search(
        search_spaces.teacher_trial,
        search_spaces.teachers(settings.tune_trials, settings.seed, len(training_set.manifest["data_versions"])),
        (material.parts.labelled().smaller(config.trial_rows), config.trial_epochs),
        tuning.Halving(grace=config.trial_epochs // 2, steps=config.trial_epochs),
    )
    best = tuning.winner(results).configuration
    fitted = cluster.train_network(search_spaces.teacher, best, (material.parts, config.epochs))
    if best["inputs"] == "steady":
        material = material.without(search_spaces.CALENDAR)
    context.add_output_metadata(
        {
            **material.validated(fitted),
            **searched("dnn_teacher", results, tracker, material.named, "epochs"),
        }
    )
    return material.draft(fitted, best, cluster.torch_workers)


class PruningConfig(dg.Config):
    """How long a network that was cut is fine-tuned."""

    epochs: int = Field(2, ge=1, description="Epochs of fine-tuning of every candidate.")
    learning_rate: float = Field(0.003, gt=0, description="At the top of the fine-tuning's cycle.")
    batch_size: int = Field(1024, ge=2, description="Rows of a batch.")


@model_asset(
    description="The teacher with neurons removed, weights zeroed or both: the smallest within 1% of its error.",
    kinds={"pytorch"},
)
def pruned_teacher(
    context: dg.AssetExecutionContext,
    config: PruningConfig,
    settings: dg.ResourceParam[Settings],
    bundle_store: dg.ResourceParam[ModelRegistry],
    cluster: Cluster,
    training_set: Bundle,
    runtime_lookup: Bundle,
    dnn_teacher: Bundle,
) -> Draft:
    from mbta_assets.ml.training import distillation, network_trainer, network_weights, pruning

    material = Material.of(training_set, runtime_lookup, settings.seed).like(dnn_teacher)
    train_rows, validation = material.rows
    teacher = network_weights.from_bundle(dnn_teacher)
    targets = distillation.lesson(train_rows, network_trainer.predict(teacher, train_rows), distillation.LessonConfig())
    training = network_trainer.TrainConfig(
        epochs=config.epochs,
        learning_rate=config.learning_rate,
        batch_size=config.batch_size,
        warmup=0.1,
        seed=settings.seed,
    )
    tuning = pruning.FineTuning(teacher, targets, training, train_rows, validation)
    found = cluster.train_networks(pruning.task, pruning.CUTS, tuning)
    unpruned, chosen = pruning.unpruned(found), pruning.choose(found)
    table = [candidate.row() for candidate in found]
    configuration = {**dnn_teacher.manifest["configuration"], "cut": chosen.cut.name}
    control = bundle_store.put(
        "unpruned_teacher", material.draft(unpruned.fitted, configuration | {"cut": "none"}, cluster.torch_workers)
    )
    context.add_output_metadata(
        {
            **material.validated(chosen.fitted),
            "chosen": chosen.cut.name,
            "candidates": markdown_table([{**row, "chosen": row["name"] == chosen.cut.name} for row in table]),
            "error_against_size": _sizes(table, chosen.cut.name),
        }
    )
    return material.draft(
        chosen.fitted,
        configuration,
        cluster.torch_workers,
        teacher=dnn_teacher.digest,
        candidates=[{name: value for name, value in row.items() if name != "latency_us"} for row in table],
        control={"asset": "unpruned_teacher", "digest": control.digest},
    )


class StudentConfig(dg.Config):
    """How long the student is searched for and trained."""

    epochs: int = Field(16, ge=2, description="Epochs of the final training; the best by validation is kept.")
    trial_rows: int = Field(40_000, ge=100, description="Training rows of a trial; the final training uses all.")
    trial_epochs: int = Field(6, ge=2, description="Epochs of a trial.")


@model_asset(
    description="A small network taught by the pruned teacher, alone or with trees as validation says.",
    kinds={"pytorch", "ray"},
)
def distilled_student(
    context: dg.AssetExecutionContext,
    config: StudentConfig,
    settings: dg.ResourceParam[Settings],
    tracker: dg.ResourceParam[Tracker],
    bundle_store: dg.ResourceParam[ModelRegistry],
    cluster: Cluster,
    training_set: Bundle,
    runtime_lookup: Bundle,
    xgboost_model: Bundle,
    dnn_teacher: Bundle,
    pruned_teacher: Bundle,
) -> Draft:
    from mbta_assets.ml.training import distillation, network_trainer, network_weights, search_spaces

    everything = Material.of(training_set, runtime_lookup, settings.seed)
    material = everything.like(dnn_teacher)
    train_rows, validation = material.rows
    network = network_weights.from_bundle(pruned_teacher)
    pruned, held_out = network_trainer.predict(network, train_rows), network_trainer.predict(network, validation)
    held_out_trees = bundle_store.get("xgboost_held_out", xgboost_model.manifest["held_out"])
    trees, trees_held_out = _trees(held_out_trees, everything)
    share, errors = distillation.best_mixture(validation.target, held_out, trees_held_out)
    teacher = (1 - share) * pruned + share * trees
    most = int(min(SIZE_BUDGET_BYTES, dnn_teacher.size_bytes * SIZE_AGAINST_TEACHER))
    fixed = sum(map(len, material.stored_inputs.files().values())) + MANIFEST_BYTES
    fixed += len(json.dumps(provenance(training_set), indent=1))
    classroom = search_spaces.Classroom(train_rows, validation, teacher, config.epochs, settings.seed)
    trial_room = classroom.smaller(config.trial_rows, config.trial_epochs)
    configurations = search_spaces.students(settings.tune_trials, settings.seed, trial_room.train, most - fixed)
    results = cluster.search(
        search_spaces.student_trial,
        configurations,
        trial_room,
        tuning.Halving(grace=config.trial_epochs // 2, steps=config.trial_epochs),
    )
    best = tuning.winner(results).configuration
    alone = {**best, "weight": 0.0}
    taught, untaught = cluster.train_networks(search_spaces.student, [best, alone], classroom)
    control = bundle_store.put("untaught_student", material.draft(untaught, alone, cluster.torch_workers))
    context.add_output_metadata(
        {
            **material.validated(taught),
            "validation_error_untaught": untaught.validation_error,
            "gain_of_being_taught": 1 - taught.validation_error / untaught.validation_error,
            "share_of_trees_in_the_teaching": share,
            "teachers": markdown_table([{"share_of_trees": k, "validation_error": v} for k, v in errors.items()]),
            **searched("distilled_student", results, tracker, material.named, "epochs"),
        }
    )
    return material.draft(
        taught,
        best,
        cluster.torch_workers,
        teacher={"pruned_teacher": pruned_teacher.digest, "xgboost_held_out": held_out_trees.digest, "trees": share},
        control={"asset": "untaught_student", "digest": control.digest},
    )


@model_asset(
    description="The student as ONNX, in fp32 or int8: the smallest whose error stays within its gate.",
    kinds={"onnx"},
)
def quantized_student(
    context: dg.AssetExecutionContext,
    settings: dg.ResourceParam[Settings],
    training_set: Bundle,
    runtime_lookup: Bundle,
    distilled_student: Bundle,
) -> Draft:
    from mbta_assets.ml.training import network_weights, onnx_export, quantization

    rows = rows_of(training_set)
    material = Material.of(training_set, runtime_lookup, settings.seed).like(distilled_student)
    train_rows, validation = material.rows
    network = network_weights.from_bundle(distilled_student)
    model = onnx_export.to_onnx(network)
    inputs, residual_to = Inputs.from_bundle(distilled_student), distilled_student.manifest["residual_to"]
    test = inputs.arrays(rows[rows["part"] == "test"], residual_to)
    parity = onnx_export.parity_seconds(network, model, test)
    found = quantization.variants(model, train_rows, validation)
    chosen = quantization.choose(found)
    held_out = labelled(rows, "validation")  # which the lookup of `material` has not seen either
    delay = predict(material.inputs, residual_to, run_onnx(chosen.model), held_out)
    interval = Interval.calibrate(held_out, held_out["delay_seconds"].to_numpy() - delay)
    table = [variant.row() for variant in found]
    context.add_output_metadata(
        {
            "chosen": chosen.name,
            "variants": markdown_table([{**row, "chosen": row["name"] == chosen.name} for row in table]),
            "error_against_size": _sizes(table, chosen.name),
            "parity_seconds": parity,
            "parity_rows": len(test),
            "validation_error": chosen.validation_error,
            "interval": markdown_table(_half_widths(interval)),
        }
    )
    kept = ("residual_to", "features", "parameters", "layers", "configuration", "seed")
    return Draft(
        "onnx",
        {ONNX: chosen.model, INTERVAL: interval.to_json(), **inputs.files()},
        {
            **provenance(training_set),
            **{name: distilled_student.manifest[name] for name in kept},
            "student": distilled_student.digest,
            "variant": chosen.name,
            "variants": [{name: value for name, value in row.items() if name != "latency_us"} for row in table],
            "parity": {"max_seconds": parity, "bound_seconds": PARITY_SECONDS, "rows": len(test)},
            "libraries": library_versions("numpy", "onnx", "onnxruntime"),
        },
    )


POSITION = {None: "any", False: "on its way", True: "at the origin"}


def _half_widths(interval: Interval) -> list[dict[str, Any]]:
    """The half widths in seconds as a table, a row for each route and position."""
    stops_ahead = sorted({stops for _, stops, _ in interval.half_widths if stops is not None})
    groups = {(route, waits) for route, stops, waits in interval.half_widths if stops is not None}
    return [
        {"route": route or "any", "position": POSITION[waits]}
        | {f"{n} ahead": interval.half_widths.get((route, n, waits)) for n in stops_ahead}
        for route, waits in sorted(groups, key=str)
    ]


def _trees(stored: Bundle, material: Material) -> tuple[np.ndarray, np.ndarray]:
    """What trees say of training and validation rows, as networks learn them."""
    predict = xgboost_trainer.open_weights(stored.file(xgboost_trainer.WEIGHTS))

    def said(part: Mapping[str, Arrays], rows: Arrays) -> np.ndarray:
        own = part[stored.manifest["residual_to"]]
        return predict(own) + (own.base - rows.base) / rows.scale

    train_rows, validation = material.rows
    return said(material.parts.train, train_rows), said(material.parts.validation, validation)


def _sizes(table: Sequence[Mapping[str, Any]], chosen: str) -> dg.MarkdownMetadataValue:
    """Rows with a name, bytes and a validation error as a picture."""
    points = {row["name"]: (row["size_bytes"], row["validation_error"]) for row in table}
    return picture(lambda axes: draw_sizes(axes, points, [chosen], "validation error (of the lookup's)"))
