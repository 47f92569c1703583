"""Places, folds and histories of interactions, for any batches; keys and times that are refused."""

from dataclasses import replace
from datetime import UTC, date, datetime
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfm.contract.errors import DataError
from nfm.features.ranking import order as module
from nfm.features.ranking.order import assign_last, order_users
from nfm.table.jobs.interactions import ITEM, TIME, USER, Order, read_key, read_order

ORDER = Order("user", "item", ("text", "number"), "time", None, 1, 2, 0.5, True)
SCHEMA = pa.schema(
    [("user", pa.string()), ("item", pa.int32()), (USER, pa.string()), (ITEM, pa.string()), (TIME, pa.int64())]
)

# time and item of each interaction, as Spark sorts them
INTERACTIONS = {"a": [(1, 30), (1, 40), (1, 40), (4, 30)], "b": [(9, 10)], "c": [(1, 10), (2, 20)]}
# sequence, fold, history and weights by hand: at most two items, the weight of the second is 0.5
BY_HAND = [
    ("a", 30, 0, "train", [], []),
    ("a", 40, 1, "train", [30], [1.0]),
    ("a", 40, 2, "valid", [30], [1.0]),
    ("a", 30, 3, "test", [40, 40], [1.0, 0.5]),
    ("b", 10, 0, "train", [], []),
    ("c", 10, 0, "train", [], []),
    ("c", 20, 1, "test", [10], [1.0]),
]


def make_rows(interactions: dict[str, list[tuple[int, int]]]) -> list[dict[str, Any]]:
    return [
        {"user": user, "item": item, USER: user, ITEM: str(item), TIME: time}
        for user, rows in interactions.items()
        for time, item in rows
    ]


def order_cut(rows: list[dict[str, Any]], cuts: list[int], order: Order) -> list[dict[str, Any]]:
    """Order the rows in batches that end before the rows with these numbers."""
    bounds = [0, *cuts, len(rows)]
    batches = [pa.RecordBatch.from_pylist(rows[start:stop], SCHEMA) for start, stop in pairwise(bounds)]
    ordered = list(order_users(batches, order))
    for batch in ordered:
        assert batch.schema == pa.schema([*list(SCHEMA)[:4], *order.added(pa.int32())])
    return [row for batch in ordered for row in batch.to_pylist()]


def as_tuples(rows: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    names = ("user", "item", "sequence", "_nfm_fold", "history", "history_weights")
    return [tuple(row[name] for name in names) for row in rows]


@pytest.mark.parametrize("piece", [1, 2, 3, 5, 100])
@pytest.mark.parametrize("cuts", [*([cut] for cut in range(8)), [1, 2, 3, 4, 5, 6], [4, 5], [3, 3, 6], []], ids=str)
def test_rows_do_not_depend_on_the_batches(piece: int, cuts: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PIECE", piece)
    assert as_tuples(order_cut(make_rows(INTERACTIONS), cuts, ORDER)) == BY_HAND


@given(
    st.lists(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=6).map(sorted), max_size=5),
    st.data(),
)
def test_random_users_do_not_depend_on_the_batches(users: list[list[tuple[int, int]]], data: st.DataObject) -> None:
    rows = make_rows({f"user {u}": sorted(user) for u, user in enumerate(users)})
    cuts = sorted(data.draw(st.lists(st.integers(0, len(rows)), max_size=6)))
    expected = order_cut(rows, [], ORDER)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_PIECE", data.draw(st.integers(1, 8)))
        assert order_cut(rows, cuts, ORDER) == expected
    assert [row["user"] for row in expected] == [row["user"] for row in rows]


def test_without_history_and_folds_only_the_place_is_added() -> None:
    plain = replace(ORDER, last=None, history=None)
    rows = order_cut(make_rows(INTERACTIONS), [2], plain)
    assert [row["sequence"] for row in rows] == [0, 1, 2, 3, 0, 0, 1]
    assert set(rows[0]) == {"user", "item", USER, ITEM, "sequence"}


def test_no_interactions() -> None:
    assert list(order_users([], ORDER)) == []
    assert list(order_users([pa.RecordBatch.from_pylist([], SCHEMA)], ORDER)) == []


def test_items_at_the_same_time_can_be_left_out() -> None:
    rows = order_cut(make_rows(INTERACTIONS), [], replace(ORDER, same_time=False))
    assert [row["history"] for row in rows] == [[], [], [], [40, 40], [], [], [10]]


def test_weights_are_powers_of_the_decay() -> None:
    rows = make_rows({"a": [(time, time) for time in range(6)]})
    ordered = order_cut(rows, [], replace(ORDER, history=4, decay=0.9))
    expected = np.array([1, 0.9, 0.9**2, 0.9**3]).astype(np.float32).tolist()
    assert [row["history_weights"] for row in ordered] == [expected[:n] for n in (0, 1, 2, 3, 4, 4)]
    assert ordered[-1]["history"] == [4, 3, 2, 1]
    ones = order_cut(rows, [], replace(ORDER, history=4, decay=1.0))
    assert ones[-1]["history_weights"] == [1.0] * 4


@pytest.mark.parametrize(
    ("last", "by_size"),
    [
        (1, ["0", "02", "012", "0012", "00012", "000012"]),
        (2, ["0", "00", "022", "0022", "01122", "001122"]),
        (3, ["0", "00", "000", "0222", "00222", "000222"]),
    ],
)
def test_the_last_interactions_are_the_test_fold(last: int, by_size: list[str]) -> None:
    for size, folds in enumerate(by_size, 1):
        found = assign_last(np.full(size, size), np.arange(size), last)
        assert found.dtype == np.int8
        assert "".join(map(str, found)) == folds
    together = assign_last(
        np.repeat(np.arange(1, 7), np.arange(1, 7)), np.concatenate([np.arange(n) for n in range(1, 7)]), last
    )
    assert "".join(map(str, together)) == "".join(by_size)


def test_canonical_texts_of_a_key() -> None:
    batch = pa.record_batch({"a": pa.array([7, 3]), "b": pa.array(["7", "03"]), "c": pa.array([7.0, 0.5])})
    assert read_key(batch, "a", "number", "t").to_pylist() == ["7", "3"]
    assert read_key(batch, "b", "number", "t").to_pylist() == ["7", "3"]
    assert read_key(batch, "b", "text", "t").to_pylist() == ["7", "03"]
    assert read_key(batch, "c", "number", "t").to_pylist() == ["7", "0.5"]
    assert read_key(batch, "a", "number", "t").type == pa.string()


@pytest.mark.parametrize("values", [pa.array([1, None, None]), pa.array([1.0, np.nan, np.inf])], ids=["null", "nan"])
def test_a_row_without_a_user_or_item_is_refused(values: pa.Array) -> None:
    with pytest.raises(DataError) as error:
        read_key(pa.record_batch({"item": values}), "item", "number", "the table")
    assert str(error.value).startswith(
        "Column 'item' of the table identifies a user or an item (ranking), but 2 of the 3 rows in one batch have a "
        "missing value. Correct"
    )
    batch = pa.record_batch({"user": values, "item": pa.array([1, 2, 3]), "time": pa.array([1, 2, 3])})
    with pytest.raises(DataError, match="Column 'user' of t identifies"):
        read_order(batch, replace(ORDER, kinds=("number", "number")), "t")


def read_times(values: pa.Array, **changes: Any) -> list[int]:
    batch = pa.record_batch(
        {"user": pa.array(["a"] * len(values)), "item": pa.array(range(len(values))), "time": values}
    )
    found = read_order(batch, replace(ORDER, **changes), "t")
    assert [found[USER].type, found[ITEM].type, found[TIME].type] == [pa.string(), pa.string(), pa.int64()]
    times: list[int] = found[TIME].to_pylist()
    return times


DAYS = [date(1969, 12, 31), date(2026, 10, 1)]
STAMPS = [datetime(d.year, d.month, d.day, tzinfo=UTC) for d in DAYS]
MICROSECONDS = [round(stamp.timestamp() * 1e6) for stamp in STAMPS]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pa.array([3, -1], pa.int8()), [3, -1]),
        (pa.array(DAYS), [-1, 20727]),
        (pa.array(STAMPS, pa.timestamp("ms", "UTC")), MICROSECONDS),
        (pa.array(["1969-12-31", "2026-10-01T00:00"]), MICROSECONDS),
        (pa.array(["1969-12-31", "2026-10-01"]).dictionary_encode(), MICROSECONDS),
    ],
    ids=str,
)
def test_times_become_integers_in_their_order(values: pa.Array, expected: list[int]) -> None:
    assert read_times(values) == expected
    assert read_times(values, time=None) == [0, 0]


def test_times_in_a_given_form() -> None:
    assert read_times(pa.array(["12/31/1969", "10/01/2026"]), format="%m/%d/%Y") == MICROSECONDS


@pytest.mark.parametrize(
    ("values", "found"),
    [
        (pa.array([1.5, 2.5]), "but is double"),
        (pa.array([1, None]), "but has 1 nulls in one batch"),
        (pa.array([None, None], pa.string()), "but has 2 nulls in one batch"),
    ],
    ids=str,
)
def test_a_time_that_does_not_order_is_refused(values: pa.Array, found: str) -> None:
    with pytest.raises(DataError) as error:
        read_times(values)
    assert str(error.value).startswith(
        "Column 'time' of t orders the interactions of a user (ranking.time, split.last): it must be a date, a "
        f"timestamp, an integer or an ISO 8601 text in every row, {found}. Correct"
    )


@pytest.mark.parametrize("values", [pa.array([True, False]), pa.array([[1], [2]])], ids=str)
def test_a_type_that_is_not_a_time_is_refused(values: pa.Array) -> None:
    with pytest.raises(DataError, match=r"'time' of t orders .*, but is "):
        read_times(values)


def test_the_message_for_a_text_names_the_setting_of_the_time() -> None:
    with pytest.raises(DataError, match=r"Column 'time' .*'soon'"):
        read_times(pa.array(["2026-10-01", "soon"]))
