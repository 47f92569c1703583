"""The forward pass over plain arrays; no TensorFlow. A parity test pins it to Keras over every option."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nfm.contract.artifact import Network
from nfm.contract.encoder import Inputs
from nfm.contract.schema import Spec

# Rows that are computed at once; at K = 64 their pooled sums stay in the second-level cache. Every tile is full, the
# last one filled up with zeros: a matrix product rounds differently for another number of rows, and a row's score must
# not depend on the rows it happens to travel with.
_TILE = 1024


def score(
    spec: Spec, network: Network, weights: Mapping[str, NDArray[np.float32]], rows: Inputs
) -> NDArray[np.float32]:
    """(B,) scores of B encoded rows: probabilities of the binary task. Equal rows have equal scores, bit for bit.

    Args:
        spec: of the encoding; says where each field's rows lie in the table.
        network: the form of the model.
        weights: arrays as `Network.weight_shapes` names them, batch norm folded in.
        rows: as `contract.encoder.inputs` arranges them.
    """
    out = np.empty(len(rows.ids_BF), np.float32)
    for start in range(0, len(out), _TILE):
        tile = slice(start, start + _TILE)
        part = Inputs(_full(rows.ids_BF[tile]), _full(rows.values_BN[tile]), _full(rows.dense_BD[tile]))
        out[tile] = _sigmoid(_logits(spec, network, weights, part))[: len(out) - start]
    return out


def _full(part: NDArray[Any]) -> NDArray[Any]:
    return np.pad(part, ((0, _TILE - len(part)), (0, 0))) if len(part) < _TILE else part


def _logits(
    spec: Spec, network: Network, weights: Mapping[str, NDArray[np.float32]], rows: Inputs
) -> NDArray[np.float32]:
    linear_B, pooled_BK = _linear_and_pooled(spec, weights, rows)
    linear_B += rows.dense_BD @ weights["dense_linear"]
    hidden = pooled_BK
    for i in range(len(network.hidden_units)):
        if i == 0:
            hidden = np.concatenate([pooled_BK, rows.dense_BD], axis=1)  # (B, K + D)
        hidden = _activate(network.activation, hidden @ weights[f"hidden_{i}_kernel"] + weights[f"hidden_{i}_bias"])
    logits: NDArray[np.float32] = linear_B + hidden @ weights["output"]
    return logits


def _linear_and_pooled(
    spec: Spec, weights: Mapping[str, NDArray[np.float32]], rows: Inputs
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """w_0 + Σ w_i x_i (B,), and the Bi-Interaction pooling (B, K) by the paper's equation 4."""
    table, first_order = weights["embedding"], weights["linear"]
    count = len(rows.ids_BF)
    linear_B = np.full(count, weights["bias"][0], np.float32)
    sum_BK = np.zeros((count, table.shape[1]), np.float32)
    squares_BK = np.zeros_like(sum_BK)
    # Feature by feature: the vectors of all features, (B, F + N, K), never lie in memory at once.
    for f, offset in enumerate(spec.offsets):
        places = rows.ids_BF[:, f] + np.int64(offset)
        vectors_BK = table[places]
        sum_BK += vectors_BK
        squares_BK += np.square(vectors_BK, out=vectors_BK)
        linear_B += first_order[places]
    for n, row in enumerate(range(len(table) - len(spec.field_numbers), len(table))):
        x_B = rows.values_BN[:, n]
        vectors_BK = x_B[:, np.newaxis] * table[row]
        sum_BK += vectors_BK
        squares_BK += np.square(vectors_BK, out=vectors_BK)
        linear_B += x_B * first_order[row]
    return linear_B, 0.5 * (np.square(sum_BK, out=sum_BK) - squares_BK)


def _activate(name: str, x: NDArray[np.float32]) -> NDArray[np.float32]:
    match name:
        case "relu":
            return np.maximum(x, 0, out=x)
        case "tanh":
            return np.asarray(np.tanh(x))
        case "sigmoid":
            return _sigmoid(x)
        case "linear":
            return x
        case _:
            raise ValueError(f"no activation is called {name!r}")  # the settings allow no other


def _sigmoid(x: NDArray[np.float32]) -> NDArray[np.float32]:
    # 1 / (1 + e^-x) by way of tanh, which cannot overflow.
    return np.asarray(np.float32(0.5) * (np.float32(1) + np.tanh(np.float32(0.5) * x)))
