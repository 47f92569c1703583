"""Scales of a number: z = (curve(x) − shift) / divisor.

To add a scale, add its name to `ScaleName` and an entry to `SCALES`; a curve of another shape goes into `CURVES` first.
The feature job computes shift and divisor from the raw values of the train fold, every job applies them through
`contract.encoder`, and reports convert bin edges back to raw values with the curve's inverse.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

# Float32 steps that the labels' standard deviation needs. A score is the sum of the bias, which is about the labels'
# mean, and a term for each field and number; each addition rounds by 0.29 steps (root mean square of a uniform error of
# half a step at most). 24 additions are 1.4 steps, which adds (1.4 / 60)² = 0.05 % of the labels' variance to the
# squared error, and 46 additions 0.1 %.
_STEPS = 60
_SMALLEST_STEP = float(np.finfo(np.float32).tiny)  # smaller numbers have fewer digits, or are rounded to 0

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
    """Describe why scores in float32 lose the differences of labels with this mean and deviation; None if they do not.

    The text continues "the labels …".
    """
    step = max(float(np.spacing(np.float32(abs(mean)))), _SMALLEST_STEP)
    if not 0 < deviation < _STEPS * step:
        return None
    if step == _SMALLEST_STEP:
        problem = f"32-bit floats below {step:.3g} have fewer digits"
        remedy = "Multiply the label by a constant in the source, for example in a view, and divide the scores by it"
    else:
        problem = f"near this mean 32-bit floats have steps of {step:.3g}"
        remedy = (
            f"Subtract a constant such as {mean:.3g} from the label in the source, for example in a view, and add it "
            "to the scores"
        )
    return (
        f"have the mean {mean:.9g} and the standard deviation {deviation:.3g}, but {problem}, so the differences "
        f"between rows are lost: the deviation must be at least {_STEPS * step:.3g}. {remedy}"
    )
