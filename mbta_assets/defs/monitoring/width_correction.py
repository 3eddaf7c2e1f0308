"""Group `monitoring`: how the widths of the production model's intervals are corrected by the days it has predicted.

How a day is learned from is in `ml.inference.width_correction`; the predictor of `serving` reads the report.
"""

from contextlib import suppress
from typing import Any

import dagster as dg
import pandas as pd

from mbta_assets.defs.io_managers import StoredTable
from mbta_assets.defs.metadata import table_metadata
from mbta_assets.defs.monitoring.predictions import has_role, read_predictions
from mbta_assets.defs.partitions import daily_asset
from mbta_assets.ml.inference.intervals import UNCORRECTED
from mbta_assets.ml.training.model_loading import load_model
from mbta_assets.storage.bundle import Bundle
from mbta_assets.storage.reports import WIDTH_CORRECTION, ReportStore
from mbta_assets.storage.tables import MissingPartition
from mbta_assets.transit import schema

MAX_DAYS = 7
"""Number of latest service days that are learned from, the first of them without a correction."""


@daily_asset(
    group_name="monitoring",
    description="How the coverage of past days corrects the interval widths of the production model.",
    kinds={"numpy"},
)
def width_correction(
    reports: dg.ResourceParam[ReportStore],
    delay_predictions: StoredTable,
    transit_features: StoredTable,
    production_model: Bundle,
) -> dg.MaterializeResult:
    model, version = load_model(production_model), production_model.digest
    if model.interval is None:
        return dg.MaterializeResult(metadata={"omitted": "The production model has no calibrated interval."})
    correction, learned = UNCORRECTED, list[dict[str, Any]]()
    for day in sorted(delay_predictions.tables.days(delay_predictions.table))[-MAX_DAYS:]:
        with suppress(MissingPartition):
            rows = select_rows(read_predictions(delay_predictions, day), transit_features.read(day), version)
            delay = rows["predicted_delay_seconds"].to_numpy(dtype=float)
            correction = model.interval.learn_day(correction, rows, delay)
            learned.append({"service day": str(day), "arrivals": len(rows)})
    location = reports.write(WIDTH_CORRECTION, correction.to_json(version))
    factors = [{"group": name, "change of width, logarithm": change} for name, change in correction.by_distance.items()]
    return dg.MaterializeResult(
        metadata={
            **location,
            "model_version": version,
            "learned_from": table_metadata(learned),
            "by_distance": table_metadata(factors),
        }
    )


def select_rows(predictions: pd.DataFrame, features: pd.DataFrame, version: str) -> pd.DataFrame:
    """Return the labelled rows of a service day that a model has predicted and not learned from, with what it said."""
    of_model = predictions[
        (predictions["model_version"] == version) & predictions["out_of_sample"] & ~has_role(predictions, schema.SHADOW)
    ]
    said = of_model[[*schema.ROW_KEY, "predicted_delay_seconds"]].drop_duplicates(schema.ROW_KEY)
    return features[features["delay_seconds"].notna()].merge(said, on=schema.ROW_KEY)
