"""The networks: a large teacher, then ever smaller ones that are taught by it.

Each is trained on the training part and chosen by the validation part. Beside the pruned teacher and the student their
controls are stored, which the leaderboard scores too: `unpruned_teacher` had the same extra epochs and lost nothing,
`untaught_student` is the same network without a teacher.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import dagster as dg
import numpy as np
from pydantic import Field

from mbta_assets.assets.described import OWNERS, markdown_table, picture
from mbta_assets.assets.training import provenance, rows_of
from mbta_assets.bundle import Bundle, Draft, library_versions
from mbta_assets.learning import boosting, tune
from mbta_assets.learning.dataset import Arrays, Parts
from mbta_assets.learning.encode import Encoder
from mbta_assets.learning.lookup import RuntimeLookup
from mbta_assets.learning.model import ENCODER, LOOKUP, ONNX, Inputs, learning_parts
from mbta_assets.resources.cluster import Cluster
from mbta_assets.resources.tracker import Tracker
from mbta_assets.settings import Settings
from mbta_assets.storage.bundles import BundleStore

if TYPE_CHECKING:
    from mbta_assets.learning.network import Network
    from mbta_assets.learning.train import Fitted

THREADS = 2
"""Of what is trained by itself; what is trained side by side has one each."""
SIZE_BUDGET_BYTES = 60_000
SIZE_AGAINST_TEACHER = 1 / 8
MANIFEST_BYTES = 3_500
"""What to leave for a student's manifest, what it says of the training set apart."""
PARITY_SECONDS = 0.05
"""How far torch and ONNX Runtime may be apart on any row."""


class TeacherConfig(dg.Config):
    """How long the teacher is searched for and trained."""

    epochs: int = Field(6, ge=2, description="Epochs of the final training; the best by validation is kept.")
    trial_rows: int = Field(30_000, ge=100, description="Training rows of a trial; the final training uses all.")
    trial_epochs: int = Field(5, ge=2, description="Epochs of a trial.")


@dg.asset(
    group_name="models",
    description="A large network on the residual, its architecture and optimisation tuned with Ray Tune.",
    owners=OWNERS,
    kinds={"pytorch", "ray"},
    pool="cores",
    backfill_policy=dg.BackfillPolicy.single_run(),
    io_manager_key="bundles",
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
    from mbta_assets.learning import search

    inputs, parts = _learning_parts(training_set, settings.seed)
    results = cluster.search(
        search.teacher_trial,
        search.teachers(settings.tune_trials, settings.seed),
        (parts.smaller(config.trial_rows), config.trial_epochs),
        tune.Halving(grace=config.trial_epochs // 2, steps=config.trial_epochs),
    )
    best = tune.winner(results).configuration
    fitted = search.teacher(best, (parts, config.epochs), threads=THREADS)
    if best["inputs"] == "steady":
        inputs, parts = _without(search.CALENDAR, inputs, parts)
    context.add_output_metadata(
        {
            **_validated(fitted, parts),
            "trials": _trials(results),
            "learning_curves": picture(lambda axes: _draw_curves(axes, results)),
            "experiments": _log(tracker, "dnn_teacher", results, training_set, settings),
        }
    )
    return _draft(fitted, best, inputs, parts, training_set, runtime_lookup, threads=THREADS)


class PruningConfig(dg.Config):
    """How long a network that was cut is fine-tuned."""

    epochs: int = Field(2, ge=1, description="Epochs of fine-tuning of every candidate.")
    learning_rate: float = Field(0.003, gt=0, description="At the top of the fine-tuning's cycle.")


@dg.asset(
    group_name="models",
    description="The teacher with neurons removed, weights zeroed or both: the smallest within 1% of its error.",
    owners=OWNERS,
    kinds={"pytorch"},
    pool="cores",
    backfill_policy=dg.BackfillPolicy.single_run(),
    io_manager_key="bundles",
)
def pruned_teacher(
    context: dg.AssetExecutionContext,
    config: PruningConfig,
    settings: dg.ResourceParam[Settings],
    bundle_store: dg.ResourceParam[BundleStore],
    cluster: Cluster,
    training_set: Bundle,
    runtime_lookup: Bundle,
    dnn_teacher: Bundle,
) -> Draft:
    from mbta_assets.learning import distil, prune, train

    inputs, parts = _like(dnn_teacher, *_learning_parts(training_set, settings.seed))
    teacher = _network(dnn_teacher)
    train_rows, validation = _rows(parts)
    targets = distil.lesson(train_rows, train.predict(teacher, train_rows), distil.LessonConfig())
    training = train.TrainConfig(
        epochs=config.epochs, learning_rate=config.learning_rate, warmup=0.1, seed=settings.seed
    )
    found = cluster.each(prune.task, prune.CUTS, (teacher, targets, training, train_rows, validation))
    unpruned, chosen = prune.unpruned(found), prune.choose(found)
    table = [candidate.row() for candidate in found]
    configuration = {**dnn_teacher.manifest["configuration"], "cut": chosen.cut.name}
    control = bundle_store.put(
        "unpruned_teacher",
        _draft(unpruned.fitted, configuration | {"cut": "none"}, inputs, parts, training_set, runtime_lookup),
    )
    context.add_output_metadata(
        {
            **_validated(chosen.fitted, parts),
            "chosen": chosen.cut.name,
            "candidates": markdown_table([{**row, "chosen": row["name"] == chosen.cut.name} for row in table]),
            "error_against_size": picture(
                lambda axes: _draw_sizes(axes, {row["name"]: row for row in table}, chosen.cut.name)
            ),
        }
    )
    return _draft(
        chosen.fitted,
        configuration,
        inputs,
        parts,
        training_set,
        runtime_lookup,
        teacher=dnn_teacher.digest,
        candidates=[{name: value for name, value in row.items() if name != "latency_us"} for row in table],
        control={"asset": "unpruned_teacher", "digest": control.digest},
    )


class StudentConfig(dg.Config):
    """How long the student is searched for and trained."""

    epochs: int = Field(16, ge=2, description="Epochs of the final training; the best by validation is kept.")
    trial_rows: int = Field(40_000, ge=100, description="Training rows of a trial; the final training uses all.")
    trial_epochs: int = Field(6, ge=2, description="Epochs of a trial.")


@dg.asset(
    group_name="models",
    description="A small network taught by the pruned teacher, alone or with trees as validation says.",
    owners=OWNERS,
    kinds={"pytorch", "ray"},
    pool="cores",
    backfill_policy=dg.BackfillPolicy.single_run(),
    io_manager_key="bundles",
)
def distilled_student(
    context: dg.AssetExecutionContext,
    config: StudentConfig,
    settings: dg.ResourceParam[Settings],
    tracker: dg.ResourceParam[Tracker],
    bundle_store: dg.ResourceParam[BundleStore],
    cluster: Cluster,
    training_set: Bundle,
    runtime_lookup: Bundle,
    xgboost_model: Bundle,
    dnn_teacher: Bundle,
    pruned_teacher: Bundle,
) -> Draft:
    from mbta_assets.learning import distil, search, train

    everything = _learning_parts(training_set, settings.seed)
    inputs, parts = _like(dnn_teacher, *everything)
    train_rows, validation = _rows(parts)
    network = _network(pruned_teacher)
    pruned, held_out = train.predict(network, train_rows), train.predict(network, validation)
    trees, trees_held_out = _trees(xgboost_model, everything[1])
    share, errors = distil.best_mixture(validation.target, held_out, trees_held_out)
    teacher = (1 - share) * pruned + share * trees
    most = int(min(SIZE_BUDGET_BYTES, dnn_teacher.size_bytes * SIZE_AGAINST_TEACHER))
    fixed = sum(map(len, _with_lookup(inputs, runtime_lookup).files().values())) + MANIFEST_BYTES
    fixed += len(json.dumps(provenance(training_set), indent=1))
    classroom = search.Classroom(train_rows, validation, teacher, config.epochs, settings.seed)
    trial_room = classroom.smaller(config.trial_rows, config.trial_epochs)
    configurations = search.students(settings.tune_trials, settings.seed, trial_room.train, most - fixed)
    results = cluster.search(
        search.student_trial,
        configurations,
        trial_room,
        tune.Halving(grace=config.trial_epochs // 2, steps=config.trial_epochs),
    )
    best = tune.winner(results).configuration
    alone = {**best, "weight": 0.0}
    taught, untaught = cluster.each(search.student, [best, alone], classroom)
    control = bundle_store.put("untaught_student", _draft(untaught, alone, inputs, parts, training_set, runtime_lookup))
    context.add_output_metadata(
        {
            **_validated(taught, parts),
            "validation_error_untaught": untaught.validation_error,
            "gain_of_being_taught": 1 - taught.validation_error / untaught.validation_error,
            "share_of_trees_in_the_teaching": share,
            "teachers": markdown_table([{"share_of_trees": k, "validation_error": v} for k, v in errors.items()]),
            "trials": _trials(results),
            "learning_curves": picture(lambda axes: _draw_curves(axes, results)),
            "experiments": _log(tracker, "distilled_student", results, training_set, settings),
        }
    )
    return _draft(
        taught,
        best,
        inputs,
        parts,
        training_set,
        runtime_lookup,
        teacher={"pruned_teacher": pruned_teacher.digest, "xgboost_model": xgboost_model.digest, "trees": share},
        control={"asset": "untaught_student", "digest": control.digest},
    )


@dg.asset(
    group_name="models",
    description="The student as ONNX, in fp32 or int8: the smallest whose error stays within its gate.",
    owners=OWNERS,
    kinds={"onnx"},
    pool="cores",
    backfill_policy=dg.BackfillPolicy.single_run(),
    io_manager_key="bundles",
)
def quantized_student(
    context: dg.AssetExecutionContext,
    settings: dg.ResourceParam[Settings],
    training_set: Bundle,
    runtime_lookup: Bundle,
    distilled_student: Bundle,
) -> Draft:
    from mbta_assets.learning import export, quantize

    rows = rows_of(training_set)
    _, parts = _like(distilled_student, *_learning_parts(training_set, settings.seed))
    train_rows, validation = _rows(parts)
    network = _network(distilled_student)
    model = export.to_onnx(network)
    inputs = Inputs.from_bundle(distilled_student)
    test = inputs.arrays(rows[rows["part"] == "test"], distilled_student.manifest["residual_to"])
    parity = export.parity_seconds(network, model, test)
    found = quantize.variants(model, train_rows, validation)
    chosen = quantize.choose(found)
    table = [variant.row() for variant in found]
    context.add_output_metadata(
        {
            "chosen": chosen.name,
            "variants": markdown_table([{**row, "chosen": row["name"] == chosen.name} for row in table]),
            "error_against_size": picture(
                lambda axes: _draw_sizes(axes, {row["name"]: row for row in table}, chosen.name)
            ),
            "parity_seconds": parity,
            "parity_rows": len(test),
            "validation_error": chosen.validation_error,
        }
    )
    kept = ("residual_to", "features", "parameters", "layers", "configuration", "seed")
    return Draft(
        "onnx",
        {ONNX: chosen.model, **inputs.files()},
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


def _learning_parts(training_set: Bundle, seed: int) -> tuple[Inputs, Parts]:
    return learning_parts(Encoder.from_json(training_set.file(ENCODER)), rows_of(training_set), seed)


def _like(model: Bundle, inputs: Inputs, parts: Parts) -> tuple[Inputs, Parts]:
    """The same with the columns a stored model reads."""
    return _without(set(inputs.names) - set(model.manifest["features"]), inputs, parts)


def _without(names: Collection[str], inputs: Inputs, parts: Parts) -> tuple[Inputs, Parts]:
    return inputs.without(names), parts.without(names)


def _rows(parts: Parts) -> tuple[Arrays, Arrays]:
    """Training and validation rows as networks learn them."""
    from mbta_assets.learning.search import RESIDUAL_TO

    return parts.train[RESIDUAL_TO], parts.validation[RESIDUAL_TO]


def _network(stored: Bundle) -> "Network":
    from mbta_assets.learning import weights

    return weights.from_files({name: stored.file(name) for name in (weights.ARCHITECTURE, weights.WEIGHTS)})


def _trees(xgboost_model: Bundle, parts: Parts) -> tuple[np.ndarray, np.ndarray]:
    """What trees say of training and validation rows, as networks learn them.

    The stored trees have learned from the validation part, so their configuration is trained once more without it.
    """
    configuration, rounds = xgboost_model.manifest["configuration"], xgboost_model.manifest["rounds"]
    booster = boosting.fit(configuration, parts.labelled(), rounds, THREADS)

    def said(part: Mapping[str, Arrays], rows: Arrays) -> np.ndarray:
        own = part[configuration["residual_to"]]
        return booster.inplace_predict(boosting.inputs(own)) + (own.base - rows.base) / rows.scale

    train_rows, validation = _rows(parts)
    return said(parts.train, train_rows), said(parts.validation, validation)


def _with_lookup(inputs: Inputs, runtime_lookup: Bundle) -> Inputs:
    """What a bundle carries: the inputs a network learned with; its lookup has seen the validation part too."""
    return replace(inputs, lookup=RuntimeLookup.from_bytes(runtime_lookup.file(LOOKUP)))


def _draft(
    fitted: "Fitted",
    configuration: tune.Configuration,
    inputs: Inputs,
    parts: Parts,
    training_set: Bundle,
    runtime_lookup: Bundle,
    threads: int = 1,
    **more: Any,
) -> Draft:
    from mbta_assets.learning.network import parameters
    from mbta_assets.learning.search import RESIDUAL_TO
    from mbta_assets.learning.weights import to_files

    return Draft(
        "network",
        {**to_files(fitted.network), **_with_lookup(inputs, runtime_lookup).files()},
        {
            **provenance(training_set),
            "residual_to": RESIDUAL_TO,
            "configuration": configuration,
            "features": inputs.names,
            "layers": fitted.network.architecture()["layers"],
            **parameters(fitted.network),
            "seed": parts.seed,
            "threads": threads,
            "epochs": fitted.best_epoch,
            "validation": {"error": fitted.validation_error, "mae": _mae(fitted, parts), "n": len(_rows(parts)[1])},
            "libraries": library_versions("numpy", "torch"),
            **more,
        },
    )


def _mae(fitted: "Fitted", parts: Parts) -> float:
    """Mean absolute error in seconds over the validation rows."""
    from mbta_assets.learning.train import predict

    validation = _rows(parts)[1]
    error = (predict(fitted.network, validation) - validation.target) * validation.scale
    return float(np.abs(error).mean(dtype=np.float64))


def _validated(fitted: "Fitted", parts: Parts) -> dict[str, Any]:
    """A trained network's metadata; errors without a unit are in units of the scale."""
    from mbta_assets.learning.network import parameters

    return {
        "validation_error": fitted.validation_error,
        "validation_mae_seconds": _mae(fitted, parts),
        "epochs": fitted.best_epoch,
        **parameters(fitted.network),
        "layers": str(fitted.network.architecture()["layers"]),
    }


def _log(tracker: Tracker, name: str, results: Sequence[tune.Result], training_set: Bundle, settings: Settings) -> str:
    group = f"{name}-{datetime.now(UTC):%Y-%m-%d}"
    extra = {"training_set": training_set.digest, "seed": settings.seed}
    return tracker.log_search(name, group, results, extra) or "not logged"


def _trials(results: Sequence[tune.Result]) -> dg.MarkdownMetadataValue:
    return markdown_table(
        [
            {"trial": result.index, "best_error": result.best, "epochs": len(result.curve)}
            | {name: str(result.configuration.get(name, "–")) for name in results[0].configuration}
            for result in sorted(results, key=lambda result: result.best)
        ]
    )


def _draw_curves(axes: Any, results: Sequence[tune.Result]) -> None:
    for result in results:
        axes.plot(range(1, len(result.curve) + 1), result.curve, marker=".", label=f"trial {result.index}")
    axes.set(xlabel="epochs", ylabel="validation error (of the lookup's)", title="Trials, stopped ones cut short")
    axes.legend(fontsize="small", ncols=2)


def _draw_sizes(axes: Any, candidates: Mapping[str, Mapping[str, Any]], chosen: str) -> None:
    for name, row in candidates.items():
        axes.plot(row["size_bytes"] / 1000, row["validation_error"], "o", color="C1" if name == chosen else "C0")
        axes.annotate(name, (row["size_bytes"] / 1000, row["validation_error"]), fontsize="small")
    axes.set(xlabel="kB", ylabel="validation error (of the lookup's)", title=f"Error against size; chosen: {chosen}")
