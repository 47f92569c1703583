"""Measure the samples per second and the memory of the train job, with its dataset on disk.

Run it with `PYTHONPATH=. python tests/bench/pace.py [--rows N]`. Ten fields with 100,000 values each, uniform; K 64,
hidden layers 128-128, batch 4096, as in tests/bench/train_deepctr.py.
"""

import argparse
import resource
import shutil
import time
from collections.abc import Mapping, Sequence
from typing import Any

from nfm.config.train import Model, Train
from nfm.contract.schema import Field, Spec
from nfm.training.data.batches import read_folds
from nfm.training.fit import fit
from tests.bench.pipeline import FOLDER, write

BATCH = 4096


def main() -> None:
    """Print samples per second for each epoch, and the peak resident memory."""
    parser = argparse.ArgumentParser(description="Measure the pace of the train job.")
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--optimizer", choices=("adagrad", "adam"), default="adagrad")
    arguments = parser.parse_args()
    folder = FOLDER / f"pace-{arguments.rows}"
    spec = Spec(("id",), tuple(Field(f"C{i}", (f"C{i}",), ("text",), 1, 100_000, f"C{i}") for i in range(10)), (), ())
    write(folder, arguments.rows, spec, exponent=0)
    folds = read_folds(folder, spec)
    plain: dict[str, Any] = {"early_stopping": None, "average": None, "unknown_dropout": 0.0}
    settings = Train(optimizer=arguments.optimizer, batch_size=BATCH, epochs=arguments.epochs, **plain)
    ended = time.perf_counter()

    def print_epoch(epoch: int, history: Mapping[str, Sequence[float]]) -> None:
        nonlocal ended
        seconds, ended = time.perf_counter() - ended, time.perf_counter()
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"epoch {epoch}: {arguments.rows / seconds:,.0f} samples/s, peak {memory:.2f} GiB", flush=True)

    fit(spec, Model(), settings, folds, each_epoch=print_epoch)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
