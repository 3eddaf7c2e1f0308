"""Plots of how accurate predictions were on a day, and from day to day."""

from collections.abc import Mapping, Sequence
from typing import Any

from mbta_assets.plots.style import choose_marked_line, name_columns, name_lines

AGENCY_STYLE, OURS_STYLE = "--", "-"
MAX_LEGEND_ROWS = 24
"""Number of lines that a legend names below one another in the height of a plot."""


def draw_windows_over_days(
    axes: Any, ours: Mapping[str, Mapping[str, float]], agency: Mapping[str, Mapping[str, float]]
) -> None:
    """Draw the share of predictions within the MBTA's window by day, a colour for each bin of the time to arrival.

    `ours` and `agency` have the share of each day by bin; a dashed line is the agency's. Where there are more bins than
    colours, their markers differ.
    """
    bins = list(dict.fromkeys([*ours, *agency]))
    days = _list_days(ours, agency)
    for number, name in enumerate(bins):
        for who, shares, style in (("ours", ours, OURS_STYLE), ("agency", agency, AGENCY_STYLE)):
            if name in shares:
                values = [100 * shares[name].get(day, float("nan")) for day in days]
                axes.plot(days, values, linestyle=style, label=f"{name}, {who}", **choose_marked_line(number))
    axes.set(xlabel="service day", ylabel="within the window (%)", ylim=(0, 101), title="Accuracy by day")
    _turn_days(axes, days)


def draw_windows_by_horizon(
    axes: Any, shares: Mapping[str, Mapping[str, float | None]], errors: Mapping[str, float | None]
) -> None:
    """Draw the share of predictions within the MBTA's window by bin of the time to arrival, columns for each name.

    `shares` has the share of each bin by name, None where nothing was predicted; `errors` has the MAE in seconds.
    """
    bins = list(dict.fromkeys(name for of_name in shares.values() for name in of_name))
    width = 0.8 / len(shares)
    for number, (name, of_name) in enumerate(shares.items()):
        values = [of_name.get(member) for member in bins]
        error = errors.get(name)
        label = name if error is None else f"{name}, MAE {error:.0f} s"
        left = [position + (number + 0.5) * width - 0.4 for position in range(len(bins))]
        bars = axes.bar(left, [100 * (value or 0.0) for value in values], width, label=label)
        percentages = ["" if value is None else f"{100 * value:.0f}" for value in values]
        axes.bar_label(bars, percentages, fontsize="x-small")
    name_columns(axes, bins)
    axes.grid(axis="x", visible=False)
    axes.set(xlabel="predicted time to arrival", ylabel="within the window (%)", ylim=(0, 105))
    axes.set_title("Accuracy by predicted time to arrival")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=2)


def draw_drift_over_days(axes: Any, drift: Mapping[str, Mapping[str, float]], most: int = 6) -> None:
    """Draw how far the features of each day are from those of the training set; those that drifted most.

    `drift` has the statistic of each day by feature, from 0, no drift, to 1.
    """
    largest = sorted(drift, key=lambda name: -max(drift[name].values()))[:most]
    days = _list_days(drift)
    for name in largest:
        axes.plot(days, [drift[name].get(day, float("nan")) for day in days], marker="o", label=name)
    axes.set(
        xlabel="service day", ylabel="Kolmogorov-Smirnov statistic (0 to 1)", ylim=(0, 1), title="Drift of features"
    )
    _turn_days(axes, days)


def _list_days(*groups: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Return the days of all groups in order."""
    return sorted({day for group in groups for values in group.values() for day in values})


def _turn_days(axes: Any, days: Sequence[str]) -> None:
    """Turn the names of many days, and put the legend beside the plot, in columns that are as high at most."""
    name_columns(axes, days)
    name_lines(axes, ncols=1 + (len(axes.lines) - 1) // MAX_LEGEND_ROWS)
