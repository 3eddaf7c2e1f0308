"""Group `training`: the rows that models are trained and scored on, and the run-time lookup.

Both are computed in `ml.training`.
"""

from collections.abc import Iterator, Sequence
from datetime import date

import dagster as dg
import pandas as pd
import pyarrow as arrow
from pydantic import Field

from mbta_assets.defs.io_managers import StoredTable
from mbta_assets.defs.metadata import plot_metadata, table_metadata
from mbta_assets.defs.resources.settings import TrainingSettings
from mbta_assets.ml.training import dataset
from mbta_assets.ml.training.assembly import MIN_CALENDAR_DAYS, TrainingSet, build_training_set
from mbta_assets.ml.training.baseline import fit_runtime_lookup
from mbta_assets.plots.tables import count_by_time, draw_routes_by_day, draw_split
from mbta_assets.storage.bundle import Bundle, Draft
from mbta_assets.storage.materialize import materialize_command
from mbta_assets.transit import schema
from mbta_assets.transit.sampling import sample_table

ROWS_PER_DAY, ROWS_OF_FEW_DAYS = 60_000, 1_200_000
"""Maximum number of rows of a service day, and of all days together where they have more by that."""


class TrainingSetConfig(dg.Config):
    """Size of the training set and its split by time."""

    rows_per_day: int | None = Field(
        default=None,
        ge=100,
        description=(
            "Maximum number of rows of a service day, sampled by hashes; a tenth of them are whole reports. Unset, "
            "it is 60,000, and more where service days are few, up to 1,200,000 rows of all of them."
        ),
    )
    max_rows: int = Field(
        default=10_000_000,
        ge=1000,
        description=(
            "Maximum number of rows of all service days; where there are more, each day has fewer. Ten million are a "
            "year of 27,000 rows a day, from which models are trained in 8 GiB of memory."
        ),
    )
    validation_fraction: float = Field(
        default=0.15,
        gt=0,
        lt=0.5,
        description=(
            "Fraction of the service days (or of the time) in the validation part. Of a single service day it is so "
            "many of the trips before the test part."
        ),
    )
    test_fraction: float = Field(
        default=0.15, gt=0, lt=0.5, description="Fraction of the service days (or of the time) in the test part."
    )
    min_days_to_split_by_day: int = Field(
        default=10,
        ge=3,
        description="Minimum number of service days for parts of whole service days; fewer are cut by time.",
    )
    min_calendar_days: int = Field(
        default=MIN_CALENDAR_DAYS,
        ge=1,
        description="Minimum number of service days to learn from for models that read the calendar.",
    )

    def limit_rows_per_day(self, days: int) -> int:
        """Return the maximum number of rows of each of some service days."""
        days = max(1, days)
        rows_per_day = self.rows_per_day or max(ROWS_PER_DAY, ROWS_OF_FEW_DAYS // days)
        return min(rows_per_day, max(1, self.max_rows // days))

    def build_split(self) -> dataset.SplitConfig:
        """Return the split as plain data."""
        return dataset.SplitConfig(self.validation_fraction, self.test_fraction, self.min_days_to_split_by_day)


@dg.asset(
    group_name="training",
    description="The latest service days, split by time, with an encoder fitted on the training part only.",
    kinds={"pandas", "parquet"},
    backfill_policy=dg.BackfillPolicy.single_run(),
    io_manager_key="bundles",
)
def training_set(
    context: dg.AssetExecutionContext,
    config: TrainingSetConfig,
    settings: dg.ResourceParam[TrainingSettings],
    transit_features: StoredTable,
) -> Draft:
    days = list(transit_features.days)[-settings.training_days :]
    rows_per_day = config.limit_rows_per_day(len(days))
    samples = _sample_features(transit_features, days, rows_per_day)
    built = build_training_set(samples, config.build_split(), config.min_calendar_days)
    parts = table_metadata(built.parts)
    context.add_output_metadata({"parts": parts, "service_days": len(days), "rows": len(built), **_draw_rows(built)})
    versions = {str(day): version for day, version in transit_features.versions(days).items()}
    return built.draft(versions, rows_per_day)


def _draw_rows(built: TrainingSet) -> dict[str, dg.MarkdownMetadataValue]:
    """Return plots of the rows of a training set over time, and by route and day."""
    rows = built.read(["service_date", "time_stamp", "route_id", "part"])
    by_time = count_by_time(rows["part"].to_numpy(dtype=object), rows)
    days = schema.to_service_dates(rows["service_date"]).astype(str)
    by_route = pd.crosstab(rows["route_id"].fillna("none").astype(str), days)
    return {
        "split": plot_metadata(lambda axes: draw_split(axes, by_time)),
        "rows_by_route_and_day": plot_metadata(lambda axes: draw_routes_by_day(axes, by_route)),
    }


def _sample_features(
    transit_features: StoredTable, days: Sequence[date], rows_per_day: int
) -> Iterator[tuple[date, pd.DataFrame]]:
    """Yield a sample of each service day. Raises TrainingSetError where days lack a column."""
    missing: dict[date, set[str]] = {}
    for day in days:
        try:
            # Of a day that is not sampled whole, no frame is made, and nothing is kept while the next one is read.
            sample = sample_table(_read_day(transit_features, day), rows_per_day)
        except KeyError:  # the day was made before there was the column
            stored = transit_features.tables.read(transit_features.table, [day])
            missing[day] = set(dataset.COLUMNS) - set(stored.column_names)
            continue
        yield day, sample
    if missing:
        columns, first, last = sorted(set().union(*missing.values())), min(missing), max(missing)
        partition = str(first) if first == last else f"{first}...{last}"
        raise dataset.TrainingSetError(
            f"No training set can be made: {len(missing)} of {len(days)} service days, {', '.join(map(str, missing))}, "
            f"were made before transit_features had the column {', '.join(columns)}. Make them again, then "
            f"training_set: {materialize_command('transit_features', partition)}"
        )


def _read_day(transit_features: StoredTable, day: date) -> arrow.Table:
    """Return the columns of a service day; optional ones that it lacks are null. Raises KeyError for others."""
    fields = schema.arrow_schema(schema.TransitFeatures)
    try:
        return transit_features.read_table(day, [*dataset.COLUMNS, *dataset.OPTIONAL_COLUMNS])
    except KeyError:
        rows = transit_features.read_table(day, dataset.COLUMNS)
        for name in dataset.OPTIONAL_COLUMNS:
            rows = rows.append_column(fields.field(name), arrow.nulls(len(rows), fields.field(name).type))
        return rows


@dg.asset(
    group_name="training",
    description="The run-time lookup: departure plus the median run time, fitted without the test part.",
    kinds={"numpy"},
    backfill_policy=dg.BackfillPolicy.single_run(),
    io_manager_key="bundles",
)
def runtime_lookup(context: dg.AssetExecutionContext, training_set: Bundle) -> Draft:
    fitted = fit_runtime_lookup(training_set)
    context.add_output_metadata(
        {
            "pairs": len(fitted.lookup.pairs),
            "segments": len(fitted.lookup.segments),
            "validation_mae_seconds": fitted.validation["mae"],
        }
    )
    return fitted.draft(training_set)
