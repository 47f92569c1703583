"""The loops over the tables against formulas in float64; the bits do not depend on the number of threads."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from nfm.config.train import Model, Train
from nfm.contract.dataset import Inputs
from nfm.contract.schema import Bag, Field, Spec
from nfm.kernels import tables as kernels
from nfm.kernels.pooling import Features
from nfm.kernels.tables import ByRow, Pooled, Tables, Upstream
from nfm.training.data.rows import Rows
from nfm.training.model import initial_weights
from nfm.training.network import Network
from nfm.training.optimizers import Optimizer, list_arrays
from nfm.training.step import make_step
from nfm.training.tables import Formula, TableReader, TableUpdater

MakeRows = Callable[..., Inputs]
SGD = Formula(kernels.SGD, (), lambda rate, _: (rate,))
NO_DECAY = np.zeros(2, np.float32)
NO_BINS: Any = 0, np.empty((0, 1), np.float32)


def spec_of(rows: int) -> Spec:
    """Return a specification of one bag whose table has this many rows."""
    return Spec(("k",), (Field("a", ("a",), ("text",), 1, rows - 2, "a", None, Bag(None, ",", None)),), (), ())


class Example:
    """A random batch on tables of R rows; a row may occur several times in a sample, and a sample may be empty."""

    def __init__(self, seed: int, rows: int, samples: int, most: int, dim: int, width: int) -> None:
        rng = np.random.default_rng(seed)
        starts = np.cumsum([0, *rng.integers(0, most + 1, samples)], dtype=np.int64)
        x_P = rng.choice([1.0, 1.0, 0.0, -0.5, 2.5], starts[-1]).astype(np.float32)
        self.features = Features(rng.integers(0, rows, starts[-1]).astype(np.int32), x_P, starts, 0)
        self.tables = Tables(*(rng.normal(size=(rows, columns)).astype(np.float32) for columns in (dim, width)))
        self.upstream_BK = rng.normal(size=(samples, dim)).astype(np.float32)
        self.upstream_BC = rng.normal(size=(samples, width)).astype(np.float32)

    def samples(self) -> list[tuple[NDArray[Any], NDArray[Any]]]:
        """Return (rows, x) of the features of each sample."""
        rows_P, x_P, starts, _ = self.features
        return [(rows_P[a:b], x_P[a:b].astype(np.float64)) for a, b in pairwise(starts.tolist())]

    def gradients(self, decays: tuple[float, float]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the gradients of Σ pooled · upstream + Σ linear · upstream + Σ decay / 2 · w², by equation 5."""
        tables = [table.astype(np.float64) for table in self.tables]
        of_embedding, of_linear = (np.zeros_like(table) for table in tables)
        for b, (rows, x) in enumerate(self.samples()):
            vectors = x[:, np.newaxis] * tables[0][rows]
            for m, row in enumerate(rows):
                others = sum((vectors[j] for j in range(len(rows)) if j != m), np.zeros(vectors.shape[1]))
                of_embedding[row] += x[m] * others * self.upstream_BK[b] + decays[0] * tables[0][row]
                of_linear[row] += x[m] * self.upstream_BC[b] + decays[1] * tables[1][row]
        return of_embedding, of_linear


def reader_of(tables: Tables, threads: int = 2) -> TableReader:
    return TableReader(spec_of(len(tables.embedding)), tables, threads)


def pool_and_group(reader: TableReader, features: Features) -> tuple[Pooled, ByRow]:
    return reader.pool(features), reader.group(features).result()


examples = st.builds(
    Example,
    seed=st.integers(0, 2**32 - 1),
    rows=st.sampled_from([2, 3, 40, 3000]),
    samples=st.sampled_from([0, 1, 2, 17]),
    most=st.integers(0, 6),
    dim=st.sampled_from([1, 3, 16, 37]),
    width=st.integers(1, 3),
)
few = settings(max_examples=50, deadline=None, derandomize=True)


@few
@given(examples)
def test_pooling_is_the_sum_over_all_pairs(example: Example) -> None:
    pooled, _ = pool_and_group(reader_of(example.tables), example.features)
    for b, (rows, x) in enumerate(example.samples()):
        vectors, weights = (x[:, np.newaxis] * table[rows].astype(np.float64) for table in example.tables)
        pairs = np.zeros(vectors.shape[1])
        for i in range(len(rows)):
            for j in range(i + 1, len(rows)):
                pairs += vectors[i] * vectors[j]
        np.testing.assert_allclose(pooled.pooled_BK[b], pairs, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(pooled.sum_BK[b], vectors.sum(axis=0), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(pooled.linear_BC[b], weights.sum(axis=0), rtol=1e-5, atol=1e-5)


def test_pooling_of_the_worked_example() -> None:
    rows = np.array([[3, 0, 1, 0], [1, 2, 3, 4], [4, 5, 6, 1], [9, 9, 9, 9]], np.float32)
    features = Features(np.array([0, 1, 2], np.int32), np.ones(3, np.float32), np.array([0, 3]), 0)
    pooled, _ = pool_and_group(reader_of(Tables(rows, rows[:, :1].copy())), features)
    assert pooled.pooled_BK.tolist() == [[19.0, 10.0, 27.0, 4.0]]
    assert pooled.linear_BC.tolist() == [[8.0]]


@few
@given(examples)
def test_features_are_grouped_by_row_in_the_order_of_the_samples(example: Example) -> None:
    _, by_row = pool_and_group(reader_of(example.tables), example.features)
    grouped = [
        (int(row), int(sample), float(x))
        for row, (a, b) in zip(by_row.distinct_D, pairwise(by_row.starts.tolist()), strict=True)
        for sample, x in zip(by_row.samples_P[a:b], by_row.x_P[a:b], strict=True)
    ]
    listed = [
        (int(row), b, float(x))
        for b, (rows, x_M) in enumerate(example.samples())
        for row, x in zip(rows, x_M, strict=True)
    ]
    assert grouped == sorted(listed, key=lambda feature: feature[0])  # a stable sort
    assert len(set(by_row.distinct_D.tolist())) == len(by_row.distinct_D)


@few
@given(examples, st.sampled_from([(0.0, 0.0), (0.3, 0.2)]))
def test_rows_move_by_the_gradient_of_equation_5(example: Example, decays: tuple[float, float]) -> None:
    before = [table.copy() for table in example.tables]
    reader, expected = reader_of(example.tables), example.gradients(decays)
    updater = TableUpdater(reader, [SGD, SGD])
    pooled, by_row = pool_and_group(reader, example.features)
    upstream = Upstream(pooled.sum_BK, example.upstream_BK, example.upstream_BC, *NO_BINS)
    given_decays = np.array(decays, np.float32)
    length = sum(float(np.sum(g**2)) for g in expected)
    assert updater.square_norm(by_row, upstream, given_decays) == pytest.approx(length, rel=1e-4, abs=1e-6)
    updater.update(by_row, upstream, given_decays, 0.5, 0.1, 1)
    for now, then, gradient in zip(example.tables, before, expected, strict=True):
        np.testing.assert_allclose(now, then - 0.1 * 0.5 * gradient, rtol=1e-4, atol=2e-5)
        others = np.setdiff1d(np.arange(len(then)), example.features.rows)
        np.testing.assert_array_equal(now[others], then[others])


def test_the_gradient_of_the_only_feature_of_a_sample_is_exactly_0() -> None:
    """Otherwise Adagrad with an initial accumulator of 0 would change the weight by the full rate."""
    rng = np.random.default_rng(2)
    start = rng.normal(size=(50, 8)).astype(np.float32)
    formula = Formula(kernels.ADAGRAD, (0.0,), lambda rate, _: (rate, 1e-10))
    reader = reader_of(Tables(start.copy(), start[:, :1].copy()))
    updater = TableUpdater(reader, [formula, formula])
    x_P = rng.normal(size=49).astype(np.float32)
    pooled, by_row = pool_and_group(reader, Features(np.arange(49, dtype=np.int32), x_P, np.arange(50), 0))
    upstream = rng.normal(size=(49, 8)).astype(np.float32)
    derivatives = Upstream(pooled.sum_BK, upstream, np.zeros((49, 1), np.float32), *NO_BINS)
    updater.update(by_row, derivatives, NO_DECAY, 1.0, 0.1, 1)
    np.testing.assert_array_equal(reader.weights.embedding, start)


@pytest.mark.parametrize("optimizer", ["adagrad", "adam", "sgd"])
@pytest.mark.parametrize("which", ["mixed", "bags"])
def test_any_number_of_threads_gives_the_same_bits(
    optimizer: str, which: str, make_rows: MakeRows, request: pytest.FixtureRequest
) -> None:
    spec: Spec = request.getfixturevalue(which)
    form = Model.model_validate({"embedding_dim": 5, "hidden_units": (4,), "l2": {"embedding": 0.1}})
    train = Train.model_validate({"optimizer": optimizer, "clip_norm": 0.1, "linear_optimizer": {}, "average": 0.9})
    results = []
    for threads in (1, 2, 5):
        weights, network = initial_weights(spec, form, 4), Network(spec, form, train)
        reader = TableReader(spec, weights.tables, threads)
        chosen = Optimizer(train, weights, list(network.trained), reader)
        step = make_step(spec, form, train, reader, network, chosen)
        for number, count in enumerate((1500, 3, 1), start=1):
            label = (np.arange(count) % 2).astype(np.float32)
            step(Rows(make_rows(spec, count, number), label, np.ones(count, np.float32), None), 0.1, number)
        lazy = [array.copy() for array in chosen.list_arrays()]
        chosen.finish_epoch(3)
        assert any(np.abs(array).max() > 0 for array in list_arrays(weights))
        results.append([*lazy, *chosen.list_arrays()])
    for others in results[1:]:
        for first, other in zip(results[0], others, strict=True):
            np.testing.assert_array_equal(first, other)


@pytest.mark.parametrize("which", ["bags", "mixed", "categories", "only_bags"])
def test_features_of_fields_numbers_and_bags_are_listed(
    which: str, make_rows: MakeRows, request: pytest.FixtureRequest
) -> None:
    spec: Spec = request.getfixturevalue(which)
    inputs = make_rows(spec, 20)
    weights = initial_weights(spec, Model(embedding_dim=2), 1)
    features = TableReader(spec, weights.tables).list_features(inputs)
    rows, x = [], []
    offsets = [offset for offset, field in zip(spec.offsets, spec.fields, strict=True) if field.bag is None]
    for b in range(20):
        rows += [offset + i for offset, i in zip(offsets, inputs.ids_BF[b].tolist(), strict=True)]
        x += [1.0] * len(offsets)
        rows += [spec.rows - len(spec.field_numbers) + n for n in range(len(spec.field_numbers))]
        x += inputs.values_BN[b].tolist()
        members = slice(inputs.bag_splits[b], inputs.bag_splits[b + 1])
        rows += inputs.bag_rows[members].tolist()
        x += inputs.bag_values[members].tolist()
        for start, low, t in zip(spec.bin_offsets, inputs.bins_BQ[b], inputs.fractions_BQ[b].tolist(), strict=False):
            rows += [start + low, start + low + (t > 0)]
            x += [1 - t, t]
        assert features.splits[b + 1] == len(rows)
    assert (features.rows.tolist(), features.x.tolist()) == (rows, x)
    none = TableReader(spec, weights.tables).list_features(make_rows(spec, 0))
    assert (len(none.rows), len(none.x), none.splits.tolist()) == (0, 0, [0])
