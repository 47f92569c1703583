"""The unit of a network's outputs: its own during a training, and the one that is published.

    published output = size · output in training + shift

A regression is trained on standardized labels, because the optimizer's steps and the initial weights suit outputs near
1: size and shift are the standard deviation and the mean of the labels. A binary model is trained on a share of the
negatives (`split.negative_rate`), which divides the odds of label 1 by the rate and so adds -log(rate) to the logit
(King & Zeng 2001, section 4.1): shift is log(rate). Published models, metrics and reports use the published unit only.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nfm.training.model import BIAS, Weights

_LAST = ("output/kernel", "dense_linear/kernel")  # weights of the network that the output is proportional to


class Unit(NamedTuple):
    """Published unit of outputs, in the unit of the training. A `size` of 0 publishes the constant `shift`."""

    size: float = 1.0
    shift: float = 0.0

    def standardize(self, label_B: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the labels of a regression in the unit of the training."""
        if self == PUBLISHED:
            return label_B
        # In float64, because the difference of two large float32 numbers would lose the digits of the spread.
        return ((label_B.astype(np.float64) - self.shift) / (self.size or 1.0)).astype(np.float32)

    def publish_outputs(self, outputs_BC: NDArray[Any]) -> NDArray[Any]:
        """Return outputs of a network in training in the published unit."""
        return outputs_BC if self == PUBLISHED else self.size * outputs_BC.astype(np.float64) + self.shift

    def publish(self, weights: Weights) -> None:
        """Change the weights of a training to those of the published model, in place."""
        self._multiply(weights, self.size)
        bias = weights.network[BIAS]
        bias[:] = self.size * bias.astype(np.float64) + self.shift

    def unpublish(self, weights: Weights) -> None:
        """Change the weights of a published model to those of a training, in place."""
        size = self.size or 1.0
        self._multiply(weights, 1 / size)
        bias = weights.network[BIAS]
        bias[:] = (bias.astype(np.float64) - self.shift) / size

    @staticmethod
    def _multiply(weights: Weights, factor: float) -> None:
        if factor != 1:
            network = weights.network
            for array in (weights.tables.linear, *(network[path] for path in _LAST if path in network)):
                array *= np.float32(factor)


PUBLISHED = Unit()  # of weights that need no conversion
