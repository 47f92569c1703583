"""Output formats of the score job (`score.format`).

Tasks write Parquet files. A new format needs its name in `config.score.Score.format`, and a case in each
function here in which it differs from Parquet.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from pyspark.sql import SparkSession

from nfm.config.score import Score
from nfm.contract.errors import ConfigError
from nfm.contract.publishing.publish import check_replaceable, publication_id, staged, staging_folder
from nfm.scoring.delta.output import DeltaOutput
from nfm.scoring.delta.publication import DeltaPublication
from nfm.scoring.health.page import REPORT, SCORES_MARKER, write_report
from nfm.table.tasks import run_tasks
from nfm.table.write import FILES, WrittenFile, collect_files, file_batch, move_into_place

Publish = Callable[[Sequence[WrittenFile], Mapping[str, Any]], None]  # publishes files with their report


def check_installed(format_: str) -> None:
    """Raise a ConfigError if a package that the format needs is missing."""
    if format_ == "delta" and find_spec("deltalake") is None:
        raise ConfigError("score.format: 'delta' given, but its package is missing: pip install deltalake")


def unsupported(format_: str, type_: pa.DataType) -> str | None:
    """Return None if a format can contain columns of this type, else a phrase for the types that it accepts."""
    if format_ == "csv":
        flat = not pa.types.is_nested(type_) and not pa.types.is_duration(type_)
        return None if flat else "every type except lists, structs, maps and intervals"
    parts = list(_nested_types(type_))
    allowed = not any(pa.types.is_duration(part) or part == pa.struct([]) for part in parts)
    if format_ == "delta":
        allowed &= not any(pa.types.is_null(part) or pa.types.is_time(part) for part in parts)
        return None if allowed else "every type except intervals, times of day, void and empty structs"
    return None if allowed else "every type except intervals and empty structs"


def _nested_types(type_: pa.DataType) -> Iterator[pa.DataType]:
    yield type_
    for i in range(type_.num_fields):
        yield from _nested_types(type_.field(i).type)


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


def check_output(format_: str, output: Path) -> None:
    """Raise DataError if the job may not write this output: another program wrote it, or added files to it."""
    if format_ == "delta":
        DeltaOutput.at(output).check()
    else:
        check_replaceable(output, SCORES_MARKER)


@contextmanager
def publishing(settings: Score, output: Path, schema: pa.Schema) -> Iterator[tuple[Path, Publish]]:
    """Yield a staging folder for the run's files, and the function that publishes files of this schema.

    The output must be `locked`. A folder is replaced when the block ends; a Delta table has a new version when the
    function returns, and then its report.
    """
    if settings.format != "delta":
        with staged(output, SCORES_MARKER) as staging:

            def fill(files: Sequence[WrittenFile], report: Mapping[str, Any]) -> None:
                move_into_place(files, staging, publication_id(staging))
                write_report(staging, report)

            yield staging, fill
        return
    table = DeltaOutput.at(output)
    publication = DeltaPublication(table, schema, settings.partition_by)
    with staging_folder(output) as staging:

        def commit(files: Sequence[WrittenFile], report: Mapping[str, Any]) -> None:
            version = publication.publish(files, report)
            write_report(staging, {**report, "delta_version": version})
            table.report_folder.mkdir(parents=True, exist_ok=True)
            for name in (REPORT, SCORES_MARKER):
                (staging / name).replace(table.report_folder / name)

        yield staging, commit


def describe_output(format_: str, output: Path) -> str:
    """Return what a run replaces, for --plan."""
    return str(DeltaOutput.at(output)) if format_ == "delta" else f"{output} ({format_})"


def report_folder(format_: str, output: Path) -> Path:
    """Return the folder of the report of an output."""
    return DeltaOutput.at(output).report_folder if format_ == "delta" else output


def partition_columns(format_: str, output: Path) -> list[str]:
    """Return the columns of the output whose values are in its path: ds of scores/ds={ds} in a Delta table."""
    return list(DeltaOutput.at(output).partition) if format_ == "delta" else []
