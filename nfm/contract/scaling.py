"""Scales of a number: z = (curve(x) − shift) / divisor.

To add a scale, add its name to `ScaleName` and an entry to `SCALES`; a curve of another shape goes into `CURVES` first.
The feature job computes shift and divisor from the raw values of the train fold, every job applies them through
`contract.encoder`, and reports convert bin edges back to raw values with the curve's inverse.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

CurveName = Literal["none", "log1p"]
ScaleName = Literal["standard", "minmax", "log1p", "none"]
Floats = NDArray[np.float64]


class Curve(NamedTuple):
    """Increasing function, defined for every finite number, and its inverse."""

    apply: Callable[[Any], Any]
    invert: Callable[[Any], Any]


def _log1p(x: Floats) -> Floats:
    return np.sign(x) * np.log1p(np.abs(x))  # defined for negative numbers too


def _expm1(z: Floats) -> Floats:
    return np.copysign(np.expm1(np.abs(z)), z)


CURVES: dict[CurveName, Curve] = {"none": Curve(lambda x: x, lambda z: z), "log1p": Curve(_log1p, _expm1)}


class TrainStatistics(NamedTuple):
    """Statistics of a number in the train fold, after clipping."""

    mean: float
    std: float
    min: float
    max: float


class Scale(NamedTuple):
    """Curve, with functions that compute shift and divisor from the train fold."""

    curve: CurveName
    shift: Callable[[TrainStatistics], float]
    divisor: Callable[[TrainStatistics], float]  # the feature job replaces 0 by 1, so that a constant becomes 0


SCALES: dict[ScaleName, Scale] = {
    "standard": Scale("none", lambda x: x.mean, lambda x: x.std),
    "minmax": Scale("none", lambda x: x.min, lambda x: x.max - x.min),
    "log1p": Scale("log1p", lambda x: 0.0, lambda x: 1.0),
    "none": Scale("none", lambda x: 0.0, lambda x: 1.0),
}
