"""Translate Spark's errors into messages of one line."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from py4j.protocol import Py4JJavaError
from pyspark.errors import AnalysisException, ParseException, PySparkException

from nfm.contract.errors import DataError

_OURS = re.compile(r"nfm\.[\w.]+\.(?:DataError|UnreadableFileError): (.*)")
_FILE = re.compile(r"reading file:? ?(\S.*?)[.,]?(?:\s+SQLSTATE|\.\s|\n|$)")
_CONDITION = re.compile(r"\[[A-Z0-9_.]+\] .*")


@contextmanager
def translate_spark_errors(where: str) -> Iterator[None]:
    """Raise Spark's errors about the user's table as a DataError of one line. Other errors pass through."""
    try:
        yield
    except (PySparkException, Py4JJavaError) as error:
        text = str(error)
        condition = _CONDITION.search(text)
        said = condition.group().split(" SQLSTATE")[0] if condition else text.strip().splitlines()[0]
        if ours := _OURS.findall(text):  # our own code raised it on a worker
            raise DataError(ours[-1]) from error
        if "FAILED_READ_FILE" in text:
            found = _FILE.search(text)
            raise DataError(
                f"{where} has a file that cannot be read: {found.group(1) if found else said}. Repair or delete it, or "
                "leave such files out with on_corrupt: skip beside its path, or correct the format there, and run the "
                "job again."
            ) from error
        understood = "DATA_SOURCE_NOT_FOUND" in text or "CANNOT_MERGE_SCHEMAS" in text
        problem = f"cannot be read: {said}"
        if "UNABLE_TO_INFER_SCHEMA" in text:
            problem = (
                "contains no file from which columns can be inferred: it is empty, its files are (0 bytes), or Spark "
                "ignores their names (_… and .…)."
            )
        elif not understood and not isinstance(error, AnalysisException | ParseException):
            raise
        advice = "Correct source in the configuration, or score.source if the scores have their own."
        raise DataError(f"{where} {problem} {advice}") from error
