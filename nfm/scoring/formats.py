"""Output formats of the score job (`score.format`).

Tasks write Parquet files. A new format needs its name in `config.settings.Score.format`, and a case in each
function here in which it differs from Parquet.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote, unquote

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from pyspark.sql import SparkSession

from nfm.contract.errors import ConfigError
from nfm.table.tasks import run_tasks
from nfm.table.write import FILES, WrittenFile, collect_files, file_batch


def check_installed(format_: str) -> None:
    """Raise a ConfigError if a package that the format needs is missing."""
    if format_ == "delta" and find_spec("deltalake") is None:
        raise ConfigError("score.format: 'delta' given, but its package is missing: pip install deltalake")


def unsupported(format_: str, type_: pa.DataType) -> str | None:
    """Return None if a format can contain columns of this type, else a phrase for the types that it accepts."""
    if format_ == "csv":
        flat = not pa.types.is_nested(type_) and not pa.types.is_duration(type_)
        return None if flat else "every type except lists, structs, maps and intervals"
    allowed = not pa.types.is_duration(type_) and type_ != pa.struct([])
    return None if allowed else "every type except intervals and empty structs"


def convert_files(format_: str, spark: SparkSession, files: Sequence[WrittenFile]) -> list[WrittenFile]:
    """Convert the Parquet files that tasks wrote; the new files are in the same folder."""
    if format_ in ("parquet", "delta"):
        return list(files)
    if format_ != "csv":
        raise ValueError(f"no format is called {format_!r}")  # the settings allow no other name

    def convert(file: WrittenFile) -> Iterator[pa.RecordBatch]:
        parquet, path = pq.ParquetFile(file.path), Path(file.path).with_suffix(".csv")
        with pyarrow.csv.CSVWriter(path, parquet.schema_arrow) as writer:
            for i in range(parquet.num_row_groups):
                writer.write_table(parquet.read_row_group(i, use_threads=False))
        yield file_batch([replace(file, path=str(path), bytes=path.stat().st_size)])

    return collect_files(run_tasks(spark, files, convert, FILES))


def complete_folder(format_: str, folder: Path, partition_by: Sequence[str]) -> None:
    """Add the files of a format besides its data: for Delta the first entry of its log, which lists the data files."""
    if format_ != "delta":
        return
    from deltalake import Field, Schema, convert_to_deltalake  # an optional dependency
    from deltalake.schema import PrimitiveType

    folders = Schema([Field(name, PrimitiveType("string")) for name in partition_by]) if partition_by else None
    convert_to_deltalake(str(folder), partition_by=folders, partition_strategy="hive" if folders else None)
    # The log names files by URIs, but deltalake writes city=x/y for a folder that is called city=x%2Fy.
    paths = {unquote(name): quote(name, safe="/=") for name in (str(f.relative_to(folder)) for f in folder.rglob("*"))}
    (entry,) = (folder / "_delta_log").glob("*.json")
    actions = [json.loads(line) for line in entry.read_text().splitlines()]
    for action in actions:
        if "add" in action:
            action["add"]["path"] = paths[unquote(action["add"]["path"])]
    entry.write_text("".join(f"{json.dumps(action)}\n" for action in actions))
