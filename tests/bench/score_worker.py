"""A process that does what a scoring worker does first; prints what it took, as JSON. `score_memory.py` runs it."""

import json
import sys
import time
from pathlib import Path


def main(model: Path, rows: Path) -> None:
    """Import what a worker imports, open the model, score a small batch."""
    import pyarrow.parquet as pq
    import pyspark.worker  # noqa: F401

    import nfm.scoring.tasks
    import nfm.table.scan  # noqa: F401
    from nfm.contract.artifact import Artifact
    from nfm.scoring.scorer import score_batch

    artifact = Artifact.load(model, verify=False)
    scores = score_batch(artifact, pq.read_table(rows).to_batches()[0])
    assert len(scores)
    memory = dict(line.split(":", 1) for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:])
    megabytes = {name: int(memory[name].split()[0]) / 1024 for name in ("Private_Clean", "Private_Dirty")}
    print(json.dumps({"seconds": time.process_time(), **megabytes}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
