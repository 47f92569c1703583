"""Results of a training: the fitted model, and its metrics and statistics."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras

from nfm.contract.profile import Profile
from nfm.contract.schema import Spec
from nfm.training.metrics.tally import Tally
from nfm.training.model import Weights
from nfm.training.step import Measure


@dataclass(frozen=True)
class Fitted:
    """Weights of a fitted model and its history."""

    weights: Weights  # of the best epoch
    # By epoch: loss, learning_rate, val_ with each metric of the task, and the metric that early stopping watches
    history: Mapping[str, list[float]]
    best_epoch: int  # counted from 1
    constant: tuple[float, ...]  # the train fold's mean label, all negatives counted; or share of each class
    measure: Measure  # (fold, new tally) → the tally


@dataclass(frozen=True)
class Trained:
    """A fitted model with everything that the artifact and the report say about it."""

    spec: Spec
    statistics: Mapping[str, Any]  # statistics.json of the feature job
    fitted: Fitted
    model: keras.Model  # with the weights that are published
    metrics: Mapping[str, Mapping[str, Any]]  # by fold that has rows, as `Tally.metrics` returns them
    in_float32: Mapping[str, Any] | None  # metrics of the judged fold before a float16 table was rounded
    tallies: Mapping[str, Tally]  # by fold that has rows
    rows: Mapping[str, int]  # by fold
    pairs: Sequence[tuple[str, str, float]]  # the strongest pairs of features, as `strongest_pairs` returns them
    profile: Profile
    fingerprint: str | None = None  # of the model, once it is published
