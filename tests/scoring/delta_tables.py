"""Publish small tables as Delta tables without Spark, and read them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable

from nfm.scoring.delta.output import DeltaOutput
from nfm.scoring.delta.publication import DeltaPublication
from nfm.table.write import WrittenFile

SCHEMA = pa.schema([("id", pa.int64()), ("score", pa.float32())])
FACTS = {
    **dict.fromkeys(("name", "task", "model", "source", "created"), "x"),
    **dict.fromkeys(("model_fingerprint", "encoding_fingerprint"), "ab12"),
}


def write_files(folder: Path, tables: Mapping[str, Sequence[pa.Table]]) -> list[WrittenFile]:
    """Write files as tasks do; `tables` are the tables of each folder of the output."""
    folder.mkdir(exist_ok=True)
    files = []
    for name, members in tables.items():
        for table in members:
            path = folder / f"{uuid4().hex}.parquet"
            pq.write_table(table, path)
            files.append(WrittenFile(name, str(path), len(table), path.stat().st_size))
    return files


def scores(ids: Sequence[int], score: float, **more: pa.Array) -> pa.Table:
    columns = {"id": pa.array(ids, pa.int64()), "score": pa.array([score] * len(ids), pa.float32())}
    return pa.table({**columns, **more})


def start(output: Path, schema: pa.Schema = SCHEMA, partition_by: Sequence[str] = ()) -> DeltaPublication:
    return DeltaPublication(DeltaOutput.at(output), schema, partition_by)


def finish(publication: DeltaPublication, output: Path, *tables: pa.Table, **folders: pa.Table) -> int:
    """Publish tables in the output itself, or with keyword arguments in its folders; return the version."""
    members = {"": tables} if tables else {name: [table] for name, table in folders.items()}
    files = write_files(DeltaOutput.at(output).table.parent / "chunks", members)
    report = {**FACTS, "publication": uuid4().hex[:16], "rows": sum(file.rows for file in files)}
    return publication.publish(files, report)


def publish(output: Path, *tables: pa.Table) -> int:
    return finish(start(output, tables[0].schema if tables else SCHEMA), output, *tables)


def read(table: Path, version: int | None = None) -> Counter[tuple[Any, ...]]:
    """Return the rows of a version."""
    rows = DeltaTable(str(table), version=version).to_pyarrow_table()
    names = sorted(rows.column_names)
    return Counter(tuple(row[name] for name in names) for row in rows.to_pylist())
