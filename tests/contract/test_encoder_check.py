"""Loading an encoding, and checking a table against it before any work."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from nfm.contract.columns import check_columns
from nfm.contract.encoder import Encoding
from nfm.contract.errors import DataError
from nfm.contract.schema import Bag, Field
from nfm.contract.values import canonical_text

Write = Callable[..., Encoding]
Make = Callable[..., Encoding]

SCHEMA = pa.schema(
    [
        ("ignored", pa.timestamp("us")),
        ("color", pa.string()),
        ("size", pa.float64()),
        ("age", pa.int32()),
        ("price", pa.string()),
        ("kg", pa.float32()),
    ]
)


@pytest.fixture
def encoding(write_encoding: Write, tmp_path: Path) -> Encoding:
    write_encoding(tmp_path / "encoding")
    return Encoding.load(tmp_path / "encoding")


def test_check_names_the_missing_and_the_existing_columns(encoding: Encoding) -> None:
    with pytest.raises(DataError) as refused:
        encoding.check(SCHEMA.remove(1), "raw.csv")
    assert str(refused.value) == (
        "Column 'color' is missing from raw.csv; the table has ignored, size, age, price, kg. "
        "The model was trained with the columns in its encoding/spec.json: provide a column with that name, for "
        "example through a view, or train a model without it."
    )
    with pytest.raises(
        DataError, match=r"Columns 'color', 'size' are missing from raw.csv; the table has ignored, age"
    ):
        encoding.check(SCHEMA.remove(1).remove(1), "raw.csv")


def test_a_table_without_columns_is_refused() -> None:
    with pytest.raises(DataError, match=r"Column 'a' is missing from empty.csv; the table has no columns\."):
        check_columns(["a"], pa.schema([]), "empty.csv", "")


@pytest.mark.parametrize(
    ("wanted", "names", "hint"),
    [
        (["order_id"], ["orderid", "country"], "Did you mean 'orderid'? "),
        (["cuntry", "zip", "Order_ID"], ["order_id", "country"], "Did you mean 'country', 'order_id'? "),
        (["cuntry", "countri"], ["country"], "Did you mean 'country'? "),
        (["zip"], ["order_id", "country"], ""),
        (["ID"], ["country", "id"], "Did you mean 'id'? "),
        (["a", "b"], ["a;b;c"], 'Its only column looks like several: for a CSV file, set options: {sep: ";"}. '),
        (["a", "b"], ["a\tb"], 'Its only column looks like several: for a CSV file, set options: {sep: "\\t"}. '),
        (["a", "b"], ["_c0", "_c1"], "If its files have a header, set source.options.header: true. "),
    ],
)
def test_a_missing_column_comes_with_a_hint(wanted: list[str], names: list[str], hint: str) -> None:
    schema = pa.schema([(name, pa.int8()) for name in names])
    with pytest.raises(DataError) as error:
        check_columns(wanted, schema, "raw.csv", "It is the key.")
    assert str(error.value).endswith(f"; the table has {', '.join(names)}. {hint}It is the key.")


def test_a_column_that_occurs_twice_is_refused() -> None:
    schema = pa.schema([("a", pa.int8()), ("b", pa.int8()), ("a", pa.string())])
    check_columns(["b"], schema, "raw.csv", "")
    with pytest.raises(DataError, match=r"Column 'a' occurs 2 times in raw.csv.*the table has a, b, a\."):
        check_columns(["b", "a"], schema, "raw.csv", "")


@pytest.mark.parametrize(
    ("column", "type_", "message"),
    [
        ("color", pa.int64(), "now contains number values, but the vocabulary contains the text '(red|blue)'"),
        ("color", pa.date32(), "now contains date values, but the vocabulary contains the text '(red|blue)'"),
        ("size", pa.bool_(), "now contains boolean values, but the vocabulary was made from number values"),
        ("size", pa.list_(pa.int8()), "is list<item: int8>: a categorical field takes text.* Give the field bag: true"),
        ("price", pa.date32(), r"is date32\[day\]: a numeric column takes integers, floats"),
        ("age", pa.timestamp("us"), r"is timestamp\[us\]: a numeric column takes integers, floats"),
    ],
)
def test_check_refuses_a_changed_type(encoding: Encoding, column: str, type_: pa.DataType, message: str) -> None:
    changed = SCHEMA.set(SCHEMA.get_field_index(column), pa.field(column, type_))
    with pytest.raises(DataError, match=f"^Column '{column}' of raw.csv {message}") as refused:
        encoding.check(changed, "raw.csv")
    assert refused.value.exit_code == 3


def test_check_accepts_another_type_with_the_same_values(encoding: Encoding) -> None:
    for type_ in (pa.string(), pa.int8(), pa.decimal128(9, 2), pa.dictionary(pa.int32(), pa.float32())):
        encoding.check(SCHEMA.set(SCHEMA.get_field_index("size"), pa.field("size", type_)), "raw.csv")


def test_a_missing_encoding_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"There is no encoding in .*: spec.json cannot be read \(No such file"
    ) as error:
        Encoding.load(tmp_path)
    assert "Run nfm features first." in str(error.value)


def test_every_damaged_byte_of_the_specification_is_detected(write_encoding: Write, tmp_path: Path) -> None:
    folder = tmp_path / "encoding"
    write_encoding(folder)
    path = folder / "spec.json"
    original = path.read_bytes()
    for place in range(len(original)):
        path.write_bytes(original[:place] + bytes([original[place] ^ 0x80]) + original[place + 1 :])
        with pytest.raises(DataError) as refused:
            Encoding.load(folder)
        assert str(path) in str(refused.value)


def test_the_loaded_encoding_equals_the_written_one(write_encoding: Write, tmp_path: Path) -> None:
    written = write_encoding(tmp_path / "encoding")
    loaded = Encoding.load(tmp_path / "encoding")
    assert loaded.spec == written.spec
    assert list(loaded.vocabulary.fields) == list(loaded.spec.vocabularies) == ["color", "size"]
    assert [index.texts.to_pylist() for index in loaded.vocabulary.fields.values()] == [
        ["red", "", "blue"],
        ["3", "0.1"],
    ]
    loaded.verify("encoding")


@pytest.mark.parametrize("names", [["text"], ["text", "slots"], ["slots"]])
def test_a_vocabulary_of_the_right_size_with_other_content_is_detected(
    write_encoding: Write, tmp_path: Path, names: list[str]
) -> None:
    write_encoding(tmp_path / "encoding")
    write_encoding(tmp_path / "other", colors=("red", "", "blur"))
    Encoding.load(tmp_path / "encoding").verify("encoding")
    slots = [(tmp_path / folder / "index/0/slots.npy").read_bytes() for folder in ("encoding", "other")]
    assert slots[0] != slots[1]
    for name in names:
        (tmp_path / f"other/index/0/{name}.npy").rename(tmp_path / f"encoding/index/0/{name}.npy")
    with pytest.raises(DataError, match="The vocabulary of 'color' in encoding was changed after it was written"):
        Encoding.load(tmp_path / "encoding").verify("encoding")


def wide(make_encoding: Make) -> Encoding:
    """Return an encoding with a hashed field, a cross, a bag, and a field that shares the bag's vocabulary."""
    fields = [
        Field("hashed", ("h",), ("number",), 9, 0, None),
        Field("pair", ("a", "b"), ("number", "boolean"), 1, 1, "pair"),
        Field("tags", ("t",), ("text",), 1, 2, "tags", bag=Bag("w", ",", None)),
        Field("tag", ("tag",), ("text",), 1, 2, "tags"),
    ]
    return make_encoding(fields, {"pair": ["1|true"], "tags": ["x", "7"]})


WIDE = {
    "h": pa.int64(),
    "a": pa.int8(),
    "b": pa.bool_(),
    "t": pa.list_(pa.string()),
    "w": pa.list_(pa.float32()),
    "tag": pa.string(),
}


@pytest.mark.parametrize(
    "types",
    [
        {},
        {"h": pa.string(), "a": pa.string(), "b": pa.large_string(), "t": pa.string(), "w": pa.string()},
        {
            "h": pa.float64(),
            "a": pa.decimal128(9, 2),
            "t": pa.large_list(pa.string_view()),
            "w": pa.list_(pa.int8(), 2),
        },
        {"t": pa.list_(pa.int64()), "tag": pa.int8()},  # the vocabulary contains "7", a number in canonical form
        dict.fromkeys(WIDE, pa.null()),
    ],
    ids=str,
)
def test_check_accepts_other_types_with_the_same_values(make_encoding: Make, types: dict[str, Any]) -> None:
    wide(make_encoding).check(pa.schema({**WIDE, **types}), "raw")


@pytest.mark.parametrize(
    ("column", "type_", "message"),
    [
        ("h", pa.bool_(), "now contains boolean values, but the ids were made from number values"),
        ("b", pa.int8(), "now contains number values, but the ids were made from boolean values"),
        ("a", pa.date32(), "now contains date values, but the ids were made from number values"),
        ("a", pa.list_(pa.int8()), "is list<item: int8>: a categorical field takes text"),
        ("t", pa.list_(pa.bool_()), "now contains boolean values, but the vocabulary contains the text 'x'"),
        ("tag", pa.bool_(), "now contains boolean values, but the vocabulary contains the text 'x'"),
        ("t", pa.int8(), "is int8: a bag takes an array of text"),
        ("w", pa.float32(), "is float: the weights of a bag are an array of numbers"),
    ],
)
def test_check_refuses_a_changed_type_of_hashed_fields_crosses_and_bags(
    make_encoding: Make, column: str, type_: pa.DataType, message: str
) -> None:
    with pytest.raises(DataError, match=f"^Column '{column}' of raw {message}"):
        wide(make_encoding).check(pa.schema({**WIDE, column: type_}), "raw")


def test_check_names_a_missing_column_of_a_cross_or_of_weights(make_encoding: Make) -> None:
    for column in ("a", "b", "w"):
        with pytest.raises(DataError, match=f"^Column '{column}' is missing from raw"):
            wide(make_encoding).check(pa.schema({n: t for n, t in WIDE.items() if n != column}), "raw")


@pytest.mark.parametrize("value", [2**53 + 1, -(2**60) - 1, 2**64])
def test_floats_that_cannot_represent_the_vocabularys_integers_are_refused(make_encoding: Make, value: int) -> None:
    encoding = make_encoding([Field("f", ("c",), ("number",), 1, 2, "f")], {"f": ["7", str(value)]})
    for fine in (pa.int64(), pa.string(), pa.decimal128(20)):
        encoding.check(pa.schema({"c": fine}), "raw")
    for floats in (pa.float64(), pa.float32()):
        with pytest.raises(
            DataError, match=rf"^Column 'c' of raw now contains floats, .* such as {value}, which no float"
        ):
            encoding.check(pa.schema({"c": floats}), "raw")
    representable = make_encoding(
        [Field("f", ("c",), ("number",), 1, 3, "f")], {"f": ["7", str(2**60), "0.30000000000000004"]}
    )
    representable.check(pa.schema({"c": pa.float64()}), "raw")
    # From 2⁶⁴ on a float is written with the fewest digits that round-trip.
    large = ["18446744073709552000", "-100000000000000000000000", "7"]
    assert canonical_text(pa.array([2.0**64, -1e23]), "number", "c").to_pylist() == large[:2]
    make_encoding([Field("f", ("c",), ("number",), 1, 3, "f")], {"f": large}).check(
        pa.schema({"c": pa.float64()}), "raw"
    )
