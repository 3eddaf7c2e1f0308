"""The environment variables that a deployment may set, because something reads them."""

import re

from mbta_assets.settings import VARIABLES, AgencySettings, Settings
from mbta_assets_tests.support.dagster_dev import ROOT

INSTANCE_FILES = ("deploy/postgres.yaml", "deploy/google-cloud.yaml")
OTHER_VARIABLES = {
    "DAGSTER_HOME",
    "DAGSTER_WEBSERVER_READ_ONLY",  # click reads it as the webserver's option
    "FUNCTION_TARGET",  # functions-framework
    "POSTGRES_DB",  # the image of PostgreSQL
    "POSTGRES_PASSWORD",
    "POSTGRES_USER",
}
AGENCY_VARIABLES = {
    str(field.validation_alias) for name, field in AgencySettings.model_fields.items() if name != "accuracy_bounds"
}
"""Settings that say which agency it is, but for a file of which only the asset checks read the content."""
PREDICTOR_VARIABLES = AGENCY_VARIABLES | {str(Settings.model_fields["refresh_seconds"].validation_alias)}
"""Settings of a deployment that the predictor reads, besides the place of its model."""


def list_variables() -> set[str]:
    """Return the names of the settings, of the variables that the instance files name, and of a few others."""
    of_instances = {name for path in INSTANCE_FILES for name in re.findall(r"env: (\w+)", (ROOT / path).read_text())}
    assert of_instances
    return {entry.name for entry in VARIABLES} | of_instances | OTHER_VARIABLES
