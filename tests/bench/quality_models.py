"""The other models of `make bench-quality`: one-hot logistic or ridge regression, and LightGBM; figures of all models.

tests/bench/quality.py runs it in an environment with LightGBM, which the project does not depend on:
`python tests/bench/quality_models.py TABLE FOLD` prints the figures of each split as JSON.
"""

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from sklearn.compose import make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import log_loss, roc_auc_score, root_mean_squared_error
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from tests.bench.quality_tables import TABLES, Table, fold_column

Figures = dict[str, float]
Folds = dict[str, pd.DataFrame]
MAIN = {"binary": "auc", "regression": "rmse"}
SIGN = {"binary": 1, "regression": -1}  # a better model has a higher AUC, and a lower RMSE
STRENGTHS = (0.1, 1.0, 10.0)  # C of logistic regression; ridge regression has its inverse
TREES, LEAVES = 100, 31


def read_folds(table: Table, split: int) -> Folds:
    """Return the rows of each fold."""
    frame = pd.read_parquet(table.path)
    return {str(fold): rows for fold, rows in frame.groupby(fold_column(split))}


def figures(task: str, label: Any, score: Any) -> Figures:
    """Return AUC and log loss, or the RMSE, by scikit-learn."""
    score = np.asarray(score, "float64")
    if task == "regression":
        return {"rmse": float(root_mean_squared_error(label, score))}
    return {"auc": float(roc_auc_score(label, score)), "log_loss": float(log_loss(label, score))}


def linear(table: Table, folds: Folds, fold: str) -> Figures:
    """Return the figures of one-hot logistic or ridge regression, with the best of three penalties on the valid fold.

    A missing category is a category of its own, a missing number is the mean.
    """
    numbers, one_hot = list(table.numeric), OneHotEncoder(handle_unknown="ignore")
    inputs = make_column_transformer(
        (one_hot, list(table.categorical)), (make_pipeline(SimpleImputer(), StandardScaler()), numbers)
    )

    def columns(rows: pd.DataFrame) -> pd.DataFrame:
        texts = {name: rows[name].astype("string").fillna("missing").astype(object) for name in table.categorical}
        return rows[numbers].astype("float64").assign(**texts)

    train = inputs.fit_transform(columns(folds["train"]))
    label = folds["train"][table.label]
    found: list[tuple[float, Any]] = []
    for strength in STRENGTHS:
        if table.task == "regression":
            model = Ridge(alpha=1 / strength).fit(train, label)
            predict = model.predict
        else:
            model = LogisticRegression(C=strength, max_iter=1000).fit(train, label)
            predict = positive(model)
        valid = figures(table.task, folds["valid"][table.label], predict(inputs.transform(columns(folds["valid"]))))
        found.append((SIGN[table.task] * valid[MAIN[table.task]], predict))
    _, predict = max(found, key=lambda pair: pair[0])
    return figures(table.task, folds[fold][table.label], predict(inputs.transform(columns(folds[fold]))))


def positive(model: Any) -> Callable[[Any], Any]:
    """Return the function that predicts the probability of label 1."""
    return lambda rows: model.predict_proba(rows)[:, 1]


def lightgbm(table: Table, folds: Folds, fold: str) -> Figures:
    """Return the figures of LightGBM's defaults: 100 trees of 31 leaves, categories as such, no early stopping.

    Values that the train fold lacks are missing.
    """
    import lightgbm as lgb  # type: ignore[import-not-found]

    def columns(rows: pd.DataFrame) -> pd.DataFrame:
        parts: dict[str, Any] = {name: rows[name].astype("float64") for name in table.numeric}
        for name in table.categorical:
            parts[name] = pd.Categorical(rows[name], categories=folds["train"][name].dropna().unique())
        return pd.DataFrame(parts, index=rows.index).rename(columns=lambda name: name.replace("-", "_"))

    kind = lgb.LGBMRegressor if table.task == "regression" else lgb.LGBMClassifier
    model = kind(n_estimators=TREES, num_leaves=LEAVES, verbose=-1, random_state=1, deterministic=True)
    model.fit(columns(folds["train"]), folds["train"][table.label])
    predict = model.predict if table.task == "regression" else positive(model)
    return figures(table.task, folds[fold][table.label], predict(columns(folds[fold])))


def main() -> None:
    """Print the figures of a table's splits as JSON."""
    table, fold = TABLES[sys.argv[1]], sys.argv[2]
    found = []
    for split in range(1, table.splits + 1):
        folds = read_folds(table, split)
        measured: dict[str, Figures] = {}
        for name, model in (("linear", linear), ("lightgbm", lightgbm)):
            started = time.perf_counter()
            measured[name] = model(table, folds, fold)
            measured[name]["seconds"] = time.perf_counter() - started
        found.append(measured)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
