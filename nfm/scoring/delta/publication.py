"""Publish scores in a Delta table: one transaction replaces the old rows, and the table keeps its history.

    TABLE/                  score.output; for score.output: TABLE/ds=2026-11-20, the folder above ds=…
        _delta_log/         Delta's log: the files of each version
        ds=2026-11-20/      data files; those of old versions stay until VACUUM
        _report.json, …     newest report, written after the transaction; of a partition: _reports/ds=2026-11-20/

Data files are placed first, then committed: a killed run leaves only files that no version lists.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from nfm.contract.errors import DataError
from nfm.contract.messages import listed
from nfm.contract.publishing.publish import translate_os_errors
from nfm.contract.publishing.table_formats import DELTA_LOG
from nfm.scoring.delta.log import read_commits
from nfm.scoring.delta.output import APPLICATION, DeltaOutput, translate_delta_errors
from nfm.table.folders import folder_values
from nfm.table.write import WrittenFile, move_into_place

if TYPE_CHECKING:  # an optional dependency
    from deltalake import DeltaTable, Schema

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


class DeltaPublication:
    """A run's publication: checks the table when the run starts, and replaces rows when it ends."""

    def __init__(self, output: DeltaOutput, schema: pa.Schema, partition_by: Sequence[str]) -> None:
        """Raise DataError if files with this schema, in folders by `partition_by`, cannot become part of the table."""
        self._output = output
        self._columns = [*output.partition, *partition_by]
        self._fields = [*schema, *(pa.field(name, pa.string()) for name in self._columns)]
        output.check()
        with translate_delta_errors(output.table):
            table = output.open()
            self._version = -1 if table is None else table.version()
            self._files = output.files_of(table)
            self._schema(table)

    def publish(self, files: Sequence[WrittenFile], report: Mapping[str, Any]) -> int:
        """Move the files into the table and commit them, with facts of the report; return the table's new version.

        Raises DataError if another program has changed the rows since the run started.
        """
        output = self._output
        with translate_delta_errors(output.table), translate_os_errors(output.table):
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
