"""The layers compute what the paper's equations say."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from nfm.training.layers import BiInteraction, FeatureEmbedding, FirstOrder

EXAMPLE = np.array([[3.0, 0, 1, 0], [1, 2, 3, 4], [4, 5, 6, 1]], np.float32)


def test_pooling_of_the_worked_example() -> None:
    # square of sum 64, 49, 100, 25; sum of squares 26, 29, 46, 17
    assert BiInteraction()(EXAMPLE[np.newaxis]).numpy().tolist() == [[19.0, 10.0, 27.0, 4.0]]


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


def _example_table() -> dict[str, Any]:
    # Two fields of 3 and 2 ids, then one number: the table has 6 rows.
    return {"offsets": (0, 3), "numbers": 1, "table_size": 6}


def test_embedding_gathers_each_field_from_its_block_and_scales_the_number() -> None:
    layer = FeatureEmbedding(2, **_example_table())
    ids, values = np.array([[2, 0], [0, 1]], np.int32), np.array([[10.0], [0.5]], np.float32)
    layer(ids, values)
    layer.table.assign([[0, 1], [2, 3], [4, 5], [6, 7], [8, 9], [1, -1]])
    assert layer(ids, values).numpy().tolist() == [
        [[4, 5], [6, 7], [10, -10]],
        [[0, 1], [8, 9], [0.5, -0.5]],
    ]


def test_first_order_sums_the_bias_and_a_weight_for_each_feature() -> None:
    layer = FirstOrder(**_example_table())
    ids, values = np.array([[2, 0], [0, 1]], np.int32), np.array([[10.0], [0.5]], np.float32)
    layer(ids, values)
    layer.table.assign([[1], [2], [4], [8], [16], [0.25]])
    layer.bias.assign([100])
    assert layer(ids, values).numpy().tolist() == [[100 + 4 + 8 + 2.5], [100 + 1 + 16 + 0.125]]


def test_l2_counts_the_rows_of_the_batch_only() -> None:
    layer = FirstOrder(**_example_table(), l2=0.5)
    ids, values = np.array([[2, 0], [0, 1]], np.int32), np.array([[10.0], [0.5]], np.float32)
    layer(ids, values)
    layer.table.assign([[1], [2], [4], [8], [16], [0]])
    layer(ids, values)
    # (4² + 8² + 0² + 1² + 16² + 0²) · 0.5 / 2 samples; id 1 of the first field is not in the batch
    assert float(layer.losses[-1]) == pytest.approx((16 + 64 + 1 + 256) * 0.5 / 2)


@pytest.mark.parametrize("layer", [FeatureEmbedding(2, **_example_table()), FirstOrder(**_example_table(), l2=0.1)])
def test_a_layer_is_made_anew_from_its_configuration(layer: keras.layers.Layer) -> None:
    assert type(layer).from_config(layer.get_config()).get_config() == layer.get_config()
