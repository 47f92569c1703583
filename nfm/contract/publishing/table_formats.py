"""Recognize tables that are more than their files: Delta, Iceberg, Hudi, and the output of a Spark stream.

Their folders also contain files of old versions and of failed writes; a log lists the files of the table. Read as plain
files, such a table has rows twice, and deleted rows.
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

DELTA_LOG = "_delta_log"  # folder with the log of a Delta table
STREAM = "stream"
_STREAM_LOG = "_spark_metadata"
_HUDI_SETTINGS = ".hoodie/hoodie.properties"
_ICEBERG_FOLDER = "metadata"
_ICEBERG_FILE = re.compile(r"(v\d+|\d+-[0-9a-f-]{36})(\.\w+)?\.metadata\.json(\.\w+)?")
_PACKAGES: dict[str, tuple[str, tuple[str, ...]]] = {  # format → Spark's package, and settings of Spark
    "delta": (
        "io.delta:delta-spark_2.13:VERSION",
        (
            "sql.extensions=io.delta.sql.DeltaSparkSessionExtension",
            "sql.catalog.spark_catalog=org.apache.spark.sql.delta.catalog.DeltaCatalog",
        ),
    ),
    "iceberg": ("org.apache.iceberg:iceberg-spark-runtime-SPARK_2.13:VERSION", ()),
    "hudi": (
        "org.apache.hudi:hudi-sparkSPARK-bundle_2.13:VERSION",
        ("serializer=org.apache.spark.serializer.KryoSerializer",),
    ),
}
FORMATS = tuple(_PACKAGES)


class FoundTable(NamedTuple):
    """A table that files belong to."""

    format: str  # of Spark: delta, iceberg, hudi; or STREAM
    folder: str

    def __str__(self) -> str:
        """Return a name for messages."""
        kind = "the output of a Spark stream" if self.format == STREAM else f"a table in {self.format.title()} format"
        return f"{self.folder}, which is {kind}"

    @property
    def how_to_read(self) -> str:
        """How to read the table's current rows, as sentences."""
        if self.format == STREAM:
            return (
                f"Spark reads the stream's log only if it reads the whole folder: set source.path: {self.folder} (or "
                "score.source.path), and select rows with source.where."
            )
        package, settings = _PACKAGES[self.format]
        with_nfm = " ".join([f"jars.packages={package}", *settings])
        with_submit = " ".join([f"--packages {package}", *(f"--conf spark.{setting}" for setting in settings)])
        return (
            f"Set source.format: {self.format} and source.path: {self.folder} (or score.source.…), select a partition "
            f"with source.where, and give Spark the package: --spark {with_nfm} (spark-submit {with_submit}). Or write "
            "the table's current rows into another folder as Parquet files, and read these."
        )


def find_table(
    folders: Iterable[str], look: Callable[[str], str | None], formats: Iterable[str] = FORMATS
) -> FoundTable | None:
    """Return a table that files in these folders belong to; `look` returns the format of the table in one folder."""
    allowed, known = set(formats), dict[str, str | None]()
    for start in sorted(set(folders)):
        for folder, child in ancestors(start):
            if folder not in known:
                known[folder] = look(folder)
            found = known[folder]
            if found in allowed and not (found == "iceberg" and child == _ICEBERG_FOLDER):
                return FoundTable(str(found), folder)
    return None


def ancestors(folder: str) -> Iterator[tuple[str, str]]:
    """Yield a folder and those above it, each with the name below; end at a name that readers of tables ignore."""
    child = ""
    while folder and not folder.endswith(":/"):
        yield folder, child
        folder, _, child = folder.rpartition("/")
        if is_ignored(child):
            return


def is_ignored(name: str) -> bool:
    """Return whether Spark and readers of table formats ignore files and folders of this name."""
    return name.startswith(".") or (name.startswith("_") and "=" not in name)


def look_on_disk(folder: str) -> str | None:
    """Return the format of the table in a folder; None if there is no table."""
    return look(folder, os.path.exists, _list_names)


def look(folder: str, exists: Callable[[str], bool], list_names: Callable[[str], Iterable[str]]) -> str | None:
    """Return the format of the table in a folder, found with these functions; None if there is no table."""
    if exists(f"{folder}/{DELTA_LOG}"):
        return "delta"
    if exists(f"{folder}/{_HUDI_SETTINGS}"):
        return "hudi"
    if exists(f"{folder}/{_STREAM_LOG}"):
        return STREAM
    metadata = f"{folder}/{_ICEBERG_FOLDER}"
    # Other tables may have a folder of this name.
    if exists(metadata) and any(_ICEBERG_FILE.fullmatch(name) for name in list_names(metadata)):
        return "iceberg"
    return None


def _list_names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208 (names only)
    except OSError:  # a file, or not readable
        return []
