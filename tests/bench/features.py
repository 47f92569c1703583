"""How fast the feature job is, beside a plain copy of the table and Spark ML; and what a large vocabulary costs.

Run it with `make bench-features` (about 12 minutes on two cores). What is compared is measured in turn, in one warm
session; the JVM's start is not counted. docs/performance.md has the results.
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
    """The feature job on the benchmark's table, all settings at their defaults."""
    columns = {
        "key": ("id",),
        "label": "label",
        "categorical": {name: {} for name in FIELDS},
        "numeric": {name: {} for name in NUMBERS},
    }
    source = {"path": str(table), "scan": scan}
    return Config.model_validate({"name": "bench", "workdir": str(workdir), "source": source, "columns": columns})


def timed(work: Callable[[], object]) -> float:
    """Seconds."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def in_turn(ways: Mapping[str, Callable[[], object]], rows: int, rounds: int) -> dict[str, float]:
    """Time each way in each round, print them; returns the medians in seconds."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            seconds[name].append(timed(way))
    for name, each in seconds.items():
        median = statistics.median(each)
        shown = ", ".join(f"{s:.1f}" for s in each)
        print(f"{name:<48} {median:7.1f} s {rows / median / 1000:8.0f} k rows/s   ({shown})", flush=True)
    return {name: statistics.median(each) for name, each in seconds.items()}


def copy(spark: SparkSession, table: Path) -> None:
    """Read the table and write it again."""
    spark.read.parquet(str(table)).write.mode("overwrite").parquet(str(FOLDER / "copy"))


def spark_ml(spark: SparkSession, table: Path) -> None:
    """StringIndexer and Imputer, fitted on the whole table; transform; write."""
    raw = spark.read.parquet(str(table))
    indexed, imputed = [f"{c}_id" for c in FIELDS], [f"{c}_x" for c in NUMBERS]
    indexer = StringIndexer(inputCols=FIELDS, outputCols=indexed, handleInvalid="keep")
    stages: list[Any] = [indexer, Imputer(inputCols=NUMBERS, outputCols=imputed)]
    encoded = Pipeline(stages=stages).fit(raw).transform(raw).select("id", "label", *indexed, *imputed)
    encoded.write.mode("overwrite").parquet(str(FOLDER / "spark_ml"))


def tell(what: str, seconds: list[float], of: float | None = None) -> float:
    """Print a line; returns the median."""
    median = statistics.median(seconds)
    each = ", ".join(f"{s:.1f}" for s in seconds)
    print(f"{what:<44} {median:7.1f} s" + (f"  {median / of:5.2f} ×" if of else "") + f"   ({each})", flush=True)
    return median


os.environ.setdefault("PYSPARK_PYTHON", sys.executable)


def session(memory: str, cores: int = 2) -> SparkSession:
    """Quiet session on this number of cores."""
    builder = SparkSession.builder.master(f"local[{cores}]").config("spark.driver.memory", memory)
    for key, value in (("ui.enabled", "false"), ("ui.showConsoleProgress", "false"), ("log.level", "ERROR")):
        builder = builder.config(f"spark.{key}", value)
    return builder.getOrCreate()


def speed() -> None:
    """The tables of 2 and 8 million rows."""
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
    base = tell("2 M rows: copy", times["copy"])
    ours = tell("2 M rows: feature job, scan: parquet", times["parquet"], base)
    tell("2 M rows: feature job, scan: spark", times["spark"], base)
    print(
        f"{'2 M rows: Spark ML over the feature job':<44} {tell('2 M rows: Spark ML', times['ml'], base) / ours:.1f} ×"
    )
    print(f"{'8 M rows over 2 M rows':<44} {tell('8 M rows: feature job', times['large']) / ours:.2f} ×")


def many_values(memory: str) -> None:
    """In a process of its own: one field of ten million values."""
    spark = session(memory)
    columns = {"key": ("id",), "label": "label", "categorical": {"user": {}}}
    split = {"valid": 0.0, "test": 0.0}
    table = write_wide_vocabulary(FOLDER / "raw-many", MANY)
    content = {"name": "many", "workdir": str(FOLDER / "many"), "source": {"path": str(table)}, "columns": columns}
    content |= {"split": split, "train": {"early_stopping": None}}
    seconds = timed(lambda: build(spark, Config.model_validate(content)))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{f'10 M values, spark.driver.memory={memory}':<44} {seconds:7.1f} s   driver's Python at most {peak:.0f} MB"
    )
    spark.stop()


def lookups() -> None:
    """In a process of its own: a worker's memory before and after it has looked up many of ten million values."""
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
    print(f"{'a worker grows by':<44} {after - before:7.0f} MB beyond the shared mapping")


def anonymous_memory() -> float:
    """Megabytes of this process that are no mapped files."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["RssAnon"].split()[0]) / 1024


def main() -> None:
    """Everything, or the part that the command line names."""
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
