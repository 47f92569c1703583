"""Forward pass over plain arrays, without TensorFlow. A parity test compares it with Keras for every option."""

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nfm.contract.artifact import Network
from nfm.contract.dataset import Inputs
from nfm.contract.schema import Spec
from nfm.kernels.activations import activate, compute_scores
from nfm.kernels.layers import ROWS, add_products, apply_layer, make_panels
from nfm.kernels.pooling import Offsets, Rows, Weights, pool_rows
from nfm.kernels.rates import Rates, look_up

TILE = 80 * ROWS  # rows that are scored at once: the layers' outputs stay in the second-level cache

Work = Callable[[int, int], None]  # processes the rows from start up to stop


def score(
    spec: Spec, network: Network, weights: Mapping[str, NDArray[Any]], rows: Inputs, threads: int = 1
) -> NDArray[np.float32]:
    """Score B encoded rows. Equal rows have equal scores, bit for bit, whatever the number of threads.

    The weights are named as in `Network.weight_shapes`, with batch norm folded in.

    Returns:
        (B,) probabilities of label 1 for the binary task, (B,) numbers for regression, (B, C) probabilities of the
        classes for multiclass. Not finite where a row's numbers are too large for float32.
    """
    out_BC = np.empty((len(rows.ids_BF), network.outputs), np.float32)

    def make() -> Work:
        layers, (tables, offsets) = Layers(spec, network, weights), pooling_tables(spec, weights)
        rates, dim, encoded = rates_table(spec, network, weights), network.embedding_dim, Rows(*rows)
        first_rate, part_B = dim + len(spec.dense), np.zeros(len(out_BC), np.int8)
        dense_TD = layers.inputs_TX[:, dim:first_rate]

        def work(start: int, stop: int) -> None:
            pool_rows(tables, offsets, encoded, start, stop, layers.linear_TC, layers.inputs_TX)
            dense_TD[: stop - start] = rows.dense_BD[start:stop]
            if network.rates:
                look_up(rates, encoded, part_B, start, stop, layers.inputs_TX, first_rate)
            out_BC[start:stop] = layers.scores(stop - start)

        return work

    process_in_steps(len(out_BC), TILE, threads, make)
    return out_BC if network.task == "multiclass" else out_BC[:, 0]


def process_in_steps(rows: int, step: int, threads: int, make: Callable[[], Work]) -> None:
    """Process all rows in steps; each thread calls `make` once for its own function."""
    own = threading.local()

    def process(start: int) -> None:
        if not hasattr(own, "work"):
            own.work = make()
        with np.errstate(over="ignore", invalid="ignore"):
            own.work(start, min(start + step, rows))

    starts = range(0, rows, step)
    if min(threads, len(starts)) > 1:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(process, starts))
    else:
        for start in starts:
            process(start)


def pooling_tables(spec: Spec, weights: Mapping[str, NDArray[Any]]) -> tuple[Weights, Offsets]:
    """Return the embedding table, linear weights and bias, and the first row of each field in them."""
    plain = [offset for field, offset in zip(spec.fields, spec.offsets, strict=True) if field.bag is None]
    bins = np.array(spec.bin_offsets, np.int64)
    offsets = Offsets(np.array(plain, np.int64), bins[:-1], int(bins[-1]))
    return Weights(weights["embedding"], weights["linear"], weights["bias"]), offsets


def rates_table(spec: Spec, network: Network, weights: Mapping[str, NDArray[Any]]) -> Rates:
    """Return the target rates of a model, and the fields that have them."""
    fields, bags = (np.array(places, np.int64).reshape(-1, 2) for places in spec.rate_places(network.rates))
    table_RC = weights["rates"] if network.rates else np.empty((0, network.rate_columns), np.float32)
    return Rates(table_RC[:, np.newaxis], fields, bags)


class Layers:
    """Layers from pooled vectors to scores, with the arrays of one thread."""

    def __init__(self, spec: Spec, network: Network, weights: Mapping[str, NDArray[Any]], rows: int = TILE) -> None:
        """Allocate arrays for `rows` rows at a time."""
        rows = -(-rows // ROWS) * ROWS
        self._network = network
        self.linear_TC = np.zeros((rows, network.outputs), np.float32)
        # Pooled vectors, followed by the dense numbers and the rates: the first hidden layer reads all.
        self.inputs_TX = np.zeros((rows, network.embedding_dim + network.dense_columns(spec)), np.float32)
        hidden = range(len(network.hidden_units))
        self._hidden = [make_panels(weights[f"hidden_{i}_kernel"], weights[f"hidden_{i}_bias"]) for i in hidden]
        self._outputs = [np.zeros((rows, bias_PN.size), np.float32) for _, bias_PN in self._hidden]
        self._dense_linear, self._output = (
            np.ascontiguousarray(weights[name].T) for name in ("dense_linear", "output")
        )

    def scores(self, rows: int) -> NDArray[np.float32]:
        """Return (rows, C) scores of the first rows; their linear parts become logits."""
        add_products(self.inputs_TX, self._network.embedding_dim, self._dense_linear, self.linear_TC, rows)
        self.add_outputs(rows)
        return compute_scores(self._network.task, self.linear_TC[:rows])

    def add_outputs(self, rows: int) -> None:
        """Add hᵀ times the output of the last hidden layer, or the pooled vector, to the first rows' linear parts."""
        activation, x = self._network.activation, self.inputs_TX
        least = 0 if activation == "relu" else -np.inf
        for weights, out in zip(self._hidden, self._outputs, strict=True):
            apply_layer(x, *weights, least, out, rows)
            activate(activation, out[:rows])
            x = out
        add_products(x, 0, self._output, self.linear_TC, rows)
