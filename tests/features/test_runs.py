"""Merging sorted runs gives the same order as sorting all rows."""

from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfm.features import runs

VALUES = st.dictionaries(st.text(max_size=3), st.integers(1, 4), max_size=60)


def table(rows: list[tuple[str, int]]) -> pa.Table:
    return pa.table({"text": [r[0] for r in rows], "count": [r[1] for r in rows]}, schema=runs.SCHEMA)


def sort(values: dict[str, int]) -> list[tuple[str, int]]:
    return sorted(values.items(), key=lambda pair: (-pair[1], pair[0].encode()))


@given(VALUES, st.integers(1, 5), st.lists(st.integers(1, 7), min_size=1, max_size=5))
def test_merge_of_small_batches(values: dict[str, int], count: int, steps: list[int]) -> None:
    sorted_runs = []
    for i in range(count):
        mine = sort({text: n for text, n in values.items() if sum(text.encode()) % count == i})
        step = steps[i % len(steps)]
        batches = [table(mine[start : start + step]).to_batches()[0] for start in range(0, len(mine), step)]
        sorted_runs.append(iter(batches))
    merged = [pair for rows in runs.merge(sorted_runs) for pair in zip(*rows.to_pydict().values(), strict=True)]
    assert merged == sort(values)


def test_files_have_each_vocabulary_in_order_and_a_second_attempt_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "_BLOCK", 100)
    values = {f"v{i * 7919 % 1000:04}": 1 + i % 3 for i in range(1000)}
    folder = tmp_path / "runs"
    for attempt in range(2):
        for i in range(3):
            mine = [(text, n) for j, (text, n) in enumerate(values.items()) if j % 3 == i]
            other = [] if i else [("only", 5)]
            runs.write(folder, f"{i:03}", [(4, table(mine if attempt else mine[::-1])), (7, table(other))])
    assert runs.count_values(folder) == {4: 1000, 7: 1}
    tables = list(runs.merge(runs.open_runs(folder, 4)))
    assert [pair for rows in tables for pair in zip(*rows.to_pydict().values(), strict=True)] == sort(values)
    assert [rows.to_pylist() for rows in runs.merge(runs.open_runs(folder, 7))] == [[{"text": "only", "count": 5}]]
    assert list(runs.merge(runs.open_runs(folder, 5))) == []
    assert sorted(path.name for path in folder.iterdir()) == ["000", "001", "002"]
