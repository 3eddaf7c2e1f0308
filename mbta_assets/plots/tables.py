"""Plots of a service day's tables and of a training set."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

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
    """Return the hour of the service day (n,), from 0, of the `time_stamp` of each row."""
    times = rows["time_stamp"].to_numpy(dtype="datetime64[s]").astype(np.int64)
    start = service_day.start_epoch_seconds(schema.to_service_dates(rows["service_date"]))
    return ((times - start) // 3600).astype(np.int64)


def draw_labels_by_hour(axes: Any, features: pd.DataFrame) -> None:
    """Draw the rows of a service day by hour, with a label and without."""
    hours, labelled = compute_hours(features), features["delay_seconds"].notna().to_numpy()
    last = int(hours.max(initial=0)) + 1
    counts = {
        LABELLED: np.bincount(hours[labelled], minlength=last).tolist(),
        UNLABELLED: np.bincount(hours[~labelled], minlength=last).tolist(),
    }
    draw_columns(axes, [str(hour) for hour in range(last)], counts, LABEL_COLOURS)
    axes.set(xlabel="hours since the service day began", ylabel="rows", title="Labels by hour")
    axes.legend()


def draw_labels_by_route(axes: Any, features: pd.DataFrame) -> None:
    """Draw the rows of a service day by route, those with most rows on top, with a label and without."""
    codes, routes = _encode_routes(features)
    labelled = features["delay_seconds"].notna().to_numpy()
    by_label = {label: np.bincount(codes[labelled == label], minlength=len(routes)) for label in (True, False)}
    counts = pd.DataFrame(by_label, index=routes)
    counts = counts.loc[counts.sum(axis=1).sort_values(ascending=False, kind="stable").index]
    left_out = len(counts) - MAX_ROUTES
    counts = counts[:MAX_ROUTES]
    parts = {LABELLED: counts[True].tolist(), UNLABELLED: counts[False].tolist()}
    draw_bars(axes, counts.index.tolist(), parts, LABEL_COLOURS)
    more = f"; {left_out} routes with fewer are left out" if left_out > 0 else ""
    axes.set(xlabel="rows", ylabel="route", title=f"Labels by route{more}")
    axes.legend(loc="lower right")


def draw_missing_values(axes: Any, features: pd.DataFrame) -> None:
    """Draw the share of missing values of each feature that has any, the largest on top."""
    share = _compute_missing_share(features)
    draw_bars(axes, share.index.tolist(), {"missing": (100 * share).tolist()}, {"missing": ORANGE})
    axes.set(xlabel="missing values (% of the rows)", ylabel="feature", xlim=(0, 100))
    axes.set_title("Features that are not always known")


def draw_missing_by_group(by_hour: Any, by_route: Any, features: pd.DataFrame) -> None:
    """Draw the share of missing values of the features that have any, by hour and by route, as colours.

    The routes with most rows are drawn, from left to right. An hour without rows is left white.
    """
    missing = features[_compute_missing_share(features).index].isna()
    hours, (codes, routes) = compute_hours(features), _encode_routes(features)
    of_hours = _average_by_group(missing, hours, range(int(hours.max()) + 1))
    largest = np.argsort(-np.bincount(codes), kind="stable")[:MAX_MISSING_ROUTES]
    of_routes = _average_by_group(missing, codes, routes).iloc[largest]
    for axes, share in ((by_hour, of_hours), (by_route, of_routes)):
        height, width = max(1, share.shape[1]), len(share)
        image = axes.imshow(
            100 * share.T.to_numpy(dtype=float), aspect="auto", cmap=SEQUENTIAL, vmin=0, vmax=100,
            extent=(-0.5, width - 0.5, height - 0.5, -0.5),
        )  # fmt: skip
        axes.set_yticks(range(share.shape[1]), share.columns)
        name_columns(axes, list(share.index.astype(str)))
        axes.grid(visible=False)
    by_hour.set(xlabel="hours since the service day began", ylabel="feature", title="Missing values by hour")
    by_route.set(xlabel="route", ylabel="feature", title="Missing values by route")
    by_route.tick_params(labelleft=False)
    by_hour.figure.colorbar(image, ax=[by_hour, by_route], label="missing values (% of the rows)")


def _encode_routes(features: pd.DataFrame) -> tuple[np.ndarray, list[str]]:
    """Return the code (n,) of the route of each row, and the names of the routes in order, `none` if it is missing."""
    codes, names = pd.factorize(features["route_id"].fillna("none").astype(str), sort=True)
    return codes, list(names)


def _average_by_group(missing: pd.DataFrame, codes: np.ndarray, groups: Sequence[Any]) -> pd.DataFrame:
    """Return the share of missing values of each column by group (n,), NaN for a group without rows."""
    counts = {name: np.bincount(codes[values.to_numpy()], minlength=len(groups)) for name, values in missing.items()}
    sizes = np.bincount(codes, minlength=len(groups))
    with np.errstate(invalid="ignore"):
        return pd.DataFrame({name: count / sizes for name, count in counts.items()}, index=list(groups))


def _compute_missing_share(features: pd.DataFrame) -> pd.Series:
    """Return the share of missing values of each feature that has any, the largest first."""
    names = schema.columns_with_role(schema.TransitFeatures, "numeric")
    share = features[names].isna().mean().sort_values(ascending=False, kind="stable")
    return share[share > 0][:MAX_FEATURES]


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
    axes.figure.colorbar(image, ax=axes, label="rows")


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
