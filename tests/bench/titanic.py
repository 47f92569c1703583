"""Measure the Titanic recipes over several split seeds, compared with logistic regression on the same folds.

Run it with `make bench-titanic`. Each job runs in a separate process.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from sklearn.compose import make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

SEEDS = (1, 2, 3, 4, 5)
CATEGORIES, NUMBERS = ["Pclass", "Sex", "Embarked"], ["Age", "SibSp", "Parch", "Fare"]


def run_jobs(config: str, seed: int, workdir: Path) -> dict[str, dict[str, float]]:
    """Run the feature and train jobs with this split, and return the metrics by fold."""
    for job in ("features", "train"):
        command = [sys.executable, f"jobs/{job}.py", "--config", config, "--set"]
        subprocess.run([*command, f"split.seed={seed}", f"workdir={workdir}"], check=True, capture_output=True)
    metrics: dict[str, dict[str, float]] = json.loads((workdir / "model/metadata.json").read_text())["metrics"]
    return metrics


def logistic_regression(workdir: Path, fold: str) -> tuple[float, float]:
    """Return AUC and accuracy of one-hot logistic regression, trained on the same train fold."""
    raw = pd.read_csv("tests/data/titanic.csv").set_index("PassengerId")
    keys = {
        name: pq.read_table(workdir / f"dataset/fold={name}", columns=["PassengerId"])["PassengerId"].to_pylist()
        for name in ("train", fold)
    }
    transform = make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore"), CATEGORIES),
        (make_pipeline(SimpleImputer(strategy="median"), StandardScaler()), NUMBERS),
    )
    model = make_pipeline(transform, LogisticRegression(max_iter=1000))
    train, test = raw.loc[keys["train"]], raw.loc[keys[fold]]
    model.fit(train, train["Survived"])
    score = model.predict_proba(test)[:, 1]
    return float(roc_auc_score(test["Survived"], score)), float(accuracy_score(test["Survived"], score > 0.5))


def main() -> None:
    """Print a table for each recipe."""
    for config, fold in (("conf/titanic.yaml", "test"), ("conf/titanic-article.yaml", "valid")):
        print(f"{config}, {fold} fold\n  seed   rows    AUC  accuracy   logistic regression", flush=True)
        rows = []
        for seed in SEEDS:
            with tempfile.TemporaryDirectory() as folder:
                metrics = run_jobs(config, seed, Path(folder))[fold]
                baseline = logistic_regression(Path(folder), fold)
            rows.append((metrics["auc"], metrics["accuracy"], *baseline))
            shown = f"{rows[-1][0]:7.4f}{rows[-1][1]:10.4f}{baseline[0]:13.4f}{baseline[1]:8.4f}"
            print(f"  {seed:>4}{metrics['rows']:>7}{shown}", flush=True)
        mean = np.mean(rows, axis=0)
        print(f"  mean       {mean[0]:7.4f}{mean[1]:10.4f}{mean[2]:13.4f}{mean[3]:8.4f}\n")


if __name__ == "__main__":
    main()
