"""Crosses and bags of every type and in slices, compared with plain Python row by row; and refused columns."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nfm.contract.columns import Values, check_categorical, read_field_values
from nfm.contract.errors import DataError
from nfm.contract.schema import Bag, Kind

RawColumns = list[tuple[pa.DataType, st.SearchStrategy[Any], Kind]]
Canonical = Callable[[Any, Kind], str | None]

NO_WEIGHTS = Bag(None, ",", None)
WEIGHTED = Bag("w", ",", None)


def expanded(values: Values) -> list[str | None]:
    """Return the text of each member, (M,)."""
    assert values.texts.type == pa.large_string()
    assert values.indices.dtype == np.int32
    dictionary = [*values.texts.to_pylist(), None]
    return [dictionary[i] for i in values.indices.tolist()]


def by_row(values: Values) -> list[list[str | None]]:
    members, offsets = expanded(values), values.offsets
    assert offsets is not None
    assert offsets.dtype == np.int32
    assert (offsets[0], offsets[-1]) == (0, len(members))
    return [members[start:end] for start, end in pairwise(offsets)]


@settings(max_examples=200)
@given(data=st.data(), width=st.integers(2, 4))
def test_a_cross_equals_plain_python(
    raw_columns: RawColumns, canonical: Canonical, data: st.DataObject, width: int
) -> None:
    drawn = data.draw(st.lists(st.sampled_from(raw_columns), min_size=width, max_size=width))
    count = data.draw(st.integers(0, 8))
    columns = [data.draw(st.lists(st.none() | values, min_size=count, max_size=count)) for _, values, _ in drawn]
    expected: list[str | None] = []
    for row in zip(*columns, strict=True):
        texts = [canonical(value, kind) for value, (_, _, kind) in zip(row, drawn, strict=True)]
        known = [text.replace("\\", "\\\\").replace("|", "\\|") for text in texts if text is not None]
        expected.append("|".join(known) if len(known) == width else None)
    start = data.draw(st.integers(0, count))
    names = [f"c{i}" for i in range(width)]
    arrays = [pa.array(values, type_)[start:] for values, (type_, _, _) in zip(columns, drawn, strict=True)]
    batch = pa.RecordBatch.from_arrays(arrays, names)
    values = read_field_values(names, [kind for _, _, kind in drawn], None, batch)
    assert expanded(values) == expected[start:]
    assert (values.offsets, values.weights) == (None, None)


awkward = st.text("\\|a", max_size=4)


@given(rows=st.lists(st.tuples(awkward, awkward), max_size=20))
def test_crosses_are_equal_exactly_if_their_columns_are(rows: list[tuple[str, str]]) -> None:
    batch = pa.record_batch({"a": pa.array([a for a, _ in rows], pa.string()), "b": [b for _, b in rows]})
    texts = expanded(read_field_values(["a", "b"], ["text", "text"], None, batch)) if rows else []
    assert len(set(texts)) == len(set(rows))


def test_the_dictionary_contains_only_pairs_that_occur() -> None:
    numbers = pa.array(range(1000))
    values = read_field_values(["a", "b"], ["number", "number"], None, pa.record_batch({"a": numbers, "b": numbers}))
    assert values.texts.to_pylist() == [f"{i}|{i}" for i in range(1000)]


LISTS: list[Callable[[Any], Any]] = [pa.list_, pa.large_list]


@settings(max_examples=200)
@given(data=st.data(), max_length=st.none() | st.integers(1, 3), weighted=st.booleans(), lists=st.sampled_from(LISTS))
def test_a_bag_equals_plain_python(
    raw_columns: RawColumns,
    canonical: Canonical,
    data: st.DataObject,
    max_length: int | None,
    weighted: bool,
    lists: Callable[[Any], Any],
) -> None:
    type_, members, kind = data.draw(st.sampled_from(raw_columns))
    bags = data.draw(st.lists(st.none() | st.lists(st.none() | members, max_size=4), max_size=8))
    floats = st.floats(-1e3, 1e3, width=32)
    weights = [bag and data.draw(st.lists(floats, min_size=len(bag), max_size=len(bag))) for bag in bags]
    start = data.draw(st.integers(0, len(bags)))
    array = lists_of(bags, type_, lists)[start:]
    batch = pa.record_batch({"c": array, "w": pa.array(weights, lists(pa.float64()))[start:]})
    bag = Bag("w" if weighted else None, ",", max_length)
    check_categorical(["c"], bag, batch.schema, "the table")

    values = read_field_values(["c"], [kind], bag, batch)

    expected = [[None] if b is None else [canonical(v, kind) for v in b[:max_length]] for b in bags]
    assert by_row(values) == expected[start:]
    if not weighted:
        assert values.weights is None
        return
    assert values.weights is not None
    expected_weights = [[1.0] if b is None else (w or [])[:max_length] for b, w in zip(bags, weights, strict=True)]
    assert values.weights.dtype == np.float32
    assert values.weights.tolist() == [w for row in expected_weights[start:] for w in row]


def lists_of(bags: Sequence[list[Any] | None], type_: pa.DataType, lists: Callable[[Any], Any]) -> pa.Array:
    """Make lists with members hidden behind nulls, which pa.array() would omit."""
    members = [value for bag in bags for value in ([None, None] if bag is None else bag)]
    ends = np.cumsum([2 if bag is None else len(bag) for bag in bags])
    large = lists is pa.large_list
    offsets = pa.array([0, *ends], pa.int64() if large else pa.int32())
    mask = pa.array([bag is None for bag in bags], pa.bool_())
    list_array = pa.LargeListArray if large else pa.ListArray
    return list_array.from_arrays(offsets, pa.array(members, type_), mask=mask)


@given(data=st.data(), max_length=st.none() | st.integers(1, 3), delimiter=st.sampled_from([",", "|", "--", ".*"]))
def test_a_text_is_split_like_str_split(data: st.DataObject, max_length: int | None, delimiter: str) -> None:
    texts = st.lists(st.sampled_from(["a", "b", " ", delimiter, delimiter[0]]), max_size=6).map("".join)
    rows = data.draw(st.lists(st.none() | texts, max_size=8))
    type_ = data.draw(
        st.sampled_from([pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())])
    )
    start = data.draw(st.integers(0, len(rows)))
    batch = pa.record_batch({"c": pa.array(rows, type_)[start:]})
    values = read_field_values(["c"], ["text"], Bag(None, delimiter, max_length), batch)
    expected = [[None] if row is None else row.split(delimiter)[:max_length] if row else [] for row in rows]
    assert by_row(values) == expected[start:]


def test_members_of_a_text_are_converted_to_the_vocabularys_kind() -> None:
    batch = pa.record_batch({"c": ["3.0, 4,nan", "x", None]})
    assert by_row(read_field_values(["c"], ["number"], NO_WEIGHTS, batch)) == [["3", "4", None], ["x"], [None]]


def test_arrays_of_a_fixed_length() -> None:
    members = pa.array(["a", "b", "hidden", "hidden", "c", None])
    fixed = pa.FixedSizeListArray.from_arrays(members, 2, mask=pa.array([False, True, False]))
    weights = pa.FixedSizeListArray.from_arrays(pa.array([1.0, 2, 9, 9, 3, 4]), 2, mask=pa.array([False, True, False]))
    batch = pa.record_batch({"c": fixed, "w": weights})
    for start, expected, expected_weights in (
        (0, [["a", "b"], [None], ["c", None]], [1, 2, 1, 3, 4]),
        (1, [[None], ["c", None]], [1, 3, 4]),
        (3, [], []),
    ):
        values = read_field_values(["c"], ["text"], WEIGHTED, batch.slice(start))
        assert by_row(values) == expected
        assert values.weights is not None
        assert values.weights.tolist() == expected_weights


def test_a_column_of_only_nulls_is_a_bag_of_missing_members() -> None:
    for type_ in (pa.null(), pa.string(), pa.list_(pa.null()), pa.list_(pa.string())):
        batch = pa.record_batch({"c": pa.nulls(2, type_), "w": pa.nulls(2, type_)})
        values = read_field_values(["c"], ["text"], WEIGHTED, batch)
        assert by_row(values) == [[None], [None]]
        assert values.weights is not None
        assert values.weights.tolist() == [1, 1]
    batch = pa.record_batch({"c": pa.array([[None], []], pa.list_(pa.null()))})
    assert by_row(read_field_values(["c"], ["text"], NO_WEIGHTS, batch)) == [[None], []]


@pytest.mark.parametrize(
    ("bags", "weights"),
    [
        ([["a", None], [], None, None, ["b"]], [[1.5, 2.0], [], None, [], [3.0]]),
        (["a,b", "", None, None, "b"], ["1.5,2", "", None, "", "3"]),
        ([["a", "b"], [], None, None, ["b"]], ["1.5, 2e0", "", None, "", " 3 "]),
        (["a,b", "", None, None, "b"], [[1.5, 2.0], [], None, [], [3.0]]),
        (["a,b", "", None, None, "b"], [["1.5", "2"], [], None, [], ["3"]]),
    ],
)
def test_weights_may_be_stored_differently_than_their_bag(bags: list[Any], weights: list[Any]) -> None:
    values = read_field_values(
        ["c"], ["text"], WEIGHTED, pa.record_batch({"c": pa.array(bags), "w": pa.array(weights)})
    )
    assert values.weights is not None
    assert values.weights.tolist() == [1.5, 2, 1, 1, 3]
    assert [len(row) for row in by_row(values)] == [2, 0, 1, 1, 1]


def refusal(bags: list[Any], weights: pa.Array, max_length: int | None = None) -> str:
    # A leading row is sliced off, so that the array has an offset.
    lists = pa.array([["z", "z", "z"], *bags], pa.list_(pa.string()))[1:]
    batch = pa.record_batch({"c": lists, "w": weights})
    with pytest.raises(DataError) as refused:
        read_field_values(["c"], ["text"], Bag("w", ",", max_length), batch)
    return str(refused.value)


@pytest.mark.parametrize(
    ("bags", "weights", "problem"),
    [
        ([["a"], ["a", "b"]], [[1.0], [2.0]], "1 rows of a batch do not: [2.0] has 1 weights for 2 members"),
        ([["a"], []], [[1.0], [2.0]], "1 rows of a batch do not: [2.0] has 1 weights for 0 members"),
        ([["a"], ["b"]], [[], []], "2 rows of a batch do not: [] has 0 weights for 1 members"),
        ([["a"], None], [[1.0], [2.0]], "1 rows of a batch do not: [2.0] has 1 weights for 0 members"),
        ([["a"], ["b"]], [[1.0], None], "1 rows of a batch do not: None has no weights (null) for 1 members"),
        ([["a"], []], [[1.0], None], "1 rows of a batch do not: None has no weights (null) for 0 members"),
        ([["a"], ["a", "b"]], ["1", "1,2,3"], "1 rows of a batch do not: '1,2,3' has 3 weights for 2 members"),
    ],
)
def test_a_wrong_number_of_weights_is_refused(bags: list[Any], weights: list[Any], problem: str) -> None:
    for max_length in (None, 1):  # lengths are compared before max_length applies
        assert refusal(bags, pa.array(weights), max_length) == (
            f"Column 'w' must have one weight for each member of the bag in 'c', but {problem}. Correct them, or leave "
            "such rows out with source.where."
        )


@pytest.mark.parametrize("wrong", [None, np.nan, np.inf, -np.inf, 1e39])
def test_a_weight_that_is_not_a_finite_number_is_refused(wrong: float | None) -> None:
    weights = pa.array([[1.0], [], [2.0, wrong]], pa.list_(pa.float64()))
    assert refusal([["a"], [], ["b", "c"]], weights) == (
        "Column 'w' contains the weights of the bag in 'c', which must be numbers, but 1 weights of a batch are "
        f"missing, not finite or too large: {weights[2].as_py()!r}. Correct them, or leave such rows out with "
        "source.where."
    )


def test_a_text_among_the_weights_is_refused() -> None:
    assert "Column 'w'" in (message := refusal([["a", "b"]], pa.array(["1,heavy"])))
    assert "'heavy'" in message


def test_check_categorical_returns_the_kind_of_each_column() -> None:
    schema = pa.schema([("a", pa.int8()), ("b", pa.string()), ("t", pa.list_(pa.bool_())), ("w", pa.float32())])
    assert check_categorical(["a", "b"], None, schema, "raw") == {"a": "number", "b": "text"}
    assert check_categorical(["t"], NO_WEIGHTS, schema, "raw") == {"t": "boolean"}
    with pytest.raises(DataError, match=r"^Column 'w' of raw is float: the weights of a bag are an array"):
        check_categorical(["t"], WEIGHTED, schema, "raw")
