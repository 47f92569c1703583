"""The forward pass over plain arrays; no TensorFlow. A parity test pins it to Keras over every option."""

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nfm.contract.artifact import Network
from nfm.contract.encoder import Inputs
from nfm.contract.schema import Spec
from nfm.kernels.layers import ROWS, add_products, layer, panels
from nfm.kernels.pooling import linear_and_pooled

TILE = 80 * ROWS  # rows that are computed at once: what the layers hand on stays in the second-level cache

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
        threads: how many work at once, at most.

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
            out_BC[start:stop] = layers.scores(stop - start)

        return work

    in_steps(len(out_BC), TILE, threads, make)
    return out_BC if network.task == "multiclass" else out_BC[:, 0]


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

    def __init__(self, spec: Spec, network: Network, weights: Mapping[str, NDArray[Any]], rows: int = TILE) -> None:
        """There is room for so many rows."""
        rows = -(-rows // ROWS) * ROWS
        self._network = network
        self.linear_TC = np.zeros((rows, network.outputs), np.float32)
        # The pooled vectors, and behind them the dense numbers: the first hidden layer takes both.
        self.inputs_TX = np.zeros((rows, network.embedding_dim + len(spec.dense)), np.float32)
        hidden = range(len(network.hidden_units))
        self._hidden = [panels(weights[f"hidden_{i}_kernel"], weights[f"hidden_{i}_bias"]) for i in hidden]
        self._room = [np.zeros((rows, bias_PN.size), np.float32) for _, bias_PN in self._hidden]
        self._dense_linear, self._output = (
            np.ascontiguousarray(weights[name].T) for name in ("dense_linear", "output")
        )

    def scores(self, rows: int) -> NDArray[np.float32]:
        """(rows, C) of the first rows; changes their linear parts."""
        activation, x = self._network.activation, self.inputs_TX
        least = np.float32(0 if activation == "relu" else -np.inf)
        for weights, out in zip(self._hidden, self._room, strict=True):
            layer()(x, *weights, least, out, rows)
            _activate(activation, out[:rows])
            x = out
        add_products()(self.inputs_TX, self._network.embedding_dim, self._dense_linear, self.linear_TC, rows)
        add_products()(x, 0, self._output, self.linear_TC, rows)
        return _scores(self._network.task, self.linear_TC[:rows])


def _activate(name: str, x: NDArray[np.float32]) -> None:
    """In place."""
    match name:
        case "tanh":
            np.tanh(x, out=x)
        case "sigmoid":
            x[:] = _sigmoid(x)
        case "linear" | "relu":  # which the layer has done
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
