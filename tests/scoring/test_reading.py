"""Scoring reads text files as training did, whatever tonight's values look like."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from nfm.config.score import Score
from nfm.config.settings import Config
from nfm.contract.encoder import Encoding
from nfm.contract.errors import DataError
from nfm.contract.reading import READING, Reading, scoring_types
from nfm.features.dataset import build
from nfm.scoring.score import score_table
from tests.scoring.examples import save_model

HEADER = "id,shop,zip,items,price,label\n"
# shop was integers in training, and zip had one value that is not digits; items and price are numbers.
TRAINING = HEADER + "".join(
    f"{i},{i % 3},{['007', '7', 'A1', ''][i % 4]},{i % 5},{i % 4}.5,{i % 2}\n" for i in range(40)
)
TYPES = {"id": "int", "shop": "int", "zip": "string", "items": "int", "price": "double", "label": "int"}


def config(folder: Path, table: str, **source: Any) -> Config:
    return Config.model_validate(
        {
            "name": "shop",
            "workdir": str(folder),
            "source": {"format": "csv", "path": str(folder / table), **source},
            "columns": {
                "key": ("id",),
                "label": "label",
                "categorical": {"shop": {}, "zip": {"min_count": 1}},
                "numeric": {"items": {}, "price": {}},
            },
            "split": {"valid": 0.0, "test": 0.0},
            "train": {"early_stopping": None},
        }
    )


@pytest.fixture(scope="module")
def folder(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("csv")
    (folder / "training.csv").write_text(TRAINING)
    build(spark, config(folder, "training.csv"))
    save_model(folder, 1)
    return folder


def scored(spark: SparkSession, folder: Path, rows: str, header: str = HEADER, **source: Any) -> dict[int, float]:
    (folder / "tonight.csv").write_text(header + rows)
    score_table(spark, config(folder, "tonight.csv", **source))
    files = sorted((folder / "scores").glob("*.parquet"))
    return {row["id"]: row["score"] for file in files for row in pq.ParquetFile(file).read().to_pylist()}


def test_the_encoding_stores_options_and_types(folder: Path) -> None:
    reading = Encoding.load(folder / "encoding").reading
    assert reading == Reading("csv", {"header": "true", "inferschema": "true", "escape": '"'}, TYPES)
    assert Encoding.load(folder / "model/encoding").reading == reading


def test_the_same_value_has_the_same_score(spark: SparkSession, folder: Path) -> None:
    as_in_training = scored(spark, folder, "1,1,007,2,0.5,0\n2,1,7,2,1.0,0\n3,2,A1,3,2.0,0\n4,,,,,0\n")
    assert len(set(as_in_training.values())) == 4
    # Prices are integers, and pandas wrote integers with nulls as floats. The columns have another order.
    header = "label,price,note,zip,shop,items,id\n"
    tonight = "0,0.5,x,007,1.0,2.0,1\n0,1,y,7,1,2,2\n0,2,,A1,2.0,3.0,3\n0,,,,,,4\n"
    assert scored(spark, folder, tonight, header) == as_in_training
    digits_only = "0,0.5,x,007,1,2,1\n0,1,y,7,1,2,2\n"
    assert scored(spark, folder, digits_only, header) == {i: as_in_training[i] for i in (1, 2)}


def test_an_unseen_text_in_a_column_of_integers(spark: SparkSession, folder: Path) -> None:
    seen = scored(spark, folder, "1,99,007,2,0.5,0\n")
    assert scored(spark, folder, "1,A7,007,2,0.5,0\n") == seen  # both are out-of-vocabulary


def test_a_number_that_is_not_one(spark: SparkSession, folder: Path) -> None:
    with pytest.raises(DataError, match=r"a row has the value 'few' in column 'items', whose type is double"):
        scored(spark, folder, "1,1,007,few,0.5,0\n")
    assert scored(spark, folder, "1,1,007,few,0.5,0\n2,1,7,2,1.0,0\n", on_bad_row="skip").keys() == {2}
    # A column that the model does not read may have any value.
    assert scored(spark, folder, "1,1,007,2,0.5,unknown\n").keys() == {1}


def test_columns_of_the_output_have_the_types_of_the_training(spark: SparkSession, folder: Path) -> None:
    (folder / "tonight.csv").write_text(f"{HEADER}1,2,007,7,0.5,0\n")
    score = Score(columns=("items", "zip", "shop"))
    score_table(spark, config(folder, "tonight.csv", where="shop > 1").model_copy(update={"score": score}))
    (path,) = (folder / "scores").glob("*.parquet")
    row = pq.ParquetFile(path).read().to_pylist()[0]
    assert (row["items"], row["zip"], row["shop"]) == (7, "007", 2)


def test_the_key_of_the_output_is_not_changed(spark: SparkSession, folder: Path) -> None:
    with pytest.raises(DataError, match=r"'007' in column 'id', whose type is int"):
        scored(spark, folder, "007,1,007,2,0.5,0\n7,1,7,2,1.0,0\n")


def test_separators_of_thousands(spark: SparkSession, tmp_path: Path) -> None:
    shops, items = ["1.234", "17", "5.000"], ["2.500", "3", "250"]
    rows = "".join(f"{i};{shops[i % 3]};7;{items[i % 3]};1;{i % 2}\n" for i in range(24))
    header, options = HEADER.replace(",", ";"), {"sep": ";", "locale": "de-DE"}
    (tmp_path / "training.csv").write_text(header + rows)
    types = {"shop": "decimal(18,0)", "items": "decimal(18,0)"}
    build(spark, config(tmp_path, "training.csv", options=options, types=types))
    save_model(tmp_path, 1)
    tonight = "1;1.234;7;2.500;1;0\n2;1234;7;2500;1;0\n3;A7;7;2.500;1;0\n4;99;7;2500;1;0\n"
    found = scored(spark, tmp_path, tonight, header)  # with the options and the types of the training
    assert found[1] == found[2] != found[3]
    assert found[3] == found[4]  # both are out-of-vocabulary


def test_types_for_scoring(folder: Path) -> None:
    spec = Encoding.load(folder / "encoding").spec
    reading = Reading("csv", {}, TYPES).for_scoring(spec, ["id"])
    assert (reading.rounded, reading.grouped, reading.kept) == (["items"], [], ["id"])
    assert scoring_types(spec, TYPES) == TYPES | {"shop": "string", "items": "double"}
    assert scoring_types(spec, {}) == {"shop": "string", "zip": "string", "items": "double", "price": "double"}
    assert scoring_types(spec, TYPES, ["items", "label"]) == TYPES | {"shop": "string"}
    decimals = TYPES | {"shop": "decimal(38,0)", "price": "decimal(18,2)"}
    assert scoring_types(spec, decimals) == decimals | {"shop": "string", "items": "double"}
    assert Reading("csv", {}, decimals).for_scoring(spec).grouped == ["shop"]


def test_an_encoding_of_an_older_version(spark: SparkSession, folder: Path) -> None:
    path = folder / "encoding" / READING
    content = path.read_text()
    try:
        path.unlink()
        assert Encoding.load(folder / "encoding").reading is None
        path.write_text("{}[")
        with pytest.raises(DataError, match=r"reading\.json cannot be parsed.*nfm features"):
            Encoding.load(folder / "encoding")
    finally:
        path.write_text(content)


def test_a_model_of_an_older_version_keeps_the_types_that_spark_infers(spark: SparkSession, tmp_path: Path) -> None:
    # Older versions read 12D and 007 as the numbers 12 and 7, so these are the values that such a model knows.
    shops, zips = ["12.0", "3.5", "1e1", ""], ["7", "12", ""]
    rows = "".join(f"{i},{shops[i % 4]},{zips[i % 3]},1,2,{i % 2}\n" for i in range(24))
    (tmp_path / "training.csv").write_text(HEADER + rows)
    types = {"id": "int", "shop": "double", "zip": "int", "items": "int", "price": "int", "label": "int"}
    build(spark, config(tmp_path, "training.csv", types=types))
    (tmp_path / "encoding" / READING).unlink()
    save_model(tmp_path, 1)
    tonight = "1,12D,007,1,2,0\n2,12.0,7,1,2,0\n3,3.5,12,1,2,0\n4,99D,7,1,2,0\n"
    found = scored(spark, tmp_path, tonight, options={"header": True, "inferSchema": True})
    assert found[1] == found[2]
    assert len(set(found.values())) == 3


@pytest.mark.parametrize("layout", ["parquet", "spark"])
def test_a_text_of_a_folder_that_spark_reads_as_a_number(spark: SparkSession, tmp_path: Path, layout: str) -> None:
    def write(table: str, shops: list[str]) -> Config:
        for i, shop in enumerate(shops):
            rows = pa.table(
                {"id": [i, i + 100, i + 200, i + 300], "label": [0, 1, 0, 1], "city": ["A", None, "B", "A"]}
            )
            folder = tmp_path / table / f"shop={shop}"
            folder.mkdir(parents=True)
            pq.write_table(rows, folder / "rows.parquet")
        where = {} if layout == "parquet" else {"where": "coalesce(city, 'A') < 'Z'"}
        return Config.model_validate(
            {
                "name": "shop",
                "workdir": str(tmp_path / "work"),
                "source": {"path": str(tmp_path / table), **where},
                "columns": {"key": ("id",), "label": "label", "categorical": {"shop": {"min_count": 1}, "city": {}}},
                "split": {"valid": 0.0, "test": 0.0},
                "train": {"early_stopping": None},
            }
        )

    build(spark, write("training", ["x", "7", "2026-01-05"]))  # texts, because x is not a number
    save_model(tmp_path / "work", 1)
    for table, shop in (("zeros", "007"), ("float", "7.0"), ("exponent", "7e0")):
        with pytest.raises(DataError, match=rf"column 'shop' the value '{shop}'.*TypeInference\.enabled=false"):
            score_table(spark, write(table, [shop]))
    score_table(spark, write("integer", ["7"]))  # the number 7 has the same text
    score_table(spark, write("date", ["2026-01-05", "__HIVE_DEFAULT_PARTITION__"]))
    spark.conf.set("spark.sql.sources.partitionColumnTypeInference.enabled", "false")
    try:
        score_table(spark, write("both", ["7", "007", "99"]))
    finally:
        spark.conf.unset("spark.sql.sources.partitionColumnTypeInference.enabled")
    files = (tmp_path / "work/scores").glob("*.parquet")
    found = {row["id"]: row["score"] for path in files for row in pq.ParquetFile(path).read().to_pylist()}
    assert found[0] != found[1] == found[2]  # 007 and 99 are out-of-vocabulary, 7 is not
