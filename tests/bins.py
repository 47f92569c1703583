"""Bins of numbers, for tests that make encoded rows by hand."""

from typing import Any

import numpy as np

from nfm.contract.dataset import Inputs
from nfm.contract.schema import Spec


def without_bins(ids_BF: Any, values_BN: Any, dense_BD: Any, *bags: Any) -> Inputs:
    """Return inputs without binned numbers; `bags` are the arrays of the bags."""
    none = np.empty((len(ids_BF), 0))
    arrays: Any = [ids_BF, values_BN, dense_BD, none.astype(np.int32), none.astype(np.float32), *bags]
    return Inputs(*arrays)


def random_bins(spec: Spec, rng: Any, count: int) -> dict[str, Any]:
    """Draw bins, some missing (0), and fractions, some exactly 0 and all 0 at the last edge and where missing."""
    sizes = np.array([1 + len(number.edges or ()) for number in spec.binned], np.int64)
    bins = rng.integers(0, sizes, (count, len(sizes))).astype(np.int32)
    fractions = rng.choice(np.array([0, 0.25, 0.5, 0.9], np.float32), bins.shape)
    return {"bins_BQ": bins, "fractions_BQ": np.where((bins == 0) | (bins == sizes - 1), np.float32(0), fractions)}
