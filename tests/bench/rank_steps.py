"""Time the training step of a ranking: triples of a user, a chosen item and a negative, per second.

Run it with `PYTHONPATH=. python tests/bench/rank_steps.py [--items 100000 1000000] [--batches 1024 4096] [--steps 40]`.
Each row has a user, an item and four negatives, which are drawn uniformly: four triples. K 64, hidden layers 128-128,
batch norm and dropout, Adam. The catalogue has a field of the item and one of 50 genres. The batches are in memory; the
first steps, which compile, are not counted. A step of a large catalogue touches the same number of rows of the tables.
"""

import argparse
import os
import statistics
import time
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow is imported

import numpy as np
import pyarrow as pa
import tensorflow as tf

from nfm.config.ranking import Ranking
from nfm.config.train import Model, Train
from nfm.contract.schema import Field, Spec
from nfm.forward.catalogue import Catalogue
from nfm.forward.sides import divide
from nfm.training.data.batches import Fold
from nfm.training.data.labels import describe_train_labels
from nfm.training.data.rows import Rows
from nfm.training.model import initial_weights
from nfm.training.ranking.data import Pairs, Ranked
from nfm.training.ranking.step import make_pair_parts
from tests.bins import without_bins

USERS, GENRES, INTERACTIONS, NEGATIVES, WARM_UP = 100_000, 50, 2_000_000, 4, 5


def make_inputs(ids_BF: Any) -> Any:
    count, none = len(ids_BF), np.empty((len(ids_BF), 0), np.float32)
    bags = np.empty(0, np.int32), np.empty(0, np.float32), np.zeros(count + 1, np.int64)
    return without_bins(ids_BF.astype(np.int32), none, none, *bags)


def make_ranked(items: int) -> tuple[Spec, Ranked]:
    """Return the specification and data of random interactions, for a catalogue of this size."""
    rng = np.random.default_rng(1)
    sizes = {"user": USERS, "item": items, "genre": GENRES}
    fields = tuple(Field(name, (name,), ("number",), 1, size, name) for name, size in sizes.items())
    spec = Spec(("user", "item"), fields, (), ("",) * 3, item_inputs=("item", "genre"))
    ids_IF = np.stack([np.arange(items) + 2, rng.integers(2, GENRES + 2, items)], axis=1)
    catalogue = Catalogue(pa.array(np.arange(items)), np.ones(items, np.int64), make_inputs(ids_IF))
    users, chosen = (rng.integers(0, size, INTERACTIONS).astype(np.int32) for size in (USERS, items))
    pairs = {"train": Pairs(users, chosen, np.zeros(INTERACTIONS, np.int64))}
    ranking = Ranking(user="user", item="item", loss="bpr", negatives=NEGATIVES, sampler="uniform")
    return spec, Ranked(ranking, divide(spec), catalogue, pa.array(np.arange(USERS)), pairs)


def time_steps(items: int, batch: int, steps: int, hidden: tuple[int, ...]) -> tuple[list[float], float]:
    """Return the seconds of each step, and the processor seconds of a step."""
    spec, ranked = make_ranked(items)
    model = Model(task="ranking", hidden_units=hidden, batch_norm=bool(hidden))
    train = Train(batch_size=batch, average=None, unknown_dropout=0.0, epochs=1)
    fold = _Sized(spec, (), True, "", ranked=ranked)
    weights = initial_weights(spec, model, 1)
    _, step, _ = make_pair_parts(spec, model, train, fold, describe_train_labels(spec, model, train, fold), weights)
    rng, pairs, seconds = np.random.default_rng(2), ranked.pairs["train"], list[float]()
    before = 0.0
    for number in range(1, WARM_UP + steps + 1):
        before = time.process_time() if number == WARM_UP + 1 else before
        places = rng.integers(0, INTERACTIONS, batch)
        group = np.stack([pairs.users_N[places], pairs.items_N[places]], axis=1)
        ones = np.ones(batch, np.float32)
        rows = Rows(make_inputs(group[:, :1] + 2), ones, ones, group)
        started = time.perf_counter()
        step(rows, 0.001, number)
        seconds.append(time.perf_counter() - started)
    return seconds[WARM_UP:], (time.process_time() - before) / steps


class _Sized(Fold):
    """A fold without files that counts as long as the interactions, so that XLA compiles the step."""

    rows = INTERACTIONS


def main() -> None:
    """Print a line for each catalogue, batch size and network."""
    parser = argparse.ArgumentParser(description="Time a training step of a ranking.")
    parser.add_argument("--items", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--batches", type=int, nargs="+", default=[1024, 4096])
    parser.add_argument("--steps", type=int, default=40)
    arguments = parser.parse_args()
    tf.config.experimental.enable_op_determinism()  # as in the train job
    print(f"{os.cpu_count()} cores, K 64, {NEGATIVES} negatives, {USERS:,} users; median, and fastest of the steps")
    for hidden in ((128, 128), ()):
        for items in arguments.items:
            for batch in arguments.batches:
                seconds, processor = time_steps(items, batch, arguments.steps, hidden)
                middle, least = statistics.median(seconds), min(seconds)
                print(
                    f"hidden {hidden!s:<10} {items:>9,} items, batch {batch:>5,}: {1000 * middle:6.1f} ms "
                    f"({1000 * least:.1f}), {NEGATIVES * batch / middle:>9,.0f} triples/s "
                    f"({NEGATIVES * batch / least:,.0f}), {1000 * processor:.1f} ms of processors",
                    flush=True,
                )


if __name__ == "__main__":
    main()
