"""What runs by itself, or under one name.

In this room: jobs, the schedules of nights and weeks (`schedules`), the sensor that follows the source (`upstream`),
when models are trained again (`retraining`), and who is told (`webhooks`). Not here: what is made, and how.

Schedules and sensors that start runs are off until they are switched on in the UI, or all of them by MBTA_AUTOMATION;
those that only tell somebody are on.
"""

import dagster as dg

from mbta_assets.defs.automation.jobs import JOBS
from mbta_assets.defs.automation.retraining import drift, retraining, unnoticed_changes, with_conditions
from mbta_assets.defs.automation.schedules import nightly, weekly_training
from mbta_assets.defs.automation.upstream import upstream_changes
from mbta_assets.defs.automation.webhooks import production_model_changed, run_failure
from mbta_assets.settings import Settings

__all__ = ["JOBS", "schedules", "sensors", "with_conditions"]


def schedules(settings: Settings) -> list[dg.ScheduleDefinition]:
    """The schedules of a deployment."""
    return [nightly(settings), weekly_training(settings)]


def sensors(settings: Settings) -> list[dg.SensorDefinition]:
    """The sensors of a deployment."""
    makers = (upstream_changes, retraining, unnoticed_changes, drift, run_failure, production_model_changed)
    return [make(settings) for make in makers]
