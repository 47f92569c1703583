"""The model's input arrays with bags of several fields, compared with plain Python row by row."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from nfm.contract.dataset import Inputs, arrange_inputs
from nfm.contract.encoder import Encoding
from nfm.contract.schema import Bag, Field, Number

Make = Callable[..., Encoding]

# Ids: 0 missing, 1 out-of-vocabulary, then values. Rows: colour 0 … 3, tags 4 … 8, shops 9 … 11, kinds 12 … 13.
COLOUR = Field("colour", ("colour",), ("text",), 1, 2, "colour")
TAGS = Field("tags", ("tags",), ("text",), 1, 3, "tags", bag=Bag("tag_weights", ",", 2))
SHOPS = Field("shops", ("shops",), ("number",), 1, 1, "shops", bag=Bag(None, ",", None))
KINDS = Field("kinds", ("kinds",), ("text",), 1, 0, "kinds", bag=Bag(None, "|", None))
VOCABULARIES = {"colour": ["red", "blue"], "tags": ["a", "b", ""], "shops": ["7"], "kinds": []}
NUMBER = Number("x", "x", "field", 0.0, False, None, "none", 0.0, 1.0)
SCHEMA = pa.schema(
    {
        "colour": pa.string(),
        "tags": pa.list_(pa.string()),
        "tag_weights": pa.list_(pa.float64()),
        "shops": pa.large_list(pa.int64()),
        "kinds": pa.string(),
        "x": pa.float32(),
    }
)


def row_of(colour: str, weighted: list[tuple[str | None, float]] | None, shops: Any, kinds: Any) -> dict[str, Any]:
    tags, weights = (None, None) if weighted is None else ([t for t, _ in weighted], [w for _, w in weighted])
    return {"colour": colour, "tags": tags, "tag_weights": weights, "shops": shops, "kinds": kinds, "x": 0.5}


WEIGHTED = st.tuples(st.sampled_from(["a", "b", "", "unseen", None]), st.sampled_from([0.0, 1.0, -2.5, 0.25]))
ROWS = st.lists(
    st.builds(
        row_of,
        st.sampled_from(["red", "blue", "unseen", None]),
        st.none() | st.lists(WEIGHTED, max_size=4),
        st.none() | st.lists(st.sampled_from([7, 8, None]), max_size=4),
        st.sampled_from([None, "", "p", "p|q|r"]),
    ),
    max_size=6,
)


def members_of(row: dict[str, Any]) -> list[tuple[int, float]]:
    """Return (row of the embedding table, x) for each member of each bag."""
    tag_ids, shop_ids = {None: 0, "a": 2, "b": 3, "": 4}, {None: 0, 7: 2}
    tags = [(None, 1.0)] if row["tags"] is None else list(zip(row["tags"], row["tag_weights"], strict=True))[:2]
    shops = [None] if row["shops"] is None else row["shops"]
    kinds = [0] if row["kinds"] is None else [1] * len([kind for kind in row["kinds"].split("|") if kind])
    return [
        *((4 + tag_ids.get(tag, 1), weight) for tag, weight in tags),
        *((9 + shop_ids.get(shop, 1), 1.0) for shop in shops),
        *((12 + kind, 1.0) for kind in kinds),
    ]


def encoding_of(make_encoding: Make, fields: list[Field]) -> Encoding:
    return make_encoding(fields, {field.name: VOCABULARIES[field.name] for field in fields}, [NUMBER])


def by_row(arrays: Inputs) -> list[list[tuple[int, float]]]:
    members = list(zip(arrays.bag_rows.tolist(), arrays.bag_values.tolist(), strict=True))
    return [members[start:stop] for start, stop in pairwise(arrays.bag_splits.tolist())]


def check_types(arrays: Inputs, rows: int) -> None:
    types = ["int32", "float32", "float32", "int32", "float32", "int32", "float32", "int64"]
    assert [str(array.dtype) for array in arrays] == types
    assert (arrays.bag_splits.shape, arrays.bag_splits[0]) == ((rows + 1,), 0)
    assert arrays.bag_rows.shape == arrays.bag_values.shape == (arrays.bag_splits[-1],)


@given(rows=ROWS, data=st.data())
def test_bags_equal_plain_python(make_encoding: Make, rows: list[Any], data: st.DataObject) -> None:
    encoding = encoding_of(make_encoding, [COLOUR, TAGS, SHOPS, KINDS])
    columns = encoding.encode(pa.RecordBatch.from_pylist(rows, SCHEMA))
    arrays = arrange_inputs(encoding.spec, columns)
    check_types(arrays, len(rows))
    assert by_row(arrays) == [members_of(row) for row in rows]
    assert arrays.ids_BF.shape == (len(rows), 1)  # bags have no column here
    assert arrays.ids_BF[:, 0].tolist() == [{"red": 2, "blue": 3, None: 0}.get(row["colour"], 1) for row in rows]
    # A slice of the columns gives the same rows.
    start = data.draw(st.integers(0, len(rows)))
    stop = data.draw(st.integers(start, len(rows)))
    part = arrange_inputs(encoding.spec, {name: column[start:stop] for name, column in columns.items()})
    check_types(part, stop - start)
    assert by_row(part) == by_row(arrays)[start:stop]
    np.testing.assert_array_equal(part.ids_BF, arrays.ids_BF[start:stop])


@given(rows=ROWS, data=st.data())
def test_a_single_bag_is_arranged_like_several(make_encoding: Make, rows: list[Any], data: st.DataObject) -> None:
    encoding = encoding_of(make_encoding, [COLOUR, TAGS])
    columns = encoding.encode(pa.RecordBatch.from_pylist(rows, SCHEMA))
    start = data.draw(st.integers(0, len(rows)))
    arrays = arrange_inputs(encoding.spec, {name: column[start:] for name, column in columns.items()})
    check_types(arrays, len(rows) - start)
    assert by_row(arrays) == [[(at, x) for at, x in members_of(row) if 4 <= at < 9] for row in rows[start:]]


def test_bags_by_hand(make_encoding: Make) -> None:
    encoding = encoding_of(make_encoding, [COLOUR, TAGS, SHOPS])
    rows = [
        row_of("red", [("b", 0.5), ("x", 2.0), ("a", 9.0)], [], None),  # the third member exceeds max_length
        row_of("red", [], [], None),
        row_of("red", None, [7, 7, 1], None),
    ]
    arrays = arrange_inputs(encoding.spec, encoding.encode(pa.RecordBatch.from_pylist(rows, SCHEMA)))
    assert arrays.bag_splits.tolist() == [0, 2, 2, 6]
    assert arrays.bag_rows.tolist() == [7, 5, 4, 11, 11, 10]
    assert arrays.bag_values.tolist() == [0.5, 2, 1, 1, 1, 1]


def test_a_model_with_only_bags(make_encoding: Make) -> None:
    encoding = make_encoding([KINDS], {"kinds": []})
    arrays = arrange_inputs(encoding.spec, encoding.encode(pa.record_batch({"kinds": ["p|q", None, ""]})))
    assert (arrays.ids_BF.shape, arrays.values_BN.shape, arrays.dense_BD.shape) == ((3, 0), (3, 0), (3, 0))
    assert (arrays.bag_rows.tolist(), arrays.bag_splits.tolist()) == ([1, 1, 0], [0, 2, 3, 3])
