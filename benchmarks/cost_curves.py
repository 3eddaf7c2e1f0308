"""Measure how costs grow with what there is to do, beside the least that it can cost, and draw the curves.

    python benchmarks/cost_curves.py STORE HOME [--write docs/performance.md]

Run by `make bench`, in ten minutes on two cores. STORE has the models of `make demo`, and HOME is its DAGSTER_HOME,
whose event log says how long each step took. The picture goes into `images` beside the document.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import training_set_memory
import year
from one_prediction import prepare_batch
from performance import measure, replace_block

from mbta_assets.markdown import format_table
from mbta_assets.plots.style import BLUE, GREY, VERMILION, draw_bars, draw_png
from mbta_assets.storage.parquet_tables import ParquetTables

BATCHES = (1, 10, 100, 1_000, 10_000, 100_000)
BACKFILL_DAYS = 14
TRAINING_DAYS = (5, 10, 20, 40)
TURNS = 5
MIN_PREDICTIONS = 1_000
"""Minimum number of predictions in a turn."""
MAX_STEPS = 12
TABLES = ("raw_transit_data", "transit_features")
PICTURE = "cost_curves.png"


@dataclass(frozen=True)
class Curve:
    """A cost by size, beside its limit."""

    title: str
    size: str
    """What the sizes count."""
    cost: str
    limit: str
    """What the limit is."""
    sizes: Sequence[float]
    costs: Sequence[float]
    limits: Sequence[float]
    is_logarithmic: bool = False

    def to_markdown(self) -> str:
        """Return the curve as a table."""
        rows = [
            (f"{size:,.0f}", f"{cost:,.4g}", f"{limit:,.4g}", f"{cost / limit:.2f}")
            for size, cost, limit in zip(self.sizes, self.costs, self.limits, strict=True)
        ]
        return f"**{self.title}**\n\n" + format_table((self.size, self.cost, self.limit, "ratio"), rows)

    def draw(self, axes: Any) -> None:
        """Draw the curve and its limit."""
        axes.plot(self.sizes, self.costs, marker="o", color=BLUE, label="measured")
        axes.plot(self.sizes, self.limits, "--", marker="x", color=VERMILION, label=self.limit)
        axes.set(xlabel=self.size, ylabel=self.cost, title=self.title)
        axes.set(xscale="log", yscale="log") if self.is_logarithmic else axes.set_ylim(bottom=0)
        axes.legend()


def main() -> None:
    """Measure, print, and write where that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path, help="store with the models of `make demo`")
    parser.add_argument("home", type=Path, help="its DAGSTER_HOME")
    parser.add_argument("--write", type=Path, help="document whose block is replaced")
    arguments = parser.parse_args()
    curves = [measure_batches(arguments.store), measure_backfill(), measure_training_sets()]
    steps = read_steps(arguments.home)
    text = "\n\n".join([*(curve.to_markdown() for curve in curves), describe_steps(steps)])
    print(text)
    if arguments.write:
        picture = draw_png(lambda *axes: draw(axes, curves, steps), panels=2, rows=2)
        (arguments.write.parent / "images" / PICTURE).write_bytes(picture)
        document = arguments.write.read_text()
        arguments.write.write_text(replace_block(document, "cost-curves", text))


def measure_batches(store: Path) -> Curve:
    """Measure predictions by how many are asked for at once."""
    bare, ours = [], []
    for size in BATCHES:
        calls = max(1, MIN_PREDICTIONS // size)
        measured = measure(f"{size:,}", prepare_batch(store, size), turns=TURNS, calls=calls)
        bare.append(1e6 * measured.rows[0].seconds / size)
        ours.append(1e6 * measured.rows[1].seconds / size)
    return Curve(
        "Latency by batch",
        "queries at once",
        "µs per prediction",
        "ONNX Runtime alone, µs",
        BATCHES,
        ours,
        bare,
        is_logarithmic=True,
    )


def measure_backfill() -> Curve:
    """Measure a backfill of simulated days by day, beside reading and writing the same rows."""
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        samples, published, rows = year.backfill(BACKFILL_DAYS, 1.0, root)
        spent = year.count_seconds(samples, published)[1:]
        store = ParquetTables(root / "store")
        copy = ParquetTables(root / "copy")
        limits = []
        for day in store.days(TABLES[-1])[1:]:
            began = time.process_time()
            for table in TABLES:
                copy.write(table, day, store.read(table, [day]))
            limits.append(time.process_time() - began)
    return Curve(
        "Daily tables of a backfill",
        "service day",
        "million rows per CPU second",
        "reading and writing them",
        range(2, BACKFILL_DAYS + 1),
        (rows[1:] / 1e6 / spent).tolist(),
        (rows[1:] / 1e6 / np.array(limits)).tolist(),
    )


def measure_training_sets() -> Curve:
    """Measure the memory of training sets by their number of days, beside the matrix that they become."""
    with tempfile.TemporaryDirectory() as directory:
        made = training_set_memory.measure_days(directory, TRAINING_DAYS)
    return Curve(
        "Memory of a training set",
        "service days",
        "peak MB",
        "the encoded matrix, MB",
        TRAINING_DAYS,
        [taken.peak_bytes / 1e6 for taken in made],
        [taken.matrix_bytes / 1e6 for taken in made],
    )


def read_steps(home: Path) -> dict[str, float]:
    """Return the seconds of each step over all runs of an instance, those that took longest first."""
    os.environ["DAGSTER_HOME"] = str(home.resolve())
    seconds: dict[str, float] = {}
    with dg.DagsterInstance.get() as instance:
        for run in instance.get_runs():
            for step in instance.get_run_step_stats(run.run_id):
                if step.start_time and step.end_time:
                    seconds[step.step_key] = seconds.get(step.step_key, 0.0) + step.end_time - step.start_time
    return dict(sorted(seconds.items(), key=lambda item: -item[1]))


def describe_steps(steps: dict[str, float]) -> str:
    """Return a table of the steps that took longest, and of the others together."""
    total = sum(steps.values())
    shown = shorten(steps)
    rows = [(f"`{name}`", f"{seconds:,.1f}", f"{seconds / total:.0%}") for name, seconds in shown.items()]
    return "**Time of the demo by step**\n\n" + format_table(("step", "s", "share"), rows)


def shorten(steps: dict[str, float]) -> dict[str, float]:
    """Return the steps that took longest, and all others as one."""
    longest = dict(list(steps.items())[:MAX_STEPS])
    others = sum(steps.values()) - sum(longest.values())
    return {**longest, **({"others": others} if others > 0 else {})}


def draw(panels: Sequence[Any], curves: Sequence[Curve], steps: dict[str, float]) -> None:
    """Draw the curves and the time of the steps."""
    *of_curves, of_steps = panels
    for axes, curve in zip(of_curves, curves, strict=True):
        curve.draw(axes)
    shown = shorten(steps)
    draw_bars(of_steps, list(shown), {"seconds": list(shown.values())}, {"seconds": GREY})
    of_steps.set(xlabel="seconds", ylabel="step", title="Time of the demo by step")


if __name__ == "__main__":
    main()
