"""The encoding is learned from the train fold; labels and weights that the task cannot use are refused."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nfm.config import Columns
from nfm.contract.encoder import Encoding
from nfm.contract.errors import DataError
from nfm.features.count import COUNTS, Part
from nfm.features.encoding import make, parts

TRAIN, VALID, TEST = 0, 1, 2
Row = tuple[str, int, str | None, float | None, int]
LABELS: list[Row] = [("label", TRAIN, "0", None, 6), ("label", TRAIN, "1", None, 4), ("label", TEST, "1", None, 3)]


def columns(**changes: Any) -> Columns:
    return Columns.model_validate({"key": ("k",), "label": "y", "categorical": {"c": {}}, **changes})


def counts(rows: list[Row]) -> pa.Table:
    return pa.Table.from_pylist([dict(zip(COUNTS.names, row, strict=True)) for row in rows], schema=COUNTS)


def test_vocabulary_comes_from_the_train_fold_by_count_then_value() -> None:
    rows: list[Row] = [
        ("field:c", TRAIN, "rare", None, 1),
        ("field:c", TRAIN, "b", None, 3),
        ("field:c", TRAIN, "", None, 3),
        ("field:c", TRAIN, "a", None, 3),
        ("field:c", TRAIN, None, None, 9),  # missing is no value
        ("field:c", TEST, "unseen", None, 100),
        ("field:c", VALID, "b", None, 50),
    ]
    made = make(columns(categorical={"c": {"min_count": 2}}), {"c": "text"}, counts(rows + LABELS), "table")
    assert made.ranked["c"]["value"].to_pylist() == ["", "a", "b"]
    assert made.ranked["c"]["count"].to_pylist() == [3, 3, 3]
    assert made.statistics["fields"]["c"] == {
        "vocabulary": 3,
        "distinct": {"train": 4, "valid": 1, "test": 1, "table": 5},
        "missing": {"train": 9, "valid": 0, "test": 0},
        "out_of_vocabulary": {"train": 1, "valid": 0, "test": 100},
    }


def test_rows_and_label_rates() -> None:
    made = make(columns(), {"c": "text"}, counts(LABELS), "table")
    assert made.statistics["rows"] == {"train": 10, "valid": 0, "test": 3}
    assert made.statistics["label_rate"] == {"train": 0.4, "valid": None, "test": 1.0}


def test_a_saved_encoding_is_found_again_and_its_vocabulary_is_a_table(tmp_path: Path) -> None:
    rows: list[Row] = [
        ("field:c", TRAIN, "a", None, 1),
        ("field:c", TRAIN, "b", None, 2),
        ("number:x", TRAIN, None, 4.0, 5),
    ]
    settings = columns(categorical={"c": {"oov_buckets": 2}}, numeric={"x": {"scale": "none"}, "z": {}})
    made = make(settings, {"c": "text"}, counts(rows + LABELS), "table")
    made.save(tmp_path)
    loaded = Encoding.load(tmp_path)
    assert loaded.spec == made.encoding.spec
    assert [n.name for n in loaded.spec.numbers] == ["x", "z"]
    assert pq.read_table(tmp_path / "vocabulary.parquet").to_pylist() == [
        {"field": "c", "value": "b", "id": 3, "count": 2},
        {"field": "c", "value": "a", "id": 4, "count": 1},
    ]
    assert json.loads((tmp_path / "statistics.json").read_text())["numbers"]["x"]["mean"] == 4.0


def test_bucketed_numbers_become_fields() -> None:
    rows: list[Row] = [("number:x", TRAIN, None, float(i), 1) for i in range(8)]
    made = make(columns(numeric={"x": {"buckets": 4}}), {"c": "text"}, counts(rows + LABELS), "table")
    field = made.encoding.spec.fields[1]
    assert (field.name, field.edges, field.size) == ("x", (1.0, 3.0, 5.0), 1 + 4)
    assert made.encoding.spec.numbers == ()
    assert made.statistics["numbers"]["x"]["buckets"] == 4


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ([("label", VALID, None, None, 2)], "holds 2 null labels. Correct"),
        ([("label", TEST, "2", None, 5)], "holds 5 labels that are something else, '2' for one."),
        (
            [("label", TRAIN, "yes", None, 5), ("label", TRAIN, None, None, 1), ("label", TEST, "", None, 7)],
            "holds 1 null labels and 12 labels that are something else, '' for one.",
        ),
    ],
)
def test_wrong_labels_are_refused_with_their_count_and_an_example(wrong: Any, told: str) -> None:
    with pytest.raises(DataError, match="Column 'y' of the table is the label of a binary task") as error:
        make(columns(), {"c": "text"}, counts(LABELS + wrong), "the table")
    assert told in str(error.value)
    assert error.value.exit_code == 3


@pytest.mark.parametrize(("number", "shown"), [(-1.0, "-1.0"), (None, "one that is missing")])
def test_wrong_weights_are_refused(number: float | None, shown: str) -> None:
    rows: list[Row] = [("weight", TRAIN, None, 1.0, 9), ("weight", TRAIN, None, number, 4)]
    with pytest.raises(DataError, match=f"4 rows break that, {shown} for one"):
        make(columns(weight="w"), {"c": "text"}, counts(LABELS + rows), "table")


@pytest.mark.parametrize("rows", [[], [("label", TEST, "1", None, 3), ("label", VALID, "0", None, 2)]])
def test_an_empty_train_fold_is_refused(rows: Any) -> None:
    expected = f"train fold of table is empty: the table has {5 if rows else 0} rows"
    with pytest.raises(DataError, match=expected):
        make(columns(), {"c": "text"}, counts(rows), "table")


def test_every_column_that_is_needed_is_counted_once() -> None:
    settings = columns(
        weight="w",
        categorical={"c": {}, "again": {"column": "c", "min_count": 5}},
        numeric={"x": {}, "x_bucket": {"column": "x", "buckets": 3}},
    )
    assert parts(settings, {"y": "boolean", "c": "date"}) == [
        Part("label", "y", "boolean"),
        Part("weight", "w", None),
        Part("field:c", "c", "date"),
        Part("field:again", "c", "date"),
        Part("number:x", "x", None),
        Part("number:x_bucket", "x", None),
    ]
