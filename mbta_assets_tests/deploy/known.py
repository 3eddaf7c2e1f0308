"""What may be set in a deployment: variables that somebody reads."""

import re

from mbta_assets.settings import VARIABLES
from mbta_assets_tests.support.dagster_dev import ROOT

INSTANCES = ("deploy/postgres.yaml", "deploy/google-cloud.yaml")
OTHERS = {
    "DAGSTER_HOME",
    "DAGSTER_WEBSERVER_READ_ONLY",  # click reads it as the webserver's option
    "FUNCTION_TARGET",  # functions-framework
    "POSTGRES_DB",  # the image of PostgreSQL
    "POSTGRES_PASSWORD",
    "POSTGRES_USER",
}


def variables() -> set[str]:
    """The names of settings, of what the instances' configuration takes from the environment, and of a few others."""
    of_instances = {name for path in INSTANCES for name in re.findall(r"env: (\w+)", (ROOT / path).read_text())}
    assert of_instances
    return {one.name for one in VARIABLES} | of_instances | OTHERS
