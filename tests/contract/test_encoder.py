"""The encoder, compared with a row-by-row encoder in plain Python and with examples by hand."""

import math
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nfm.contract.dataset import arrange_inputs
from nfm.contract.encoder import Encoding
from nfm.contract.errors import DataError
from nfm.contract.scaling import CURVES, CurveName
from nfm.contract.schema import Bag, Field, Kind, Number

Make = Callable[..., Encoding]
Write = Callable[..., Encoding]
Hash = Callable[[str | None, int], int]
RawColumns = list[tuple[pa.DataType, st.SearchStrategy[Any], Kind]]
Canonical = Callable[[Any, Kind], str | None]

OOV_SEED = 15  # part of the format, because scoring must find the buckets of training
NAN, INF = math.nan, math.inf


@settings(max_examples=300)  # there are twenty types
@given(data=st.data(), oov_buckets=st.integers(1, 4), hashed=st.booleans())
def test_ids_equal_plain_python(
    make_encoding: Make,
    reference_hash: Hash,
    raw_columns: RawColumns,
    canonical: Canonical,
    data: st.DataObject,
    oov_buckets: int,
    hashed: bool,
) -> None:
    type_, values, kind = data.draw(st.sampled_from(raw_columns))
    rows = data.draw(st.lists(st.none() | values, max_size=12))
    texts = [canonical(value, kind) for value in rows]
    present = sorted({text for text in texts if text is not None} | {"not in the rows"})
    vocabulary = [] if hashed else data.draw(st.lists(st.sampled_from(present), unique=True))
    field = Field("f", ("c",), (kind,), oov_buckets, len(vocabulary), None if hashed else "f")
    encoding = make_encoding([field], {} if hashed else {"f": vocabulary})
    start = data.draw(st.integers(0, len(rows)))
    batch = pa.record_batch({"c": pa.array(rows, type_)[start:]})
    encoding.check(batch.schema, "the table")

    expected, lost = [], False
    for raw, text in zip(rows[start:], texts[start:], strict=True):
        if text is None:
            expected.append(0)
        elif text in vocabulary:
            expected.append(1 + oov_buckets + vocabulary.index(text))
        else:
            expected.append(1 + reference_hash(text, OOV_SEED) % oov_buckets)
            lost = lost or (not hashed and isinstance(raw, float) and abs(raw) >= 2**53)
    if lost:
        with pytest.raises(DataError, match="a float cannot represent every integer"):
            encoding.encode(batch)
        return
    ids = encoding.encode(batch)["f"]
    assert ids.dtype == np.int32
    assert ids.tolist() == expected


def clipped(x: float, low: float, high: float) -> float:
    return min(max(x, low), high)


maybe_floats = st.lists(st.none() | st.floats(-1e6, 1e6) | st.sampled_from([NAN, INF, -INF]), max_size=9)


@given(
    rows=maybe_floats,
    edges=st.lists(st.floats(-100, 100), min_size=1, max_size=5, unique=True).map(sorted),
    clip=st.none() | st.tuples(st.floats(-9, 0), st.floats(1, 9)),
    curve=st.sampled_from(["none", "log1p"]),
    impute=st.floats(-5, 5),
    type_=st.sampled_from([pa.float64(), pa.string(), pa.dictionary(pa.int32(), pa.float64())]),
)
def test_numbers_equal_plain_python(
    make_encoding: Make,
    rows: list[float | None],
    edges: list[float],
    clip: tuple[float, float] | None,
    curve: CurveName,
    impute: float,
    type_: pa.DataType,
) -> None:
    encoding = make_encoding(
        [Field("bucket", ("c",), ("number",), 2, len(edges) + 1, None, tuple(edges))],
        {},
        [Number("x", "c", "dense", impute, True, clip, curve, 1.5, 4.0)],
    )
    raw_values = [None if x is None else repr(x) for x in rows] if type_ == pa.string() else rows
    encoded = encoding.encode(pa.record_batch({"c": pa.array(raw_values, type_)}))

    for i, raw in enumerate(rows):
        missing = raw is None or not math.isfinite(raw)
        assert encoded["bucket"][i] == (0 if missing or raw is None else 3 + bisect_right(edges, raw))
        assert encoded["x_missing"][i] == missing
        x = impute if missing or raw is None else clipped(raw, *clip) if clip else raw
        if curve == "log1p":
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
        "color": pa.array(["red", "blue", "", None, "green"]),
        "size": pa.array([3.0, 0.1, NAN, None, 9.0]),
        "age": pa.array([17, 18, 66, None, 65], pa.int32()),
        "price": pa.array(["25", "", "1e1", None, "nan"]),
        "kg": pa.array([math.e - 1, -3.0, 99.0, None, INF]),
    }
)


def test_a_batch_by_hand(encoding: Encoding, reference_hash: Hash) -> None:
    encoding.check(EXAMPLE.schema, "the table")
    encoded = encoding.encode(EXAMPLE)
    bucket = 1 + reference_hash("green", OOV_SEED) % 2
    assert encoded["color"].tolist() == [3, 5, 4, 0, bucket]  # red, "" and blue have 3, 4 and 5
    assert encoded["size"].tolist() == [2, 3, 0, 0, 1]
    assert encoded["age_bucket"].tolist() == [2, 3, 4, 0, 3]  # below 18, from 18, from 65.5
    # A missing price is 10; then (price - 20) / 5.
    assert encoded["price"].tolist() == [1, -2, -2, -2, -2]
    assert encoded["price_missing"].tolist() == [0, 1, 0, 1, 1]
    # Clipped to 0 … 8, then log(1 + x): log e, log 1, log 9; a missing one is 0.
    np.testing.assert_allclose(encoded["weight_kg"], [1, 0, math.log(9), 0, 0], rtol=1e-6)
    assert list(encoded) == ["color", "size", "age_bucket", "price", "price_missing", "weight_kg"]


def test_log1p_keeps_the_sign(make_encoding: Make) -> None:
    encoding = make_encoding([], {}, [Number("x", "x", "field", 0.0, False, None, "log1p", 0.0, 1.0)])
    encoded = encoding.encode(pa.record_batch({"x": [1 - math.e, 0.0, math.e - 1]}))
    np.testing.assert_allclose(encoded["x"], [-1, 0, 1], rtol=1e-6)


def test_inputs_contain_fields_numbers_and_dense_columns_in_order(encoding: Encoding) -> None:
    encoded = encoding.encode(EXAMPLE)
    arrays = arrange_inputs(encoding.spec, dict(reversed(encoded.items())))
    ids_BF, values_BN, dense_BD = arrays[:3]
    assert [str(array.dtype) for array in (ids_BF, values_BN, dense_BD)] == ["int32", "float32", "float32"]
    assert ids_BF[1].tolist() == [5, 3, 3]
    assert values_BN[1].tolist() == [0]
    assert dense_BD[1].tolist() == [-2, 1]
    assert (ids_BF.shape, values_BN.shape, dense_BD.shape) == ((5, 3), (5, 1), (5, 2))
    assert (arrays.bag_rows.tolist(), arrays.bag_values.tolist(), arrays.bag_splits.tolist()) == ([], [], [0] * 6)


def test_inputs_without_numbers_have_empty_arrays(make_encoding: Make) -> None:
    encoding = make_encoding([Field("f", ("f",), ("text",), 1, 0, "f")], {"f": []})
    arrays = arrange_inputs(encoding.spec, encoding.encode(pa.record_batch({"f": ["a", "", None]})))
    assert arrays.ids_BF.tolist() == [[1], [1], [0]]
    assert (arrays.values_BN.shape, arrays.dense_BD.shape) == ((3, 0), (3, 0))


@pytest.mark.parametrize("rows", [0, 1, 5])
def test_a_batch_equals_its_rows_one_by_one(encoding: Encoding, rows: int) -> None:
    batch = encoding.encode(EXAMPLE.slice(0, rows))
    for name, array in batch.items():
        single = [encoding.encode(EXAMPLE.slice(i, 1))[name] for i in range(rows)]
        np.testing.assert_array_equal(array, np.concatenate([array[:0], *single]), strict=True)


def test_a_column_of_only_nulls_is_missing_whatever_its_type(encoding: Encoding) -> None:
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
    encoding = make_encoding([Field("f", ("f",), ("text",), 1, values, "f")], {"f": vocabulary})
    column = pa.DictionaryArray.from_arrays(pa.array([values - 1, None, 0], index), pa.array(vocabulary))
    assert encoding.encode(pa.record_batch({"f": column}))["f"].tolist() == [values + 1, 0, 2]


def test_a_dictionary_may_contain_nulls_duplicates_and_unused_values(make_encoding: Make) -> None:
    encoding = make_encoding([Field("f", ("f",), ("text",), 1, 2, "f")], {"f": ["a", ""]})
    column = pa.DictionaryArray.from_arrays(pa.array([3, 0, None, 1, 2, 4]), pa.array(["a", None, "", "a", "z", "no"]))
    assert encoding.encode(pa.record_batch({"f": column}))["f"].tolist() == [2, 2, 0, 0, 3, 1]


def test_dates_are_encoded(make_encoding: Make) -> None:
    day = date(2026, 11, 20)
    encoding = make_encoding([Field("f", ("f",), ("date",), 1, 1, "f")], {"f": ["2026-11-20"]})
    assert encoding.encode(pa.record_batch({"f": [day, day + timedelta(1), None]}))["f"].tolist() == [2, 1, 0]


def test_a_text_in_a_numeric_column_is_refused(encoding: Encoding) -> None:
    batch = EXAMPLE.set_column(4, "price", pa.array(["1", "cheap", None, "", "2"]))
    with pytest.raises(DataError, match="Column 'price' is numeric, but contains the text 'cheap'"):
        encoding.encode(batch)


def test_out_of_vocabulary_ids_do_not_depend_on_the_vocabulary(make_encoding: Make) -> None:
    field = Field("f", ("f",), ("text",), 9, 0, "f")
    texts = [f"new {i}" for i in range(99)]
    batch = pa.record_batch({"f": texts})
    with_none = make_encoding([field], {"f": []}).encode(batch)["f"]
    with_two = make_encoding([replace(field, values=2)], {"f": ["a", ""]}).encode(batch)["f"]
    assert with_none.tolist() == with_two.tolist()
    assert set(with_none.tolist()) == set(range(1, 10))


def test_a_hashed_field_has_only_buckets(make_encoding: Make, reference_hash: Hash) -> None:
    encoding = make_encoding([Field("f", ("f",), ("number",), 1000, 0, None)], {})
    for column in (pa.array([7, None, -1]), pa.array(["7.0", "nan", "-1"]), pa.array([7.0, math.inf, -1.0])):
        ids = encoding.encode(pa.record_batch({"f": column}))["f"].tolist()
        assert ids == [1 + reference_hash("7", OOV_SEED) % 1000, 0, 1 + reference_hash("-1", OOV_SEED) % 1000]


def test_a_cross_by_hand(make_encoding: Make) -> None:
    field = Field("pair", ("a", "b"), ("text", "number"), 1, 3, "pair")
    encoding = make_encoding([field], {"pair": ["x|7", "x\\|y|7", "|0.5"]})
    batch = pa.record_batch({"a": ["x", "x|y", "", "x", None, "x", "x"], "b": [7, 7, 0.5, 0.5, 7, None, math.nan]})
    assert encoding.encode(batch)["pair"].tolist() == [2, 3, 4, 1, 0, 0, 0]


def test_two_fields_share_a_vocabulary_and_its_ids(make_encoding: Make) -> None:
    fields = [Field("home", ("home",), ("text",), 1, 2, "home"), Field("away", ("away",), ("text",), 1, 2, "home")]
    encoding = make_encoding(fields, {"home": ["bvb", "fcb"]})
    encoded = encoding.encode(pa.record_batch({"home": ["bvb", "fcb", "x"], "away": ["fcb", None, "bvb"]}))
    assert {name: ids.tolist() for name, ids in encoded.items()} == {"home": [2, 3, 1], "away": [3, 0, 2]}
    assert encoding.spec.rows == 2 * 4  # one vocabulary, but separate embeddings


TAGS = Field("tags", ("t",), ("text",), 1, 2, "tags", bag=Bag("w", ",", 2))


@pytest.mark.parametrize(
    ("tags", "weights"),
    [
        (
            pa.array([["a", "b"], None, [], ["b", None, "a"], ["x"]]),
            pa.array([[0.5, 2.0], None, [], [1.0, -1.0, 9.0], [0.0]]),
        ),
        (pa.array(["a,b", None, "", "b,null,a", "x"]), pa.array(["0.5,2", "", "", "1, -1 ,9", "0"])),
    ],
)
def test_a_bag_by_hand(make_encoding: Make, tags: pa.Array, weights: pa.Array) -> None:
    encoding = make_encoding([TAGS], {"tags": ["a", "b"]})
    batch = pa.record_batch({"t": tags, "w": weights})
    encoding.check(batch.schema, "the table")
    encoded = encoding.encode(batch)
    member = 0 if pa.types.is_list(tags.type) else 1  # the text "null" is not missing but out-of-vocabulary
    assert encoded["tags"].type == pa.list_(pa.int32())
    assert encoded["tags"].to_pylist() == [[2, 3], [0], [], [3, member], [1]]
    assert encoded["tags_weights"].type == pa.list_(pa.float32())
    assert encoded["tags_weights"].to_pylist() == [[0.5, 2], [1], [], [1, -1], [0]]


def test_a_bag_without_weights_has_ones(make_encoding: Make) -> None:
    encoding = make_encoding([replace(TAGS, bag=Bag(None, ",", None))], {"tags": ["a", "b"]})
    encoded = encoding.encode(pa.record_batch({"t": [["a", "a"], [], None]}))
    assert encoded["tags"].to_pylist() == [[2, 2], [], [0]]
    assert encoded["tags_weights"].to_pylist() == [[1, 1], [], [1]]
    assert encoding.encode(pa.record_batch({"t": pa.array([], pa.string())}))["tags"].to_pylist() == []


def test_a_hashed_bag(make_encoding: Make, reference_hash: Hash) -> None:
    field = Field("tags", ("t",), ("text",), 50, 0, None, bag=Bag(None, ",", None))
    encoded = make_encoding([field], {}).encode(pa.record_batch({"t": ["a,b", None]}))
    assert encoded["tags"].to_pylist() == [[1 + reference_hash(text, OOV_SEED) % 50 for text in "ab"], [0]]


def test_columns_are_in_the_order_of_the_specification(make_encoding: Make) -> None:
    fields = [
        TAGS,
        Field("pair", ("t2", "x"), ("text", "number"), 1, 0, "pair"),
        Field("bucket", ("x",), ("number",), 1, 2, None, edges=(0.5,)),
    ]
    encoding = make_encoding(
        fields, {"tags": ["a", "b"], "pair": []}, [Number("x", "x", "dense", 0.0, True, None, "none", 0.0, 1.0)]
    )
    encoded = encoding.encode(pa.record_batch({"x": [1.0], "w": ["1"], "t": ["a"], "t2": ["b"]}))
    assert list(encoded) == ["tags", "tags_weights", "pair", "bucket", "x", "x_missing"]
    assert tuple(encoded) == encoding.spec.outputs


class Lazy:
    """Rows that record which columns are read."""

    def __init__(self, batch: pa.RecordBatch) -> None:
        self.batch, self.columns_read = batch, list[str]()

    @property
    def num_rows(self) -> int:
        return int(self.batch.num_rows)

    def column(self, name: str) -> pa.Array:
        self.columns_read.append(name)
        return self.batch.column(name)


def test_each_column_is_read_once_and_in_order(encoding: Encoding) -> None:
    rows = Lazy(EXAMPLE)
    encoded = encoding.encode(rows)
    assert rows.columns_read == ["color", "size", "age", "price", "kg"]
    for name, array in encoding.encode(EXAMPLE).items():
        np.testing.assert_array_equal(encoded[name], array, strict=True)


LARGE = 2**53 + 1


def test_large_floats_that_may_have_lost_digits_are_refused(make_encoding: Make) -> None:
    encoding = make_encoding([Field("f", ("c",), ("number",), 1, 1, "f")], {"f": [str(LARGE)]})
    assert encoding.encode(pa.record_batch({"c": [LARGE, 2**53]}))["f"].tolist() == [2, 1]
    with pytest.raises(DataError) as refused:
        encoding.encode(pa.record_batch({"c": [1.0, float(LARGE)]}))
    assert str(refused.value) == (
        "Column 'c' of the field 'f' is a float column, and '9007199254740992' is not in the vocabulary: from 2⁵³ on, "
        "a float cannot represent every integer, so this may be a rounded value. Provide the column as integers or as "
        "strings."
    )
    for column in (pa.array([2.0**53 - 1, math.inf, math.nan, None]), pa.array([str(2**54)])):
        encoding.encode(pa.record_batch({"c": column}))


def test_large_floats_in_the_vocabulary_are_accepted(make_encoding: Make) -> None:
    encoding = make_encoding([Field("f", ("c",), ("number",), 1, 1, "f")], {"f": [str(2**60)]})
    assert encoding.encode(pa.record_batch({"c": [2.0**60, -0.0]}))["f"].tolist() == [2, 1]
    hashed = make_encoding([Field("f", ("c",), ("number",), 9, 0, None)], {})
    hashed.encode(pa.record_batch({"c": [2.0**60]}))


def test_large_floats_in_crosses_and_bags_are_refused_too(make_encoding: Make) -> None:
    cross = make_encoding([Field("f", ("a", "b"), ("text", "number"), 1, 0, "f")], {"f": []})
    with pytest.raises(
        DataError, match=r"^Columns 'a', 'b' of the field 'f' are float columns, and 'x\|18014398509481984'"
    ):
        cross.encode(pa.record_batch({"a": ["x", None], "b": [2.0**54, 2.0**55]}))
    bag = make_encoding([Field("f", ("a",), ("number",), 1, 0, "f", bag=Bag(None, ",", None))], {"f": []})
    with pytest.raises(DataError, match=r"^Column 'a' of the field 'f' is a float column, and '-18014398509481984'"):
        bag.encode(pa.record_batch({"a": [[1.0], [-(2.0**54)]]}))


@given(st.lists(st.floats(-1e300, 1e300), min_size=1, max_size=5), st.sampled_from(sorted(CURVES)))
def test_a_curve_is_inverted(values: list[float], curve: CurveName) -> None:
    raw = np.array(values)
    np.testing.assert_allclose(CURVES[curve].invert(CURVES[curve].apply(raw)), raw, rtol=1e-9, atol=1e-12)
