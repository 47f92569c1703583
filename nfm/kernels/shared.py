"""Compiled loop that finds which items of a batch each of its users has."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nfm.kernels.compile import compile_when_called


@compile_when_called
def mark_seen(starts_U1: Any, seen: Any, users_B: Any, items_B: Any, mark: Any) -> NDArray[np.float32]:
    """Return (B, B) `mark` where the user of a row has the item of a column, else 0; 0 on the diagonal.

    Args:
        starts_U1: (U + 1,) first of each user's items in `seen`.
        seen: items, ascending for each user.
        users_B: users of the rows.
        items_B: items of the columns.
        mark: float32.
    """
    count = len(users_B)
    out_BB, order = np.zeros((count, count), np.float32), np.argsort(items_B)
    for b in range(count):
        place, stop = starts_U1[users_B[b]], starts_U1[users_B[b] + 1]
        for c in order:
            while place < stop and seen[place] < items_B[c]:
                place += 1
            if place == stop:
                break
            if seen[place] == items_B[c]:
                out_BB[b, c] = mark
        out_BB[b, b] = np.float32(0)
    return out_BB
