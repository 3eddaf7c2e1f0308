"""The run-time lookup as a baseline: departure plus the median run time, without a learned model."""

from dataclasses import dataclass
from typing import Any

from mbta_assets.ml.evaluation import metrics
from mbta_assets.ml.inference.run_time import FIT_COLUMNS, LOOKUP_FILE, MedianRunTime
from mbta_assets.ml.training.dataset import LEARNED_PARTS, make_provenance, read_rows, select_labelled
from mbta_assets.storage.bundle import Bundle, Draft


@dataclass(frozen=True)
class FittedLookup:
    """A lookup fitted on the training and validation parts, and its errors on validation when fitted on training."""

    lookup: MedianRunTime
    validation: dict[str, Any]
    """Errors in seconds; see `metrics.compute_errors`."""

    def draft(self, training_set: Bundle) -> Draft:
        """Return the bundle."""
        fields = {**make_provenance(training_set), "validation": self.validation}
        return Draft("runtime_lookup", {LOOKUP_FILE: self.lookup.to_bytes()}, fields)


def fit_runtime_lookup(training_set: Bundle) -> FittedLookup:
    """Fit the lookup on a stored training set, whose test part stays unseen. Raises TrainingSetError if it is old."""
    rows = read_rows(training_set, ["part", *FIT_COLUMNS], LEARNED_PARTS)
    validation = select_labelled(rows, "validation")
    held_out = MedianRunTime.fit(select_labelled(rows, "train")).predict_delay(validation)
    errors = metrics.compute_errors(validation["delay_seconds"].to_numpy(), held_out)
    return FittedLookup(MedianRunTime.fit(select_labelled(rows, "train", "validation")), errors)
