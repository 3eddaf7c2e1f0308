"""The assembly of a training set from service days, one day in memory at a time.

The rows of a day are compressed as soon as they are sampled. What is kept of all days is what their parts depend on.
Which part a row belongs to, and how stored rows are read, is up to `dataset`.
"""

import io
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as arrow
from pyarrow import parquet

from mbta_assets.ml.inference.encoder import Encoder
from mbta_assets.ml.inference.preprocessing import ENCODER_FILE
from mbta_assets.ml.inference.transit_network import NETWORK, ServedStop, describe_network, list_served_stops
from mbta_assets.ml.training.dataset import (
    CATEGORICAL_FEATURES,
    MIN_LABELLED_ROWS,
    NUMERIC_FEATURES,
    PARTS,
    ROWS_FILE,
    SplitConfig,
    TrainingSetError,
    assign_part_codes,
    select_labelled,
    select_split_columns,
)
from mbta_assets.storage.bundle import Draft
from mbta_assets.storage.materialize import ANY_DAY, materialize_command
from mbta_assets.transit import schema
from mbta_assets.transit.table import FeatureGroup

MIN_NETWORK_DAYS, MIN_CALENDAR_DAYS = 2, 21
"""Minimum number of service days to learn from for models that read how the whole network runs, and the calendar."""


@dataclass(frozen=True)
class TrainingSet:
    """Rows with their parts as a Parquet file, and the encoder fitted on the labelled training rows."""

    content: bytes
    encoder: Encoder
    parts: list[dict[str, Any]]
    """Time span and number of rows of each part."""
    learned_days: list[str]
    """Service days that have rows of the training or validation part, YYYY-MM-DD, in order."""
    network: dict[str, str]
    """What the network is recognized by; see `ml.inference.transit_network`."""

    @property
    def rows(self) -> pd.DataFrame:
        """Read all rows."""
        return self.read()

    def read(self, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """Read all rows, with all columns or some."""
        return schema.to_frame(parquet.read_table(io.BytesIO(self.content), columns=columns))

    def __len__(self) -> int:
        return sum(part["rows"] for part in self.parts)

    def draft(self, data_versions: Mapping[str, str], rows_per_day: int) -> Draft:
        """Return the bundle, which names the version of each service day of `transit_features`."""
        return Draft(
            "training_set",
            {ROWS_FILE: self.content, ENCODER_FILE: self.encoder.to_bytes()},
            {
                "parts": self.parts,
                "learned_days": self.learned_days,
                NETWORK: self.network,
                "data_versions": dict(data_versions),
                "rows_per_day": rows_per_day,
            },
        )


def build_training_set(
    samples: Iterable[tuple[date, pd.DataFrame]], split: SplitConfig, min_calendar_days: int = MIN_CALENDAR_DAYS
) -> TrainingSet:
    """Put together rows of `transit_features` by service day, split them and fit an encoder.

    The samples are taken one by one. The encoder has no features that `list_unlearnable_features` names. Raises
    TrainingSetError where there is too little to learn from, or to tell what was learned.
    """
    days, blocks, columns = [], [], []
    for day, rows in samples:
        days.append(day)
        columns.append(select_split_columns(rows))
        blocks.append(_compress(rows))
    of_split = pd.concat(columns, ignore_index=True)
    del columns
    if of_split.empty:
        raise _too_little(days, "transit_features has no rows of them, as no report of a vehicle was used")
    if of_split["delay_seconds"].isna().all():
        reason = "no vehicle was reported STOPPED_AT a stop that was ahead of it"
        raise _too_little(days, f"none of their {len(of_split):,} rows has a label, as {reason}")
    codes = assign_part_codes(of_split, split)
    parts = [_describe_part(part, of_split[codes == code]) for code, part in enumerate(PARTS)]
    if min(part["labelled"] for part in parts) < MIN_LABELLED_ROWS:
        counts = ", ".join(f"{part['labelled']:,} in the {part['part']} part" for part in parts)
        raise _too_little(days, f"rows with a label are {counts}; {MIN_LABELLED_ROWS} in each is the minimum")
    learned = of_split.loc[(codes >= 0) & (codes != PARTS.index("test")), "service_date"]
    learned_days = sorted(np.unique(schema.to_service_dates(learned)).astype(str).tolist())
    del of_split, learned
    content, encoder, network = _join(blocks, codes)
    unlearnable = list_unlearnable_features(len(learned_days), min_calendar_days)
    return TrainingSet(content, encoder.drop_columns(unlearnable), parts, learned_days, network)


def list_unlearnable_features(learned_days: int, min_calendar_days: int) -> frozenset[str]:
    """Return the features that so few service days teach nothing about but chance.

    Each value of the calendar is that of a few days or of one, and what was special about them would be learned. How
    the network ran on a single day is one curve, which tells the time and little else.
    """
    groups: list[FeatureGroup] = []
    if learned_days < min_calendar_days:
        groups.append("calendar")
    if learned_days < MIN_NETWORK_DAYS:
        groups.append("network")
    return schema.feature_group(*groups)


def _compress(rows: pd.DataFrame) -> bytes:
    buffer = io.BytesIO()
    table = arrow.Table.from_pandas(rows, preserve_index=False).replace_schema_metadata(None)
    parquet.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def _join(blocks: list[bytes], codes: np.ndarray) -> tuple[bytes, Encoder, dict[str, str]]:
    """Write the rows of all blocks that have a part to one file, fit the encoder, and describe the network.

    Empties the list of blocks.

    `codes` (n,) are those of the blocks' rows, in order.
    """
    fields = arrow.unify_schemas(
        [parquet.read_schema(io.BytesIO(block)) for block in blocks], promote_options="permissive"
    )
    buffer, vocabularies = io.BytesIO(), {name: set[Any]() for name in CATEGORICAL_FEATURES}
    served = set[ServedStop]()
    with parquet.ParquetWriter(buffer, fields.append(arrow.field("part", arrow.string())), compression="zstd") as file:
        for rows in _take_blocks(blocks, codes, fields):
            if rows.num_rows:
                file.write_table(rows)
            frame = schema.to_frame(rows.select([*CATEGORICAL_FEATURES, "part", "delay_seconds"]))
            served.update(list_served_stops(frame[frame["part"] != "test"]))
            labelled = select_labelled(frame, "train")
            for name, values in Encoder.fit(labelled, [], CATEGORICAL_FEATURES).vocabularies.items():
                vocabularies[name].update(values)
    encoder = Encoder(NUMERIC_FEATURES, {name: sorted(values) for name, values in vocabularies.items()})
    return buffer.getvalue(), encoder, describe_network(served)


def _take_blocks(blocks: list[bytes], codes: np.ndarray, fields: arrow.Schema) -> Iterator[arrow.Table]:
    """Yield the rows of each block that have a part, with the column `part`, and drop the block."""
    names, begin = arrow.array(PARTS), 0
    while blocks:
        rows = parquet.read_table(io.BytesIO(blocks.pop(0))).cast(fields)
        of_block = codes[begin : begin + len(rows)]
        begin += len(rows)
        kept = np.flatnonzero(of_block >= 0)
        yield rows.take(kept).append_column("part", names.take(arrow.array(of_block[kept])))


def _too_little(days: Collection[date], reason: str) -> TrainingSetError:
    """Return the error that some service days are too little to train on."""
    span = f"service day {min(days)}" if len(days) == 1 else f"{len(days)} service days {min(days)} to {max(days)}"
    return TrainingSetError(
        f"No training set can be made of the {span}: {reason}. Materialize more service days, then training_set "
        f"again: {materialize_command('group:upstream or group:transit', ANY_DAY)}"
    )


def _describe_part(part: str, rows: pd.DataFrame) -> dict[str, Any]:
    """Return the time span and the number of rows of a part."""
    return {
        "part": part,
        "from": str(rows["time_stamp"].min()),
        "to": str(rows["time_stamp"].max()),
        "rows": len(rows),
        "labelled": int(rows["delay_seconds"].notna().sum()),
    }
