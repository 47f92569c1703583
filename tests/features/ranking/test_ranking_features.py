"""The dataset of a ranking equals a left join of its tables by pandas; its folds, histories, vocabularies and items."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from nfm.config.settings import Config
from nfm.features.dataset import build, prepare
from nfm.features.summary import plan, summary
from tests.features.ranking.shop import (
    INTERACTIONS,
    ITEMS,
    NEW,
    USERS,
    decode_rows,
    make_config,
    make_content,
    read_counts,
    write_shop,
)

Built = tuple[Path, Mapping[str, Any]]
TEXT = {"user": pa.string(), "item": pa.string()}  # the tables of users and items have integers
BY_USER = {"split": {"by": ("user",), "valid": 0.2, "test": 0.4, "seed": 11}}
LAST_2 = {"split": {"last": 2, "time": "ts"}}
VARIANTS: dict[str, tuple[dict[str, pa.DataType], str, dict[str, Any]]] = {
    "integers": ({}, "auto", {}),
    "reversed, by Spark": ({}, "spark", {}),
    "texts": (TEXT, "auto", LAST_2),
    "by user": ({"item": pa.string(), "items": pa.string(), "users": pa.string()}, "auto", BY_USER),
}


@pytest.fixture(scope="module")
def build_shop(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Built]:
    """Build a variant when it is first used; returns its working folder and the statistics."""
    done: dict[str, Built] = {}

    def get(name: str) -> Built:
        if name not in done:
            types, scan, changes = VARIANTS[name]
            folder = tmp_path_factory.mktemp("shop")
            step = -1 if name.startswith("reversed") else 1
            paths = write_shop(folder / "raw", types, INTERACTIONS[::step], USERS[::step], ITEMS[::step])
            config = make_config(folder / "work", paths, scan, **changes)
            done[name] = folder / "work", build(spark, config)
        return done[name]

    return get


def join_by_pandas(name: str) -> list[dict[str, Any]]:
    """Return the rows that the variant's dataset must have, without folds that depend on a hash."""
    text_items = VARIANTS[name][0].get("item") == pa.string()
    rows = pd.DataFrame(INTERACTIONS, columns=["user", "item", "ts", "device"])
    rows["order"] = rows["item"].map(str) if text_items else rows["item"]
    rows = rows.sort_values(["user", "ts", "order"], kind="stable")
    rows["sequence"] = rows.groupby("user").cumcount()
    rows = rows.merge(pd.DataFrame(USERS, columns=["user", "age_group", "age"]), on="user", how="left")
    rows = rows.merge(pd.DataFrame(ITEMS, columns=["item", "genres", "price"]), on="item", how="left")
    assert len(rows) == len(INTERACTIONS)
    joined = []
    for row in rows.to_dict("records"):
        earlier = rows[(rows["user"] == row["user"]) & (rows["sequence"] < row["sequence"])]
        latest = earlier[earlier["item"] != row["item"]]["item"].tolist()[::-1][:2]
        joined.append(
            {
                **{str(key): value for key, value in row.items()},
                "history": latest,
                "history_weights": [1.0, 0.5][: len(latest)],
            }
        )
    return joined


def fold_of(name: str, row: dict[str, Any], folds: Mapping[int, str]) -> str:
    """Return the fold of a row; `folds`: of each user, by hash."""
    if name == "by user":
        return folds[row["user"]]
    last = 2 if name == "texts" else 1
    size = sum(user == row["user"] for user, *_ in INTERACTIONS)
    from_end = size - 1 - row["sequence"]
    if from_end < last and size > last:
        return "test"
    return "valid" if last <= from_end < 2 * last and size > 2 * last else "train"


def present(value: Any) -> Any:
    """Return None for the missing values of pandas."""
    return None if value is None or (isinstance(value, float) and value != value) else value


def expect(name: str, folds: Mapping[int, str]) -> list[dict[str, Any]]:
    joined = [row | {"fold": fold_of(name, row, folds)} for row in join_by_pandas(name)]
    train = [row for row in joined if row["fold"] == "train"]
    known = {one: {str(row[one]) for row in train} for one in ("user", "item", "device", "age_group")}
    known["genres"] = {genre for row in train for genre in present(row["genres"]) or ()}

    def find(field: str, value: Any) -> str | None:
        value = present(value)
        return None if value is None else str(value) if str(value) in known[field] else NEW

    types = VARIANTS[name][0]
    key_types = [str if types.get(one) == pa.string() else int for one in ("user", "item")]
    return [
        {
            "key": (key_types[0](row["user"]), key_types[1](row["item"]), row["ts"]),
            "sequence": row["sequence"],
            **{field: find(field, row[field]) for field in ("user", "item", "device", "age_group")},
            **{number: present(row[number]) or 0.0 for number in ("age", "price")},
            **{f"{number}_missing": float(present(row[number]) is None) for number in ("age", "price")},
            "genres": [None] if present(row["genres"]) is None else [find("genres", one) for one in row["genres"]],
            "history": [find("item", one) for one in row["history"]],
            "history_weights": row["history_weights"],
            "fold": row["fold"],
        }
        for row in joined
    ]


def in_order(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: (str(row["key"][0]), row["sequence"]))


@pytest.mark.parametrize("name", VARIANTS)
def test_rows_equal_a_left_join(name: str, build_shop: Callable[[str], Built]) -> None:
    workdir, statistics = build_shop(name)
    rows = decode_rows(workdir)
    folds = {int(row["key"][0]): row["fold"] for row in rows}
    if name == "by user":
        assert len({(row["key"][0], row["fold"]) for row in rows}) == len(folds)  # no user is in two folds
        assert len(set(folds.values())) > 1
    assert in_order(rows) == in_order(expect(name, folds))
    assert sum(statistics["rows"].values()) == len(INTERACTIONS)
    assert statistics["rows"] == {fold: sum(row["fold"] == fold for row in rows) for fold in ("train", "valid", "test")}
    assert json.loads((workdir / "dataset/_dataset.json").read_text())["rows"] == statistics["rows"]


def test_folds_by_hand(build_shop: Callable[[str], Built]) -> None:
    def folds(name: str, user: Any) -> list[tuple[Any, str]]:
        rows = in_order([row for row in decode_rows(build_shop(name)[0]) if row["key"][0] == user])
        return [(row["key"][1], row["fold"]) for row in rows]

    # At the time 5, 9 is before 100 as a number and after it as a text; the repeated interaction is kept.
    assert folds("integers", 1) == [(30, "train"), (9, "train"), (100, "train"), (9, "valid"), (9, "test")]
    assert folds("texts", "1") == [("30", "train"), ("100", "valid"), ("9", "valid"), ("9", "test"), ("9", "test")]
    assert folds("integers", 10) == [(30, "train"), (200, "valid"), (9, "test")]
    assert folds("texts", "10") == [("200", "train"), ("30", "test"), ("9", "test")]
    assert folds("integers", 3) == [(9, "train"), (30, "test")]
    assert folds("integers", 7) == [(30, "train")]


def read_items(workdir: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(workdir / "dataset/_items/items.parquet").to_pylist()
    return rows


def test_the_catalogue_has_every_item(build_shop: Callable[[str], Built]) -> None:
    workdir, statistics = build_shop("integers")
    items = read_items(workdir)
    assert [(row["_item"], row["_interactions"]) for row in items] == [(5, 0), (9, 5), (30, 5), (100, 2), (200, 2)]
    texts, _ = build_shop("texts")
    assert [row["_item"] for row in read_items(texts)] == ["100", "200", "30", "5", "9"]
    label = statistics["label"]
    assert (label["users"], label["items"], label["items_without_row"]) == (5, 5, 1)
    # The side of an item is encoded as in its rows; 5, 200 and the genre "rare" are not in the train fold.
    assert [row["item"] == 1 for row in items] == [True, False, False, False, True]
    assert items[0]["genres"][0] == 1
    assert items[0]["price"] == 8.0
    assert items[3]["genres"] == items[4]["genres"] == [0]
    assert [row["price_missing"] for row in items] == [0, 0, 0, 1, 1]
    assert {name for row in items for name in row} == {
        *("_item", "_interactions", "item", "genres", "genres_weights", "price", "price_missing")
    }


@pytest.mark.parametrize("name", ["integers", "texts"])
def test_an_item_has_the_same_inputs_in_the_catalogue_and_in_rows(
    name: str, build_shop: Callable[[str], Built]
) -> None:
    workdir, _ = build_shop(name)
    items = {row["_item"]: row for row in read_items(workdir)}
    for path in (workdir / "dataset").glob("fold=*/*.parquet"):
        for row in pq.ParquetFile(path).read().to_pylist():
            side = {key: value for key, value in items[row["key_item"]].items() if not key.startswith("_")}
            assert {key: row[key] for key in side} == side


@pytest.mark.parametrize("name", ["integers", "texts"])
def test_a_vocabulary_counts_interactions_of_the_train_fold(name: str, build_shop: Callable[[str], Built]) -> None:
    workdir, statistics = build_shop(name)
    train = [row for row in expect(name, {}) if row["fold"] == "train"]
    for field in ("user", "item"):
        values = [row[field] for row in train]
        assert read_counts(workdir, field) == {value: values.count(value) for value in values}  # not the histories
    assert "history" not in read_counts(workdir, "history")
    assert statistics["fields"]["history"]["values"]["train"] == sum(len(row["history"]) for row in train)


def test_scans_and_orders_of_rows_give_the_same_dataset(build_shop: Callable[[str], Built]) -> None:
    (first, by_files), (second, by_spark) = build_shop("integers"), build_shop("reversed, by Spark")
    assert by_files["fingerprint"] == by_spark["fingerprint"]
    assert (by_files["rows"], by_files["fields"]) == (by_spark["rows"], by_spark["fields"])
    assert in_order(decode_rows(first)) == in_order(decode_rows(second))
    assert read_items(first) == read_items(second)
    for workdir in (first, second):
        assert {path.name for path in (workdir / "encoding").iterdir() if path.is_dir()} == {
            *("index", "items", "users", "vocabulary.parquet")
        }


def test_the_summary_describes_users_and_items(build_shop: Callable[[str], Built]) -> None:
    workdir, statistics = build_shop("integers")
    config = make_config(workdir, dict.fromkeys(("source", "users", "items"), "table"))
    assert summary(config, statistics).splitlines()[:7] == [
        "Features of shop: 14 rows of table",
        "  train             7 rows",
        "  valid             3 rows",
        "  test              4 rows",
        "  users             5 with interactions",
        "  items             5 in the catalogue",
        "  note      items without a row in the table of ranking.items: 1",
    ]


def test_a_plan_names_the_tables_and_writes_nothing(spark: SparkSession, tmp_path: Path) -> None:
    paths = write_shop(tmp_path / "raw")
    before = sorted(tmp_path.rglob("*"))
    config = make_config(tmp_path / "work", paths)
    text = plan(config, prepare(spark, config))
    assert f"  joined    {paths['users']} (ranking.users)\n  joined    {paths['items']} (ranking.items)\n" in text
    assert "  folds     the last interactions of each user (split.last)\n" in text
    assert "  fields    user, item, device, age_group, genres, history\n" in text
    assert "  numbers   age, price\n" in text
    assert "label" not in text
    assert sorted(tmp_path.rglob("*")) == before


def test_folds_by_time_without_other_tables_and_history(spark: SparkSession, tmp_path: Path) -> None:
    content = make_content(tmp_path / "work", write_shop(tmp_path / "raw"))
    content["ranking"] = {"user": "user", "item": "item"}
    content["split"] = {"time": "ts", "valid_from": 5, "test_from": 8}
    statistics = build(spark, Config.model_validate(content))
    label = statistics["label"]
    assert (label["users"], label["items"], label["items_without_row"]) == (5, 4, 0)
    assert [(row["_item"], row["_interactions"]) for row in read_items(tmp_path / "work")] == [
        *((9, 5), (30, 5), (100, 2), (200, 2))
    ]
    folds = {
        (row["ts"], path.parent.name)
        for path in (tmp_path / "work/dataset").glob("fold=*/*.parquet")
        for row in pq.ParquetFile(path).read().to_pylist()
    }
    by_hand = {"fold=train": (1, 2, 3, 4), "fold=valid": (5, 6, 7), "fold=test": (8, 9)}
    assert folds == {(time, fold) for fold, times in by_hand.items() for time in times}
