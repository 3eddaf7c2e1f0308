"""The run-time lookup: predicts an arrival as a reference time plus the median run time seen in history.

It is the baseline `runtime_lookup` on the leaderboard and the base of the residual that models learn. Nothing is
learned beyond medians. How run times add up along a trip is up to `segments`.
"""

import io
import lzma
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np

from mbta_assets.ml.inference import hourly_run_time
from mbta_assets.ml.inference.encoder import Columns, encode_values
from mbta_assets.ml.inference.hourly_run_time import N_BINS, HourlyRunTime, Visits, find_runs
from mbta_assets.ml.inference.monotone import group_rows
from mbta_assets.ml.inference.segments import KeyCache, Pair, RunTimes, SegmentGraph, observe_segments
from mbta_assets.ml.inference.trip_effects import TRIP_COLUMNS, TripEffects, number_trip, number_trips
from mbta_assets.ml.inference.vehicle_state import (
    DEPARTING,
    MOVING,
    STANDING,
    STATE_NAMES,
    STATES,
    UNSEEN,
    classify_row,
    classify_state,
    compute_elapsed,
    to_floats,
)
from mbta_assets.storage.bundle import Bundle, BundleError
from mbta_assets.transit.distances import REPORT_KEY
from mbta_assets.transit.integer_rows import compact, find_distinct, pack_columns

LOOKUP_FILE = "lookup.npz.xz"
LOOKUP_COLUMNS = (
    "scheduled_seconds_ahead", "scheduled_run_seconds", "seconds_in_state", "departure_delay_seconds",
    "last_delay_seconds", "current_status", "stops_behind", "timepoint", "current_stop_id", "stop_id", "stops_ahead",
    "route_id", *hourly_run_time.TIME_COLUMNS, *TRIP_COLUMNS,
)  # fmt: skip
"""Columns of `transit_features` that `MedianRunTime` reads to predict."""
FIT_COLUMNS = (*REPORT_KEY, "delay_seconds", *LOOKUP_COLUMNS)
"""Columns of `transit_features` that `MedianRunTime.fit` reads."""
MIN_DAYS = 5
"""Rows of fewer service days tell nothing of how trips differ on every day."""
MIN_RUNS = 3
"""Keys with fewer labelled updates get no median."""
MIN_SCHEDULED_RUN_SECONDS = 30
"""Shorter scheduled run times are whole minutes rounded down, and tell nothing of the ratio to observed ones."""
LOOKUP_FEATURES = ("lookup_delay_seconds", "path_seconds", "path_deviation_seconds", "trip_deviation_seconds")
"""Names of the model inputs that `compute_features` returns."""
PAIR_COLUMNS, SEGMENT_COLUMNS = slice(0, 4), [4, 1, 2]
"""Columns of the keys that `_make_keys` returns."""


class OutdatedModel(BundleError):
    """A model was made by an earlier version of this package, and has to be trained again."""


@dataclass(frozen=True)
class LookupEntry:
    """Entry of the lookup by which one event is predicted."""

    state: str
    """State of the vehicle, one of `STATE_NAMES`."""
    source: str
    """Where the run time is from: a stored median, several of them, or the schedule; "none" if there is none."""
    run_time_seconds: float
    """From the reference time of the state to the event; NaN if there is none."""
    elapsed_seconds: float
    """Since the reference time; negative while that is in the future."""
    delay_seconds: float


@dataclass(frozen=True)
class MedianRunTime:
    """Median seconds from a reference time to an event, by vehicle state, current stop, destination and stops ahead.

    The reference time is the departure from the previous stop (moving), the arrival at the current stop (standing), the
    later of now and the scheduled departure (waiting: at the first stop, or at a timepoint because it is early; and
    departing from the first stop), or now (the start of the state was not seen). Medians are taken over vehicle
    updates, so a run with more updates weighs more.

    Stops ahead are part of the key as they tell the visits of a loop apart. Stored are the run times to the next stop,
    and others only where they cannot be composed: a run time is that to a nearer stop plus those of the segments from
    there. Where a segment was never seen, it is the scheduled run time times the usual ratio of the state.
    """

    stops: list[str]
    routes: list[str]
    pairs: np.ndarray
    """(m, 4) integers: state, current stop, destination, stops ahead."""
    pair_seconds: np.ndarray
    """(m,) median run times."""
    segments: np.ndarray
    """(s, 3) integers: route, first stop, second stop. The code of a missing route is the number of routes."""
    segment_seconds: np.ndarray
    """(s,) median seconds from arrival to arrival."""
    ratios: np.ndarray
    """(5,) median ratio of run time to scheduled run time by state; for DEPARTING the median run time itself, as
    nothing is scheduled between its reference time and the departure. NaN where there is none."""
    hourly: HourlyRunTime
    """Run times of segments by hour of the day, of all routes that have them."""
    trip_effects: TripEffects
    """How scheduled trips differ from others."""

    @classmethod
    def fit(cls, rows: Columns, *, with_trips: bool | None = None) -> Self:
        """Compute the medians of labelled rows with the columns `FIT_COLUMNS`; unlabelled rows are ignored.

        Trips have effects `with_trips`, by default where there are rows of `MIN_DAYS` service days or more.
        """
        stops = sorted(_list_distinct(rows, "current_stop_id") | _list_distinct(rows, "stop_id"))
        routes = sorted(_list_distinct(rows, "route_id"))
        keys = _make_keys(_number(stops), _number(routes), rows)
        arrives_in = to_floats(rows, "delay_seconds") + to_floats(rows, "scheduled_seconds_ahead")
        run_time = arrives_in + compute_elapsed(rows)
        segments, segment_seconds = _fit_segments(rows, keys, run_time, arrives_in)
        pairs, pair_seconds = _fit_pairs(keys, run_time, SegmentGraph(segments, segment_seconds))
        ratios = _fit_ratios(keys[:, 0], run_time, to_floats(rows, "scheduled_run_seconds"))
        trip = group_rows(rows, ("service_date", "trip_id", "vehicle_id"))  # two vehicles may serve one trip
        runs = find_runs(_list_visits(rows, keys, arrives_in, trip))
        hourly = HourlyRunTime.fit(runs, segments)
        effects = TripEffects.none()
        if has_enough_days(rows) if with_trips is None else with_trips:
            first = np.unique(trip, return_index=True)[1]
            effects = TripEffects.fit(number_trips(rows, keys[:, 4], len(routes))[first], runs, hourly)
        return cls(stops, routes, pairs, pair_seconds, segments, segment_seconds, ratios, hourly, effects)

    @cached_property
    def _code_of_stop(self) -> dict[str, int]:
        return _number(self.stops)

    @cached_property
    def _code_of_route(self) -> dict[str, int]:
        return _number(self.routes)

    def predict_delay(self, columns: Columns) -> np.ndarray:
        """Return the predicted delay (n,) in seconds.

        Where there is no run time, the trip is predicted to keep its last delay, and to arrive no earlier than now.
        """
        return self.compute_features(columns)[:, 0]

    def compute_features(self, columns: Columns) -> np.ndarray:
        """Return the `LOOKUP_FEATURES` (n, 4) in seconds.

        They are the predicted delay, and the run time along the path from the last stop to the destination: at the hour
        that is half way to the scheduled arrival, by how much that is more than at any hour, and by how much it is more
        on this scheduled trip than on others. Where no path is known, it is the scheduled run time, and no more.
        """
        keys = _make_keys(self._code_of_stop, self._code_of_route, columns)
        values, row = self._cache.look_up(keys)
        ahead = to_floats(columns, "scheduled_seconds_ahead")
        last_delay = np.nan_to_num(to_floats(columns, "last_delay_seconds"))
        predicted = self._subtract_elapsed(columns, keys[:, 0], values[row, 0]) - ahead
        delay = np.where(np.isnan(predicted), np.maximum(last_delay, -ahead), predicted)
        plain, deviation = values[row, 1], values[row, 2 + hourly_run_time.find_bins_half_way(columns, ahead)]
        plain = np.where(np.isnan(plain), to_floats(columns, "scheduled_run_seconds"), plain)
        features = np.empty((len(row), len(LOOKUP_FEATURES)))
        run_ratio = self.trip_effects.find(number_trips(columns, keys[:, 4], len(self.routes)))
        path = plain + deviation
        features[:, 0], features[:, 1], features[:, 2] = delay, path, deviation
        features[:, 3] = np.where(np.isnan(path), 0, run_ratio * path)
        return features

    def compute_row_features(self, row: Mapping[str, Any]) -> tuple[float, ...]:
        """Return the `LOOKUP_FEATURES` of one row of plain Python values."""
        ahead, last_delay = row["scheduled_seconds_ahead"], row["last_delay_seconds"]
        state, elapsed = classify_row(row)
        stops, routes = self._code_of_stop, self._code_of_route
        current, destination = stops.get(row["current_stop_id"], len(stops)), stops.get(row["stop_id"], len(stops))
        route = routes.get(row["route_id"], len(routes))
        key = (state, current, destination, row["stops_ahead"], route)
        run_time, plain, *deviations = self._cache.look_up_one(key)
        scheduled_run = row["scheduled_run_seconds"]
        if run_time != run_time:
            run_time = self._ratio_of_state[state] * (1.0 if state == DEPARTING else scheduled_run)
        delay = max(run_time - elapsed, 0.0) - ahead
        if delay != delay:
            delay = max(0.0 if last_delay != last_delay else last_delay, -ahead)
        deviation = deviations[hourly_run_time.find_bin_half_way(row["sin_time"], row["cos_time"], ahead)]
        run_ratio = self.trip_effects.find_one(number_trip(row, route, len(routes)))
        path = (scheduled_run if plain != plain else plain) + deviation
        return delay, path, deviation, 0.0 if path != path else run_ratio * path

    def explain(self, columns: Columns) -> LookupEntry:
        """Return what the delay of one row (1,) is predicted by."""
        keys = _make_keys(self._code_of_stop, self._code_of_route, columns)
        values, row = self._cache.look_up(keys)
        state, composed = keys[:, 0], values[row, 0]
        if (self.pairs == keys[:, PAIR_COLUMNS]).all(axis=1).any():
            source = "the median of these stops"
        elif not np.isnan(composed).any():
            source = "the median to a nearer stop, and those of the segments from there"
        else:
            source = "none" if np.isnan(self.ratios[state]).any() else "the usual ratio to the schedule"
        numbers = self._complete(columns, state, composed), compute_elapsed(columns), self.predict_delay(columns)
        return LookupEntry(STATE_NAMES[state[0]], source, *(float(number[0]) for number in numbers))

    @cached_property
    def _ratio_of_state(self) -> list[float]:
        return self.ratios.tolist()

    def _subtract_elapsed(self, columns: Columns, state: np.ndarray, run_time: np.ndarray) -> np.ndarray:
        """Return the seconds (n,) that remain of run times (n,), or of the usual ones of the state."""
        return np.maximum(self._complete(columns, state, run_time) - compute_elapsed(columns), 0)

    def _complete(self, columns: Columns, state: np.ndarray, run_time: np.ndarray) -> np.ndarray:
        """Return run times (n,), with the usual ones of the state where they are NaN."""
        scheduled_run = np.where(state == DEPARTING, 1, to_floats(columns, "scheduled_run_seconds"))
        return np.where(np.isnan(run_time), self.ratios[state] * scheduled_run, run_time)

    @cached_property
    def _cache(self) -> KeyCache:
        run_times = RunTimes(SegmentGraph(self.segments, self.segment_seconds), self.pairs, self.pair_seconds)
        paths = self.hourly.make_graph(self.segments)

        def compute(key: tuple[int, ...]) -> list[float]:
            seconds = run_times.compose(key[:-1], key[-1])
            return [np.nan if seconds is None else seconds, *self._sum_path(paths, key)]

        return KeyCache(compute, 2 + N_BINS)

    def _sum_path(self, graph: SegmentGraph, key: tuple[int, ...]) -> list[float]:
        """Return the plain seconds along the path of a key, NaN where none is known, and the deviation at each hour."""
        state, current, destination, stops_ahead, route = key
        to_current = {MOVING: [1], UNSEEN: [1, 0]}.get(state, [0])
        for n_before in to_current:
            path = graph.find_path(route, current, destination, stops_ahead - n_before)
            first = self.hourly.find_previous(graph, route, current) if n_before else current
            if path is not None and first is not None:
                return self.hourly.sum_path([first, *path] if n_before else path)
        return [np.nan, *np.zeros(N_BINS)]

    def to_bytes(self) -> bytes:
        """Serialize the lookup as a deterministic NumPy archive, compressed as a whole."""
        buffer = io.BytesIO()
        arrays = {
            "stops": np.array(self.stops, dtype=np.str_),
            "routes": np.array(self.routes, dtype=np.str_),
            "pairs": _pack(self.pairs, self.pair_seconds),
            "segments": _pack(self.segments, self.segment_seconds),
            "ratios": self.ratios,
            **self.hourly.to_arrays(self.segments),
            **self.trip_effects.to_arrays(),
        }
        compacted: dict[str, Any] = {name: compact(array) for name, array in arrays.items()}
        np.savez(buffer, **compacted)
        return lzma.compress(buffer.getvalue())

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read a lookup that `to_bytes` wrote."""
        with np.load(io.BytesIO(lzma.decompress(data)), allow_pickle=False) as archive:
            pairs, segments = _unpack(archive["pairs"]), _unpack(archive["segments"])
            stops, routes = archive["stops"].tolist(), archive["routes"].tolist()
            hourly = HourlyRunTime.from_arrays(archive, segments[0])
            effects = TripEffects.from_arrays(archive)
            return cls(stops, routes, *pairs, *segments, archive["ratios"], hourly, effects)

    @classmethod
    def from_bundle(cls, bundle: Bundle) -> Self:
        """Read the lookup of a stored model, or of `runtime_lookup`.

        Raises OutdatedModel if an earlier version of this package stored it.
        """
        try:
            return cls.from_bytes(_get_file(bundle, LOOKUP_FILE))
        except KeyError as error:
            raise OutdatedModel(
                f"The model was made by an earlier version of mbta_assets: its run-time lookup has no {error}. "
                "Train again: materialize the groups training, models and production."
            ) from error


def has_enough_days(rows: Columns) -> bool:
    """Return whether there are rows of `MIN_DAYS` service days or more."""
    return len(np.unique(group_rows(rows, ("service_date",)))) >= MIN_DAYS


def _get_file(bundle: Bundle, name: str) -> bytes:
    """Return the content of a file. Raises KeyError if the bundle has none of this name."""
    if name not in bundle.manifest["files"]:
        raise KeyError(name)
    return bundle.file(name)


def _list_distinct(columns: Columns, name: str) -> set[str]:
    """Return the distinct texts of a column."""
    values = columns[name]
    distinct = values.unique() if hasattr(values, "unique") else values
    return {text for text in np.asarray(distinct, dtype=object).tolist() if isinstance(text, str)}


def _number(names: list[str]) -> dict[str, int]:
    """Return the code of each name: its place."""
    return {name: code for code, name in enumerate(names)}


def _make_keys(code_of_stop: Mapping[str, int], code_of_route: Mapping[str, int], columns: Columns) -> np.ndarray:
    """Return state, current stop, destination, stops ahead and route (n, 5) as integers.

    Unknown and missing stops and routes have the code that follows the last one.
    """
    current, destination = (
        encode_values(columns[name], code_of_stop, len(code_of_stop)) for name in ("current_stop_id", "stop_id")
    )
    route = encode_values(columns["route_id"], code_of_route, len(code_of_route))
    stops_ahead = np.asarray(columns["stops_ahead"], dtype=np.int64)
    return np.column_stack([classify_state(columns), current, destination, stops_ahead, route])


def _list_visits(rows: Columns, keys: np.ndarray, arrives_in: np.ndarray, trip: np.ndarray) -> Visits:
    """Return the observed arrivals, and departures from first stops, of rows with these keys (n, 5).

    `arrives_in` (n,) are seconds from the report to the event, `trip` (n,) integers, one for each vehicle on a trip.
    """
    departing = keys[:, 3] == 0
    position = np.where(departing, 1, to_floats(rows, "stops_behind") + keys[:, 3])
    seen = ~np.isnan(arrives_in) & ~np.isnan(position) & (departing | (position > 1))
    time = hourly_run_time.compute_time_of_day(rows) + arrives_in
    return Visits(trip[seen], position[seen].astype(np.int64), keys[seen, 2], keys[seen, 4], time[seen])


def _compute_medians(keys: np.ndarray, seconds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the keys (m, d) of `MIN_RUNS` values or more, in order, and the medians (m,) in tenths of a second."""
    order = np.lexsort((seconds, pack_columns(keys.T)))
    keys, seconds = keys[order], seconds[order]
    first = np.flatnonzero(np.r_[True, (keys[1:] != keys[:-1]).any(axis=1)][: len(keys)])
    count = np.diff(np.r_[first, len(keys)])
    medians = (seconds[first + (count - 1) // 2] + seconds[first + count // 2]) / 2
    frequent = count >= MIN_RUNS
    return keys[first[frequent]], np.round(medians[frequent], 1)


def _fit_segments(
    rows: Columns, keys: np.ndarray, run_time: np.ndarray, arrives_in: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the segments (s, 3) and their median seconds (s,), of vehicles that stand before them or are further away.

    `keys` (n, 5), `run_time` (n,) and `arrives_in` (n,), the seconds to the arrival, are those of the rows.
    """
    standing = (keys[:, 0] == STANDING) & (keys[:, 3] == 1) & ~np.isnan(run_time)
    begin, end, between = observe_segments(rows, arrives_in)
    further = np.column_stack([keys[begin, 4], keys[begin, 2], keys[end, 2]])
    observed = np.concatenate([keys[standing][:, SEGMENT_COLUMNS], further])
    return _compute_medians(observed, np.concatenate([run_time[standing], between]))


def _fit_pairs(keys: np.ndarray, run_time: np.ndarray, graph: SegmentGraph) -> tuple[np.ndarray, np.ndarray]:
    """Return the pairs (m, 4) with their median run times (m,), those of several stops ahead only if not composable."""
    labelled = ~np.isnan(run_time)
    pairs, seconds = _compute_medians(keys[labelled, PAIR_COLUMNS], run_time[labelled])
    routes: dict[Pair, list[int]] = defaultdict(list)
    for *pair, route in find_distinct(keys[labelled])[0].tolist():
        routes[tuple(pair)].append(route)
    run_times, stored = RunTimes(graph, pairs[:0], seconds[:0]), np.zeros(len(pairs), dtype=bool)
    for index in np.argsort(pairs[:, 3], kind="stable"):
        pair = tuple(pairs[index].tolist())
        if pair[3] <= 1 or any(run_times.compose(pair, route) is None for route in routes[pair]):
            run_times.add(pair, float(seconds[index]))
            stored[index] = True
    return pairs[stored], seconds[stored]


def _fit_ratios(state: np.ndarray, run_time: np.ndarray, scheduled_run: np.ndarray) -> np.ndarray:
    """Return the `ratios` of rows with these states (n,), run times (n,) and scheduled run times (n,) in seconds."""
    comparable = (scheduled_run >= MIN_SCHEDULED_RUN_SECONDS) & (state != DEPARTING)
    ratio = np.where(state == DEPARTING, run_time, np.nan)
    ratio[comparable] = run_time[comparable] / scheduled_run[comparable]
    by_state = [ratio[(state == code) & ~np.isnan(ratio)] for code in STATES]
    return np.array([round(float(np.median(part)), 3) if len(part) >= MIN_RUNS else np.nan for part in by_state])


def _pack(keys: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    """Return keys (m, d) and run times (m,) as integers (d + 1, m): the columns of equal meaning compress best."""
    return np.column_stack([keys, np.round(seconds * 10)]).astype(np.int64).T


def _unpack(packed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return what `_pack` was given."""
    return packed[:-1].T.astype(np.int64), packed[-1] / 10
