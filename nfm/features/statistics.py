"""Statistics of a number from its counts: quantiles, mean and spread, and the transformation that follows from them."""

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

# How often a value occurs in each fold; and with a label of 1 in the train fold, and in the other two.
COUNTS = (*FOLDS, "positive", "held_positive")
_BINS = 40  # of a histogram


@dataclass(frozen=True)
class Distribution:
    """The distinct values of a number in a fold, ascending, and how often each occurs; without missing ones."""

    values: NDArray[np.float64]
    counts: NDArray[np.int64]

    @classmethod
    def of_fold(cls, cells: Cells | None, fold: str) -> Self:
        """A fold's values of a number; `cells` is None where it is always missing."""
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
        return float(np.clip(mean, self.values[0], self.values[-1]))  # a constant is its own mean, to the last bit

    @property
    def std(self) -> float:
        """Standard deviation of the population."""
        scale = self._scale
        return math.sqrt(math.fsum((self.values / scale - self.mean / scale) ** 2 * self.counts) / self.rows) * scale

    @property
    def _scale(self) -> float:
        """A power of two: divided by it, the largest numbers can be squared and added without losing digits."""
        return 2.0 ** int(np.frexp(np.max(np.abs(self.values)))[1] - 1)

    def facts(self) -> dict[str, float]:
        """Mean, spread and range of at least one row."""
        return {"mean": self.mean, "std": self.std, "min": float(self.values[0]), "max": float(self.values[-1])}

    def quantile(self, q: float) -> float:
        """The q-quantile of the rows (`contract.cells.quantile`)."""
        return quantile(self.values, self.counts, q)


def transformation(name: str, settings: Numeric, train: Distribution) -> Number:
    """Learn a number's transformation from the train fold: clip, impute, curve, shift and divide.

    Raises DataError if the range of the number is not finite.
    """
    column = settings.column or name
    if train.rows and not math.isfinite(float(train.values[-1]) - float(train.values[0])):
        raise DataError(
            f"Column '{column}' holds numbers from {train.values[0]:.6g} to {train.values[-1]:.6g}, too far apart to "
            "be scaled. If one stands for a missing value, make it null in the source, or leave such rows out with "
            "source.where."
        )
    clip = None
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
        placement=settings.as_,
        impute=impute,
        missing_flag=settings.missing_flag,
        clip=clip,
        curve=scale.curve,
        shift=shift,
        divisor=divisor or 1.0,  # a constant stays 0 instead of dividing by it
    )


def bucket_edges(buckets: int, train: Distribution) -> tuple[float, ...]:
    """Inner edges of quantile buckets, ascending; fewer where many rows share a value. x < first edge is bucket 0."""
    if not train.rows:
        return ()
    quantiles = {train.quantile(i / buckets) for i in range(1, buckets)}
    return tuple(sorted(edge for edge in quantiles if edge > train.values[0]))


def number_facts(cells: Cells | None, train: Distribution, missing: Mapping[str, int]) -> dict[str, Any]:
    """A number's facts: mean, spread, quantiles and histogram of the train fold; how well it ranks the labels."""
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
    """Counts in bins of equal width; of equal ratio where the values are positive and far apart."""
    low, high = float(train.values[0]), float(train.values[-1])
    log = low > 0 and high / low > 100 and train.mean > 3 * train.quantile(0.5) / 2
    x = np.log10(train.values) if log else train.values
    if len(x) <= _BINS:  # a bin for each value, between the middles
        edges = np.concatenate([x[:1], (x[1:] + x[:-1]) / 2, x[-1:]])
        counts = train.counts
    else:
        counts, edges = np.histogram(x, _BINS, weights=train.counts)
    if log:
        edges = 10.0**edges
        edges[0], edges[-1] = low, high
    return {"edges": edges.tolist(), "counts": counts.astype(np.int64).tolist()}, log
