"""Compiled loop that finds the items that a user had before each interaction."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nfm.kernels.compile import compile_when_called


@compile_when_called
def find_histories(
    starts_U1: Any, times_N: Any, items_N: Any, most: int, same_time: bool
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Find the latest earlier interactions of each interaction.

    Those with the interaction's own item are left out.

    Args:
        starts_U1: (U + 1,) first interaction of each user, and the end.
        times_N: times of N interactions, ascending for each user; those at the same time in the order of their items.
        items_N: numbers of their items.
        most: maximum number of interactions to find.
        same_time: interactions at the same time count as earlier if they come first; otherwise they do not count.

    Returns:
        (P,) places of the interactions that were found, the latest first, and (N + 1,) the first of them for each
        interaction.
    """
    count = len(times_N)
    splits, found = np.zeros(count + 1, np.int32), np.empty(1024, np.int32)
    size = 0
    for u in range(len(starts_U1) - 1):
        start, earlier = starts_U1[u], starts_U1[u]
        for n in range(start, starts_U1[u + 1]):
            if times_N[n] != times_N[earlier]:
                earlier = n  # first interaction at this time
            place, left = (n if same_time else earlier) - 1, most
            while place >= start and left > 0:
                if items_N[place] != items_N[n]:
                    if size == len(found):
                        longer = np.empty(2 * size, np.int32)
                        longer[:size] = found
                        found = longer
                    found[size] = place
                    size, left = size + 1, left - 1
                place -= 1
            splits[n + 1] = size
    return found[:size].copy(), splits
