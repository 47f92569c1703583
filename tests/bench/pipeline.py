"""Measure how fast batches are read from the dataset, without a model, and the memory of an epoch by dataset size.

Run it with `PYTHONPATH=. python tests/bench/pipeline.py` (about a minute on two cores). The files are like those of the
feature job: ten int32 fields, dictionary-encoded, uncompressed, row groups of 131,072 rows. Each case runs in its own
process; its peak resident memory includes TensorFlow.
"""

import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nfm.contract.schema import DATASET_MARKER, Field, Spec

FOLDER = Path("build/bench/pipeline")
SIZES = np.geomspace(10, 200_000, 10).round().astype(int).tolist()
SPEC = Spec(("id",), tuple(Field(f"C{i}", (f"C{i}",), ("text",), 1, n, f"C{i}") for i, n in enumerate(SIZES)), (), ())
ROW_GROUP = 1 << 17
FILE_ROWS = 16 * ROW_GROUP  # about 60 MB
FEW, MANY = 2_000_000, 20_000_000


def write(folder: Path, rows: int, spec: Spec = SPEC, exponent: float = 1.3) -> Path:
    """Write a dataset with `rows` train rows, unless it exists. Ids follow Zipf's law; exponent 0: uniform."""
    marker = folder / DATASET_MARKER
    if marker.exists():
        return folder
    train = folder / "fold=train"
    train.mkdir(parents=True, exist_ok=True)
    cumulative = [
        np.cumsum(p / p.sum()) for p in (np.arange(1.0, field.values + 1) ** -exponent for field in spec.fields)
    ]
    rng = np.random.default_rng(7)
    for i, start in enumerate(range(0, rows, FILE_ROWS)):
        end = min(start + FILE_ROWS, rows)
        writer = None
        for at in range(start, end, ROW_GROUP):
            n = min(ROW_GROUP, end - at)
            columns = {"id": pa.array(np.arange(at, at + n))}
            columns |= {"label": pa.array((rng.random(n) < 0.2).astype(np.float32))}
            columns |= {"weight": pa.array(np.ones(n, np.float32))}
            for name, chances in zip(spec.outputs, cumulative, strict=True):
                ids = 2 + np.minimum(np.searchsorted(chances, rng.random(n)), len(chances) - 1)
                columns[name] = pa.array(np.where(rng.random(n) < 0.03, 0, ids).astype(np.int32))
            table = pa.table(columns)
            if writer is None:
                writer = pq.ParquetWriter(
                    train / f"part-{i:05d}.parquet",
                    table.schema,
                    use_dictionary=[*spec.outputs, "label", "weight"],
                    compression="none",
                )
            writer.write_table(table, row_group_size=ROW_GROUP)
        if writer is not None:
            writer.close()
    facts = {"encoding_fingerprint": spec.fingerprint, "rows": {"train": rows, "valid": 0, "test": 0}}
    marker.write_text(json.dumps(facts))
    return folder


def epoch(folder: Path, size: int, kept: bool) -> None:
    """Iterate two epochs, and print the figures of the second; runs in a separate process."""
    import tensorflow  # noqa: F401 (a training has it in memory, too)

    from nfm.training.data import batches as data

    if not kept:
        data.KEPT_BYTES = 0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    fold = data.read_folds(folder, SPEC)["train"]
    for i in range(2):
        started, used, rows, first = time.perf_counter(), time.process_time(), 0, 0.0
        for batch in fold.batches(size, seed=1, epoch=i):
            first = first or time.perf_counter() - started
            rows += len(batch.label)
        seconds, used = time.perf_counter() - started, time.process_time() - used
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    assert rows == fold.rows
    how = "kept in memory" if kept else "from the files"
    print(f"{rows / 1e6:4.0f} M rows, batches of {size:>5}, {how}:  {rows / seconds / 1e6:5.2f} M rows/s", end="  ")
    print(f"{rows / used / 1e6:5.2f} M rows per core-second  first batch after {first:4.2f} s", end="  ")
    print(f"peak memory {peak:5.0f} MB, including TensorFlow's {before:.0f} MB", flush=True)


def main() -> None:
    """Run all cases in separate processes; with arguments, run one."""
    if len(sys.argv) > 1:
        epoch(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "kept")
        return
    cores, memory = os.cpu_count(), os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    print(f"{platform.machine()}, {cores} cores, {memory:.0f} GiB, Python {platform.python_version()}", flush=True)
    few, many = write(FOLDER / "few", FEW), write(FOLDER / "many", MANY)
    for folder, size, how in (
        (few, 4096, "kept"),
        (few, 4096, "files"),
        (few, 256, "files"),
        (many, 4096, "files"),
    ):
        subprocess.run([sys.executable, __file__, str(folder), str(size), how], check=True)
    shutil.rmtree(FOLDER)


if __name__ == "__main__":
    main()
