"""Tables of pandas, polars, pyarrow and DuckDB get the same scores for the same values, in the table's own library."""

import datetime as dt
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from pyspark.sql import SparkSession

import nfm.scoring
from nfm.config.settings import Config
from nfm.contract.artifact import Network
from nfm.contract.errors import ConfigError, DataError
from nfm.contract.schema import Field, Spec
from nfm.features.dataset import build
from nfm.scoring.local import Scorer
from nfm.scoring.tables import read_table
from tests.scoring.examples import save_model
from tests.scoring.test_tasks import save_model as save_network

# Every type of column that a field or a number can have, with a null in each.
TYPES: dict[str, Any] = {
    "id": pl.Int64,
    "text": pl.String,
    "whole": pl.Int64,
    "share": pl.Float64,
    "yes": pl.Boolean,
    "day": pl.Date,
    "money": pl.Decimal(9, 2),
    "tags": pl.List(pl.String),
    "price": pl.Float64,
}
ROWS: list[tuple[Any, ...]] = [
    (0, "a", 1, 0.5, True, dt.date(2026, 1, 1), "1.50", ["x", "y"], 2.5),
    (1, "b", 2**60 + 1, 1.0, False, dt.date(2026, 1, 2), "2.00", ["x"], None),
    (2, "", 3, None, None, None, None, [], -1.0),
    (3, None, None, float("nan"), True, dt.date(2026, 1, 1), "1.50", None, 0.0),
]


def frame(rows: int = 40) -> pl.DataFrame:
    table = pl.DataFrame(
        [(i, *ROWS[i % 4][1:]) for i in range(rows)], schema={**TYPES, "money": pl.String}, orient="row"
    )
    return table.cast({"money": TYPES["money"]})


@pytest.fixture(scope="module")
def folder(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a model with random weights and a field of each type."""
    folder = tmp_path_factory.mktemp("types")
    frame().with_columns(label=pl.col("id") % 2).write_parquet(folder / "raw.parquet")
    fields: dict[str, Any] = {name: {} for name in ("text", "whole", "share", "yes", "day", "money")}
    columns = {
        "key": ("id",),
        "label": "label",
        "categorical": fields | {"tags": {"bag": True}},
        "numeric": {"price": {}},
    }
    config = Config.model_validate(
        {
            "name": "types",
            "workdir": str(folder),
            "source": {"path": str(folder / "raw.parquet")},
            "columns": columns,
            "split": {"valid": 0.0, "test": 0.0},
            "train": {"early_stopping": None},
        }
    )
    build(spark, config)
    save_model(folder, 1)
    return folder


@pytest.fixture(scope="module")
def scorer(folder: Path) -> Scorer:
    return nfm.scoring.load_model(folder / "model")


def expected(scorer: Scorer, rows: int = 40) -> np.ndarray[Any, Any]:
    """Return the scores of the table as the feature job reads it, in batches of one row."""
    table = frame(rows).to_arrow(compat_level=pl.CompatLevel.oldest())
    return np.concatenate([scorer.score(table.slice(i, 1)).to_numpy() for i in range(rows)])


def from_duckdb(sql: str, **tables: Any) -> duckdb.DuckDBPyRelation:
    connection = duckdb.connect()
    for name, table in tables.items():
        connection.register(name, table)
    return connection.sql(sql)


def as_pandas(table: pl.DataFrame) -> pd.DataFrame:
    arrow: Any = table.to_arrow(compat_level=pl.CompatLevel.oldest())
    frame: pd.DataFrame = arrow.to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get, date_as_object=True)
    return frame


def in_chunks(table: pl.DataFrame) -> pl.DataFrame:
    return pl.concat((table[i : i + 7] for i in range(0, 40, 7)), rechunk=False)


FORMS: dict[str, Callable[[pl.DataFrame], Any]] = {
    "polars": lambda table: table,
    "polars in chunks": in_chunks,
    "polars, other columns between": lambda table: table.select(pl.lit(1).alias("more"), pl.all().reverse()).reverse(),
    "polars, categorical": lambda table: table.cast({"text": pl.Categorical}),
    "polars, categorical in chunks": lambda table: in_chunks(table.cast({"text": pl.Categorical})),
    "polars, enum": lambda table: table.cast({"text": pl.Enum(["b", "unused", "", "a"])}),
    "polars, small types": lambda table: table.cast({"id": pl.UInt8, "whole": pl.UInt64, "price": pl.Float32}),
    "polars, texts": lambda table: table.cast({"whole": pl.String, "day": pl.String, "price": pl.String}),
    "polars, numbers as categories": lambda table: table.cast({"price": pl.String}).cast({"price": pl.Categorical}),
    "pandas": as_pandas,
    "pandas, category": lambda table: as_pandas(table).astype({"text": "category", "day": "category"}),
    "pyarrow": lambda table: table.to_arrow(compat_level=pl.CompatLevel.oldest()),
    "pyarrow with views": lambda table: table.to_arrow(),
    "a batch of pyarrow": lambda table: table.to_arrow().combine_chunks().to_batches()[0],
    "a stream of pyarrow": lambda table: table.to_arrow().to_reader(max_chunksize=9),
    "duckdb": lambda table: from_duckdb("from t", t=table.to_arrow()),
    "duckdb, enum and huge": lambda table: from_duckdb(
        "select * replace (text::enum('a', 'b', '') as text, whole::hugeint as whole) from t", t=table.to_arrow()
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_same_values_have_the_same_scores_in_every_library(folder: Path, scorer: Scorer, form: str) -> None:
    scores = scorer.score(FORMS[form](frame()))
    expected_scores = expected(scorer)
    assert len(np.unique(expected_scores)) == 4
    np.testing.assert_array_equal(np.asarray(scores, np.float32), expected_scores)
    # The dataset that the feature job wrote has the same ids.
    encoding = scorer.artifact.encoding
    (batch,) = read_table(FORMS[form](frame()), encoding.spec).combine_chunks().to_batches()
    encoded = encoding.encode(batch)
    stored = pl.read_parquet(folder / "dataset/**/*.parquet").sort("id")
    for name in ("text", "whole", "share", "yes", "day", "money", "tags"):
        assert pl.Series(encoded[name]).to_list() == stored[name].to_list(), name
    library = {"pandas": pd.Series, "polars": pl.Series}.get(form.split(",")[0].split(" ")[0], pa.Array)
    assert isinstance(scores, library)


def test_the_repr_describes_the_model_without_its_weights(folder: Path, scorer: Scorer) -> None:
    fingerprint = json.loads((folder / "model/metadata.json").read_text())["fingerprint"]
    model = f"'{folder}/model', binary, 7 fields, 1 number, {fingerprint[:12]}…"
    assert repr(scorer) == f"Scorer({model})"
    assert repr(scorer.artifact) == f"Artifact({model})"


def test_pandas_names_that_are_numbers_are_read_as_text() -> None:
    spec = Spec(("id",), (Field("shop", ("7",), ("text",), 1, 2, "shop"),), (), ("digest",))
    table = read_table(pd.DataFrame({3: [0, 1, 2], 7: ["a", None, "unseen"]}), spec)
    assert table.to_pydict() == {"7": ["a", None, "unseen"]}
    with pytest.raises(DataError, match="Column '7' is missing from the table; the table has 3, 8"):
        read_table(pd.DataFrame({3: [0], 8: ["a"]}), spec)


def test_a_result_is_a_series_in_row_order_or_an_arrow_array(scorer: Scorer) -> None:
    table = frame()
    series = scorer.score(table)
    assert (series.name, series.dtype) == ("score", pl.Float32)
    index = pd.Index([f"row{i}" for i in range(40)], name="which")
    column = scorer.score(as_pandas(table).set_index(index))
    assert (column.name, column.dtype) == ("score", np.float32)
    pd.testing.assert_index_equal(column.index, index)
    assert scorer.score(table.to_arrow()).type == pa.float32()


def test_reasons_and_classes_are_a_frame_of_the_same_library(folder: Path, scorer: Scorer, tmp_path: Path) -> None:
    table = frame()
    names = ["score", "reason_1", "reason_1_effect", "reason_2", "reason_2_effect"]
    with_reasons = scorer.score(table, explain=2)
    assert isinstance(with_reasons, pl.DataFrame)
    assert with_reasons.columns == names
    in_pandas = scorer.score(as_pandas(table).set_axis(range(100, 140)), explain=2)
    assert (in_pandas.columns.tolist(), in_pandas.index[0]) == (names, 100)
    assert in_pandas["reason_1"].tolist() == with_reasons["reason_1"].to_list()
    assert scorer.score(from_duckdb("from t", t=table.to_arrow()), explain=2).column_names == names

    save_network(folder, tmp_path / "model", Network("multiclass", 3, (4,), "relu", ("a", "b c")))
    multiclass = nfm.scoring.load_model(tmp_path / "model")
    classes = multiclass.score(table)
    assert (type(classes), classes.columns) == (pl.DataFrame, ["score_a", "score_b c"])
    np.testing.assert_allclose(classes.sum_horizontal().to_numpy(), 1, atol=1e-6)


@pytest.mark.parametrize("explain", [0, 1])
def test_an_empty_table_has_no_scores(scorer: Scorer, explain: int) -> None:
    empty = frame().clear()
    for table in (empty, as_pandas(empty), empty.to_arrow(), from_duckdb("from t limit 0", t=frame().to_arrow())):
        assert len(scorer.score(table, explain)) == 0


def test_mistakes_are_reported(scorer: Scorer) -> None:
    table = frame()
    with pytest.raises(DataError, match=r"Column 'text' is missing from the table; the table has id, whole, .*train"):
        scorer.score(table.drop("text"))
    with pytest.raises(DataError, match=r"Column 'text' is missing from the table; the table has id, whole"):
        scorer.score(from_duckdb("select * exclude (text) from t", t=table.to_arrow()))
    with pytest.raises(DataError, match=r"score got a polars.*LazyFrame, which is not a table in memory.*collect\(\)"):
        scorer.score(table.lazy())
    with pytest.raises(DataError, match=r"score got a builtins.dict, which is not a table in memory"):
        scorer.score({"text": ["a"]})
    with pytest.raises(DataError, match=r"The table's columns cannot be read"):
        scorer.score(table["text"])
    with pytest.raises(DataError, match="Column 'whole' of the table now contains floats, but the vocabulary was made"):
        scorer.score(table.cast({"whole": pl.Float64}))
    duplicated = pa.table([*table.to_arrow().columns, table.to_arrow()["text"]], [*table.columns, "text"])
    with pytest.raises(DataError, match="Column 'text' occurs 2 times in the table"):
        scorer.score(duplicated)
    with pytest.raises(ConfigError, match="explain is -1, but the number of reasons"):
        scorer.score(table, explain=-1)


def test_arrow_is_scored_without_pandas_and_polars(folder: Path) -> None:
    program = f"""
import sys
class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name in ("pandas", "polars", "duckdb", "pyspark", "tensorflow"):
            raise ImportError(name)
sys.meta_path.insert(0, NotInstalled())
import nfm, pyarrow.parquet
print(len(nfm.load_model({str(folder / "model")!r}).score(pyarrow.parquet.read_table({str(folder / "raw.parquet")!r}))))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "40\n"), done.stderr
