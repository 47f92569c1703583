"""What a task does: its rows → files of scores, and a tally of what they were like.

Tasks write the files themselves, so that no row goes back through Spark. A file and its tally count only once the task
has ended and told of both: one that is tried again, or run twice at once, counts once.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nfm.contract.artifact import Artifact
from nfm.contract.columns import Rows
from nfm.contract.values import decoded
from nfm.scoring.explain import reason_columns
from nfm.scoring.scorer import explain_batch, score_columns
from nfm.table.folders import add_by_folder
from nfm.table.parquet import RowGroup
from nfm.table.write import FILES, FILES_DDL, Writer, told

TOLD_DDL = f"{FILES_DDL}, tally string"


@dataclass
class Tally:
    """Of N rows and C scores."""

    rows: int = 0
    counts: list[int] = field(default_factory=list)  # as `count_names` lists them
    not_finite: int = 0  # rows
    low: list[float] = field(default_factory=list)  # (C,)
    high: list[float] = field(default_factory=list)  # (C,)
    total: list[float] = field(default_factory=list)  # (C,)
    read: dict[str, tuple[int, int]] = field(default_factory=dict)  # by file: rows read, and all that it has

    def add(self, scores_NC: NDArray[np.float32], counts: NDArray[np.int64]) -> None:
        """One more batch."""
        if len(scores_NC):
            finite = np.isfinite(scores_NC).all(axis=1)
            scores = scores_NC[finite].astype(np.float64)
            some = len(scores) > 0
            self.merge(
                Tally(
                    len(scores_NC),
                    counts.tolist(),
                    int(np.count_nonzero(~finite)),
                    scores.min(axis=0).tolist() if some else [],
                    scores.max(axis=0).tolist() if some else [],
                    scores.sum(axis=0).tolist(),
                )
            )

    def merge(self, other: Self) -> None:
        """The rows of another one as well."""
        self.rows, self.not_finite = self.rows + other.rows, self.not_finite + other.not_finite
        self.counts = _each(np.add, self.counts, other.counts)
        self.low, self.high = _each(np.minimum, self.low, other.low), _each(np.maximum, self.high, other.high)
        self.total = _each(np.add, self.total, other.total)
        for path, (rows, has) in other.read.items():
            self.read[path] = (self.read.get(path, (0, 0))[0] + rows, has)


def _each(join: Any, ours: Sequence[Any], theirs: Sequence[Any]) -> list[Any]:
    """Nothing has been seen of what is empty."""
    if not ours or not theirs:
        return list(ours or theirs)
    joined: list[Any] = join(np.array(ours), np.array(theirs)).tolist()
    return joined


@dataclass(frozen=True)
class Output:
    """What the tasks write."""

    columns: tuple[str, ...]  # of the table, in this order; the scores follow
    partition_by: tuple[str, ...]  # those of the columns that stand in folders' names instead
    encoded: bool  # the table is a dataset
    explain: int = 0  # reasons a row, behind its scores

    @property
    def carried(self) -> tuple[str, ...]:
        """Columns that go into the files."""
        return tuple(name for name in self.columns if name not in self.partition_by)

    def schema(self, artifact: Artifact, table: pa.Schema) -> pa.Schema:
        """Of the files, given the table's columns; its metadata name the model."""
        carried = [(name, table.field(name).type) for name in self.carried]
        scores = [(name, pa.float32()) for name in score_columns(artifact.network)]
        prints = {
            "model_fingerprint": artifact.fingerprint,
            "encoding_fingerprint": artifact.encoding.spec.fingerprint,
        }
        return pa.schema([*carried, *scores, *reason_columns(self.explain)], {"nfm": json.dumps(prints)})


def score_rows(
    all_rows: Iterable[Rows], artifact: Artifact, output: Output, schema: pa.Schema, writer: Writer
) -> Iterator[pa.RecordBatch]:
    """Score one task's rows into a writer; needs no Spark. Yields what the driver is told, as `TOLD_DDL` says."""
    tally = Tally()
    for rows in all_rows:
        scores_NC, counts, reasons = explain_batch(artifact, rows, output.explain, output.encoded)
        tally.add(scores_NC, counts)
        if isinstance(rows, RowGroup):
            tally.merge(Tally(read={rows.path: (rows.num_rows, rows.rows_of_file)}))
        # Spark's settings may have it send texts as large ones.
        carried = [decoded(rows.column(name)).cast(schema.field(name).type) for name in output.carried]
        table = pa.table([*carried, *map(pa.array, scores_NC.T), *reasons], schema=schema)
        partitions = {name: rows.column(name) for name in output.partition_by}
        everywhere = np.zeros(rows.num_rows, np.int8)
        add_by_folder(writer, table, [""], everywhere, partitions, "score.partition_by")
    batch = told(writer.close())
    rest: Mapping[str, Any] = dict.fromkeys(FILES.names)
    files = [{**row, "tally": None} for row in batch.to_pylist()]
    yield pa.RecordBatch.from_pylist(
        [*files, {**rest, "tally": json.dumps(vars(tally))}], pa.schema([*FILES, ("tally", pa.string())])
    )
