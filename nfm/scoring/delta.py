"""Publish scores in a Delta table: one transaction replaces the old rows, and the table keeps its history.

    TABLE/                  score.output; for score.output: TABLE/ds=2026-11-20, the folder above ds=…
        _delta_log/         Delta's log: the files of each version
        ds=2026-11-20/      data files; those of old versions stay until VACUUM
        _report.json, …     newest report, written after the transaction; of a partition: _reports/ds=2026-11-20/

Data files are placed first, then committed: a killed run leaves only files that no version lists.
"""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pyarrow as pa

from nfm.contract.errors import DataError
from nfm.contract.messages import listed
from nfm.contract.publishing.publish import find_delta_table, translate_os_errors
from nfm.contract.publishing.table_formats import DELTA_LOG
from nfm.scoring.delta_log import find_foreign, read_commits
from nfm.scoring.health.page import SCORES_MARKER
from nfm.table.folders import folder_values
from nfm.table.write import WrittenFile, move_into_place

if TYPE_CHECKING:  # an optional dependency
    from deltalake import DeltaTable, Schema

log = logging.getLogger(__name__)

APPLICATION = "nfm.score"  # in the log: marks tables that this job writes, and its facts in a commit's userMetadata
_FACTS = (
    "name",
    "task",
    "model_fingerprint",
    "encoding_fingerprint",
    "model",
    "source",
    "created",
    "rows",
    "publication",
)
_ATTEMPTS = 20  # each failure means that another program has committed to the table


@dataclass(frozen=True)
class DeltaOutput:
    """Part of a Delta table that a run replaces: one partition, or all rows."""

    output: Path  # score.output
    table: Path  # folder of the table
    partition: Mapping[str, str]  # column → value; empty: the whole table

    @classmethod
    def at(cls, output: Path) -> "DeltaOutput":
        """Return what score.output names: `scores/ds=1` is the partition ds=1 of the table `scores`."""
        table, names = output, list[str]()
        while "=" in table.name:
            table, names = table.parent, [table.name.partition("=")[0], *names]
        values = folder_values(str(output / "file"), names) or ()
        return cls(output, table.resolve(), {n: v or "" for n, v in zip(names, values, strict=True)})

    def __str__(self) -> str:
        """Return a name for messages."""
        parts = ", ".join(f"{name}={value}" for name, value in self.partition.items())
        return f"partition {parts} of {self.table}" if parts else f"Delta table {self.table}"

    @property
    def folders(self) -> tuple[str, ...]:
        """Folders of the partition below the table: ds=1."""
        return self.output.parts[len(self.output.parts) - len(self.partition) :]

    @property
    def report_folder(self) -> Path:
        """Folder of the newest report; deltalake's vacuum deletes reports in the folders of partitions."""
        return self.table.joinpath("_reports", *self.folders) if self.folders else self.output

    def check(self) -> None:
        """Raise DataError unless the table is absent or written by this job, and nothing else is in its place."""
        self._check_path()
        with _translate_delta_errors(self.table), translate_os_errors(self.table):
            other = find_delta_table(self.output)
            if other not in (None, self.table):
                raise DataError(
                    f"score.output: {self.output} is in the Delta table {other}, but this job writes the {self}. "
                    f"{self._how_to_move()}"
                )
            table = self.open()
            is_ours = table is None or table.transaction_version(APPLICATION) is not None
            if not is_ours and not (self.table / SCORES_MARKER).exists():  # earlier versions wrote only this file
                raise DataError(
                    f"{self.table} is a Delta table that was not written by this job: its log names no {APPLICATION}. "
                    f"{self._how_to_move()}"
                )
            self.check_rows(table)
            if not self.table.exists() or (self.table / DELTA_LOG).is_dir():
                return
            found = [str(self.table)] if not self.table.is_dir() else []
            found = found or sorted(p.name for p in self.table.iterdir() if not p.name.startswith(("_", ".")))
            if found:
                raise DataError(
                    f"This job writes the {self}, but {self.table} is not a Delta table and contains "
                    f"{listed(found, most=1)}. {self._how_to_move()}"
                )

    def check_rows(self, table: "DeltaTable | None") -> None:
        """Raise DataError if the part contains rows that another program wrote."""
        files = self.files_of(table)
        found = find_foreign(self.table, table.version(), self.partition, files.keys()) if table and files else None
        if found is not None:
            values = {name: value.replace("'", "''") for name, value in self.partition.items()}
            delete = " and ".join(f"\"{name}\" = '{value}'" for name, value in values.items())
            raise DataError(
                f"The {self} contains rows that this job did not write, in {found.path} ({found.origin}), and the job "
                "would replace them. It was not changed. Copy the rows that you need to another table, delete all "
                f"rows here with DeltaTable({str(self.table)!r}).delete({repr(delete) if delete else ''}), and run the "
                "job again."
            )

    def _check_path(self) -> None:
        """Raise DataError for a path that deltalake reads as another one, or a partition without a value."""
        path, empty = str(self.table), [name for name, value in self.partition.items() if not value]
        problem = f"has no value for {listed(empty)}" if empty else None
        if unquote(path) != path or "\\" in path or not path.isprintable():
            problem = "has an escape such as %41, a backslash or a control character, which deltalake decodes"
        if problem:
            raise DataError(f"score.output: {str(self.output)!r} {problem}. Choose another one (or workdir).")

    def _how_to_move(self) -> str:
        names = " and ".join(f"{name}=…" for name in self.partition)
        one = f" With score.format: delta, folders {names} are partitions of one table." if names else ""
        return f"It was not changed.{one} Move it, or choose another score.output."

    def open(self) -> "DeltaTable | None":
        """Return the newest version of the table; None if it does not exist."""
        from deltalake import DeltaTable
        from deltalake.exceptions import TableNotFoundError

        with suppress(TableNotFoundError):  # a run was killed before its first commit
            return DeltaTable(str(self.table)) if (self.table / DELTA_LOG).is_dir() else None
        return None

    def files_of(self, table: "DeltaTable | None") -> dict[str, int]:
        """Return the files of the part in a version of the table, by their paths in the table, with their rows."""
        actions = pa.table(table.get_add_actions(flatten=True)).to_pylist() if table is not None else []
        wanted = {f"partition.{name}": value for name, value in self.partition.items()}
        return {
            unquote(action["path"]): action["num_records"] or 0
            for action in actions
            if all(action.get(name) == value for name, value in wanted.items())
        }


class DeltaPublication:
    """A run's publication: checks the table when the run starts, and replaces rows when it ends."""

    def __init__(self, output: DeltaOutput, schema: pa.Schema, partition_by: Sequence[str]) -> None:
        """Raise DataError if files with this schema, in folders by `partition_by`, cannot become part of the table."""
        self._output = output
        self._columns = [*output.partition, *partition_by]
        self._fields = [*schema, *(pa.field(name, pa.string()) for name in self._columns)]
        output.check()
        with _translate_delta_errors(output.table):
            table = output.open()
            self._version = -1 if table is None else table.version()
            self._files = output.files_of(table)
            self._schema(table)

    def publish(self, files: Sequence[WrittenFile], report: Mapping[str, Any]) -> int:
        """Move the files into the table and commit them, with facts of the report; return the table's new version.

        Raises DataError if another program has changed the rows since the run started.
        """
        output = self._output
        with _translate_delta_errors(output.table), translate_os_errors(output.table):
            (output.table / DELTA_LOG).mkdir(parents=True, exist_ok=True)
            folder = output.table.joinpath(*output.folders)
            placed = move_into_place([file for file in files if file.rows], folder, report["publication"])
            table = self._commit(placed, {key: report[key] for key in _FACTS})
            rows, expected = sum(output.files_of(table).values()), sum(file.rows for file in placed)
            if rows != expected:
                raise DataError(
                    f"Version {table.version()} of the {output} has {rows} rows, but {expected} were written. Restore "
                    f"version {self._version} of the table, and run the job again."
                )
            return table.version()

    def _commit(self, files: Sequence[WrittenFile], facts: Mapping[str, Any]) -> "DeltaTable":
        """Replace the rows by those of the files in one transaction; return the new version of the table."""
        from deltalake import CommitProperties, DeltaTable, TableFeatures, Transaction
        from deltalake.exceptions import DeltaError
        from deltalake.transaction import create_table_with_add_actions

        output, actions = self._output, [self._add_action(file) for file in files]
        metadata = {"userMetadata": json.dumps({APPLICATION: {**facts, "partition": dict(output.partition)}})}
        for _ in range(_ATTEMPTS):
            table = output.open()
            self._check_not_changed(table)
            schema, version = self._schema(table), 0 if table is None else table.version() + 1
            properties = CommitProperties(
                custom_metadata=metadata,
                max_commit_retries=0,  # deltalake would try again without the checks above
                app_transactions=[Transaction(APPLICATION, version)],
            )
            try:
                if table is None:
                    create_table_with_add_actions(
                        str(output.table), schema, actions, partition_by=self._columns, commit_properties=properties
                    )
                    return DeltaTable(str(output.table), version=version)
                features = table.protocol().writer_features or []
                if "timestamp_ntz" in schema.to_json() and "timestampNtz" not in features:
                    feature = TableFeatures.TimestampWithoutTimezone  # a new table gets it by itself
                    table.alter.add_feature(feature, allow_protocol_versions_increase=True)
                    continue
                filters = [(name, "=", value) for name, value in output.partition.items()] or None
                table.create_write_transaction(
                    list(actions), "overwrite", schema, self._columns, filters, commit_properties=properties
                )
                return DeltaTable(str(output.table), version=version)
            except DeltaError:
                newest = output.open()
                if newest is None or newest.version() < version:  # not a conflict
                    raise
                if actions and {action.path for action in actions} <= set(output.files_of(newest)):
                    return newest  # the error came after the commit, for example from a checkpoint
        raise DataError(
            f"Other programs write to {output.table} all the time: {_ATTEMPTS} commits failed. Its rows were not "
            "changed. Run the job again when they have finished."
        )

    def _add_action(self, file: WrittenFile) -> Any:
        from deltalake.transaction import AddAction

        path, changed = Path(file.path).relative_to(self._output.table).as_posix(), Path(file.path).stat().st_mtime
        values = dict(zip(self._columns, folder_values(path, self._columns) or (), strict=True))
        return AddAction(path, file.bytes, values, int(changed * 1000), True, json.dumps({"numRecords": file.rows}))

    def _schema(self, table: "DeltaTable | None") -> "Schema":
        """Return the schema of the new version; DataError if the table cannot have it.

        Where all rows are replaced, the columns are those of the new files. Where other partitions stay, new columns
        are added: they are null there, and columns that the new files lack are null in the new partition.
        """
        from deltalake import Schema

        schema = Schema.from_arrow(pa.schema(self._fields))
        if table is None:
            return schema
        columns = table.metadata().partition_columns
        if columns != self._columns:
            raise DataError(
                f"The Delta table {self._output.table} is partitioned by {listed(columns) or 'no column'}, but "
                f"score.output and score.partition_by give {listed(self._columns) or 'no column'}. It was not changed. "
                "Move it, or choose another score.output."
            )
        if rules := [key for key in table.metadata().configuration if key.startswith("delta.constraints.")]:
            what = f"The Delta table {self._output.table} has {listed(rules)}, which this job cannot check"
            raise DataError(f"{what}. It was not changed. Drop them, or choose another score.output.")
        if not self._output.partition:
            return schema
        old, new = pa.schema(table.schema()), pa.schema(schema)
        known = {field.name.lower(): field for field in old}
        for field in new:
            before = known.get(field.name.lower(), field)
            if (before.name, before.type) != (field.name, field.type):
                raise DataError(
                    f"Column '{field.name}' is {field.type}, but '{before.name}' of the Delta table "
                    f"{self._output.table} is {before.type}, also in its other partitions. It was not changed. Cast or "
                    "rename the column in a view, remove it from score.columns, or choose another score.output."
                )
        return Schema.from_arrow(pa.schema([*old, *(field for field in new if field.name.lower() not in known)]))

    def _check_not_changed(self, table: "DeltaTable | None") -> None:
        """Raise DataError if another program has changed the rows since the run started."""
        output = self._output
        if table is None or table.version() == self._version or output.files_of(table).keys() == self._files.keys():
            return
        change = "a version that its log no longer lists"
        for commit in read_commits(output.table, table.version(), output.partition):
            if commit.version <= self._version:
                return
            if commit.changes_rows:
                change = f"version {commit.version} of the table ({commit.operation})"
                break
        raise DataError(
            f"Another program changed the {output} while the job ran: {change}. Its rows were not replaced. Run the "
            "job again if they may be replaced: scored rows are not scored again."
        )


@contextmanager
def _translate_delta_errors(table: Path) -> Iterator[None]:
    from deltalake.exceptions import DeltaError

    try:
        yield
    except DeltaError as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise DataError(f"The Delta table {table} cannot be read or written: {reason}.") from error
