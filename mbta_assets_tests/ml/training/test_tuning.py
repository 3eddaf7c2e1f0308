"""The search: the same winner whatever order results arrive in."""

import itertools
import random

import pytest

from mbta_assets.ml.training import tuning
from mbta_assets.ml.training.tuning import Halving
from mbta_assets_tests.ml.training.conftest import RayCluster

CURVES = [[9, 8, 7, 6], [5, 5, 5, 5], [7, 7, 2, 1], [6, 6, 6, 6], [4, 4, 4, 4], [8, 8, 8, 0]]
HALVING = Halving(grace=1, factor=2, steps=4)


def play(seed: int) -> list[int]:
    """How many steps each trial is good for, when two workers report in a random order."""
    order = random.Random(seed)
    seen: list[list[float]] = [[] for _ in CURVES]
    ended = [False] * len(CURVES)
    waiting, running = list(range(len(CURVES))), []
    while waiting or running:
        while waiting and len(running) < 2:
            running.append(waiting.pop(0))
        index = order.choice(running)
        seen[index].append(CURVES[index][len(seen[index])])
        stopped = HALVING.judged(seen, ended)[index] is not None
        if stopped or len(seen[index]) == HALVING.steps:
            ended[index] = True
            running.remove(index)
    stops = HALVING.judged(seen, [True] * len(CURVES))
    return [len(curve[:stop]) for curve, stop in zip(seen, stops, strict=True)]


def test_trials_are_cut_at_the_same_steps_in_any_order():
    outcomes = {tuple(play(seed)) for seed in range(50)}
    assert len(outcomes) == 1
    lengths = outcomes.pop()
    assert min(lengths) < HALVING.steps == max(lengths)


def test_the_best_at_every_rung_is_never_cut():
    for curves in itertools.permutations(CURVES[:4]):
        stops = HALVING.judged(list(curves), [True] * 4)
        assert stops[curves.index(CURVES[1])] is None or min(CURVES[1]) > min(min(c) for c in curves)


@pytest.mark.integration
@pytest.mark.xdist_group("ray")
@pytest.mark.timeout(180)
def test_ray_runs_the_trials_and_reports_what_failed():
    def countdown(configuration, data, report):
        for step in range(8):
            report(data[configuration["name"]] - step * configuration["slope"])

    def fails(configuration, data, report):
        raise ValueError("no such column")

    configurations = [{"name": "a", "slope": 1}, {"name": "b", "slope": 2}, {"name": "a", "slope": 3}]
    halving = Halving(grace=2, factor=2, steps=8)
    with tuning.ray_session(None):
        results = tuning.search(countdown, configurations, {"a": 100.0, "b": 90.0}, halving)
        assert tuning.winner(results).index == 1
        assert results[1].curve == [90.0 - 2 * step for step in range(8)]
        only = configurations[1:2]
        assert tuning.search(countdown, only, {"b": 90.0}, halving) == tuning.alone(countdown, only[0], {"b": 90.0})
        with pytest.raises(RuntimeError, match="no such column"):
            tuning.search(fails, configurations[:1], None, halving)
    with pytest.raises(RuntimeError, match="no such column"):
        tuning.alone(fails, configurations[0], None)


@pytest.mark.xdist_group("ray")
@pytest.mark.timeout(180)
def test_ray_calls_side_by_side_and_keeps_the_order(ray: RayCluster) -> None:
    assert tuning.each(lambda item, data: data[item], ["b", "a", "b"], {"a": 1, "b": 2}) == [2, 1, 2]
