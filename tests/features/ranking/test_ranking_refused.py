"""Tables and settings of a ranking that are refused: one sentence that names the column, and nothing is published."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from pyspark.sql import SparkSession

from nfm.config.file import load
from nfm.config.settings import Config
from nfm.contract.errors import ConfigError, DataError
from nfm.features.dataset import build, prepare
from tests.features.ranking.shop import INTERACTIONS, ITEMS, USERS, make_config, make_content, write_shop, write_table

Change = Callable[[dict[str, Any]], None]


def refuse(spark: SparkSession, config: Config, tmp_path: Path, job: Callable[..., Any] = build) -> str:
    """Return the message of the job; it must leave no file except locks."""
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DataError) as error:
        job(spark, config)
    assert error.value.exit_code == DataError.exit_code
    left = (path for path in tmp_path.rglob("*") if path != tmp_path / "work" and path.suffix != ".lock")
    assert sorted(left) == before
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("table", "rows", "message"),
    [
        (
            "users",
            [*USERS, (10, "young", 1.0)],
            "Column 'user' of {} (ranking.users) must identify its rows, but '10' ",
        ),
        (
            "items",
            [*ITEMS, (9, [], 1.0)],
            "Column 'item' of {} (ranking.items) must identify its rows, but '9' occurs ",
        ),
        ("users", [*USERS, (None, "old", 1.0)], "Column 'user' of {} (ranking.users) identifies a user or an item "),
        ("items", [*ITEMS, (None, [], 1.0)], "Column 'item' of {} (ranking.items) identifies a user or an item "),
        ("interactions", [*INTERACTIONS, (None, 9, 1, "web")], "Column 'user' of {} identifies a user or an item "),
        ("interactions", [*INTERACTIONS, (1, 9, None, "web")], "Column 'ts' of {} orders the interactions of a user "),
    ],
)
def test_rows_that_are_refused(
    spark: SparkSession, tmp_path: Path, table: str, rows: list[tuple[Any, ...]], message: str
) -> None:
    tables: dict[str, Any] = {table: rows}
    paths = write_shop(tmp_path / "raw", **tables)
    content = make_content(tmp_path / "work", paths)
    for other in {"users", "items"} - {table}:
        del content["ranking"][other]
    found = refuse(spark, Config.model_validate(content), tmp_path)
    assert found.startswith(message.format(paths["source" if table == "interactions" else table]))


def test_an_item_of_another_type(spark: SparkSession, tmp_path: Path) -> None:
    paths = write_shop(tmp_path / "raw", {"items": pa.string()}, items=[*ITEMS, ("9b", None, None)])
    content = make_content(tmp_path / "work", paths)
    del content["ranking"]["users"]
    assert refuse(spark, Config.model_validate(content), tmp_path).startswith(
        f"Column 'item' of {paths['items']} (ranking.items) contains '9b', which cannot be converted to int, "
        "the type of the item in the interactions."
    )


def without(column: str, path: str) -> None:
    table = pq.read_table(path)
    pq.write_table(table.drop_columns([column]), path)


@pytest.mark.parametrize(
    ("table", "column"),
    [("source", "user"), ("source", "item"), ("source", "ts"), ("users", "user"), ("users", "age"), ("items", "item")],
)
def test_missing_columns(spark: SparkSession, tmp_path: Path, table: str, column: str) -> None:
    paths = write_shop(tmp_path / "raw")
    without(column, paths[table])
    found = refuse(spark, make_config(tmp_path / "work", paths), tmp_path, prepare)
    assert found.startswith(f"Column '{column}' is missing from {paths[table]}; the table has ")


@pytest.mark.parametrize("section", ["users", "items"])
def test_a_column_in_two_tables(spark: SparkSession, tmp_path: Path, section: str) -> None:
    paths = write_shop(tmp_path / "raw")
    content = make_content(tmp_path / "work", paths)
    key = section[:-1]
    paths[section] = write_table(
        tmp_path / f"raw/{section}2.parquet", {key: pa.int64(), "Device": pa.string()}, [(1, "web")]
    )
    content["ranking"][section] = {
        "source": {"path": paths[section]},
        "categorical": {f"{key}_device": {"column": "Device"}},
    }
    found = refuse(spark, Config.model_validate(content), tmp_path, prepare)
    assert found.startswith(
        f"Column 'Device' is in both {paths['source']} and {paths[section]} (ranking.{section}), so the joined table"
    )


def test_a_column_in_one_table_for_users_and_items(spark: SparkSession, tmp_path: Path) -> None:
    content = make_content(tmp_path / "work", write_shop(tmp_path / "raw"))
    types = {"user": pa.int64(), "item": pa.int64(), "size": pa.string()}
    path = write_table(tmp_path / "raw/both.parquet", types, [(1, 9, "small")])
    for section in ("users", "items"):
        fields = {f"{section}_size": {"column": "size"}}
        content["ranking"][section] = {"source": {"path": path}, "categorical": fields}
    found = refuse(spark, Config.model_validate(content), tmp_path, prepare)
    assert found.startswith(f"Column 'size' is in both {path} (ranking.users) and {path} (ranking.items), so ")


@pytest.mark.parametrize("name", ["sequence", "History", "history_weights", "_nfm_user"])
def test_a_column_with_the_name_of_an_added_one(spark: SparkSession, tmp_path: Path, name: str) -> None:
    content = make_content(tmp_path / "work", write_shop(tmp_path / "raw"))
    types = {"user": pa.int64(), "item": pa.int64(), "ts": pa.int64(), "device": pa.string(), name: pa.string()}
    path = write_table(tmp_path / "raw/named.parquet", types, [(1, 9, 1, "web", "x")])
    content["source"]["path"] = path
    content["columns"]["categorical"]["other"] = {"column": name}
    found = refuse(spark, Config.model_validate(content), tmp_path, prepare)
    assert found.startswith(f"Column '{name}' of {path} has the name of a column that the job adds")


@pytest.mark.parametrize(("type_", "values"), [(pa.float64(), [1.5, 2.0]), (pa.bool_(), [True, False])], ids=str)
def test_a_type_that_does_not_order(spark: SparkSession, tmp_path: Path, type_: pa.DataType, values: list[Any]) -> None:
    paths = write_shop(tmp_path / "raw")
    types = {"user": pa.int64(), "item": pa.int64(), "ts": type_, "device": pa.string()}
    write_table(Path(paths["source"]), types, [(1, 9, value, "web") for value in values])
    found = refuse(spark, make_config(tmp_path / "work", paths), tmp_path, prepare)
    assert found.startswith(f"Column 'ts' of {paths['source']} orders the interactions of a user (ranking.time, ")
    assert f"but is {type_}." in found


def set_to(section: str, **values: Any) -> Change:
    def change(content: dict[str, Any]) -> None:
        content.setdefault(section, {}).update(values)

    return change


def remove_time(content: dict[str, Any]) -> None:
    del content["split"]["time"]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            set_to("columns", label="clicked"),
            "columns.label: 'clicked' given, but a ranking has no label: each row of source is an interaction. ",
        ),
        (remove_time, "split: last needs time, the column by which the interactions of a user are ordered"),
        (
            set_to("split", valid_from=3),
            "split: rows can be split in one way only, but several are set: time, valid_from, test_from; last",
        ),
        (set_to("split", time="other"), "split.time: 'other' given, but ranking.time is 'ts': the interactions of a "),
        (set_to("split", by=["item"]), "split.by: ['item'] given; split.last takes the last interactions of each user"),
        (set_to("columns", key=["user", "ts"]), "columns.key: ['user', 'ts'] given; it must contain ranking.item "),
        (
            set_to("columns", categorical={"user": {}}),
            "ranking.item: no field of columns.categorical reads the column ",
        ),
        (
            set_to("columns", categorical={"item": {}, "pair": {"cross": ["user", "item"]}}),
            "columns.categorical.pair: it joins the item with other columns, but an input belongs either to the item ",
        ),
        (set_to("columns", numeric={"n": {"column": "item"}}), "columns.numeric: the item's column 'item' must be a "),
        (
            set_to("columns", categorical={"item": {}, "Age_Group": {}}),
            "'age_group' is in both columns and ranking.users: rename one, and set `column:`",
        ),
        (
            set_to("columns", categorical={"item": {}, "history": {}}),
            "ranking.history adds a field 'history', but there is one already: rename it",
        ),
        (set_to("ranking", time=None), "ranking: history needs time, the column with the time of an interaction"),
        (set_to("ranking", item="user"), "ranking: user and item are both 'user': they are two columns of the "),
        (set_to("model", task="binary"), "the section ranking is only for model.task: ranking, but it is binary: "),
    ],
)
def test_settings_that_are_refused(tmp_path: Path, change: Change, problem: str) -> None:
    content = make_content(tmp_path / "work", dict.fromkeys(("source", "users", "items"), "table"))
    content["columns"]["key"] = list(content["columns"]["key"])
    content["split"]["by"] = list(content["split"]["by"])
    change(content)
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError) as error:
        load(file)
    assert error.value.exit_code == 2
    lines = str(error.value).splitlines()
    assert len(lines) == 3
    assert lines[1].strip().startswith(problem)
