"""Start as a scoring worker does, and print time and memory as JSON. `score_memory.py` runs it."""

import json
import sys
import time
from pathlib import Path


def main(model: Path, rows: Path) -> None:
    """Import the modules of a worker, open the model, score a small batch."""
    import pyarrow.parquet as pq
    import pyspark.worker  # noqa: F401

    import nfm.scoring.tasks
    import nfm.table.scan  # noqa: F401
    from nfm.contract.artifact import Artifact
    from nfm.scoring.scorer import score_batch

    artifact = Artifact.load(model, verify=False)
    scores = score_batch(artifact, pq.ParquetFile(rows).read().to_batches()[0])
    assert len(scores)
    print(json.dumps({"seconds": time.process_time(), **_memory(model)}))


def _memory(model: Path) -> dict[str, float]:
    """Return megabytes that no other process has mapped: written pages, the model's files, other files."""
    megabytes, kind = dict.fromkeys(("written", "model", "libraries"), 0.0), "libraries"
    for line in Path("/proc/self/smaps").read_text().splitlines():
        name, *values = line.split()
        if not name.endswith(":"):  # an address: another file begins
            kind = "model" if str(model.resolve()) in line else "libraries"
        elif name == "Private_Dirty:":
            megabytes["written"] += int(values[0]) / 1024
        elif name == "Private_Clean:":
            megabytes[kind] += int(values[0]) / 1024
    return megabytes


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
