"""Models follow the features: when a user would expect it, whole, and not more often."""

import logging
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import dagster as dg
import pyarrow as arrow
import pytest
from dagster._core.definitions.asset_daemon_cursor import AssetDaemonCursor
from dagster._core.definitions.automation_tick_evaluation_context import AutomationTickEvaluationContext
from dagster._core.definitions.data_version import DATA_VERSION_TAG

from mbta_assets.definitions import build_defs
from mbta_assets.defs.automation.retraining import LEARNED
from mbta_assets.defs.automation.runs import ATTEMPTS, RETRY_AFTER
from mbta_assets.settings import Settings, SettingsError
from mbta_assets.storage.bundle import Draft
from mbta_assets.storage.model_registry import BundleStore
from mbta_assets_tests.defs.automation.conftest import Deployment

BOSTON = ZoneInfo("America/New_York")
CHAIN = {
    "training_set",
    "runtime_lookup",
    "xgboost_model",
    "dnn_teacher",
    "pruned_teacher",
    "distilled_student",
    "quantized_student",
    "model_leaderboard",
    "production_model",
}
TICKS = ["05:30", "06:01", "06:02", "08:00", "12:00", "12:01"]
"""When conditions are evaluated on each day of the month; the hour of MBTA_RETRAIN_AT is 6."""


class Simulated:
    """A deployment whose clock is moved, and in which features and models are stored without being made."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        self.instance = deployment.instance
        self.cursor: AssetDaemonCursor | None = None
        self.stored = 0
        self.revision: dict[date, int] = {}

    def store(self, asset: str, version: str | None = None, partition: str | None = None) -> None:
        """Store an asset, by default with content that it never had."""
        self.stored += 1
        version = version or f"version {self.stored}"
        event = dg.AssetMaterialization(asset, partition=partition, tags={DATA_VERSION_TAG: version})
        self.instance.report_runless_asset_event(event)

    def features(self, *days: date, changed: bool = True) -> None:
        """Store features of service days, with content that is new or what it was."""
        for service_date in days:
            self.revision[service_date] = self.revision.get(service_date, 0) + changed
            self.store("transit_features", f"{service_date} {self.revision[service_date]}", str(service_date))

    def check(self, passed: bool) -> None:
        evaluation = dg.AssetCheckEvaluation(
            dg.AssetKey("transit_features"), "schema_holds", passed=passed, metadata={}
        )
        self.instance.report_runless_asset_event(evaluation)

    def tick(self, at: datetime) -> set[str]:
        """What the conditions ask for at a moment."""
        selection = dg.AssetSelection.groups(*LEARNED)
        result = dg.evaluate_automation_conditions(self.deployment.defs, self.instance, selection, at, self.cursor)
        self.cursor = result.cursor
        return {name for name in CHAIN if result.get_num_requested(dg.AssetKey(name))}

    def train(self, assets: Iterable[str] = CHAIN) -> None:
        for asset in assets:
            self.store(asset)

    def begin(self, service_date: date) -> dg.DagsterRun:
        """Start a run that makes the features of a day."""
        return self.deployment.begin(dg.RunRequest(partition_key=str(service_date)), job="daily_tables")

    def end(self, run: dg.DagsterRun) -> None:
        self.features(date.fromisoformat(run.tags["dagster/partition"]))
        self.deployment.end(run, succeeded=True)


@pytest.fixture
def simulated(deployment: Deployment) -> Simulated:
    simulated = Simulated(deployment)
    simulated.train()
    return simulated


def march(number: int) -> date:
    return date(2024, 3, number)


def boston(day: date, clock: str) -> datetime:
    return datetime.fromisoformat(f"{day}T{clock}").replace(tzinfo=BOSTON)


WHOLE = "all"
"""Everything that is learned, in one tick and so in one run."""

MONTH = [
    # day, what happens, what is trained at which time
    (1, "nothing", {}),
    (2, "night", {"06:01": WHOLE}),
    (3, "night", {"06:01": WHOLE}),
    (4, "no night", {}),
    (5, "two nights", {"06:01": WHOLE}),
    (6, "the same days again", {}),
    (7, "night that a check rejects", {}),
    (8, "night that the checks accept", {"05:30": WHOLE}),
    (9, "night, training fails", {"06:01": WHOLE}),
    (10, "no night", {}),  # what failed is for the sensor `unnoticed_changes`
    (11, "no night", {}),
    (12, "30 days backfilled at noon", {}),
    (13, "no night", {"06:01": WHOLE}),
    (14, "no night", {}),
    (15, "30 days backfilled from 5 to 8", {"08:00": WHOLE}),
    (16, "no night", {}),
    (17, "night, and a change at noon", {"06:01": WHOLE}),
    (18, "no night", {"06:01": WHOLE}),
    (19, "a change at noon, trained by hand", {}),
    (20, "no night", {}),
    (21, "training set made by hand at noon", {}),
    (22, "no night", {"06:01": CHAIN - {"training_set"}}),
    (23, "no night", {}),
    (24, "night", {"06:01": WHOLE}),
    (25, "night", {"06:01": WHOLE}),
    (26, "night", {"06:01": WHOLE}),
    (27, "night", {"06:01": WHOLE}),
    (28, "night", {"06:01": WHOLE}),
    (29, "night", {"06:01": WHOLE}),
    (30, "night", {"06:01": WHOLE}),
    (31, "night", {"06:01": WHOLE}),
]


def happen(simulated: Simulated, what: str, number: int, clock: str, backfill: list[dg.DagsterRun]) -> None:
    """What happens in the world just before a tick."""
    yesterday = march(number) - timedelta(days=1)
    month_before = [yesterday - timedelta(days=30 + n) for n in range(30)]
    if clock == "05:30":
        if what.startswith("night"):
            simulated.features(yesterday)
            simulated.features(yesterday - timedelta(days=1), changed=False)
            simulated.check(passed="rejects" not in what)
        if what == "the same days again":
            simulated.features(*(yesterday - timedelta(days=n) for n in (1, 2)), changed=False)
        if what == "two nights":
            simulated.features(yesterday, yesterday - timedelta(days=1))
        if "from 5 to 8" in what:
            backfill += [simulated.begin(day) for day in month_before]
    if "from 5 to 8" in what:
        share = {"06:01": 10, "06:02": 10, "08:00": 10}.get(clock, 0)
        for _ in range(share):
            simulated.end(backfill.pop())
    if clock == "12:00":
        if "backfilled at noon" in what:
            simulated.features(*month_before)
        if "change at noon" in what:
            simulated.features(yesterday)
        if what.startswith("training set"):
            simulated.store("training_set")
    if clock == "12:01" and what.endswith("trained by hand"):
        simulated.train()


def test_a_month_of_automation_trains_when_a_user_would_expect_it(simulated: Simulated) -> None:
    simulated.features(*(march(1) - timedelta(days=n) for n in range(1, 70)))
    simulated.tick(boston(date(2024, 2, 29), "18:00"))
    found = []
    for number, what, _ in MONTH:
        trained: dict[str, object] = {}
        backfill: list[dg.DagsterRun] = []
        for clock in TICKS:
            happen(simulated, what, number, clock, backfill)
            if asked := simulated.tick(boston(march(number), clock)):
                trained[clock] = WHOLE if asked == CHAIN else asked
                if "training fails" not in what:
                    simulated.train(asked)
        found.append((number, what, trained))
    assert found == MONTH


def test_30_days_backfilled_by_one_run_each_are_one_training(simulated: Simulated) -> None:
    clock = boston(march(4), "05:50")
    simulated.tick(clock)
    trainings = 0
    for number in range(30):
        clock += timedelta(minutes=5)
        run = simulated.begin(march(1) - timedelta(days=number))
        trainings += bool(asked := simulated.tick(clock))
        simulated.train(asked)
        simulated.end(run)
    for hours in range(0, 40, 4):
        trainings += bool(asked := simulated.tick(clock + timedelta(hours=hours)))
        simulated.train(asked)
    assert trainings == 1


def test_the_whole_chain_is_one_run_with_its_checks(simulated: Simulated) -> None:
    graph = simulated.deployment.defs.resolve_asset_graph()
    requests: Sequence[dg.RunRequest] = []
    cursor = AssetDaemonCursor.empty()
    for clock in ("05:30", "05:59", "06:01"):
        if clock == "05:59":
            simulated.features(march(1))
        # What the daemon does for an AutomationConditionSensorDefinition, which no public function does.
        tick = AutomationTickEvaluationContext(
            evaluation_id=1,
            instance=simulated.instance,
            asset_graph=graph,
            cursor=cursor,
            materialize_run_tags={},
            observe_run_tags={},
            auto_observe_asset_keys=set(),
            asset_selection=dg.AssetSelection.groups(*LEARNED),
            logger=logging.getLogger(),
            emit_backfills=True,
            evaluation_time=boston(march(4), clock),
        )
        requests, cursor, _ = tick.evaluate()
    [request] = requests
    assert {key.to_user_string() for key in request.asset_selection or ()} == CHAIN
    assert request.partition_key is None
    assert not request.requires_backfill_daemon()
    ridden = {key.name for key in request.asset_check_keys or ()}
    assert ridden in (set(), {"parity_holds", "models_beat_the_lookup"})


def test_a_time_that_never_comes_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="MBTA_RETRAIN_AT is '0 25"):
        build_defs(Settings(store=tmp_path, retrain_at="0 25 * * *"))


class Stored(Simulated):
    """A deployment with features and bundles that are really stored, of which nothing was learned in truth."""

    def features(self, *days: date, changed: bool = True) -> None:
        super().features(*days, changed=changed)
        for service_date in days:
            rows = arrow.table({"service_date": [service_date], "revision": [self.revision[service_date]]})
            self.deployment.lake.write("transit_features", service_date, rows)

    def train(self, assets: Iterable[str] = CHAIN) -> None:
        """What a training leaves: a training set of the stored features, and a student that has learned from it."""
        super().train(assets)
        store, lake = BundleStore(self.deployment.settings.store), self.deployment.lake
        days = lake.days("transit_features")[-self.deployment.settings.training_days :]
        versions = {str(day): version for day, version in lake.versions("transit_features", days).items()}
        for asset, fields in (("training_set", {"data_versions": versions}), ("quantized_student", {})):
            if asset in assets:
                about: dict[str, Any] = fields or {"training_set": store.current_digest("training_set")}
                stored = store.put(asset, Draft(asset, {}, about))
                store.point(asset, stored.digest, store.current_digest(asset))


@pytest.fixture
def stored(deployment: Deployment) -> Stored:
    """Features of two days are stored, and models have learned from them."""
    stored = Stored(deployment)
    stored.features(march(1), march(2))
    stored.train()
    return stored


def requested(stored: Stored, at: datetime) -> list[dg.RunRequest]:
    """The runs that the reconciling sensor asks for at a moment."""
    with stored.deployment.at(at):
        return stored.deployment.tick("unnoticed_changes")


def unnoticed(stored: Stored, at: datetime) -> list[str]:
    """The keys of those runs."""
    return [str(request.run_key) for request in requested(stored, at)]


def test_features_that_change_in_the_same_tick_as_a_training_are_trained_on_at_the_next_time(stored: Stored) -> None:
    stored.tick(boston(march(3), "05:30"))
    stored.features(march(2))
    assert stored.tick(boston(march(3), "06:01")) == CHAIN
    stored.train()
    stored.features(march(1))
    assert stored.tick(boston(march(3), "06:02")) == set()
    assert stored.tick(boston(march(4), "06:01")) == set(), "the rule has lost it"
    assert unnoticed(stored, boston(march(3), "06:05")) == []
    assert unnoticed(stored, boston(march(4), "06:01")) == [], "the rule may still see it"
    [key] = unnoticed(stored, boston(march(4), "06:35"))
    run = stored.deployment.create("training", dg.RunRequest(run_key=key), dg.DagsterRunStatus.STARTED)
    assert unnoticed(stored, boston(march(4), "06:40")) == []
    stored.train()
    stored.deployment.end(run, succeeded=True)
    assert unnoticed(stored, boston(march(4), "07:00")) == []
    assert unnoticed(stored, boston(march(6), "07:00")) == []


def test_what_the_rule_has_seen_is_not_trained_on_twice(stored: Stored) -> None:
    stored.features(march(3))
    assert unnoticed(stored, boston(march(4), "04:30")) == []
    stored.train()
    for hour in range(6, 23):
        assert unnoticed(stored, boston(march(4), f"{hour:02}:45")) == []


def test_features_from_before_anything_was_watched_are_trained_on(deployment: Deployment) -> None:
    stored = Stored(deployment)
    stored.features(march(1))
    assert unnoticed(stored, boston(march(4), "12:00")) == []
    assert len(unnoticed(stored, boston(march(5), "06:35"))) == 1


def test_a_student_of_an_earlier_training_set_is_trained_again(stored: Stored) -> None:
    stored.features(march(2))
    stored.train({"training_set"})
    assert unnoticed(stored, boston(march(4), "12:00")) == []
    assert len(unnoticed(stored, boston(march(5), "06:35"))) == 1


def test_a_training_that_fails_is_tried_three_times_and_then_waits_for_other_features(stored: Stored) -> None:
    stored.features(march(2))
    unnoticed(stored, boston(march(4), "12:00"))
    keys = []
    for clock in ("06:35", "06:40", "06:50", "07:10", "08:00", "23:00"):
        for request in requested(stored, boston(march(5), clock)):
            keys.append(request.run_key)
            stored.deployment.create("training", request, dg.DagsterRunStatus.FAILURE)
    assert len(keys) == len(set(keys)) == ATTEMPTS
    stored.features(march(3))
    [key] = unnoticed(stored, boston(march(6), "12:00"))
    assert key not in keys


def test_a_training_that_fails_half_way_is_not_tried_more_often_for_that(stored: Stored) -> None:
    stored.features(march(2))
    unnoticed(stored, boston(march(4), "12:00"))
    keys = []
    for clock in ("06:35", "06:40", "06:50", "07:10", "08:00"):
        for request in requested(stored, boston(march(5), clock)):
            keys.append(request.run_key)
            stored.train({"training_set"})
            stored.deployment.create("training", request, dg.DagsterRunStatus.FAILURE)
    assert len(keys) == ATTEMPTS


def test_what_failed_is_tried_again_only_after_some_minutes(stored: Stored) -> None:
    stored.features(march(2))
    unnoticed(stored, datetime.now(UTC) - timedelta(days=2))
    [request] = requested(stored, datetime.now(UTC))
    run = stored.deployment.begin(request, job="training")
    assert requested(stored, datetime.now(UTC)) == []
    stored.deployment.end(run, succeeded=False)
    assert requested(stored, datetime.now(UTC) + timedelta(minutes=1)) == []
    assert len(requested(stored, datetime.now(UTC) + RETRY_AFTER)) == 1


def test_a_training_that_succeeds_and_changes_nothing_is_not_repeated_before_the_next_time(stored: Stored) -> None:
    stored.features(march(2))
    unnoticed(stored, datetime.now(UTC) - timedelta(days=2))
    [request] = requested(stored, datetime.now(UTC))
    stored.deployment.end(stored.deployment.begin(request, job="training"), succeeded=True)
    assert requested(stored, datetime.now(UTC) + timedelta(minutes=10)) == []
    assert len(requested(stored, datetime.now(UTC) + timedelta(hours=25))) == 1


def test_rejected_features_are_not_trained_on(stored: Stored) -> None:
    stored.features(march(2))
    stored.check(passed=False)
    unnoticed(stored, boston(march(4), "12:00"))
    assert unnoticed(stored, boston(march(5), "06:35")) == []
    stored.check(passed=True)
    assert len(unnoticed(stored, boston(march(5), "06:40"))) == 1


def test_it_waits_while_features_are_being_made(stored: Stored) -> None:
    stored.features(march(2))
    unnoticed(stored, boston(march(4), "12:00"))
    run = stored.begin(march(3))
    assert unnoticed(stored, boston(march(5), "06:35")) == []
    stored.deployment.end(run, succeeded=True)
    assert len(unnoticed(stored, boston(march(5), "06:40"))) == 1


def warn(simulated: Simulated, name: str, passed: bool) -> None:
    """A check of prediction_accuracy has been made."""
    severity = dg.AssetCheckSeverity.WARN
    key = dg.AssetKey("prediction_accuracy")
    evaluation = dg.AssetCheckEvaluation(key, name, passed=passed, metadata={}, severity=severity)
    simulated.instance.report_runless_asset_event(evaluation)


def drifted(simulated: Simulated, hours: float) -> int:
    """How many trainings the drift sensor asks for, so long from now."""
    with simulated.deployment.at(datetime.now(UTC) + timedelta(hours=hours)):
        return len(simulated.deployment.tick("drift"))


@pytest.mark.parametrize("name", ["drift_within_bounds", "accuracy_within_bounds"])
def test_drift_trains_once_its_interval_is_over_and_not_again_before_another_warning(
    simulated: Simulated, name: str
) -> None:
    warn(simulated, name, passed=True)
    assert drifted(simulated, 25) == 0
    warn(simulated, name, passed=False)
    assert drifted(simulated, 1) == 0, "models were trained just now"
    assert drifted(simulated, 25) == 1
    simulated.train()
    assert drifted(simulated, 50) == 0
    warn(simulated, name, passed=False)
    assert drifted(simulated, 50) == 1


def test_drift_trains_once_for_each_warning_though_the_training_failed(simulated: Simulated) -> None:
    warn(simulated, "drift_within_bounds", passed=False)
    with simulated.deployment.at(datetime.now(UTC) + timedelta(hours=25)):
        [request] = simulated.deployment.tick("drift")
    run = simulated.deployment.begin(request, job="training")
    assert drifted(simulated, 25) == 0
    simulated.deployment.end(run, succeeded=False)
    assert drifted(simulated, 26) == 0
    warn(simulated, "drift_within_bounds", passed=False)
    assert drifted(simulated, 26) == 1
