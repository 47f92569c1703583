"""Time the feature job, compared with copying the table and with Spark ML; measure a large vocabulary.

Run it with `make bench-features` (about 12 minutes on two cores). The compared jobs are timed in turn in one warm
session; the start of the JVM is not counted. docs/performance.md has the results.
"""

import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyspark.ml import Pipeline
from pyspark.ml.feature import Imputer, StringIndexer
from pyspark.sql import SparkSession

from nfm.config.settings import Config
from nfm.contract.encoder import Encoding
from nfm.features.dataset import build
from tests.bench.table import FIELDS, NUMBERS, write, write_wide_vocabulary

FOLDER = Path("build/bench")
ROUNDS = 5
MANY = 10_000_000


def config(table: Path, workdir: Path, scan: str = "auto") -> Config:
    """Return the feature job's configuration for the benchmark's table, with dense numbers."""
    columns = {
        "key": ("id",),
        "label": "label",
        "categorical": {name: {} for name in FIELDS},
        "numeric": {name: {"as": "dense"} for name in NUMBERS},
    }
    source = {"path": str(table), "scan": scan}
    return Config.model_validate({"name": "bench", "workdir": str(workdir), "source": source, "columns": columns})


def timed(work: Callable[[], object]) -> float:
    """Return the seconds that the work takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def in_turn(ways: Mapping[str, Callable[[], object]], rows: int, rounds: int) -> dict[str, float]:
    """Time each of the ways once per round; print and return the medians in seconds."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            seconds[name].append(timed(way))
    for name, times in seconds.items():
        median = statistics.median(times)
        shown = ", ".join(f"{s:.1f}" for s in times)
        print(f"{name:<48} {median:7.1f} s {rows / median / 1000:8.0f} k rows/s   ({shown})", flush=True)
    return {name: statistics.median(times) for name, times in seconds.items()}


def copy(spark: SparkSession, table: Path) -> None:
    """Read the table and write it again."""
    spark.read.parquet(str(table)).write.mode("overwrite").parquet(str(FOLDER / "copy"))


def spark_ml(spark: SparkSession, table: Path) -> None:
    """Fit StringIndexer and Imputer on the whole table, transform it, and write the result."""
    raw = spark.read.parquet(str(table))
    indexed, imputed = [f"{c}_id" for c in FIELDS], [f"{c}_x" for c in NUMBERS]
    indexer = StringIndexer(inputCols=FIELDS, outputCols=indexed, handleInvalid="keep")
    stages: list[Any] = [indexer, Imputer(inputCols=NUMBERS, outputCols=imputed)]
    encoded = Pipeline(stages=stages).fit(raw).transform(raw).select("id", "label", *indexed, *imputed)
    encoded.write.mode("overwrite").parquet(str(FOLDER / "spark_ml"))


def print_median(name: str, seconds: list[float], base: float | None = None) -> float:
    """Print the median, and its ratio to `base`; return the median."""
    median = statistics.median(seconds)
    shown = ", ".join(f"{s:.1f}" for s in seconds)
    print(f"{name:<44} {median:7.1f} s" + (f"  {median / base:5.2f} ×" if base else "") + f"   ({shown})", flush=True)
    return median


os.environ.setdefault("PYSPARK_PYTHON", sys.executable)


def session(memory: str, cores: int = 2) -> SparkSession:
    """Start a Spark session without UI, progress bar and log, on this number of cores."""
    builder = SparkSession.builder.master(f"local[{cores}]").config("spark.driver.memory", memory)
    for key, value in (("ui.enabled", "false"), ("ui.showConsoleProgress", "false"), ("log.level", "ERROR")):
        builder = builder.config(f"spark.{key}", value)
    return builder.getOrCreate()


def speed() -> None:
    """Time the jobs on tables with 2 and 8 million rows."""
    spark = session("4g")
    small, large = write(FOLDER / "raw-2m", 2_000_000), write(FOLDER / "raw-8m", 8_000_000)
    warm = write(FOLDER / "raw-warm", 50_000)
    for _ in range(2):
        copy(spark, warm)
        build(spark, config(warm, FOLDER / "out"))
        spark_ml(spark, warm)
    times: dict[str, list[float]] = {name: [] for name in ("copy", "parquet", "spark", "large", "ml")}
    for _ in range(ROUNDS):
        times["copy"].append(timed(lambda: copy(spark, small)))
        times["parquet"].append(timed(lambda: build(spark, config(small, FOLDER / "out"))))
        times["ml"].append(timed(lambda: spark_ml(spark, small)))
    for _ in range(2):
        times["large"].append(timed(lambda: build(spark, config(large, FOLDER / "out"))))
    times["spark"].append(timed(lambda: build(spark, config(small, FOLDER / "out", "spark"))))
    spark.stop()
    copying = print_median("2 M rows: copy", times["copy"])
    features = print_median("2 M rows: feature job, scan: parquet", times["parquet"], copying)
    print_median("2 M rows: feature job, scan: spark", times["spark"], copying)
    ml = print_median("2 M rows: Spark ML", times["ml"], copying)
    print(f"{'2 M rows: Spark ML / feature job':<44} {ml / features:.1f} ×")
    eight_million = print_median("8 M rows: feature job", times["large"])
    print(f"{'feature job: 8 M rows / 2 M rows':<44} {eight_million / features:.2f} ×")


def many_values(memory: str) -> None:
    """Build the features of one field with ten million values; runs in a separate process."""
    spark = session(memory)
    columns = {"key": ("id",), "label": "label", "categorical": {"user": {}}}
    split = {"valid": 0.0, "test": 0.0}
    table = write_wide_vocabulary(FOLDER / "raw-many", MANY)
    content = {"name": "many", "workdir": str(FOLDER / "many"), "source": {"path": str(table)}, "columns": columns}
    content |= {"split": split, "train": {"early_stopping": None}}
    seconds = timed(lambda: build(spark, Config.model_validate(content)))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{f'10 M values, spark.driver.memory={memory}':<44} {seconds:7.1f} s   driver's Python: peak {peak:.0f} MB")
    spark.stop()


def lookups() -> None:
    """Look up many of ten million values as a worker does, and measure its memory; runs in a separate process."""
    batches = [
        pa.array([f"user-{(n * 2654435761) & (2**32 - 1):08x}" for n in range(start, MANY, 20)]) for start in range(5)
    ]
    before = anonymous_memory()
    encoding = Encoding.load(FOLDER / "many" / "encoding")
    started, rows = time.perf_counter(), 0
    for batch in batches:
        ids = encoding.encode(pa.record_batch({"user": batch}))["user"]
        assert np.min(ids) > 1
        rows += len(ids)
    seconds = time.perf_counter() - started
    after = anonymous_memory()
    print(f"{'looking up in 10 M values':<44} {rows / seconds / 1e6:7.1f} M distinct values/s")
    print(f"{'growth of a worker':<44} {after - before:7.0f} MB, without the shared mapping")


def anonymous_memory() -> float:
    """Return the megabytes of this process that are not mapped files."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["RssAnon"].split()[0]) / 1024


def main() -> None:
    """Run all parts in separate processes, or the part that the command line names."""
    if len(sys.argv) > 1:
        {"speed": speed, "many": lambda: many_values("1g"), "lookups": lookups}[sys.argv[1]]()
        return
    cores, memory = os.cpu_count(), os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    print(f"{platform.machine()}, {cores} cores, {memory:.0f} GiB, Python {platform.python_version()}")
    for part in ("speed", "many", "lookups"):
        shutil.rmtree(FOLDER / "out", ignore_errors=True)
        subprocess.run([sys.executable, __file__, part], check=True)


if __name__ == "__main__":
    main()
