"""The job that removes what nothing needs any more, and its schedule."""

import os
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import dagster as dg
import pytest

from mbta_assets.definitions import build_defs
from mbta_assets.settings import Settings
from mbta_assets.storage.bundle import Draft
from mbta_assets.storage.model_registry import ModelRegistry


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Return a store with four old versions of a model, of which the last is current."""
    registry = ModelRegistry(tmp_path)
    for number in range(4):
        stored = registry.put("model", Draft("toy", {"weights": bytes([number])}))
        registry.make_current("model", stored.digest)
        time = (datetime.now(UTC) - timedelta(days=9 - number)).timestamp()
        os.utime(stored.path, (time, time))
    return tmp_path


@pytest.mark.parametrize(("dry_run", "left"), [(True, 4), (False, 2)])
def test_the_job_lists_what_it_removes_and_in_a_dry_run_removes_nothing(store: Path, dry_run: bool, left: int) -> None:
    job = build_defs(Settings(store=store, keep_versions=1)).resolve_job_def("prune_versions")
    result = job.execute_in_process(run_config={"ops": {"prune": {"config": {"dry_run": dry_run}}}})
    [event] = result.filter_events(lambda event: event.is_successful_output)
    metadata = event.step_output_data.metadata
    assert metadata["count"].value == 2
    table = metadata["items"]
    assert isinstance(table, dg.TableMetadataValue)
    assert [record.data["age_days"] for record in table.records] == [8.0, 9.0]
    assert len(ModelRegistry(store).versions("model")) == left


@pytest.mark.parametrize(("automation", "status"), [("off", "STOPPED"), ("on", "RUNNING")])
def test_the_schedule_is_off_until_automation_is_on(tmp_path: Path, automation: str, status: str) -> None:
    settings = Settings.from_environment({"MBTA_STORE": str(tmp_path), "MBTA_AUTOMATION": automation})
    schedule = build_defs(settings).resolve_schedule_def("weekly_pruning")
    assert schedule.default_status == dg.DefaultScheduleStatus[status]
    with dg.build_schedule_context(scheduled_execution_time=datetime(2024, 3, 10, 15, tzinfo=UTC)) as context:
        assert len(schedule.evaluate_tick(context).run_requests or ()) == 1


def test_the_plots_of_old_trainings_go_with_their_runs(tmp_path: Path) -> None:
    plot = dg.MetadataValue.md("![plot](data:image/png;base64,)")

    @dg.asset
    def model() -> dg.MaterializeResult:
        return dg.MaterializeResult(metadata={"learning_curves": plot})

    @dg.asset(partitions_def=dg.StaticPartitionsDefinition(["2024-03-10"]))
    def table() -> None:
        """Have no plots, and stay."""

    job = build_defs(Settings(store=tmp_path, keep_plots=2)).resolve_job_def("prune_versions")
    assets = dg.Definitions(assets=[model, table]).resolve_implicit_global_asset_job_def()
    with dg.DagsterInstance.ephemeral() as instance:
        run = partial(assets.execute_in_process, instance=instance)
        run(asset_selection=[dg.AssetKey("table")], partition_key="2024-03-10")
        trainings = [run(asset_selection=[dg.AssetKey("model")]).run_id for _ in range(4)]
        for dry_run, kept in ((True, trainings), (False, trainings[2:])):
            config = {"ops": {"prune": {"config": {"dry_run": dry_run}}}}
            assert job.execute_in_process(run_config=config, instance=instance).success
            curves = instance.fetch_materializations(dg.AssetKey("model"), limit=10).records
            assert [record.run_id for record in curves] == kept[::-1]
        assert len(instance.fetch_materializations(dg.AssetKey("table"), limit=10).records) == 1
