"""Keys that occur more than once are counted exactly, as pandas counts them, whatever the output and the scan."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from nfm.config.source import Source
from nfm.contract.errors import DataError, GateError
from nfm.features.dataset import build
from nfm.scoring import keys as module
from nfm.scoring.keys import KeyWriter, count_duplicates
from nfm.scoring.score import score_table
from nfm.scoring.summary import summary
from nfm.table.write import WrittenFile
from tests.scoring.examples import config, save_model


@pytest.fixture(scope="module")
def shop(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Working folder with a model whose key is (id, city), and a table with keys that occur more than once."""
    folder = tmp_path_factory.mktemp("shop")
    rng = np.random.default_rng(3)
    cities = ["Köln", "a/b", "100%", "", None]
    rows = [
        {
            "id": None if i % 11 == 0 else 2**60 + int(rng.integers(30)),
            "city": cities[int(rng.integers(5))],
            "colour": ["red", "blue", None][i % 3],
            "size": i % 3,
            "price": 1.0,
            "label": i % 2,
        }
        for i in range(120)
    ]
    names = [("id", pa.int64()), ("city", pa.string()), ("colour", pa.string()), ("size", pa.int32())]
    table = pa.Table.from_pylist(rows, pa.schema([*names, ("price", pa.float64()), ("label", pa.int32())]))
    (folder / "raw").mkdir()
    for i in range(3):
        pq.write_table(table.slice(40 * i, 40), folder / f"raw/{i}.parquet", row_group_size=17)
    build(spark, shop_config(folder))
    save_model(folder, 1)
    return folder


def shop_config(folder: Path, scan: str = "auto", **score: Any) -> Any:
    base = config(folder, {"path": str(folder / "raw"), "scan": scan}, **score)
    return base.model_copy(update={"columns": base.columns.model_copy(update={"key": ("id", "city")})})


def expected(shop: Path, empty_is_null: bool = False) -> tuple[int, int, int]:
    """Return how many keys occur more than once, how many rows have them, and how many rows have a null."""
    table = pq.read_table(shop / "raw").select(["id", "city"]).to_pylist()
    keys = pd.Series([(row["id"], row["city"] or None if empty_is_null else row["city"]) for row in table])
    counts = keys.value_counts()
    counts = counts[counts > 1]
    return len(counts), int(counts.sum()), int(keys.map(lambda key: None in key).sum())


@pytest.mark.parametrize(
    ("scan", "score"),
    [
        ("parquet", {}),
        ("spark", {"format": "csv"}),
        ("parquet", {"partition_by": ("city",)}),
        ("spark", {"partition_by": ("city",), "rank": True}),
    ],
)
def test_counts_equal_those_of_pandas(
    spark: SparkSession, shop: Path, tmp_path: Path, scan: str, score: dict[str, Any]
) -> None:
    settings = shop_config(shop, scan, output=str(tmp_path / "scores"), **score)
    report = score_table(spark, settings)
    # An empty string becomes null in the name of a folder.
    keys, rows, nulls = expected(shop, empty_is_null="partition_by" in score)
    found = report["duplicate_keys"]
    assert keys > 10
    assert (found["keys"], found["rows"], found["null_rows"]) == (keys, rows, nulls)
    assert json.loads((tmp_path / "scores/_report.json").read_text())["duplicate_keys"] == found
    table = pd.Series([(row["id"], row["city"]) for row in pq.read_table(shop / "raw").to_pylist()]).value_counts()
    most, least = found["examples"]
    if not score:
        key = most["key"]
        assert (table[key["id"], key["city"]], most["rows"], least["rows"]) == (table.max(), table.max(), 2)
    text = summary(settings, report)
    assert f"  keys      {keys} keys occur in more than one row ({rows} rows), for example id=" in text
    note = " (an empty text counts as null in the names of folders: city)" if "partition_by" in score else ""
    assert f"  keys      {nulls} rows have a null in the key{note}\n" in text
    assert f"{keys} keys occur in more than one row" in (tmp_path / "scores/_report.html").read_text()
    assert not list((tmp_path / "scores").rglob("*.npy"))


def test_a_gate_refuses_duplicates_and_the_next_run_resumes(
    spark: SparkSession, shop: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keys, rows, nulls = expected(shop)
    output = str(tmp_path / "scores")
    limit = keys - 1
    with pytest.raises(GateError, match=rf"{keys} keys occur in more than one row .*max_duplicate_keys is {limit}\n"):
        score_table(spark, shop_config(shop, output=output, gates={"max_duplicate_keys": limit}))
    assert not (tmp_path / "scores").exists()
    with caplog.at_level("INFO"):
        report = score_table(spark, shop_config(shop, output=output, gates={"max_duplicate_keys": keys}))
    assert "an earlier run has already scored 120 rows" in caplog.text
    found = report["duplicate_keys"]
    assert (found["keys"], found["rows"], found["null_rows"]) == (keys, rows, nulls)


def test_an_empty_text_in_the_folders_of_the_source_is_null(spark: SparkSession, shop: Path, tmp_path: Path) -> None:
    table = spark.read.parquet(str(shop / "raw"))
    table.write.partitionBy("city").parquet(str(tmp_path / "raw"))  # Spark has one folder for both
    settings = shop_config(shop, output=str(tmp_path / "scores"))
    settings = settings.model_copy(update={"source": Source(path=str(tmp_path / "raw"))})
    report = score_table(spark, settings)
    found = report["duplicate_keys"]
    assert (found["keys"], found["rows"], found["null_rows"]) == expected(shop, empty_is_null=True)
    assert "rows have a null in the key (an empty text counts as null in the names of folders: city)" in summary(
        settings, report
    )


def test_the_key_of_a_dataset_is_not_its_ids(spark: SparkSession, shop: Path, tmp_path: Path) -> None:
    """Score a dataset whose key (size, city) is also a field, and the folders of the dataset."""
    base = shop_config(shop)
    changes = {"columns": base.columns.model_copy(update={"key": ("size", "city")}), "workdir": str(tmp_path)}
    settings = base.model_copy(update=changes)
    settings = settings.model_copy(update={"dataset": settings.dataset.model_copy(update={"partition_by": ("city",)})})
    build(spark, settings)
    save_model(tmp_path, 1)
    score = {"encoded": True, "source": Source(path=str(tmp_path / "dataset"))}
    settings = settings.model_copy(update={"score": settings.score.model_copy(update=score)})
    report = score_table(spark, settings)
    rows = pq.read_table(tmp_path / "scores").to_pylist()
    assert set(rows[0]) == {"size", "city", "score"}
    keys = [(row["size"], row["city"]) for row in pq.read_table(shop / "raw").to_pylist()]
    counts = pd.Series(keys).value_counts()
    assert pd.Series([(row["size"], row["city"]) for row in rows]).value_counts().to_dict() == counts.to_dict()
    found = report["duplicate_keys"]
    assert (found["keys"], found["rows"]) == ((counts > 1).sum(), counts[counts > 1].sum())
    assert found["null_rows"] == sum(city is None for _, city in keys)


def test_a_nested_key_is_refused(spark: SparkSession, shop: Path, tmp_path: Path) -> None:
    table = pq.read_table(shop / "raw")
    cities = pa.array([[city] for city in table["city"].to_pylist()])
    pq.write_table(table.set_column(table.schema.get_field_index("city"), "city", cities), tmp_path / "raw.parquet")
    settings = shop_config(shop).model_copy(update={"source": Source(path=str(tmp_path / "raw.parquet"))})
    with pytest.raises(DataError, match=r"^Column 'city' of .* is list<.*>, but the columns of columns\.key .* scalar"):
        score_table(spark, settings)


def test_counting_can_be_switched_off(spark: SparkSession, shop: Path, tmp_path: Path) -> None:
    settings = shop_config(shop, output=str(tmp_path / "scores"), count_duplicate_keys=False)
    report = score_table(spark, settings)
    assert report["duplicate_keys"] is None
    assert "  keys  " not in summary(settings, report)


@pytest.mark.parametrize("run_rows", [1 << 22, 50])
def test_many_ranges_of_hashes(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_rows: int
) -> None:
    monkeypatch.setattr(module, "_RUN_ROWS", run_rows)
    rng = np.random.default_rng(1)
    names = pa.array([f"k{n}" for n in rng.integers(0, 300, 400)])
    names = pa.array([*names.to_pylist()[:-2], None, None])
    writer, files = KeyWriter(tmp_path), []
    for i in range(4):
        part = pa.table({"count": names.slice(100 * i, 100)})  # the name of a function in Spark
        writer.add([part["count"].chunk(0)])
        path = tmp_path / f"{i}.parquet"
        pq.write_table(part, path)
        files.append(WrittenFile("", str(path), 100, path.stat().st_size))
    found = count_duplicates(spark, writer.close(), files, pa.schema([("count", pa.string())]), tmp_path / "scratch")
    counts = pd.Series(names.to_pylist(), dtype=object).value_counts(dropna=False)
    counts = counts[counts > 1]
    assert (found["keys"], found["rows"]) == (len(counts), counts.sum())
    assert found["examples"][0]["rows"] == counts.max()
    assert not (tmp_path / "scratch").exists()
