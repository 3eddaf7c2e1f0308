"""An explanation adds up to the prediction, for each input once."""

import numpy as np
import pytest

from mbta_assets.ml.inference.explanation import GROUPS, QUESTION, explain
from mbta_assets.ml.inference.model import Model
from mbta_assets.ml.inference.vehicle_state import STATE_NAMES
from mbta_assets.ml.training import dataset
from mbta_assets.transit import schema
from mbta_assets_tests.serving.conftest import TrainedModels, trained_models

__all__ = ["trained_models"]


def test_each_model_input_is_asked_or_in_one_group() -> None:
    of_lookup = schema.columns_with_role(schema.TransitFeatures, "lookup")
    inputs = [*dataset.NUMERIC_FEATURES, *dataset.CATEGORICAL_FEATURES, *of_lookup]
    explained = [*QUESTION, *(name for names in GROUPS.values() for name in names)]
    assert sorted(explained) == sorted(inputs)


def test_contributions_add_up_to_the_prediction(trained_models: TrainedModels) -> None:
    model = Model(trained_models.bundles[0])
    rows = trained_models.last_day.sample(200, random_state=0)
    predicted, lookup = model.predict(rows), model.preprocessor.lookup.predict_delay(rows)
    states, sources, largest = set(), set(), dict.fromkeys(GROUPS, 0.0)
    for place in range(len(rows)):
        explanation = explain(model, {str(name): rows[name].to_numpy()[[place]] for name in rows})
        assert explanation.delay_seconds == pytest.approx(predicted[place], abs=1e-3)
        total = explanation.known_at_first + sum(explanation.contributions.values())
        assert total == pytest.approx(explanation.delay_seconds, abs=1e-6)
        assert explanation.lookup.delay_seconds == lookup[place]
        ahead = float(rows["scheduled_seconds_ahead"].iloc[place])
        entry = explanation.lookup
        if not np.isnan(entry.run_time_seconds):
            assert max(entry.run_time_seconds - entry.elapsed_seconds, 0) - ahead == pytest.approx(lookup[place])
        states.add(entry.state)
        sources.add(entry.source)
        for group, seconds in explanation.contributions.items():
            largest[group] = max(largest[group], abs(seconds))
    assert states <= set(STATE_NAMES) and len(states) >= 3
    assert len(sources) >= 2
    assert min(largest.values()) > 0.1


def test_what_is_not_known_adds_nothing(trained_models: TrainedModels) -> None:
    model, rows = Model(trained_models.bundles[0]), trained_models.last_day
    unseen = rows[rows["leader_headway_seconds"].isna() & rows["platform_headway_seconds"].isna()][:1]
    explanation = explain(model, {str(name): unseen[name].to_numpy() for name in unseen})
    assert explanation.contributions["vehicles ahead"] == 0
