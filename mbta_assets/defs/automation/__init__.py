"""Jobs, schedules and sensors of a deployment.

Schedules run at set times (`schedules`), one sensor follows the source (`upstream`), others start training
(`retraining`), judge a candidate again (`live_evidence`) or notify people and services (`webhooks`, `check_alerts`).
What a run makes is defined by the assets.

Schedules and sensors that start runs are off until they are switched on in the UI, or all of them by MBTA_AUTOMATION;
those that only notify are on.
"""

import dagster as dg

from mbta_assets.defs.automation.check_alerts import checks_changed
from mbta_assets.defs.automation.jobs import JOBS
from mbta_assets.defs.automation.live_evidence import live_evidence
from mbta_assets.defs.automation.retraining import drift, retraining, unnoticed_changes, with_conditions
from mbta_assets.defs.automation.schedules import nightly, nightly_freshness, weekly_pruning, weekly_training
from mbta_assets.defs.automation.upstream import upstream_changes
from mbta_assets.defs.automation.webhooks import production_model_changed, run_failure
from mbta_assets.settings import Settings

__all__ = ["JOBS", "schedules", "sensors", "with_conditions"]


def schedules(settings: Settings) -> list[dg.ScheduleDefinition]:
    """Return the schedules of a deployment."""
    return [nightly(settings), nightly_freshness(settings), weekly_training(settings), weekly_pruning(settings)]


def sensors(settings: Settings) -> list[dg.SensorDefinition]:
    """Return the sensors of a deployment."""
    factories = (
        upstream_changes,
        retraining,
        unnoticed_changes,
        drift,
        live_evidence,
        run_failure,
        checks_changed,
        production_model_changed,
    )
    return [build_sensor(settings) for build_sensor in factories]
