"""Scoring task: reads the rows of a split, writes files of scores and tallies its rows.

Tasks write the files themselves, so that no row goes back through Spark. A file and its tally count only when the task
has ended and reported both: a task that is retried, or runs twice at once, counts once.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from nfm.contract.arrays import null_mask, to_arrow
from nfm.contract.artifact import Artifact
from nfm.contract.columns import Rows
from nfm.contract.errors import DataError
from nfm.contract.values import decode_dictionary
from nfm.scoring.chunks import Chunk
from nfm.scoring.health.tally import Tally
from nfm.scoring.keys import KeyWriter
from nfm.scoring.reasons import reason_columns
from nfm.scoring.scorer import explain_batch, score_columns
from nfm.table.folders import add_by_folder, folder_texts
from nfm.table.parquet.files import RowGroup
from nfm.table.write import Writer


@dataclass(frozen=True)
class Output:
    """Contents of the files that tasks write."""

    columns: tuple[str, ...]  # from the table, in this order; the scores follow
    partition_by: tuple[str, ...]  # columns that are in the folders' names instead of the files
    encoded: bool  # the table is a dataset
    explain: int = 0  # reasons for each row, after its scores
    key: tuple[str, ...] = ()  # of `columns`: those in which duplicates are counted; empty: duplicates are not counted
    folders: tuple[str, ...] = ()  # of `key`: those in which an empty text is null, as in the names of folders
    renamed: Mapping[str, str] = field(default_factory=dict)  # of `columns`: those with another name in the table

    @property
    def carried(self) -> tuple[str, ...]:
        """Columns that go into the files."""
        return tuple(name for name in self.columns if name not in self.partition_by)

    def in_table(self, name: str) -> str:
        """Return the name that one of `columns` has in the table."""
        return self.renamed.get(name, name)

    def schema(self, artifact: Artifact, table: pa.Schema) -> pa.Schema:
        """Return the schema of the files; its metadata identifies the model."""
        carried = [(name, table.field(self.in_table(name)).type) for name in self.carried]
        scores = [(name, pa.float32()) for name in score_columns(artifact.network)]
        fingerprints = {
            "model_fingerprint": artifact.fingerprint,
            "encoding_fingerprint": artifact.encoding.spec.fingerprint,
        }
        return pa.schema([*carried, *scores, *reason_columns(self.explain)], {"nfm": json.dumps(fingerprints)})


def score_rows(
    number: int, all_rows: Iterable[Rows], artifact: Artifact, output: Output, schema: pa.Schema, writer: Writer
) -> Chunk:
    """Score the rows of one split and write them. Does not need Spark."""
    tally, keys = Tally(), KeyWriter(writer.folder)
    for rows in all_rows:
        try:
            scores_NC, reasons = explain_batch(artifact, rows, output.explain, output.encoded, tally)
        except DataError as error:
            if isinstance(rows, RowGroup) and rows.path not in str(error):
                raise DataError(f"{error} It is in {rows.path}.") from error
            raise
        if isinstance(rows, RowGroup):
            tally.merge(Tally(read={rows.path: (rows.num_rows, rows.rows_of_file)}))
        columns = {name: rows.column(output.in_table(name)) for name in output.columns}
        # Depending on its settings, Spark sends texts as large_string.
        carried = [decode_dictionary(columns[name]).cast(schema.field(name).type) for name in output.carried]
        table = pa.table([*carried, *map(to_arrow, scores_NC.T), *reasons], schema=schema)
        partitions = {name: columns[name] for name in output.partition_by}
        if output.key:
            key = [folder_texts(columns[n], n) if n in output.folders else table[n].chunk(0) for n in output.key]
            keys.add(key)
            has_null = np.logical_or.reduce([null_mask(values) for values in key])
            tally.null_keys += int(np.count_nonzero(has_null))
        add_by_folder(writer, table, [""], np.zeros(rows.num_rows, np.int8), partitions, "score.partition_by")
    return Chunk(number, tally, writer.close(), keys.close())
