"""Live evidence: when a candidate that waits for it is judged again.

What a candidate predicts in the shadow becomes evidence once `delay_predictions` of the service day are made. How much
of it the gate asks for is MBTA_LIVE_ARRIVALS, and what it decides is up to `production_model`.
"""

import dagster as dg

from mbta_assets.defs.automation.jobs import default_sensor_status, judge_candidate
from mbta_assets.defs.automation.runs import (
    PREDICTIONS,
    is_training_run,
    judges_candidate,
    list_unfinished_runs,
    makes_predictions,
)
from mbta_assets.defs.production import promotion
from mbta_assets.settings import Settings
from mbta_assets.storage.model_registry import SHADOW_MODEL, ModelRegistry

PRODUCTION_MODEL = dg.AssetKey(promotion.ASSET)


def live_evidence(settings: Settings) -> dg.SensorDefinition:
    """Return the sensor that judges a candidate in the shadow again."""

    @dg.sensor(
        name="live_evidence",
        job=judge_candidate,
        default_status=default_sensor_status(settings),
        minimum_interval_seconds=300,
        description="Judge the candidate that waits for live evidence again, if predictions of a service day were made "
        "after the latest decision.",
    )
    def sensor(
        context: dg.SensorEvaluationContext, model_registry: dg.ResourceParam[ModelRegistry]
    ) -> dg.RunRequest | dg.SkipReason:
        candidate = model_registry.current_digest(SHADOW_MODEL)
        if candidate is None:
            return dg.SkipReason("No candidate waits for live evidence.")
        if not settings.live_arrivals:
            return dg.SkipReason(
                f"MBTA_LIVE_ARRIVALS is 0, with which {candidate[:16]} would be promoted without the evidence that it "
                "waits for. Set it, or materialize production_model with live_arrivals."
            )
        predicted = context.instance.get_latest_materialization_event(PREDICTIONS)
        decided = context.instance.get_latest_materialization_event(PRODUCTION_MODEL)
        if predicted is None or (decided is not None and predicted.timestamp <= decided.timestamp):
            return dg.SkipReason("No predictions of a service day were made since the latest decision.")
        runs = list_unfinished_runs(context.instance)
        if any(is_training_run(run) or judges_candidate(run) or makes_predictions(run) for run in runs):
            return dg.SkipReason("Predictions are being made, models trained, or a candidate judged.")
        return dg.RunRequest(run_key=f"live evidence {candidate[:16]} {predicted.timestamp}")

    return sensor
