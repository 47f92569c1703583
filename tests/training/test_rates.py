"""Target rates, compared with pandas, value by value; and what they say about random labels."""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from nfm.config.train import Model, Train
from nfm.contract.artifact import Network
from nfm.contract.schema import RATE_PARTS, Bag, Field, Spec
from nfm.kernels.rates import Rates
from nfm.training.data.batches import Rows
from nfm.training.data.labels import describe_train_labels
from nfm.training.data.rates import compute_rates
from nfm.training.data.rows import take_rows
from nfm.training.model import initial_weights
from nfm.training.tables import TableReader
from tests.bins import without_bins
from tests.training.examples import fold_in_memory

FIELDS = (
    Field("shop", ("shop",), ("text",), 2, 6, "shop"),  # ids 0 missing, 1 and 2 out-of-vocabulary
    Field("tags", ("tags",), ("text",), 1, 4, "tags", None, Bag(None, ",", None)),
    Field("brand", ("brand",), ("text",), 3, 0, None),  # hashed
    Field("plain", ("plain",), ("text",), 1, 3, "plain", rates=False),
    Field("links", ("links",), ("text",), 1, 2, "links", None, Bag(None, ",", None)),
)
SPEC = Spec(("id",), FIELDS, (), ())
NAMES = ("shop", "tags", "brand", "links")
START = dict(zip((field.name for field in FIELDS), SPEC.offsets, strict=True))


def draw(count: int, label: Any, weight: Any = None, seed: int = 0) -> Rows:
    """Draw rows with missing and unseen values, and bags with 0 to 3 members, some twice."""
    rng = np.random.default_rng(seed)
    ids = np.stack([rng.integers(0, field.size, count) for field in FIELDS if field.bag is None], axis=1)
    members = [
        sorted(START[name] + rng.integers(0, size, rng.integers(0, 4)))
        for _ in range(count)
        for name, size in (("tags", 6), ("links", 4))
    ]
    splits = np.cumsum([0, *map(len, members)])[::2].astype(np.int64)
    flat = np.array([row for row_members in members for row in row_members], np.int32)
    none = np.empty((count, 0), np.float32)
    inputs = without_bins(ids.astype(np.int32), none, none, flat, np.ones(len(flat), np.float32), splits)
    weight = np.ones(count, np.float32) if weight is None else np.asarray(weight, np.float32)
    part = rng.integers(0, RATE_PARTS, count).astype(np.int8)
    return Rows(inputs, np.asarray(label, np.float32), weight, None, part)


def rates_of(rows: Rows, task: Any, spec: Spec = SPEC) -> Rates:
    fold = fold_in_memory(spec, rows)
    labels = describe_train_labels(spec, Model(task=task), Train(), fold)
    network = Network(task, 2, (), "relu", spec.classes, rates=NAMES, counts=True)
    return compute_rates(spec, network, labels, fold)


def occurrences(rows: Rows) -> pd.DataFrame:
    """Return a row for each value of each row: field, row of the table, part, weight, label."""
    frames = []
    for column, name in enumerate(field.name for field in FIELDS if field.bag is None):
        frames.append(
            pd.DataFrame(
                {"field": name, "value": START[name] + rows.inputs.ids_BF[:, column], "row": range(len(rows.label))}
            )
        )
    lengths = np.diff(rows.inputs.bag_splits)
    bags = pd.DataFrame({"value": rows.inputs.bag_rows, "row": np.repeat(np.arange(len(lengths)), lengths)})
    bags["field"] = np.where(bags.value >= START["links"], "links", "tags")
    found = pd.concat([*frames, bags])
    assert rows.part is not None
    return found.assign(part=rows.part[found.row], weight=rows.weight[found.row], label=rows.label[found.row])


def expected_rates(rows: Rows, target: NDArray[Any], base: float, log_odds: bool) -> NDArray[np.float64]:
    """Return (R, parts + 1) rates of one output with pandas; NaN for fields without rates."""
    found = occurrences(rows).assign(target=target[occurrences(rows).row])
    found["weight"] = found.weight / rows.weight.mean()
    expected = np.full((SPEC.rows, RATE_PARTS + 1), np.nan)
    for field in FIELDS:
        if field.name not in NAMES:
            continue
        own = found[found.field == field.name]
        for part in range(RATE_PARTS + 1):
            seen = own[own.part != part]
            n = seen.groupby("value").weight.sum()
            s = (seen.weight * seen.target).groupby(seen.value).sum()
            for value in range(START[field.name], START[field.name] + field.size):
                local = value - START[field.name]
                unseen = field.vocabulary is not None and 1 <= local < field.first_value
                count, total = (0, 0) if unseen else (n.get(value, 0), s.get(value, 0))
                rate = (total + 20 * base) / (count + 20)
                expected[value, part] = np.log(rate / (1 - rate)) if log_odds else rate
        whole = expected[own.value, RATE_PARTS]
        mean = np.average(whole, weights=own.weight)
        block = slice(START[field.name], START[field.name] + field.size)
        expected[block] = (expected[block] - mean) / np.sqrt(np.average((whole - mean) ** 2, weights=own.weight))
    return expected


def check(rates: Rates, output: int, expected: NDArray[np.float64]) -> None:
    has_rate = ~np.isnan(expected[:, 0])
    np.testing.assert_allclose(rates.table_RPC[has_rate, :, output], expected[has_rate], rtol=1e-4, atol=1e-4)
    assert not rates.table_RPC[~has_rate].any()


@pytest.mark.parametrize("weighted", [False, True])
def test_rates_of_a_binary_label_equal_pandas(weighted: bool) -> None:
    rng = np.random.default_rng(3)
    weight = rng.choice([0, 0.5, 1, 7], 400) if weighted else None
    rows = draw(400, rng.random(400) < 0.3, weight)
    base = np.average(rows.label, weights=rows.weight)
    check(rates_of(rows, "binary"), 0, expected_rates(rows, rows.label, float(base), log_odds=True))


def test_rates_of_a_regression_equal_pandas() -> None:
    rng = np.random.default_rng(4)
    rows = draw(400, 350_000 + 80_000 * rng.normal(size=400), rng.choice([1, 2], 400))
    mean = np.average(rows.label.astype(np.float64), weights=rows.weight)
    deviation = np.sqrt(np.average((rows.label - mean) ** 2, weights=rows.weight))
    check(rates_of(rows, "regression"), 0, expected_rates(rows, (rows.label - mean) / deviation, 0.0, log_odds=False))


def test_rates_of_each_class_equal_pandas() -> None:
    spec = replace(SPEC, classes=("a", "b", "c"))
    rows = draw(400, np.random.default_rng(5).choice(3, 400, p=[0.6, 0.3, 0.1]))
    rates = rates_of(rows, "multiclass", spec)
    for number in range(3):
        target = (rows.label == number).astype(np.float64)
        check(rates, number, expected_rates(rows, target, float(target.mean()), log_odds=True))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("task", ["binary", "multiclass"])
def test_counts_equal_pandas(task: str, weighted: bool) -> None:
    rng = np.random.default_rng(8)
    spec = replace(SPEC, classes=("a", "b", "c")) if task == "multiclass" else SPEC
    rows = draw(400, rng.integers(0, 2, 400), rng.choice([0, 0.5, 1, 7], 400) if weighted else None)
    found, expected = occurrences(rows), np.zeros(SPEC.rows)
    for field in (field for field in FIELDS if field.name in NAMES):
        own = found[found.field == field.name]
        count = own.groupby("value").weight.sum() / rows.weight.mean()
        ids = pd.RangeIndex(START[field.name], START[field.name] + field.size)
        logs = np.log1p(count.reindex(ids, fill_value=0))
        if field.vocabulary is not None:
            logs.iloc[1 : field.first_value] = 0
        of_rows = logs[own.value]
        mean = np.average(of_rows, weights=own.weight)
        expected[ids] = (logs - mean) / np.sqrt(np.average((of_rows - mean) ** 2, weights=own.weight))
    table_RPC = rates_of(rows, task, spec).table_RPC
    for part in range(RATE_PARTS + 1):
        np.testing.assert_allclose(table_RPC[:, part, -1], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("task", ["binary", "regression"])
def test_rates_do_not_depend_on_the_order_of_the_rows(task: str) -> None:
    rng = np.random.default_rng(6)
    label = rng.random(3000) < 0.3 if task == "binary" else rng.lognormal(3, 2, 3000)
    rows = draw(3000, label, rng.random(3000))
    first = rates_of(rows, task)
    for seed in range(3):
        other = rates_of(take_rows(rows, np.random.default_rng(seed).permutation(3000)), task)
        # Mean and deviation of the label are sums of floats in the order of the rows.
        equal = np.array_equal if task == "binary" else np.allclose
        assert equal(first.table_RPC, other.table_RPC)


@pytest.mark.parametrize("each", [1, 2, 5, 20])
def test_rates_of_train_rows_do_not_know_their_own_labels(each: int) -> None:
    """With rates of all rows, a value of one row would have an AUC of 1 against its own random label."""
    count = 200_000
    rng = np.random.default_rng(each)
    spec = Spec(("id",), (Field("x", ("x",), ("number",), 1, count // each, "x"),), (), ())
    ids = (2 + rng.permutation(count) // each).astype(np.int32)[:, np.newaxis]
    none, bags = (
        np.empty((count, 0), np.float32),
        (np.empty(0, np.int32), np.empty(0, np.float32), np.zeros(count + 1, np.int64)),
    )
    part = rng.integers(0, RATE_PARTS, count).astype(np.int8)
    label = (rng.random(count) < 0.3).astype(np.float32)
    rows = Rows(without_bins(ids, none, none, *bags), label, np.ones(count, np.float32), None, part)
    fold = fold_in_memory(spec, rows)
    rates = compute_rates(
        spec, Network("binary", 2, (), "relu", rates=("x",)), describe_train_labels(spec, Model(), Train(), fold), fold
    )
    reader = TableReader(spec, initial_weights(spec, Model(embedding_dim=1, hidden_units=()), 1).tables, rates=rates)
    rate = reader.append_rates(rows).inputs.dense_BD[:, 0]
    assert abs(roc_auc_score(label, rate) - 0.5) < 0.01
    whole = reader.append_rates(rows._replace(part=None)).inputs.dense_BD[:, 0]
    assert roc_auc_score(label, whole) > 0.6


def test_all_labels_equal_or_no_weight_give_finite_rates() -> None:
    for label, weight in ((np.ones(50), None), (np.zeros(50), None), (np.arange(50) % 2, np.zeros(50))):
        for task in ("binary", "regression"):
            assert np.isfinite(rates_of(draw(50, label, weight), task).table_RPC).all()
