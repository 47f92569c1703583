"""Statistics of a number from its counts: quantiles, mean, standard deviation, and the transformation."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from nfm.config.columns import Numeric
from nfm.contract.cells import Cells, auc, quantile
from nfm.contract.errors import DataError
from nfm.contract.scaling import SCALES, TrainStatistics
from nfm.contract.schema import FOLDS, Number

# Counts of a value: its rows in each fold, and its rows with label 1 in the train fold and in the other two folds.
COUNTS = (*FOLDS, "positive", "held_positive")
_BINS = 40  # in a histogram


@dataclass(frozen=True)
class Distribution:
    """Distinct values of a number in a fold, ascending, with their counts; missing values are not included."""

    values: NDArray[np.float64]
    counts: NDArray[np.int64]

    @classmethod
    def of_fold(cls, cells: Cells | None, fold: str) -> Self:
        """Return a number's distribution in a fold; `cells` is None if the number is always missing."""
        if cells is None:
            return cls(np.empty(0), np.empty(0, np.int64))
        counts = cells.counts[:, COUNTS.index(fold)]
        seen = counts > 0
        return cls(cells.values[seen], counts[seen])

    @property
    def rows(self) -> int:
        """Number of values that are not missing."""
        return int(self.counts.sum())

    @property
    def mean(self) -> float:
        """Arithmetic mean."""
        scale = self._scale
        mean = math.fsum(self.values / scale * self.counts) / self.rows * scale
        return float(np.clip(mean, self.values[0], self.values[-1]))  # the mean of a constant is exactly the constant

    @property
    def std(self) -> float:
        """Population standard deviation."""
        scale = self._scale
        return math.sqrt(math.fsum((self.values / scale - self.mean / scale) ** 2 * self.counts) / self.rows) * scale

    @property
    def _scale(self) -> float:
        """Power of two by which values are divided, so that squares and sums of the largest numbers do not overflow."""
        return 2.0 ** int(np.frexp(np.max(np.abs(self.values)))[1] - 1)

    def facts(self) -> dict[str, float]:
        """Return mean, standard deviation, minimum and maximum; needs at least one row."""
        return {"mean": self.mean, "std": self.std, "min": float(self.values[0]), "max": float(self.values[-1])}

    def quantile(self, q: float) -> float:
        """Return the q-quantile of the rows (`contract.cells.quantile`)."""
        return quantile(self.values, self.counts, q)


def learn_transformation(name: str, settings: Numeric, train: Distribution) -> Number:
    """Learn a number's transformation from the train fold: clip, impute, curve, shift and divisor.

    Raises DataError if the difference between maximum and minimum is not finite.
    """
    column = settings.column or name
    if train.rows and not math.isfinite(float(train.values[-1]) - float(train.values[0])):
        raise DataError(
            f"Column '{column}' has numbers from {train.values[0]:.6g} to {train.values[-1]:.6g}, a range too large "
            "to be scaled. If one of them marks a missing value, make it null in the source, or leave such rows out "
            "with source.where."
        )
    clip, raw = None, train
    if settings.clip is not None and train.rows:
        clip = (train.quantile(settings.clip[0]), train.quantile(settings.clip[1]))
        train = Distribution(np.clip(train.values, *clip), train.counts)
    scale, shift, divisor, impute = SCALES[settings.scale], 0.0, 1.0, 0.0
    if train.rows:
        facts = TrainStatistics(**train.facts())
        shift, divisor = scale.shift(facts), scale.divisor(facts)
        impute = train.mean if settings.impute == "mean" else train.quantile(0.5)
    if not isinstance(settings.impute, str):
        impute = float(settings.impute)
    return Number(
        name=name,
        column=column,
        placement="field" if settings.as_ == "field" else "dense",
        impute=impute,
        missing_flag=settings.missing_flag,
        clip=clip,
        curve=scale.curve,
        shift=shift,
        divisor=divisor or 1.0,  # a constant has a standard deviation and a range of 0
        edges=choose_bin_edges(settings.bins, raw) if settings.as_ == "bins" else None,
    )


def compute_bucket_edges(buckets: int, train: Distribution) -> tuple[float, ...]:
    """Return the inner edges of quantile buckets, ascending. Bucket 0 contains x < first edge.

    There are fewer buckets than requested if many rows share a value.
    """
    if not train.rows:
        return ()
    quantiles = {train.quantile(i / buckets) for i in range(1, buckets)}
    return tuple(sorted(edge for edge in quantiles if edge > train.values[0]))


def choose_bin_edges(most: int, train: Distribution) -> tuple[float, ...]:
    """Return at most `most` edges of interpolated bins: each distinct value, or quantiles from minimum to maximum.

    In these quantiles a distinct value counts as the square root of its rows. With plain quantiles, a few frequent
    values would take most edges and leave none for the others. Where only cells of values are known (more than 8,192
    distinct values), a cell counts as one value; cells depend only on the rows, so edges do not depend on partitions.
    """
    if len(train.values) <= most:
        return tuple(train.values.tolist())
    weights = np.sqrt(train.counts)
    places = np.cumsum(weights) - weights / 2
    quantiles = np.linspace(places[0], places[-1], most)
    edges = train.values[np.searchsorted(places, quantiles)]
    return tuple(np.unique(edges).tolist())


def describe_number(cells: Cells | None, train: Distribution, missing: Mapping[str, int]) -> dict[str, Any]:
    """Return the statistics of a number: moments and histogram of the train fold, AUC of the other folds' labels."""
    facts: dict[str, Any] = {"missing": dict(missing), "histogram": None, "log": False, "exact": True, "auc": None}
    if cells is None or not train.rows:
        return facts
    counts = dict(zip(COUNTS, cells.counts.T, strict=True))
    ones = counts["held_positive"]
    ranked = auc(ones, counts["valid"] + counts["test"] - ones)
    histogram, log = _histogram(train)
    return facts | {
        **train.facts(),
        "median": train.quantile(0.5),
        "histogram": histogram,
        "log": log,
        "exact": cells.exact,
        "relative_error": 0.0 if cells.exact else 2.0 ** -(cells.bits + 1),
        "auc": None if ranked is None else max(ranked, 1 - ranked),
    }


def _histogram(train: Distribution) -> tuple[dict[str, Sequence[float]], bool]:
    """Return a histogram with bins of equal width, or of equal ratio (True) for skewed positive values."""
    low, high = float(train.values[0]), float(train.values[-1])
    log = low > 0 and high / low > 100 and train.mean > 3 * train.quantile(0.5) / 2
    x = np.log10(train.values) if log else train.values
    if len(x) <= _BINS:  # one bin for each value, with edges halfway between neighbours
        edges = np.concatenate([x[:1], (x[1:] + x[:-1]) / 2, x[-1:]])
        counts = train.counts
    else:
        counts, edges = np.histogram(x, _BINS, weights=train.counts)
    if log:
        edges = 10.0**edges
        edges[0], edges[-1] = low, high
    return {"edges": edges.tolist(), "counts": counts.astype(np.int64).tolist()}, log
