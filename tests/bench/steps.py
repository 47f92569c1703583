"""How long a training step takes on a large table of embeddings: Keras's own layers and optimizers, beside ours.

Run it with `PYTHONPATH=. python tests/bench/steps.py [--tables 5000 1000000 5000000] [--steps 25] [--rounds 3]` (the
largest table takes 8 GB with Adam). Ten fields of uniform ids, K 64, Bi-Interaction pooling, hidden layers 128-128,
batch norm and dropout, batch 4096. The batches are in memory; the first steps, which compile, are not counted. Keras
runs without XLA, which `compile` would turn on: with it, a step of the smallest table took seven times as long.
"""

import argparse
import itertools
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any, Literal

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow is imported

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from nfm.config_train import Model, Train
from nfm.contract.schema import Field, Spec
from nfm.training.model import build
from nfm.training.optimizers import Optimizer
from nfm.training.steps import make_step

FIELDS, DIM, HIDDEN, BATCH = 10, 64, (128, 128), 4096
POOLING_DROPOUT, HIDDEN_DROPOUT = 0.5, 0.2
BATCH_NORM = {"momentum": 0.9, "epsilon": 1e-5}
DIFFERENT, WARM_UP = 8, 3  # batches that take turns; steps that are not counted
OPTIMIZERS: tuple[Literal["adagrad", "adam"], ...] = ("adagrad", "adam")

Batch = tuple[NDArray[np.int32], NDArray[np.float32]]  # ids_BF, local to their fields, and label_B


def table(rows: int) -> Spec:
    """The specification of a table of so many rows in all, the reserved ones of each field counted."""
    values = rows // FIELDS - 2
    fields = tuple(Field(f"C{i}", (f"C{i}",), ("number",), 1, values, f"C{i}") for i in range(FIELDS))
    return Spec(("id",), fields, (), ("",) * FIELDS)


def uniform(spec: Spec) -> list[Batch]:
    """Batches of uniform ids and labels that are chance."""
    rng = np.random.default_rng(7)
    sizes = np.array([field.size for field in spec.fields], np.int32)
    return [
        (rng.integers(0, sizes, (BATCH, FIELDS), dtype=np.int32), rng.integers(0, 2, BATCH).astype(np.float32))
        for _ in range(DIFFERENT)
    ]


def keras_model(spec: Spec) -> keras.Model:
    """The same architecture of Keras's layers alone: two embedding layers a field."""
    ids = keras.Input((FIELDS,), dtype="int32")
    columns = [ids[:, i] for i in range(FIELDS)]
    layers = keras.layers
    linear = layers.Add()([layers.Embedding(f.size, 1)(c) for f, c in zip(spec.fields, columns, strict=True)])
    vectors = [layers.Embedding(f.size, DIM)(c) for f, c in zip(spec.fields, columns, strict=True)]
    square_of_sum = keras.ops.square(layers.Add()(vectors))
    hidden = 0.5 * (square_of_sum - layers.Add()([keras.ops.square(v) for v in vectors]))  # (B, K)
    hidden = layers.Dropout(POOLING_DROPOUT)(layers.BatchNormalization(**BATCH_NORM)(hidden))
    for units in HIDDEN:
        hidden = layers.BatchNormalization(**BATCH_NORM)(layers.Dense(units)(hidden))
        hidden = layers.Dropout(HIDDEN_DROPOUT)(layers.Activation("relu")(hidden))
    bias = layers.Dense(1)(hidden)  # w_0 is its bias
    return keras.Model(ids, linear + bias)


def keras_step(optimizer: str, spec: Spec, batches: Sequence[Batch], steps: int) -> float:
    """Median seconds of a step of Keras's own training loop."""
    model = keras_model(spec)
    chosen = keras.optimizers.Adagrad(0.05) if optimizer == "adagrad" else keras.optimizers.Adam(1e-3)
    model.compile(chosen, keras.losses.BinaryCrossentropy(from_logits=True), jit_compile=False)
    arrays = [(tf.constant(ids_BF), tf.constant(label_B[:, np.newaxis])) for ids_BF, label_B in batches]
    return median_step(lambda batch: model.train_on_batch(*batch), arrays, steps)


def median_step(step: Callable[[Any], object], batches: Sequence[Any], steps: int) -> float:
    """Median seconds of one call, after some that warm up. The call has to wait for its result."""
    seconds = []
    for batch in itertools.islice(itertools.cycle(batches), WARM_UP + steps):
        started = time.perf_counter()
        step(batch)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[WARM_UP:])


def our_step(optimizer: Literal["adagrad", "adam"], spec: Spec, batches: Sequence[Batch], steps: int) -> float:
    """Median seconds of a step of the train job."""
    model_settings = Model(hidden_units=HIDDEN, pooling_dropout=POOLING_DROPOUT, hidden_dropout=HIDDEN_DROPOUT)
    settings = Train(optimizer=optimizer, batch_size=BATCH)
    model = build(spec, model_settings)
    step = make_step(spec, model_settings, settings, Optimizer(settings, model.variables))
    nothing, weight = tf.zeros((BATCH, 0)), tf.ones(BATCH)
    arrays = [
        ({"ids": tf.constant(ids_BF), "values": nothing, "dense": nothing}, tf.constant(label_B[:, np.newaxis]))
        for ids_BF, label_B in batches
    ]
    number = itertools.count(1)

    def run(batch: tuple[Any, Any]) -> float:
        features, label = batch
        return step(features, label, weight, 0.05, next(number))

    return median_step(run, arrays, steps)


def measured(whose: str, rows: int, optimizer: Literal["adagrad", "adam"], steps: int) -> float:
    """Median seconds of a step, in a process of its own: what one leaves of memory and threads slows the next."""
    keras.utils.set_random_seed(1)
    tf.config.experimental.enable_op_determinism()  # as in the train job
    spec = table(rows)
    return (keras_step if whose == "Keras" else our_step)(optimizer, spec, uniform(spec), steps)


def main() -> None:
    """Print a line for each table and optimizer."""
    parser = argparse.ArgumentParser(description="The time of a training step.")
    parser.add_argument("--tables", type=int, nargs="+", default=[5_000, 1_000_000, 5_000_000], help="rows in all")
    parser.add_argument("--steps", type=int, default=25, help="that are measured in a round")
    parser.add_argument("--rounds", type=int, default=3, help="in each of which Keras and ours take turns")
    parser.add_argument("--optimizers", nargs="+", choices=OPTIMIZERS, default=OPTIMIZERS)
    asked = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} cores; K {DIM}, hidden {HIDDEN}, batch {BATCH}; milliseconds a step")
    print(f"{'table':>10}  {'optimizer':<9} {'Keras':>9} {'ours':>9}           a round's ratios", flush=True)
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as alone:
        for rows, optimizer in itertools.product(asked.tables, asked.optimizers):
            rounds = [
                [alone.submit(measured, whose, rows, optimizer, asked.steps).result() for whose in ("Keras", "ours")]
                for _ in range(asked.rounds)
            ]
            found = [statistics.median(of) for of in zip(*rounds, strict=True)]
            shown = " ".join(f"{1000 * seconds:9.1f}" for seconds in found)
            ratios = ", ".join(f"{slow / fast:.1f}" for slow, fast in rounds)
            print(f"{rows:>10,}  {optimizer:<9} {shown} {found[0] / found[1]:6.1f} ×  {ratios}", flush=True)


if __name__ == "__main__":
    main()
