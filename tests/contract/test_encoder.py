"""The encoder: against a row-by-row encoder in plain Python, and numbers that can be redone on paper."""

import math
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nfm.contract.encoder import Encoding, inputs
from nfm.contract.errors import DataError
from nfm.contract.schema import Field, Kind, Number

Make = Callable[..., Encoding]
Write = Callable[..., Encoding]
Hash = Callable[[str | None, int], int]

OOV_SEED = 15  # part of the format: a trained bucket is looked up again when scoring
NAN, INF = math.nan, math.inf

WORDS = ["", "a", "b", "A", " a", "007", "7", "é", "a longer text than a word"]
# How a text reads where the vocabulary was made from numbers.
NUMBER_TEXTS = {"3": "3", " 3": "3", "3.0": "3", "3e2": "300", "007": "7", "": "", "x": "x", "nan": None, "-inf": None}
SHORT = st.integers(-9_999, 9_999).map(lambda i: i / 100)  # four digits: the same text in 32 and in 64 bits
# Arrow type, its values, the kind of the field.
COLUMNS: list[tuple[pa.DataType, st.SearchStrategy[Any], Kind]] = [
    (pa.string(), st.sampled_from(WORDS), "text"),
    (pa.large_string(), st.text(max_size=9), "text"),
    (pa.string_view(), st.sampled_from(WORDS), "text"),
    (pa.dictionary(pa.int8(), pa.string()), st.sampled_from(WORDS), "text"),
    (pa.dictionary(pa.int32(), pa.large_string()), st.sampled_from(WORDS), "text"),
    (pa.string(), st.sampled_from(list(NUMBER_TEXTS)), "number"),
    (pa.int8(), st.integers(-3, 3), "number"),
    (pa.int64(), st.integers(-(2**63), 2**63 - 1) | st.integers(0, 3), "number"),
    (pa.dictionary(pa.int16(), pa.int64()), st.integers(0, 9), "number"),
    (pa.float32(), SHORT | st.sampled_from([NAN, INF, -0.0]), "number"),
    (pa.float64(), SHORT | st.floats(), "number"),
    (pa.decimal128(12, 3), st.integers(-9999, 9999).map(lambda i: Decimal(i) / 1000), "number"),
    (pa.bool_(), st.booleans(), "boolean"),
    (pa.string(), st.sampled_from(["true", "True", "FALSE", "", "x"]), "boolean"),
    (pa.date32(), st.dates(date(1, 1, 1)), "date"),
    (pa.date64(), st.dates(date(1970, 1, 1)), "date"),
    (pa.string(), st.dates(date(2000, 1, 1)).map(str), "date"),
    (pa.null(), st.none(), "text"),
]


def text_of(value: Any, kind: Kind) -> str | None:
    """The canonical text, one value at a time."""
    match value:
        case None:
            return None
        case bool():
            return "true" if value else "false"
        case date():
            return value.isoformat()
        case str():
            if kind == "number":
                return NUMBER_TEXTS[value]
            return value.lower() if kind == "boolean" and value.lower() in ("true", "false") else value
        case float() if not math.isfinite(value):
            return None
        case _ if value == int(value) and abs(value) < 2**64:
            return str(int(value))
    text = f"{Decimal(repr(value)) if isinstance(value, float) else value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


@settings(max_examples=300)  # eighteen types
@given(data=st.data(), column=st.sampled_from(COLUMNS), oov_buckets=st.integers(1, 4))
def test_ids_equal_the_row_by_row_encoder(
    make_encoding: Make,
    reference_hash: Hash,
    data: st.DataObject,
    column: tuple[pa.DataType, st.SearchStrategy[Any], Kind],
    oov_buckets: int,
) -> None:
    type_, values, kind = column
    rows = data.draw(st.lists(st.none() | values, max_size=12))
    texts = [text_of(value, kind) for value in rows]
    present = sorted({text for text in texts if text is not None} | {"never seen"})
    vocabulary = data.draw(st.lists(st.sampled_from(present), unique=True))
    encoding = make_encoding([Field("f", "c", kind, oov_buckets, len(vocabulary))], {"f": vocabulary})
    start = data.draw(st.integers(0, len(rows)))
    batch = pa.record_batch({"c": pa.array(rows, type_)[start:]})

    encoding.check(batch.schema, "the table")
    ids = encoding.encode(batch)["f"]

    expected = []
    for text in texts[start:]:
        if text is None:
            expected.append(0)
        elif text in vocabulary:
            expected.append(1 + oov_buckets + vocabulary.index(text))
        else:
            expected.append(1 + reference_hash(text, OOV_SEED) % oov_buckets)
    assert ids.dtype == np.int32
    assert ids.tolist() == expected


def clipped(x: float, low: float, high: float) -> float:
    return min(max(x, low), high)


maybe_floats = st.lists(st.none() | st.floats(-1e6, 1e6) | st.sampled_from([NAN, INF, -INF]), max_size=9)


@given(
    rows=maybe_floats,
    edges=st.lists(st.floats(-100, 100), min_size=1, max_size=5, unique=True).map(sorted),
    clip=st.none() | st.tuples(st.floats(-9, 0), st.floats(1, 9)),
    log1p=st.booleans(),
    impute=st.floats(-5, 5),
    type_=st.sampled_from([pa.float64(), pa.string(), pa.dictionary(pa.int32(), pa.float64())]),
)
def test_numbers_equal_the_row_by_row_encoder(
    make_encoding: Make,
    rows: list[float | None],
    edges: list[float],
    clip: tuple[float, float] | None,
    log1p: bool,
    impute: float,
    type_: pa.DataType,
) -> None:
    encoding = make_encoding(
        [Field("bucket", "c", "number", 2, len(edges) + 1, tuple(edges))],
        {},
        [Number("x", "c", "dense", impute, True, clip, log1p, 1.5, 4.0)],
    )
    written = [None if x is None else repr(x) for x in rows] if type_ == pa.string() else rows
    encoded = encoding.encode(pa.record_batch({"c": pa.array(written, type_)}))

    for i, raw in enumerate(rows):
        missing = raw is None or not math.isfinite(raw)
        assert encoded["bucket"][i] == (0 if missing or raw is None else 3 + bisect_right(edges, raw))
        assert encoded["x_missing"][i] == missing
        x = impute if missing or raw is None else clipped(raw, *clip) if clip else raw
        if log1p:
            x = math.copysign(math.log(1 + abs(x)), x)
        assert encoded["x"][i] == pytest.approx((x - 1.5) / 4.0, rel=1e-6, abs=1e-7)
    assert [(name, str(array.dtype), array.shape) for name, array in encoded.items()] == [
        ("bucket", "int32", (len(rows),)),
        ("x", "float32", (len(rows),)),
        ("x_missing", "float32", (len(rows),)),
    ]


@pytest.fixture
def encoding(write_encoding: Write, tmp_path: Path) -> Encoding:
    write_encoding(tmp_path / "encoding")
    return Encoding.load(tmp_path / "encoding")


EXAMPLE = pa.record_batch(
    {
        "ignored": pa.array(["x"] * 5),
        "color": pa.array(["red", "blue", "", None, "unseen"]),
        "size": pa.array([3.0, 0.1, NAN, None, 9.0]),
        "age": pa.array([17, 18, 66, None, 65], pa.int32()),
        "price": pa.array(["25", "", "1e1", None, "nan"]),
        "kg": pa.array([math.e - 1, -3.0, 99.0, None, INF]),
    }
)


def test_a_batch_by_hand(encoding: Encoding, reference_hash: Hash) -> None:
    encoding.check(EXAMPLE.schema, "the table")
    encoded = encoding.encode(EXAMPLE)
    unseen = 1 + reference_hash("unseen", OOV_SEED) % 2
    assert encoded["color"].tolist() == [3, 5, 4, 0, unseen]  # red, "", blue from 3 on
    assert encoded["size"].tolist() == [2, 3, 0, 0, 1]
    assert encoded["age_bucket"].tolist() == [2, 3, 4, 0, 3]  # below 18, from 18, from 65.5
    # A missing price is 10; then (price - 20) / 5.
    assert encoded["price"].tolist() == [1, -2, -2, -2, -2]
    assert encoded["price_missing"].tolist() == [0, 1, 0, 1, 1]
    # Clipped to 0 … 8, then log(1 + x): log e, log 1, log 9; a missing one is 0.
    np.testing.assert_allclose(encoded["weight_kg"], [1, 0, math.log(9), 0, 0], rtol=1e-6)
    assert list(encoded) == ["color", "size", "age_bucket", "price", "price_missing", "weight_kg"]


def test_log1p_keeps_the_sign(make_encoding: Make) -> None:
    encoding = make_encoding([], {}, [Number("x", "x", "field", 0.0, False, None, True, 0.0, 1.0)])
    encoded = encoding.encode(pa.record_batch({"x": [1 - math.e, 0.0, math.e - 1]}))
    np.testing.assert_allclose(encoded["x"], [-1, 0, 1], rtol=1e-6)


def test_the_model_takes_fields_numbers_and_dense_columns_in_order(encoding: Encoding) -> None:
    encoded = encoding.encode(EXAMPLE)
    ids_BF, values_BN, dense_BD = inputs(encoding.spec, dict(reversed(encoded.items())))
    assert [str(array.dtype) for array in (ids_BF, values_BN, dense_BD)] == ["int32", "float32", "float32"]
    assert ids_BF[1].tolist() == [5, 3, 3]
    assert values_BN[1].tolist() == [0]
    assert dense_BD[1].tolist() == [-2, 1]
    assert (ids_BF.shape, values_BN.shape, dense_BD.shape) == ((5, 3), (5, 1), (5, 2))


def test_a_model_without_numbers_takes_empty_arrays(make_encoding: Make) -> None:
    encoding = make_encoding([Field("f", "f", "text", 1, 0)], {"f": []})
    arrays = inputs(encoding.spec, encoding.encode(pa.record_batch({"f": ["a", "", None]})))
    assert arrays.ids_BF.tolist() == [[1], [1], [0]]
    assert (arrays.values_BN.shape, arrays.dense_BD.shape) == ((3, 0), (3, 0))


@pytest.mark.parametrize("rows", [0, 1, 5])
def test_a_batch_equals_its_rows_one_by_one(encoding: Encoding, rows: int) -> None:
    whole = encoding.encode(EXAMPLE.slice(0, rows))
    for name, array in whole.items():
        alone = [encoding.encode(EXAMPLE.slice(i, 1))[name] for i in range(rows)]
        np.testing.assert_array_equal(array, np.concatenate([array[:0], *alone]), strict=True)


def test_a_column_of_nothing_but_nulls_is_missing_whatever_its_type(encoding: Encoding) -> None:
    nulls = pa.record_batch({name: pa.nulls(2) for name in EXAMPLE.schema.names})
    encoding.check(nulls.schema, "the table")
    typed = pa.record_batch({name: pa.nulls(2, EXAMPLE.schema.field(name).type) for name in EXAMPLE.schema.names})
    for batch in (nulls, typed):
        encoded = encoding.encode(batch)
        assert [encoded[name].tolist() for name in ("color", "size", "age_bucket")] == [[0, 0]] * 3
        assert encoded["price_missing"].tolist() == [1, 1]


@pytest.mark.parametrize(("index", "values"), [(pa.int8(), 128), (pa.uint8(), 256), (pa.int64(), 300)])
def test_a_dictionary_that_fills_its_index_type(make_encoding: Make, index: pa.DataType, values: int) -> None:
    vocabulary = [str(i) for i in range(values)]
    encoding = make_encoding([Field("f", "f", "text", 1, values)], {"f": vocabulary})
    column = pa.DictionaryArray.from_arrays(pa.array([values - 1, None, 0], index), pa.array(vocabulary))
    assert encoding.encode(pa.record_batch({"f": column}))["f"].tolist() == [values + 1, 0, 2]


def test_a_dictionary_may_hold_nulls_duplicates_and_unused_values(make_encoding: Make) -> None:
    encoding = make_encoding([Field("f", "f", "text", 1, 2)], {"f": ["a", ""]})
    column = pa.DictionaryArray.from_arrays(pa.array([3, 0, None, 1, 2, 4]), pa.array(["a", None, "", "a", "z", "no"]))
    assert encoding.encode(pa.record_batch({"f": column}))["f"].tolist() == [2, 2, 0, 0, 3, 1]


def test_dates_find_their_ids(make_encoding: Make) -> None:
    day = date(2026, 11, 20)
    encoding = make_encoding([Field("f", "f", "date", 1, 1)], {"f": ["2026-11-20"]})
    assert encoding.encode(pa.record_batch({"f": [day, day + timedelta(1), None]}))["f"].tolist() == [2, 1, 0]


def test_a_text_in_a_numeric_column_is_refused(encoding: Encoding) -> None:
    batch = EXAMPLE.set_column(4, "price", pa.array(["1", "cheap", None, "", "2"]))
    with pytest.raises(DataError, match="Column 'price' is numeric, but holds the text 'cheap'"):
        encoding.encode(batch)


def test_out_of_vocabulary_ids_do_not_depend_on_the_vocabulary(make_encoding: Make) -> None:
    field = Field("f", "f", "text", oov_buckets=9, values=0)
    texts = [f"unseen {i}" for i in range(99)]
    batch = pa.record_batch({"f": texts})
    alone = make_encoding([field], {"f": []}).encode(batch)["f"]
    beside = make_encoding([replace(field, values=2)], {"f": ["a", ""]}).encode(batch)["f"]
    assert alone.tolist() == beside.tolist()
    assert set(alone.tolist()) == set(range(1, 10))
