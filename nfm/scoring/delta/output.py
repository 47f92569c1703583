"""The part of a Delta table that score.output names, and the checks that its rows may be replaced."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

import pyarrow as pa

from nfm.contract.errors import DataError
from nfm.contract.messages import listed
from nfm.contract.publishing.publish import find_delta_table, translate_os_errors
from nfm.contract.publishing.table_formats import DELTA_LOG
from nfm.scoring.delta.log import find_foreign
from nfm.scoring.health.page import SCORES_MARKER
from nfm.table.folders import folder_values

if TYPE_CHECKING:  # an optional dependency
    from deltalake import DeltaTable

APPLICATION = "nfm.score"  # in the log: marks tables that this job writes, and its facts in a commit's userMetadata


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
        with translate_delta_errors(self.table), translate_os_errors(self.table):
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


@contextmanager
def translate_delta_errors(table: Path) -> Iterator[None]:
    """Raise an error of deltalake as a one-line DataError about the table."""
    from deltalake.exceptions import DeltaError

    try:
        yield
    except DeltaError as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise DataError(f"The Delta table {table} cannot be read or written: {reason}.") from error
