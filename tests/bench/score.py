"""Speed of the score job, compared with a hand-written script and Spark's parts; memory of a worker; growth.

Run it with `make bench-score` (about 20 minutes on two cores); or one of its parts, `prepare` first:
`PYTHONPATH=. python tests/bench/score.py raw`. The ways are measured in turn in one warm session, without the
JVM's start. docs/performance.md contains the results.
"""

import os
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from pydantic import ValidationError

from nfm.contract.encoder import Encoding
from nfm.scoring.score import score_table
from tests.bench.features import FOLDER, in_turn, timed
from tests.bench.score_curves import curves, rows
from tests.bench.score_explain import explain
from tests.bench.score_forward import forward
from tests.bench.score_health import health
from tests.bench.score_memory import wide, worker
from tests.bench.score_model import HOME, SMALL, config, indexer, prepare, quiet_session, table
from tests.bench.score_parts import (
    BATCHES,
    encoded,
    indexed,
    keras_function,
    script_difference,
    torch_script,
    write,
    write_zeros,
)
from tests.bench.table import write as write_table

ROUNDS = int(os.environ.get("ROUNDS", "3"))


def compare(what: str, slow: float, fast: float, target: float, at_most: bool = False) -> None:
    """Print a ratio beside what is wanted."""
    print(f"{what:<48} {slow / fast:7.2f} × (wanted: at {'most' if at_most else 'least'} {target:g})", flush=True)


def best_batch(run: Callable[[int, bool], object]) -> int:
    """The batch size with which Keras is fastest; leaves the workers warm.

    Args:
        run: takes a size, and whether it is only to warm up the workers.
    """
    seconds = {}
    for size in BATCHES:
        run(size, True)
        seconds[size] = timed(lambda size=size: run(size, False))  # type: ignore[misc]
    text = ", ".join(f"{size}: {s:.1f} s" for size, s in seconds.items())
    print(f"batches of predict_batch_udf, half a million rows: {text}", flush=True)
    return min(seconds, key=lambda size: seconds[size])


def raw() -> None:
    """Compare on the raw table: both scans, the script, Spark's parts, and a function that does nothing."""
    spark, source = quiet_session(), table(SMALL / 1e6)
    fitted, functions = indexer(), {size: keras_function(size) for size in BATCHES}

    def parts(of: Path, size: int, tasks: int = 0) -> None:
        read = spark.read.parquet(str(of))
        ready = indexed(read.repartition(tasks) if tasks else read, fitted)
        write(ready, functions[size](ready["row"]))

    warm, tried = write_table(FOLDER / "raw-warm", 50_000), table(0.5)
    for _ in range(2):
        for scan in ("auto", "spark"):
            score_table(spark, config(warm, scan))
        write_zeros(spark, warm)
    best = best_batch(lambda size, only_warm: parts(warm, size, 2) if only_warm else parts(tried, size))
    with torch_script(source) as by_script:
        by_script()
        ways: dict[str, Callable[[], object]] = {
            "score job, scan: auto": lambda: score_table(spark, config(source)),
            "hand-written script: pyarrow and torch": by_script,
            "score job, scan: spark": lambda: score_table(spark, config(source, "spark")),
            f"StringIndexer + predict_batch_udf({best})": lambda: parts(source, best),
            "pandas function of the columns that returns 0": lambda: write_zeros(spark, source),
        }
        auto, script, through_spark, of_parts, zeros = in_turn(ways, SMALL, ROUNDS).values()
    difference = script_difference()
    print(f"largest difference between the scores of the script and of the job: {difference:.1e}", flush=True)
    assert difference < 1e-4
    compare("scan: auto, as fast as the script", script, auto, 1)
    compare("scan: auto, as fast as Spark's parts", of_parts, auto, 5)
    compare("scan: auto, as fast as the function", zeros, auto, 4)
    compare("scan: spark, as fast as Spark's parts", of_parts, through_spark, 1)
    compare("scan: spark, time of the function's", through_spark, zeros, 1.3, at_most=True)
    spark.stop()


def of_dataset() -> None:
    """The encoded table, as the feature job wrote it."""
    spark, dataset = quiet_session(), HOME / "dataset"
    names = Encoding.load(HOME / "encoding").spec.outputs
    functions = {size: keras_function(size) for size in BATCHES}

    def parts(size: int, share: float = 1, tasks: int = 0) -> None:
        read = spark.read.parquet(str(dataset))
        read = read.limit(round(share * SMALL)).repartition(tasks) if tasks else read
        ready = encoded(read, names)
        write(ready, functions[size](ready["row"]))

    best = best_batch(lambda size, only_warm: parts(size, 0.01 if only_warm else 0.25, 2))
    ways: dict[str, Callable[[], object]] = {f"encoded: predict_batch_udf({best})": lambda: parts(best)}
    try:
        settings = config(table(SMALL / 1e6), encoded=True, source={"path": str(dataset)})
    except ValidationError:
        print("encoded: the score job does not read the dataset (score.encoded is no setting): left out")
        in_turn(ways, SMALL, ROUNDS)
        return
    for _ in range(2):
        score_table(spark, settings)
    of_parts, ours = in_turn(
        ways | {"encoded: score job": lambda: score_table(spark, settings)}, SMALL, ROUNDS
    ).values()
    compare("encoded: as fast as predict_batch_udf", of_parts, ours, 4)
    spark.stop()


PARTS: Mapping[str, Callable[[], None]] = {
    "prepare": prepare,
    "raw": raw,
    "encoded": of_dataset,
    "forward": forward,
    "explain": explain,
    "health": health,
    "worker": worker,
    "wide": wide,
    "rows": rows,
    "curves": curves,
}


def main() -> None:
    """Each part in a process of its own: all of them, or those that the command line names."""
    if sys.argv[1:2] == ["--here"]:
        PARTS[sys.argv[2]]()
        return
    cores, memory = os.cpu_count(), os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    print(f"{platform.machine()}, {cores} cores, {memory:.0f} GiB, Python {platform.python_version()}", flush=True)
    for part in sys.argv[1:] or PARTS:
        one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1") if part == "forward" else {}
        environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "2"} | one_thread
        subprocess.run([sys.executable, __file__, "--here", part], check=True, env=environment)


if __name__ == "__main__":
    main()
