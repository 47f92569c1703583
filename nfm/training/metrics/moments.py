"""Mean and spread of weighted numbers, in one pass."""

import numpy as np

from nfm.training.metrics.names import Floats


class Moments:
    """Weighted mean, spread and range of numbers; numbers of weight 0 do not count."""

    def __init__(self) -> None:
        """Start without numbers."""
        self.weight = self.mean = 0.0
        self.spread = 0.0  # Σ weight · (number - mean)²
        self.low, self.high = np.inf, -np.inf

    def add(self, numbers: Floats, weights: Floats) -> None:
        """Add numbers; means and spreads are merged as by Chan, Golub & LeVeque (1979)."""
        batch_weight = float(weights.sum())
        if not batch_weight:
            return
        mean = float(weights @ numbers) / batch_weight
        difference, self.weight = mean - self.mean, self.weight + batch_weight
        self.spread += float(weights @ (numbers - mean) ** 2)
        self.spread += difference**2 * batch_weight * (self.weight - batch_weight) / self.weight
        self.mean += difference * batch_weight / self.weight
        counted = numbers[weights > 0]
        self.low, self.high = min(self.low, float(counted.min())), max(self.high, float(counted.max()))

    @property
    def deviation(self) -> float:
        """Standard deviation; exactly 0 if all numbers are equal, whatever the sums were rounded to."""
        return float((self.spread / self.weight) ** 0.5) if self.low < self.high else 0.0
