"""The versions that a step reads belong together, whatever was trained before and whatever the order of inputs."""

import random
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbta_assets.storage.provenance import MixedVersions, Origin, list_inputs, merge_inputs, resolve_inputs

GRAPH = {
    "training_set": (),
    "runtime_lookup": ("training_set",),
    "xgboost_model": ("training_set", "runtime_lookup"),
    "dnn_teacher": ("training_set", "runtime_lookup"),
    "pruned_teacher": ("training_set", "runtime_lookup", "dnn_teacher"),
    "distilled_student": ("training_set", "runtime_lookup", "xgboost_model", "dnn_teacher", "pruned_teacher"),
    "quantized_student": ("training_set", "runtime_lookup", "distilled_student"),
}
"""Assets in topological order, with their inputs."""


@dataclass
class Store:
    """Versions of the assets, what each was made from, and the current ones."""

    inputs: dict[tuple[str, str], Mapping[str, str]] = field(default_factory=dict)
    current: dict[str, str] = field(default_factory=dict)

    def resolve(self, asset: str, pinned: Mapping[str, str], assets: list[str] | None = None) -> dict[str, Origin]:
        """Resolve the inputs of an asset."""
        named = GRAPH[asset] if assets is None else assets
        return resolve_inputs(
            named, pinned, self.current.get, lambda name, digest: self.inputs[name, digest], consumer=asset
        )

    def make(self, asset: str, pinned: dict[str, str]) -> str:
        """Make a version of an asset in a run that has made the pinned ones. Raises MixedVersions."""
        digest = f"{asset} {len(self.inputs)}"
        self.inputs[asset, digest] = merge_inputs(self.resolve(asset, pinned), asset)
        self.current[asset] = pinned[asset] = digest
        return digest


@given(st.lists(st.sampled_from([*"12", *GRAPH]), max_size=40))
def test_trainings_at_once_and_single_steps_never_mix_versions(schedule: list[str]) -> None:
    """Runs 1 and 2 make all assets, now the one a step and now the other, and between them runs make one asset each."""
    store = Store()
    runs: dict[str, dict[str, str]] = {"1": {}, "2": {}}
    for step in (*schedule, *"12" * len(GRAPH)):
        if step in GRAPH:
            with suppress(MixedVersions):
                store.make(step, {})
        elif len(runs[step]) < len(GRAPH):
            store.make(list(GRAPH)[len(runs[step])], runs[step])
    for (_, digest), inputs in store.inputs.items():
        for name, other in inputs.items():
            assert store.inputs[name, other].items() <= inputs.items(), f"{digest} mixes versions with {other}"
    for run in runs.values():
        for asset in GRAPH:
            assert store.inputs[asset, run[asset]].items() <= run.items(), "a run reads what it has made"


@given(st.randoms(use_true_random=False), st.data())
def test_the_order_of_inputs_does_not_matter(shuffler: random.Random, data: st.DataObject) -> None:
    store = Store()
    for _ in range(data.draw(st.integers(1, 3))):
        run: dict[str, str] = {}
        for asset in list(GRAPH)[: data.draw(st.integers(1, len(GRAPH)))]:
            store.make(asset, run)
    pinned = data.draw(st.sampled_from([{}, run]))
    for asset, inputs in GRAPH.items():
        outcomes: list[object] = []
        for _ in range(3):
            shuffled = shuffler.sample(inputs, len(inputs))
            try:
                outcomes.append(store.resolve(asset, pinned, shuffled))
            except MixedVersions as error:
                outcomes.append(str(error))
        assert outcomes[0] == outcomes[1] == outcomes[2]


def make_two_trainings() -> Store:
    """Return a store in which a second training has got as far as the trees."""
    store = Store()
    first: dict[str, str] = {}
    for asset in GRAPH:
        store.make(asset, first)
    second: dict[str, str] = {}
    for asset in ("training_set", "runtime_lookup", "xgboost_model"):
        store.make(asset, second)
    return store


def test_a_step_on_its_own_follows_what_its_most_derived_input_was_made_from() -> None:
    store = make_two_trainings()
    resolved = store.resolve("quantized_student", {})
    assert resolved["distilled_student"].digest == store.current["distilled_student"]
    assert resolved["training_set"].digest == "training_set 0" != store.current["training_set"]


def test_a_mix_is_an_error_that_names_both_inputs_both_versions_and_the_command() -> None:
    store = make_two_trainings()
    with pytest.raises(MixedVersions) as error:
        store.resolve("distilled_student", {})
    assert str(error.value) == (
        "distilled_student would mix two versions of training_set: pruned_teacher was made from version "
        "training_set 0, and xgboost_model was made from version training_set 7. Make everything from "
        "training_set on in one run: dagster asset materialize -m mbta_assets.definitions "
        "--select 'training_set+ and +distilled_student'"
    )


def test_an_input_without_any_version_is_left_out() -> None:
    assert Store().resolve("runtime_lookup", {}) == {}


def test_a_manifest_without_inputs_names_its_training_set() -> None:
    assert list_inputs({"training_set": "abc", "inputs": {"training_set": "def", "a": "b"}}) == {
        "training_set": "def",
        "a": "b",
    }
    assert list_inputs({"training_set": "abc"}) == {"training_set": "abc"}
    assert list_inputs({}) == {}
