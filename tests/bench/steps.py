"""Time a training step with large embedding tables: Keras's own layers and optimizers, compared with the train job.

Run it with `PYTHONPATH=. python tests/bench/steps.py [--tables 5000 1000000 5000000] [--steps 5] [--rounds 15]` (the
largest table takes 12 GB with Adam). `--average` compares the train job with `train.average` to the one without, not
Keras to the train job. Ten fields of uniform ids, K 64, Bi-Interaction pooling, hidden layers 128-128, batch norm and
dropout, batch 4096. The batches are in memory; the first steps, which compile, are not counted. Both train in separate
processes, so that memory and threads of one do not slow the other, and take turns of a few steps, because the pace of a
shared machine changes within a minute. Keras runs without XLA, which `compile` turns on by default: with XLA, a step of
the smallest table took seven times as long.
"""

import argparse
import itertools
import os
import platform
import statistics
import time
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Literal

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow is imported

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from nfm.config.train import Model, Train
from nfm.contract.schema import Field, Spec
from nfm.training.data.rows import Rows
from nfm.training.model import initial_weights
from nfm.training.network import Network
from nfm.training.optimizers import Optimizer
from nfm.training.step import make_step
from nfm.training.tables import TableReader
from tests.bins import without_bins

FIELDS, DIM, HIDDEN, BATCH = 10, 64, (128, 128), 4096
POOLING_DROPOUT, HIDDEN_DROPOUT = 0.5, 0.2
BATCH_NORM = {"momentum": 0.9, "epsilon": 1e-5}
BATCHES, WARM_UP = 8, 1  # different batches, used in turn; steps of a turn that are not counted
OPTIMIZERS: tuple[Literal["adagrad", "adam"], ...] = ("adagrad", "adam")

Batch = tuple[NDArray[np.int32], NDArray[np.float32]]  # ids_BF, local to their fields, and label_B


def table(rows: int) -> Spec:
    """Return the specification of embedding tables with this total number of rows, including reserved rows."""
    values = rows // FIELDS - 2
    fields = tuple(Field(f"C{i}", (f"C{i}",), ("number",), 1, values, f"C{i}") for i in range(FIELDS))
    return Spec(("id",), fields, (), ("",) * FIELDS)


def make_batches(spec: Spec) -> list[Batch]:
    """Return batches of uniform ids and random labels."""
    rng = np.random.default_rng(7)
    sizes = np.array([field.size for field in spec.fields], np.int32)
    return [
        (rng.integers(0, sizes, (BATCH, FIELDS), dtype=np.int32), rng.integers(0, 2, BATCH).astype(np.float32))
        for _ in range(BATCHES)
    ]


def keras_model(spec: Spec) -> keras.Model:
    """Return the same architecture in Keras layers only, with two embedding layers per field."""
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


Step = Callable[[Batch], object]


def keras_step(optimizer: str, spec: Spec) -> Step:
    """Return a step of Keras's own training loop, which waits for the result."""
    model = keras_model(spec)
    chosen = keras.optimizers.Adagrad(0.05) if optimizer == "adagrad" else keras.optimizers.Adam(1e-3)
    model.compile(chosen, keras.losses.BinaryCrossentropy(from_logits=True), jit_compile=False)
    return lambda batch: model.train_on_batch(tf.constant(batch[0]), tf.constant(batch[1][:, np.newaxis]))


def nfm_step(optimizer: Literal["adagrad", "adam"], spec: Spec, average: float | None = None) -> Step:
    """Return a step of the train job."""
    model_settings = Model(hidden_units=HIDDEN, pooling_dropout=POOLING_DROPOUT, hidden_dropout=HIDDEN_DROPOUT)
    settings = Train(optimizer=optimizer, batch_size=BATCH, average=average, unknown_dropout=0.0)
    weights, network = initial_weights(spec, model_settings, 1), Network(spec, model_settings, settings, 10**9)
    reader = TableReader(spec, weights.tables)
    optimizer_of_weights = Optimizer(settings, weights, list(network.trained), reader)
    step = make_step(spec, model_settings, settings, reader, network, optimizer_of_weights)
    no_numbers, count = np.empty((BATCH, 0), np.float32), itertools.count(1)
    no_bags = np.empty(0, np.int32), np.empty(0, np.float32), np.zeros(BATCH + 1, np.int64)

    def run(batch: Batch) -> float:
        rows = Rows(
            without_bins(batch[0], no_numbers, no_numbers, *no_bags),
            batch[1],
            np.ones(BATCH, np.float32),
            None,
        )
        return step(rows, 0.05, next(count))

    return run


def train(trainer: str, rows: int, optimizer: Literal["adagrad", "adam"], turns: Connection) -> None:
    """For each number of steps received, train and send the median seconds per step; runs in a separate process."""
    keras.utils.set_random_seed(1)
    tf.config.experimental.enable_op_determinism()  # as in the train job
    spec = table(rows)
    batches = itertools.cycle(make_batches(spec))
    if trainer == "Keras":
        step = keras_step(optimizer, spec)
    else:
        step = nfm_step(optimizer, spec, 0.99 if trainer == "average" else None)
    for steps in iter(turns.recv, None):
        seconds = []
        for batch in itertools.islice(batches, WARM_UP + steps):
            started = time.perf_counter()
            step(batch)
            seconds.append(time.perf_counter() - started)
        turns.send(statistics.median(seconds[WARM_UP:]))


def measure_in_turn(trainers: tuple[str, str], rows: int, optimizer: str, steps: int, rounds: int) -> list[list[float]]:
    """Return the median seconds per step of both trainers in each round."""
    spawn, ends = get_context("spawn"), []
    for trainer in trainers:
        parent_end, child_end = spawn.Pipe()
        spawn.Process(target=train, args=(trainer, rows, optimizer, child_end), daemon=True).start()
        ends.append(parent_end)
    medians: list[list[float]] = []
    for number in range(1 + rounds):  # the first round compiles
        medians.append([])
        for end in ends:
            end.send(steps)
            medians[number].append(end.recv())
    for end in ends:
        end.send(None)
    return medians[1:]


def main() -> None:
    """Print a line for each table and optimizer."""
    parser = argparse.ArgumentParser(description="Time a training step.")
    parser.add_argument(
        "--tables",
        type=int,
        nargs="+",
        default=[5_000, 1_000_000, 5_000_000],
        help="total rows of the embedding tables",
    )
    parser.add_argument("--steps", type=int, default=5, help="steps per turn")
    parser.add_argument("--rounds", type=int, default=15, help="rounds, in each of which both take one turn")
    parser.add_argument("--average", action="store_true", help="compare train.average: 0.99 to no average")
    parser.add_argument("--optimizers", nargs="+", choices=OPTIMIZERS, default=OPTIMIZERS)
    arguments = parser.parse_args()
    trainers = ("average", "nfm") if arguments.average else ("Keras", "nfm")
    print(
        f"{platform.machine()}, {os.cpu_count()} cores; K {DIM}, hidden {HIDDEN}, batch {BATCH}; milliseconds per step"
    )
    print(
        f"{'table':>10}  {'optimizer':<9} {trainers[0]:>9} {trainers[1]:>9}           "
        "ratio in a round: median, quartiles"
    )
    for rows, optimizer in itertools.product(arguments.tables, arguments.optimizers):
        rounds = measure_in_turn(trainers, rows, optimizer, arguments.steps, arguments.rounds)
        shown = " ".join(f"{1000 * statistics.median(seconds):9.1f}" for seconds in zip(*rounds, strict=True))
        ratios = np.percentile([slow / fast for slow, fast in rounds], (50, 25, 75))
        print(f"{rows:>10,}  {optimizer:<9} {shown} {ratios[0]:7.2f} ×  {ratios[1]:.2f} – {ratios[2]:.2f}", flush=True)


if __name__ == "__main__":
    main()
