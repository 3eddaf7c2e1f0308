"""The IO manager of bundles: a run reads what it has made, and every manifest names what its bundle was made from."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from mbta_assets.defs.dagster_internals import DATA_VERSION_TAG
from mbta_assets.defs.io_managers import BundleIOManager
from mbta_assets.defs.io_managers.pins import INPUTS_LAUNCH, LAUNCH_TAG
from mbta_assets.storage.bundle import Bundle, Draft
from mbta_assets.storage.model_registry import ModelRegistry


class Source(dg.ConfigurableResource):
    """What the training set is made of, and whether the model can be made."""

    content: str = "a"
    broken: bool = False


@dg.asset(io_manager_key="bundles")
def training_set(source: Source) -> Draft:
    return Draft("toy", {"rows": source.content.encode()})


@dg.asset(io_manager_key="bundles")
def runtime_lookup(training_set: Bundle) -> Draft:
    return Draft("toy", {"lookup": training_set.file("rows")})


@dg.asset(io_manager_key="bundles")
def model(source: Source, training_set: Bundle, runtime_lookup: Bundle) -> Draft:
    if source.broken:
        raise RuntimeError("no model")
    return Draft("toy", {"weights": training_set.file("rows") + runtime_lookup.file("lookup")})


ASSETS = [training_set, runtime_lookup, model]


class Deployment:
    """A registry, an instance, and runs of the assets."""

    def __init__(self, root: Path, instance: dg.DagsterInstance) -> None:
        self.registry, self.instance = ModelRegistry(root), instance

    def build_defs(self, **source: Any) -> dg.Definitions:
        """Return the definitions."""
        resources = {"source": Source(**source), "bundles": BundleIOManager(model_registry=self.registry)}
        return dg.Definitions(ASSETS, resources=resources)

    def run(self, *selection: str, **source: Any) -> dg.ExecuteInProcessResult:
        """Materialize some assets."""
        job = self.build_defs(**source).resolve_implicit_global_asset_job_def()
        keys = [dg.AssetKey(name) for name in selection]
        return job.execute_in_process(instance=self.instance, asset_selection=keys, raise_on_error=False)

    def read_model(self) -> bytes:
        """Return the content of the current model."""
        return self.registry.current("model").file("weights")


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    """Yield a deployment without any version."""
    with dg.DagsterInstance.ephemeral() as instance:
        yield Deployment(tmp_path, instance)


def get_digests(result: dg.ExecuteInProcessResult) -> dict[str, str]:
    """Return the digest of each asset that a run has made."""
    events = result.filter_events(lambda event: event.is_step_materialization)
    made = [event.step_materialization_data.materialization for event in events]
    return {event.asset_key.path[-1]: (event.tags or {})[DATA_VERSION_TAG] for event in made}


def test_a_manifest_names_everything_that_a_bundle_was_made_from(deployment: Deployment) -> None:
    made = get_digests(deployment.run("training_set", "runtime_lookup", "model"))
    inputs = {asset: deployment.registry.current(asset).manifest["inputs"] for asset in made}
    assert inputs["training_set"] == {}
    assert inputs["runtime_lookup"] == {"training_set": made["training_set"]}
    assert inputs["model"] == {name: made[name] for name in ("training_set", "runtime_lookup")}


def test_the_same_content_of_the_same_inputs_gives_the_same_digest(deployment: Deployment) -> None:
    first, second = (get_digests(deployment.run("training_set", "runtime_lookup", "model")) for _ in range(2))
    assert first == second


def test_a_run_reads_what_it_has_made_though_another_run_moves_the_pointers(deployment: Deployment) -> None:
    deployment.run("training_set", "runtime_lookup", "model", content="b")
    other = {asset: deployment.registry.current_digest(asset) or "" for asset in ("training_set", "runtime_lookup")}

    @dg.asset(io_manager_key="bundles", name="runtime_lookup")
    def overtaken_lookup(training_set: Bundle) -> Draft:
        for asset, digest in other.items():
            deployment.registry.make_current(asset, digest)
        return Draft("toy", {"lookup": training_set.file("rows")})

    @dg.asset(io_manager_key="bundles", name="model", deps=[overtaken_lookup])
    def overtaken_model(training_set: Bundle, runtime_lookup: Bundle) -> Draft:
        return Draft("toy", {"weights": training_set.file("rows") + runtime_lookup.file("lookup")})

    resources = {"source": Source(content="c"), "bundles": BundleIOManager(model_registry=deployment.registry)}
    assets = [training_set, overtaken_lookup, overtaken_model]
    result = dg.materialize(assets, resources=resources, instance=deployment.instance)
    assert deployment.read_model() == b"cc"
    made = get_digests(result)
    model_inputs = deployment.registry.current("model").manifest["inputs"]
    assert model_inputs == {name: made[name] for name in ("training_set", "runtime_lookup")}


def build_job() -> dg.JobDefinition:
    """Return the job of all assets, as the variables of this process describe it."""
    registry = ModelRegistry(Path(os.environ["REGISTRY"]))
    source = Source(content=os.environ["CONTENT"], broken="BROKEN" in os.environ)
    resources = {"source": source, "bundles": BundleIOManager(model_registry=registry)}
    jobs = [dg.define_asset_job("everything"), dg.define_asset_job("inputs", ["training_set", "runtime_lookup"])]
    defs = dg.Definitions(ASSETS, resources=resources, jobs=jobs, executor=dg.in_process_executor)
    return defs.resolve_job_def(os.environ["JOB"])


def test_a_run_that_is_executed_again_from_its_failure_reads_what_it_had_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def execute(job: str, content: str, again: str = "", **variables: str) -> dg.JobExecutionResult:
        """Execute a job, or only the model of a run that is executed again."""
        with monkeypatch.context() as environment:
            for name, value in {"REGISTRY": str(tmp_path), "JOB": job, "CONTENT": content, **variables}.items():
                environment.setenv(name, value)
            options = dg.ReexecutionOptions(again, step_selection=["model"]) if again else None
            return dg.execute_job(dg.reconstructable(build_job), instance, reexecution_options=options)

    with dg.instance_for_test() as instance:
        failed = execute("everything", "a", BROKEN="yes")
        assert not failed.success
        execute("inputs", "b")
        second = execute("everything", "b", failed.run_id)
        assert ModelRegistry(tmp_path).current("model").file("weights") == b"aa"
        execute("inputs", "c")
        assert execute("everything", "c", second.run_id).success
        assert ModelRegistry(tmp_path).current("model").file("weights") == b"aa"


def test_a_step_of_a_pipeline_reads_what_the_records_of_its_inputs_name(deployment: Deployment) -> None:
    made = get_digests(deployment.run("training_set", "runtime_lookup", content="a"))
    deployment.run("training_set", "runtime_lookup", content="b")
    with dg.DagsterInstance.ephemeral() as instance:
        for asset, digest in made.items():
            tags = {DATA_VERSION_TAG: digest, LAUNCH_TAG: INPUTS_LAUNCH}
            instance.report_runless_asset_event(dg.AssetMaterialization(asset, tags=tags))
        assert Deployment(deployment.registry.root, instance).run("model").success
    assert deployment.read_model() == b"aa"


def test_what_a_pipeline_has_reported_to_the_instance_of_a_deployment_pins_nothing(deployment: Deployment) -> None:
    made = get_digests(deployment.run("training_set", "runtime_lookup", content="a"))
    deployment.run("training_set", "runtime_lookup", content="b")
    for asset, digest in made.items():
        tags = {DATA_VERSION_TAG: digest, LAUNCH_TAG: "local-0123"}
        deployment.instance.report_runless_asset_event(dg.AssetMaterialization(asset, tags=tags))
    assert deployment.run("model").success
    assert deployment.read_model() == b"bb"


def test_a_step_that_would_mix_versions_fails_with_the_command_and_stores_nothing(deployment: Deployment) -> None:
    first = get_digests(deployment.run("training_set", "runtime_lookup", "model", content="a"))
    result = deployment.run("training_set", "model", content="b")
    [failure] = [event for event in result.all_events if event.is_step_failure]
    error = failure.step_failure_data.error
    assert error is not None
    message = (error.cause or error).message
    assert f"runtime_lookup was made from version {first['training_set'][:16]}" in message
    assert "--select 'training_set+ and +model'" in message
    assert deployment.registry.history("model") == [first["model"]]
