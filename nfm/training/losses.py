"""The loss of a sample by task, and its derivative."""

from math import exp, log, log1p
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nfm.kernels.compile import when_called

BINARY, REGRESSION, MULTICLASS = range(3)  # tasks

Floats = NDArray[np.float32]


@when_called
def loss_of(task: int, label: np.float32, logits_C: Floats, upstream_C: Floats) -> Any:
    """Log loss, squared error or cross-entropy of a sample, and its derivative by the logits."""
    if task == REGRESSION:
        off = logits_C[0] - label
        upstream_C[0] = np.float32(2) * off
        return np.float64(off) * np.float64(off)
    if task == BINARY:
        # log(1 + e^x) − y x, without an overflow
        x, y = np.float64(logits_C[0]), np.float64(label)
        small = exp(-abs(x))
        upstream_C[0] = (1.0 if x > 0 else small) / (1.0 + small) - y
        return max(x, 0.0) - x * y + log1p(small)
    largest, total = logits_C.max(), 0.0
    for c in range(logits_C.size):
        total += exp(np.float64(logits_C[c]) - largest)
    for c in range(logits_C.size):
        upstream_C[c] = exp(np.float64(logits_C[c]) - largest) / total
    upstream_C[np.int64(label)] -= np.float32(1)
    return log(total) + largest - np.float64(logits_C[np.int64(label)])
