"""Translate Spark errors into one-line messages."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from py4j.protocol import Py4JJavaError
from pyspark.errors import AnalysisException, ParseException, PySparkException

from nfm.contract.errors import DataError, ReplacedError
from nfm.contract.messages import listed, quoted
from nfm.table.store import uri_to_path

_PROJECT_ERROR = re.compile(r"nfm\.[\w.]+\.(DataError|ReplacedError|UnreadableFileError): (.*)")
_FILE = re.compile(r"reading file:? ?(\S.*?)[.,]?(?:\s+SQLSTATE|\.\s|\n|$)")
_MISSING = re.compile(r"\[PATH_NOT_FOUND\] Path does not exist: (?:file:(?=/))?(.*?)\.(?:\s+SQLSTATE|\s|$)")
_CONDITION = re.compile(r"\[[A-Z0-9_.]+\] .*?(?=\s+SQLSTATE|\n==|\n\tat|$)", re.DOTALL)
_FOLDERS_DIFFER = ("[CONFLICTING_DIRECTORY_STRUCTURES]", "[CONFLICTING_PARTITION_COLUMN_NAMES]")
_FOLDER = re.compile(r"^\s+(\w+:/.*?)(?: SQLSTATE: \w+)?$", re.MULTILINE)
_MAX_SUMMARY = 500  # characters
# Classes of SQLSTATE for what a user can correct: data, SQL, unsupported features, files. Not XX: internal errors.
_ABOUT_THE_SOURCE = re.compile(r"SQLSTATE: (?:22|42|0A|KD)")
_OTHER_TYPE = "UnsupportedOperationException: org.apache.parquet"  # Spark's reader on a column of an unexpected type


@contextmanager
def translate_spark_errors(where: str) -> Iterator[None]:
    """Raise Spark's errors about the user's table as a one-line DataError; other errors are raised unchanged.

    `where` names the table in the message.
    """
    try:
        yield
    except (PySparkException, Py4JJavaError) as error:
        text = str(error)
        condition = _CONDITION.search(text)
        summary = " ".join(condition.group().split()) if condition else text.strip().splitlines()[0]
        summary = summary if len(summary) <= _MAX_SUMMARY else f"{summary[:_MAX_SUMMARY]}…"
        if messages := _PROJECT_ERROR.findall(text):  # raised by this project's code on a worker
            name, message = messages[-1]
            raise (ReplacedError if name == "ReplacedError" else DataError)(message) from error
        if "MALFORMED_CSV_RECORD" in text:
            raise DataError(
                f"{where} has a line with more than 20,480 values, which Spark's reader of CSV does not accept: "
                f"{quoted(summary.partition('record: ')[2])}. If the header has as many columns, set "
                "source.options.maxColumns to a larger number; else correct source.options.sep, or repair the line."
            ) from error
        if "FAILED_READ_FILE" in text:
            file = _FILE.search(text)
            if "COLUMN_DATA_TYPE_MISMATCH" in text:
                raise DataError(
                    f"{where} has a file with a column whose type differs from the table's: {summary} Write that file "
                    "again with the table's type, or leave it out of source.path (or score.source.path)."
                ) from error
            raise DataError(
                f"{where} has a file that cannot be read: {file.group(1) if file else summary}. Repair or delete it, "
                "set source.on_corrupt: skip (or score.source.on_corrupt) to leave such files out, or correct "
                "source.format. Then run the job again."
            ) from error
        is_source_error = _ABOUT_THE_SOURCE.search(text) is not None
        problem = _describe_problem(text)
        if problem is None and not is_source_error and not isinstance(error, AnalysisException | ParseException):
            raise
        problem = problem or f"cannot be read: {summary}"
        advice = "Correct source in the configuration, or score.source if the score job reads another table."
        raise DataError(f"{where} {problem} {advice}") from error


def _describe_problem(text: str) -> str | None:
    """Describe a problem of a table better than the text of Spark's error does; None if that text has to do."""
    if "UNABLE_TO_INFER_SCHEMA" in text:
        return (
            "contains no file from which columns can be inferred: it is empty, its files are empty (0 bytes), or "
            "Spark ignores their names (_… and .…)."
        )
    if any(condition in text for condition in _FOLDERS_DIFFER):
        folders = listed(dict.fromkeys(map(uri_to_path, _FOLDER.findall(text))))
        return (
            "has files in folders whose names give different columns: either all files of a table are in folders "
            f"such as country=DE, or none. Found: {folders}. Name folders of one structure in source.path, or set "
            "source.options.recursiveFileLookup: true to read all files without the values in folder names."
        )
    if _OTHER_TYPE in text:
        return (
            "has a file with a column whose type differs from the table's, and Spark cannot convert it. Write that "
            "file again with the table's type, or leave it out."
        )
    if "Unmatched quote" in text:
        return (
            "has a column whose name contains a backtick (`), which Spark's reader of ORC does not accept. Rename "
            "the column, or write the table as Parquet."
        )
    if missing := _MISSING.search(text):
        return f"cannot be read: {missing.group(1)} does not exist."
    return None
