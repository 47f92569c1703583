"""Compare forward passes on one thread, on encoded rows in memory: nfm, plain NumPy, TensorFlow.

`score.py` starts it with the matrix libraries limited to one thread.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from nfm.contract.artifact import Artifact
from nfm.contract.dataset import Inputs, arrange_inputs
from nfm.contract.schema import Spec
from nfm.forward.rows import score
from tests.bench.features import timed
from tests.bench.score_model import HOME, PARTS_MODEL

ROWS, ROUNDS = 1 << 17, 5
BATCHES = (64, 128, 256, 512, 1024, 2048, 4096, 8192)  # the fastest one is reported

KERAS_FUNCTION = "tf.function of the Keras model"
WITH_TARGET = ("NumPy", KERAS_FUNCTION)  # comparisons that have a target

Floats = NDArray[np.float32]


def encoded_rows(spec: Spec) -> Inputs:
    """Read rows of the dataset, and arrange them as the score job does."""
    path = min((HOME / "dataset" / "fold=train").glob("*.parquet"))
    columns = pq.read_table(path, columns=list(spec.outputs), partitioning=None).slice(0, ROWS)
    return arrange_inputs(spec, {name: columns[name].combine_chunks().to_numpy() for name in spec.outputs})


def straightforward(spec: Spec, weights: Mapping[str, Any], rows: Inputs, size: int) -> Floats:
    """Score in batches with NumPy: gather all embeddings, pool (paper, eq. 4), apply the layers."""
    offsets = np.array(spec.offsets, np.int32)
    scores = []
    for start in range(0, len(rows.ids_BF), size):
        ids_BF, dense_BD = rows.ids_BF[start : start + size] + offsets, rows.dense_BD[start : start + size]
        vectors_BFK = weights["embedding"][ids_BF]
        sum_BK = vectors_BFK.sum(axis=1)
        pooled_BK = np.float32(0.5) * (sum_BK * sum_BK - (vectors_BFK * vectors_BFK).sum(axis=1))
        hidden = np.concatenate([pooled_BK, dense_BD], axis=1)
        for i in range(2):
            hidden = np.maximum(hidden @ weights[f"hidden_{i}_kernel"] + weights[f"hidden_{i}_bias"], 0)
        linear_B1 = weights["bias"] + weights["linear"][ids_BF].sum(axis=1) + dense_BD @ weights["dense_linear"]
        scores.append(1 / (1 + np.exp(-(linear_B1 + hidden @ weights["output"]))))
    return np.concatenate(scores)[:, 0]


def tensorflow(spec: Spec, rows: Inputs) -> dict[str, Callable[[int], Floats]]:
    """Return functions of the model's Keras model and of one with an Embedding per field; each takes a batch size."""
    import keras
    import tensorflow as tf

    from nfm.training import layers

    assert layers  # registers the layers of the Keras model
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    inputs = [rows.ids_BF, rows.values_BN, rows.dense_BD]
    matrix = np.concatenate([rows.ids_BF.astype(np.float32), rows.dense_BD], axis=1)
    nfm_model = keras.models.load_model(HOME / "model" / "keras" / "model.keras", compile=False)
    parts_model = keras.models.load_model(PARTS_MODEL, compile=False)

    def batches(arrays: Sequence[NDArray[Any]], compute: Callable[..., Any], xla: bool) -> Callable[[int], Floats]:
        signature = [tf.TensorSpec((None, array.shape[1]), array.dtype) for array in arrays]
        graph = tf.function(compute, input_signature=signature, jit_compile=xla, autograph=False)

        def run(size: int) -> Floats:
            starts = range(0, ROWS, size)
            return np.concatenate([graph(*(a[start : start + size] for a in arrays)).numpy() for start in starts])[:, 0]

        return run

    def run_nfm_model(ids: Any, values: Any, dense: Any) -> Any:
        return tf.sigmoid(nfm_model({"ids": ids, "values": values, "dense": dense}, training=False))

    def run_parts_model(row: Any) -> Any:
        return parts_model(row, training=False)

    return {
        KERAS_FUNCTION: batches(inputs, run_nfm_model, xla=False),
        "tf.function, Embedding layers": batches([matrix], run_parts_model, xla=False),
        "the same with XLA": batches([matrix], run_parts_model, xla=True),
    }


def forward() -> None:
    """Check that all compute the same scores, then time them in turn."""
    artifact = Artifact.load(HOME / "model", verify=False)
    spec, weights, network = artifact.encoding.spec, artifact.weights, artifact.network
    assert network.hidden_units and not spec.field_numbers
    rows = encoded_rows(spec)
    half = dict(weights) | {"embedding": weights["embedding"].astype(np.float16)}
    half_network = replace(network, embedding_dtype="float16")
    # Rows are contiguous, which is fastest for NumPy and TensorFlow.
    by_row = rows._replace(ids_BF=np.ascontiguousarray(rows.ids_BF), dense_BD=np.ascontiguousarray(rows.dense_BD))
    ways: dict[str, Callable[[], Floats]] = {
        "nfm": lambda: score(spec, network, weights, rows),
        "nfm, float16 table": lambda: score(spec, half_network, half, rows),
    }
    expected = ways["nfm"]()
    others: dict[str, Callable[[int], Floats]] = {
        "NumPy, straightforward": partial(straightforward, spec, weights, by_row),
        **tensorflow(spec, by_row),
    }
    for name, run in others.items():
        if name.startswith(WITH_TARGET):  # the others have other weights
            np.testing.assert_allclose(run(BATCHES[-1]), expected, atol=1e-5)
        seconds_by_size = {size: _time_second_call(partial(run, size)) for size in BATCHES}
        best = min(seconds_by_size, key=lambda size: seconds_by_size[size])
        ways[f"{name}, batches of {best}"] = partial(run, best)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            seconds[name].append(timed(way))
    base = statistics.median(seconds["nfm"])
    for name, times in seconds.items():
        median = statistics.median(times)
        target = " (target: at least 2)" if name.startswith(WITH_TARGET) else ""
        print(f"forward, {name:<52} {ROWS / median / 1000:5.0f} k rows/s; nfm is {median / base:.2f} × as fast{target}")


def _time_second_call(run: Callable[[], object]) -> float:
    run()
    return timed(run)
