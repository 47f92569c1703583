"""Read the log of a Delta table: which commits changed the files of a partition, and who wrote its rows.

Files that the score job writes are named part-00000-<id of the publication>.parquet; other programs use other names.
A file of another name is still of this job's rows if a commit rewrote this job's files without other rows: OPTIMIZE
(in the log, actions with `dataChange: false`) and DELETE. The log is read back as far as such commits need it.
https://github.com/delta-io/delta/blob/master/PROTOCOL.md describes the actions.
"""

import json
import re
from collections.abc import Iterator, Mapping, Set
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

from nfm.contract.publishing.table_formats import DELTA_LOG

# The first version of the project named files part-00000.parquet.
_OWN_NAME = re.compile(r"part-\d{5}(-[0-9a-f]{16})?\.parquet")


class Commit(NamedTuple):
    """Files of one part of a table that a commit added and removed."""

    version: int
    operation: str  # as the other program names it: WRITE, OPTIMIZE, …
    added: frozenset[str]  # paths in the table
    removed: frozenset[str]
    changes_rows: bool  # False: the rows are the same in other files


class Foreign(NamedTuple):
    """A file with rows that the score job did not write."""

    path: str
    origin: str  # commit that added it, as a phrase


def find_foreign(table: Path, version: int, partition: Mapping[str, str], files: Set[str]) -> Foreign | None:
    """Return a file with rows of another program among the files of a part in a version; None if there is none."""
    waiting = {path for path in files if not _is_own(path)}
    if not waiting:
        return None
    for commit in read_commits(table, version, partition):
        found = waiting & commit.added
        if not found or commit.operation == "RESTORE":  # an earlier commit wrote the restored files
            continue
        if commit.changes_rows and commit.operation != "DELETE":
            return Foreign(min(found), f"version {commit.version}, {commit.operation}")
        if commit.removed:  # the same rows, or some of them
            waiting = {path for path in (waiting - found) | commit.removed if not _is_own(path)}
        if not waiting:
            return None
    return Foreign(min(waiting), "its commit is no longer in the table's log")


def _is_own(path: str) -> bool:
    return _OWN_NAME.fullmatch(path.rpartition("/")[2]) is not None


def read_commits(table: Path, newest: int, partition: Mapping[str, str]) -> Iterator[Commit]:
    """Yield the commits from version `newest` backwards, until the log ends; older entries may have been deleted."""
    for version in range(newest, -1, -1):
        try:
            lines = (table / DELTA_LOG / f"{version:020}.json").read_text().splitlines()
        except FileNotFoundError:
            return
        actions = [action for line in lines if line.strip() for action in json.loads(line).items()]
        files = [(kind, action) for kind, action in actions if kind in ("add", "remove") and _is_in(action, partition)]
        added, removed = (
            frozenset(unquote(action["path"]) for kind, action in files if kind == wanted)
            for wanted in ("add", "remove")
        )
        operations = [action.get("operation") for kind, action in actions if kind == "commitInfo"]
        changes_rows = any(action.get("dataChange", True) for _, action in files)
        yield Commit(version, str(operations[0] if operations else "unknown"), added, removed, changes_rows)


def _is_in(action: Mapping[str, Any], partition: Mapping[str, str]) -> bool:
    """Return whether a file is in the partition; writers may omit the values of removed files."""
    values = action.get("partitionValues")
    return values is None or all(values.get(name) == value for name, value in partition.items())
