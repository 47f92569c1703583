"""What the counts of a number say: its quantiles, mean and spread, and the transformation that follows from them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nfm.config import Numeric
from nfm.contract.schema import Number


@dataclass(frozen=True)
class Distribution:
    """The distinct values of a number in a fold, ascending, and how often each occurs. Missing ones are not in it."""

    values: NDArray[np.float64]
    counts: NDArray[np.int64]

    @property
    def rows(self) -> int:
        """How many numbers there are."""
        return int(self.counts.sum())

    @property
    def mean(self) -> float:
        """Arithmetic mean."""
        return float(np.dot(self.values, self.counts) / self.rows)

    @property
    def std(self) -> float:
        """Standard deviation of the population."""
        return float(np.sqrt(np.dot((self.values - self.mean) ** 2, self.counts) / self.rows))

    def quantile(self, q: float) -> float:
        """The smallest value that at least a share q of the rows does not exceed."""
        cumulative = np.cumsum(self.counts)
        place = np.searchsorted(cumulative, q * self.rows * (1 - 1e-12))
        return float(self.values[min(int(place), len(self.values) - 1)])

    def clipped(self, low: float, high: float) -> "Distribution":
        """The same rows, each moved to the nearest value within the bounds."""
        return Distribution(np.clip(self.values, low, high), self.counts)


def transformation(name: str, settings: Numeric, train: Distribution) -> Number:
    """How a number is transformed, learned from the train fold: clip, impute, log1p, shift and divide."""
    clip = None
    if settings.clip is not None and train.rows:
        clip = (train.quantile(settings.clip[0]), train.quantile(settings.clip[1]))
        train = train.clipped(*clip)
    shift, divisor, impute = 0.0, 1.0, 0.0
    if train.rows:
        if settings.scale == "standard":
            shift, divisor = train.mean, train.std
        elif settings.scale == "minmax":
            shift, divisor = float(train.values[0]), float(train.values[-1] - train.values[0])
        impute = train.mean if settings.impute == "mean" else train.quantile(0.5)
    if not isinstance(settings.impute, str):
        impute = float(settings.impute)
    return Number(
        name=name,
        column=settings.column or name,
        placement=settings.as_,
        impute=impute,
        missing_flag=settings.missing_flag,
        clip=clip,
        log1p=settings.scale == "log1p",
        shift=shift,
        divisor=divisor or 1.0,  # a constant stays 0 instead of dividing by it
    )


def bucket_edges(buckets: int, train: Distribution) -> tuple[float, ...]:
    """Inner edges of quantile buckets, ascending; fewer where many rows share a value. x < first edge is bucket 0."""
    if not train.rows:
        return ()
    quantiles = {train.quantile(i / buckets) for i in range(1, buckets)}
    return tuple(sorted(edge for edge in quantiles if edge > train.values[0]))
