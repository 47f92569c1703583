"""The loops of a step against their formulas in float64, sample by sample; and the bits do not depend on threads."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from nfm.config.train import Model, Train
from nfm.contract.encoder import Inputs
from nfm.contract.schema import Spec
from nfm.kernels import tables as kernels
from nfm.training.data.batches import features_of
from nfm.training.model import build
from nfm.training.optimizers import Optimizer
from nfm.training.step import make_step
from nfm.training.tables import RowTables, Rule, features_by_sample

MakeRows = Callable[..., Inputs]
SGD = Rule(kernels.SGD, (), lambda rate, _: (rate,))


class Example:
    """A batch by chance on tables of R rows and one for padding; a row may come several times in a sample."""

    def __init__(self, seed: int, rows: int, samples: int, features: int, dim: int, width: int) -> None:
        rng = np.random.default_rng(seed)
        self.rows_BM = rng.integers(0, rows + 1, (samples, features)).astype(np.int32)
        self.x_BM = rng.choice([1.0, 1.0, 0.0, -0.5, 2.5], (samples, features)).astype(np.float32)
        self.x_BM[self.rows_BM == rows] = 0
        self.embedding = rng.normal(size=(rows + 1, dim)).astype(np.float32)
        self.linear = rng.normal(size=(rows + 1, width)).astype(np.float32)
        self.upstream_BK = rng.normal(size=(samples, dim)).astype(np.float32)
        self.upstream_BC = rng.normal(size=(samples, width)).astype(np.float32)
        self.padding = rows

    def tables(self, threads: int, rule: Rule = SGD) -> RowTables:
        return RowTables([keras.Variable(self.embedding), keras.Variable(self.linear)], [rule, rule], threads)

    def gradients(self, decays: tuple[float, float]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Of Σ pooled · upstream + Σ linear · upstream + Σ decay / 2 · w² over the features, by equation 5."""
        tables = [self.embedding.astype(np.float64), self.linear.astype(np.float64)]
        of_embedding, of_linear = (np.zeros_like(table) for table in tables)
        for b, (rows, x) in enumerate(zip(self.rows_BM, self.x_BM.astype(np.float64), strict=True)):
            vectors = x[:, np.newaxis] * tables[0][rows]
            for m, row in enumerate(rows):
                others = sum((vectors[j] for j in range(len(rows)) if j != m), np.zeros(vectors.shape[1]))
                of_embedding[row] += x[m] * others * self.upstream_BK[b]
                of_linear[row] += x[m] * self.upstream_BC[b]
                if row != self.padding:
                    of_embedding[row] += decays[0] * tables[0][row]
                    of_linear[row] += decays[1] * tables[1][row]
        return of_embedding, of_linear


examples = st.builds(
    Example,
    seed=st.integers(0, 2**32 - 1),
    rows=st.sampled_from([1, 3, 40, 3000]),
    samples=st.sampled_from([0, 1, 2, 17]),
    features=st.integers(1, 6),
    dim=st.sampled_from([1, 3, 16, 37]),
    width=st.integers(1, 3),
)
few = settings(max_examples=60, deadline=None, derandomize=True)


@few
@given(examples)
def test_pooling_is_the_sum_over_all_pairs(example: Example) -> None:
    read = example.tables(2).read(example.rows_BM, example.x_BM)
    vectors = example.x_BM[:, :, np.newaxis].astype(np.float64) * example.embedding[example.rows_BM]
    pairs = np.zeros((len(vectors), vectors.shape[2]))
    for i in range(vectors.shape[1]):
        for j in range(i + 1, vectors.shape[1]):
            pairs += vectors[:, i] * vectors[:, j]
    np.testing.assert_allclose(read.pooled_BK, pairs, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(read.sum_BK, vectors.sum(axis=1), rtol=1e-5, atol=1e-5)
    linear = (example.x_BM[:, :, np.newaxis].astype(np.float64) * example.linear[example.rows_BM]).sum(axis=1)
    np.testing.assert_allclose(read.linear_BC, linear, rtol=1e-5, atol=1e-5)


def test_pooling_of_the_worked_example() -> None:
    rows = np.array([[3, 0, 1, 0], [1, 2, 3, 4], [4, 5, 6, 1], [9, 9, 9, 9]], np.float32)
    tables = RowTables([keras.Variable(rows), keras.Variable(rows[:, :1])], [SGD, SGD])
    read = tables.read(np.array([[0, 1, 2]], np.int32), np.ones((1, 3), np.float32))
    assert read.pooled_BK.tolist() == [[19.0, 10.0, 27.0, 4.0]]
    assert read.linear_BC.tolist() == [[8.0]]


@few
@given(examples)
def test_order_groups_every_feature_but_padding_by_its_row(example: Example) -> None:
    distinct, starts, places = kernels.order(example.rows_BM, example.x_BM, example.padding)
    flat = example.rows_BM.ravel()
    assert distinct.tolist() == sorted(set(flat[flat != example.padding].tolist()))
    assert (starts[0], starts[-1], len(starts)) == (0, len(places), len(distinct) + 1)
    for i, row in enumerate(distinct.tolist()):
        assert places[starts[i] : starts[i + 1]].tolist() == np.flatnonzero(flat == row).tolist()


@few
@given(examples, st.sampled_from([(0.0, 0.0), (0.3, 0.2)]))
def test_rows_move_by_the_gradient_that_equation_5_has(example: Example, decays: tuple[float, float]) -> None:
    tables, found = example.tables(2), example.gradients(decays)
    read = tables.read(example.rows_BM, example.x_BM)
    by_row = tables.grouped(read)
    batch = kernels.Batch(example.x_BM, read.sum_BK, example.upstream_BK, example.upstream_BC)
    given_decays = np.array(decays, np.float32)
    length = sum(float(np.sum(g**2)) for g in found)
    assert tables.square_norm(by_row, batch, given_decays) == pytest.approx(length, rel=1e-4, abs=1e-6)
    tables.move(by_row, batch, given_decays, 0.5, 0.1, 1)
    for now, then, gradient in zip(tables.weights, (example.embedding, example.linear), found, strict=True):
        np.testing.assert_allclose(now, then - 0.1 * 0.5 * gradient, rtol=1e-4, atol=2e-5)
        others = np.setdiff1d(np.arange(len(then)), example.rows_BM)
        np.testing.assert_array_equal(now[[*others, example.padding]], then[[*others, example.padding]])


def test_the_gradient_of_a_samples_only_feature_is_exactly_0() -> None:
    """Adagrad from an accumulator of 0 would move it by a whole rate otherwise."""
    rng = np.random.default_rng(2)
    start = rng.normal(size=(50, 8)).astype(np.float32)
    rule = Rule(kernels.ADAGRAD, (0.0,), lambda rate, _: (rate, 1e-10))
    tables = RowTables([keras.Variable(start), keras.Variable(start[:, :1])], [rule, rule])
    rows_BM, x_BM = np.arange(49, dtype=np.int32)[:, np.newaxis], rng.normal(size=(49, 1)).astype(np.float32)
    read = tables.read(rows_BM, x_BM)
    upstream = rng.normal(size=(49, 8)).astype(np.float32)
    batch = kernels.Batch(x_BM, read.sum_BK, upstream, np.zeros((49, 1), np.float32))
    tables.move(tables.grouped(read), batch, np.zeros(2, np.float32), 1.0, 0.1, 1)
    np.testing.assert_array_equal(tables.weights.embedding, start)


@pytest.mark.parametrize("optimizer", ["adagrad", "adam", "sgd"])
@pytest.mark.parametrize("which", ["mixed", "bags"])
def test_any_number_of_threads_gives_the_same_bits(
    optimizer: str, which: str, make_rows: MakeRows, request: pytest.FixtureRequest
) -> None:
    spec: Spec = request.getfixturevalue(which)
    form = Model.model_validate({"embedding_dim": 5, "hidden_units": (4,), "l2": {"embedding": 0.1}})
    train = Train.model_validate({"optimizer": optimizer, "clip_norm": 0.1, "linear_optimizer": {}})
    ends = []
    for threads in (1, 2, 5):
        keras.utils.set_random_seed(4)
        model = build(spec, form)
        chosen = Optimizer(train, model.variables, threads)
        step = make_step(spec, form, train, chosen)
        for number, count in enumerate((1500, 3, 1), start=1):
            label = (np.arange(count)[:, np.newaxis] % 2).astype(np.float32)
            features = features_of(make_rows(spec, count, number), spec)
            step(features, tf.constant(label), tf.ones(count), 0.1, number)
        chosen.publish()
        ends.append([np.array(array) for array in (*model.variables, *chosen.arrays())])
    for others in ends[1:]:
        for one, other in zip(ends[0], others, strict=True):
            np.testing.assert_array_equal(one, other)


def test_features_of_fields_numbers_and_bags_become_rows_and_x(bags: Spec, make_rows: MakeRows) -> None:
    features = features_of(make_rows(bags, 20), bags)
    rows_BM, x_BM = features_by_sample(features, bags)
    members = features["bag_rows"].shape[1]
    assert rows_BM.shape == x_BM.shape == (20, 1 + 1 + members)
    assert rows_BM.dtype == np.int32
    np.testing.assert_array_equal(rows_BM[:, 0], features["ids"][:, 0] + 6)  # the block of the field a
    assert set(x_BM[:, 0].tolist()) == {1.0}
    assert set(rows_BM[:, 1].tolist()) == {bags.rows - 1}
    np.testing.assert_array_equal(x_BM[:, 1], features["values"][:, 0])
    np.testing.assert_array_equal(rows_BM[:, 2:], features["bag_rows"])
    np.testing.assert_array_equal(x_BM[:, 2:], features["bag_values"])


def test_published_variables_have_the_values_and_those_set_elsewhere_are_adopted() -> None:
    variables = [keras.Variable(np.ones((300, 4), np.float32)), keras.Variable(np.ones((300, 1), np.float32))]
    tables = RowTables(variables, [SGD, SGD])
    tables.weights.embedding[7] = 5
    tables.publish()
    assert variables[0].numpy()[7].tolist() == [5.0] * 4
    kept = variables[0].numpy()
    tables.weights.embedding[7] = 6
    assert kept[7].tolist() == [5.0] * 4  # what was taken out is a copy
    variables[0].assign(np.full((300, 4), 2.0))
    tables.adopt()
    assert set(tables.weights.embedding.ravel().tolist()) == {2.0}
    tables.weights.embedding[0] = 3
    other = keras.Variable(variables[0])
    RowTables([other, variables[1]], [SGD, SGD]).weights.embedding[:] = 9  # a model that starts from another one
    assert tables.weights.embedding.max() == 3
    assert variables[0].numpy().max() == 3


def test_a_large_table_is_in_memory_once() -> None:
    variables = [keras.Variable(np.ones((5000, 16), np.float32)), keras.Variable(np.ones((5000, 1), np.float32))]
    tables = RowTables(variables, [SGD, SGD])
    for variable, array in zip(variables, tables.weights, strict=True):
        assert np.shares_memory(np.asarray(variable.value.read_value()), array)
