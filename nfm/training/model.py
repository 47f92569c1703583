"""The Neural Factorization Machine (He & Chua 2017) in Keras, and its export to plain arrays.

    y(x) = w_0 + Σ w_i x_i + hᵀ σ_L(W_L(… σ_1(W_1 f_BI(V_x) + b_1) …) + b_L)

Pooling → batch norm → dropout → [dense → batch norm → activation → dropout] · L → hᵀ. Numbers `as: dense` join the
pooled vector behind its dropout, on the way into the first hidden layer, and have weights of their own in the linear
part.
"""

from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from nfm.config import Model
from nfm.contract.artifact import Network
from nfm.contract.schema import Spec
from nfm.training.layers import BiInteraction, FeatureEmbedding, FirstOrder

BATCH_NORM = {"momentum": 0.9, "epsilon": 1e-5}  # the paper's code has 0.9 too; small tables see few steps


def build(spec: Spec, settings: Model) -> keras.Model:
    """The untrained model.

    Takes a mapping of `ids` (B, F) int32, `values` (B, N) float32 and `dense` (B, D) float32, as
    `contract.encoder.inputs` arranges them; returns (B, 1) logits.
    """
    table: dict[str, Any] = {"offsets": spec.offsets, "numbers": len(spec.field_numbers), "table_size": spec.rows}
    ids = keras.Input((len(spec.fields),), dtype="int32", name="ids")
    values = keras.Input((len(spec.field_numbers),), name="values")
    dense = keras.Input((len(spec.dense),), name="dense")

    linear = FirstOrder(**table, l2=settings.l2.linear, name="linear")(ids, values)
    if spec.dense:
        linear += keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros", name="dense_linear")(dense)

    vectors = FeatureEmbedding(settings.embedding_dim, **table, l2=settings.l2.embedding, name="embedding")(ids, values)
    hidden = BiInteraction(name="pooling")(vectors)
    if settings.batch_norm:
        hidden = keras.layers.BatchNormalization(**BATCH_NORM, name="pooling_norm")(hidden)
    if settings.pooling_dropout:
        hidden = keras.layers.Dropout(settings.pooling_dropout, name="pooling_dropout")(hidden)
    if spec.dense and settings.hidden_units:
        hidden = keras.layers.Concatenate(name="with_dense")([hidden, dense])
    for i, units in enumerate(settings.hidden_units):
        penalty = keras.regularizers.L2(settings.l2.hidden) if settings.l2.hidden else None
        hidden = keras.layers.Dense(units, kernel_regularizer=penalty, name=f"hidden_{i}")(hidden)
        if settings.batch_norm:
            hidden = keras.layers.BatchNormalization(**BATCH_NORM, name=f"hidden_{i}_norm")(hidden)
        hidden = keras.layers.Activation(settings.activation, name=f"hidden_{i}_{settings.activation}")(hidden)
        if settings.hidden_dropout:
            hidden = keras.layers.Dropout(settings.hidden_dropout, name=f"hidden_{i}_dropout")(hidden)
    fixed = {"kernel_initializer": "ones", "trainable": False} if settings.output == "ones" else {}
    interactions = keras.layers.Dense(1, use_bias=False, name="output", **fixed)(hidden)
    return keras.Model({"ids": ids, "values": values, "dense": dense}, linear + interactions, name="nfm")


def network(settings: Model) -> Network:
    """What the forward pass has to know of the model's form."""
    return Network(settings.task, settings.embedding_dim, settings.hidden_units, settings.activation)


def export(model: keras.Model, spec: Spec, settings: Model) -> dict[str, NDArray[np.float32]]:
    """The weights as the artifact holds them, each batch norm folded into the dense layer beside it.

    A norm is a·x + c in inference, with a = γ / √(variance + ε) and c = β − a · mean. The pooled vector's norm goes
    into the first rows of the next kernel, (a·x + c) W = x (a W) + c W; a hidden layer's into its own, a (x W + b) + c.
    """
    weights = {
        "embedding": _array(model.get_layer("embedding").table),
        "linear": _array(model.get_layer("linear").table)[:, 0],
        "bias": _array(model.get_layer("linear").bias),
        "dense_linear": _array(model.get_layer("dense_linear").kernel)[:, 0] if spec.dense else np.empty(0),
    }
    dim = settings.embedding_dim
    scale, shift = _norm(model, "pooling_norm", dim) if settings.batch_norm else (np.ones(dim), np.zeros(dim))
    for i, units in enumerate(settings.hidden_units):
        layer = model.get_layer(f"hidden_{i}")
        kernel, bias = _array(layer.kernel), _array(layer.bias)
        if i == 0:
            bias = bias + shift @ kernel[:dim]
            kernel[:dim] *= scale[:, np.newaxis]
        if settings.batch_norm:
            a, c = _norm(model, f"hidden_{i}_norm", units)
            kernel, bias = kernel * a, bias * a + c
        weights[f"hidden_{i}_kernel"], weights[f"hidden_{i}_bias"] = kernel, bias
    output = _array(model.get_layer("output").kernel)[:, 0]
    if not settings.hidden_units:
        weights["bias"] = weights["bias"] + shift @ output
        output = output * scale
    weights["output"] = output
    return {name: array.astype(np.float32) for name, array in weights.items()}


def _array(variable: Any) -> NDArray[np.float64]:
    return np.asarray(variable.numpy(), np.float64).copy()


def _norm(model: keras.Model, name: str, width: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    layer = model.get_layer(name)
    scale = _array(layer.gamma) / np.sqrt(_array(layer.moving_variance) + layer.epsilon)
    assert scale.shape == (width,)
    return scale, _array(layer.beta) - scale * _array(layer.moving_mean)
