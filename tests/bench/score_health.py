"""Measure the overhead of the safety checks: the score job, compared with tasks that only score and write."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nfm.config.settings import Config
from nfm.contract.artifact import Artifact
from nfm.contract.cells import Cells, count_cells
from nfm.contract.columns import Rows
from nfm.contract.profile import Bins, Profile, make_id_bins
from nfm.contract.values import decode_dictionary
from nfm.features.dataset import build
from nfm.scoring.output import layout
from nfm.scoring.prepare import open_all
from nfm.scoring.score import score_table
from nfm.scoring.scorer import score_batch
from nfm.scoring.tasks import Output
from nfm.table.jobs.hosts import open_model, place
from nfm.table.write import Writer
from tests.bench.features import in_turn
from tests.bench.score_model import HOME, SMALL, config, quiet_session, save_random, table

ROUNDS, TARGET = 7, 1.1


def health() -> None:
    """Score the raw table with and without health report, gates, chunks and publication, in turn."""
    spark, raw = quiet_session(), table(SMALL / 1e6)
    settings = config(raw, workdir=HOME / "health")
    if not settings.encoding_folder.exists():
        build(spark, settings)
    save_random(settings)
    _add_profile(settings, raw)
    folder = Path(settings.workdir, "bare")

    def only_score() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        artifact, scan, _ = open_all(spark, settings)
        output, placed = Output(artifact.encoding.spec.key, (), False), place(spark, artifact)
        schema = output.schema(artifact, scan.schema)

        def work(all_rows: Iterator[Rows]) -> Iterator[pa.RecordBatch]:
            writer = Writer(folder, layout(schema))
            for rows in all_rows:
                scores_NC = score_batch(open_model(placed), rows)
                columns = [decode_dictionary(rows.column(name)) for name in output.columns]
                writer.add("", pa.table([*columns, *map(pa.array, scores_NC.T)], schema=schema))
            yield pa.RecordBatch.from_pydict({"rows": [sum(file.rows for file in writer.close())]})

        read = [*output.columns, *artifact.encoding.spec.columns]
        assert sum(row.rows for row in scan.map(read, work, pa.schema([("rows", pa.int64())])).collect()) == SMALL

    ways: dict[str, Callable[[], object]] = {
        "score job": lambda: score_table(spark, settings),
        "scores only": only_score,
    }
    for way in ways.values():
        way()
    with_checks, without = in_turn(ways, SMALL, ROUNDS).values()
    print(f"health, chunks, publication: {with_checks / without:.2f} × the time (target: at most {TARGET})", flush=True)
    spark.stop()


def _add_profile(settings: Config, raw: Path) -> None:
    """Save a profile in the model, as a training does, from the rows of one file."""
    artifact = Artifact.load(settings.model_folder, verify=False)
    spec = artifact.encoding.spec
    (batch,) = pq.read_table(min(raw.glob("*.parquet"))).combine_chunks().to_batches()
    columns = artifact.encoding.encode(batch)
    scores = score_batch(artifact, batch)[:, 0].astype(np.float64)

    def count_in_cells(x: Any) -> Cells:
        values = np.asarray(x, np.float64)
        return count_cells(values, np.zeros(len(values), np.int64), 1)

    fields = {
        field.name: make_id_bins(field, np.bincount(columns[field.name], minlength=field.size).astype(float))
        for field in spec.fields
    }
    numbers = {number.name: Bins.from_cells(count_in_cells(columns[number.name])) for number in spec.numbers}
    profile = Profile(fields, numbers, "valid", (count_in_cells(scores),))
    save_random(settings, profile.save)
