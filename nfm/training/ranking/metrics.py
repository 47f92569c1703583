"""Metrics of top-K lists, and their 95 % intervals over users.

A list is a row of item indices, the best first, each item once; −1 is an empty place. Empty places are at the end.
A figure of one user is a float64 between 0 and 1. With h_r = 1 if the item of rank r is relevant, n relevant items and
m = min(K, n):

    hr      1 if any h_r = 1 for r ≤ K
    recall  Σ_{r≤K} h_r / n
    ndcg    Σ_{r≤K} h_r / log2(r + 1)  /  Σ_{r≤m} 1 / log2(r + 1)
    map     Σ_{r≤K} h_r · (h_1 + … + h_r) / r  /  m
    mrr     1 / (smallest r ≤ K with h_r = 1), or 0
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
RESAMPLES = 1000
MANY_USERS = 100_000  # from here on, intervals of the normal approximation: resamples would take long and agree with it
_CELLS = 4_000_000  # numbers in a block of resamples: 32 MB


class Targets(NamedTuple):
    """Relevant items of each evaluated user: those of user u are items[starts[u]:starts[u + 1]].

    The items of a user are ascending, each is there once, and there is at least one.
    """

    starts: NDArray[np.int64]
    items: NDArray[np.int32]


class Interval(NamedTuple):
    """Mean over users, and the limits of its 95 % interval."""

    mean: float
    low: float
    high: float


class ActivityBin(NamedTuple):
    """Users whose number of train interactions is between first and last, both included, and their mean."""

    first: int
    last: int
    users: int
    figure: Interval


def pair_keys(rows: NDArray[np.integer], items: NDArray[np.integer]) -> NDArray[np.int64]:
    """Return an int64 for each pair, ordered by row and then by item."""
    return rows.astype(np.int64) << 32 | items.astype(np.int64)


def row_numbers(starts: NDArray[np.integer]) -> NDArray[np.int64]:
    """Return the row of each entry of a CSR structure."""
    return np.repeat(np.arange(len(starts) - 1), np.diff(starts))


def is_in(keys: NDArray[np.int64], sorted_keys: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return for each key if the ascending keys contain it."""
    if not len(sorted_keys):
        return np.zeros(keys.shape, bool)
    places = np.minimum(np.searchsorted(sorted_keys, keys), len(sorted_keys) - 1)
    return np.asarray(sorted_keys[places] == keys)


def measure_lists(lists_UK: NDArray[np.int32], targets: Targets, ks: Sequence[int]) -> dict[str, Floats]:
    """Return the figures of each user by name, such as `ndcg@10`: hr, recall, ndcg, map and mrr at each K.

    A list shorter than K counts as one with empty places.
    """
    _check(lists_UK, targets, ks)
    users, width = lists_UK.shape
    if not width or not users:
        return {f"{name}@{k}": np.zeros(users) for k in ks for name in ("hr", "recall", "ndcg", "map", "mrr")}
    rows_U1 = np.arange(users)[:, None]
    target_keys = pair_keys(row_numbers(targets.starts), targets.items)
    hits_UK = is_in(pair_keys(rows_U1, np.maximum(lists_UK, 0)), target_keys) & (lists_UK >= 0)
    relevant_U = np.diff(targets.starts)
    ranks_K = np.arange(1, width + 1)
    found_UK = np.cumsum(hits_UK, axis=1)
    gains_UK = np.cumsum(hits_UK / np.log2(ranks_K + 1), axis=1)
    precisions_UK = np.cumsum(hits_UK * (found_UK / ranks_K), axis=1)
    ideals = np.cumsum(1 / np.log2(np.arange(2, max(ks) + 2)))
    first_U = np.where(hits_UK.any(axis=1), hits_UK.argmax(axis=1) + 1, width + 1)  # rank of the first relevant item
    figures: dict[str, Floats] = {}
    for k in ks:
        last, possible_U = min(k, width) - 1, np.minimum(relevant_U, k)
        figures[f"hr@{k}"] = (found_UK[:, last] > 0).astype(np.float64)
        figures[f"recall@{k}"] = found_UK[:, last] / relevant_U
        figures[f"ndcg@{k}"] = gains_UK[:, last] / ideals[possible_U - 1]
        figures[f"map@{k}"] = precisions_UK[:, last] / possible_U
        figures[f"mrr@{k}"] = np.where(first_U <= last + 1, 1 / first_U, 0.0)
    return figures


def _check(lists_UK: NDArray[np.int32], targets: Targets, ks: Sequence[int]) -> None:
    if lists_UK.ndim != 2 or len(lists_UK) != len(targets.starts) - 1:
        raise ValueError(f"{lists_UK.shape} lists for the targets of {len(targets.starts) - 1} users")
    if not ks or min(ks) < 1:
        raise ValueError(f"K must be positive, not {list(ks)}")
    if (np.diff(targets.starts) < 1).any():
        raise ValueError("a user without a relevant item cannot be evaluated")


def summarize(figures: Mapping[str, Floats], seed: int = 0) -> dict[str, Interval]:
    """Return the mean over users of each figure, with its 95 % bootstrap interval; see `mean_intervals`."""
    if not figures:
        return {}
    return dict(zip(figures, mean_intervals(np.stack(list(figures.values()), axis=1), seed), strict=True))


def mean_intervals(values_UM: Floats, seed: int = 0) -> list[Interval]:
    """Return the mean of each column and its 95 % interval over users.

    Up to 100,000 users, limits are the percentiles 2.5 and 97.5 of the means of 1,000 resamples of users, the same
    ones for all columns. For more users they are mean ± 1.96 standard errors. Without users all is NaN.
    """
    users, columns = values_UM.shape
    if not users:
        return [Interval(np.nan, np.nan, np.nan)] * columns
    means_M = values_UM.mean(axis=0)
    if users > MANY_USERS:
        errors_M = 1.959964 * values_UM.std(axis=0, ddof=1) / np.sqrt(users)
        low_M, high_M = means_M - errors_M, means_M + errors_M
    else:
        low_M, high_M = np.percentile(_resampled_means(values_UM, seed), [2.5, 97.5], axis=0)
    return [Interval(*map(float, limits)) for limits in zip(means_M, low_M, high_M, strict=True)]


def _resampled_means(values_UM: Floats, seed: int) -> Floats:
    """Return the means of the columns in each resample, (RESAMPLES, M).

    A resample is a row of counts: how often each user was drawn. Blocks of such rows keep the memory bounded.
    """
    rng = np.random.default_rng(seed)
    users = len(values_UM)
    block = max(1, _CELLS // users)
    means = []
    for start in range(0, RESAMPLES, block):
        size = min(block, RESAMPLES - start)
        counts_RU = np.stack([np.bincount(rng.integers(0, users, users), minlength=users) for _ in range(size)])
        means.append(counts_RU.astype(np.float64) @ values_UM / users)
    return np.concatenate(means)


def paired_difference(a_U: Floats, b_U: Floats, seed: int = 0) -> Interval:
    """Return the mean of a − b over users and its 95 % bootstrap interval; a and b belong to the same users.

    To compare the mean of training seeds, average the figures of each user over the seeds first.
    """
    if a_U.shape != b_U.shape:
        raise ValueError(f"figures of {len(a_U)} users cannot be paired with those of {len(b_U)}")
    return mean_intervals((a_U - b_U)[:, None], seed)[0]


def by_activity(values_U: Floats, activity_U: NDArray[np.integer], bins: int = 10, seed: int = 0) -> list[ActivityBin]:
    """Return the mean of a figure in quantile bins of the users' numbers of train interactions.

    Users with the same number are in the same bin, so there are fewer bins where many users have the same number.
    """
    if not len(values_U):
        return []
    shares = np.arange(1, bins + 1) / bins
    upper = np.unique(np.quantile(activity_U, shares, method="inverted_cdf"))
    bins_U = np.searchsorted(upper, activity_U)
    result = []
    for number in range(len(upper)):
        members = bins_U == number
        first, last = int(activity_U[members].min()), int(activity_U[members].max())
        interval = mean_intervals(values_U[members][:, None], seed)[0]
        result.append(ActivityBin(first, last, int(members.sum()), interval))
    return result


def measure_catalogue(
    lists_UK: NDArray[np.int32], counts_I: NDArray[np.integer], ks: Sequence[int]
) -> dict[str, float]:
    """Return `coverage@K` and `novelty@K` of all lists; counts_I are the train interactions of each item.

    Coverage is the share of the catalogue's items that are in at least one list. Novelty is the mean over recommended
    items of −log2(share of the train interactions). An item without train interactions counts as one with a single
    interaction. Without recommended items novelty is NaN.
    """
    total = max(1, int(counts_I.sum()))
    bits_I = -np.log2(np.maximum(counts_I, 1) / total)
    figures: dict[str, float] = {}
    for k in ks:
        places = lists_UK[:, :k]
        uses_I = np.bincount(places[places >= 0], minlength=len(counts_I))
        figures[f"coverage@{k}"] = float((uses_I > 0).mean()) if len(uses_I) else 0.0
        figures[f"novelty@{k}"] = float(uses_I @ bits_I / uses_I.sum()) if uses_I.any() else float("nan")
    return figures
