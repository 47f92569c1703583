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

from nfm.config.train import Model
from nfm.contract.artifact import Network
from nfm.contract.schema import Spec
from nfm.training.layers import BiInteraction, FeatureEmbedding, FirstOrder

BATCH_NORM = {"momentum": 0.9, "epsilon": 1e-5}  # the paper's code has 0.9 too; small tables see few steps


def build(spec: Spec, settings: Model) -> keras.Model:
    """The untrained model.

    Takes a mapping of `ids` (B, F) int32, `values` (B, N) and `dense` (B, D) float32, and where fields are bags
    `bag_rows` (B, P) int32 and `bag_values` (B, P) float32, as `training.data.features_of` makes them; returns (B, C)
    logits: of one output, or of a class each.
    """
    outputs = network(spec, settings).outputs
    single = [field.bag is None for field in spec.fields]
    table: dict[str, Any] = {
        "offsets": [offset for offset, one in zip(spec.offsets, single, strict=True) if one],
        "numbers": len(spec.field_numbers),
        "table_size": spec.rows,
    }
    ids = keras.Input((sum(single),), dtype="int32", name="ids")
    values = keras.Input((len(spec.field_numbers),), name="values")
    dense = keras.Input((len(spec.dense),), name="dense")
    named, bags = {"ids": ids, "values": values, "dense": dense}, []
    if not all(single):
        bags = [keras.Input((None,), dtype="int32", name="bag_rows"), keras.Input((None,), name="bag_values")]
        named |= dict(zip(("bag_rows", "bag_values"), bags, strict=True))

    linear = FirstOrder(**table, width=outputs, l2=settings.l2.linear, name="linear")(ids, values, *bags)
    if spec.dense:
        join = keras.layers.Dense(outputs, use_bias=False, kernel_initializer="zeros", name="dense_linear")
        linear = keras.layers.Add(name="linear_sum")([linear, join(dense)])

    # 0.05 rather than the paper's 0.01: products of two embeddings start above the noise of the batch norm.
    normal = keras.initializers.RandomNormal(stddev=0.05)
    vectors = FeatureEmbedding(
        **table, width=settings.embedding_dim, initializer=normal, l2=settings.l2.embedding, name="embedding"
    )(ids, values, *bags)
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
    interactions = keras.layers.Dense(outputs, use_bias=False, name="output", **fixed)(hidden)
    score = keras.layers.Add(name="score")([linear, interactions])
    return keras.Model(named, score, name="nfm")


def linear_part(model: keras.Model) -> keras.Model:
    """The same inputs → (B, C) logits, and (B, C) of the linear part alone; shares the weights."""
    linear = model.get_layer("score").input[0]
    return keras.Model(model.input, [model.output, linear], name="nfm_and_linear")


def network(spec: Spec, settings: Model) -> Network:
    """What the forward pass has to know of the model's form."""
    classes = spec.classes if settings.task == "multiclass" else ()
    return Network(
        settings.task,
        settings.embedding_dim,
        settings.hidden_units,
        settings.activation,
        classes,
        settings.embedding_dtype,
    )


def export(model: keras.Model, spec: Spec, settings: Model) -> dict[str, NDArray[np.float32]]:
    """The weights as the artifact holds them, each batch norm folded into the dense layer beside it.

    A norm is a·x + c in inference, with a = γ / √(variance + ε) and c = β − a · mean. The pooled vector's norm goes
    into the first rows of the next kernel, (a·x + c) W = x (a W) + c W; a hidden layer's into its own, a (x W + b) + c.
    """
    weights = {
        "embedding": _array(model.get_layer("embedding").table, np.float32)[: spec.rows],  # without the padding's row
        "linear": _array(model.get_layer("linear").table)[: spec.rows],
        "bias": _array(model.get_layer("linear").bias),
    }
    width = len(weights["bias"])
    weights["dense_linear"] = _array(model.get_layer("dense_linear").kernel) if spec.dense else np.empty((0, width))
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
    output = _array(model.get_layer("output").kernel)
    if not settings.hidden_units:
        weights["bias"] = weights["bias"] + shift @ output
        output = output * scale[:, np.newaxis]
    weights["output"] = output
    return {name: array.astype(np.float32, copy=False) for name, array in weights.items()}


def _array(variable: Any, dtype: type = np.float64) -> NDArray[Any]:
    return np.array(variable.numpy(), dtype)


def _norm(model: keras.Model, name: str, width: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    layer = model.get_layer(name)
    scale = _array(layer.gamma) / np.sqrt(_array(layer.moving_variance) + layer.epsilon)
    assert scale.shape == (width,)
    return scale, _array(layer.beta) - scale * _array(layer.moving_mean)
