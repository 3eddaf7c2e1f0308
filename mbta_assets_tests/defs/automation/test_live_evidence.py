"""A candidate that waits for live evidence is judged again after new predictions, once, and while nothing else runs."""

from collections.abc import Iterator
from datetime import date
from pathlib import Path

import dagster as dg
import pytest

from mbta_assets.defs.dagster_internals import RUN_KEY_TAG
from mbta_assets.settings import Settings
from mbta_assets_tests.defs.automation.conftest import Deployment
from mbta_assets_tests.defs.production import test_promotion as promotion
from mbta_assets_tests.defs.production.test_promotion import ANY_LATENCY, NAME, make_linear_model, store_live_day

SENSOR, JOB = "live_evidence", "judge_candidate"
ARRIVALS = 60


@pytest.fixture
def deployment(tmp_path: Path, instance: dg.DagsterInstance) -> Deployment:
    """Return a deployment that asks for live evidence."""
    return Deployment(Settings(store=tmp_path / "store", live_arrivals=ARRIVALS), instance)


@pytest.fixture(scope="module")
def promoted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[promotion.Deployment]:
    """Yield models of which one is in production, and a better one waits in its shadow; tests must not change them."""
    with dg.DagsterInstance.ephemeral() as instance:
        models = promotion.Deployment(tmp_path_factory.mktemp("promoted"), instance)
        models.live_arrivals = ARRIVALS
        models.promote(make_linear_model(0.5))
        models.promote(make_linear_model(0.9))
        assert models.shadow_digest
        yield models


@pytest.fixture
def models(promoted: promotion.Deployment, deployment: Deployment) -> promotion.Deployment:
    """Return those models as the deployment's own."""
    models = promotion.Deployment(deployment.settings.store, deployment.instance)
    models.live_arrivals = ARRIVALS
    promotion.copy_deployment(promoted, models)
    return models


def predict_day(models: promotion.Deployment, day: date, candidate_error: float = 10) -> None:
    """Make the predictions of a service day."""
    store_live_day(models, day, candidate_error, production_error=20)
    models.instance.report_runless_asset_event(dg.AssetMaterialization("delay_predictions", partition=str(day)))


def judge(deployment: Deployment, request: dg.RunRequest) -> None:
    """Execute a request in this process."""
    result = deployment.defs.resolve_job_def(JOB).execute_in_process(
        run_config={"ops": {NAME: {"config": ANY_LATENCY}}},
        instance=deployment.instance,
        tags={**request.tags, RUN_KEY_TAG: str(request.run_key)},
    )
    assert result.success
    assert {event.asset_key for event in result.get_asset_materialization_events()} == {dg.AssetKey(NAME)}


def test_each_day_of_predictions_is_one_judgement_until_the_candidate_is_promoted(
    deployment: Deployment, models: promotion.Deployment
) -> None:
    candidate = models.shadow_digest
    assert deployment.tick(SENSOR) == [], "it has just been judged"
    predict_day(models, date(2024, 3, 6))
    [request] = deployment.tick(SENSOR)
    judge(deployment, request)
    assert models.shadow_digest == candidate != models.current_digest, "40 arrivals are too few"
    assert deployment.tick(SENSOR) == []
    predict_day(models, date(2024, 3, 7))
    [request] = deployment.tick(SENSOR)
    judge(deployment, request)
    assert models.current_digest == candidate and models.shadow_digest is None
    predict_day(models, date(2024, 3, 8))
    assert deployment.tick(SENSOR) == [], "no candidate waits"


def test_a_candidate_that_is_worse_live_leaves_the_shadow_and_is_not_judged_again(
    deployment: Deployment, models: promotion.Deployment
) -> None:
    production = models.current_digest
    for day in (date(2024, 3, 6), date(2024, 3, 7)):
        predict_day(models, day, candidate_error=30)
    [request] = deployment.tick(SENSOR)
    judge(deployment, request)
    assert models.current_digest == production and models.shadow_digest is None
    predict_day(models, date(2024, 3, 8))
    assert deployment.tick(SENSOR) == []


@pytest.mark.parametrize("job", ["training", "service_day", "daily_predictions", JOB])
def test_a_candidate_is_not_judged_while_models_predictions_or_decisions_are_made(
    deployment: Deployment, models: promotion.Deployment, job: str
) -> None:
    predict_day(models, date(2024, 3, 6))
    run = deployment.start_run(dg.RunRequest(), job)
    assert deployment.tick(SENSOR) == []
    deployment.finish_run(run, succeeded=False)
    assert len(deployment.tick(SENSOR)) == 1


def test_a_judgement_that_fails_is_repeated_after_the_next_predictions(
    deployment: Deployment, models: promotion.Deployment
) -> None:
    for day in (date(2024, 3, 6), date(2024, 3, 7)):
        predict_day(models, day)
        [request] = deployment.tick(SENSOR)
        deployment.finish_run(deployment.start_run(request, JOB), succeeded=False)
        assert deployment.tick(SENSOR) == []


def test_without_the_setting_a_candidate_is_not_promoted_without_the_evidence_it_waits_for(
    deployment: Deployment, models: promotion.Deployment
) -> None:
    predict_day(models, date(2024, 3, 6))
    without = Deployment(Settings(store=deployment.settings.store), deployment.instance)
    assert without.tick(SENSOR) == []
    assert "MBTA_LIVE_ARRIVALS is 0" in str(without.evaluate(SENSOR).skip_message)
