"""Whether a candidate may replace the model in production: every rule of the gate, on rows that nobody learned from."""

import math
import timeit
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from mbta_assets.ml.inference.encoder import Columns
from mbta_assets.storage.bundle import Bundle

CANDIDATE, PRODUCTION, LOOKUP = "candidate", "production_model", "runtime_lookup"


@dataclass(frozen=True)
class Gate:
    """What a candidate has to show."""

    margin_over_production: float = 0.005
    """Share of the production model's MAE that it saves: for less than a fifth of a second, leave what has proved
    itself where it is."""
    margin_over_lookup: float = 0.01
    """Share of the run-time lookup's MAE that it saves: medians need no watching, so a model must be worth its own."""
    route_bound: float = 0.02
    """Share by which its MAE may be above that of either on a route: a better mean must not be paid for by one line."""
    route_rows: int = 200
    """A route with fewer rows is not judged: it is a handful of trips."""
    standard_errors: float = 2.0
    """On a route, a difference within so many standard errors is noise. Rows of a trip share its fate, so that the
    standard error is taken between trips."""
    test_rows: int = 1_000
    """With fewer rows that nobody learned from nothing is decided: margins of a percent would be luck."""
    size_bytes: int = 60_000
    """The whole bundle: small enough to be loaded by a function that starts cold."""
    latency_microseconds: float = 2_000
    """For one row, from feature columns to seconds of delay. A quarter of it is usual; machines differ."""


@dataclass(frozen=True)
class Contender:
    """A stored model on the rows at hand."""

    stored: Bundle
    predicted: np.ndarray
    """(n,) seconds of delay."""
    latency_microseconds: float = math.nan
    """Time for one row; only a candidate's is measured."""


@dataclass(frozen=True)
class Rule:
    """A rule of the gate, whether it holds, and a sentence with the figures."""

    holds: bool
    says: str


@dataclass(frozen=True)
class Decision:
    """Every rule that was looked at, and the errors side by side."""

    rules: tuple[Rule, ...]
    comparison: tuple[dict[str, Any], ...] = ()
    """The MAE in seconds of each contender over n rows: over all rows first, then by stops ahead and by route."""

    @property
    def promoted(self) -> bool:
        """Whether the candidate becomes the production model."""
        return all(rule.holds for rule in self.rules)

    @property
    def reasons(self) -> tuple[str, ...]:
        """All that speaks against the candidate; where nothing does, all that speaks for it."""
        return tuple(rule.says for rule in self.rules if rule.holds == self.promoted)

    @property
    def figures(self) -> str:
        """The overall errors in one line; empty where they were not compared."""
        if not self.comparison:
            return ""
        overall = self.comparison[0]
        maes = ", ".join(f"{name} {overall[name]:.2f} s" for name in (CANDIDATE, PRODUCTION, LOOKUP) if name in overall)
        return f"MAE on {overall['n']:,} rows: {maes}"


def latency_microseconds(predict: Callable[[Columns], np.ndarray], rows: pd.DataFrame) -> float:
    """How long a prediction for one row takes, of rows (n > 0).

    The best of a hundred calls: whatever else the machine is doing only adds to it.
    """
    one = {str(name): values.to_numpy() for name, values in rows[:1].items()}
    return 1e6 * min(timeit.repeat(lambda: predict(one), number=1, repeat=100))


def decide(
    gate: Gate,
    rows: pd.DataFrame,
    candidate: Contender,
    lookup: Contender,
    production: Contender | None = None,
    others: Sequence[Rule] = (),
) -> Decision:
    """Hold a candidate to the gate on labelled rows (n), the same ones for all; without production, to the lookup only.

    Only rows newer than any that one of the contenders learned from count. `others` are rules about more than rows.
    """
    if production and production.stored.digest == candidate.stored.digest:
        return Decision((Rule(False, "The candidate is the version in production already: nothing changes."),))
    contenders = {CANDIDATE: candidate, **({PRODUCTION: production} if production else {}), LOOKUP: lookup}
    since = max(learned_until(each.stored.manifest) for each in contenders.values())
    unseen = rows[(rows["time_stamp"] > since).to_numpy()]
    finite = int(np.isfinite(candidate.predicted).sum())
    rules = [
        Rule(finite == len(rows), f"{finite:,} of {len(rows):,} predictions are finite numbers."),
        Rule(
            len(unseen) >= gate.test_rows,
            f"{len(unseen):,} labelled rows are newer than {since:%Y-%m-%d %H:%M:%S} UTC, up to when the models have "
            f"learned; {gate.test_rows:,} is the least to decide on.",
        ),
    ]
    comparison: tuple[dict[str, Any], ...] = ()
    if all(rule.holds for rule in rules):
        errors = _errors(rows, contenders).loc[unseen.index]
        comparison = tuple(_comparison(errors, unseen))
        margins = {PRODUCTION: gate.margin_over_production, LOOKUP: gate.margin_over_lookup}
        for rival in list(contenders)[1:]:
            rules += [_better(errors, rival, margins[rival]), _no_route_worse(gate, errors, unseen, rival)]
    return Decision((*rules, *_fit_to_serve(gate, candidate), *others), comparison)


def learned_until(manifest: Mapping[str, Any]) -> pd.Timestamp:
    """The time stamp of the newest row that a model learned from: what validation chooses is learned from it too."""
    window = manifest["training_window"]
    return max(pd.Timestamp(part["to"]) for part in window if part["part"] != "test" and part["rows"])


def _errors(rows: pd.DataFrame, contenders: Mapping[str, Contender]) -> pd.DataFrame:
    """Absolute errors in seconds, a column for each contender; infinite where it has no answer."""
    label = rows["delay_seconds"].to_numpy(dtype=np.float64)
    errors = {name: np.abs(label - each.predicted) for name, each in contenders.items()}
    return pd.DataFrame(errors, index=rows.index).fillna(np.inf)


def _comparison(errors: pd.DataFrame, rows: pd.DataFrame) -> list[dict[str, Any]]:
    compared = [{"rows": "all", "n": len(errors), **_maes(errors)}]
    for column, name in (("stops_ahead", "{} stops ahead"), ("route_id", "route {}")):
        for value, of_value in errors.groupby(rows[column]):
            compared.append({"rows": name.format(value), "n": len(of_value), **_maes(of_value)})
    return compared


def _maes(errors: pd.DataFrame) -> dict[str, float]:
    return {str(name): float(mae) for name, mae in errors.mean().items()}


def _better(errors: pd.DataFrame, rival: str, margin: float) -> Rule:
    mae, of_rival = errors[CANDIDATE].mean(), errors[rival].mean()
    saved = 1 - mae / of_rival
    return Rule(
        bool(saved > margin),
        f"MAE {mae:.2f} s against {of_rival:.2f} s of {rival} on {len(errors):,} rows: "
        f"{abs(saved):.2%} {'less' if saved >= 0 else 'more'}; it must be over {margin:.2%} less.",
    )


def _no_route_worse(gate: Gate, errors: pd.DataFrame, rows: pd.DataFrame, rival: str) -> Rule:
    trip = rows.groupby(["service_date", "trip_id"]).ngroup()
    worse = []
    for route, added in (errors[CANDIDATE] - errors[rival]).groupby(rows["route_id"]):
        of_rival = errors.loc[added.index, rival].mean()
        noise = gate.standard_errors * _standard_error(added, trip)
        if len(added) >= gate.route_rows and added.mean() > max(gate.route_bound * of_rival, noise):
            worse.append(
                f"{route} by {added.mean() / of_rival:.1%} ({of_rival + added.mean():.2f} s against {of_rival:.2f} s, "
                f"{len(added):,} rows, noise {noise:.2f} s)"
            )
    found = f"Worse than {rival} on {', '.join(worse)}" if worse else f"No worse than {rival} on any route"
    bound = f"{gate.route_bound:.1%} is the bound, for routes of {gate.route_rows:,} rows or more"
    return Rule(not worse, f"{found}; {bound}.")


def _standard_error(values: pd.Series, cluster: pd.Series) -> float:
    """The standard error of a mean over rows that are independent between clusters only."""
    off = (values - values.mean()).groupby(cluster).sum()
    return float(np.sqrt((off**2).sum()) / len(values))


def _fit_to_serve(gate: Gate, candidate: Contender) -> list[Rule]:
    parity = candidate.stored.manifest.get("parity")
    size, latency = candidate.stored.size_bytes, candidate.latency_microseconds
    return [
        Rule(
            parity["rows"] > 0 and parity["max_seconds"] <= parity["bound_seconds"],
            f"On {parity['rows']:,} rows it differs from the model it was made from by up to "
            f"{parity['max_seconds']:.3g} s; {parity['bound_seconds']:.3g} s is the bound.",
        )
        if parity
        else Rule(False, "Its manifest says nothing of parity with the model it was made from."),
        Rule(size <= gate.size_bytes, f"Its bundle has {size:,} bytes; {gate.size_bytes:,} is the budget."),
        Rule(
            latency <= gate.latency_microseconds,
            f"One row takes {latency:,.0f} microseconds; {gate.latency_microseconds:,.0f} is the budget.",
        ),
    ]
