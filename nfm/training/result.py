"""Results of a training: the fitted weights, and the model with its metrics."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras

from nfm.config.settings import Config
from nfm.contract.profile import Profile
from nfm.contract.schema import Spec
from nfm.training.model import Weights
from nfm.training.step import Measure
from nfm.training.unit import Unit


@dataclass(frozen=True)
class Fitted:
    """Fitted weights and the history of the training."""

    weights: Weights  # of the best epoch, in the unit of the training; `unit.publish` converts them
    unit: Unit
    # Values by epoch, in the published unit: loss, learning_rate, each metric of the task with the prefix val_, and the
    # monitored metric
    history: Mapping[str, list[float]]
    best_epoch: int  # counted from 1
    constant: tuple[float, ...]  # mean label of the train fold, counting the negatives left out; or share of each class
    measure: Measure  # (fold, new tally) → the tally


@dataclass(frozen=True)
class Trained:
    """A fitted model with the metrics and statistics that are saved and reported with it."""

    config: Config  # with the defaults for this dataset
    spec: Spec
    statistics: Mapping[str, Any]  # statistics.json of the feature job
    fitted: Fitted
    model: keras.Model  # with the published weights
    metrics: Mapping[str, Mapping[str, Any]]  # by fold, if it has rows, as `Tally.metrics` returns them
    in_float32: Mapping[str, Any] | None  # metrics of the judged fold before the table was rounded to float16
    tallies: Mapping[str, Any]  # by fold, if it has rows
    rows: Mapping[str, int]  # by fold
    pairs: Sequence[tuple[str, str, float]]  # the strongest pairs of features, as `strongest_pairs` returns them
    profile: Profile | None  # None for a ranking
    fingerprint: str | None = None  # of the model, once it is published
