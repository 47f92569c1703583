"""Lists of the recommend job equal those of brute force."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pyspark.sql import SparkSession

import nfm
from nfm.contract.errors import ConfigError, DataError, GateError
from nfm.features.dataset import build
from nfm.ranking.prepare import open_all
from nfm.ranking.recommend import recommend
from tests.ranking.shop import best, config, items_of, read_lists, save_model, score_all, write_tables


@pytest.fixture(scope="module")
def shop(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shop")
    write_tables(folder)
    build(spark, config(folder))
    save_model(folder)
    return folder


@pytest.fixture(scope="module")
def pairs(shop: Path) -> pd.DataFrame:
    return score_all(shop)


@pytest.fixture(autouse=True)
def _no_output(shop: Path) -> None:
    shutil.rmtree(shop / "lists", ignore_errors=True)


def write(folder: Path, name: str, **columns: Any) -> dict[str, str]:
    pd.DataFrame(columns).to_parquet(folder / f"{name}.parquet", index=False)
    return {"path": str(folder / f"{name}.parquet")}


@pytest.mark.parametrize("scan", ["parquet", "spark"])
def test_lists_equal_brute_force(spark: SparkSession, shop: Path, pairs: pd.DataFrame, scan: str) -> None:
    report = recommend(spark, config(shop, scan))
    lists = read_lists(shop / "lists")
    assert items_of(lists) == best(pairs)
    merged = lists.merge(pairs, on=["user", "item"], suffixes=("", "_expected"))
    np.testing.assert_allclose(merged["score"], merged["score_expected"], atol=1e-6)
    assert [str(lists[name].dtype) for name in ("rank", "score")] == ["int32", "float32"]
    assert (report["users"], report["lists"], report["empty"]) == (25, 24, 1)  # user 99 has every item
    assert report["coverage"] == lists["item"].nunique() / 30
    assert report["missing_columns"] == ["device"]
    assert report["overlap"] is None
    assert recommend(spark, config(shop, scan))["overlap"] == {"share": 1.0, "users": 24}


def test_rules_of_the_lists(spark: SparkSession, shop: Path, pairs: pd.DataFrame, tmp_path: Path) -> None:
    excluded = write(tmp_path, "excluded", user=[0, 0, 3, 77], item=[1, 2, 2, 3])
    settings: dict[str, Any] = {"where": "shelf < 2", "max_per": {"shelf": 2}, "exclude": (excluded,), "k": 40}
    recommend(spark, config(shop, **settings))
    left = pairs[(pairs["shelf"] < 2) & ~pairs["user"].eq(0).mul(pairs["item"].isin([1, 2]))]
    assert items_of(read_lists(shop / "lists")) == best(left, 40, 2)


def test_segments_and_context(spark: SparkSession, shop: Path, tmp_path: Path) -> None:
    """User 501 is new, with a device; of 500, nothing is known; 2 has no segment, and 3 one without candidates."""
    ids, devices = [1, 2, 3, 11, 500, 501], ["phone", "tablet", None, "phone", None, "tablet"]
    users = write(tmp_path, "users", user=ids, device=devices, zone=["n", None, "q", "s", "n", "s"])
    candidates = write(tmp_path, "candidates", item=[1, 2, 3, 28, 29, 1, 1, 20, 900], zone=list("nnnnnnsss"))
    settings: dict[str, Any] = {"users": users, "candidates": candidates, "segment": "zone"}
    report = recommend(spark, config(shop, **settings))
    lists = read_lists(shop / "lists")
    frame = score_all(shop, pd.DataFrame({"user": ids, "device": devices}))
    found = items_of(lists)
    north, south = frame[frame["item"].isin([1, 2, 3, 28, 29])], frame[frame["item"].isin([1, 20])]
    assert found[1] == best(north)[1]
    for user in (11, 501):
        assert [item for item in found[user] if item != 900] == best(south)[user]
    unknown = north[north["user"] == 500].sort_values(["count", "item"], ascending=[False, True])
    assert found[500] == unknown["item"].tolist()
    assert lists[lists["user"] == 500]["score"].isna().all()
    names = ("users", "popular_users", "new_users", "without_candidates")
    assert [report[name] for name in names] == [6, 1, 2, 2]
    assert sorted(found) == [1, 11, 500, 501]


def test_a_gate_refuses_and_the_next_run_resumes(
    spark: SparkSession, shop: Path, pairs: pd.DataFrame, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(GateError, match="24 users have a list; recommend"):
        recommend(spark, config(shop, gates={"min_users": 100}))
    assert not (shop / "lists").exists()
    assert "Refused" in (shop / "_refused_lists/_report.html").read_text()
    (chunks,) = shop.glob(".lists.chunks-*")
    records = sorted((chunks / "done").iterdir())
    assert len(records) == 2
    records[0].unlink()
    caplog.set_level("INFO", "nfm")
    recommend(spark, config(shop))
    assert "an earlier run has already made the lists" in caplog.text
    assert "preparing candidates" not in caplog.text
    assert items_of(read_lists(shop / "lists")) == best(pairs)
    assert not list(shop.glob(".lists.chunks-*"))
    assert not (shop / "_refused_lists").exists()
    assert json.loads((shop / "lists/_report.json").read_text())["lists"] == 24


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"where": "shelf > 9"}, DataError, "There is no candidate"),
        ({"where": "shlf > 9"}, ConfigError, "recommend.where: 'shlf > 9' is not a condition"),
        ({"users": {"user": [1, 2, 1]}}, DataError, "'1' occurs in 2"),
        ({"users": {"user": [1, None]}}, DataError, "have a missing value"),
        ({"users": {"id": [1]}}, DataError, "Column 'user' is missing"),
        ({"candidates": {"item": np.array([], np.int64)}}, DataError, "recommend.candidates leave none"),
        ({"candidates": {"item": ["x"]}}, DataError, "'x', which is not a bigint"),
    ],
)
def test_input_that_is_refused(
    spark: SparkSession, shop: Path, tmp_path: Path, settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    settings = {k: write(tmp_path, k, **v) if isinstance(v, dict) else v for k, v in settings.items()}
    with pytest.raises(error, match=message):
        recommend(spark, config(shop, **settings))
    assert not (shop / "lists").exists()
    assert not list(shop.glob(".lists.*[!k]"))


def test_a_plan_writes_nothing(spark: SparkSession, shop: Path) -> None:
    from nfm.ranking.summary import plan

    before = sorted(shop.rglob("*"))
    assert "nothing was written" in plan(config(shop), open_all(spark, config(shop)))
    assert sorted(shop.rglob("*")) == before


def test_lists_in_memory(shop: Path, pairs: pd.DataFrame) -> None:
    users = pd.DataFrame({"user": [3, 12], "device": None, "land": [None, "a"], "age": [np.nan, 30.0]})
    model = nfm.load_model(shop / "model")
    lists = model.recommend(users, 4, pd.DataFrame({"user": [3, 3], "item": [1, 2]}))
    frame = pd.DataFrame([{**row, "item": item} for row in users.to_dict("records") for item in range(30)])
    assert lists.groupby("user")["rank"].apply(list).tolist() == [[1, 2, 3, 4]] * 2
    assert not {1, 2} & set(lists[lists["user"] == 3]["item"])
    assert len(frame) == 60
    similar = model.similar_items([7], 3).to_pandas()
    assert similar["item"].tolist() == [7] * 3
    assert 7 not in similar["similar_item"].tolist()
    assert similar["similarity"].is_monotonic_decreasing
