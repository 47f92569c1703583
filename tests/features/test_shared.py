"""Columns of different types with one vocabulary: the same value has the same id, as computed in plain Python."""

import random
from collections import Counter
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from nfm.config.settings import Config
from nfm.contract.encoder import Encoding
from nfm.contract.errors import DataError
from nfm.features.dataset import Growth, build, prepare
from tests.features.examples import dataset_rows

DAY = date(2026, 11, 20)
TYPES: dict[str, tuple[pa.DataType, list[Any]]] = {
    "whole": (pa.int64(), [3, 7, -1, None]),
    "real": (pa.float64(), [3.0, 0.5, -0.0, float("nan"), None]),
    "money": (pa.decimal128(9, 2), [Decimal("3.00"), Decimal("0.50"), Decimal("1.25")]),
    "flag": (pa.bool_(), [True, False, None]),
    "day": (pa.date32(), [DAY, date(1999, 1, 1)]),
    "text": (pa.string(), ["3", "007", "7", "3.0", "0.5", "true", "True", "2026-11-20", "0", " 3", "", None]),
    "bag": (pa.string(), ["3;007", "true; 3", "", "7;;2026-11-20", None]),
    "list": (pa.list_(pa.int32()), [[3, 7], [], [None, -1], None]),
}
NAMES = list(TYPES)


def text(value: Any) -> str | None:
    """Return a value's text: str(), without trailing zeros; a string is not changed."""
    if value is None or value != value:
        return None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float | Decimal):
        return str(int(value)) if value == int(value) else str(value).rstrip("0")
    return str(value)


def members(name: str, value: Any) -> list[str | None]:
    if name == "bag":
        return [None] if value is None else value.split(";") if value else []
    if name == "list":
        return [None] if value is None else [text(member) for member in value]
    return [text(value)]


def write(folder: Path, seed: int) -> list[dict[str, Any]]:
    rng = random.Random(seed)
    rows = [
        {"id": i, "y": i % 2, "fold": rng.choice(["train", "train", "valid", "test"])}
        | {name: rng.choice(values) for name, (_, values) in TYPES.items()}
        for i in range(60)
    ]
    folder.mkdir()
    types = [("id", pa.int32()), ("y", pa.int32()), ("fold", pa.string()), *((n, t) for n, (t, _) in TYPES.items())]
    pq.write_table(pa.Table.from_pylist(rows, pa.schema(types)), folder / "0.parquet", row_group_size=25)
    return rows


def settings(workdir: Path, raw: Path, owner: str, scan: str) -> Config:
    bags: dict[str, dict[str, Any]] = {"bag": {"bag": True, "delimiter": ";"}, "list": {"bag": True}}
    fields = {n: bags.get(n, {}) | ({} if n == owner else {"share_with": owner}) for n in NAMES}
    content = {
        "name": "shared",
        "workdir": str(workdir),
        "source": {"path": str(raw), "scan": scan},
        "columns": {"key": ("id",), "label": "y", "categorical": fields},
        "split": {"column": "fold"},
    }
    return Config.model_validate(content)


def ids_by_hand(rows: list[dict[str, Any]], vocabulary: list[str], name: str) -> list[list[int]]:
    return [
        [0 if m is None else 2 + vocabulary.index(m) if m in vocabulary else 1 for m in members(name, row[name])]
        for row in rows
    ]


def ranked(rows: list[dict[str, Any]]) -> list[str]:
    counts = Counter(
        m for row in rows if row["fold"] == "train" for n in NAMES for m in members(n, row[n]) if m is not None
    )
    return sorted(counts, key=lambda value: (-counts[value], value.encode()))


def check(rows: list[dict[str, Any]], workdir: Path, vocabulary: list[str]) -> None:
    table = pq.read_table(workdir / "encoding/vocabulary.parquet")
    assert table["value"].to_pylist() == vocabulary
    encoded = sorted(dataset_rows(workdir / "dataset"), key=lambda row: int(row["id"]))
    for name in NAMES:
        found = [row[name] if isinstance(row[name], list) else [row[name]] for row in encoded]
        assert found == ids_by_hand(rows, vocabulary, name), name


@pytest.mark.parametrize(("owner", "scan"), [("whole", "parquet"), ("text", "spark"), ("bag", "parquet")])
def test_the_same_value_has_one_id_in_all_columns(spark: SparkSession, tmp_path: Path, owner: str, scan: str) -> None:
    rows = write(tmp_path / "raw", 1)
    build(spark, settings(tmp_path, tmp_path / "raw", owner, scan))
    vocabulary = ranked(rows)
    assert {"3", "007", "7", "3.0", "0.5", "true", "True", "2026-11-20"} <= set(vocabulary)
    check(rows, tmp_path, vocabulary)
    spec = Encoding.load(tmp_path / "encoding").spec
    assert {field.name: field.kinds[0] for field in spec.fields} == {
        "whole": "number", "real": "number", "money": "number", "flag": "boolean", "day": "date",
        "text": "text", "bag": "text", "list": "number",
    }  # fmt: skip


def test_tables_to_score_and_growth_keep_the_kinds_of_the_columns(spark: SparkSession, tmp_path: Path) -> None:
    rows = write(tmp_path / "raw", 1)
    build(spark, settings(tmp_path / "one", tmp_path / "raw", "whole", "parquet"))
    vocabulary, encoding = ranked(rows), Encoding.load(tmp_path / "one/encoding")

    # The same values in other types: numbers as text are numbers, so 007 is 7 there, but not in the text column.
    tonight = pa.Table.from_pylist(rows, pq.read_schema(tmp_path / "raw/0.parquet")).to_batches()[0]
    whole = pa.array([None if row["whole"] is None else f"00{row['whole']}.0".replace("00-", "-") for row in rows])
    tonight = tonight.set_column(tonight.schema.names.index("whole"), "whole", whole)
    encoding.check(tonight.schema, "tonight")
    encoded = encoding.encode(tonight)
    for name in NAMES:
        found = [ids if isinstance(ids, list) else [ids] for ids in encoded[name].tolist()]
        assert found == ids_by_hand(rows, vocabulary, name), name

    # A text column that became numbers would lose 007.
    numbers = tonight.set_column(tonight.schema.names.index("text"), "text", pa.array([7] * len(rows)))
    with pytest.raises(DataError, match=r"Column 'text' .* now contains number values, but .* contains the text '"):
        encoding.check(numbers.schema, "tonight")

    newer = write(tmp_path / "newer", 2)
    two = settings(tmp_path / "two", tmp_path / "newer", "whole", "parquet")
    build(spark, two, prepare(spark, two, Growth(tmp_path / "one/encoding", False)))
    added = [value for value in ranked(newer) if value not in vocabulary]
    check(newer, tmp_path / "two", [*vocabulary, *added])
