"""Start the Spark session and send this package to the executors."""

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path

from pyspark.sql import SparkSession

from nfm.contract.errors import NfmError

_BATCH = "spark.sql.execution.arrow.maxRecordsPerBatch"


def start_session(name: str) -> SparkSession:
    """Return the running session, or start one; settings of spark-submit and spark-defaults.conf apply.

    Workers run the Python of this process unless PYSPARK_PYTHON is set. They receive this package, so that executors
    run the same code as the driver.
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
        atexit.register(shutil.rmtree, folder, ignore_errors=True)  # executors that start later fetch it, too
        archive = shutil.make_archive(f"{folder}/nfm", "zip", root_dir=package.parent, base_dir=package.name)
        spark.sparkContext.addPyFile(archive)
    return spark


def _terminal() -> bool:
    """Return whether output goes to a terminal; under spark-submit, to that of the JVM above this process."""
    try:
        above = str(Path(f"/proc/{os.getppid()}/fd/2").readlink())
    except OSError:
        above = ""
    return sys.stderr.isatty() or above.startswith(("/dev/pts/", "/dev/tty"))


def _check_java() -> None:
    home = os.environ.get("JAVA_HOME")
    if not (shutil.which(f"{home}/bin/java") if home else shutil.which("java")):
        where = f"JAVA_HOME is {home}, and has no bin/java" if home else "there is no java on the PATH"
        raise NfmError(
            f"Spark needs Java 17, but {where}. Install it (Debian: apt-get install openjdk-17-jre-headless)."
        )
