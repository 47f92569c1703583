"""Start the Spark session and send this package to the executors."""

import atexit
import os
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

_BATCH = "spark.sql.execution.arrow.maxRecordsPerBatch"
_OF_JOBS = {
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.execution.pyspark.udf.simplifiedTraceback.enabled": "true",
}
_MEMORY = "spark.driver.memory"
# Options of the JVM: it must start with them.
_OF_THE_JVM = (
    _MEMORY,
    "spark.driver.extraJavaOptions",
    "spark.driver.defaultJavaOptions",
    "spark.driver.extraClassPath",
    "spark.driver.extraLibraryPath",
)
_CONFIGURATION = Path(__file__).with_name("spark_conf")  # logging, and defaults for clusters
_sent: set[str] = set()  # applications whose executors have this package


@contextmanager
def session_for(name: str, spark: SparkSession | None) -> Iterator[SparkSession]:
    """Use a session, the running one or a new one for one job; the job's settings of it are undone afterwards."""
    spark = spark or _open_session(name, {})
    before = {key: spark.conf.get(key, None) for key in (*_OF_JOBS, _BATCH)}
    try:
        _prepare(spark)
        yield spark
    finally:
        for key, value in before.items():
            if value is None:
                spark.conf.unset(key)
            else:
                spark.conf.set(key, value)


def start_session(name: str, settings: Mapping[str, str] = MappingProxyType({})) -> SparkSession:
    """Return the running session, or start one; settings of spark-submit and spark-defaults.conf apply.

    Workers run the Python of this process unless PYSPARK_PYTHON is set. They receive this package, so that executors
    run the same code as the driver. Where neither SPARK_CONF_DIR nor SPARK_HOME is set, `spark_conf/` of this package
    configures Spark.

    Args:
        name: of the application.
        settings: of Spark, such as `{"spark.driver.memory": "4g"}`.

    Raises:
        ConfigError: Spark refuses a setting, or already runs with another value of it.
        NfmError: there is no Java, or Spark does not start.
    """
    spark = _open_session(name, settings)
    _prepare(spark)
    return spark


def _open_session(name: str, settings: Mapping[str, str]) -> SparkSession:
    # spark-submit starts the JVM before this process.
    if "PYSPARK_GATEWAY_PORT" not in os.environ and SparkContext._gateway is None:
        os.environ["JAVA_HOME"] = str(java_home())
        if not os.environ.get("SPARK_HOME"):
            os.environ.setdefault("SPARK_CONF_DIR", str(_CONFIGURATION))
    else:
        _refuse_options_of_the_jvm(settings)
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    builder = SparkSession.builder
    if SparkContext._active_spark_context is None:
        builder = builder.appName(name).config("spark.ui.showConsoleProgress", str(_is_terminal()).lower())
    for key, value in settings.items():
        builder = builder.config(key, value)
    try:
        spark = builder.getOrCreate()
    except (PySparkException, Py4JError) as error:
        raise _not_started(settings, error) from error
    _check_settings(spark, settings)
    return spark


def _prepare(spark: SparkSession) -> None:
    """Set what every job needs, and send this package to the executors of a cluster."""
    for key, value in _OF_JOBS.items():
        spark.conf.set(key, value)
    context = spark.sparkContext
    if not context.getConf().contains(_BATCH):
        spark.conf.set(_BATCH, "65536")  # Spark ends a batch earlier at 64 MB
    if not str(context.master).startswith("local") and context.applicationId not in _sent:
        _sent.add(context.applicationId)
        package, folder = Path(__file__).parents[1], tempfile.mkdtemp()
        atexit.register(shutil.rmtree, folder, ignore_errors=True)  # executors that start later fetch it, too
        archive = shutil.make_archive(f"{folder}/nfm", "zip", root_dir=package.parent, base_dir=package.name)
        context.addPyFile(archive)


def _refuse_options_of_the_jvm(settings: Mapping[str, str]) -> None:
    running = SparkContext._active_spark_context
    for key in _OF_THE_JVM:
        now = running.getConf().get(key) if running is not None else None
        if key in settings and settings[key] != now:
            raise ConfigError(
                f"--spark {key}={settings[key]} cannot take effect: Spark's JVM already runs"
                f"{f' with {now}' if now else ''}. Give the setting where the JVM is started: spark-submit --conf "
                f"{key}={settings[key]}"
            )


def _check_settings(spark: SparkSession, settings: Mapping[str, str]) -> None:
    """Raise ConfigError for a setting that the session does not have: it was already running, or others override it."""
    conf = spark.sparkContext.getConf()
    for key, value in settings.items():
        now = spark.conf.get(key, None) if key.startswith("spark.sql.") else conf.get(key)
        if now != value:
            raise ConfigError(
                f"--spark {key}={value} cannot take effect: a Spark session already runs with "
                f"{now or 'another value'}. Stop that session first, or start it with this setting"
            )
    if _MEMORY in settings:
        jvm = spark.sparkContext._jvm
        assert jvm is not None
        options = jvm.java.lang.management.ManagementFactory.getRuntimeMXBean().getInputArguments()
        if f"-Xmx{settings[_MEMORY]}" not in options:
            raise ConfigError(
                f"--spark {_MEMORY}={settings[_MEMORY]} did not take effect: the JVM has "
                f"{', '.join(one for one in options if one.startswith('-Xmx'))}. PYSPARK_SUBMIT_ARGS may override it"
            )


def _not_started(settings: Mapping[str, str], error: Exception) -> NfmError:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = next((line for line in lines if "Exception: " in line), lines[0] if lines else type(error).__name__)
    if not settings:
        return NfmError(f"Spark did not start: {reason}")
    given = " ".join(f"{key}={value}" for key, value in settings.items())
    return ConfigError(f"Spark did not start with --spark {given}: {reason}")


def _is_terminal() -> bool:
    """Return whether errors go to a terminal; under spark-submit, those of the JVM above this process."""
    if "PYSPARK_GATEWAY_PORT" not in os.environ:
        return sys.stderr.isatty()
    try:
        above = str(Path(f"/proc/{os.getppid()}/fd/2").readlink())
    except OSError:
        above = ""
    return sys.stderr.isatty() or above.startswith(("/dev/pts/", "/dev/tty"))
