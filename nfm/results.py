"""Results of the jobs; `nfm` exports them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class FeaturesResult:
    """Result of `build_features`."""

    dataset: Path
    encoding: Path
    report: Path
    rows: Mapping[str, int]  # by fold
    fingerprint: str  # of the encoding
    seconds: float
    summary: str = field(repr=False)  # as the command prints it


@dataclass(frozen=True)
class TrainResult:
    """Result of `train`."""

    model: Path
    report: Path
    rows: Mapping[str, int]  # by fold
    metrics: Mapping[str, Mapping[str, Any]]  # by fold that has rows, such as metrics["test"]["auc"]
    fingerprint: str  # of the model
    seconds: float
    summary: str = field(repr=False)


@dataclass(frozen=True)
class TuneResult:
    """Result of `tune`: the best trial."""

    config: Path  # the configuration with the best settings
    trials: int  # total, including those of earlier calls
    metric: str  # such as val_auc
    value: float  # of the metric
    settings: Mapping[str, Any]  # of the search space, in the best trial
    seconds: float
    summary: str = field(repr=False)


@dataclass(frozen=True)
class ScoreResult:
    """Result of `score_table`."""

    scores: Path
    report: Path
    rows: int
    fingerprint: str  # of the model
    seconds: float
    summary: str = field(repr=False)


@dataclass(frozen=True)
class RecommendResult:
    """Result of `recommend`."""

    recommendations: Path
    report: Path
    users: int
    lists: int  # that are not empty
    fingerprint: str  # of the model
    seconds: float
    summary: str = field(repr=False)
