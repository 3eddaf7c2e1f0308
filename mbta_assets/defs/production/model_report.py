"""The report of a model in production: one HTML page with all that it needs, and the model card in it.

It is stored once per version, when the version is promoted. The HTTP function shows that of the version it predicts
with.
"""

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from mbta_assets.agency import AGENCY, describe_attribution
from mbta_assets.defs.production.leaderboard import score_model
from mbta_assets.defs.production.leaderboard_plots import SERVED, make_leaderboard_drawings, make_model_drawings
from mbta_assets.ml.evaluation import metrics
from mbta_assets.ml.evaluation.paired_days import compute_half_width
from mbta_assets.ml.evaluation.promotion_gate import Decision
from mbta_assets.ml.inference.monotone import group_rows
from mbta_assets.plots.style import draw_png
from mbta_assets.storage.bundle import Bundle
from mbta_assets.storage.materialize import materialize_command
from mbta_assets.storage.model_registry import Move
from mbta_assets.storage.reports import ReportStore, name_model_report
from mbta_assets.transit.formulas import STOPS_AHEAD

LOOKUP = "runtime_lookup"
MAX_WORST_ROUTES = 5
CAPTIONS = {
    "error_by_stops_ahead": "Mean absolute error by the number of stops ahead, beside the baselines.",
    "error_by_route": "Mean absolute error on each route, beside the run-time lookup.",
    "error_by_day": "Mean absolute error on each service day of the test part.",
    "error_by_change": "Error by how far the delay at arrival is from the last observed one.",
    "residuals": "Actual minus predicted delay. Above zero the vehicle came later than predicted.",
    "calibration": "Share of arrivals within the prediction interval, and how wide it is.",
}
"""What each plot of the report shows, in order."""
LIMITS = (
    "It predicts vehicles on scheduled trips that report their position; a trip that no vehicle serves yet, and an "
    "added trip without a timetable, get no prediction.",
    "It knows delays, run times and positions. It knows nothing of weather, events or works unless vehicles show it.",
    "It was trained on the network below, and refuses to predict for another one.",
    "Errors grow with the distance and with how much the delay changes on the way; the plots show by how much.",
)


@dataclass(frozen=True)
class History:
    """How a model came to be in production."""

    decision: Decision
    moves: Sequence[Move]
    """Versions that were in production, the latest first."""
    run_config: Mapping[str, Any]
    """The run configuration that makes the model again."""


def store_report(
    reports: ReportStore, bundle: Bundle, lookup: np.ndarray, test: pd.DataFrame, history: History
) -> dict[str, Any]:
    """Store the report of a model and return its location.

    `lookup` (n,) are the delays in seconds that the run-time lookup predicts for n test rows.
    """
    row, delay = score_model(SERVED, bundle, test)
    baselines = {LOOKUP: lookup, **metrics.predict_baselines(test)}
    page = render_report(bundle, row, delay, baselines, test, history)
    return reports.write(name_model_report(bundle.digest), page)


def render_report(
    bundle: Bundle,
    row: metrics.LeaderboardRow,
    delay: np.ndarray,
    baselines: Mapping[str, np.ndarray],
    test: pd.DataFrame,
    history: History,
) -> bytes:
    """Return the report of a model as one HTML page with its pictures.

    `row` is its leaderboard row and `delay` (n,) what it predicts in seconds for n test rows, as each of the baselines
    (n,) does, the run-time lookup among them.
    """
    of_baselines = [metrics.make_leaderboard_row(name, test, predicted) for name, predicted in baselines.items()]
    drawings = {**make_leaderboard_drawings([row, *of_baselines], [row]), **make_model_drawings(row, delay, test)}
    lookup = next(baseline for baseline in of_baselines if baseline["model"] == LOOKUP)
    page = _template().render(
        agency=AGENCY,
        attribution=describe_attribution(AGENCY),
        bundle=bundle,
        manifest=bundle.manifest,
        row=row,
        distances=[str(stops) for stops in STOPS_AHEAD],
        results=_tabulate_results([row, *of_baselines]),
        chance=_measure_chance(delay, baselines[LOOKUP], test),
        worst_routes=_list_worst_routes(row, lookup),
        decision=history.decision,
        moves=history.moves,
        command=f"{materialize_command('group:training or group:models or group:production')} --config run_config.yaml",
        run_config=yaml.safe_dump(dict(history.run_config), sort_keys=False),
        limits=LIMITS,
        plots=[(caption, _embed(*drawings[name])) for name, caption in CAPTIONS.items() if name in drawings],
    )
    return page.encode()


def _tabulate_results(rows: Sequence[metrics.LeaderboardRow]) -> list[dict[str, Any]]:
    """Return the MAE of each model and baseline in seconds, over all rows and at some distances."""
    return [
        {
            "model": row["model"],
            "all": row["mae"],
            "rmse": row["rmse"],
            **{str(stops): row["by_stops_ahead"].get(str(stops), {}).get("mae") for stops in STOPS_AHEAD},
        }
        for row in rows
    ]


def _measure_chance(delay: np.ndarray, lookup: np.ndarray, test: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the error of a model, and by how much it is below that of the lookup, with the half widths of intervals.

    All are in seconds, a half width None where there is one trip or day. `delay` and `lookup` (n,) are predictions of n
    test rows.
    """
    label = test["delay_seconds"].to_numpy(dtype=float)
    error, error_of_lookup = np.abs(label - delay), np.abs(label - lookup)
    trip, day = group_rows(test, ("service_date", "trip_id")), group_rows(test, ("service_date",))
    return [
        {
            "name": name,
            "seconds": float(values.mean()),
            "by_trip": compute_half_width(values, trip),
            "by_day": compute_half_width(values, day),
        }
        for name, values in (("Error of this model", error), ("Less than the run-time lookup", error_of_lookup - error))
    ]


def _list_worst_routes(row: metrics.LeaderboardRow, lookup: metrics.LeaderboardRow) -> list[dict[str, Any]]:
    """Return the routes with the largest errors, with those of the lookup."""
    routes = sorted(row["by_route"].items(), key=lambda item: -item[1]["mae"])[:MAX_WORST_ROUTES]
    return [
        {"route": route, "n": errors["n"], "mae": errors["mae"], "lookup": lookup["by_route"][route]["mae"]}
        for route, errors in routes
    ]


def _embed(draw: Callable[..., None], panels: int) -> str:
    """Return a plot as a data URL."""
    return f"data:image/png;base64,{base64.b64encode(draw_png(draw, panels)).decode()}"


def _format_seconds(seconds: float | None) -> str:
    """Return seconds with one digit, a dash where there are none."""
    return "–" if seconds is None else f"{seconds:.1f}"


def _format_time(time: str) -> str:
    """Return a time in ISO 8601 on the clock of the agency; a text that is no time with a zone stays."""
    try:
        parsed = datetime.fromisoformat(time)
    except ValueError:  # a part without rows has no time
        return time
    return f"{parsed.astimezone(ZoneInfo(AGENCY.time_zone)):%Y-%m-%d %H:%M %Z}" if parsed.tzinfo else time


def _shorten(digest: str) -> str:
    """Return the first digits of a digest, which are enough to name it."""
    return digest[:16]


def _list_inputs(manifest: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what a model was made from: asset and digest."""
    return sorted(manifest.get("inputs", {}).items())


@cache
def _template() -> Template:
    """Return the template of the page."""
    environment = Environment(
        loader=PackageLoader("mbta_assets.defs.production", "."), autoescape=True, undefined=StrictUndefined
    )
    environment.filters |= {
        "seconds": _format_seconds,
        "short": _shorten,
        "local": _format_time,
        "inputs": _list_inputs,
    }
    return environment.get_template("model_report.html")
