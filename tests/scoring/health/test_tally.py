"""Tallies of tasks: their sum does not depend on the task that reads a row."""

from functools import reduce
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nfm.contract.cells import count_cells
from nfm.kernels.bins import count_in_bins
from nfm.scoring.health import tally as module
from nfm.scoring.health.tally import Scores, Tally


def tally_rows(rows: list[tuple[int, str | None, float]]) -> Tally:
    """Return the tally of a task for rows of (id, new value or None, score)."""
    scores = np.array([score for _, _, score in rows], np.float32)
    new: dict[str, int] = {}
    for _, value, _ in rows:
        if value is not None:
            new[value] = new.get(value, 0) + 1
    return Tally(
        rows=len(rows),
        values={"field": count_in_bins(np.array([id_ for id_, _, _ in rows], np.int32), np.array([1, 3], np.int32))},
        missing={"number": sum(id_ == 0 for id_, _, _ in rows)},
        new={"field": new} if new else {},
        scores=[
            Scores(
                float(scores.min()),
                float(scores.max()),
                float(np.sum(scores, dtype=np.float64)),
                count_in_bins(scores, np.array([0.5], np.float32)),
                count_cells(scores.astype(np.float64), np.zeros(len(scores), np.int64), 1),
            )
        ]
        if rows
        else [],
    )


def facts(tally: Tally) -> Any:
    scores = [
        (s.low, s.high, round(s.total, 9), s.bins, s.cells.keys.tolist(), s.cells.counts.tolist()) for s in tally.scores
    ]
    return tally.rows, tally.values, tally.missing, tally.new, sorted(tally.dropped), scores, tally.read


ROWS = st.lists(
    st.tuples(st.integers(0, 5), st.sampled_from([None, "a", "b", "ü", ""]), st.floats(0, 1, width=32)), max_size=40
)


@given(ROWS, st.data())
def test_order_and_grouping_do_not_change_the_tally(
    rows: list[tuple[int, str | None, float]], data: st.DataObject
) -> None:
    shuffled = data.draw(st.permutations(rows))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(rows)), max_size=4)))
    parts = [tally_rows(shuffled[a:b]) for a, b in zip([0, *cuts], [*cuts, len(rows)], strict=True)]
    texts = [part.to_json() for part in parts]

    def merge(left: Tally, right: Tally) -> Tally:
        left.merge(right)
        return left

    total = reduce(merge, [Tally.from_json(text) for text in texts], Tally())
    expected = Tally()
    expected.merge(tally_rows(rows))
    if rows:
        assert facts(total) == facts(expected)
    assert [part.to_json() for part in parts] == texts  # merging does not change the merged tallies


def test_rows_that_several_tasks_read_from_a_file_add_up() -> None:
    total = Tally(read={"a": (3, 10), "b": (2, 2)})
    total.merge(Tally(read={"a": (7, 10)}))
    assert total.read == {"a": (10, 10), "b": (2, 2)}
    assert Tally.from_json(total.to_json()).read == total.read


@settings(max_examples=20)
@given(st.integers(1, 30))
def test_the_most_frequent_of_too_many_new_values_are_kept(distinct: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_NEW_COUNTED", 8)
        patch.setattr(module, "_NEW_REPORTED", 3)
        total = Tally()
        for _ in range(3):
            total.merge(Tally(new={"field": {f"v{i:02}": distinct - i for i in range(distinct)}}))
        reported = Tally.from_json(total.to_json())
    assert ("field" in reported.dropped) == (distinct > 6)
    assert list(reported.new["field"].items())[:3] == [
        (f"v{i:02}", 3 * (distinct - i)) for i in range(min(distinct, 3))
    ]
    assert len(reported.new["field"]) <= 6
