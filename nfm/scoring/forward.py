"""The forward pass over plain arrays; no TensorFlow. A parity test pins it to Keras over every option."""

import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from nfm.contract.artifact import Network
from nfm.contract.encoder import Inputs
from nfm.contract.schema import Spec
from nfm.scoring.pooling import linear_and_pooled

# Rows that are computed at once; at K = 64 what the layers hand on stays in the second-level cache. The matrix products
# always take a full tile: one rounds differently for another number of rows, and a row's score must not depend on the
# rows it happens to travel with.
_TILE = 1024


def score(
    spec: Spec, network: Network, weights: Mapping[str, NDArray[Any]], rows: Inputs, threads: int = 1
) -> NDArray[np.float32]:
    """Scores of B encoded rows. Equal rows have equal scores, bit for bit, whatever the number of threads.

    Args:
        spec: of the encoding; says where each field's rows lie in the table.
        network: the form of the model, C outputs.
        weights: arrays as `Network.weight_shapes` names them, batch norm folded in.
        rows: as `contract.encoder.inputs` arranges them.
        threads: how many work at once, at most; see `one_thread_a_product`.

    Returns:
        (B,) probabilities of label 1 for the binary task, (B,) numbers for regression, (B, C) probabilities of the
        classes for multiclass. Not finite where a row's numbers are too large for float32.
    """
    out_BC = np.empty((len(rows.ids_BF), network.outputs), np.float32)
    own = threading.local()

    def tile(start: int) -> None:
        if not hasattr(own, "layers"):
            own.layers = _Layers(spec, network, weights)
        stop = min(start + _TILE, len(out_BC))
        with np.errstate(over="ignore", invalid="ignore"):
            out_BC[start:stop] = _scores(network.task, own.layers.logits(rows, start, stop))

    starts = range(0, len(out_BC), _TILE)
    if min(threads, len(starts)) > 1:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(tile, starts))
    else:
        for start in starts:
            tile(start)
    return out_BC if network.task == "multiclass" else out_BC[:, 0]


def one_thread_a_product() -> Any:
    """Keep the library of the matrix products to one thread from now on, or inside a `with`.

    It would take every core, in each thread of `score` again. To let it have them back takes milliseconds.
    """
    return _libraries().limit(limits=1, user_api="blas")


@cache
def _libraries() -> ThreadpoolController:
    return ThreadpoolController()


class _Layers:
    """One thread's way through the network, with the room that a tile takes."""

    def __init__(self, spec: Spec, network: Network, weights: Mapping[str, NDArray[Any]]) -> None:
        self._network, self._weights = network, weights
        embedding = weights["embedding"]
        self._table = embedding.view(np.uint16) if embedding.dtype == np.float16 else embedding
        self._pool = linear_and_pooled(str(embedding.dtype))
        plain = [offset for field, offset in zip(spec.fields, spec.offsets, strict=True) if field.bag is None]
        self._offsets, self._first_number = np.array(plain, np.int64), spec.rows - len(spec.field_numbers)
        self._sums = np.empty((2, network.embedding_dim), np.float32)
        self._linear_TC = np.zeros((_TILE, network.outputs), np.float32)
        # The pooled vectors, and behind them the dense numbers: the first hidden layer takes both.
        widths = (network.embedding_dim + len(spec.dense), *network.hidden_units)
        self._layers = [np.zeros((_TILE, width), np.float32) for width in widths]

    def logits(self, rows: Inputs, start: int, stop: int) -> NDArray[np.float32]:
        """(T, C) of the rows from start to stop; T is a tile at most."""
        dim, weights, linear_TC = self._network.embedding_dim, self._weights, self._linear_TC
        pooled_TK, dense_TD = self._layers[0][:, :dim], self._layers[0][:, dim:]
        self._pool(
            *(self._table, weights["linear"], weights["bias"], self._offsets, self._first_number),
            *(rows.ids_BF, rows.values_BN, rows.bag_rows, rows.bag_values, rows.bag_splits, start, stop),
            *(self._sums, linear_TC, pooled_TK),
        )
        # What an earlier tile has left behind a shorter last one goes through the layers, too, and is cut off.
        dense_TD[: stop - start] = rows.dense_BD[start:stop]
        for i, layer in enumerate(self._layers[1:]):
            np.matmul(self._layers[i], weights[f"hidden_{i}_kernel"], out=layer)
            layer += weights[f"hidden_{i}_bias"]
            _activate(self._network.activation, layer)
        last = self._layers[-1] if self._network.hidden_units else pooled_TK
        logits_TC: NDArray[np.float32] = linear_TC + dense_TD @ weights["dense_linear"] + last @ weights["output"]
        return logits_TC[: stop - start]


def _activate(name: str, x: NDArray[np.float32]) -> None:
    """In place."""
    match name:
        case "relu":
            np.maximum(x, 0, out=x)
        case "tanh":
            np.tanh(x, out=x)
        case "sigmoid":
            x[:] = _sigmoid(x)
        case "linear":
            pass
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
