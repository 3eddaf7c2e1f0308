"""The command `mbta-assets explain`: what a prediction of a stored service day was made of.

The features are computed again from the upstream tables of the day, so that each stop ahead can be asked about, and not
only those that `transit_features` has a row of. The model is the one that predicted then, else the current one.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import date, datetime
from typing import Any

import numpy as np
import pandas as pd

from mbta_assets.defs.monitoring.predictions import has_role, read_stored_predictions
from mbta_assets.defs.transit import compute_trip_features
from mbta_assets.ml.evaluation.accuracy import has_learned_from
from mbta_assets.ml.inference.explanation import GROUPS, QUESTION, explain
from mbta_assets.ml.inference.intervals import UNCORRECTED
from mbta_assets.ml.inference.width_correction import WidthCorrection
from mbta_assets.ml.training.model_loading import load_model
from mbta_assets.sources import Source
from mbta_assets.storage.bundle import Bundle
from mbta_assets.storage.model_registry import ModelRegistry
from mbta_assets.storage.reports import WIDTH_CORRECTION, ReportStore
from mbta_assets.storage.tables import MissingPartition
from mbta_assets.storage.warehouse import Warehouse
from mbta_assets.transit import schema

MAX_NAMED = 8
"""Maximum number of alternatives that an error names."""
MADE_FROM = ("raw_transit_data", "transit_features", "vehicle", "schedule", "stop", "trip")
"""Tables whose versions an explanation has."""


class NothingToExplain(Exception):
    """There is no such prediction; the message says what there is."""


@dataclass(frozen=True)
class Visit:
    """The event that was predicted, and when."""

    day: date
    trip_id: str
    stop_sequence: int
    at: datetime | None = None
    """Time up to which reports were known; None: all before the event."""
    vehicle_id: str | None = None
    """Needed where several vehicles ran the trip."""


def explain_prediction(
    warehouse: Warehouse, source: Source, model_registry: ModelRegistry, reports: ReportStore, visit: Visit
) -> dict[str, Any]:
    """Return a prediction with its model, features, contributions, lookup entry and data versions, as JSON.

    Raises NothingToExplain if there is none, MissingPartition or SourceError if the upstream tables of the day are not
    there any more, and BundleError if the model is not.
    """
    row = _select_row(compute_trip_features(warehouse, source, visit.day, [visit.trip_id]), visit)
    stored = _find_stored(read_stored_predictions(warehouse, visit.day), row)
    if stored is None:
        bundle = model_registry.current("production_model")
    else:
        bundle = model_registry.get("production_model", str(stored["model_version"]))
    model = load_model(bundle)
    columns = {str(name): row[name].to_numpy() for name in row}
    explanation = explain(model, columns)
    predicted = {
        "delay_seconds": explanation.delay_seconds,
        "stored_delay_seconds": None if stored is None else float(stored["predicted_delay_seconds"]),
        **_describe_interval(model, columns, explanation.delay_seconds, _read_correction(reports, bundle.digest)),
        "observed_delay_seconds": _to_json(row["delay_seconds"].iloc[0]),
    }
    return {
        "visit": {
            name: _to_json(row[name].iloc[0]) for name in (*schema.ROW_KEY, "stop_id", "event", "scheduled_arrival")
        },
        "prediction": predicted,
        "lookup": {name: _to_json(value) for name, value in asdict(explanation.lookup).items()},
        "known_at_first_seconds": explanation.known_at_first,
        "contributions": [
            {"group": group, "seconds": seconds, "features": _list_features(row, GROUPS[group], bundle)}
            for group, seconds in explanation.contributions.items()
        ],
        "asked": _list_features(row, QUESTION, bundle),
        "model": _describe_model(bundle, visit.day),
        "data_versions": _list_versions(warehouse, visit.day),
    }


def _select_row(rows: pd.DataFrame, visit: Visit) -> pd.DataFrame:
    """Return the row (1) of the latest report about a visit. Raises NothingToExplain."""
    if rows.empty:
        raise NothingToExplain(f"No vehicle reported on trip {visit.trip_id} on {visit.day} before a stop of it.")
    about = rows[rows["stop_sequence"] == visit.stop_sequence]
    if about.empty:
        raise NothingToExplain(
            f"No report was about stop_sequence {visit.stop_sequence} of trip {visit.trip_id} on {visit.day}; "
            f"there are reports about {_name(rows['stop_sequence'])}."
        )
    vehicles = about["vehicle_id"].unique()
    if visit.vehicle_id is None and len(vehicles) > 1:
        raise NothingToExplain(f"Several vehicles ran trip {visit.trip_id}: choose one of {_name(vehicles)}.")
    if visit.vehicle_id is not None:
        about = about[about["vehicle_id"] == visit.vehicle_id]
        if about.empty:
            raise NothingToExplain(
                f"Vehicle {visit.vehicle_id} made no report about it; there are reports of {_name(vehicles)}."
            )
    reports = about if visit.at is None else about[about["time_stamp"] <= pd.Timestamp(visit.at)]
    if reports.empty:
        raise NothingToExplain(f"The first report about it was at {about['time_stamp'].min().isoformat()}.")
    return reports.sort_values("time_stamp").tail(1)


def _name(values: Any) -> str:
    """Return distinct values in order, the first of many."""
    distinct = sorted(set(values))
    more = f" and {len(distinct) - MAX_NAMED} more" if len(distinct) > MAX_NAMED else ""
    return ", ".join(map(str, distinct[:MAX_NAMED])) + more


def _find_stored(predictions: pd.DataFrame, row: pd.DataFrame) -> pd.Series | None:
    """Return the stored prediction for a row, that of the latest publication; None if there is none."""
    same = ~has_role(predictions, schema.SHADOW)
    for name in (*schema.ROW_KEY, "event"):
        same &= (predictions[name] == row[name].iloc[0]).fillna(False).astype(bool)
    found = predictions[same].sort_values("published_at", na_position="first")
    return None if found.empty else found.iloc[-1]


def _describe_interval(
    model: Any, columns: Mapping[str, np.ndarray], delay: float, correction: WidthCorrection
) -> dict[str, Any]:
    """Return the interval around a predicted delay as calibrated, and as corrected by the days since, if it is."""
    if model.interval is None:
        return {}
    corrections = {"": UNCORRECTED} | ({} if correction == UNCORRECTED else {"corrected_": correction})
    bounds = {"confidence_level": model.interval.confidence_level}
    for prefix, of_widths in corrections.items():
        lower, upper = model.interval.compute_bounds(columns, np.array([delay]), np.zeros(1, np.int64), of_widths)
        bounds |= {f"{prefix}lower_delay_seconds": float(lower[0]), f"{prefix}upper_delay_seconds": float(upper[0])}
    return bounds


def _read_correction(reports: ReportStore, version: str) -> WidthCorrection:
    """Return the current correction of a model's interval widths, `UNCORRECTED` if there is none of it.

    Raises NothingToExplain if the report is damaged.
    """
    if not reports.find(WIDTH_CORRECTION):
        return UNCORRECTED
    try:
        return WidthCorrection.from_json(reports.read(WIDTH_CORRECTION), version)
    except ValueError as error:
        raise NothingToExplain(
            f"The report {WIDTH_CORRECTION} is damaged: {error}. Materialize width_correction again."
        ) from error


def _list_features(row: pd.DataFrame, names: tuple[str, ...], bundle: Bundle) -> list[dict[str, Any]]:
    """Return name, value, unit and meaning of features, and whether the model reads them."""
    columns, read = schema.TransitFeatures.to_schema().columns, set(bundle.manifest.get("features", names))
    return [
        {
            "name": name,
            "value": _to_json(row[name].iloc[0]),
            "unit": columns[name].metadata["unit"],
            "meaning": columns[name].description,
            "read_by_the_model": name in read,
        }
        for name in names
    ]


def _describe_model(bundle: Bundle, day: date) -> dict[str, Any]:
    """Return what the manifest of a model says about its making."""
    manifest = bundle.manifest
    names = ("training_set", "git_commit", "learned_days", "data_versions", "inputs")
    return {
        "digest": bundle.digest,
        "has_learned_from_the_day": has_learned_from(manifest, day),
        **{name: manifest[name] for name in names if name in manifest},
    }


def _list_versions(warehouse: Warehouse, day: date) -> dict[str, str]:
    """Return the content version of each table of a service day as it is stored now."""
    versions = {}
    for table in MADE_FROM:
        with suppress(MissingPartition):
            versions[table] = warehouse.read_version(table, day)
    return versions


def _to_json(value: Any) -> Any:
    """Return a value of a table as JSON has it; missing ones as None."""
    if pd.isna(value):
        return None
    if isinstance(value, pd.Timestamp | date):
        return value.isoformat()
    return value.item() if isinstance(value, np.generic) else value


def format_explanation(content: Mapping[str, Any]) -> str:
    """Return an explanation as text for a terminal."""
    visit, prediction, lookup, model = (content[name] for name in ("visit", "prediction", "lookup", "model"))
    lines = [
        f"{visit['event']} of vehicle {visit['vehicle_id']} on trip {visit['trip_id']} at stop {visit['stop_id']} "
        f"(stop_sequence {visit['stop_sequence']}), scheduled {visit['scheduled_arrival']}",
        f"as known at {visit['time_stamp']}",
        "",
        *(f"{name.replace('_', ' '):28}{_format(value):>12}" for name, value in prediction.items()),
        "",
        f"run-time lookup: a delay of {_format(lookup['delay_seconds'])} s",
        f"    state of the vehicle: {lookup['state']}",
        f"    run time: {_format(lookup['run_time_seconds'])} s, "
        f"of which {_format(lookup['elapsed_seconds'])} s had passed",
        f"    source of the run time: {lookup['source']}",
        "",
        f"{'place, time and schedule':28}{_format(content['known_at_first_seconds']):>12} s",
    ]
    for part in content["contributions"]:
        lines.append(f"{part['group']:28}{part['seconds']:>+12.1f} s")
        lines += [
            f"    {feature['name']:28}{_format(feature['value']):>12} {feature['unit'] or ''}".rstrip()
            + ("" if feature["read_by_the_model"] else "   (not read by this model)")
            for feature in part["features"]
        ]
    lines += [f"{'predicted delay':28}{prediction['delay_seconds']:>12.1f} s"]
    lines += ["", "features that say what is predicted"]
    lines += [f"    {feature['name']:28}{_format(feature['value']):>12}" for feature in content["asked"]]
    learned = "yes" if model["has_learned_from_the_day"] else "no"
    lines += ["", f"model    {model['digest']}", f"         has learned from this day: {learned}"]
    lines += [f"         {name} {model[name]}" for name in ("training_set", "git_commit") if model.get(name)]
    lines += [f"stored   {table} {version}" for table, version in content["data_versions"].items()]
    return "\n".join(lines)


def _format(value: Any) -> str:
    """Return a value as text; numbers to a tenth, or as they are if they are small."""
    if value is None:
        return "missing"
    if isinstance(value, float):
        return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3g}"
    return str(value)
