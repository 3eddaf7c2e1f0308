"""Group `training`: the rows that models learn from and are scored on, and the baseline without learning."""

import io
from collections.abc import Iterator, Sequence

import dagster as dg
import pandas as pd
import pyarrow as arrow
import pyarrow.parquet as parquet
from pydantic import Field

from mbta_assets.defs.io_managers import StoredTable
from mbta_assets.defs.metadata import OWNERS, markdown_table
from mbta_assets.ml.evaluation import metrics
from mbta_assets.ml.inference.encoder import Encoder
from mbta_assets.ml.inference.model import ENCODER, LOOKUP
from mbta_assets.ml.inference.run_time import RuntimeLookup
from mbta_assets.ml.training import dataset
from mbta_assets.settings import Settings
from mbta_assets.storage.bundle import Bundle, Draft, git_commit
from mbta_assets.transit import schema

ROWS = "rows.parquet"
FEATURES = [
    *dataset.ROW_KEY,
    "actual_arrival_time",
    *(name for role in ("category", "numeric", "label") for name in schema.columns(schema.TransitFeatures, role)),
]
COLUMNS = list(dict.fromkeys(FEATURES))


class TrainingSetConfig(dg.Config):
    """How much of each service day goes into the training set."""

    rows_per_day: int = Field(30_000, ge=100, description="At most this many rows of a service day, chosen by hash.")


@dg.asset(
    group_name="training",
    description="The latest service days, split by time, with an encoder fitted on the training part only.",
    ins={"transit_features": dg.AssetIn(metadata={"columns": COLUMNS})},
    owners=OWNERS,
    kinds={"pandas", "parquet"},
    backfill_policy=dg.BackfillPolicy.single_run(),
    io_manager_key="bundles",
)
def training_set(
    context: dg.AssetExecutionContext,
    config: TrainingSetConfig,
    settings: dg.ResourceParam[Settings],
    transit_features: StoredTable,
) -> Draft:
    days = list(transit_features.days)[-settings.training_days :]
    rows = pd.concat(
        [dataset.sample(transit_features.read(day), config.rows_per_day) for day in days], ignore_index=True
    )
    rows["part"] = dataset.split(rows)
    rows = rows[rows["part"] != ""].reset_index(drop=True)
    encoder = Encoder.fit(
        labelled(rows, "train"),
        schema.columns(schema.TransitFeatures, "numeric"),
        schema.columns(schema.TransitFeatures, "category"),
    )
    parts = [
        {
            "part": part,
            "from": str(of_part["time_stamp"].min()),
            "to": str(of_part["time_stamp"].max()),
            "rows": len(of_part),
            "labelled": int(of_part["delay_seconds"].notna().sum()),
        }
        for part in dataset.PARTS
        for of_part in [rows[rows["part"] == part]]
    ]
    context.add_output_metadata({"parts": markdown_table(parts), "service_days": len(days), "rows": len(rows)})
    buffer = io.BytesIO()
    rows.to_parquet(buffer, compression="zstd", index=False)
    return Draft(
        "training_set",
        {ROWS: buffer.getvalue(), ENCODER: encoder.to_json()},
        {
            "parts": parts,
            "data_versions": {str(day): version for day, version in transit_features.versions(days).items()},
            "rows_per_day": config.rows_per_day,
        },
    )


@dg.asset(
    group_name="training",
    description="The baseline without learning: departure plus the median run time, test part unseen.",
    owners=OWNERS,
    kinds={"numpy"},
    backfill_policy=dg.BackfillPolicy.single_run(),
    io_manager_key="bundles",
)
def runtime_lookup(context: dg.AssetExecutionContext, training_set: Bundle) -> Draft:
    rows = rows_of(training_set)
    validation = labelled(rows, "validation")
    held_out = RuntimeLookup.fit(labelled(rows, "train")).delay(validation)
    errors = metrics.errors(validation["delay_seconds"].to_numpy(), held_out)
    lookup = RuntimeLookup.fit(labelled(rows, "train", "validation"))
    context.add_output_metadata({"entries": len(lookup.keys), "validation_mae_seconds": errors["mae"]})
    fields = {**provenance(training_set), "validation": errors}
    return Draft("runtime_lookup", {LOOKUP: lookup.to_bytes()}, fields)


def rows_of(training_set: Bundle, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """The rows of a stored training set, with the part of each; of some columns only, if they are named."""
    return schema.to_frame(parquet.read_table(io.BytesIO(training_set.file(ROWS)), columns=columns))


def blocks_of(training_set: Bundle, rows: int = 100_000) -> Iterator[pd.DataFrame]:
    """The same, so many rows at a time."""
    for batch in parquet.ParquetFile(io.BytesIO(training_set.file(ROWS))).iter_batches(rows):
        yield schema.to_frame(arrow.Table.from_batches([batch]))


def labelled(rows: pd.DataFrame, *parts: str) -> pd.DataFrame:
    """The rows of some parts whose arrival was seen."""
    return rows[rows["part"].isin(parts) & rows["delay_seconds"].notna()].reset_index(drop=True)


def provenance(training_set: Bundle) -> dict[str, object]:
    """What a model's manifest says of where it comes from."""
    return {
        "training_set": training_set.digest,
        "training_window": training_set.manifest["parts"],
        "data_versions": training_set.manifest["data_versions"],
        "git_commit": git_commit(),
        "units": {"label": "seconds of delay", "time": "UTC"},
    }
