"""Explain a prediction by the entry of the run-time lookup behind it, and by what each group of features adds.

The contributions are Shapley values: the mean change of the prediction as a group becomes known, over all orders in
which the groups can. They add up to the prediction exactly. Place, time and schedule are what is asked, and always
known.
"""

import math
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from mbta_assets.ml.inference.encoder import Columns
from mbta_assets.ml.inference.model import Model
from mbta_assets.ml.inference.run_time import LookupEntry

QUESTION = (
    "stop_id", "stops_ahead", "current_stop_id", "route_id", "direction_id", "season", "month", "day_of_week",
    "day_of_year", "sin_time", "cos_time", "stops_behind", "timepoint", "distance_travel_miles",
    "scheduled_seconds_ahead", "seconds_late_already", "scheduled_run_seconds",
    "trip_start_seconds",
)  # fmt: skip
"""Model inputs that are what is asked, or follow from it and the schedule."""
GROUPS = {
    "state of the vehicle": ("current_status", "seconds_in_state", "departure_delay_seconds"),
    "delay of the trip": ("last_delay_seconds", "last_change_seconds", "seconds_since_last_arrival"),
    "vehicles ahead": (
        "leader_headway_seconds", "leader_delay_seconds", "platform_headway_seconds", "platform_clear_seconds",
        "platform_occupied",
    ),
    "latest run times": ("last_run_seconds", "recent_run_seconds"),
    "delays on the route": ("route_delay_seconds", "route_change_seconds"),
    "run times of the network": ("network_run_ratio",),
}  # fmt: skip
"""Model inputs by what was observed; each is in one group or in `QUESTION`."""
UNKNOWN = {"current_status": "", "platform_occupied": 0.0, "network_run_ratio": 1.0}
"""Values of inputs that nothing is known of; of others it is NaN."""


@dataclass(frozen=True)
class Explanation:
    """One prediction in parts, all in seconds of delay."""

    delay_seconds: float
    """The prediction of the model, before those along a trip are made to agree."""
    lookup: LookupEntry
    known_at_first: float
    """The prediction from `QUESTION` alone."""
    contributions: dict[str, float]
    """The seconds that each of `GROUPS` adds to that; together they lead to `delay_seconds`."""


def explain(model: Model, row: Columns) -> Explanation:
    """Explain the prediction for one row of feature columns (1,)."""
    names = list(GROUPS)
    present = np.array(
        [[number >> place & 1 for place in range(len(names))] for number in range(2 ** len(names))], bool
    )
    delays = model.predict(_hide_groups(row, present))
    return Explanation(
        float(delays[-1]),
        model.preprocessor.lookup.explain(row),
        float(delays[0]),
        {name: _compute_shapley_value(delays, place, len(names)) for place, name in enumerate(names)},
    )


def _hide_groups(row: Columns, present: np.ndarray) -> dict[str, np.ndarray]:
    """Return a row (1,) as often as `present` (m, groups) has rows, without the values of groups that are not."""
    columns = {name: np.repeat(np.asarray(row[name]), len(present)) for name in QUESTION}
    for place, names in enumerate(GROUPS.values()):
        for name in names:
            value = np.asarray(row[name])
            unknown = UNKNOWN.get(name, np.nan)
            columns[name] = np.where(present[:, place], value, np.asarray(unknown, value.dtype))
    return columns


def _compute_shapley_value(values: np.ndarray, player: int, n_players: int) -> float:
    """Return the Shapley value of a player; `values` (2^n,) are those of the coalitions, as numbers of n bits."""
    others = [place for place in range(n_players) if place != player]
    total = 0.0
    for size in range(n_players):
        weight = math.factorial(size) * math.factorial(n_players - size - 1) / math.factorial(n_players)
        for members in combinations(others, size):
            coalition = sum(1 << place for place in members)
            total += weight * float(values[coalition | 1 << player] - values[coalition])
    return total
