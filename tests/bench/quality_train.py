"""Train and measure the models of `make bench-quality`, one after the other in one process without Spark.

tests/bench/quality.py starts it: `python -m tests.bench.quality_train TABLE FOLD SEEDS CONFIG …`, with a configuration
for each split. The last line of its output is a list of runs as JSON.
"""

import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import nfm
import nfm.training.train  # before a training is timed, because TensorFlow takes seconds to start
from nfm.config.settings import Config
from nfm.contract.errors import NfmError
from tests.bench.quality_models import figures, read_folds
from tests.bench.quality_tables import TABLES, Table


def run(table: Table, fold: str, split: int, config: Config) -> dict[str, Any]:
    """Train, and measure the model on a fold; the figures in its metadata must be the same."""
    shutil.rmtree(
        Path(config.workdir, "checkpoint"), ignore_errors=True
    )  # of a killed run, whose time would be missing
    started = time.perf_counter()
    result = nfm.train(config)
    seconds = time.perf_counter() - started
    rows, recorded = read_folds(table, split)[fold], result.metrics[fold]
    found = figures(table.task, rows[table.label], nfm.load_model(result.model).score(rows))
    for name, value in found.items():
        if abs(value - recorded[name]) > 1e-4 * abs(value):
            sys.exit(f"{name} of {table.name} is {value} by scikit-learn, but {recorded[name]} in {result.model}")
    metadata = json.loads((result.model / "metadata.json").read_text())
    epochs = {name: metadata[name] for name in ("epochs", "best_epoch")}
    # parts: all metrics of the fold, among them those of the model's linear part
    return {
        "split": split,
        "seed": config.train.seed,
        "figures": found,
        "seconds": seconds,
        **epochs,
        "parts": recorded,
    }


def main() -> None:
    """Print the runs of all splits and seeds."""
    table, fold, seeds, *paths = sys.argv[1:]
    runs = []
    try:
        for split, path in enumerate(paths, 1):
            for seed in range(1, int(seeds) + 1):
                config = nfm.load_config(path, [f"train.seed={seed}"])
                runs.append(run(TABLES[table], fold, split, config))
    except NfmError as error:
        sys.exit(str(error))
    print(json.dumps(runs))


if __name__ == "__main__":
    main()
