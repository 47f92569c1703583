"""The strongest pairs against a sum over all rows and pairs in plain Python."""

import numpy as np
import pyarrow as pa
import pytest

from nfm.contract.dataset import arrange_inputs
from nfm.contract.schema import Bag, Field, Number, Spec
from nfm.training.report.pairs import strongest_pairs


def test_strongest_pairs_equal_a_brute_force_sum() -> None:
    spec = Spec(
        ("k",),
        (
            Field("a", ("a",), ("text",), 1, 2, "a"),
            Field("tags", ("tags",), ("text",), 1, 3, "tags", bag=Bag(None, "|", None)),
            Field("b", ("b",), ("text",), 1, 1, "b"),
        ),
        (Number("x", "x", "field", 0.0, False, None, "none", 0.0, 1.0),),
        (),
    )
    rng = np.random.default_rng(0)
    rows, table = 40, rng.normal(size=(spec.rows, 5)).astype(np.float32)
    bags = [[int(i) for i in rng.integers(0, 5, rng.integers(0, 4))] for _ in range(rows)]  # some are empty
    weights = [[float(w) for w in rng.uniform(size=len(bag))] for bag in bags]
    columns = {
        "a": rng.integers(0, 4, rows).astype(np.int32),
        "b": rng.integers(0, 3, rows).astype(np.int32),
        "x": rng.normal(size=rows).astype(np.float32),
        "tags": pa.array(bags, pa.list_(pa.int32())),
        "tags_weights": pa.array(weights, pa.list_(pa.float32())),
    }
    expected = dict.fromkeys([("a", "b"), ("a", "tags"), ("a", "x"), ("b", "tags"), ("b", "x"), ("tags", "x")], 0.0)
    for row in range(rows):
        starts = dict(zip(("a", "tags", "b"), spec.offsets, strict=True))
        vectors = {name: table[starts[name] + columns[name][row]] for name in ("a", "b")}
        members = zip(bags[row], weights[row], strict=True)
        vectors["tags"] = sum((table[starts["tags"] + i] * w for i, w in members), np.zeros(5))
        vectors["x"] = table[-1] * columns["x"][row]
        for first, second in expected:
            expected[first, second] += float(np.abs(vectors[first] * vectors[second]).mean()) / rows
    found = strongest_pairs(spec, table, arrange_inputs(spec, columns))
    assert {(first, second): strength for first, second, strength in found} == pytest.approx(expected, rel=1e-5)
    assert found == sorted(found, key=lambda pair: -pair[2])
    assert strongest_pairs(spec, table, arrange_inputs(spec, columns), most=2) == found[:2]
    nothing = {name: values[:0] for name, values in columns.items()}
    assert strongest_pairs(spec, table, arrange_inputs(spec, nothing)) == []
