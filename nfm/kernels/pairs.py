"""Compiled loop over pairs of one user and many items.

pooled = p_u + p_i + s_u ⊙ s_i        (Bi-Interaction pooling of the features of both; see `forward.sides`)
"""

from functools import cache
from typing import Any

import numpy as np
from numba import types
from numpy.typing import NDArray

from nfm.kernels.compile import compile_now
from nfm.kernels.pooling import read_only_array


def pool_pairs(
    user_2K: NDArray[np.float32],
    sum_IK: NDArray[np.float32],
    pooled_IK: NDArray[np.float32],
    start: int,
    stop: int,
    inputs_TX: NDArray[np.float32],
) -> None:
    """Fill the first K columns of a tile with the pooled vectors of a user and the items from start up to stop.

    Releases the GIL.

    Args:
        user_2K: the user's s and p.
        sum_IK: s of all items.
        pooled_IK: p of all items.
        start: first item.
        stop: item after the last one.
        inputs_TX: receives the pooled vectors in its first rows.
    """
    _compiled()(user_2K, sum_IK, pooled_IK, start, stop, inputs_TX)


@cache
def _compiled() -> Any:
    matrix, tile = read_only_array(types.float32, 2), types.Array(types.float32, 2, "C")
    return compile_now(types.void(matrix, matrix, matrix, types.int64, types.int64, tile), _pool_pairs)


def _pool_pairs(user_2K: Any, sum_IK: Any, pooled_IK: Any, start: Any, stop: Any, inputs_TX: Any) -> None:
    # Indices are unsigned: a signed index may be negative, which costs a check at each access.
    first, sums, pooled = np.uint64(start), np.uint64(0), np.uint64(1)
    for t in range(np.uint64(stop - start)):
        i = first + t
        for k in range(np.uint64(user_2K.shape[1])):
            inputs_TX[t, k] = (user_2K[pooled, k] + pooled_IK[i, k]) + user_2K[sums, k] * sum_IK[i, k]
