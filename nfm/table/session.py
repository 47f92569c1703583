"""Start the Spark session and send this package to the executors."""

import atexit
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

from py4j.protocol import Py4JError
from pyspark import SparkContext
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from nfm.contract.errors import ConfigError, NfmError
from nfm.table.java import java_home

TIME_ZONE = "spark.sql.session.timeZone"
_UTC = ("Etc/UTC", "Z", "GMT", "Etc/GMT", "+00:00", "UTC+00:00", "GMT+00:00")  # other names of UTC
# With these settings, Spark can read other rows or values from the same source.
_READ_SETTINGS = (
    TIME_ZONE,
    "spark.sql.ansi.enabled",
    "spark.sql.caseSensitive",
    "spark.sql.legacy.timeParserPolicy",
    "spark.sql.parquet.binaryAsString",
    "spark.sql.parquet.inferTimestampNTZ.enabled",
    "spark.sql.sources.partitionColumnTypeInference.enabled",
    "spark.sql.timestampType",
)
_BATCH = "spark.sql.execution.arrow.maxRecordsPerBatch"
_MEMORY = "spark.driver.memory"
_HEAP_SIZE = re.compile(r"\d+[kmgt]", re.IGNORECASE)  # values that the JVM's option -Xmx takes
# These settings take effect only when the JVM starts.
_JVM_SETTINGS = (
    _MEMORY,
    "spark.driver.extraJavaOptions",
    "spark.driver.defaultJavaOptions",
    "spark.driver.extraClassPath",
    "spark.driver.extraLibraryPath",
)
_SPARK_CONF = Path(__file__).with_name("spark_conf")  # logging, and defaults for clusters
_sent: set[str] = set()  # applications whose executors have this package


@contextmanager
def session_for(name: str, spark: SparkSession | None) -> Iterator[SparkSession]:
    """Yield `spark`, or else the running session or a new one; afterwards, undo the setting that the job changed."""
    spark = spark or _open_session(name, {})
    has_batch = spark.conf.get(_BATCH, None) is not None
    try:
        _prepare(spark)
        yield spark
    finally:
        if not has_batch:
            spark.conf.unset(_BATCH)


def start_session(name: str, settings: Mapping[str, str] = MappingProxyType({})) -> SparkSession:
    """Return the running session, or start one; settings of spark-submit and spark-defaults.conf apply.

    The time zone of a session that is started here is UTC unless it is set.

    Workers run the Python of this process unless PYSPARK_PYTHON is set. They receive this package, so that executors
    run the same code as the driver. Where neither SPARK_CONF_DIR nor SPARK_HOME is set, `spark_conf/` of this package
    configures Spark.

    Args:
        name: name of the application.
        settings: settings of Spark, such as `{"spark.driver.memory": "4g"}`.

    Raises:
        ConfigError: Spark refuses a setting, or already runs with another value.
        NfmError: there is no Java, or Spark does not start.
    """
    spark = _open_session(name, settings)
    _prepare(spark)
    return spark


def _open_session(name: str, settings: Mapping[str, str]) -> SparkSession:
    # spark-submit starts the JVM before this process.
    if "PYSPARK_GATEWAY_PORT" not in os.environ and SparkContext._gateway is None:
        if not _HEAP_SIZE.fullmatch(settings.get(_MEMORY, "1g")):  # the JVM would print lines of its own
            raise ConfigError(
                f"--spark {_MEMORY}={settings[_MEMORY]}: write an integer with a unit, for example --spark {_MEMORY}=4g"
            )
        os.environ["JAVA_HOME"] = str(java_home())
        if not os.environ.get("SPARK_HOME"):
            os.environ.setdefault("SPARK_CONF_DIR", str(_SPARK_CONF))
    else:
        _check_jvm_settings(settings)
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    builder, starts = SparkSession.builder, SparkContext._active_spark_context is None
    if starts:
        builder = builder.appName(name).config("spark.ui.showConsoleProgress", str(_is_terminal()).lower())
    for key, value in settings.items():
        builder = builder.config(key, value)
    try:
        spark = builder.getOrCreate()
        zone = spark.conf.get(TIME_ZONE, None)  # Spark checks the settings now
    except (PySparkException, Py4JError) as error:
        raise _startup_error(settings, error) from error
    _check_settings(spark, settings)
    # The machine's zone is only the default of sessions that the user started.
    if starts and zone is None:
        spark.conf.set(TIME_ZONE, "UTC")
    return spark


def read_settings(spark: SparkSession) -> dict[str, str]:
    """Return the settings with which the session reads a source, for the reports and for a comparison with training."""
    settings = {key: str(spark.conf.get(key)) for key in _READ_SETTINGS}
    return settings | ({TIME_ZONE: "UTC"} if settings[TIME_ZONE] in _UTC else {})


def _prepare(spark: SparkSession) -> None:
    """Set a larger batch than Spark's default, and send this package to the executors of a cluster."""
    context = spark.sparkContext
    if spark.conf.get(_BATCH, None) is None:
        spark.conf.set(_BATCH, "65536")  # Spark ends a batch earlier at 64 MB
    if not str(context.master).startswith("local") and context.applicationId not in _sent:
        _sent.add(context.applicationId)
        package, folder = Path(__file__).parents[1], tempfile.mkdtemp()
        atexit.register(shutil.rmtree, folder, ignore_errors=True)  # executors that start later fetch it, too
        archive = shutil.make_archive(f"{folder}/nfm", "zip", root_dir=package.parent, base_dir=package.name)
        context.addPyFile(archive)


def _check_jvm_settings(settings: Mapping[str, str]) -> None:
    running = SparkContext._active_spark_context
    for key in _JVM_SETTINGS:
        current = running.getConf().get(key) if running is not None else None
        if key in settings and settings[key] != current:
            raise ConfigError(
                f"--spark {key}={settings[key]} cannot take effect: Spark's JVM already runs"
                f"{f' with {current}' if current else ''}. Give the setting where the JVM is started: spark-submit "
                f"--conf {key}={settings[key]}"
            )


def _check_settings(spark: SparkSession, settings: Mapping[str, str]) -> None:
    """Raise ConfigError if a setting did not take effect: the session was already running, or another overrides it."""
    conf = spark.sparkContext.getConf()
    for key, value in settings.items():
        current = spark.conf.get(key, None) if key.startswith("spark.sql.") else conf.get(key)
        if current != value:
            raise ConfigError(
                f"--spark {key}={value} cannot take effect: a Spark session already runs with "
                f"{current or 'another value'}. Stop that session first, or start it with this setting"
            )
    if _MEMORY in settings:
        jvm = spark.sparkContext._jvm
        assert jvm is not None
        options = jvm.java.lang.management.ManagementFactory.getRuntimeMXBean().getInputArguments()
        if f"-Xmx{settings[_MEMORY]}" not in options:
            raise ConfigError(
                f"--spark {_MEMORY}={settings[_MEMORY]} did not take effect: the JVM has "
                f"{', '.join(option for option in options if option.startswith('-Xmx'))}. PYSPARK_SUBMIT_ARGS may "
                "override it"
            )


def _startup_error(settings: Mapping[str, str], error: Exception) -> NfmError:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = next((line for line in lines if "Exception: " in line), lines[0] if lines else type(error).__name__)
    if not settings:
        return NfmError(f"Spark did not start: {reason}")
    shown = " ".join(f"{key}={value}" for key, value in settings.items())
    return ConfigError(f"Spark did not start with --spark {shown}: {reason}")


def _is_terminal() -> bool:
    """Return whether stderr is a terminal; under spark-submit, the stderr of the parent JVM counts, too."""
    if "PYSPARK_GATEWAY_PORT" not in os.environ:
        return sys.stderr.isatty()
    try:
        parent_stderr = str(Path(f"/proc/{os.getppid()}/fd/2").readlink())
    except OSError:
        parent_stderr = ""
    return sys.stderr.isatty() or parent_stderr.startswith(("/dev/pts/", "/dev/tty"))
