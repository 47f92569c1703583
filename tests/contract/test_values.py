"""The same value gives the same text whatever type its column has, or the type is refused."""

import math
from collections.abc import Callable
from datetime import date
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nfm.contract.values as module
from nfm.contract.encoder import Encoding
from nfm.contract.errors import DataError
from nfm.contract.schema import Field, Kind
from nfm.contract.values import canonical_text, check_kind, check_same_values, check_weights, kind_of, to_floats

NAN, INF = math.nan, math.inf
MONEY = pa.decimal128(10, 2)
DAY = date(2026, 11, 20)


@pytest.mark.parametrize(
    ("type_", "kind"),
    [
        (pa.string(), "text"),
        (pa.large_string(), "text"),
        (pa.string_view(), "text"),
        (pa.dictionary(pa.int8(), pa.string()), "text"),
        (pa.null(), "text"),
        (pa.int8(), "number"),
        (pa.uint64(), "number"),
        (pa.float32(), "number"),
        (MONEY, "number"),
        (pa.decimal32(5, 2), "number"),
        (pa.decimal64(9, 2), "number"),
        (pa.bool_(), "boolean"),
        (pa.date32(), "date"),
        (pa.date64(), "date"),
        (pa.timestamp("us"), None),
        (pa.binary(), None),
        (pa.list_(pa.string()), None),
    ],
)
def test_kind_of_a_column(type_: pa.DataType, kind: Kind | None) -> None:
    assert kind_of(type_) == kind


@pytest.mark.parametrize(
    ("type_", "kind", "values", "expected"),
    [
        (pa.int64(), "number", [3, -7, 0, 2**62 + 1, None], ["3", "-7", "0", "4611686018427387905", None]),
        (pa.uint8(), "number", [255, None], ["255", None]),
        (pa.float64(), "number", [3.0, -0.0, 0.1, -2.50, NAN, INF, -INF, None], ["3", "0", "0.1", "-2.5", *[None] * 4]),
        (pa.float64(), "number", [2.0**60, 2.0**63, 1e-7], ["1152921504606846976", "9223372036854775808", "0.0000001"]),
        (pa.float64(), "number", [1e22, 1e23, -1e300], ["1" + "0" * 22, "1" + "0" * 23, "-1" + "0" * 300]),
        (pa.float32(), "number", [3.0, -0.0, 0.1, NAN, INF, None], ["3", "0", "0.1", None, None, None]),
        (pa.float32(), "number", [16_777_216.0, 123_456_792.0], ["16777216", "123456792"]),
        (MONEY, "number", [Decimal("3.00"), Decimal("0.10"), Decimal("-0.00"), None], ["3", "0.1", "0", None]),
        (pa.decimal128(38, 0), "number", [Decimal("9" * 38), Decimal("1200")], ["9" * 38, "1200"]),
        (pa.bool_(), "boolean", [True, False, None], ["true", "false", None]),
        (pa.date32(), "date", [DAY, None], ["2026-11-20", None]),
        (pa.date64(), "date", [DAY, None], ["2026-11-20", None]),
        # A text is unchanged.
        (pa.string(), "text", ["3.0", "007", " a ", "", "NaN", None], ["3.0", "007", " a ", "", "NaN", None]),
        (pa.string_view(), "text", ["é", "", None], ["é", "", None]),
        (pa.null(), "number", [None, None], [None, None]),
        # A text where the vocabulary was made from another kind.
        (pa.string(), "number", ["3", "3.0", " +3 ", "3e0", "007", ".5", "-0"], ["3", "3", "3", "3", "7", "0.5", "0"]),
        (pa.string(), "number", ["", "x", "1_0", "٣", None], ["", "x", "1_0", "٣", None]),
        (pa.string(), "number", ["NaN", "inf", "-Infinity", "nano"], [None, None, None, "nano"]),
        (pa.string(), "number", ["9" * 38, "0." + "1" * 30], ["9" * 38, "0." + "1" * 30]),
        (pa.string(), "boolean", ["True", "FALSE", "yes", "", None], ["true", "false", "yes", "", None]),
        (pa.string(), "date", ["2026-11-20", None], ["2026-11-20", None]),
    ],
)  # fmt: skip
def test_canonical_text(type_: pa.DataType, kind: Kind, values: list[Any], expected: list[str | None]) -> None:
    texts = canonical_text(pa.array(values, type_), kind, "c")
    assert texts.type == pa.large_string()
    assert texts.to_pylist() == expected


@pytest.mark.parametrize("text", ["20.11.2026", "2026-11-20 00:00:00", "", "2026-1-2"])
def test_a_text_that_is_not_a_date_is_refused_where_the_vocabulary_has_dates(text: str) -> None:
    with pytest.raises(DataError) as refused:
        canonical_text(pa.array(["2026-11-20", None, text]), "date", "day")
    assert f"Column 'day' contained dates when the vocabulary was made, and now contains the text {text!r}" in str(
        refused.value
    )


@given(st.integers(-(2**53), 2**53))
def test_a_whole_number_has_the_same_text_as_integer_float_decimal_and_text(number: int) -> None:
    arrays = [
        pa.array([number], pa.int64()),
        pa.array([float(number)]),
        pa.array([Decimal(number)], pa.decimal128(20, 3)),
        pa.array([f"{number}.0"]),
    ]
    assert [canonical_text(values, "number", "c").to_pylist() for values in arrays] == [[str(number)]] * 4


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_the_text_of_a_float_round_trips(x: float) -> None:
    (text,) = canonical_text(pa.array([x]), "number", "c").to_pylist()
    assert float(text) == x
    assert "e" not in text.lower()
    assert not text.startswith("-0") or x < 0


@given(st.integers(-99_999, 99_999), st.integers(0, 4))
def test_a_short_decimal_has_the_same_text_in_32_and_64_bits(digits: int, places: int) -> None:
    x = digits / 10**places
    floats = [pa.array([x], pa.float32()), pa.array([x], pa.float64())]
    assert len({canonical_text(values, "number", "c")[0].as_py() for values in floats}) == 1


ALL_THREES = [
    pa.array([3], pa.int8()),
    pa.array([3], pa.int64()),
    pa.array([3.0], pa.float32()),
    pa.array([3.0], pa.float64()),
    pa.array([Decimal("3.00")], MONEY),
    pa.array([Decimal("3.00")], pa.decimal32(5, 2)),
    pa.array([Decimal("3.00")], pa.decimal64(9, 2)),
    pa.array([Decimal("3.00")], pa.decimal256(50, 2)),
    pa.array(["3"]),
]


@pytest.mark.parametrize("kind", ["number", "text"])
@pytest.mark.parametrize("threes", ALL_THREES, ids=lambda values: str(values.type))
def test_three_has_the_same_id_in_every_type(
    make_encoding: Callable[..., Encoding], kind: Kind, threes: pa.Array
) -> None:
    field = Field("c", ("c",), (kind,), oov_buckets=5, values=4, vocabulary="c")
    encoding = make_encoding([field], {"c": ["", "10", "3", "x" if kind == "text" else "0.5"]})
    batch = pa.record_batch({"c": threes})
    encoding.check(batch.schema, "the table")
    assert encoding.encode(batch)["c"].tolist() == [6 + 2]


def test_texts_007_and_7_are_different_values(make_encoding: Callable[..., Encoding]) -> None:
    encoding = make_encoding([Field("c", ("c",), ("text",), 1, 2, "c")], {"c": ["007", "7"]})
    batch = pa.record_batch({"c": ["7", "007", "07", "", None]})
    assert encoding.encode(batch)["c"].tolist() == [3, 2, 1, 1, 0]


def check(trained: Kind, arrived: Kind, vocabulary: list[str]) -> None:
    check_same_values("c", trained, arrived, pa.array(vocabulary, pa.large_string()), "raw.csv")


KINDS: list[Kind] = ["text", "number", "boolean", "date"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("vocabulary", [[], ["", "007", "x"]])
def test_the_same_kind_and_text_are_always_accepted(kind: Kind, vocabulary: list[str]) -> None:
    check(kind, kind, vocabulary)
    check(kind, "text", vocabulary)


@pytest.mark.parametrize("trained", ["number", "boolean", "date"])
@pytest.mark.parametrize("arrived", ["number", "boolean", "date"])
def test_numbers_booleans_and_dates_never_replace_each_other(trained: Kind, arrived: Kind) -> None:
    if trained == arrived:
        return
    with pytest.raises(DataError) as refused:
        check(trained, arrived, ["1", "true", "2026-11-20"])
    assert str(refused.value) == (
        f"Column 'c' of raw.csv now contains {arrived} values, but the vocabulary was made from {trained} values, so "
        f"the same value would get another id. Provide the column as {trained}, or run nfm features and nfm "
        "train again."
    )


@pytest.mark.parametrize(
    ("arrived", "vocabulary"),
    [
        ("number", []),
        ("number", ["7", "-0.5", "abc", ""]),
        ("boolean", ["true", "false", "", "unknown"]),
        ("date", ["2026-11-20", ""]),
    ],
)
def test_a_vocabulary_of_canonical_texts_accepts_other_kinds(arrived: Kind, vocabulary: list[str]) -> None:
    check("text", arrived, vocabulary)


@pytest.mark.parametrize(
    ("arrived", "vocabulary", "example"),
    [
        ("number", ["7", "007", ""], "'007'"),
        ("number", ["7", "3.0"], "'3.0'"),
        ("number", ["7", "1e3"], "'1e3'"),
        ("number", ["7", "-0"], "'-0'"),
        ("number", ["abc", ""], "'abc'"),
        ("number", ["2026-11-20"], "'2026-11-20'"),
        ("boolean", ["true", "False"], "'False'"),
        ("boolean", ["1", "0"], "'1'"),
        ("date", ["20.11.2026"], "'20.11.2026'"),
        ("date", ["", "x"], "''"),
    ],
)
def test_a_vocabulary_of_other_texts_refuses_other_kinds(arrived: Kind, vocabulary: list[str], example: str) -> None:
    with pytest.raises(DataError) as refused:
        check("text", arrived, vocabulary)
    assert f"now contains {arrived} values, but the vocabulary contains the text {example}, so the same" in str(
        refused.value
    )


def test_a_large_vocabulary_is_checked_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SLICE", 2)
    check("text", "number", ["a", "b", "c", "7", ""])
    for vocabulary, example in ((["1", "2", "a", "b", "07"], "'07'"), (["x", "b", "c"], "'x'")):
        with pytest.raises(DataError, match=f"contains the text {example}, so the same"):
            check("text", "number", vocabulary)


@pytest.mark.parametrize("trained", KINDS)
@pytest.mark.parametrize("arrived", KINDS)
def test_without_a_vocabulary_only_text_replaces_a_kind(trained: Kind, arrived: Kind) -> None:
    if arrived in (trained, "text"):
        check_same_values("c", trained, arrived, None, "raw.csv")
        return
    with pytest.raises(DataError) as refused:
        check_same_values("c", trained, arrived, None, "raw.csv")
    assert str(refused.value) == (
        f"Column 'c' of raw.csv now contains {arrived} values, but the ids were made from {trained} values, so the "
        f"same value would get another id. Provide the column as {trained}, or run nfm features and nfm train again."
    )


def test_a_column_that_cannot_be_categorical_is_refused() -> None:
    assert check_kind("c", pa.string(), "raw.csv") == "text"
    with pytest.raises(DataError) as refused:
        check_kind("c", pa.timestamp("us"), "raw.csv")
    assert str(refused.value) == (
        "Column 'c' of raw.csv is timestamp[us]: a categorical field takes text, integers, floats, decimals, booleans "
        "or dates. Cast it in the source, or remove it from columns.categorical."
    )


LISTS = [pa.list_, pa.large_list, lambda type_: pa.list_(type_, 3)]


@pytest.mark.parametrize("lists", LISTS)
@pytest.mark.parametrize(
    ("type_", "kind"),
    [(pa.string(), "text"), (pa.int8(), "number"), (pa.date32(), "date"), (pa.bool_(), "boolean"), (pa.null(), "text")],
)
def test_the_kind_of_a_bag_is_that_of_its_members(lists: Callable[[Any], Any], type_: Any, kind: Kind) -> None:
    assert check_kind("c", lists(type_), "raw.csv", bag=True) == kind
    with pytest.raises(DataError, match=r"a categorical field takes text.* Give the field bag: true, so that a row"):
        check_kind("c", lists(type_), "raw.csv")


@pytest.mark.parametrize("type_", [pa.string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string()), pa.null()])
def test_a_text_may_be_a_bag(type_: Any) -> None:
    assert check_kind("c", type_, "raw.csv", bag=True) == "text"


@pytest.mark.parametrize("type_", [pa.int8(), pa.date32(), pa.list_(pa.binary()), pa.list_(pa.list_(pa.int8()))])
def test_a_column_that_is_not_a_bag_is_refused(type_: Any) -> None:
    with pytest.raises(DataError) as refused:
        check_kind("c", type_, "raw.csv", bag=True)
    assert str(refused.value) == (
        f"Column 'c' of raw.csv is {type_}: a bag takes an array of text, numbers, booleans or dates, or a text with "
        "a delimiter between its members. Cast it in the source, or remove bag: true."
    )


@pytest.mark.parametrize("lists", LISTS)
def test_weights_are_arrays_of_numbers_or_texts(lists: Callable[[Any], Any]) -> None:
    for type_ in (pa.float32(), pa.int64(), MONEY, pa.string(), pa.null()):
        check_weights("w", lists(type_), "raw.csv")
    for type_ in (pa.string(), pa.large_string(), pa.null()):
        check_weights("w", type_, "raw.csv")
    for type_ in (pa.float64(), lists(pa.bool_()), lists(pa.date32()), lists(lists(pa.int8())), pa.timestamp("us")):
        with pytest.raises(DataError) as refused:
            check_weights("w", type_, "raw.csv")
        assert f"Column 'w' of raw.csv is {type_}: the weights of a bag are an array of numbers" in str(refused.value)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pa.array([1, None, -3], pa.int32()), [1, NAN, -3]),
        (pa.array([0.5, None, NAN, INF, -INF], pa.float32()), [0.5, NAN, NAN, NAN, NAN]),
        (pa.array([Decimal("1.25"), None], MONEY), [1.25, NAN]),
        (pa.array([Decimal("1.25"), None], pa.decimal32(5, 2)), [1.25, NAN]),
        (pa.array([Decimal("1.25"), None], pa.decimal64(9, 2)), [1.25, NAN]),
        (pa.array([True, None, False]), [1, NAN, 0]),
        (pa.array(["1", " 2.5 ", "-1e3", ".5", "", "  ", None]), [1, 2.5, -1000, 0.5, NAN, NAN, NAN]),
        (pa.array(["nan", "Infinity", "-inf", "1e999"], pa.large_string()), [NAN, NAN, NAN, NAN]),
        (pa.array(["1", None, "2", "1"], pa.string_view()), [1, NAN, 2, 1]),
        (pa.array(["1", None, "2"]).dictionary_encode(), [1, NAN, 2]),
        (pa.array([4, None]).dictionary_encode(), [4, NAN]),
        (pa.nulls(2), [NAN, NAN]),
        (pa.array([9, 8, None, 7])[1:], [8, NAN, 7]),
        (pa.array(["9", "8", None])[1:], [8, NAN]),
        (pa.array([], pa.string()), []),
    ],
    ids=lambda values: str(values.type) if isinstance(values, pa.Array) else "",
)
def test_to_floats(values: pa.Array, expected: list[float]) -> None:
    np.testing.assert_array_equal(to_floats(values, "c"), np.array(expected, np.float64), strict=True)


@pytest.mark.parametrize("text", ["abc", "1,5", "1_000", "0x10", "1 2", "٣"])
def test_a_text_that_is_not_a_number_is_refused(text: str) -> None:
    with pytest.raises(DataError) as refused:
        to_floats(pa.array(["1", None, "", text]), "price")
    assert f"Column 'price' is numeric, but contains the text {text!r}." in str(refused.value)
    assert refused.value.exit_code == 3


@pytest.mark.parametrize("type_", [pa.date32(), pa.timestamp("us"), pa.list_(pa.float32())])
def test_a_column_that_is_not_numeric_is_refused(type_: pa.DataType) -> None:
    with pytest.raises(DataError) as refused:
        to_floats(pa.nulls(1, type_), "price")
    assert f"Column 'price' of the table is {type_}: a numeric column takes integers, floats" in str(refused.value)
