"""Plots of a service day's tables and of a training set."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as arrow

from mbta_assets.plots.style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SEQUENTIAL,
    SKY,
    VERMILION,
    count_in_integers,
    draw_bars,
    draw_columns,
    name_columns,
)
from mbta_assets.transit import schema, service_day

LABELLED, UNLABELLED = "with a label", "without"
LABEL_COLOURS = {LABELLED: BLUE, UNLABELLED: GREY}
USED, DROPPED = "used", "dropped"
PART_COLOURS = {"train": BLUE, "validation": ORANGE, "test": VERMILION}
MAX_ROUTES, MAX_FEATURES, MAX_DAYS = 16, 20, 60
MAX_MISSING_ROUTES = 12
"""Number of routes beside one another that missing values are drawn of."""
MAX_HOURLY_DAYS = 2
"""Number of service days up to which the parts of a training set are drawn by hour."""
DELAY_COLOURS_SECONDS = 600.0
"""Delay in seconds from which the colour on a map stays the same."""


def compute_hours(rows: pd.DataFrame) -> np.ndarray:
    """Return the hour of the service day (n,), from 0, of the `time_stamp` of each row.

    Reports before it began, of vehicles that wait for one of its first trips, are in hour 0.
    """
    times = rows["time_stamp"].to_numpy(dtype="datetime64[s]").astype(np.int64)
    start = service_day.start_epoch_seconds(schema.to_service_dates(rows["service_date"]))
    return np.maximum(0, (times - start) // 3600).astype(np.int64)


@dataclass(frozen=True)
class FeatureCounts:
    """Rows of a service day's features by the hour of the service day, from 0, and by route: arrays (hours, routes).

    - `routes`: the names of the routes in order, `none` for rows without one.
    - `rows`, `labelled`: the number of rows, and of those with a label.
    - `missing`: the number of rows without a value of each feature that some rows lack, the one that most lack first.
    """

    routes: list[str]
    rows: np.ndarray
    labelled: np.ndarray
    missing: dict[str, np.ndarray]


def count_features(features: arrow.Table) -> FeatureCounts:
    """Count the rows of a service day's features, which has at least one, for its plots."""
    frame = schema.to_frame(features.select(["service_date", "time_stamp", "route_id"]))
    hours, (codes, routes) = compute_hours(frame), _encode_routes(frame["route_id"])
    shape = int(hours.max()) + 1, len(routes)
    cell = hours * len(routes) + codes

    def count(is_counted: arrow.ChunkedArray) -> np.ndarray:
        return np.bincount(cell[is_counted.to_numpy()], minlength=shape[0] * shape[1]).reshape(shape)

    names = schema.columns_with_role(schema.TransitFeatures, "numeric")
    n_missing = {name: features[name].null_count for name in names}
    most_first = sorted((name for name in names if n_missing[name]), key=lambda name: -n_missing[name])
    return FeatureCounts(
        routes=routes,
        rows=np.bincount(cell, minlength=shape[0] * shape[1]).reshape(shape),
        labelled=count(features["delay_seconds"].is_valid()),
        missing={name: count(features[name].is_null()) for name in most_first[:MAX_FEATURES]},
    )


def draw_labels_by_hour(axes: Any, counts: FeatureCounts) -> None:
    """Draw the rows of a service day by hour, with a label and without."""
    parts = _split_labels(counts.rows.sum(axis=1), counts.labelled.sum(axis=1))
    draw_columns(axes, [str(hour) for hour in range(len(counts.rows))], parts, LABEL_COLOURS)
    count_in_integers(axes.yaxis)
    axes.set(xlabel="hours since the service day began", ylabel="rows", title="Labels by hour")
    axes.legend(ncols=2, loc="lower right", bbox_to_anchor=(1, 1))


def draw_labels_by_route(axes: Any, counts: FeatureCounts) -> None:
    """Draw the rows of a service day by route, those with most rows on top, with a label and without."""
    order = _order_routes(counts)[:MAX_ROUTES]
    parts = _split_labels(counts.rows.sum(axis=0)[order], counts.labelled.sum(axis=0)[order])
    draw_bars(axes, [counts.routes[route] for route in order], parts, LABEL_COLOURS)
    left_out = len(counts.routes) - MAX_ROUTES
    more = f"; {left_out} routes with fewer rows are left out" if left_out > 0 else ""
    axes.set(xlabel="rows", ylabel="route", title=f"Labels by route{more}")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2)
    count_in_integers(axes.xaxis)


def draw_missing_values(axes: Any, counts: FeatureCounts) -> None:
    """Draw the share of missing values of each feature that has any, the largest on top."""
    percent = [100 * missing.sum() / counts.rows.sum() for missing in counts.missing.values()]
    draw_bars(axes, list(counts.missing), {"missing": percent}, {"missing": ORANGE})
    axes.set(xlabel="missing values (% of the rows)", ylabel="feature", xlim=(0, 100))
    axes.set_title("Features that are not always known")


def draw_missing_by_group(by_hour: Any, by_route: Any, counts: FeatureCounts) -> None:
    """Draw the share of missing values of the features that have any, by hour and by route, as colours.

    The routes with most rows are drawn, from left to right. An hour without rows is left white.
    """
    largest = _order_routes(counts)[:MAX_MISSING_ROUTES]
    of_hours, of_routes = (_compute_missing_percent(counts, axis) for axis in (1, 0))
    hours, routes = [str(hour) for hour in range(len(counts.rows))], [counts.routes[route] for route in largest]
    for axes, percent, names in ((by_hour, of_hours, hours), (by_route, of_routes[:, largest], routes)):
        height, width = max(1, len(percent)), len(names)
        image = axes.imshow(
            percent, aspect="auto", cmap=SEQUENTIAL, vmin=0, vmax=100, extent=(-0.5, width - 0.5, height - 0.5, -0.5)
        )
        axes.set_yticks(range(len(percent)), list(counts.missing))
        name_columns(axes, names)
        axes.grid(visible=False)
    by_hour.set(xlabel="hours since the service day began", ylabel="feature", title="Missing values by hour")
    more = f", the largest {len(largest)} of {len(counts.routes)}" if len(largest) < len(counts.routes) else ""
    by_route.set(xlabel="route", ylabel="feature", title=f"Missing values by route{more}")
    by_route.tick_params(labelleft=False)
    by_hour.figure.colorbar(image, ax=[by_hour, by_route], label="missing values (% of the rows)")


def _encode_routes(route_ids: pd.Series) -> tuple[np.ndarray, list[str]]:
    """Return the code (n,) of the route of each row, and the names of the routes in order, `none` if it is missing."""
    codes, distinct = pd.factorize(route_ids, use_na_sentinel=False)
    names, code = np.unique(pd.Series(distinct).fillna("none").to_numpy(dtype=str), return_inverse=True)
    return code[codes], names.tolist()


def _order_routes(counts: FeatureCounts) -> np.ndarray:
    """Return the indices of the routes, those with most rows first."""
    return np.argsort(-counts.rows.sum(axis=0), kind="stable")


def _split_labels(rows: np.ndarray, labelled: np.ndarray) -> dict[str, list[float]]:
    """Return the number of rows (n,) with a label and without, given those of all and with one."""
    return {LABELLED: labelled.tolist(), UNLABELLED: (rows - labelled).tolist()}


def _compute_missing_percent(counts: FeatureCounts, axis: int) -> np.ndarray:
    """Return the percentage (features, n) of missing values, summed over an axis; NaN where there are no rows."""
    rows = counts.rows.sum(axis=axis)
    missing = np.array([cells.sum(axis=axis) for cells in counts.missing.values()]).reshape(-1, len(rows))
    return np.divide(100 * missing, rows, out=np.full(missing.shape, np.nan), where=rows > 0)


def draw_usage(axes: Any, usage: pd.DataFrame) -> None:
    """Draw the share of the rows of each upstream table that the join used, and dropped by reason.

    `usage` has the columns of `UpstreamUsage`.
    """
    outcome = usage["reason"].where(usage["outcome"] != "matched", USED).where(usage["reason"] != "", USED)
    counts = usage.assign(outcome=outcome).pivot_table("row_count", "source_table", "outcome", "sum", fill_value=0)
    counts = counts.reindex([table for table in schema.UPSTREAM if table in counts.index])
    names = [f"{table}, {int(total):,} rows" for table, total in counts.sum(axis=1).items()]
    share = 100 * counts.div(counts.sum(axis=1).clip(lower=1), axis=0)
    reasons = [name for name in share.columns if name != USED and share[name].any()]
    colours = dict(zip(reasons, (VERMILION, ORANGE, PURPLE, SKY, BLACK, GREEN) * 3, strict=False))
    parts = {name: share[name].tolist() for name in [USED, *reasons] if name in share}
    draw_bars(axes, names, parts, {USED: BLUE, **colours})
    axes.set(xlabel="rows (%)", ylabel="upstream table", xlim=(0, 100))
    axes.set_title("What the join used, and why it dropped the rest")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=4)


def count_by_time(part: np.ndarray, rows: pd.DataFrame) -> pd.DataFrame:
    """Return the number of rows by service day and part; by hour where days are few.

    `part` (n,) is the part of each row, `rows` have the columns `service_date` and `time_stamp`.
    """
    days = pd.Series(schema.to_service_dates(rows["service_date"]).astype(str), name="day")
    hours = pd.Series(compute_hours(rows), name="hour")
    index = [days, hours] if days.nunique() <= MAX_HOURLY_DAYS else [days]
    counts = pd.crosstab(index, pd.Series(part, name="part"))
    if len(index) > 1:
        counts.index = pd.Index([f"{day}, {hour} h" for day, hour in counts.index])
    return counts.reindex(columns=list(PART_COLOURS), fill_value=0)


def draw_split(axes: Any, counts: pd.DataFrame) -> None:
    """Draw the rows of a training set over time, by part; `counts` are those of `count_by_time`."""
    left_out = max(0, len(counts) - MAX_DAYS)
    counts = counts[left_out:]
    parts = {part: counts[part].tolist() for part in PART_COLOURS}
    draw_columns(axes, counts.index.tolist(), parts, PART_COLOURS)
    count_in_integers(axes.yaxis)
    more = f"; {left_out} days before are left out" if left_out else ""
    axes.set(xlabel="service day", ylabel="rows", title=f"Parts of the training set{more}")
    axes.legend(ncols=3, loc="lower right", bbox_to_anchor=(1, 1))


def draw_routes_by_day(axes: Any, counts: pd.DataFrame) -> None:
    """Draw the rows of each route (index) on each service day (columns) as colours."""
    counts = counts.loc[counts.sum(axis=1).sort_values(ascending=False, kind="stable").index][:MAX_ROUTES]
    counts = counts.iloc[:, -MAX_DAYS:]
    image = axes.imshow(counts.to_numpy(dtype=float), aspect="auto", cmap=SEQUENTIAL)
    axes.set_yticks(range(len(counts)), counts.index.astype(str))
    name_columns(axes, list(counts.columns.astype(str)))
    axes.grid(visible=False)
    axes.set(xlabel="service day", ylabel="route", title="Rows by route and day")
    bar = axes.figure.colorbar(image, ax=axes, label="rows")
    count_in_integers(bar.ax.yaxis)


def draw_map(axes: Any, longitude: np.ndarray, latitude: np.ndarray, delay: np.ndarray) -> None:
    """Draw positions in degrees, coloured by delay in seconds."""
    shown = axes.scatter(
        longitude, latitude, c=delay, s=9, cmap="RdBu_r", vmin=-DELAY_COLOURS_SECONDS, vmax=DELAY_COLOURS_SECONDS,
        edgecolors=GREY, linewidths=0.5,
    )  # fmt: skip
    middle = float(np.mean(latitude)) if len(latitude) else 0.0
    axes.set_aspect(1 / max(0.1, float(np.cos(np.radians(middle)))))
    axes.set(xlabel="longitude (degrees)", ylabel="latitude (degrees)", title="Mean predicted delay by stop")
    axes.figure.colorbar(shown, ax=axes, label="delay (seconds, + is late)", extend="both")
