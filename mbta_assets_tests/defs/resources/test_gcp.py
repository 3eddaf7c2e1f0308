"""The account of a deployment on Google Cloud is the one that its settings describe, and has no field of its own."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from mbta_assets.defs.resources.gcp import AccountResource
from mbta_assets.gcp.account import Account
from mbta_assets.settings import Settings

GCP: dict[str, Any] = {
    "deployment": "gcp",
    "gcp_project": "test-1",
    "bigquery_dataset": "transit",
    "gcs_bucket": "transit-models",
}
EVERY_FIELD: dict[str, Any] = {
    **GCP,
    "bigquery_location": "EU",
    "gcp_retry_seconds": 7,
    "google_application_credentials": Path("/keys/mbta.json"),
    "google_impersonate_service_account": "runner@test-1.iam.gserviceaccount.com",
    "bigquery_emulator_host": "http://127.0.0.1:1",
    "bigquery_storage_emulator_host": "127.0.0.1:2",
    "storage_emulator_host": "http://127.0.0.1:3",
}


@pytest.mark.parametrize(
    "given", [GCP, EVERY_FIELD, {**EVERY_FIELD, "wandb_mode": "online", "wandb_api_key": "S3CRET"}]
)
def test_the_resource_provides_the_account_of_the_settings(tmp_path: Path, given: dict[str, Any]) -> None:
    settings = Settings(store=tmp_path, **given)
    with dg.build_resources({"google": AccountResource.from_settings(settings)}) as resources:
        assert resources.google == Account.from_settings(settings)


def test_every_field_of_the_account_comes_from_a_setting(tmp_path: Path) -> None:
    account, default = (Account.from_settings(Settings(store=tmp_path, **given)) for given in (EVERY_FIELD, GCP))
    same = {field.name for field in fields(Account) if getattr(account, field.name) == getattr(default, field.name)}
    assert same == {"project"}


def test_the_configuration_repeats_no_field_of_the_account() -> None:
    assert set(AccountResource.model_fields) & {field.name for field in fields(Account)} == set()


def test_the_configuration_has_the_path_of_a_key_file_and_no_secret(tmp_path: Path) -> None:
    settings = Settings(store=tmp_path, **EVERY_FIELD, event_token="S3CRET-S3CRET-S3CRET-S3CRET-S3CRET")
    text = repr(AccountResource.from_settings(settings))
    assert "/keys/mbta.json" in text
    assert "S3CRET" not in text
