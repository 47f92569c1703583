"""Tallies that are filled in pieces, and comparisons of their metrics."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from nfm.training.metrics.binary import BinaryTally
from nfm.training.metrics.tally import make_tally

Array = NDArray[Any]
NAMES = ("red", "green", "blue")


def column(values: Any) -> Array:
    return np.asarray(values, np.float32)[:, np.newaxis]


def binary(label: Any, logit: Any, weight: Any = None, linear: Any = None, group: Any = None) -> BinaryTally:
    """Return a tally with constant 0.3, filled in pieces of 7 rows."""
    counted = make_tally("binary", (), (0.3,))
    assert isinstance(counted, BinaryTally)
    label = np.asarray(label, np.float32)
    weight = np.ones_like(label) if weight is None else np.asarray(weight, np.float32)
    linear = np.zeros_like(label) if linear is None else linear
    for begin in range(0, len(label), 7):
        piece = slice(begin, begin + 7)
        groups = None if group is None else group[piece]
        counted.add(label[piece], weight[piece], column(logit)[piece], column(linear)[piece], groups)
    return counted


def close(expected: float | None) -> Any:
    return None if expected is None else pytest.approx(expected, abs=1e-9)
