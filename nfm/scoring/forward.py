"""The forward pass over plain arrays; no TensorFlow. A parity test pins it to Keras over every option."""

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
from numba import types
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from nfm.contract.artifact import Network
from nfm.contract.encoder import Inputs
from nfm.contract.schema import Spec
from nfm.scoring.pooling import compiled, linear_and_pooled

# Rows that are computed at once; at K = 64 what the layers hand on stays in the second-level cache. The matrix products
# always take a full tile: one rounds differently for another number of rows, and a row's score must not depend on the
# rows it happens to travel with.
TILE = 1024
_ZERO = np.float32(0)

Work = Callable[[int, int], None]  # on the rows from start to stop


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

    def make() -> Work:
        layers, pool = Layers(spec, network, weights), linear_and_pooled(network.embedding_dtype)
        arrays, sums = pooled_from(spec, weights), np.empty((2, network.embedding_dim), np.float32)
        pooled_TK, dense_TD = np.split(layers.inputs_TX, [network.embedding_dim], axis=1)

        def work(start: int, stop: int) -> None:
            members = rows.ids_BF, rows.values_BN, rows.bag_rows, rows.bag_values, rows.bag_splits
            pool(*arrays, *members, start, stop, sums, layers.linear_TC, pooled_TK)
            dense_TD[: stop - start] = rows.dense_BD[start:stop]
            out_BC[start:stop] = layers.scores()[: stop - start]

        return work

    in_steps(len(out_BC), TILE, threads, make)
    return out_BC if network.task == "multiclass" else out_BC[:, 0]


def one_thread_a_product() -> Any:
    """Keep the library of the matrix products to one thread from now on, or inside a `with`.

    It would take every core, in each thread of `score` again. To let it have them back takes milliseconds.
    """
    return _libraries().limit(limits=1, user_api="blas")


@cache
def _libraries() -> ThreadpoolController:
    return ThreadpoolController()


def in_steps(rows: int, step: int, threads: int, make: Callable[[], Work]) -> None:
    """Have all rows worked on, so many at once; what works is made in each thread anew."""
    own = threading.local()

    def one(start: int) -> None:
        if not hasattr(own, "work"):
            own.work = make()
        with np.errstate(over="ignore", invalid="ignore"):
            own.work(start, min(start + step, rows))

    starts = range(0, rows, step)
    if min(threads, len(starts)) > 1:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(one, starts))
    else:
        for start in starts:
            one(start)


def pooled_from(spec: Spec, weights: Mapping[str, NDArray[Any]]) -> tuple[Any, ...]:
    """What `linear_and_pooled` takes before the rows."""
    embedding = weights["embedding"]
    table = embedding.view(np.uint16) if embedding.dtype == np.float16 else embedding
    plain = [offset for field, offset in zip(spec.fields, spec.offsets, strict=True) if field.bag is None]
    first_number = spec.rows - len(spec.field_numbers)
    return table, weights["linear"], weights["bias"], np.array(plain, np.int64), first_number


class Layers:
    """One thread's way from the pooled vectors to the scores, with the room that a tile takes."""

    def __init__(self, spec: Spec, network: Network, weights: Mapping[str, NDArray[Any]], more: int = 0) -> None:
        """There is room for so many more rows than a tile's, which wait for the next one."""
        self._network, self._weights, dim = network, weights, network.embedding_dim
        self.linear_TC = np.zeros((TILE + more, network.outputs), np.float32)
        # The pooled vectors, and behind them the dense numbers: the first hidden layer takes both.
        self.inputs_TX = np.zeros((TILE + more, dim + len(spec.dense)), np.float32)
        self._hidden = [np.zeros((TILE, width), np.float32) for width in network.hidden_units]

    def scores(self) -> NDArray[np.float32]:
        """(TILE, C) of the first rows; what an earlier tile has left behind a shorter last one goes through, too."""
        network, weights, x = self._network, self._weights, self.inputs_TX[:TILE]
        pooled_TK, dense_TD = x[:, : network.embedding_dim], x[:, network.embedding_dim :]
        for i, layer in enumerate(self._hidden):
            np.matmul(x, weights[f"hidden_{i}_kernel"], out=layer)
            _add_and_activate(network.activation, layer, weights[f"hidden_{i}_bias"])
            x = layer
        last = x if self._hidden else pooled_TK
        return _scores(
            network.task, self.linear_TC[:TILE] + dense_TD @ weights["dense_linear"] + last @ weights["output"]
        )


def _add_and_activate(name: str, x: NDArray[np.float32], bias: NDArray[np.float32]) -> None:
    """In place."""
    if name == "relu":
        _add_and_rectify()(x, bias)  # NumPy's two steps would take a third of the products' time
    else:
        x += bias
        _activate(name, x)


@cache
def _add_and_rectify() -> Callable[..., None]:
    def loop(x: Any, bias: Any) -> None:
        for t in range(np.uint64(x.shape[0])):
            for u in range(np.uint64(x.shape[1])):
                value = x[t, u] + bias[u]
                x[t, u] = _ZERO if value < _ZERO else value

    matrix, vector = types.Array(types.float32, 2, "C"), types.Array(types.float32, 1, "C", readonly=True)
    return compiled(types.void(matrix, vector), loop)


def _activate(name: str, x: NDArray[np.float32]) -> None:
    """In place."""
    match name:
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
