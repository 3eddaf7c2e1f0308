"""Training rows without a label, made of others, from which a student learns more of its teacher.

A teacher predicts any row. So a copy of a row in which some values are those of another row shows what the teacher has
learned between the rows that were observed (Buciluă, Caruana and Niculescu-Mizil 2006). Nothing else learns from them.
"""

from dataclasses import dataclass, replace

import numpy as np

from mbta_assets.ml.training.training_data import TrainingData, TrainingRows
from mbta_assets.transit import schema

OF_THE_TIME = schema.feature_group("calendar", "time_of_day", "network")
"""Model inputs that are the same for all rows of a time; a synthetic row keeps its own, as there are no other times."""


@dataclass(frozen=True)
class SyntheticRows:
    """How many synthetic rows there are, and how far they are from observed ones."""

    per_row: int
    """Number of synthetic rows for each observed one."""
    max_rows: int
    """Number of rows, observed and synthetic, beyond which no further ones are made."""
    replaced: float
    """Fraction of the values of a synthetic row that are those of another row."""


def add_synthetic_rows(data: TrainingData, config: SyntheticRows) -> TrainingData:
    """Append synthetic rows to the training rows by the seed, unless there are many; they have no label.

    Each is a copy of a row with some values of another one that is about an event as many stops ahead.
    """
    rows, random = data.train, np.random.default_rng(data.seed)
    count = min(config.per_row * len(rows), config.max_rows - len(rows))
    if count <= 0:
        return data
    copies = rows.take(np.resize(random.permutation(len(rows)), count))
    stops_ahead = copies.numeric[:, data.feature_names.index("stops_ahead")]
    # In two random orders by stops ahead, a row and its partner are at the same place.
    place, partner = (np.lexsort((random.random(count), stops_ahead)) for _ in range(2))
    others = np.empty_like(place)
    others[place] = partner
    has_other = random.random((count, len(data.feature_names))) < config.replaced
    has_other[:, [name in OF_THE_TIME for name in data.feature_names]] = False
    of_numeric, of_codes = np.split(has_other, [rows.numeric.shape[1]], axis=1)
    synthetic = replace(
        copies,
        numeric=np.where(of_numeric, copies.numeric[others], copies.numeric),
        codes=np.where(of_codes, copies.codes[others], copies.codes),
        label=np.full_like(copies.label, np.nan),
    )
    return replace(data, train=TrainingRows.concat([rows, synthetic]))
