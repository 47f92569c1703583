"""Measure what bins, target rates and counts cost: seconds and CPU seconds of the feature and the score job, in turn.

`PYTHONPATH=. python tests/bench/inputs.py [ROUNDS]`; docs/performance.md contains the results. The score jobs use one
encoding and models with random weights.
"""

import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from pyspark.sql import SparkSession

from nfm.config.settings import Config
from nfm.contract.artifact import Network
from nfm.contract.encoder import Encoding
from nfm.features.dataset import build
from nfm.scoring.score import score_table
from tests.bench.features import FOLDER
from tests.bench.score_keys import cpu_seconds
from tests.bench.score_model import HIDDEN, publish, quiet_session, random_weights, table
from tests.bench.table import FIELDS, NUMBERS

MILLIONS = 2
PARTS: dict[str, dict[str, Any]] = {
    "without them": {"bins": False},
    "bins": {"bins": True},
    "rates": {"bins": False, "rates": FIELDS},
    "rates and counts": {"bins": False, "rates": FIELDS, "counts": True},
    "all": {"bins": True, "rates": FIELDS, "counts": True},
}


def config(name: str, placement: str, **sections: Any) -> Config:
    """Return a configuration of the benchmark's table."""
    columns = {
        "key": ("id",),
        "label": "label",
        "categorical": {field: {} for field in FIELDS},
        "numeric": {number: {"as": placement} for number in NUMBERS},
    }
    content = {"name": name, "workdir": str(FOLDER / "inputs" / name), "source": {"path": str(table(MILLIONS))}}
    return Config.model_validate({**content, "columns": columns, **sections})


def compare(ways: Mapping[str, Callable[[], object]], rounds: int) -> None:
    """Run the ways in turn after a warm-up; print medians, and ratios to the first way of the same round."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for i in range(rounds + 1):
        for name, way in ways.items():
            wall, cpu = time.perf_counter(), cpu_seconds()
            way()
            if i:
                found[name].append((time.perf_counter() - wall, cpu_seconds() - cpu))
    for name, seconds in found.items():
        medians = [statistics.median(column) for column in zip(*seconds, strict=True)]
        ratios = [
            statistics.median(mine[i] / base[i] for mine, base in zip(seconds, found[next(iter(ways))], strict=True))
            for i in range(2)
        ]
        print(
            f"{name:<34} {medians[0]:6.1f} s {ratios[0]:5.2f} ×   CPU {medians[1]:6.1f} s {ratios[1]:5.2f} ×",
            flush=True,
        )


def score_ways(spark: SparkSession) -> dict[str, Callable[[], object]]:
    """Publish a model with each of the parts, and return their score jobs."""
    ways: dict[str, Callable[[], object]] = {}
    made = config("bins", "bins")
    spec = Encoding.load(made.encoding_folder).spec
    for name, inputs in PARTS.items():
        folder = FOLDER / "inputs" / name.replace(" ", "-")
        network = Network("binary", made.model.embedding_dim, HIDDEN, "relu", **inputs)
        score = {"model": str(folder / "model"), "output": str(folder / "scores")}
        settings = config("bins", "bins", score=score)
        weights = random_weights(network, replace(spec, uses_bins=network.bins))
        publish(settings, network, weights, lambda _: None)
        ways[f"score, {name}"] = lambda settings=settings: score_table(spark, settings)  # type: ignore[misc]
    return ways


def main(rounds: int) -> None:
    """Compare the feature jobs, then the score jobs."""
    spark = quiet_session()
    compare({f"features, as: {p}": lambda p=p: build(spark, config(p, p)) for p in ("dense", "bins")}, rounds)  # type: ignore[misc]
    compare(score_ways(spark), rounds)
    spark.stop()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
