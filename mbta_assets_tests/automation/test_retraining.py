"""Models follow the features: when a user would expect it, whole, and not more often."""

from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import dagster as dg
import pytest
from dagster._core.definitions.data_version import DATA_VERSION_TAG

from mbta_assets.automation.retraining import LEARNED
from mbta_assets_tests.automation.conftest import Deployment

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
TICKS = ["03:30", "05:30", "06:01", "06:02", "06:03", "08:00", "12:00", "12:01", "18:00"]
"""When conditions are evaluated on each day of the month; the hour of MBTA_RETRAIN_AT is 6."""


class Simulated:
    """A deployment whose clock is moved, and in which features and models are stored without being made."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        self.instance = deployment.instance
        self.cursor = None
        self.stored = 0

    def store(self, asset: str, version: str | None = None, partition: str | None = None) -> None:
        """Store an asset, by default with content that it never had."""
        self.stored += 1
        version = version or f"version {self.stored}"
        event = dg.AssetMaterialization(asset, partition=partition, tags={DATA_VERSION_TAG: version})
        self.instance.report_runless_asset_event(event)

    def features(self, *days: date, version: str | None = None) -> None:
        for service_date in days:
            self.store("transit_features", version, str(service_date))

    def check(self, passed: bool) -> None:
        evaluation = dg.AssetCheckEvaluation(dg.AssetKey("transit_features"), "schema_holds", passed=passed, metadata={})
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
    (6, "night without changes", {}),
    (7, "night that a check rejects", {}),
    (8, "night", {"06:01": WHOLE}),
    (9, "night, training fails", {"06:01": WHOLE}),
    (10, "no night", {"06:01": WHOLE}),
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
            simulated.features(yesterday, version="the same" if "without" in what else None)
            simulated.features(yesterday - timedelta(days=1), version="the same")
            simulated.check(passed="rejects" not in what)
        if what == "two nights":
            simulated.features(yesterday, yesterday - timedelta(days=1))
        if "from 5 to 8" in what:
            backfill += [simulated.begin(day) for day in month_before]
    if "from 5 to 8" in what:
        share = {"06:01": 10, "06:02": 5, "06:03": 5, "08:00": 10}.get(clock, 0)
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
    simulated.features(*(march(1) - timedelta(days=n) for n in range(1, 70)), version="the same")
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
    for hour in range(40):
        trainings += bool(asked := simulated.tick(clock + timedelta(hours=hour)))
        simulated.train(asked)
    assert trainings == 1


def test_the_sensor_asks_for_the_whole_chain_in_one_run_with_its_checks(simulated: Simulated) -> None:
    deployment = simulated.deployment
    sensor = deployment.defs.resolve_sensor_def("retraining")
    cursor, requests = None, []
    for clock in ("05:30", "05:59", "06:01"):
        if clock == "05:59":
            simulated.features(march(1))
        with (
            deployment.at(boston(march(4), clock)),
            dg.build_sensor_context(
                deployment.instance,
                cursor,
                repository_def=deployment.defs.get_repository_def(),
                sensor_name="retraining",
            ) as context,
        ):
            said = sensor.evaluate_tick(context)
            cursor = said.cursor
            requests.append(said.run_requests or [])
    assert [len(requested) for requested in requests] == [0, 0, 1]
    [request] = requests[-1]
    assert {key.to_user_string() for key in request.asset_selection} == CHAIN
    assert request.asset_check_keys is None or {"parity_holds", "models_beat_the_lookup"} <= {
        key.name for key in request.asset_check_keys
    }


def moment(hours: float) -> datetime:
    """So long after this test's beginning."""
    return datetime.now(UTC) + timedelta(hours=hours)


UNUSED: Callable | None = None
