"""Scales of a number: z = (curve(x) − shift) / divisor.

To add a scale, add its name to `ScaleName` and an entry to `SCALES`; a curve of another shape goes into `CURVES` first.
The feature job computes shift and divisor from the raw values of the train fold, every job applies them through
`contract.encoder`, and reports convert bin edges back to raw values with the curve's inverse.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

_STEPS = 10  # float32 steps that a standard deviation needs: then rounding adds less than 0.1 % of the variance

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


def describe_lost_precision(mean: float, deviation: float) -> str | None:
    """Describe why float32 numbers with this mean and deviation lose their differences; None if they do not.

    The text continues "the labels …".
    """
    step = float(np.spacing(np.float32(abs(mean))))
    if not 0 < deviation < _STEPS * step:
        return None
    return (
        f"have the mean {mean:.9g} and the standard deviation {deviation:.3g}, but near this mean 32-bit floats have "
        f"steps of {step:.3g}, so the differences between rows are lost. Subtract a constant such as {mean:.3g} from "
        "the label in the source, for example in a view, and add it to the scores"
    )
