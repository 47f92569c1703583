"""The model written with Keras layers only, with one Embedding layer per field."""

from collections.abc import Sequence

import keras

from tests.bench.score_model import DIM, HIDDEN

BATCH_NORM = {"momentum": 0.9, "epsilon": 1e-5}


def parts_model(sizes: Sequence[int], numbers: int) -> keras.Model:
    """Return a model that maps a matrix, with a column per field (ids) and number, to (B, 1) probabilities."""
    layers, ops = keras.layers, keras.ops
    row = keras.Input((len(sizes) + numbers,))
    dense = row[:, len(sizes) :]
    ids = [ops.cast(row[:, i], "int32") for i in range(len(sizes))]
    linear = layers.Add()([layers.Embedding(size, 1)(c) for size, c in zip(sizes, ids, strict=True)])
    linear = layers.Add()([linear, layers.Dense(1)(dense)])  # w_0 is its bias
    vectors = [layers.Embedding(size, DIM)(c) for size, c in zip(sizes, ids, strict=True)]
    square_of_sum = ops.square(layers.Add()(vectors))
    hidden = 0.5 * (square_of_sum - layers.Add()([ops.square(v) for v in vectors]))  # (B, K)
    hidden = layers.BatchNormalization(**BATCH_NORM)(hidden)
    hidden = layers.Concatenate()([hidden, dense])
    for units in HIDDEN:
        hidden = layers.BatchNormalization(**BATCH_NORM)(layers.Dense(units)(hidden))
        hidden = layers.Activation("relu")(hidden)
    return keras.Model(row, layers.Activation("sigmoid")(layers.Add()([linear, layers.Dense(1)(hidden)])))
