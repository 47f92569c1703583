"""The Neural Factorization Machine (He & Chua 2017) in Keras, and its export to plain arrays.

    y(x) = w_0 + Σ w_i x_i + hᵀ σ_L(W_L(… σ_1(W_1 f_BI(V_x) + b_1) …) + b_L)

Pooling → batch norm → dropout → [dense → batch norm → activation → dropout] · L → hᵀ. Numbers `as: dense` join the
pooled vector after its dropout, before the first hidden layer, and have weights of their own in the linear part.

TensorFlow trains the layers above the pooling (`network`), and compiled loops train the tables (`tables`). The weights
are therefore arrays; `build` copies all of them into one Keras model, which is saved with the arrays.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import keras
import numpy as np
from numpy.typing import NDArray

from nfm.config.train import Model
from nfm.contract.artifact import Network
from nfm.contract.schema import Spec
from nfm.kernels.tables import Tables
from nfm.training.layers import BiInteraction, FeatureEmbedding, FirstOrder, TargetRates

MAX_RATED_CLASSES = 10  # with more, a model has no target rates: each field would add a column for every class
BIAS = "linear/bias"
TABLES = ("embedding/table", "linear/table")  # paths of the tables' variables in the Keras model

Floats = NDArray[np.float32]
Layers = Mapping[str, Any]  # Keras layers by name


class Weights(NamedTuple):
    """All weights of a model."""

    tables: Tables  # embeddings (R, K) and linear weights (R, C)
    network: dict[str, Floats]  # global bias and layers above the pooling, by path of the Keras variable
    rates: Floats | None = None  # (R, C or C + 1) target rates and counts, not trained; None: the model has none


def make_layers(spec: Spec, settings: Model) -> dict[str, Any]:
    """Make the Keras layers above the pooling, by name. Dropout is not among them, because it has no weights."""
    layers, fixed = dict[str, Any](), {}
    norm = {"momentum": settings.batch_norm_momentum, "epsilon": settings.batch_norm_epsilon}
    if settings.batch_norm:
        layers["pooling_norm"] = keras.layers.BatchNormalization(**norm, name="pooling_norm")
    for i, units in enumerate(settings.hidden_units):
        penalty = keras.regularizers.L2(settings.l2.hidden) if settings.l2.hidden else None
        layers[f"hidden_{i}"] = keras.layers.Dense(units, kernel_regularizer=penalty, name=f"hidden_{i}")
        if settings.batch_norm:
            layers[f"hidden_{i}_norm"] = keras.layers.BatchNormalization(**norm, name=f"hidden_{i}_norm")
        name = f"hidden_{i}_{settings.activation}"
        layers[name] = keras.layers.Activation(settings.activation, name=name)
    if settings.output == "ones":
        fixed = {"kernel_initializer": "ones", "trainable": False}
    outputs = describe(spec, settings).outputs
    layers["output"] = keras.layers.Dense(outputs, use_bias=False, name="output", **fixed)
    if describe(spec, settings).dense_columns(spec):
        layers["dense_linear"] = keras.layers.Dense(
            outputs, use_bias=False, kernel_initializer="zeros", name="dense_linear"
        )
    return layers


def build_layers(spec: Spec, settings: Model) -> dict[str, Any]:
    """Make the layers of `make_layers` with their weights, without a whole model."""
    layers = make_layers(spec, settings)
    pooled, dense = (
        keras.Input((columns,)) for columns in (settings.embedding_dim, describe(spec, settings).dense_columns(spec))
    )
    apply_interactions(layers, settings, pooled, dense, keep_all)
    if dense.shape[1]:
        layers["dense_linear"](dense)
    return layers


def keep_all(_: str, __: float, x: Any) -> Any:
    """Return x: the dropout of inference."""
    return x


Dropout = Callable[[str, float, Any], Any]  # (name, rate, x) → x with a share of its units dropped


def apply_interactions(
    layers: Layers, settings: Model, pooled: Any, dense: Any, drop: Dropout, training: Any = None
) -> Any:
    """Apply the layers above the pooling: (B, K) pooled vectors and (B, D) dense numbers → (B, C).

    Args:
        layers: result of `make_layers`.
        settings: model settings.
        pooled: Bi-Interaction pooling (B, K).
        dense: numbers (B, D) that are concatenated with the pooled vector.
        drop: function that is called in place of each dropout layer.
        training: passed to the batch norm.
    """

    def normalize(name: str, x: Any) -> Any:
        return layers[f"{name}_norm"](x, training=training) if settings.batch_norm else x

    hidden = drop("pooling", settings.pooling_dropout, normalize("pooling", pooled))
    if settings.hidden_units and dense.shape[1]:
        hidden = keras.layers.Concatenate(name="with_dense")([hidden, dense])
    for i in range(len(settings.hidden_units)):
        hidden = normalize(f"hidden_{i}", layers[f"hidden_{i}"](hidden))
        hidden = layers[f"hidden_{i}_{settings.activation}"](hidden)
        hidden = drop(f"hidden_{i}", settings.hidden_dropout, hidden)
    return layers["output"](hidden)


def build(spec: Spec, settings: Model, weights: Weights | None = None) -> keras.Model:
    """Build the whole model in Keras.

    The model takes a mapping of `ids` (B, F) int32, `values` (B, N) and `dense` (B, D) float32; if numbers have bins,
    `bins` (B, Q) int32 and `fractions` (B, Q) float32; and if fields are bags, `bag_rows` (B, P) int32 and `bag_values`
    (B, P) float32: the result of `layers.make_keras_inputs`. It returns (B, C) logits; C is the number of classes, or
    1.

    Args:
        spec: specification of the encoding.
        settings: model settings.
        weights: copied into the model's variables; without them the model is untrained.
    """
    layers, network = make_layers(spec, settings), describe(spec, settings)
    features, bags, table = _make_inputs(spec)
    dense = keras.Input((len(spec.dense),), name="dense")
    linear = FirstOrder(**table, width=network.outputs, l2=settings.l2.linear, name="linear")(*features)
    beside = dense
    if network.rates:
        fields, bag_blocks = spec.rate_places(network.rates)
        rates = TargetRates(fields, bag_blocks, spec.rows, network.rate_columns, name="rates")(features[0], *bags[:1])
        beside = keras.layers.Concatenate(name="dense_and_rates")([dense, rates]) if spec.dense else rates
    if beside.shape[1]:
        linear = keras.layers.Add(name="linear_sum")([linear, layers["dense_linear"](beside)])
    vectors = FeatureEmbedding(
        **table,
        width=settings.embedding_dim,
        # `weights` replace the zeros: drawing normal numbers for a large table would need memory for a second one.
        initializer="zeros" if weights else keras.initializers.RandomNormal(stddev=settings.init_std),
        l2=settings.l2.embedding,
        name="embedding",
    )(*features)

    def drop(name: str, rate: float, x: Any) -> Any:
        return keras.layers.Dropout(rate, name=f"{name}_dropout")(x) if rate else x

    pooled = BiInteraction(name="pooling")(vectors)
    score = keras.layers.Add(name="score")([linear, apply_interactions(layers, settings, pooled, beside, drop)])
    model = keras.Model({tensor.name: tensor for tensor in [*features, dense]}, score, name="nfm")
    if weights is not None:
        # Copies, because TensorFlow may keep a reference to the memory of an array.
        copies = {path: array.copy() for path, array in weights.network.items()}
        tables = dict(zip(TABLES, weights.tables, strict=True))
        if weights.rates is not None:
            tables["rates/table"] = weights.rates
        for variable in model.variables:
            if variable.path in tables:
                variable.assign(_pad(tables[variable.path]))
            elif variable.path in copies:
                variable.assign(copies[variable.path])
    return model


def _make_inputs(spec: Spec) -> tuple[list[Any], list[Any], dict[str, Any]]:
    """Return the inputs of the features, those of the bags among them, and the arguments of layers with a table."""
    singles = [offset for offset, field in zip(spec.offsets, spec.fields, strict=True) if field.bag is None]
    ids = keras.Input((len(singles),), dtype="int32", name="ids")
    values = keras.Input((len(spec.field_numbers),), name="values")
    bins, bags = [], []
    if spec.binned:
        shape = (len(spec.binned),)
        bins = [keras.Input(shape, dtype="int32", name="bins"), keras.Input(shape, name="fractions")]
    if len(singles) < len(spec.fields):
        bags = [keras.Input((None,), dtype="int32", name="bag_rows"), keras.Input((None,), name="bag_values")]
    table: dict[str, Any] = {
        "offsets": singles,
        "numbers": len(spec.field_numbers),
        "table_size": spec.rows,
        "bin_offsets": spec.bin_offsets[:-1],
    }
    return [ids, values, *bins, *bags], bags, table


def _pad(table: Floats) -> Floats:
    """Copy a table and append the Keras model's row for padding, whose x is always 0."""
    return np.pad(table, ((0, 1), (0, 0)))


def initial_weights(spec: Spec, settings: Model, seed: int) -> Weights:
    """Draw the weights of a new model: normal embeddings, Glorot-uniform layers (Keras's default), zeros elsewhere.

    For standardized labels and with batch norm, h starts at 0, too, so that the model first predicts the mean: with
    Glorot's h the first outputs would be noise as large as the labels. Without batch norm, the pooled vectors and so
    the outputs start small. The same seed gives the same weights.
    """
    keras.utils.set_random_seed(seed)
    outputs, layers = describe(spec, settings).outputs, build_layers(spec, settings)
    variables = [variable for layer in layers.values() for variable in layer.variables]
    network = {BIAS: np.zeros(outputs, np.float32), **{v.path: np.array(v.numpy()) for v in variables}}
    standardized = settings.task == "regression" and settings.standardize_label
    if standardized and settings.batch_norm and settings.output == "trained":
        network["output/kernel"][:] = 0
    if settings.task == "ranking" and not settings.hidden_units:
        network["output/kernel"][:] = 1  # a factorization machine, whose terms all count
    embedding = np.random.default_rng(seed).standard_normal((spec.rows, settings.embedding_dim), np.float32)
    embedding *= np.float32(settings.init_std)
    return Weights(Tables(embedding, np.zeros((spec.rows, outputs), np.float32)), network)


def describe(spec: Spec, settings: Model) -> Network:
    """Return the description of the network that is saved with the model and that the forward pass needs."""
    classes = spec.classes if settings.task == "multiclass" else ()
    rates = list_rated_fields(spec, settings, max(1, len(classes)))
    return Network(
        settings.task,
        settings.embedding_dim,
        settings.hidden_units,
        settings.activation,
        classes,
        settings.embedding_dtype,
        settings.use.bins,
        rates,
        bool(rates) and settings.use.counts,
    )


def list_rated_fields(spec: Spec, settings: Model, outputs: int) -> tuple[str, ...]:
    """Return the names of the fields whose values have target rates in the model."""
    has_rates = settings.task != "ranking" and settings.use.rates and spec.has_parts and outputs <= MAX_RATED_CLASSES
    return tuple(field.name for field in spec.fields if field.rates and has_rates)


def export(weights: Weights, spec: Spec, settings: Model) -> dict[str, Floats]:
    """Return the float32 arrays that are published, with each batch norm folded into the dense layer next to it.

    In inference a batch norm is a·x + c, with a = γ / √(variance + ε) and c = β − a · mean. The pooled vector's norm is
    folded into the first rows of the next kernel, (a·x + c) W = x (a W) + c W; a hidden layer's norm into its own
    kernel and bias, a (x W + b) + c.
    """
    network = {path: array.astype(np.float64) for path, array in weights.network.items()}
    folded: dict[str, NDArray[Any]] = {
        "embedding": weights.tables.embedding,
        "linear": weights.tables.linear,
        "bias": network[BIAS],
        "dense_linear": network.get("dense_linear/kernel", np.empty((0, len(network[BIAS])))),
    }
    dim, output, epsilon = settings.embedding_dim, network["output/kernel"], settings.batch_norm_epsilon
    scale, shift = np.ones(dim), np.zeros(dim)
    if settings.batch_norm:
        scale, shift = _inference_norm(network, "pooling_norm", epsilon)
    for i in range(len(settings.hidden_units)):
        kernel, bias = network[f"hidden_{i}/kernel"], network[f"hidden_{i}/bias"]
        if i == 0:
            bias = bias + shift @ kernel[:dim]
            kernel[:dim] *= scale[:, np.newaxis]
        if settings.batch_norm:
            a, c = _inference_norm(network, f"hidden_{i}_norm", epsilon)
            kernel, bias = kernel * a, bias * a + c
        folded[f"hidden_{i}_kernel"], folded[f"hidden_{i}_bias"] = kernel, bias
    if not settings.hidden_units:
        folded["bias"] = folded["bias"] + shift @ output
        output = output * scale[:, np.newaxis]
    folded["output"] = output
    if weights.rates is not None:
        folded["rates"] = weights.rates
    return {name: array.astype(np.float32, copy=False) for name, array in folded.items()}


def _inference_norm(
    network: Mapping[str, NDArray[np.float64]], name: str, epsilon: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the scale a and the shift c of a batch norm."""
    scale = network[f"{name}/gamma"] / np.sqrt(network[f"{name}/moving_variance"] + epsilon)
    return scale, network[f"{name}/beta"] - scale * network[f"{name}/moving_mean"]
