"""Train on real service days with several seeds, and write errors, paired differences and intervals as tables.

    python benchmarks/real_days.py DATA --out DIR [--before DIR] [--write docs/results.md]

Run by `make benchmark-real`. A data set is a directory in DATA with the upstream tables as the source `files` reads
them; the day that the tests use is always one. What is trained already is not trained again: a run that was stopped
goes on. `--before` is the `--out` of another version of the platform, whose predictions are compared on the same rows.
That version is run by this script too, with its checkout as PYTHONPATH and `--train-only`.
"""

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import pandas as pd

import mbta_assets
from mbta_assets.ml.inference.monotone import correct_delays
from mbta_assets.ml.inference.preprocessing import LOOKUP_FILE
from mbta_assets.ml.inference.run_time import MedianRunTime
from mbta_assets.ml.training.dataset import read_labelled
from mbta_assets.ml.training.model_loading import load_model
from mbta_assets.settings import Settings
from mbta_assets.sources.files import FilesSource
from mbta_assets.storage.model_registry import ModelRegistry
from mbta_assets.transit.schema import ROW_KEY, UPSTREAM

ROOT = Path(mbta_assets.__file__).parents[1]
SEED_UPSTREAM = ROOT / "mbta_assets_tests/data/seed_upstream"
SEEDS = (0, 1, 2)
TRIALS = "4"
"""Number of trials of each search without MBTA_TUNE_TRIALS."""
TABLES = "group:upstream or group:transit"
MODELS = "group:training or group:models or key:model_leaderboard"
LEADERBOARD, PREDICTIONS = "reports/model_leaderboard.json", "reports/test_predictions.parquet"
LOOKUP = "runtime_lookup"
DISTANCES = (1, 3, 5, 10)
LABEL = "delay_seconds"
BLOCK = re.compile(r"(<!-- real-days:begin -->\n).*?(<!-- real-days:end -->)", re.DOTALL)
WHAT_CHOSE_WHAT = """\
Rows of the training and the validation part are all that models are fitted to; those of the validation part choose
configurations, rounds, epochs, mixes and sizes. Rows of the test part are scored, and choose nothing."""
HOW_TO_READ = """\
In seconds of MAE on the test part. ± beside an error is the standard deviation over the seeds. Differences are those of
the errors' means over the seeds, row by row: negative is better, and ± is half of the interval at 95% of that over all
rows, where either trips or service days are independent. "before" is an earlier version, on the same rows."""


@dataclass(frozen=True)
class TrainedSeed:
    """What one training has left in its store."""

    predictions: pd.DataFrame
    """Labelled rows of the test part by `ROW_KEY`, and the published delay in seconds of each model."""
    leaderboard: list[dict[str, Any]]
    parts: list[dict[str, Any]]
    """Time span and number of rows of each part of the training set."""


def main() -> None:
    """Train what is not trained yet and print the tables, or write them into a document."""
    arguments = parse_arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("Stopped."))  # so that the training that runs ends too
    sections = []
    for name, directory in find_data_sets(arguments.data).items():
        if arguments.only and name not in arguments.only:
            continue
        for seed in arguments.seeds:
            train(arguments.out / name, directory, seed)
        if arguments.train_only:
            continue
        after = read_seeds(arguments.out / name, arguments.seeds)
        before = read_seeds(arguments.before / name, arguments.seeds) if arguments.before else []
        sections.append(describe_data_set(name, after, before))
    if not sections:
        return
    text = "\n\n".join([WHAT_CHOSE_WHAT, HOW_TO_READ, *sections])
    print(f"\n{text}")
    if arguments.write:
        arguments.write.write_text(replace_block(arguments.write.read_text(), text))


def find_data_sets(data: Path | None) -> dict[str, Path]:
    """Return the directory of each data set by name: the shipped one, and those in a directory that have all tables."""
    found = {SEED_UPSTREAM.name: SEED_UPSTREAM}
    for directory in sorted(data.iterdir()) if data else []:
        names = {path.stem for path in directory.glob("*")}
        if names.issuperset(UPSTREAM):
            found[directory.name] = directory
    return found


def train(out: Path, data: Path, seed: int) -> None:
    """Train on a data set with a seed, in a store and a Dagster home of their own, unless that is done already."""
    store = out / str(seed)
    if not (store / LEADERBOARD).exists():
        make_tables(out, data)
        shutil.rmtree(store, ignore_errors=True)  # of a training that was stopped
        shutil.copytree(out / "tables", store / "tables", copy_function=os.link)
        print(f"{out.name}, seed {seed}: training, log {out / f'{seed}.log'}", flush=True)
        materialize(store, data, out / f"{seed}.log", MODELS, MBTA_SEED=str(seed))
    if not (store / PREDICTIONS).exists():
        write_predictions(store)


def make_tables(out: Path, data: Path) -> None:
    """Make the daily tables of a data set, `out/tables`, unless they are there."""
    unfinished = out / "unfinished"
    if (out / "tables").exists():
        return
    shutil.rmtree(unfinished, ignore_errors=True)
    for first, last in find_ranges(list_days(data)):
        print(f"{out.name}: tables of {first} to {last}, log {out / 'tables.log'}", flush=True)
        materialize(unfinished, data, out / "tables.log", TABLES, "--partition-range", f"{first}...{last}")
    (unfinished / "tables").rename(out / "tables")
    shutil.rmtree(unfinished)


def list_days(data: Path) -> list[date]:
    """Return the service days that a data set has vehicle updates of, in order."""
    return sorted(FilesSource(data).poll("vehicle", {}))


def find_ranges(days: Sequence[date]) -> Iterator[tuple[date, date]]:
    """Yield the first and last of each group of days in order that follow one another without a gap."""
    starts = [index for index, day in enumerate(days) if index == 0 or day - days[index - 1] > timedelta(days=1)]
    for start, end in zip(starts, [*starts[1:], len(days)], strict=True):
        yield days[start], days[end - 1]


def materialize(store: Path, data: Path, log: Path, *selection: str, **variables: str) -> None:
    """Materialize a selection of assets. Exit with the end of the log if that fails."""
    home = store / "dagster_home"
    home.mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / "dagster.yaml", home)
    environment = {
        "MBTA_TUNE_TRIALS": TRIALS,
        **os.environ,
        "DAGSTER_HOME": str(home),
        "MBTA_STORE": str(store),
        "MBTA_SOURCE": "files",
        "MBTA_FILES_DIR": str(data),
        "MBTA_START_DATE": str(list_days(data)[0]),
        **variables,
    }
    command = [sys.executable, "-m", "dagster", "asset", "materialize", "-m", "mbta_assets.definitions", "--select"]
    with log.open("w") as output:
        run = subprocess.run([*command, *selection], cwd=ROOT, env=environment, stdout=output, stderr=output)
    if run.returncode:
        sys.exit("\n".join([*log.read_text().splitlines()[-30:], f"Failed; the whole log is {log}."]))


def write_predictions(store: Path) -> None:
    """Write the published delays of the lookup and of all models for the labelled test rows of a store."""
    registry = ModelRegistry(store)
    test = read_labelled(registry.current("training_set"), "test")
    lookup = MedianRunTime.from_bytes(registry.current(LOOKUP).file(LOOKUP_FILE))
    delays = {LOOKUP: lookup.predict_delay(test)}
    for row in json.loads((store / LEADERBOARD).read_text()):
        if row["version"]:  # baselines have none
            model = load_model(registry.get(row["model"], row["version"]))
            delays[row["model"]] = correct_delays(test, model.predict(test)).delay
    unfinished = store / f"{PREDICTIONS}.unfinished"
    test[[*ROW_KEY, "stops_ahead", LABEL]].assign(**delays).to_parquet(unfinished, index=False)
    unfinished.rename(store / PREDICTIONS)


def read_seeds(directory: Path, seeds: Sequence[int]) -> list[TrainedSeed]:
    """Read what was trained with some seeds; those that are not there are left out."""
    stores = [directory / str(seed) for seed in seeds]
    return [
        TrainedSeed(
            pd.read_parquet(store / PREDICTIONS),
            json.loads((store / LEADERBOARD).read_text()),
            ModelRegistry(store).current("training_set").manifest["parts"],
        )
        for store in stores
        if (store / PREDICTIONS).exists()
    ]


def describe_data_set(name: str, after: Sequence[TrainedSeed], before: Sequence[TrainedSeed]) -> str:
    """Return the tables of a data set in Markdown."""
    rows = join_predictions([seed.predictions for seed in after], [seed.predictions for seed in before])
    n_all = min(len(seed.predictions) for seed in after)
    seeds = f"{len(after)} seeds" if len(after) > 1 else "1 seed"
    scored = f"{len(rows.key):,} of {n_all:,} labelled test rows"
    parts = "; ".join(f"{part['part']} {part['rows']:,} from {part['from'][:16]}" for part in after[0].parts)
    summary = f"{seeds}, {scored}.\nParts (UTC): {parts}."
    leaderboards = {"": [seed.leaderboard for seed in after], "before": [seed.leaderboard for seed in before]}
    tables = [
        tabulate_errors(rows),
        tabulate_differences(rows),
        tabulate_differences(rows, to_before=True),
        tabulate_intervals(leaderboards),
    ]
    return "\n\n".join([f"### {name}", summary, *filter(None, tables)])


@dataclass(frozen=True)
class JoinedRows:
    """Absolute errors of n rows that all trainings have scored."""

    key: pd.DataFrame
    """(n, …) `ROW_KEY` and `stops_ahead`."""
    after: Mapping[str, np.ndarray]
    """(seeds, n) absolute errors in seconds by model."""
    before: Mapping[str, np.ndarray]
    """(seeds, n) absolute errors in seconds by model of the earlier version."""

    def get_groups(self) -> dict[str, np.ndarray]:
        """Return the group (n,) of each row, by what is independent."""
        day = self.key["service_date"].astype(str)
        return {"trip": (day + " " + self.key["trip_id"].astype(str)).to_numpy(), "day": day.to_numpy()}

    def select_distances(self) -> dict[str, np.ndarray]:
        """Return a mask (n,) of the rows at each of `DISTANCES`, and of all rows."""
        stops_ahead = self.key["stops_ahead"].to_numpy()
        masks = {str(distance): stops_ahead == distance for distance in DISTANCES}
        return {name: mask for name, mask in masks.items() if mask.any()} | {"all": np.ones(len(stops_ahead), bool)}


def join_predictions(after: Sequence[pd.DataFrame], before: Sequence[pd.DataFrame] = ()) -> JoinedRows:
    """Return the errors on the rows, by `ROW_KEY`, that all tables of predictions have."""
    indexed = [predictions.set_index(ROW_KEY) for predictions in (*after, *before)]
    shared = indexed[0].index
    for predictions in indexed[1:]:
        shared = shared.intersection(predictions.index)
    shared = shared.sort_values()
    indexed = [predictions.loc[shared] for predictions in indexed]
    key = indexed[0][["stops_ahead"]].reset_index()
    return JoinedRows(key, _stack_errors(indexed[: len(after)]), _stack_errors(indexed[len(after) :]))


def _stack_errors(seeds: Sequence[pd.DataFrame]) -> dict[str, np.ndarray]:
    """Return the absolute errors (seeds, n) of each model that all tables (n, …) have."""
    models = [str(name) for name in (seeds[0] if seeds else ()) if name not in ("stops_ahead", LABEL)]
    return {
        model: np.stack([(seed[model] - seed[LABEL]).abs().to_numpy(dtype=np.float64) for seed in seeds])
        for model in models
        if all(model in seed for seed in seeds)
    }


def tabulate_errors(rows: JoinedRows) -> str:
    """Return a table of the errors of each model by distance, the best first, each above that before."""
    masks = rows.select_distances()
    lines = make_header(["MAE", *masks])
    for model in sorted(rows.after, key=lambda model: rows.after[model].mean()):
        versions = {f"`{model}`": rows.after[model], "– before": rows.before.get(model)}
        for name, errors in versions.items():
            if errors is not None:
                values = [format_spread(errors[:, mask].mean(axis=1).tolist(), ".1f") for mask in masks.values()]
                lines.append(make_row([name, *values]))
    return "\n".join(lines)


def tabulate_differences(rows: JoinedRows, *, to_before: bool = False) -> str:
    """Return a table of the differences of each model to the lookup, or to the same model before; "" without any."""
    baselines = rows.before if to_before else {model: rows.after[LOOKUP] for model in rows.after if model != LOOKUP}
    masks, groups = rows.select_distances(), rows.get_groups()
    title = "difference to before" if to_before else "difference to the lookup"
    lines = make_header([title, *masks, *(f"± by {name}" for name in groups), "in %"])
    for model in sorted(rows.after.keys() & baselines.keys(), key=lambda model: rows.after[model].mean()):
        difference = rows.after[model].mean(axis=0) - baselines[model].mean(axis=0)
        cells = [f"{difference[mask].mean():+.2f}" for mask in masks.values()]
        cells += [_describe_half_width(difference, group) for group in groups.values()]
        lines.append(make_row([f"`{model}`", *cells, f"{100 * difference.mean() / baselines[model].mean():+.1f}"]))
    return "\n".join(lines) if baselines else ""


def _describe_half_width(difference: np.ndarray, group: np.ndarray) -> str:
    """Return half of the interval around the mean of differences (n,) with these groups (n,)."""
    from mbta_assets.ml.evaluation.paired_days import compute_half_width  # which an earlier version lacks

    half_width = compute_half_width(difference, group)
    return "–" if half_width is None else f"{half_width:.2f}"


def tabulate_intervals(leaderboards: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]]) -> str:
    """Return a table of the coverage and mean width of intervals in all, by distance and by day, means over the seeds.

    `leaderboards` has those of the seeds by version; a leaderboard of an earlier version has no days.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for version, seeds in leaderboards.items():
        for row in (row for leaderboard in seeds for row in leaderboard if row["interval"]):
            found.setdefault(f"`{row['model']}`{version and ', ' + version}", []).append(row["interval"])
    parts = {name: [_split_interval(interval) for interval in intervals] for name, intervals in found.items()}
    columns = dict.fromkeys(column for of_seeds in parts.values() for by_column in of_seeds for column in by_column)
    lines = make_header(["coverage, mean width", "level", *columns])
    for name, of_seeds in parts.items():
        cells = [_describe_coverage([by[column] for by in of_seeds if column in by]) for column in columns]
        lines.append(make_row([name, f"{found[name][0]['confidence_level']:.0%}", *cells]))
    return "\n".join(lines) if found else ""


def _split_interval(interval: Mapping[str, Any]) -> dict[str, Mapping[str, float]]:
    """Return the measures of an interval at each of `DISTANCES`, over all rows, and on each day in order."""
    by_distance = interval.get("by_stops_ahead", {})
    near = {str(distance): by_distance[str(distance)] for distance in DISTANCES if str(distance) in by_distance}
    return {**near, "all": interval, **dict(sorted(interval.get("by_day", {}).items()))}


def _describe_coverage(parts: Sequence[Mapping[str, float]]) -> str:
    """Return the mean coverage and width of some parts; a dash without any."""
    if not parts:
        return "–"
    return f"{fmean(p['coverage'] for p in parts):.1%}, {fmean(p['mean_width_seconds'] for p in parts):.0f} s"


def format_spread(values: Sequence[float], form: str) -> str:
    """Return the mean of values of several seeds with their standard deviation, or the value of one."""
    mean = format(fmean(values), form)
    return f"{mean} ± {format(stdev(values), form)}" if len(values) > 1 else mean


def make_header(names: Sequence[str]) -> list[str]:
    """Return the first two lines of a Markdown table."""
    return [make_row(names), "|" + "---|" * len(names)]


def make_row(cells: Sequence[str]) -> str:
    """Return a line of a Markdown table."""
    return f"| {' | '.join(cells)} |".replace("|  |", "| |")


def replace_block(document: str, text: str) -> str:
    """Return a document with a text between its markers. Exit if it has none."""
    if not BLOCK.search(document):
        sys.exit(
            "The document has no <!-- real-days:begin --> and <!-- real-days:end -->; add both where tables belong."
        )
    return BLOCK.sub(lambda match: f"{match[1]}\n{text}\n\n{match[2]}", document)


def parse_arguments() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default_out = Settings.from_environment().store / "real_days"
    parser.add_argument("data", type=Path, nargs="?", help="directory of data sets; by default the shipped day alone")
    parser.add_argument("--out", type=Path, default=default_out, help="where stores are kept, by data set and seed")
    parser.add_argument("--before", type=Path, help="where an earlier version has kept its stores")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--train-only", action="store_true", help="train and predict, and make no tables")
    parser.add_argument("--only", nargs="+", help="names of the data sets, by default all")
    parser.add_argument("--write", type=Path, help="document in which the tables are replaced")
    arguments = parser.parse_args()
    for name in ("data", "out", "before", "write"):
        path = getattr(arguments, name)
        setattr(arguments, name, path and path.expanduser().absolute())
    return arguments


if __name__ == "__main__":
    main()
