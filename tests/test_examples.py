"""The examples run as a user runs them: processes of their own, in a folder that looks like a checkout."""

import json
import sys
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from tests.processes import ROOT, run

pytestmark = pytest.mark.e2e


def python(checkout: Path, *arguments: str) -> str:
    done = run([sys.executable, *arguments], {"PYTHONPATH": str(ROOT)}, checkout)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def titanic(checkout: Path) -> str:
    return python(checkout, str(ROOT / "examples/titanic.py"), "train.epochs=4")


def test_the_script_trains_and_explains_the_scores(checkout: Path, titanic: str) -> None:
    metrics = json.loads((checkout / "build/titanic/model/metadata.json").read_text())["metrics"]["test"]
    assert f"test AUC {metrics['auc']:.3f}" in titanic
    assert metrics["auc"] > 0.7
    header, *rows = titanic[titanic.index("Name") :].splitlines()
    assert header.split() == ["Name", "Survived", "score", "reason_1", "reason_1_effect", "reason_2", "reason_2_effect"]
    assert len(rows) == 10


def test_sql_gives_the_scores_of_the_model(checkout: Path, titanic: str) -> None:
    shown = python(checkout, str(ROOT / "examples/sql_scoring.py"))
    by_group = [line.split("|")[1:-1] for line in shown.splitlines() if line.count("|") == 5][1:]
    assert len(by_group) == 6
    assert sum(int(count) for _, _, count, _ in by_group) == 891
    best = {sex.strip() for _, sex, _, _ in by_group[:2]}
    assert best == {"female"}


def test_the_notebook_runs_from_top_to_bottom(checkout: Path) -> None:
    cells = json.loads((ROOT / "examples/titanic.ipynb").read_text())["cells"]
    assert all(not cell.get("outputs") for cell in cells), "clear the outputs before a commit"
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    code[-1] = f"print(dict({code[-1]}))"
    shown = python(checkout, "-c", "\n\n".join(code))
    women_and_men = pd.Series(eval(shown.splitlines()[-1], {"np": __import__("numpy")}))
    assert women_and_men["female"] > women_and_men["male"] + 0.2


def test_a_table_of_ones_own(checkout: Path) -> None:
    shown = python(checkout, str(ROOT / "examples/custom_table.py"))
    tonight = pd.read_csv(checkout / "build/orders/tonight.csv")
    scores = pq.ParquetDataset(checkout / "build/orders/scores").read().to_pandas()
    assert sorted(scores["order_id"]) == sorted(tonight["order_id"])
    names = ["order_id", "customer", "comment", "score", "reason_1", "reason_1_effect", "score_rank"]
    assert sorted(scores.columns) == sorted(names)
    # The pair of product and season decides; the linear part cannot see it.
    scores = scores.merge(tonight[["order_id", "product"]])
    by_product = scores.groupby("product")["score"].mean()
    assert by_product["sandals"] > by_product["boots"] + 0.3
    assert by_product["sandals"] > by_product["hat"] + 0.3
    assert "test AUC" in shown
