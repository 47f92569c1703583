"""The layers against the equations of the paper."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from nfm.training.layers import BiInteraction, FeatureEmbedding, FirstOrder

EXAMPLE = np.array([[3.0, 0, 1, 0], [1, 2, 3, 4], [4, 5, 6, 1]], np.float32)

# Two fields of 3 and 2 ids, a bag of 2, and a number: the table has 8 rows, and one for padding.
TABLE: dict[str, Any] = {"offsets": (0, 3), "numbers": 1, "table_size": 8}
PADDING = 8
IDS = np.array([[2, 0], [0, 1]], np.int32)
VALUES = np.array([[10.0], [0.5]], np.float32)
BAG_ROWS = np.array([[6, 5, 6], [5, PADDING, PADDING]], np.int32)
BAG_VALUES = np.array([[1.0, 2.0, -3.0], [0.25, 0.0, 0.0]], np.float32)


def test_pooling_of_the_worked_example() -> None:
    # square of sum 64, 49, 100, 25; sum of squares 26, 29, 46, 17
    assert BiInteraction()(EXAMPLE[np.newaxis]).numpy().tolist() == [[19.0, 10.0, 27.0, 4.0]]


def test_gradient_of_the_worked_example() -> None:
    # The gradient of the sum of all outputs with respect to each row is the sum of the two other rows.
    v = tf.Variable(EXAMPLE[np.newaxis])
    with tf.GradientTape() as tape:
        pooled = BiInteraction()(v.value())
    assert tape.gradient(pooled, v).numpy().tolist() == [[[5, 7, 9, 5], [7, 5, 7, 1], [4, 2, 4, 4]]]


@pytest.mark.parametrize("features", [1, 2, 3, 7])
def test_pooling_equals_the_sum_over_all_pairs(features: int) -> None:
    vectors = np.random.default_rng(features).normal(size=(5, features, 6)).astype(np.float32)
    pairs = np.zeros((5, 6))
    for i in range(features):
        for j in range(i + 1, features):
            pairs += vectors[:, i].astype(np.float64) * vectors[:, j]
    np.testing.assert_allclose(BiInteraction()(vectors), pairs, atol=1e-5)


def test_gradient_of_the_pooling_is_equation_5() -> None:
    rng = np.random.default_rng(5)
    v = tf.Variable(rng.normal(size=(2, 4, 3)).astype(np.float32))
    x = rng.normal(size=(2, 4, 1)).astype(np.float32)
    with tf.GradientTape() as tape:
        pooled = tf.reduce_sum(BiInteraction()(v * x))
    gradient = tape.gradient(pooled, v).numpy()
    weighted = v.numpy() * x
    for i in range(4):
        others = sum(weighted[:, j] for j in range(4) if j != i)
        np.testing.assert_allclose(gradient[:, i], x[:, i] * others, rtol=1e-4, atol=1e-5)


def test_gradient_of_the_pooling_equals_finite_differences() -> None:
    rng = np.random.default_rng(6)
    layer, v = BiInteraction(dtype="float64"), rng.normal(size=(3, 5, 4))
    upstream = tf.constant(rng.normal(size=(3, 4)))  # a different factor for each sample and dimension
    with tf.GradientTape() as tape:
        tape.watch(vectors := tf.constant(v))
        outcome = tf.reduce_sum(layer(vectors) * upstream)
    gradient = np.asarray(tape.gradient(outcome, vectors))
    by_difference = np.empty_like(v)
    for place in np.ndindex(v.shape):
        step = np.zeros_like(v)
        step[place] = 1e-4
        ahead, behind = (float(tf.reduce_sum(layer(v + sign * step) * upstream)) for sign in (1, -1))
        by_difference[place] = (ahead - behind) / 2e-4
    np.testing.assert_allclose(gradient, by_difference, rtol=1e-6, atol=1e-8)


def set_table(layer: keras.layers.Layer, table: Any) -> keras.layers.Layer:
    """Set the table of a layer; the padding row is so large that it would show in every sum."""
    layer.build()
    layer.table.assign(np.concatenate([table, np.full((1, layer.width), 1e6)]))
    return layer


def embedding(l2: float = 0.0) -> keras.layers.Layer:
    table = [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9], [10, 20], [30, 40], [1, -1]]
    return set_table(FeatureEmbedding(**TABLE, width=2, l2=l2), table)


def first_order(l2: float = 0.0) -> keras.layers.Layer:
    return set_table(FirstOrder(**TABLE, width=1, l2=l2), [[1], [2], [4], [8], [16], [32], [64], [0.25]])


def test_embedding_gathers_each_field_from_its_block_and_scales_the_number() -> None:
    assert embedding()(IDS, VALUES).numpy().tolist() == [
        [[4, 5], [6, 7], [10, -10]],
        [[0, 1], [8, 9], [0.5, -0.5]],
    ]


def test_each_member_of_a_bag_is_a_feature() -> None:
    vectors = embedding()(IDS, VALUES, BAG_ROWS, BAG_VALUES).numpy()
    assert vectors[:, :3].tolist() == embedding()(IDS, VALUES).numpy().tolist()
    assert vectors[0, 3:].tolist() == [[30, 40], [20, 40], [-90, -120]]
    assert vectors[1, 3:].tolist() == [[2.5, 5], [0, 0], [0, 0]]


def test_first_order_sums_the_bias_and_a_weight_for_each_feature() -> None:
    layer = first_order()
    layer.bias.assign([100])
    assert layer(IDS, VALUES).numpy().tolist() == [[100 + 4 + 8 + 2.5], [100 + 1 + 16 + 0.125]]
    with_bags = layer(IDS, VALUES, BAG_ROWS, BAG_VALUES).numpy()
    assert with_bags.tolist() == [[114.5 + 64 + 2 * 32 - 3 * 64], [117.125 + 0.25 * 32]]


def test_first_order_has_a_weight_for_each_output() -> None:
    layer = set_table(FirstOrder(**TABLE, width=2), [[i, 10 * i] for i in range(8)])
    layer.bias.assign([0.5, -0.5])
    assert layer(IDS, VALUES).numpy().tolist() == [[0.5 + 2 + 3 + 70, -0.5 + 20 + 30 + 700], [8.0, 74.5]]


def test_tables_with_only_bags_and_with_only_numbers() -> None:
    none = np.empty((2, 0), np.int32)
    layer = set_table(FirstOrder((), 0, 8, 1), [[1], [2], [4], [8], [16], [32], [64], [128]])
    assert layer(none, none.astype(np.float32), BAG_ROWS, BAG_VALUES).numpy().tolist() == [[64 + 64 - 192], [8]]
    layer = set_table(FirstOrder((), 2, 2, 1), [[3], [5]])
    assert layer(none, np.array([[1.0, 2.0], [0.5, 0.0]])).numpy().tolist() == [[13], [1.5]]


def test_l2_counts_the_features_of_the_batch_only() -> None:
    layer = first_order(l2=0.5)
    layer(IDS, VALUES)
    # Id 1 of the first field is not in the batch; the number's weight counts once for each sample, for any value.
    squares = (4**2 + 8**2 + 0.25**2) + (1**2 + 16**2 + 0.25**2)
    assert float(layer.losses[-1]) == pytest.approx(squares * 0.5 / 2)


def test_l2_counts_each_member_of_a_bag_and_no_padding() -> None:
    layer = embedding(l2=0.5)
    layer(IDS, VALUES, BAG_ROWS, BAG_VALUES)
    plain = (16 + 25 + 36 + 49 + 1 + 1) + (0 + 1 + 64 + 81 + 1 + 1)
    # One member occurs twice in the first row; the weights of members have no effect.
    members = 2 * (900 + 1600) + (100 + 400) + (100 + 400)
    assert float(layer.losses[-1]) == pytest.approx((plain + members) * 0.5 / 2)


@pytest.mark.parametrize("l2", [0.0, 0.5])
@pytest.mark.parametrize("make", [embedding, first_order])
def test_padding_has_no_effect(make: Any, l2: float) -> None:
    """More padding gives the same output, penalty and gradient, and the padding row has no gradient."""

    def compute(padding: int) -> tuple[Any, ...]:
        layer, more = make(l2), ((0, 0), (0, padding))
        with tf.GradientTape() as tape:
            rows = np.pad(BAG_ROWS, more, constant_values=PADDING)
            output = layer(IDS, VALUES, rows, np.pad(BAG_VALUES, more))
            summed = tf.reduce_sum(output, axis=1) if output.shape.rank == 3 else output
            penalty = tf.add_n(layer.losses) if l2 else tf.constant(0.0)
            total = tf.reduce_sum(tf.sin(summed)) + penalty
        gradient = tf.convert_to_tensor(tape.gradient(total, layer.table))
        return summed.numpy(), float(penalty), gradient.numpy()

    (few, few_penalty, few_gradient), (many, many_penalty, many_gradient) = compute(0), compute(4)
    np.testing.assert_array_equal(few, many)
    assert few_penalty == many_penalty
    np.testing.assert_array_equal(few_gradient, many_gradient)
    assert not few_gradient[PADDING].any()
    assert few_gradient[:PADDING].any(axis=1).sum() == 7  # all rows except the one that no sample has


def test_gradient_of_a_table_has_the_rows_of_the_batch_only() -> None:
    layer = embedding(l2=0.1)
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(layer(IDS, VALUES, BAG_ROWS, BAG_VALUES)) + layer.losses[-1]
    gradient = tape.gradient(total, layer.table)
    assert isinstance(gradient, tf.IndexedSlices)
    # The number's row occurs once, because it is gathered for the whole batch.
    assert sorted(gradient.indices.numpy().tolist()) == [0, 2, 3, 4, 5, 5, 6, 6, 7, PADDING, PADDING]


@pytest.mark.parametrize(
    "layer", [FeatureEmbedding(**TABLE, width=2, initializer="ones"), FirstOrder(**TABLE, width=3, l2=0.1)]
)
def test_a_layer_can_be_made_from_its_configuration(layer: keras.layers.Layer) -> None:
    assert type(layer).from_config(layer.get_config()).get_config() == layer.get_config()


@pytest.mark.parametrize("name", ["BatchNormalization", "Dropout"])
def test_layers_in_files_of_older_models_are_keras_layers(name: str) -> None:
    expected = getattr(keras.layers, name)(0.25) if name == "Dropout" else keras.layers.BatchNormalization(epsilon=0.5)
    written = {
        "module": "nfm.training.layers",
        "class_name": name,
        "registered_name": f"nfm>{name}",
        "config": expected.get_config(),
    }
    loaded = keras.saving.deserialize_keras_object(written)
    assert isinstance(loaded, getattr(keras.layers, name))
    x = np.random.default_rng(1).normal(size=(5, 3)).astype(np.float32)
    np.testing.assert_array_equal(loaded(x, training=False), expected(x, training=False))
