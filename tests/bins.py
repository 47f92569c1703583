"""Bins of numbers, for tests that make encoded rows by hand."""

from typing import Any

import numpy as np

from nfm.contract.schema import Spec


def no_bins(count: int) -> Any:
    """Return the bins and fractions of rows without binned numbers."""
    return np.empty((count, 0), np.int32), np.empty((count, 0), np.float32)


def random_bins(spec: Spec, rng: Any, count: int) -> Any:
    """Draw bins, some missing (0), and fractions, some exactly 0 and all 0 at the last edge and where missing."""
    sizes = np.array([1 + len(number.edges or ()) for number in spec.binned], np.int64)
    bins = rng.integers(0, sizes, (count, len(sizes))).astype(np.int32)
    fractions = rng.choice(np.array([0, 0.25, 0.5, 0.9], np.float32), bins.shape)
    return bins, np.where((bins == 0) | (bins == sizes - 1), np.float32(0), fractions)
