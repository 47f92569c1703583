"""Scores of implicit's ALS and BPR for `make bench-ranking`, which does not depend on implicit.

Run it with

    uv run --no-project --with implicit==0.7.3 python tests/bench/rank_implicit.py FOLDER

FOLDER contains `valid.npz` and `test.npz`, which `write_folds` of rank_baselines.py writes: the interactions that a
model may know, as `users`, `items` and `shape`. The settings of ALS are those with the best NDCG@10 on the validation
fold, of which `valid.npz` has the items as `next`; BPR has the settings that the benchmark names. For each fold the
scores of all users and items are written as `als_FOLD_SEED.npy` and `bpr_FOLD_SEED.npy`, float32.
"""

import argparse
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # implicit warns about another number

import numpy as np
from scipy import sparse

FOLDS = ("valid", "test")
BPR = {"factors": 64, "learning_rate": 0.02, "iterations": 300}
ALS = [
    {"factors": factors, "regularization": regularization, "alpha": alpha, "iterations": 15}
    for factors in (16, 32, 64, 128)
    for regularization in (0.01, 1.0, 10.0)
    for alpha in (1.0, 5.0, 20.0)
]


def read(path: Path) -> dict[str, Any]:
    """Return the arrays of a fold and its sparse matrix users × items, `known`."""
    with np.load(path) as arrays:
        fold = dict(arrays)
    ones = np.ones(len(fold["users"]), np.float32)
    fold["known"] = sparse.csr_matrix((ones, (fold["users"], fold["items"])), shape=tuple(fold["shape"]))
    return fold


def scores(name: str, known: Any, setting: dict[str, Any], seed: int) -> Any:
    """Train, and return the score of each user and item."""
    from implicit.cpu.als import AlternatingLeastSquares  # type: ignore[import-not-found]
    from implicit.cpu.bpr import BayesianPersonalizedRanking  # type: ignore[import-not-found]

    kind = {"als": AlternatingLeastSquares, "bpr": BayesianPersonalizedRanking}[name]
    model = kind(**setting, random_state=seed, num_threads=1)
    model.fit(known, show_progress=False)
    return np.asarray(model.user_factors @ model.item_factors.T, np.float32)


def ndcg_at_10(scores_UI: Any, fold: dict[str, Any]) -> float:
    """Return NDCG@10 of the next item of each user, without the known items; equal scores are ordered by item."""
    hidden_UI = fold["known"].toarray() > 0
    users = np.arange(len(scores_UI))
    free_UI = np.where(hidden_UI, -np.inf, scores_UI)
    score_U = free_UI[users, fold["next"]]
    earlier_UI = np.arange(free_UI.shape[1]) < fold["next"][:, None]
    rank_U = (free_UI > score_U[:, None]).sum(axis=1) + ((free_UI == score_U[:, None]) & earlier_UI).sum(axis=1) + 1
    return float(np.where(rank_U <= 10, 1 / np.log2(rank_U + 1), 0).mean())


def rated(fold: dict[str, Any]) -> Iterator[tuple[float, int]]:
    """Train ALS with each of its settings; yield NDCG@10 on the validation fold and the number of the setting."""
    for number, setting in enumerate(ALS):
        figure = ndcg_at_10(scores("als", fold["known"], setting, seed=1), fold)
        print(f"als {setting}: NDCG@10 {figure:.4f} on the validation fold", flush=True)
        yield figure, number


def main() -> None:
    """Choose the settings of ALS, train both models on each fold with each seed, and write their scores."""
    parser = argparse.ArgumentParser(description="Write scores of implicit's ALS and BPR.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    folds = {name: read(arguments.folder / f"{name}.npz") for name in FOLDS}
    settings = {"als": ALS[max(rated(folds["valid"]))[1]], "bpr": BPR}
    for name, setting in settings.items():
        for fold, seed in ((fold, seed) for fold in FOLDS for seed in range(1, arguments.seeds + 1)):
            np.save(arguments.folder / f"{name}_{fold}_{seed}.npy", scores(name, folds[fold]["known"], setting, seed))
        print(f"{name}: {setting}, {arguments.seeds} seeds", flush=True)


if __name__ == "__main__":
    main()
