"""Measure the cost of counting duplicate keys: CPU seconds of the score job with and without, in turn.

`PYTHONPATH=. python tests/bench/score_keys.py [MILLION_ROWS] [ROUNDS]`; docs/performance.md contains the results.
"""

import os
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyspark.sql import SparkSession

from nfm.config.settings import Config
from nfm.features.dataset import build
from nfm.scoring.score import score_table
from tests.bench.features import FOLDER
from tests.bench.score_model import quiet_session, save_random
from tests.bench.table import write

KEYS = {"int64": ("id",), "text": ("name",), "two columns": ("id", "day")}
FILE_ROWS = 500_000


def cpu_seconds() -> float:
    """Return the CPU seconds of this process and of all that it started."""
    children: dict[int, list[int]] = {}
    times = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        children.setdefault(int(fields[1]), []).append(int(path.parent.name))
        times[int(path.parent.name)] = sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    total, waiting = 0.0, [os.getpid()]
    while waiting:
        process = waiting.pop()
        total += times.get(process, 0.0)
        waiting += children.get(process, [])
    return total


def write_keys(folder: Path, rows: int) -> Path:
    """Write the benchmarks' table with three more columns for keys, which are unique."""
    if (folder / "_done").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    base = pq.read_table(write(FOLDER / "raw-keys", FILE_ROWS))
    for start in range(0, rows, FILE_ROWS):
        numbers = np.arange(start, start + FILE_ROWS) * 7919 % 2**40
        name = pc.binary_join_element_wise("customer-", pa.array(numbers).cast(pa.string()), "")
        table = base.set_column(base.schema.get_field_index("id"), "id", pa.array(numbers))
        day = pa.array((numbers % 1000).astype(np.int32)).cast(pa.date32())
        pq.write_table(table.append_column("name", name).append_column("day", day), folder / f"{start:09}.parquet")
    (folder / "_done").touch()
    return folder


def main(rows: int, rounds: int) -> None:
    """Print the CPU seconds of each run, and the medians."""
    raw, spark = write_keys(FOLDER / f"keys-{rows}", rows), quiet_session()
    for name, key in KEYS.items():
        seconds: dict[bool, list[float]] = {True: [], False: []}
        content = {
            "name": "keys",
            "workdir": str(FOLDER / f"keys-{name.replace(' ', '-')}"),
            "source": {"path": str(raw / "000000000.parquet")},
            "columns": {"key": key, "label": "label", "categorical": {f"C{i}": {} for i in range(1, 11)},
                        "numeric": {f"I{i}": {"as": "dense"} for i in range(1, 4)}},
            "split": {"by": ("id",)},
        }  # fmt: skip
        if not Config.model_validate(content).encoding_folder.exists():
            build(spark, Config.model_validate(content))
        save_random(Config.model_validate(content))
        for i in range(2 * rounds + 1):  # the first run warms up
            counted = i % 2 == 0
            score = {"source": {"path": str(raw)}, "count_duplicate_keys": counted}
            seconds_of = measure(spark, Config.model_validate(content | {"score": score}))
            if i:
                seconds[counted].append(seconds_of)
        on, off = (float(np.median(seconds[counted])) for counted in (True, False))
        print(f"{name:<12} with {on:.1f} s, without {off:.1f} s: {on - off:+.1f} s ({on / off - 1:+.1%})", seconds)


def measure(spark: SparkSession, config: Config) -> float:
    """Return the CPU seconds of a score job."""
    before = cpu_seconds()
    report = score_table(spark, config)
    assert (report["duplicate_keys"] or {"keys": 0})["keys"] == 0
    return cpu_seconds() - before


if __name__ == "__main__":
    main(
        int(float(sys.argv[1]) * 1e6) if len(sys.argv) > 1 else 5_000_000, int(sys.argv[2]) if len(sys.argv) > 2 else 3
    )
