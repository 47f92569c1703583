"""The forward pass over plain arrays; no TensorFlow. A parity test pins it to Keras over every option."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nfm.contract.artifact import Network
from nfm.contract.encoder import Inputs
from nfm.contract.schema import Spec

# Rows that are computed at once; at K = 64 their pooled sums stay in the second-level cache. Every tile is full, the
# last one filled up with zeros: a matrix product rounds differently for another number of rows, and a row's score must
# not depend on the rows it happens to travel with.
_TILE = 1024
_LONG = 64  # bags of more members are summed one by one, all others together
# Exponents of float16 count from 15, of float32 from 127: the same bits stand for a number 2^112 times as large.
_REBIAS = np.float32(2.0**112)
_SIGN_EXPONENT_FRACTION = np.uint32(0x8FFFE000).view(np.int32)


def score(spec: Spec, network: Network, weights: Mapping[str, NDArray[Any]], rows: Inputs) -> NDArray[np.float32]:
    """Scores of B encoded rows. Equal rows have equal scores, bit for bit.

    Args:
        spec: of the encoding; says where each field's rows lie in the table.
        network: the form of the model, C outputs.
        weights: arrays as `Network.weight_shapes` names them, batch norm folded in.
        rows: as `contract.encoder.inputs` arranges them.

    Returns:
        (B,) probabilities of label 1 for the binary task, (B,) numbers for regression, (B, C) probabilities of the
        classes for multiclass. Not finite where a row's numbers are too large for float32.
    """
    out_BC = np.empty((len(rows.ids_BF), network.outputs), np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, len(out_BC), _TILE):
            logits_BC = _logits(spec, network, weights, _tile(rows, start))
            out_BC[start : start + _TILE] = _scores(network.task, logits_BC)[: len(out_BC) - start]
    return out_BC if network.task == "multiclass" else out_BC[:, 0]


def _tile(rows: Inputs, start: int) -> Inputs:
    tile = slice(start, start + _TILE)
    splits = rows.bag_splits[start : start + _TILE + 1]
    members = slice(splits[0], splits[-1])
    return Inputs(
        _full(rows.ids_BF[tile]),
        _full(rows.values_BN[tile]),
        _full(rows.dense_BD[tile]),
        rows.bag_rows[members],
        rows.bag_values[members],
        np.pad(splits - splits[0], (0, _TILE + 1 - len(splits)), mode="edge"),
    )


def _full(part: NDArray[Any]) -> NDArray[Any]:
    return np.pad(part, ((0, _TILE - len(part)), (0, 0))) if len(part) < _TILE else part


def _logits(spec: Spec, network: Network, weights: Mapping[str, NDArray[Any]], rows: Inputs) -> NDArray[np.float32]:
    linear_BC, pooled_BK = _linear_and_pooled(spec, weights, rows)
    linear_BC += rows.dense_BD @ weights["dense_linear"]
    hidden = pooled_BK
    for i in range(len(network.hidden_units)):
        if i == 0:
            hidden = np.concatenate([pooled_BK, rows.dense_BD], axis=1)  # (B, K + D)
        hidden = _activate(network.activation, hidden @ weights[f"hidden_{i}_kernel"] + weights[f"hidden_{i}_bias"])
    logits_BC: NDArray[np.float32] = linear_BC + hidden @ weights["output"]
    return logits_BC


class _Sums(NamedTuple):
    """Over the features of each row, which are added one after the other."""

    linear_BC: NDArray[np.float32]  # Σ w x
    vectors_BK: NDArray[np.float32]  # Σ x v
    squares_BK: NDArray[np.float32]  # Σ (x v)²

    def add(self, at: Any, linear_MC: NDArray[np.float32], vectors_MK: NDArray[np.float32]) -> None:
        """One more feature of each of these M rows: its w x and its x v (which is used up)."""
        self.linear_BC[at] += linear_MC
        self.vectors_BK[at] += vectors_MK
        self.squares_BK[at] += np.square(vectors_MK, out=vectors_MK)


def _linear_and_pooled(
    spec: Spec, weights: Mapping[str, NDArray[Any]], rows: Inputs
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """w_0 + Σ w_i x_i (B, C), and the Bi-Interaction pooling (B, K) by the paper's equation 4."""
    count, (size, dim) = len(rows.ids_BF), weights["embedding"].shape
    bias_C = weights["bias"]
    sums = _Sums(
        np.full((count, len(bias_C)), bias_C, np.float32),
        np.zeros((count, dim), np.float32),
        np.zeros((count, dim), np.float32),
    )
    # Feature by feature: the vectors of all features, (B, F + N, K), never lie in memory at once.
    offsets = [offset for field, offset in zip(spec.fields, spec.offsets, strict=True) if field.bag is None]
    for f, offset in enumerate(offsets):
        sums.add(..., *_gather(weights, rows.ids_BF[:, f] + np.int64(offset)))
    for n, row in enumerate(range(size - len(spec.field_numbers), size)):
        sums.add(..., *_gather(weights, np.array([row]), rows.values_BN[:, n]))
    _add_bags(weights, rows, sums)
    squared_BK = np.square(sums.vectors_BK, out=sums.vectors_BK)
    return sums.linear_BC, np.float32(0.5) * (squared_BK - sums.squares_BK)


def _add_bags(weights: Mapping[str, NDArray[Any]], rows: Inputs, sums: _Sums) -> None:
    """Add the members of all bags. How a row's are added up depends on nothing but their number."""
    starts, lengths = rows.bag_splits[:-1], np.diff(rows.bag_splits)
    # The longest first: the rows that have a member at some place are the first ones.
    order = np.argsort(-lengths, kind="stable")
    order = order[(lengths[order] > 0) & (lengths[order] <= _LONG)]
    short = _Sums(*(np.zeros((len(order), total.shape[1]), np.float32) for total in sums))
    for place in range(lengths[order[0]] if len(order) else 0):
        count = np.count_nonzero(lengths[order] > place)
        members = starts[order[:count]] + place
        short.add(slice(count), *_gather(weights, rows.bag_rows[members], rows.bag_values[members]))
    for total, of_bags in zip(sums, short, strict=True):
        total[order] += of_bags
    for row in np.flatnonzero(lengths > _LONG):
        of_row = slice(starts[row], starts[row] + lengths[row])
        linear_MC, vectors_MK = _gather(weights, rows.bag_rows[of_row], rows.bag_values[of_row])
        sums.linear_BC[row] += linear_MC.sum(axis=0)
        sums.vectors_BK[row] += vectors_MK.sum(axis=0)
        sums.squares_BK[row] += np.square(vectors_MK, out=vectors_MK).sum(axis=0)


def _gather(
    weights: Mapping[str, NDArray[Any]], places_M: NDArray[np.integer[Any]], x_M: NDArray[np.float32] | None = None
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """w x (M, C) and x v (M, K) of the features in these rows of the table; x = 1 unless told.

    One row of the table, and many x, are one feature of as many rows.
    """
    linear_MC = weights["linear"].take(places_M, axis=0)
    vectors_MK = _widened(weights["embedding"].take(places_M, axis=0))
    if x_M is None:
        return linear_MC, vectors_MK
    return linear_MC * x_M[:, np.newaxis], vectors_MK * x_M[:, np.newaxis]


def _widened(vectors_MK: NDArray[Any]) -> NDArray[np.float32]:
    """The same finite numbers as float32; several times as fast as astype, which takes them one by one."""
    if vectors_MK.dtype != np.float16:
        return vectors_MK
    bits = vectors_MK.view(np.int16).astype(np.int32)  # repeats the sign in the upper half
    bits <<= 13
    bits &= _SIGN_EXPONENT_FRACTION
    widened = bits.view(np.float32)
    widened *= _REBIAS
    return widened


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


def _scores(task: str, logits_BC: NDArray[np.float32]) -> NDArray[np.float32]:
    match task:
        case "binary":
            return _sigmoid(logits_BC)
        case "regression":
            return logits_BC
        case "multiclass":
            return _softmax(logits_BC)
        case _:
            raise ValueError(f"no task is called {task!r}")  # the settings allow no other


def _sigmoid(x: NDArray[np.float32]) -> NDArray[np.float32]:
    # 1 / (1 + e^-x) by way of tanh, which cannot overflow.
    return np.asarray(np.float32(0.5) * (np.float32(1) + np.tanh(np.float32(0.5) * x)))


def _softmax(logits_BC: NDArray[np.float32]) -> NDArray[np.float32]:
    # The largest exponent is 0, which cannot overflow.
    powers_BC = np.exp(logits_BC - logits_BC.max(axis=1, keepdims=True))
    return np.asarray(powers_BC / powers_BC.sum(axis=1, keepdims=True))
