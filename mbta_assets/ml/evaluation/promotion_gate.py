"""The promotion gate: decides whether a candidate may replace the production model.

Every rule is judged on unseen rows: rows of the candidate's own test part that none of the compared models was trained
on, stopped early by or chosen by, each according to its own manifest. How a decision is stored and shown belongs to
`mbta_assets.defs.production`.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from mbta_assets.ml.evaluation.grouping import DISTANCE_BINS, bin_distances
from mbta_assets.storage.bundle import Bundle

CANDIDATE, PRODUCTION, LOOKUP = "candidate", "production_model", "runtime_lookup"


@dataclass(frozen=True)
class Gate:
    """Thresholds that a candidate has to meet."""

    min_gain_over_production: float = 0.005
    """Minimum reduction of the production model's MAE, as a share. A smaller gain, below a fifth of a second, is not
    worth replacing a model that has proved itself."""
    min_gain_over_lookup: float = 0.01
    """Minimum reduction of the run-time lookup's MAE, as a share. Medians need no monitoring, so a model has to be
    worth its own."""
    max_route_regression: float = 0.02
    """Maximum increase of the MAE on any route over either rival's, as a share. A better mean must not be paid for by
    the riders of one line."""
    max_day_regression: float = 0.02
    """Maximum increase of the MAE on any service day over either rival's, as a share. Riders need predictions most on
    the day of a storm, which a mean over days hides."""
    min_route_rows: int = 200
    """Routes and service days with fewer rows are not judged: they hold a handful of trips."""
    standard_errors: float = 2.0
    """Differences on a route or service day within this many standard errors are noise. Errors within a trip are
    correlated, so the standard error is clustered by trip."""
    min_test_rows: int = 1_000
    """Minimum number of rows that no compared model was trained on. With fewer, margins of a percent are chance."""
    max_size_bytes: int = 60_000
    """Maximum size of the bundle, which a serverless function loads when it starts cold."""
    max_latency_us: float = 2_000
    """Maximum latency in microseconds of a prediction for one row, features to delay. A fiftieth of it is usual;
    machines differ."""
    live_arrivals: int = 0
    """Minimum number of arrivals that the candidate has predicted live in the shadow of the production model; with 0 no
    live evidence is asked for, as most deployments predict no live traffic."""


@dataclass(frozen=True)
class Contender:
    """A stored model and its predictions for the rows of the gate."""

    bundle: Bundle
    predicted: np.ndarray
    """(n,) delay in seconds, as it would be published."""
    latency_us: float = math.nan
    """Latency in microseconds of a prediction for one row; measured for the candidate only."""


@dataclass(frozen=True)
class Rule:
    """The outcome of one rule of the gate."""

    passed: bool
    message: str
    """A sentence with the figures."""
    waits: bool = False
    """Whether it did not pass because what it is judged by is still to come."""


@dataclass(frozen=True)
class Decision:
    """The outcome of every rule, and the errors of the contenders side by side."""

    rules: tuple[Rule, ...]
    comparison: tuple[dict[str, Any], ...] = ()
    """The MAE in seconds of each contender over n rows: all first, then by bin of stops ahead, route and day."""

    @property
    def promoted(self) -> bool:
        """Return whether the candidate becomes the production model."""
        return all(rule.passed for rule in self.rules)

    @property
    def waits(self) -> bool:
        """Return whether the candidate is not promoted yet, and every rule has passed but for those that wait."""
        return not self.promoted and all(rule.passed or rule.waits for rule in self.rules)

    @property
    def reasons(self) -> tuple[str, ...]:
        """Return the messages of all rules if the candidate is promoted, else those of the rules that failed."""
        return tuple(rule.message for rule in self.rules if rule.passed == self.promoted)

    @property
    def summary(self) -> str:
        """Return the MAE of each contender over all rows in one line; empty if they were not compared."""
        if not self.comparison:
            return ""
        overall = self.comparison[0]
        maes = ", ".join(f"{name} {overall[name]:.2f} s" for name in (CANDIDATE, PRODUCTION, LOOKUP) if name in overall)
        return f"MAE on {overall['n']:,} rows: {maes}"


def decide_promotion(
    gate: Gate,
    rows: pd.DataFrame,
    candidate: Contender,
    lookup: Contender,
    production: Contender | None = None,
    extra_rules: Sequence[Rule] = (),
) -> Decision:
    """Judge a candidate on n labelled rows, the same for all contenders.

    Without a production model the run-time lookup is the only rival. Only rows that no contender has seen are used; see
    `select_unseen`. `extra_rules` are outcomes of rules that do not depend on rows.
    """
    if production and production.bundle.digest == candidate.bundle.digest:
        return Decision((Rule(False, "The candidate is already the production model: nothing changes."),))
    contenders = {CANDIDATE: candidate, **({PRODUCTION: production} if production else {}), LOOKUP: lookup}
    manifests = {name: contender.bundle.manifest for name, contender in contenders.items()}
    unseen = select_unseen(rows, manifests.values())
    rules = [
        _require_finite_predictions(candidate),
        _require_rows(gate, unseen, manifests),
    ]
    comparison: tuple[dict[str, Any], ...] = ()
    if all(rule.passed for rule in rules):
        errors = _compute_absolute_errors(rows, contenders).loc[unseen.index]
        comparison = tuple(_compare(errors, unseen))
        rules += _judge_errors(gate, errors, unseen)
    return Decision((*rules, *_judge_bundle(gate, candidate), *extra_rules), comparison)


def select_unseen(rows: pd.DataFrame, manifests: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Return the rows of n that are newer than whatever any of some models has learned from.

    A model has learned from the rows of its training and validation parts, by which it was trained, stopped early and
    chosen. The arrivals of these rows are known until its test part begins: a row from before that may be about an
    arrival that the model has seen.
    """
    time = rows["time_stamp"]
    unseen = np.ones(len(rows), dtype=bool)
    for manifest in manifests:
        unseen &= (time > get_training_end(manifest)).to_numpy()
        test_begin = _get_test_begin(manifest)
        if test_begin is not None:
            unseen &= (time >= test_begin).to_numpy()
    return rows[unseen]


def get_training_end(manifest: Mapping[str, Any]) -> pd.Timestamp:
    """Return the time stamp of the newest row of the training and validation parts of a model."""
    parts = manifest["training_window"]
    return max(pd.Timestamp(part["to"]) for part in parts if part["part"] != "test" and part["rows"])


def _get_test_begin(manifest: Mapping[str, Any]) -> pd.Timestamp | None:
    """Return the time stamp of the oldest row of the test part of a model; None if it has no test part."""
    begins = [part["from"] for part in manifest["training_window"] if part["part"] == "test" and part["rows"]]
    return pd.Timestamp(begins[0]) if begins else None


def _require_finite_predictions(candidate: Contender) -> Rule:
    """Require every prediction of the candidate to be a finite number."""
    finite, n = int(np.isfinite(candidate.predicted).sum()), len(candidate.predicted)
    return Rule(finite == n, f"{finite:,} of {n:,} predictions are finite numbers.")


def _require_rows(gate: Gate, unseen: pd.DataFrame, manifests: Mapping[str, Mapping[str, Any]]) -> Rule:
    """Require enough rows that no contender has seen."""
    ends = {name: get_training_end(manifest) for name, manifest in manifests.items()}
    latest = max(ends, key=ends.__getitem__)
    return Rule(
        len(unseen) >= gate.min_test_rows,
        f"{len(unseen):,} labelled rows are newer than {ends[latest]:%Y-%m-%d %H:%M:%S} UTC, when the training and "
        f"validation data of the models ends (latest that of the {latest}); {gate.min_test_rows:,} is the minimum.",
    )


def _judge_errors(gate: Gate, errors: pd.DataFrame, rows: pd.DataFrame) -> Iterator[Rule]:
    """Judge the candidate's absolute errors against those of each rival, overall, by route and by service day.

    A single service day is all rows.
    """
    trip = rows.groupby(["service_date", "trip_id"]).ngroup()
    min_gains = {PRODUCTION: gate.min_gain_over_production, LOOKUP: gate.min_gain_over_lookup}
    for rival, min_gain in min_gains.items():
        if rival in errors:
            yield _require_gain(errors, rival, min_gain)
            added = errors[CANDIDATE] - errors[rival]
            regressions = partial(_list_regressions, gate, added, errors[rival], trip)
            yield _require_no_regression(gate, rival, "route", gate.max_route_regression, regressions(rows["route_id"]))
            if rows["service_date"].nunique() > 1:
                days = regressions(rows["service_date"].astype(str))
                yield _require_no_regression(gate, rival, "service day", gate.max_day_regression, days)


def _compute_absolute_errors(rows: pd.DataFrame, contenders: Mapping[str, Contender]) -> pd.DataFrame:
    """Return the absolute errors in seconds, one column per contender; infinite where a prediction is missing."""
    label = rows["delay_seconds"].to_numpy(dtype=np.float64)
    errors = {name: np.abs(label - contender.predicted) for name, contender in contenders.items()}
    return pd.DataFrame(errors, index=rows.index).fillna(np.inf)


def _compare(errors: pd.DataFrame, rows: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Yield the MAE of each contender over all rows, by bin of stops ahead, by route and by service day."""
    yield _summarize_errors("all", errors)
    distances = pd.Series(pd.Categorical(bin_distances(rows["stops_ahead"].to_numpy()), DISTANCE_BINS), rows.index)
    for distance, group in errors.groupby(distances, observed=True):
        yield _summarize_errors("departure" if distance == "departure" else f"{distance} stops ahead", group)
    for route_id, group in errors.groupby(rows["route_id"]):
        yield _summarize_errors(f"route {route_id}", group)
    for service_date, group in errors.groupby(rows["service_date"].astype(str)):
        yield _summarize_errors(f"day {service_date}", group)


def _summarize_errors(rows: str, errors: pd.DataFrame) -> dict[str, Any]:
    """Return one row of the comparison: a name of the rows, their number, and the MAE of each contender."""
    return {"rows": rows, "n": len(errors), **{str(name): float(mae) for name, mae in errors.mean().items()}}


def _require_gain(errors: pd.DataFrame, rival: str, min_gain: float) -> Rule:
    """Require the candidate's MAE to be below the rival's by more than a share of it."""
    mae, rival_mae = errors[CANDIDATE].mean(), errors[rival].mean()
    gain = 1 - mae / rival_mae
    direction = "less" if gain >= 0 else "more"
    return Rule(
        bool(gain > min_gain),
        f"MAE {mae:.2f} s against {rival_mae:.2f} s of {rival} on {len(errors):,} rows: {abs(gain):.2%} {direction}; "
        f"more than {min_gain:.2%} less is required.",
    )


class _Regression(NamedTuple):
    """By how much the candidate is worse than a rival on the rows of a route or service day, in seconds of MAE."""

    name: str
    added: float
    rival_mae: float
    rows: int
    noise: float


def _list_regressions(
    gate: Gate, added: pd.Series, rival_error: pd.Series, trip: pd.Series, group: pd.Series
) -> list[_Regression]:
    """List the groups of enough rows on which the candidate is worse than a rival beyond the noise.

    `added` (n,) is its absolute error minus the rival's, `trip` and `group` name the trip and group of each row.
    """
    regressions = []
    for name, of_group in added.groupby(group):
        noise = gate.standard_errors * _compute_standard_error(of_group, trip)
        if len(of_group) >= gate.min_route_rows and of_group.mean() > noise:
            rival_mae = float(rival_error[of_group.index].mean())
            regressions.append(_Regression(str(name), float(of_group.mean()), rival_mae, len(of_group), noise))
    return regressions


def _require_no_regression(
    gate: Gate, rival: str, kind: str, max_share: float, regressions: Sequence[_Regression]
) -> Rule:
    """Require the candidate not to be worse than the rival on any route, or service day, by more than a share."""
    worse = [
        f"{name} by {added / rival_mae:.1%} ({rival_mae + added:.2f} s against {rival_mae:.2f} s, {rows:,} rows, noise "
        f"{noise:.2f} s)"
        for name, added, rival_mae, rows, noise in regressions
        if added > max_share * rival_mae
    ]
    outcome = f"Worse than {rival} on {', '.join(worse)}" if worse else f"Not worse than {rival} on any {kind}"
    bound = f"{max_share:.1%} is the bound, for {kind}s of {gate.min_route_rows:,} rows or more"
    return Rule(not worse, f"{outcome}; {bound}.")


def _compute_standard_error(values: pd.Series, cluster: pd.Series) -> float:
    """Return the standard error of the mean of values (n,) that are independent between clusters only."""
    cluster_sums = (values - values.mean()).groupby(cluster).sum()
    return float(np.sqrt((cluster_sums**2).sum()) / len(values))


def _judge_bundle(gate: Gate, candidate: Contender) -> Iterator[Rule]:
    """Judge the candidate's parity with its source model, its size and its latency."""
    yield _require_parity(candidate.bundle.manifest.get("parity"))
    size = candidate.bundle.size_bytes
    yield Rule(size <= gate.max_size_bytes, f"The bundle has {size:,} bytes; {gate.max_size_bytes:,} is the maximum.")
    latency = candidate.latency_us
    yield Rule(
        latency <= gate.max_latency_us,
        f"One row takes {latency:,.0f} microseconds; {gate.max_latency_us:,.0f} is the maximum.",
    )


def _require_parity(parity: Mapping[str, Any] | None) -> Rule:
    """Require the candidate to predict what the model it was exported from predicts, as its manifest states."""
    if not parity:
        return Rule(False, "The manifest does not state parity with the model that it was exported from.")
    return Rule(
        parity["rows"] > 0 and parity["max_seconds"] <= parity["bound_seconds"],
        f"On {parity['rows']:,} rows it differs from the model that it was exported from by up to "
        f"{parity['max_seconds']:.3g} s; {parity['bound_seconds']:.3g} s is the bound.",
    )
