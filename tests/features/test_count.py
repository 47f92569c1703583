"""The counts equal those of plain Python. These tests do not need Spark."""

import math
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from hypothesis import given
from hypothesis import strategies as st

from nfm.contract.schema import Bag
from nfm.features.count import Part, count_rows, group_parts, pack_counts
from nfm.features.labels import Label
from nfm.features.split import Split
from nfm.features.statistics import COUNTS
from nfm.features.sums import select_train_values, sum_packets, summarize

BY_COLUMN = Split((), 0.0, 0.0, 1, None, None, None, "fold", 1.0, ("id",))
FOLDS = ["train", "valid", "test"]
TEXTS = st.one_of(st.none(), st.sampled_from(["", "a", "b", "ä", "3"]))
NUMBERS = st.one_of(st.none(), st.floats(), st.sampled_from([0.0, -0.0, 1.5, math.nan, math.inf]))
ROWS = st.lists(
    st.tuples(st.sampled_from(FOLDS), st.booleans(), TEXTS, NUMBERS, st.none() | st.lists(TEXTS, max_size=3)),
    max_size=30,
)
SCHEMA = pa.schema(
    [
        ("fold", pa.string()),
        ("label", pa.bool_()),
        ("c", pa.string()),
        ("x", pa.float64()),
        ("bag", pa.list_(pa.string())),
    ]
)
PARTS = [
    Part("field:c", ("c",), ("text",)),
    Part("number:x", ("x",)),
    Part("field:bag", ("bag",), ("text",), Bag(None, ",", None)),
    Part("field:cross", ("c", "fold"), ("text", "text")),
]


VOCABULARIES = [(1, 3), (4,)]  # the bag and the column share a vocabulary
GROUPS = group_parts(len(PARTS), VOCABULARIES)


def counts_of(fold: str, label: bool) -> list[int]:
    """Return what a value of such a row adds to COUNTS: train, valid, test, positive, held_positive."""
    return [*(int(fold == name) for name in FOLDS), int(label and fold == "train"), int(label and fold != "train")]


@given(st.lists(ROWS, max_size=4), st.integers(1, 5))
def test_counts_equal_those_of_plain_python(batches: list[list[tuple[Any, ...]]], buckets: int) -> None:
    records = [
        pa.RecordBatch.from_arrays(
            [pa.array([r[i] for r in rows], f.type) for i, f in enumerate(SCHEMA)], schema=SCHEMA
        )
        for rows in batches
    ]
    expected: Counter[tuple[int, Any, int]] = Counter()
    for fold, label, text, x, bag in (row for rows in batches for row in rows):
        missing = x is None or not math.isfinite(x)
        values = [(0, str(label).lower()), (1, text), (2, None if missing else x + 0.0)]
        values += [(3, member) for member in ([None] if bag is None else bag)]
        values.append((4, None if text is None else f"{text}|{fold}"))
        for part, value in values:
            for i, n in enumerate(counts_of(fold, label)):
                expected[part, value, i] += n

    # Packets of two tasks, by bucket, as Spark would distribute them.
    half = len(records) // 2
    packets = [
        packet
        for task in (records[:half], records[half:])
        for packet in pack_counts(count_rows(task, Label("label", "boolean"), PARTS, BY_COLUMN), GROUPS, buckets)
    ]
    counted: Counter[tuple[int, Any, int]] = Counter()
    seen = set()
    in_runs: Counter[tuple[int, str]] = Counter()
    summarized: Counter[tuple[int, str, str]] = Counter()
    for bucket in range(buckets):
        in_bucket = [packet.filter(pc.equal(packet.column("bucket"), bucket)) for packet in packets]
        rows = list(sum_packets(in_bucket))
        for number, table in select_train_values(rows, VOCABULARIES) if rows else ():
            for row in table.to_pylist():
                assert (number, row["text"]) not in in_runs  # in one bucket, and so in one run
                in_runs[number, row["text"]] = row["count"]
        for row in (row for batch in summarize(rows) for row in batch.to_pylist()):
            for name in (*COUNTS, "values", "train_values", "valid_values", "test_values"):
                summarized[row["part"], "missing" if row["missing"] else "present", name] += row[name]
        for row in (row for batch in rows for row in batch.to_pylist()):
            key = row["text"]
            if row["cell"] is not None:
                assert row["bits"] == 52
                bits = row["cell"] if row["cell"] >= 0 else row["cell"] ^ 0x7FFFFFFFFFFFFFFF
                key = float(np.array([bits], np.int64).view(np.float64)[0])
            assert (row["part"], key) not in seen  # each value once
            seen.add((row["part"], key))
            for i, name in enumerate(COUNTS):
                counted[row["part"], key, i] += row[name]
    assert +counted == +expected

    in_train: Counter[tuple[int, str]] = Counter()
    expected_summary: Counter[tuple[int, str, str]] = Counter()
    present = {(part, value) for part, value, _ in expected}
    for part, value in present:
        counts = dict(zip(COUNTS, (expected[part, value, i] for i in range(len(COUNTS))), strict=True))
        if value is not None and part in (1, 3, 4):
            in_train[{1: 0, 3: 0, 4: 1}[part], value] += counts["train"]
        kind = "missing" if value is None else "present"
        for name, n in counts.items():
            expected_summary[part, kind, name] += n
        expected_summary[part, kind, "values"] += 1
        for fold in FOLDS:
            expected_summary[part, kind, f"{fold}_values"] += counts[fold] > 0
    assert +in_runs == +in_train
    # The number of values in a row for missing values has no meaning.
    for summary in (summarized, expected_summary):
        for key in [key for key in summary if key[1] == "missing" and key[2] not in COUNTS]:
            del summary[key]
    assert +summarized == +expected_summary


def test_left_out_negatives_are_not_counted() -> None:
    n = 1000
    split = Split(("id",), 0.0, 0.0, 1, None, None, None, None, 0.5, ("id",))
    batch = pa.record_batch({"id": range(n), "label": [i % 2 for i in range(n)], "x": [1.0] * n, "c": ["a"] * n})
    parts = [Part("field:c", ("c",), ("text",)), Part("number:x", ("x",))]
    train: Counter[int] = Counter()
    for counted in count_rows([batch], Label("label", "number"), parts, split):
        for row in counted.to_pylist():
            train[row["part"]] += row["train"]
    assert train[0] == train[1] == train[2]
    assert 500 + 200 < train[0] < 500 + 300
