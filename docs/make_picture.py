"""Draw the README's picture: the error of models and baselines by stops ahead, from a leaderboard.

Run by `make docs` on the leaderboard of the demo, which is kept beside the picture. For another leaderboard:

    .venv/bin/python docs/make_picture.py .local/reports/model_leaderboard.json picture.png
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullFormatter, StrMethodFormatter

from mbta_assets.plots.style import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, VERMILION

IMAGES = Path(__file__).parent / "images"
LABELS = {
    "schedule": ("schedule: on time", GREY),
    "persistence": ("persistence: the delay at the last stop", PURPLE),
    "runtime_lookup": ("run-time lookup: median run time", ORANGE),
    "xgboost_model": ("XGBoost, {size}", GREEN),
    "quantized_student": ("quantized student, {size}: served", VERMILION),
    "oracle": ("oracle: best possible", BLUE),
}
"""Label and color of each model that is drawn."""
SERVED = "quantized_student"
MIN_ROW_SHARE = 0.005
"""Minimum share of the rows at a distance that is drawn: the error over a handful of trips is chance."""
MIN_LABEL_DISTANCE = 1.17
"""Minimum ratio of the heights of two labels on the logarithmic axis, so that they do not overlap."""


def main(leaderboard: Path, picture: Path) -> None:
    """Draw the picture of a stored leaderboard."""
    rows = {row["model"]: row for row in json.loads(leaderboard.read_text())}
    rcParams["font.size"] = 10
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    draw_errors(figure.subplots(), [rows[name] for name in LABELS if name in rows])
    figure.savefig(picture, dpi=110, metadata={"Software": None})


def draw_errors(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    """Draw the MAE of each model by stops ahead, its colour and label at the right end."""
    stops_ahead = select_distances(rows[0])
    farthest = str(stops_ahead[-1])
    rows = sorted(rows, key=lambda row: -row["by_stops_ahead"][farthest]["mae"])
    label_heights = spread([row["by_stops_ahead"][farthest]["mae"] for row in rows])
    for row, label_height in zip(rows, label_heights, strict=True):
        label, color = LABELS[row["model"]]
        errors = [row["by_stops_ahead"][str(stops)]["mae"] for stops in stops_ahead]
        width = 2.6 if row["model"] == SERVED else 1.5
        axes.plot(stops_ahead, errors, color=color, marker="o", markersize=4, linewidth=width)
        text = label.format(size=format_size(row["size_bytes"] or 0))
        axes.plot(stops_ahead[-1] * 1.035, label_height, color=color, marker="s", clip_on=False)
        axes.text(stops_ahead[-1] * 1.05, label_height, text, color=BLACK, va="center")
    axes.set(yscale="log", xlabel="stops ahead", ylabel="mean absolute error (seconds)", xticks=stops_ahead)
    axes.set_xlim(right=stops_ahead[-1] * 1.02)
    axes.yaxis.set_major_locator(FixedLocator([10, 20, 50, 100, 200, 500]))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:.0f}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(axis="y", color="#e6e6e6")
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(f"Error of the predicted arrival on {rows[0]['n']:,} test rows", loc="left", fontsize=11)


def select_distances(row: Mapping[str, Any]) -> list[int]:
    """Return the numbers of stops ahead, the departure left out, that are about enough rows."""
    min_rows = MIN_ROW_SHARE * row["n"]
    by_stops_ahead = {int(stops): part["n"] for stops, part in row["by_stops_ahead"].items()}
    return [stops for stops, n in by_stops_ahead.items() if stops > 0 and n >= min_rows]


def spread(heights: Sequence[float]) -> list[float]:
    """Return heights in descending order, each moved down until it keeps `MIN_LABEL_DISTANCE` from the one above."""
    moved: list[float] = []
    for height in heights:
        moved.append(min(height, moved[-1] / MIN_LABEL_DISTANCE) if moved else height)
    return moved


def format_size(size: int) -> str:
    """Return a size in bytes for a label, such as 34 kB."""
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"


if __name__ == "__main__":
    arguments = [Path(argument) for argument in sys.argv[1:]]
    main(*(arguments or [IMAGES / "model_leaderboard.json", IMAGES / "error_by_stops_ahead.png"]))
