"""What both Spark jobs stand on: the session, the raw table, and files that every worker of a host shares."""

import atexit
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
from py4j.protocol import Py4JJavaError
from pyspark.errors import AnalysisException, ParseException, PySparkException
from pyspark.sql import Column, DataFrame, DataFrameWriter, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import to_arrow_type
from pyspark.sql.types import StructType

from nfm.contract.errors import DataError, NfmError

if TYPE_CHECKING:  # workers import this module, and need no settings
    from nfm.config.settings import Source


_BATCH = "spark.sql.execution.arrow.maxRecordsPerBatch"


def session(name: str) -> SparkSession:
    """The running session, or a new one; spark-submit and spark-defaults.conf set everything they set elsewhere.

    Workers run the Python that runs this unless PYSPARK_PYTHON says otherwise, and get this very package, so that an
    executor never scores with other code than the driver checked.
    """
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    _check_java()
    spark = (
        SparkSession.builder.appName(name)
        .config("spark.sql.session.timeZone", "UTC")
        .config("spark.ui.showConsoleProgress", str(_terminal()).lower())
        .config("spark.sql.execution.pyspark.udf.simplifiedTraceback.enabled", "true")
        .getOrCreate()
    )
    if not spark.sparkContext.getConf().contains(_BATCH):
        spark.conf.set(_BATCH, "65536")  # Spark ends a batch earlier at 64 MB
    if not str(spark.sparkContext.master).startswith("local"):
        package, folder = Path(__file__).parents[1], tempfile.mkdtemp()
        atexit.register(shutil.rmtree, folder, ignore_errors=True)  # executors that come later fetch it too
        archive = shutil.make_archive(f"{folder}/nfm", "zip", root_dir=package.parent, base_dir=package.name)
        spark.sparkContext.addPyFile(archive)
    return spark


def _terminal() -> bool:
    """Whether somebody is watching. Under spark-submit our own output is a pipe; the JVM above us has the terminal."""
    try:
        above = str(Path(f"/proc/{os.getppid()}/fd/2").readlink())
    except OSError:
        above = ""
    return sys.stderr.isatty() or above.startswith(("/dev/pts/", "/dev/tty"))


def _check_java() -> None:
    home = os.environ.get("JAVA_HOME")
    if not (shutil.which(f"{home}/bin/java") if home else shutil.which("java")):
        where = f"JAVA_HOME is {home}, and holds no bin/java" if home else "there is no java on the PATH"
        raise NfmError(
            f"Spark needs Java 17, but {where}. Install it (Debian: apt-get install openjdk-17-jre-headless)."
        )


def load(spark: SparkSession, source: "Source", schema: StructType | str | None = None) -> DataFrame:
    """The raw table of a source as it is.

    Args:
        spark: the session.
        source: the settings; `where` is not looked at.
        schema: columns and types; without it, Spark finds them out, for which it opens a file or all of them.
    """
    if source.table is not None:
        return spark.read.options(**source.options).table(source.table)
    reader = spark.read.format(source.format).options(**source.options)
    if schema is not None:
        reader = reader.schema(schema)
    return reader.load(source.path if isinstance(source.path, str) else list(source.paths))


def arrow_schema(table: DataFrame) -> pa.Schema:
    """The types in which the table's columns reach a worker; null where Arrow has none for it."""
    fields = []
    for field in table.schema.fields:
        try:
            type_ = to_arrow_type(field.dataType, timezone="UTC")
        except PySparkException:
            type_ = pa.struct([])  # no category, no number: the encoder's check refuses it by name where it is used
        fields.append(pa.field(field.name, type_))
    return pa.schema(fields)


_OURS = re.compile(r"nfm\.[\w.]+\.(?:DataError|UnreadableFileError): (.*)")
_FILE = re.compile(r"reading file:? ?(\S.*?)[.,]?(?:\s+SQLSTATE|\.\s|\n|$)")
_CONDITION = re.compile(r"\[[A-Z0-9_.]+\] .*")


@contextmanager
def translate_spark_errors(where: str) -> Iterator[None]:
    """What Spark has to say of the user's table becomes a DataError of one line; all else passes as it is."""
    try:
        yield
    except (PySparkException, Py4JJavaError) as error:
        text = str(error)
        condition = _CONDITION.search(text)
        said = condition.group().split(" SQLSTATE")[0] if condition else text.strip().splitlines()[0]
        if ours := _OURS.findall(text):  # raised by our own code on a worker
            raise DataError(ours[-1]) from error
        if "FAILED_READ_FILE" in text:
            found = _FILE.search(text)
            raise DataError(
                f"{where} has a file that cannot be read: {found.group(1) if found else said}. Repair it or take it "
                "away, or leave such files out with on_corrupt: skip beside its path, or correct the format there if "
                "it is of another one, and run the job again."
            ) from error
        if "UNABLE_TO_INFER_SCHEMA" in text:
            raise DataError(
                f"{where} holds no file that tells its columns: it is empty, its files are (0 bytes), or Spark passes "
                "over their names (_… and .…). Correct source in the configuration, or score.source if the scores have "
                "their own."
            ) from error
        told = "DATA_SOURCE_NOT_FOUND" in text or "CANNOT_MERGE_SCHEMAS" in text
        if told or isinstance(error, AnalysisException | ParseException):
            raise DataError(
                f"{where} cannot be read: {said} Correct source in the configuration, or score.source if the "
                "scores have their own."
            ) from error
        raise


def map_rows(
    table: DataFrame,
    names: Iterable[str],
    work: Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]],
    schema: StructType | str,
) -> DataFrame:
    """`mapInArrow` over these columns. They travel in a struct: Spark would take a dot in a name for a path."""

    def unpacked(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        return work(pa.RecordBatch.from_struct_array(batch.column(0)) for batch in batches)

    return table.select(F.struct(*(column(name) for name in names)).alias("row")).mapInArrow(unpacked, schema)


def write_scratch(writer: DataFrameWriter, folder: Path) -> None:
    """Write Parquet files into a folder that every machine sees, whatever file system is Spark's default.

    They are written as we read them again, whatever the session's settings say of files' sizes and compression.
    """
    writer.option("maxRecordsPerFile", 0).option("compression", "snappy").parquet(f"file://{folder}")


def read_scratch(spark: SparkSession, folder: Path, schema: str) -> DataFrame:
    """Read what `write_scratch` has written; brackets and stars in the folder's name are just that."""
    return spark.read.schema(schema).option("__globPaths__", "false").parquet(f"file://{folder}")


def column(name: str) -> Column:
    """A column by its exact name, whatever dots or spaces it has."""
    return F.col(f"`{name.replace('`', '``')}`")
