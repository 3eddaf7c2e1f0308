"""Plots of searches, of models and of their errors."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from mbta_assets.plots.style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    LIGHT_GREY,
    MAX_SEQUENTIAL,
    ORANGE,
    PURPLE,
    SEQUENTIAL,
    SKY,
    VERMILION,
    choose_line,
    count_in_integers,
    draw_bars,
    name_columns,
    name_lines,
    shorten_name,
)
from mbta_assets.plots.tables import compute_hours

MAX_INPUTS, MAX_ROUTES, MAX_DISTANCE, MAX_MODELS_BY_ROUTE = 15, 16, 20, 2
MIN_ROWS = 20
"""Minimum number of rows of a group of errors that is drawn."""
QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)
PALE_BLUE, PALER_BLUE = "#8fbfe0", "#d6e6f2"
MODEL_STYLES = {
    "quantized_student": (VERMILION, "-", "o"),
    "distilled_student": (ORANGE, "-", "s"),
    "untaught_student": (ORANGE, ":", "s"),
    "dnn_teacher": (BLUE, "-", "^"),
    "pruned_teacher": (SKY, "-", "v"),
    "unpruned_teacher": (SKY, ":", "v"),
    "xgboost_model": (GREEN, "-", "D"),
    "oracle": (BLACK, "-", "*"),
    "runtime_lookup": (BLACK, "--", "o"),
    "agency": (PURPLE, "--", "s"),
    "persistence": (GREY, "--", "x"),
    "schedule": (GREY, "-.", "o"),
}
"""Colour, line and marker of models, of their controls (dotted), and of baselines (with dashes).

They can be told apart without the colours.
"""


def draw_learning_curves(
    axes: Any, curves: Mapping[str, Sequence[tuple[int, float]]], unit: str, error: str, title: str
) -> None:
    """Draw errors in seconds after so many steps of training, one curve for each name; `unit` is that of the steps.

    Where there are more curves than colours, the style of the lines varies.
    """
    for number, (name, curve) in enumerate(curves.items()):
        axes.plot([step for step, _ in curve], [value for _, value in curve], label=name, **choose_line(number))
    axes.set(xlabel=unit, ylabel=error, title=title)
    count_in_integers(axes.xaxis)
    name_lines(axes)


def draw_parallel_coordinates(axes: Any, trials: Sequence[Mapping[str, Any]], error: str) -> None:
    """Draw each trial of a search as a line through its hyperparameters, coloured by its error in seconds.

    `trials` have the same keys, `error` among them. A hyperparameter that is the same in all trials is left out; the
    others go from their smallest value at the bottom to their largest, and texts in order.
    """
    names = [name for name in trials[0] if name != error and len({str(trial.get(name)) for trial in trials}) > 1]
    names = [*names, error]
    places = np.array([_place([trial.get(name) for trial in trials]) for name in names])
    errors = np.array([float(trial[error]) for trial in trials])
    span = float(np.ptp(errors)) or 1.0
    colours = _colour_map()(MAX_SEQUENTIAL * (errors - errors.min()) / span)
    for index in np.argsort(-errors):
        axes.plot(range(len(names)), places[:, index], color=colours[index], marker="o", label=f"{errors[index]:.1f}")
    for position, name in enumerate(names):
        low, high = _name_ends([trial.get(name) for trial in trials])
        axes.annotate(low, (position, -0.04), ha="center", va="top", fontsize="x-small")
        axes.annotate(high, (position, 1.04), ha="center", va="bottom", fontsize="x-small")
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
    axes.set(xlabel="hyperparameter, and the error at the right", ylabel="smallest to largest value")
    axes.set(ylim=(-0.12, 1.12), yticks=[], title="Trials; the darker, the better")


def draw_importance(
    axes_of_gain: Any, axes_of_permutation: Any, gain: Mapping[str, float], permuted: Mapping[str, float]
) -> None:
    """Draw the share of the gain of each input, and by how many seconds the error grows where it is permuted."""
    parts = (
        (axes_of_gain, gain, 100.0, "share of the gain (%)"),
        (axes_of_permutation, permuted, 1.0, "error (seconds)"),
    )
    for axes, values, factor, label in parts:
        largest = sorted(values.items(), key=lambda item: -item[1])[:MAX_INPUTS]
        lengths = {"value": [factor * value for _, value in largest]}
        draw_bars(axes, [name for name, _ in largest], lengths, {"value": BLUE})
        axes.set(xlabel=label, ylabel="input")
    axes_of_gain.set_title("Importance by gain")
    axes_of_permutation.set_title("Growth of the error, input permuted")


def draw_residuals(by_hour: Any, by_distance: Any, by_route: Any, rows: pd.DataFrame, residual: np.ndarray) -> None:
    """Draw the quantiles of residuals (n,) in seconds, actual minus predicted, by hour, stops ahead and route."""
    routes = rows["route_id"].fillna("none").astype(str)
    largest = routes.value_counts().index[:MAX_ROUTES]
    _draw_quantiles(by_hour, compute_hours(rows), residual, "hours since the service day began")
    distance = rows["stops_ahead"].to_numpy(dtype=np.int64)
    near = distance <= MAX_DISTANCE
    _draw_quantiles(by_distance, distance[near], residual[near], "stops ahead")
    shown = routes.isin(largest).to_numpy()
    order = {route: number for number, route in enumerate(largest)}
    number = routes[shown].map(order).to_numpy(dtype=np.int64)
    _draw_quantiles(by_route, number, residual[shown], "route", in_order=False)
    name_columns(by_route, list(largest))
    count_in_integers(by_hour.xaxis, by_distance.xaxis)
    by_hour.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3)
    by_distance.set_title("Residuals on the test rows")


def draw_calibration(axes: Any, coverage: Mapping[int, float], widths: Mapping[int, float], level: float) -> None:
    """Draw the coverage of prediction intervals by stops ahead beside the promised one, and their mean width."""
    distances = [distance for distance in coverage if distance <= MAX_DISTANCE]
    axes.plot(distances, [100 * coverage[distance] for distance in distances], marker="o", label="coverage")
    axes.axhline(100 * level, color=GREY, linestyle="--", label="promised")
    axes.set(xlabel="stops ahead", ylabel="arrivals within the interval (%)", title="Calibration of the intervals")
    count_in_integers(axes.xaxis)
    axes.set_ylim(min(80.0, *(100 * coverage[distance] - 2 for distance in distances)), 100)
    width = axes.twinx()
    width.plot(distances, [widths[distance] for distance in distances], color=ORANGE, marker=".", label="mean width")
    width.set(ylabel="mean width (seconds)", ylim=(0, None))
    width.grid(visible=False)
    axes.legend(loc="lower right", bbox_to_anchor=(0.8, 1), ncols=2)
    width.legend(loc="lower right", bbox_to_anchor=(1, 1))


def draw_error_against_size(
    axes: Any, points: Mapping[str, tuple[int, float]], marked: Collection[str], error: str
) -> None:
    """Draw (size in bytes, error) of each label on logarithmic sizes, the marked labels as diamonds."""
    for label, point in points.items():
        axes.plot(*point, "D" if label in marked else "o", label=label, markersize=7)
    axes.set(xlabel="size (bytes)", ylabel=error, title="Error against size", xscale="log")
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))


def draw_errors(
    axes: Any, errors: Mapping[str, Mapping[str, float]], label: str, title: str, emphasized: str = ""
) -> None:
    """Draw the MAE in seconds of each model over the same groups, a line for each model, logarithmically.

    The line of the `emphasized` model is thicker, and above the others.
    """
    from matplotlib.ticker import LogFormatter  # takes a while to import, and only runs draw

    groups = list(dict.fromkeys(group for of_model in errors.values() for group in of_model))
    for number, (model, of_model) in enumerate(errors.items()):
        other = choose_line(number)
        colour, line, marker = MODEL_STYLES.get(model, (other["color"], other["linestyle"], other["marker"]))
        values = [of_model.get(group, np.nan) for group in groups]
        thickness = {"linewidth": 3.0, "zorder": 3} if model == emphasized else {}
        axes.plot(range(len(groups)), values, label=model, color=colour, linestyle=line, marker=marker, **thickness)
    axes.set(xlabel=label, ylabel="MAE (seconds)", title=title, yscale="log")
    for set_formatter in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        set_formatter(LogFormatter())  # 200 and not 2 × 10²
    name_columns(axes, groups)
    name_lines(axes, handlelength=4)  # so that dashes are seen


def draw_errors_by_route(axes: Any, errors: Mapping[str, Mapping[str, float]], rows: Mapping[str, int]) -> None:
    """Draw the MAE in seconds of a model and of its rival on each route, those with most rows on top."""
    routes = sorted(rows, key=lambda route: -rows[route])[:MAX_ROUTES]
    colours, of_models = (VERMILION, GREY), list(errors.items())[:MAX_MODELS_BY_ROUTE]
    for (model, of_model), colour in zip(of_models, colours, strict=False):
        axes.plot([of_model[route] for route in routes], range(len(routes)), "o", color=colour, label=model)
    for place, route in enumerate(routes):
        ends = [of_model[route] for _, of_model in of_models]
        axes.plot([min(ends), max(ends)], [place, place], color=LIGHT_GREY, zorder=0)
    axes.set_yticks(range(len(routes)), [f"{route}, {rows[route]:,} rows" for route in routes])
    axes.invert_yaxis()
    axes.set(xlabel="MAE (seconds)", ylabel="route", title="Error by route")
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2)


def _draw_quantiles(axes: Any, group: np.ndarray, values: np.ndarray, label: str, in_order: bool = True) -> None:
    """Draw the quantiles of values (n,) by group (n,): the median, and half and four fifths of them around it.

    Groups that are `in_order` are joined.
    """
    counts = np.bincount(group)
    groups = np.flatnonzero(counts >= MIN_ROWS)
    of_groups = [np.quantile(values[group == value], QUANTILES) for value in groups]
    quantiles = np.array(of_groups).reshape(-1, len(QUANTILES))
    outer, inner = (quantiles[:, 0], quantiles[:, 4]), (quantiles[:, 1], quantiles[:, 3])
    if in_order:
        edge = {"edgecolor": BLUE, "linewidth": 0.6}
        axes.fill_between(groups, *outer, facecolor=PALER_BLUE, label="80% of them", **edge)
        axes.fill_between(groups, *inner, facecolor=PALE_BLUE, label="half of them", **edge)
    else:
        axes.vlines(groups, *outer, color=BLUE, linewidth=1.2, label="80% of them")
        axes.vlines(groups, *inner, color=SKY, linewidth=7, label="half of them")
    axes.plot(groups, quantiles[:, 2], color=BLACK, marker=".", linestyle="-" if in_order else "", label="median")
    axes.axhline(0, color=GREY, linewidth=0.8)
    axes.set(xlabel=label, ylabel="actual minus predicted (seconds)")


def _place(values: Sequence[Any]) -> np.ndarray:
    """Return where values (n,) are between the smallest, 0, and the largest, 1; texts in order."""
    numbers = pd.to_numeric(pd.Series(values, dtype=object), errors="coerce")
    if numbers.isna().any():
        texts = [str(value) for value in values]
        numbers = pd.Series([sorted(set(texts)).index(text) for text in texts])
    spread = numbers.max() - numbers.min()
    return np.asarray((numbers - numbers.min()) / spread if spread else numbers * 0 + 0.5, dtype=float)


def _name_ends(values: Sequence[Any]) -> tuple[str, str]:
    """Return the smallest and the largest of some values as short texts."""
    numbers = pd.to_numeric(pd.Series(values, dtype=object), errors="coerce")
    if numbers.isna().any():
        texts = sorted({str(value) for value in values})
        return shorten_name(texts[0]), shorten_name(texts[-1])
    return f"{numbers.min():.3g}", f"{numbers.max():.3g}"


def _colour_map() -> Any:
    from matplotlib import colormaps

    return colormaps[SEQUENTIAL]
