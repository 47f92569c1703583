"""The examples run as a user runs them: in other processes, in a folder that looks like a checkout."""

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


# Runs examples one after another, with one start of Spark and TensorFlow, and prints what each prints, or its error.
RUN = """
import contextlib, io, json, runpy, sys, traceback
from pathlib import Path
shown = {}
for sys.argv in json.loads(sys.argv[1]):
    path = sys.argv[0]
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        try:
            runpy.run_path(path, run_name="__main__")
        except BaseException:
            traceback.print_exc(file=printed)
    shown[Path(path).stem] = printed.getvalue()
print(json.dumps(shown))
"""


@pytest.fixture(scope="module")
def shown(checkout: Path) -> dict[str, str]:
    """What each example prints."""
    cells = json.loads((ROOT / "examples/titanic.ipynb").read_text())["cells"]
    assert all(not cell.get("outputs") for cell in cells), "clear the outputs before a commit"
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    code[-1] = f"print(dict({code[-1]}))"
    notebook = checkout / "notebook.py"
    notebook.write_text("\n\n".join(code))
    titanic, sql, orders = (str(ROOT / f"examples/{name}.py") for name in ("titanic", "sql_scoring", "custom_table"))
    # Notebook and script train in one folder. The example of SQL uses the script's model, and stops its session.
    commands = [[str(notebook)], [titanic, "train.epochs=4"], [sql], [orders]]
    found: dict[str, str] = json.loads(python(checkout, "-c", RUN, json.dumps(commands)).splitlines()[-1])
    return found


def test_the_script_trains_and_explains_the_scores(checkout: Path, shown: dict[str, str]) -> None:
    metrics = json.loads((checkout / "build/titanic/model/metadata.json").read_text())["metrics"]["test"]
    titanic = shown["titanic"]
    assert f"test AUC {metrics['auc']:.3f}" in titanic
    assert metrics["auc"] > 0.7
    header, *rows = titanic[titanic.index("Name") :].splitlines()
    assert header.split() == ["Name", "Survived", "score", "reason_1", "reason_1_effect", "reason_2", "reason_2_effect"]
    assert len(rows) == 10


def test_sql_gives_the_scores_of_the_model(shown: dict[str, str]) -> None:
    by_group = [line.split("|")[1:-1] for line in shown["sql_scoring"].splitlines() if line.count("|") == 5][1:]
    assert len(by_group) == 6, shown["sql_scoring"]
    assert sum(int(count) for _, _, count, _ in by_group) == 891
    best = {sex.strip() for _, sex, _, _ in by_group[:2]}
    assert best == {"female"}


def test_the_notebook_runs_from_top_to_bottom(shown: dict[str, str]) -> None:
    assert "Traceback" not in shown["notebook"], shown["notebook"]
    women_and_men = pd.Series(eval(shown["notebook"].splitlines()[-1], {"np": __import__("numpy")}))
    assert women_and_men["female"] > women_and_men["male"] + 0.2


def test_a_table_of_ones_own(checkout: Path, shown: dict[str, str]) -> None:
    assert "test AUC" in shown["custom_table"], shown["custom_table"]
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
