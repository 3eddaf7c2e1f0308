"""Models are trained on changed features when a user would expect it, all in one run, and not more often."""

import logging
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import dagster as dg
import pyarrow as arrow
import pytest

from mbta_assets.definitions import build_defs
from mbta_assets.defs.automation.retraining import TRAINED_GROUPS
from mbta_assets.defs.automation.runs import MAX_ATTEMPTS, RETRY_DELAY
from mbta_assets.defs.dagster_internals import DATA_VERSION_TAG, AssetDaemonCursor, AutomationTickEvaluationContext
from mbta_assets.settings import Settings, SettingsError
from mbta_assets.storage.bundle import Draft
from mbta_assets.storage.model_registry import ModelRegistry
from mbta_assets_tests.defs.automation.conftest import Deployment, clock_at

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
"""Times of each day at which conditions are evaluated; MBTA_RETRAIN_AT is 06:00."""


class Simulated:
    """A deployment whose clock is moved, and whose materializations are events without content."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        self.instance = deployment.instance
        self.cursor: AssetDaemonCursor | None = None
        self.materializations = 0
        self.revision: dict[date, int] = {}

    def materialize(self, asset: str, version: str | None = None, partition: str | None = None) -> None:
        """Report a materialization, by default with a version that the asset never had."""
        self.materializations += 1
        version = version or f"version {self.materializations}"
        event = dg.AssetMaterialization(asset, partition=partition, tags={DATA_VERSION_TAG: version})
        self.instance.report_runless_asset_event(event)

    def make_features(self, *days: date, changed: bool = True) -> None:
        """Materialize the features of service days, with new content or the same as before."""
        for service_date in days:
            self.revision[service_date] = self.revision.get(service_date, 0) + changed
            self.materialize("transit_features", f"{service_date} {self.revision[service_date]}", str(service_date))

    def check_features(self, passed: bool) -> None:
        """Report the result of a blocking check of the features."""
        evaluation = dg.AssetCheckEvaluation(
            dg.AssetKey("transit_features"), "schema_holds", passed=passed, metadata={}
        )
        self.instance.report_runless_asset_event(evaluation)

    def tick(self, at: datetime) -> set[str]:
        """Evaluate the conditions at a time and return the assets that they request."""
        selection = dg.AssetSelection.groups(*TRAINED_GROUPS)
        result = dg.evaluate_automation_conditions(self.deployment.defs, self.instance, selection, at, self.cursor)
        self.cursor = result.cursor
        return {name for name in CHAIN if result.get_num_requested(dg.AssetKey(name))}

    def train(self, assets: Iterable[str] = CHAIN) -> None:
        for asset in assets:
            self.materialize(asset)

    def start_run(self, service_date: date) -> dg.DagsterRun:
        """Start a run that makes the features of a day."""
        return self.deployment.start_run(dg.RunRequest(partition_key=str(service_date)), job="daily_tables")

    def finish_run(self, run: dg.DagsterRun) -> None:
        """Make the features of a run, and let it succeed."""
        self.make_features(date.fromisoformat(run.tags["dagster/partition"]))
        self.deployment.finish_run(run, succeeded=True)


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
"""The whole chain, in one tick and so in one run."""

MONTH = [
    # day, events, assets trained by time
    (1, "nothing", {}),
    (2, "night", {"06:01": WHOLE}),
    (3, "night", {"06:01": WHOLE}),
    (4, "no night", {}),
    (5, "two nights", {"06:01": WHOLE}),
    (6, "the same days again", {}),
    (7, "night, another day is refused", {"06:01": WHOLE}),
    (8, "night", {"06:01": WHOLE}),
    (9, "night, training fails", {"06:01": WHOLE}),
    (10, "no night", {}),  # the sensor `unnoticed_changes` retries
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


def apply_events(simulated: Simulated, events: str, number: int, clock: str, backfill: list[dg.DagsterRun]) -> None:
    """Apply the events of a day that come just before a tick."""
    yesterday = march(number) - timedelta(days=1)
    month_before = [yesterday - timedelta(days=30 + n) for n in range(30)]
    if clock == "05:30":
        if events.startswith("night"):
            simulated.make_features(yesterday)
            simulated.make_features(yesterday - timedelta(days=1), changed=False)
            simulated.check_features(passed="refused" not in events)
        if events == "the same days again":
            simulated.make_features(*(yesterday - timedelta(days=n) for n in (1, 2)), changed=False)
        if events == "two nights":
            simulated.make_features(yesterday, yesterday - timedelta(days=1))
        if "from 5 to 8" in events:
            backfill += [simulated.start_run(day) for day in month_before]
    if "from 5 to 8" in events:
        finished_runs = {"06:01": 10, "06:02": 10, "08:00": 10}.get(clock, 0)
        for _ in range(finished_runs):
            simulated.finish_run(backfill.pop())
    if clock == "12:00":
        if "backfilled at noon" in events:
            simulated.make_features(*month_before)
        if "change at noon" in events:
            simulated.make_features(yesterday)
        if events.startswith("training set"):
            simulated.materialize("training_set")
    if clock == "12:01" and events.endswith("trained by hand"):
        simulated.train()


@pytest.mark.integration
def test_a_month_of_automation_trains_when_a_user_would_expect_it(simulated: Simulated) -> None:
    simulated.make_features(*(march(1) - timedelta(days=n) for n in range(1, 70)))
    simulated.tick(boston(date(2024, 2, 29), "18:00"))
    month = []
    for number, events, _ in MONTH:
        trained: dict[str, object] = {}
        backfill: list[dg.DagsterRun] = []
        for clock in TICKS:
            apply_events(simulated, events, number, clock, backfill)
            if requested := simulated.tick(boston(march(number), clock)):
                trained[clock] = WHOLE if requested == CHAIN else requested
                if "training fails" not in events:
                    simulated.train(requested)
        month.append((number, events, trained))
    assert month == MONTH


@pytest.mark.integration
def test_30_days_backfilled_by_one_run_each_are_one_training(simulated: Simulated) -> None:
    clock = boston(march(4), "05:50")
    simulated.tick(clock)
    trainings = 0
    for number in range(30):
        clock += timedelta(minutes=5)
        run = simulated.start_run(march(1) - timedelta(days=number))
        trainings += bool(requested := simulated.tick(clock))
        simulated.train(requested)
        simulated.finish_run(run)
    for hours in range(0, 40, 4):
        trainings += bool(requested := simulated.tick(clock + timedelta(hours=hours)))
        simulated.train(requested)
    assert trainings == 1


def test_the_whole_chain_is_one_run_with_its_checks(simulated: Simulated) -> None:
    graph = simulated.deployment.defs.resolve_asset_graph()
    requests: Sequence[dg.RunRequest] = []
    cursor = AssetDaemonCursor.empty()
    for clock in ("05:30", "05:59", "06:01"):
        if clock == "05:59":
            simulated.make_features(march(1))
        # The daemon evaluates an AutomationConditionSensorDefinition in this way; no public function does.
        tick = AutomationTickEvaluationContext(
            evaluation_id=1,
            instance=simulated.instance,
            asset_graph=graph,
            cursor=cursor,
            materialize_run_tags={},
            observe_run_tags={},
            auto_observe_asset_keys=set(),
            asset_selection=dg.AssetSelection.groups(*TRAINED_GROUPS),
            logger=logging.getLogger(),
            emit_backfills=True,
            evaluation_time=boston(march(4), clock),
        )
        requests, cursor, _ = tick.evaluate()
    [request] = requests
    assert {key.to_user_string() for key in request.asset_selection or ()} == CHAIN
    assert request.partition_key is None
    assert not request.requires_backfill_daemon()
    checks = {key.name for key in request.asset_check_keys or ()}
    assert checks in (set(), {"parity_holds", "models_beat_the_lookup"})


def test_a_time_that_never_comes_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="MBTA_RETRAIN_AT is '0 25"):
        build_defs(Settings(store=tmp_path, retrain_at="0 25 * * *"))


class Stored(Simulated):
    """A deployment that stores features and bundles, although nothing was trained."""

    def make_features(self, *days: date, changed: bool = True) -> None:
        super().make_features(*days, changed=changed)
        for service_date in days:
            rows = arrow.table({"service_date": [service_date], "revision": [self.revision[service_date]]})
            self.deployment.tables.write("transit_features", service_date, rows)

    def train(self, assets: Iterable[str] = CHAIN) -> None:
        """Store a training set with the versions of the stored features, and a student of that training set."""
        super().train(assets)
        registry, tables = ModelRegistry(self.deployment.settings.store), self.deployment.tables
        days = tables.days("transit_features")[-self.deployment.settings.training_days :]
        versions = {str(day): version for day, version in tables.versions("transit_features", days).items()}
        for asset in ("training_set", "quantized_student"):
            if asset in assets:
                if asset == "quantized_student":
                    versions = registry.current("training_set").manifest["data_versions"]
                bundle = registry.put(asset, Draft(asset, {}, {"data_versions": versions}))
                registry.set_current(asset, bundle.digest, registry.current_digest(asset))


@pytest.fixture
def stored(deployment: Deployment) -> Stored:
    """Return a deployment with features of two days and models that were trained on them."""
    stored = Stored(deployment)
    stored.make_features(march(1), march(2))
    stored.train()
    return stored


def tick_sensor(stored: Stored, at: datetime) -> list[dg.RunRequest]:
    """Return the runs that the sensor for unnoticed changes requests at a time."""
    with clock_at(at):
        return stored.deployment.tick("unnoticed_changes")


def test_features_that_change_in_the_same_tick_as_a_training_are_trained_on_at_the_next_time(stored: Stored) -> None:
    stored.tick(boston(march(3), "05:30"))
    stored.make_features(march(2))
    assert stored.tick(boston(march(3), "06:01")) == CHAIN
    stored.train()
    stored.make_features(march(1))
    assert stored.tick(boston(march(3), "06:02")) == set()
    assert stored.tick(boston(march(4), "06:01")) == set(), "the condition has lost it"
    assert tick_sensor(stored, boston(march(3), "06:05")) == []
    assert tick_sensor(stored, boston(march(4), "06:01")) == [], "the condition may still see it"
    [request] = tick_sensor(stored, boston(march(4), "06:35"))
    run = stored.deployment.start_run(request, job="training")
    assert tick_sensor(stored, boston(march(4), "06:40")) == []
    stored.train()
    stored.deployment.finish_run(run, succeeded=True)
    assert tick_sensor(stored, boston(march(4), "07:00")) == []
    assert tick_sensor(stored, boston(march(6), "07:00")) == []


def test_changes_that_the_condition_has_seen_are_not_trained_on_twice(stored: Stored) -> None:
    stored.make_features(march(3))
    assert tick_sensor(stored, boston(march(4), "04:30")) == []
    stored.train()
    for hour in range(6, 23):
        assert tick_sensor(stored, boston(march(4), f"{hour:02}:45")) == []


def test_features_from_before_the_first_tick_are_trained_on(deployment: Deployment) -> None:
    stored = Stored(deployment)
    stored.make_features(march(1))
    assert tick_sensor(stored, boston(march(4), "12:00")) == []
    assert len(tick_sensor(stored, boston(march(5), "06:35"))) == 1


def test_a_student_of_an_earlier_training_set_is_trained_again(stored: Stored) -> None:
    stored.make_features(march(2))
    stored.train({"training_set"})
    assert tick_sensor(stored, boston(march(4), "12:00")) == []
    assert len(tick_sensor(stored, boston(march(5), "06:35"))) == 1


def test_a_training_that_fails_is_run_three_times_and_then_waits_for_other_features(stored: Stored) -> None:
    stored.make_features(march(2))
    tick_sensor(stored, boston(march(4), "12:00"))
    keys = []
    for clock in ("06:35", "06:40", "06:50", "07:10", "08:00", "23:00"):
        for request in tick_sensor(stored, boston(march(5), clock)):
            keys.append(request.run_key)
            stored.deployment.create_run(request, "training", dg.DagsterRunStatus.FAILURE)
    assert len(keys) == len(set(keys)) == MAX_ATTEMPTS
    stored.make_features(march(3))
    [request] = tick_sensor(stored, boston(march(6), "12:00"))
    assert request.run_key not in keys


@pytest.mark.parametrize("requested", [True, False], ids=["of the sensor", "of the condition"])
def test_a_training_that_was_cancelled_is_not_requested_again_for_the_same_features(
    stored: Stored, requested: bool
) -> None:
    stored.make_features(march(2))
    start = datetime.now(UTC)
    tick_sensor(stored, start - timedelta(days=2))
    [request] = tick_sensor(stored, start)
    stored.deployment.cancel_run(request if requested else dg.RunRequest(), job="training")
    for days in range(1, 4):
        assert tick_sensor(stored, start + timedelta(days=days)) == []
    stored.make_features(march(3))
    assert len(tick_sensor(stored, start + timedelta(days=5))) == 1


def test_features_made_again_with_the_same_content_do_not_revive_a_cancelled_training(stored: Stored) -> None:
    stored.make_features(march(2))
    start = datetime.now(UTC)
    tick_sensor(stored, start - timedelta(days=2))
    [request] = tick_sensor(stored, start)
    stored.deployment.cancel_run(request, job="training")
    stored.make_features(march(2), changed=False)
    assert tick_sensor(stored, start + timedelta(days=1)) == []


def test_a_training_that_fails_half_way_is_not_retried_more_often(stored: Stored) -> None:
    stored.make_features(march(2))
    tick_sensor(stored, boston(march(4), "12:00"))
    keys = []
    for clock in ("06:35", "06:40", "06:50", "07:10", "08:00"):
        for request in tick_sensor(stored, boston(march(5), clock)):
            keys.append(request.run_key)
            stored.train({"training_set"})
            stored.deployment.create_run(request, "training", dg.DagsterRunStatus.FAILURE)
    assert len(keys) == MAX_ATTEMPTS


def test_a_failed_training_is_retried_only_after_some_minutes(stored: Stored) -> None:
    stored.make_features(march(2))
    tick_sensor(stored, datetime.now(UTC) - timedelta(days=2))
    [request] = tick_sensor(stored, datetime.now(UTC))
    run = stored.deployment.start_run(request, job="training")
    assert tick_sensor(stored, datetime.now(UTC)) == []
    stored.deployment.finish_run(run, succeeded=False)
    assert tick_sensor(stored, datetime.now(UTC) + timedelta(minutes=1)) == []
    assert len(tick_sensor(stored, datetime.now(UTC) + RETRY_DELAY)) == 1


def test_a_training_that_succeeds_and_changes_nothing_is_not_repeated_before_the_next_time(stored: Stored) -> None:
    stored.make_features(march(2))
    tick_sensor(stored, datetime.now(UTC) - timedelta(days=2))
    [request] = tick_sensor(stored, datetime.now(UTC))
    stored.deployment.finish_run(stored.deployment.start_run(request, job="training"), succeeded=True)
    assert tick_sensor(stored, datetime.now(UTC) + timedelta(minutes=10)) == []
    assert len(tick_sensor(stored, datetime.now(UTC) + timedelta(hours=25))) == 1


def test_a_refused_day_does_not_hold_up_the_training_on_the_others(stored: Stored) -> None:
    stored.make_features(march(2))
    stored.check_features(passed=False)
    tick_sensor(stored, boston(march(4), "12:00"))
    assert len(tick_sensor(stored, boston(march(5), "06:35"))) == 1


def test_a_student_of_the_stored_features_is_not_trained_again_whatever_training_set_is_current(
    stored: Stored,
) -> None:
    registry = ModelRegistry(stored.deployment.settings.store)
    other = registry.put("training_set", Draft("training_set", {}, {"data_versions": {"2024-01-01": "another"}}))
    registry.make_current("training_set", other.digest)
    tick_sensor(stored, boston(march(4), "12:00"))
    assert tick_sensor(stored, boston(march(5), "06:35")) == []


def test_no_training_is_requested_while_features_are_being_made(stored: Stored) -> None:
    stored.make_features(march(2))
    tick_sensor(stored, boston(march(4), "12:00"))
    run = stored.start_run(march(3))
    assert tick_sensor(stored, boston(march(5), "06:35")) == []
    stored.deployment.finish_run(run, succeeded=True)
    assert len(tick_sensor(stored, boston(march(5), "06:40"))) == 1


def report_check(simulated: Simulated, name: str, passed: bool) -> None:
    """Report the result of a warning check of prediction_accuracy."""
    severity = dg.AssetCheckSeverity.WARN
    key = dg.AssetKey("prediction_accuracy")
    evaluation = dg.AssetCheckEvaluation(key, name, passed=passed, metadata={}, severity=severity)
    simulated.instance.report_runless_asset_event(evaluation)


def count_drift_requests(simulated: Simulated, hours: float) -> int:
    """Return how many trainings the drift sensor requests, so many hours from now."""
    with clock_at(datetime.now(UTC) + timedelta(hours=hours)):
        return len(simulated.deployment.tick("drift"))


@pytest.mark.parametrize("name", ["drift_within_bounds", "accuracy_within_bounds"])
def test_drift_trains_once_its_interval_is_over_and_not_again_before_another_warning(
    simulated: Simulated, name: str
) -> None:
    report_check(simulated, name, passed=True)
    assert count_drift_requests(simulated, 25) == 0
    report_check(simulated, name, passed=False)
    assert count_drift_requests(simulated, 1) == 0, "models were trained just now"
    assert count_drift_requests(simulated, 25) == 1
    simulated.train()
    assert count_drift_requests(simulated, 50) == 0
    report_check(simulated, name, passed=False)
    assert count_drift_requests(simulated, 50) == 1


def test_drift_does_not_request_a_cancelled_training_again_for_the_same_features(simulated: Simulated) -> None:
    simulated.make_features(march(1))
    report_check(simulated, "drift_within_bounds", passed=False)
    with clock_at(datetime.now(UTC) + timedelta(hours=25)):
        [request] = simulated.deployment.tick("drift")
    simulated.deployment.cancel_run(request, job="training")
    report_check(simulated, "drift_within_bounds", passed=False)
    assert count_drift_requests(simulated, 25) == 0
    simulated.make_features(march(2))
    report_check(simulated, "drift_within_bounds", passed=False)
    assert count_drift_requests(simulated, 25) == 1


def test_drift_trains_once_for_each_warning_though_the_training_failed(simulated: Simulated) -> None:
    report_check(simulated, "drift_within_bounds", passed=False)
    with clock_at(datetime.now(UTC) + timedelta(hours=25)):
        [request] = simulated.deployment.tick("drift")
    run = simulated.deployment.start_run(request, job="training")
    assert count_drift_requests(simulated, 25) == 0
    simulated.deployment.finish_run(run, succeeded=False)
    assert count_drift_requests(simulated, 26) == 0
    report_check(simulated, "drift_within_bounds", passed=False)
    assert count_drift_requests(simulated, 26) == 1
