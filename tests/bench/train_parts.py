"""Measure what bins, target rates, counts, averages and unknown dropout cost in training: seconds of an epoch, in turn.

`PYTHONPATH=. python tests/bench/train_parts.py [ROUNDS]`; docs/performance.md contains the results. The table is that
of the other benchmarks (26 fields, 13 numbers), 0.3 million rows; every other setting has its default.
"""

import statistics
import sys
import time
from dataclasses import replace
from typing import Any

from nfm.config.train import Model, Train
from nfm.contract.encoder import Encoding
from nfm.features.dataset import build
from nfm.training.data.batches import read_folds
from nfm.training.fit import fit
from tests.bench.inputs import config
from tests.bench.score_model import quiet_session

ROWS = 300_000
NOTHING: dict[str, bool] = {"bins": False, "rates": False, "counts": False}
PLAIN: dict[str, Any] = {"average": None, "unknown_dropout": 0.0}
WAYS: dict[str, tuple[dict[str, bool], dict[str, Any]]] = {
    "without them": (NOTHING, PLAIN),
    "bins": (NOTHING | {"bins": True}, PLAIN),
    "rates": (NOTHING | {"rates": True}, PLAIN),
    "rates and counts": (NOTHING | {"rates": True, "counts": True}, PLAIN),
    "average": (NOTHING, PLAIN | {"average": 0.99}),
    "unknown dropout": (NOTHING, PLAIN | {"unknown_dropout": 0.05}),
    "all (the defaults)": ({}, {}),
}


def main() -> None:
    """Print the median seconds of an epoch, and its ratio to an epoch without the parts of the same round."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    made = config("train", "bins", split={"valid": 0.1, "test": 0.1})
    made = made.model_copy(update={"source": made.source.model_copy(update={"where": f"id < {ROWS}"})})
    build(quiet_session(), made)
    spec = Encoding.load(made.encoding_folder).spec
    folds = read_folds(made.dataset_folder, spec)
    spec = replace(spec, has_parts=True)
    found: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(rounds):
        for name, (use, settings) in WAYS.items():
            ends: list[float] = []
            model = Model.model_validate({"use": use})
            train = Train.model_validate({"early_stopping": None, "epochs": 2, **settings})
            of_way = replace(spec, uses_bins=model.use.bins)
            fit(of_way, model, train, folds, each_epoch=lambda *_, ends=ends: ends.append(time.perf_counter()))
            found[name].append(ends[1] - ends[0])
    base = found[next(iter(WAYS))]
    for name, seconds in found.items():
        ratio = statistics.median(mine / first for mine, first in zip(seconds, base, strict=True))
        print(f"{name:20} {statistics.median(seconds):6.1f} s  {ratio:5.2f}", flush=True)


if __name__ == "__main__":
    main()
