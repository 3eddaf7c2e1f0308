"""Integer codes of a service day's ids, and how ids are written.

The features and the account of rows compare trips, stops and vehicles by these codes; which rows count is decided
elsewhere.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as arrow
import pyarrow.compute as compute

from mbta_assets.transit.formulas import UNSCHEDULED_TRIP_PREFIXES
from mbta_assets.transit.plausibility import BLANKS


@dataclass(frozen=True)
class IdCodes:
    """Integer codes of a service day's ids, in the order of the ids; -1 is missing or unknown."""

    trips: pd.Index
    stops: pd.Index
    routes: pd.Index
    vehicles: pd.Index

    @classmethod
    def from_tables(cls, vehicle: pd.DataFrame, schedule: pd.DataFrame) -> "IdCodes":
        """Return the codes of the ids in the upstream tables of a service day."""
        return cls(
            trips=_index_ids(vehicle["trip_id"], schedule["trip_id"]),
            stops=_index_ids(vehicle["stop_id"], schedule["stop_id"]),
            routes=pd.Index(vehicle["route_id"].fillna("").drop_duplicates().sort_values().to_numpy(dtype=object)),
            vehicles=pd.Index(vehicle["id"].drop_duplicates().sort_values().to_numpy(dtype=object)),
        )

    def encode_trips(self, trip_ids: pd.Series) -> np.ndarray:
        """Return the codes (n,) of trip ids."""
        return _encode(self.trips, trip_ids)

    def encode_stops(self, stop_ids: pd.Series) -> np.ndarray:
        """Return the codes (n,) of stop ids."""
        return _encode(self.stops, stop_ids)

    def encode_vehicles(self, vehicle_ids: pd.Series) -> np.ndarray:
        """Return the codes (n,) of vehicle ids."""
        positions, distinct = pd.factorize(vehicle_ids)
        return self.vehicles.get_indexer(pd.Index(distinct, dtype=object))[positions].astype(np.int64)

    def encode_lines(self, route_ids: pd.Series, direction_ids: pd.Series) -> np.ndarray:
        """Return one code (n,) for each route and direction, either of which may be missing."""
        positions, distinct = pd.factorize(route_ids.fillna(""))
        routes = self.routes.get_indexer(pd.Index(distinct, dtype=object))[positions]
        return routes.astype(np.int64) * 3 + direction_ids.fillna(2).to_numpy(dtype=np.int64)

    def encode_stretches(self, stops: np.ndarray, destinations: np.ndarray, moving: np.ndarray) -> np.ndarray:
        """Return one code (n,) for each current stop, destination and state; -1 where a stop is -1."""
        has_both = (stops >= 0) & (destinations >= 0)
        return np.where(has_both, (stops * len(self.stops) + destinations) * 2 + moving, -1)

    def decode_stretches(self, stretches: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return current stops, destinations and states (n,) of codes of `encode_stretches`."""
        n_stops = max(len(self.stops), 1)
        return stretches // 2 // n_stops, stretches // 2 % n_stops, stretches % 2 == 1

    def find_unscheduled(self, trips: np.ndarray) -> np.ndarray:
        """Return which trips (n,), given by their codes, are added or non-revenue trips by their ids."""
        return np.array([trip.startswith(UNSCHEDULED_TRIP_PREFIXES) for trip in self.trips] + [False])[trips]


def clean_ids(ids: pd.Series) -> pd.Series:
    """Return ids without blanks around them; blank ones are missing."""
    trimmed = compute.utf8_trim(arrow.array(ids, arrow.string(), from_pandas=True), characters=BLANKS)
    cleaned = compute.if_else(compute.equal(trimmed, ""), None, trimmed)
    return pd.Series(cleaned.to_pylist(), index=ids.index, dtype=object)


def combine_codes(first: np.ndarray, second: np.ndarray, n_second: int) -> np.ndarray:
    """Return one code (n,) for each pair of codes, the second below `n_second`; -1 where either is -1."""
    return np.where((first < 0) | (second < 0), -1, first * n_second + second)


def _index_ids(*ids: pd.Series) -> pd.Index:
    distinct = pd.concat([pd.Series(part.unique()) for part in ids], ignore_index=True)
    return pd.Index(np.sort(clean_ids(distinct).dropna().unique()))


def _encode(index: pd.Index, ids: pd.Series) -> np.ndarray:
    positions, distinct = pd.factorize(ids)
    codes_of_distinct = index.get_indexer(pd.Index(clean_ids(pd.Series(distinct))))
    return np.append(codes_of_distinct, -1)[positions].astype(np.int64)  # position -1, a missing id, has code -1
