"""What the UI shows of predictions on a map, and of their accuracy over the last days."""

import json
from collections.abc import Mapping
from datetime import date
from typing import Any

import pandas as pd

from mbta_assets.defs.metadata import plot_metadata
from mbta_assets.ml.evaluation.accuracy import SHADOW_PREFIX
from mbta_assets.ml.evaluation.accuracy_history import make_history
from mbta_assets.ml.evaluation.metrics import AGENCY_BASELINE, MBTA_WINDOWS
from mbta_assets.plots.accuracy import draw_drift_over_days, draw_windows_over_days
from mbta_assets.plots.tables import draw_map
from mbta_assets.sources import SourceError
from mbta_assets.storage.reports import ACCURACY_HISTORY, ReportStore
from mbta_assets.storage.tables import MissingPartition
from mbta_assets.storage.warehouse import Warehouse
from mbta_assets.transit import schema

HISTORY_DAYS = 30
"""Number of service days that plots go back."""
REPORT_DAYS = 70
"""Number of service days that the accuracy page goes back: ten weeks."""


def read_history(warehouse: Warehouse, day: date, rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return `prediction_accuracy` of the latest `REPORT_DAYS` in order, with the given rows of a day that is made."""
    days = sorted({*warehouse.tables.days("prediction_accuracy"), day})[-REPORT_DAYS:]
    history = {}
    if others := [stored for stored in days if stored != day]:
        stored_rows = schema.to_frame(warehouse.tables.read("prediction_accuracy", others))
        history = {str(stored): part for stored, part in stored_rows.groupby("service_date")}
    if day in days:
        history[str(day)] = rows
    return dict(sorted(history.items()))


def write_history(reports: ReportStore, days: Mapping[str, pd.DataFrame]) -> None:
    """Write the report that the accuracy page shows."""
    reports.write(ACCURACY_HISTORY, json.dumps(make_history(days)).encode())


def plot_history(days: Mapping[str, pd.DataFrame], day: date) -> dict[str, Any]:
    """Return plots of accuracy and drift over the last days up to one, of the given rows of `prediction_accuracy`."""
    latest = [(name, rows) for name, rows in sorted(days.items()) if name <= str(day)][-HISTORY_DAYS:]
    if not latest:
        return {}
    table = pd.concat([part.assign(day=name) for name, part in latest], ignore_index=True)
    table = table[table["value"].notna() & ~table["model_version"].astype(str).str.startswith(SHADOW_PREFIX)]
    is_agency = table["model_version"] == AGENCY_BASELINE
    shares = table["measure"].eq("within_mbta_window") & table["dimension"].eq("predicted_horizon")
    shares &= table["member"].isin(list(MBTA_WINDOWS))
    ours, agency = _by_member(table[shares & ~is_agency]), _by_member(table[shares & is_agency])
    drift = _by_member(table[table["measure"].eq("feature_drift")])
    plots = {}
    if ours or agency:
        plots["accuracy_over_days"] = plot_metadata(lambda axes: draw_windows_over_days(axes, ours, agency))
    if drift:
        plots["drift_over_days"] = plot_metadata(lambda axes: draw_drift_over_days(axes, drift))
    return plots


def plot_predictions(warehouse: Warehouse, day: date, predictions: pd.DataFrame) -> dict[str, Any]:
    """Return a map of the mean predicted delay by stop; none where the positions of stops are not stored."""
    try:
        stop = warehouse.read("stop", day, ["id", "latitude", "longitude"])
    except (KeyError, MissingPartition, SourceError):
        return {}
    delay = predictions.groupby("stop_id")["predicted_delay_seconds"].mean()
    at = stop.dropna().drop_duplicates("id").set_index("id").join(delay.rename("delay"), how="inner")
    if at.empty:
        return {}
    longitude, latitude, delays = (at[name].to_numpy(dtype=float) for name in ("longitude", "latitude", "delay"))
    return {"delays_by_stop": plot_metadata(lambda axes: draw_map(axes, longitude, latitude, delays))}


def _by_member(rows: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Return the value of each day by member; the mean of the model versions of a day."""
    means = rows.groupby(["member", "day"], as_index=False)["value"].mean()
    by_member: dict[str, dict[str, float]] = {}
    for member, day, value in zip(means["member"], means["day"], means["value"], strict=True):
        by_member.setdefault(str(member), {})[str(day)] = float(value)
    return by_member
