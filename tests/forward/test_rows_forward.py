"""The forward pass, compared with the paper's equations, row by row and pair by pair, in float64."""

from collections.abc import Callable
from itertools import pairwise, product
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from nfm.contract.artifact import Network
from nfm.contract.dataset import Inputs
from nfm.contract.schema import Bag, Field, Number, Spec
from nfm.forward.rows import score
from tests.bins import random_bins, without_bins

TASKS = {"binary": (), "regression": (), "multiclass": ("a", "b", "c")}
Weights = dict[str, NDArray[Any]]


def spec_of(bags: bool, numbers: bool, dense: bool) -> Spec:
    """Return a spec with two plain fields and, if `bags`, a bag before, between and after them."""
    names = ["tags", "colour", "shops", "size", "kinds"] if bags else ["colour", "size"]
    bag = {name: Bag(None, ",", None) for name in ("tags", "shops", "kinds")}
    fields = [Field(n, (n,), ("text",), 2, 3 + i, n, bag=bag.get(n)) for i, n in enumerate(names)]
    field_numbers = [Number("kg", "kg", "field", 0.0, True, None, "none", 0.0, 1.0)] * numbers
    dense_numbers = [Number("price", "price", "dense", 0.0, True, None, "none", 0.0, 1.0, (1.0, 2.0, 4.0))] * dense
    return Spec(("id",), tuple(fields), (*dense_numbers, *field_numbers), ())


def network_of(
    task: str,
    hidden: tuple[int, ...],
    activation: str = "tanh",
    dtype: str = "float32",
    dim: int = 5,
    rates: tuple[str, ...] = (),
    counts: bool = False,
) -> Network:
    return Network(task, dim, hidden, activation, TASKS[task], dtype, rates=rates, counts=counts)


def weights_of(spec: Spec, network: Network, seed: int = 1) -> Weights:
    random = np.random.default_rng(seed)
    shapes = network.weight_shapes(spec)
    return {name: random.normal(scale=0.5, size=shape).astype(network.dtype(name)) for name, shape in shapes.items()}


def rows_of(spec: Spec, lengths: list[int], seed: int = 2) -> Inputs:
    """Return random rows with these numbers of bag members; each member belongs to a random bag."""
    random = np.random.default_rng(seed)
    count = len(lengths)
    plain = [field for field in spec.fields if field.bag is None]
    ids = [random.integers(0, field.size, count) for field in plain]
    bag_rows = [
        row
        for field, start in zip(spec.fields, spec.offsets, strict=True)
        if field.bag is not None
        for row in range(start, start + field.size)
    ]
    splits = np.concatenate([[0], np.cumsum(lengths)]) if bag_rows else np.zeros(count + 1)
    members = [sorted(random.choice(bag_rows, length)) for length in lengths] if bag_rows else []  # by bag
    flat = np.array([row for row_members in members for row in row_members], np.int32)
    return without_bins(
        np.stack(ids, axis=1).astype(np.int32),
        random.normal(size=(count, len(spec.field_numbers))).astype(np.float32),
        random.normal(size=(count, len(spec.dense))).astype(np.float32),
        flat,
        random.choice(np.array([0.0, 1.0, 0.5, -2.0, 0.3], np.float32), len(flat)),
        splits.astype(np.int64),
    )._replace(**random_bins(spec, random, count))


ACTIVATIONS: dict[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    "relu": lambda x: np.maximum(x, 0),
    "tanh": np.tanh,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "linear": lambda x: x,
}


def brute_force(spec: Spec, network: Network, weights: Weights, rows: Inputs) -> NDArray[np.float64]:
    """Return (B, C) scores by equations 2 to 7, one pair of features at a time."""
    w = {name: array.astype(np.float64) for name, array in weights.items()}
    starts = [start for field, start in zip(spec.fields, spec.offsets, strict=True) if field.bag is None]
    number_rows = range(spec.rows - len(spec.field_numbers), spec.rows)
    scores = []
    for b, (begin, end) in enumerate(pairwise(rows.bag_splits.tolist())):
        features = [(start + int(i), 1.0) for start, i in zip(starts, rows.ids_BF[b], strict=True)]
        features += [(row, float(x)) for row, x in zip(number_rows, rows.values_BN[b], strict=True)]
        features += [(int(rows.bag_rows[p]), float(rows.bag_values[p])) for p in range(begin, end)]
        vectors, linear = ([x * w[name][i] for i, x in features] for name in ("embedding", "linear"))
        for q, first in enumerate(spec.bin_offsets[:-1]):
            low, t = first + rows.bins_BQ[b, q], float(rows.fractions_BQ[b, q])
            vectors.append((1 - t) * w["embedding"][low] + (t * w["embedding"][low + 1] if t else 0))
            linear.append((1 - t) * w["linear"][low] + (t * w["linear"][low + 1] if t else 0))
        pooled = np.zeros(network.embedding_dim)
        for second, vector in enumerate(vectors):
            for other in vectors[:second]:
                pooled += other * vector
        dense = np.concatenate([rows.dense_BD[b], *rates_of(spec, network, w, rows, b)])
        hidden = np.concatenate([pooled, dense]) if network.hidden_units else pooled
        for layer in range(len(network.hidden_units)):
            hidden = hidden @ w[f"hidden_{layer}_kernel"] + w[f"hidden_{layer}_bias"]
            hidden = ACTIVATIONS[network.activation](hidden)
        logits = w["bias"] + hidden @ w["output"] + dense @ w["dense_linear"] + sum(linear)
        if network.task == "multiclass":
            logits = np.exp(logits) / np.exp(logits).sum()
        scores.append(1 / (1 + np.exp(-logits)) if network.task == "binary" else logits)
    return np.array(scores)


def rates_of(spec: Spec, network: Network, w: Weights, rows: Inputs, b: int) -> list[NDArray[np.float64]]:
    """Return a row's rates: those of its plain fields, then the mean of each bag's members, 0 without members."""
    plain, bags = [], []
    members = rows.bag_rows[rows.bag_splits[b] : rows.bag_splits[b + 1]]
    columns = iter(rows.ids_BF[b])
    for field, start in zip(spec.fields, spec.offsets, strict=True):
        place = start + next(columns) if field.bag is None else None
        if field.name not in network.rates:
            continue
        if place is not None:
            plain.append(w["rates"][place])
        else:
            own = w["rates"][members[(members >= start) & (members < start + field.size)]]
            bags.append(own.mean(axis=0) if len(own) else np.zeros(network.rate_columns))
    return [*plain, *bags]


LENGTHS = [0, 1, 3, 0, 64, 65, 2, 130]  # number of bag members in each row


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("hidden", [(), (4,), (4, 3)], ids=str)
@pytest.mark.parametrize("task", TASKS)
def test_scores_equal_the_equations(task: str, hidden: tuple[int, ...], dtype: str) -> None:
    for bags, numbers, dense, rates in product([False, True], repeat=4):
        rated = ("size", "kinds", "tags") if bags else ("size",)  # not the fields and bags before and between them
        spec = spec_of(bags, numbers, dense)
        network = network_of(task, hidden, dtype=dtype, rates=rated if rates else (), counts=rates and numbers)
        weights, rows = weights_of(spec, network), rows_of(spec, LENGTHS)
        actual, expected = score(spec, network, weights, rows), brute_force(spec, network, weights, rows)
        assert actual.dtype == np.float32
        assert actual.shape == ((8, 3) if task == "multiclass" else (8,))
        # Pooling subtracts large squares, so float32 loses precision.
        np.testing.assert_allclose(actual.reshape(expected.shape), expected, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("dim", [1, 31, 32, 64, 70, 130])
def test_every_embedding_size(dim: int, dtype: str) -> None:
    for bags, numbers in product([False, True], repeat=2):
        spec, network = spec_of(bags, numbers, False), network_of("regression", (), dtype=dtype, dim=dim)
        weights, rows = weights_of(spec, network), rows_of(spec, LENGTHS)
        expected = brute_force(spec, network, weights, rows)[:, 0]
        np.testing.assert_allclose(score(spec, network, weights, rows), expected, rtol=2e-4, atol=1e-3)


def test_the_score_of_a_row_without_features_is_the_bias() -> None:
    tags = Field("tags", ("tags",), ("text",), 2, 3, "tags", bag=Bag(None, ",", None))
    spec, network = Spec(("id",), (tags,), (), ()), network_of("regression", (), dim=70)
    weights, rows = weights_of(spec, network), rows_of(spec_of(True, False, False), [0, 2, 0])
    without_ids = rows._replace(ids_BF=np.empty((3, 0), np.int32), bag_rows=np.array([1, 2], np.int32))
    scores = score(spec, network, weights, without_ids)
    assert scores[0] == scores[2] == weights["bias"][0]


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation(activation: str) -> None:
    spec, network = spec_of(True, True, True), network_of("regression", (4, 3), activation)
    weights, rows = weights_of(spec, network), rows_of(spec, [2, 0, 5])
    expected = brute_force(spec, network, weights, rows)[:, 0]
    np.testing.assert_allclose(score(spec, network, weights, rows), expected, rtol=1e-4, atol=1e-4)


def test_the_example_of_the_paper() -> None:
    # A field and a bag of two members pool to [19, 10, 27, 4]; h maps each such vector to another score.
    fields = (Field("f", ("f",), ("text",), 0, 0, "f"), Field("b", ("b",), ("text",), 0, 1, "b", bag=Bag(None, ",", 9)))
    spec, network = Spec(("id",), fields, (), ()), Network("regression", 4, (), "relu")
    weights = {
        "embedding": np.array([[3, 0, 1, 0], [1, 2, 3, 4], [4, 5, 6, 1]], np.float32),
        "linear": np.array([[0.5], [0.25], [0.125]], np.float32),
        "dense_linear": np.empty((0, 1), np.float32),
        "bias": np.array([0.0], np.float32),
        "output": np.array([[1], [32], [32**2], [32**3]], np.float32),
    }

    def scored(rows: list[int], x: list[float]) -> float:
        arrays = np.array(rows, np.int32), np.array(x, np.float32), np.array([0, len(rows)])
        none = np.empty((1, 0), np.float32)
        return float(score(spec, network, weights, without_bins(np.zeros((1, 1), np.int32), none, none, *arrays))[0])

    assert scored([1, 2], [1, 1]) == 19 + 10 * 32 + 27 * 32**2 + 4 * 32**3 + 0.875
    assert scored([2, 1], [1, 1]) == scored([1, 2], [1, 1])
    assert scored([], []) == 0.5  # one feature alone has no interaction
    assert scored([1], [2]) == 6 + 6 * 32**2 + 1.0
    assert scored([1, 1], [1, 1]) == 7 + 4 * 32 + 15 * 32**2 + 16 * 32**3 + 1.0
    assert scored([1, 2], [0, 1]) == 12 + 6 * 32**2 + 0.625


def select_rows(rows: Inputs, chosen: list[int]) -> Inputs:
    """Return the chosen rows, in this order."""
    members = [range(rows.bag_splits[b], rows.bag_splits[b + 1]) for b in chosen]
    every = [member for row_members in members for member in row_members]
    splits = np.cumsum([0, *(len(row_members) for row_members in members)])
    arrays: Any = [array[chosen] for array in rows[:5]] + [rows.bag_rows[every], rows.bag_values[every], splits]
    return Inputs(*arrays)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("task", TASKS)
def test_the_score_of_a_row_does_not_depend_on_other_rows(task: str, dtype: str) -> None:
    spec = spec_of(True, True, True)
    network = Network(task, 13, (37, 11), "tanh", TASKS[task], dtype)
    weights = weights_of(spec, network)
    random = np.random.default_rng(3)
    count = 2500  # two full tiles, and one that is not full
    rows = rows_of(
        spec, random.choice([0, 1, 2, 5, 64, 65, 90], count, p=[0.3, 0.3, 0.2, 0.1, 0.04, 0.04, 0.02]).tolist()
    )
    whole = score(spec, network, weights, rows)
    for chosen in (
        random.permutation(count).tolist(),
        list(range(1, 1026)),
        list(range(1024)),
        [7],
        *([b] for b in random.choice(count, 20).tolist()),
        [count - 1, 5],
    ):
        actual = score(spec, network, weights, select_rows(rows, chosen))
        np.testing.assert_array_equal(actual, whole[chosen], strict=True)
    # The row has the same score at every position of a tile.
    repeated = score(spec, network, weights, select_rows(rows, [11] * 1500))
    np.testing.assert_array_equal(repeated, np.broadcast_to(whole[11], repeated.shape))


@pytest.mark.parametrize("task", TASKS)
def test_an_empty_batch_has_no_scores(task: str) -> None:
    spec, network = spec_of(True, True, True), network_of(task, (4,))
    actual = score(spec, network, weights_of(spec, network), rows_of(spec, []))
    assert actual.dtype == np.float32
    assert actual.shape == ((0, 3) if task == "multiclass" else (0,))


def test_probabilities_of_extreme_logits() -> None:
    def scored(task: str, bias: list[float]) -> list[Any]:
        spec, network = spec_of(False, False, False), network_of(task, ())
        weights = {name: np.zeros_like(array) for name, array in weights_of(spec, network).items()}
        rows = rows_of(spec, [0])
        return list(score(spec, network, {**weights, "bias": np.array(bias, np.float32)}, rows)[0].reshape(-1).tolist())

    assert [scored("binary", [x]) for x in (-1e4, 0, 1e4)] == [[0], [0.5], [1]]
    assert [scored("regression", [x]) for x in (-1e30, 0, 0.25)] == [[np.float32(-1e30)], [0], [0.25]]
    assert scored("multiclass", [1e4, 1e4, -1e4]) == [0.5, 0.5, 0]
    assert scored("multiclass", [-1e30, -3e38, 3e38]) == [0, 0, 1]
    assert scored("multiclass", [7, 7, 7]) == pytest.approx([1 / 3] * 3)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_threads_and_memory_layout_do_not_change_scores(dtype: str) -> None:
    spec, network = spec_of(True, True, True), network_of("multiclass", (7,), dtype=dtype)
    rows, weights = rows_of(spec, [i % 4 for i in range(5_000)]), weights_of(spec, network)
    by_column: Any = [np.asfortranarray(matrix) for matrix in (rows.ids_BF, rows.values_BN, rows.dense_BD)]
    alone = score(spec, network, weights, rows)
    for threads in (2, 3):
        np.testing.assert_array_equal(alone, score(spec, network, weights, rows, threads))
    np.testing.assert_array_equal(
        alone,
        score(
            spec, network, weights, rows._replace(ids_BF=by_column[0], values_BN=by_column[1], dense_BD=by_column[2])
        ),
    )


@pytest.mark.parametrize("task", TASKS)
def test_a_number_that_is_too_large_affects_only_the_score_of_its_row(task: str) -> None:
    spec, network = spec_of(False, True, False), network_of(task, ())
    rows = rows_of(spec, [0] * 4)
    values = rows.values_BN.copy()
    values[2, 0] = 1e30
    actual = score(spec, network, weights_of(spec, network), rows._replace(values_BN=values)).reshape(4, -1)
    assert np.isfinite(actual).all(axis=1).tolist() == [True, True, False, True]
    assert np.isfinite(actual[2]).sum() == 0  # the score of no class is finite
