"""Publications in Delta tables: versions, partitions, other writers, other tables, schemas, vacuum."""

import json
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytest.importorskip("deltalake")  # an extra; `make test` installs all

from deltalake import DeltaTable, Field, Schema, convert_to_deltalake, write_deltalake
from deltalake.schema import PrimitiveType

from nfm.contract.errors import DataError
from nfm.scoring.delta.output import DeltaOutput
from tests.processes import ROOT
from tests.scoring.delta_tables import finish, publish, read, scores, start

KILLED = """
import os, signal, sys
from pathlib import Path
from nfm.scoring.delta.publication import DeltaPublication
from tests.scoring.delta_tables import publish, scores
DeltaPublication._commit = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
publish(Path(sys.argv[1]), scores([7, 8], 0.75))
"""


def files_on_disk(table: Path) -> set[str]:
    return {str(path.relative_to(table)) for path in table.rglob("*.parquet")}


def test_each_run_makes_a_version_and_old_versions_stay_readable(tmp_path: Path) -> None:
    table = tmp_path / "scores"
    assert publish(table, scores([1, 2, 3], 0.5)) == 0
    assert publish(table, scores([1, 2], 0.25), scores([4], 0.25)) == 1
    assert read(table, 0) == Counter([(1, 0.5), (2, 0.5), (3, 0.5)])
    assert read(table) == Counter([(1, 0.25), (2, 0.25), (4, 0.25)])
    assert publish(table) == 2  # a night without rows
    assert (read(table), read(table, 1).total()) == (Counter(), 3)
    newest, *_, first = DeltaTable(str(table)).history()
    facts = json.loads(first["userMetadata"])["nfm.score"]
    assert (facts["rows"], facts["model_fingerprint"], facts["partition"]) == (3, "ab12", {})
    assert json.loads(newest["userMetadata"])["nfm.score"]["rows"] == 0


def test_one_partition_is_replaced_in_one_version(tmp_path: Path) -> None:
    table = tmp_path / "scores"
    first, second = table / "country=N L/ds=2026-11-19", table / "country=N L/ds=10:30%25"
    assert (publish(first, scores([1], 0.5)), publish(second, scores([1], 0.5)), publish(first, scores([2], 0.25))) == (
        *(0, 1, 2),
    )
    # Columns by name: country, ds, id, score.
    assert read(table) == Counter([("N L", "2026-11-19", 2, 0.25), ("N L", "10:30%", 1, 0.5)])
    assert read(table, 1) == Counter([("N L", "2026-11-19", 1, 0.5), ("N L", "10:30%", 1, 0.5)])
    assert DeltaTable(str(table)).metadata().partition_columns == ["country", "ds"]
    assert publish(second) == 3
    assert read(table) == Counter([("N L", "2026-11-19", 2, 0.25)])


def test_values_of_partition_columns_are_those_of_the_rows(tmp_path: Path) -> None:
    table = tmp_path / "scores"
    folders = {"city=r%2Fé d%25": scores([1], 0.5), "city=__HIVE_DEFAULT_PARTITION__": scores([2], 0.5)}
    for _ in range(2):  # the second version removes the files of the first
        finish(start(table / "ds=1", partition_by=["city"]), table / "ds=1", **folders)
    assert read(table) == Counter([("r/é d%", "1", 1, 0.5), (None, "1", 2, 0.5)])
    with pytest.raises(DataError, match=r"partitioned by ds, city, but score\.output and .* give ds\. It was not"):
        start(table / "ds=1")


def test_a_run_killed_before_its_commit_leaves_only_unreferenced_files(tmp_path: Path) -> None:
    for table, output in ((tmp_path / "whole", tmp_path / "whole"), (tmp_path / "daily", tmp_path / "daily/ds=1")):
        for version in (0, 1):  # killed before the table exists, and before its second version
            killed = subprocess.run([sys.executable, "-c", KILLED, str(output)], cwd=ROOT)
            assert killed.returncode == -signal.SIGKILL
            assert len(files_on_disk(table)) == 2 * version + 1
            assert DeltaTable.is_deltatable(str(table)) == bool(version)
            assert publish(output, scores([1], 0.5)) == version
            assert read(table).total() == 1
        reports = DeltaOutput.at(output).report_folder
        reports.mkdir(parents=True, exist_ok=True)
        (reports / "_report.json").touch()
        DeltaTable(str(table)).vacuum(0, dry_run=False, enforce_retention_duration=False, full=True)
        assert len(files_on_disk(table)) == 1
        assert (reports / "_report.json").exists()
        assert read(table).total() == 1
        assert publish(output, scores([2], 0.5)) > 1  # vacuum has made versions of its own


def test_rows_changed_by_another_program_during_the_run_are_not_replaced(tmp_path: Path) -> None:
    table = tmp_path / "scores"
    publish(table / "ds=1", scores([1, 2], 0.5))
    publish(table / "ds=2", scores([1], 0.5))
    publication = start(table / "ds=1")
    other = scores([9], 0.125).append_column("ds", pa.array(["2"]))
    write_deltalake(str(table), other, mode="append")
    assert finish(publication, table / "ds=1", scores([1], 0.25)) == 3  # the other program wrote another partition
    publication = start(table / "ds=1")
    write_deltalake(str(table), other.set_column(2, "ds", pa.array(["1"])), mode="append")
    with pytest.raises(DataError, match=r"changed the partition ds=1 of .*: version 4 of the table \(WRITE\)\. Its"):
        finish(publication, table / "ds=1", scores([1], 0.0))
    assert read(table) == Counter([("1", 1, 0.25), ("1", 9, 0.125), ("2", 1, 0.5), ("2", 9, 0.125)])
    # The next runs do not replace the added rows either.
    with pytest.raises(
        DataError, match=r"partition ds=1 of .* contains rows .* in ds=1/.*parquet \(version 4, WRITE\)"
    ):
        start(table / "ds=1")
    DeltaTable(str(table)).delete("id = 9")
    publish(table / "ds=1", scores([3], 0.25))
    assert read(table) == Counter([("1", 3, 0.25), ("2", 1, 0.5)])


def test_a_table_created_by_another_program_during_the_run_is_kept(tmp_path: Path) -> None:
    publication = start(tmp_path / "scores")
    write_deltalake(str(tmp_path / "scores"), scores([9], 0.125))
    with pytest.raises(DataError, match=r"changed the Delta table .*scores while the job ran: version 0"):
        finish(publication, tmp_path / "scores", scores([1], 0.5))
    assert read(tmp_path / "scores") == Counter([(9, 0.125)])


def test_maintenance_and_restored_versions_are_no_conflict(tmp_path: Path) -> None:
    table = tmp_path / "scores"
    publish(table, scores([1], 0.5), scores([2], 0.5))
    publish(table, scores([1], 0.25), scores([2], 0.25))
    publication = start(table)
    DeltaTable(str(table)).optimize.compact()
    finish(publication, table, scores([1], 0.75))
    DeltaTable(str(table)).restore(0)
    assert read(table) == Counter([(1, 0.5), (2, 0.5)])
    publish(table, scores([3], 0.5))
    assert read(table) == Counter([(3, 0.5)])


def test_runs_for_two_partitions_can_end_at_the_same_time(tmp_path: Path) -> None:
    outputs = [tmp_path / f"scores/ds={i}" for i in range(2)]
    for night in range(2):  # the first creates the table
        publications = [start(output) for output in outputs]
        for i in (1, 0):
            finish(publications[i], outputs[i], scores([night], 0.5))
    assert read(tmp_path / "scores") == Counter([("0", 1, 0.5), ("1", 1, 0.5)])


def test_a_table_or_folder_of_another_program_is_refused(tmp_path: Path) -> None:
    write_deltalake(str(tmp_path / "other"), scores([1], 0.5))
    with pytest.raises(DataError, match=r"other is a Delta table that was not written by this job: .* Move it, or"):
        start(tmp_path / "other")
    with pytest.raises(DataError, match="is a Delta table that was not written by this job"):
        start(tmp_path / "other/ds=1")
    with pytest.raises(DataError, match=r"scores is in the Delta table .*other, but this job writes the Delta table"):
        start(tmp_path / "other/scores")
    (tmp_path / "plain/ds=1").mkdir(parents=True)  # Parquet files, or Delta tables of an earlier version
    (tmp_path / "plain/_refused_ds-1").mkdir()
    for output in ("plain", "plain/ds=2"):
        with pytest.raises(DataError, match=r"plain is not a Delta table and contains ds=1\. It was not changed\. "):
            start(tmp_path / output)
    (tmp_path / "plain/ds=1/_delta_log").mkdir()
    with pytest.raises(DataError, match=r"folders ds=… are partitions of one table\. Move it, or choose"):
        start(tmp_path / "plain/ds=1")
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"file is not a Delta table and contains .*file\."):
        start(tmp_path / "file")


def test_a_folder_converted_by_an_earlier_version_is_continued(tmp_path: Path) -> None:
    table = tmp_path / "scores"
    (table / "city=a").mkdir(parents=True)
    pq.write_table(scores([1], 0.5), table / "city=a/part-00000.parquet")
    convert_to_deltalake(
        str(table), partition_by=Schema([Field("city", PrimitiveType("string"))]), partition_strategy="hive"
    )
    for name in ("_report.json", "_files.json"):
        (table / name).write_text("{}")
    assert finish(start(table, partition_by=["city"]), table, **{"city=a": scores([2], 0.25)}) == 1
    assert (read(table), read(table, 0)) == (Counter([("a", 2, 0.25)]), Counter([("a", 1, 0.5)]))


def test_the_columns_of_a_table_can_change(tmp_path: Path) -> None:
    table = tmp_path / "scores"
    publish(table, scores([1], 0.5))
    text, moment = pa.array(["x"]), pa.array([1_000_000], pa.timestamp("us"))  # without a time zone
    publish(table, scores([1], 0.5, at=moment, text=text))  # all rows are replaced: any columns
    publish(table, pa.table({"id": ["a"], "score": [0.25]}))
    assert read(table) == Counter([("a", 0.25)])
    assert read(table, 0) == Counter([(1, 0.5)])

    daily = tmp_path / "daily"
    publish(daily / "ds=1", scores([1], 0.5))
    publish(daily / "ds=2", scores([1], 0.25, at=moment, text=text))  # columns by name: at, ds, id, score, text
    at = moment[0].as_py()
    assert read(daily) == Counter([(None, "1", 1, 0.5, None), (at, "2", 1, 0.25, "x")])
    publish(daily / "ds=3", scores([1], 0.75))
    assert read(daily)[(None, "3", 1, 0.75, None)] == 1
    for wrong, message in (
        (pa.table({"id": ["a"], "score": pa.array([0.5], pa.float32())}), "'id' is string, but 'id' of .* is int64"),
        (scores([1], 0.5, Text=text), "'Text' is string, but 'text' of the Delta table .* is string"),
    ):
        with pytest.raises(DataError, match=rf"^Column {message}.*Cast or rename the column in a view, remove it"):
            publish(daily / "ds=1", wrong)
    assert read(daily).total() == 3


def test_files_are_named_for_one_publication(tmp_path: Path) -> None:
    table = tmp_path / "scores"
    for _ in range(2):
        publish(table, scores([1], 0.5))
    assert len(files_on_disk(table)) == 2


def test_an_append_only_table_is_refused(tmp_path: Path) -> None:
    table = tmp_path / "scores"
    publish(table, scores([1], 0.5))
    DeltaTable(str(table)).alter.set_table_properties({"delta.appendOnly": "true"})
    with pytest.raises(DataError, match=r"^The Delta table .* cannot be read or written: .*append-only\.$"):
        publish(table, scores([2], 0.5))
    assert read(table) == Counter([(1, 0.5)])


def test_a_table_with_constraints_is_refused(tmp_path: Path) -> None:
    table = tmp_path / "scores"
    publish(table, scores([1], 0.5))
    DeltaTable(str(table)).alter.add_constraint({"small": "id < 5"})
    with pytest.raises(DataError, match=r"has delta\.constraints\.small, which this job cannot check.*Drop"):
        publish(table, scores([20], 0.5))
    assert read(table) == Counter([(1, 0.5)])


@pytest.mark.parametrize(
    ("output", "problem"),
    [
        ("scores/ds=", "has no value for ds"),
        ("scores/ds=__HIVE_DEFAULT_PARTITION__", "has no value for ds"),
        ("run%41/scores", "has an escape"),
        ("a\\b/scores/ds=1", "has an escape"),
        ("a\nb/scores", "has an escape"),
    ],
)
def test_an_output_that_deltalake_cannot_find_again_is_refused(tmp_path: Path, output: str, problem: str) -> None:
    with pytest.raises(DataError, match=f"score.output: .*{problem}.* Choose another one"):
        start(tmp_path / output)
    assert not list(tmp_path.iterdir())
    (tmp_path / "100%").mkdir()
    publish(tmp_path / "100%/scores/ds=a%41b", scores([1], 0.5))
    assert read(tmp_path / "100%/scores") == Counter([("aAb", 1, 0.5)])


def test_a_partition_of_a_table_without_partitions_is_refused(tmp_path: Path) -> None:
    table = tmp_path / "scores"
    publish(table, scores([1], 0.5))
    with pytest.raises(DataError, match=r"is partitioned by no column, but score\.output .* give ds"):
        start(table / "ds=2026-11-20")
    assert read(table) == Counter([(1, 0.5)])


def overwrite(table: Path, rows: pa.Table) -> None:
    write_deltalake(str(table), rows, mode="overwrite")


def overwrite_partition(table: Path, rows: pa.Table) -> None:
    write_deltalake(str(table), rows, mode="overwrite", predicate="ds = 'it''s 1'")


def merge(table: Path, rows: pa.Table) -> None:
    merger = DeltaTable(str(table)).merge(rows, "t.id = s.id", source_alias="s", target_alias="t")
    merger.when_matched_update_all().execute()


def clean_log(table: Path) -> None:
    """Delete the log's entries, as happens after 30 days; the newest version is in a checkpoint."""
    publish(table / "ds=3", scores([1], 0.5))
    found = DeltaTable(str(table))
    found.create_checkpoint()
    for version in range(found.version()):
        (table / f"_delta_log/{version:020}.json").unlink()


def update(table: Path, _: pa.Table) -> None:
    DeltaTable(str(table)).update(updates={"score": "0.125"}, predicate="id = 1 and ds = 'it''s 1'")


@pytest.mark.parametrize(
    ("change", "later"),
    [
        (overwrite, None),
        (overwrite_partition, "optimize"),
        (merge, "delete"),
        (update, "clean"),
        (overwrite_partition, "clean"),
    ],
)
def test_rows_of_another_program_are_refused_whatever_their_number(
    tmp_path: Path, change: Callable[[Path, pa.Table], None], later: str | None
) -> None:
    table, output = tmp_path / "scores", tmp_path / "scores/ds=it's 1"
    publish(output, scores([1, 2, 3], 0.5), scores([4], 0.5))
    publish(table / "ds=2", scores([1], 0.5))
    change(table, scores([1, 2, 3, 4], 0.125, ds=pa.array(["it's 1"] * 4)))
    if later == "optimize":
        DeltaTable(str(table)).optimize.compact()
    elif later == "delete":
        DeltaTable(str(table)).delete("id = 2")
    elif later == "clean":
        clean_log(table)
    rows = read(table)
    with pytest.raises(
        DataError, match=r"^The partition ds=it's 1 of .*scores contains rows that this job did"
    ) as error:
        start(output)
    assert read(table) == rows
    reason = "its commit is no longer in the table's log" if later == "clean" else r"version 2, (WRITE|MERGE|UPDATE)"
    assert re.search(rf"\({reason}\), and the job would replace them\. It was not changed\.", str(error.value))
    # The message contains the command that removes them.
    (command,) = re.findall(r"here with (DeltaTable\(.*\)\.delete\(.*\)), and run", str(error.value))
    eval(command, {"DeltaTable": DeltaTable})
    publish(output, scores([9], 0.25))
    assert read(table) == Counter({("it's 1", 9, 0.25): 1} | {row: n for row, n in rows.items() if row[0] != "it's 1"})


def test_rows_of_this_job_are_replaced_after_maintenance_of_the_table(tmp_path: Path) -> None:
    table, output = tmp_path / "scores", tmp_path / "scores/ds=1"
    publish(output, scores([1, 2], 0.5), scores([3, 4], 0.5))
    write_deltalake(str(table), scores([7], 0.5, ds=pa.array(["2"])), mode="append")  # another partition
    write_deltalake(str(table), scores([8], 0.5, ds=pa.array(["2"])), mode="append")
    DeltaTable(str(table)).optimize.compact()  # of both partitions
    DeltaTable(str(table)).delete("id = 2")
    publication = start(output)
    DeltaTable(str(table)).optimize.z_order(["id"])
    write_deltalake(str(table), scores([9], 0.5, ds=pa.array(["2"])), mode="append")
    finish(publication, output, scores([5], 0.25), scores([6], 0.25))
    DeltaTable(str(table)).optimize.compact()
    DeltaTable(str(table)).restore(4)
    assert {row[1] for row in read(table) if row[0] == "1"} == {1, 3, 4}
    publish(output, scores([5], 0.25), scores([6], 0.25))
    assert {row[1] for row in read(table)} == {5, 6, 7, 8}
    clean_log(table)
    publish(output, scores([10], 0.75))
    assert {row[1] for row in read(table)} == {1, 7, 8, 10}


def test_a_whole_table_of_another_program_is_refused(tmp_path: Path) -> None:
    table = tmp_path / "scores"
    publish(table, scores([1], 0.5))
    overwrite(table, scores([9], 0.125))
    with pytest.raises(
        DataError, match=r"^The Delta table .* contains rows .*DeltaTable\('.*scores'\)\.delete\(\), and"
    ):
        start(table)
    DeltaTable(str(table)).delete()
    publish(table, scores([2], 0.5))
    assert read(table) == Counter([(2, 0.5)])
