"""Roles that nfm init chooses, on tables made for each rule; expected roles are written by hand."""

import datetime as dt
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pv
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from nfm.config.file import load
from nfm.config.settings import Config
from nfm.contract.errors import ConfigError
from nfm.init.command import configure
from nfm.init.facts import inspect_column
from nfm.init.label import find_label
from nfm.init.page import _yaml

N = 400
RNG = np.random.default_rng(7)


def events() -> pa.Table:
    """Return a table with one column for each kind of role."""
    y = np.arange(N) % 4 == 0
    words = ["the", "quick", "brown", "fox", "jumps", "over", "lazy", "dogs", "while", "it", "rains", "in", "Spain"]
    return pa.table(
        {
            "event_id": [f"e{i:04}" for i in RNG.permutation(N)],
            "returned": y.astype(int),
            "returned_text": np.where(y, "yes", "no"),  # the label as text
            "refund": np.where(y, RNG.uniform(5, 90, N), 0),  # above 0 only if returned
            "complaint": [("late" if i % 8 else "broken") if v else None for i, v in enumerate(y)],  # if returned
            "country": RNG.choice(["DE", "FR", "Ü"], N),
            "member": RNG.random(N) < 0.5,
            "user_id": RNG.integers(10_000, 10_090, N),
            "tags": pa.array([["a", "b"][: i % 3] for i in range(N)], pa.list_(pa.string())),
            "genres": RNG.choice(["drama|war", "war", "crime|drama|war", "crime"], N),
            "price": pa.array([None if i % 10 == 0 else float(v) for i, v in enumerate(RNG.normal(9, 2, N))]),
            "income": RNG.lognormal(5, 2, N),
            "hour": RNG.integers(0, 24, N),
            "comment": [" ".join(RNG.choice(words, 9)) for _ in range(N)],
            "at": pa.array([dt.datetime(2026, 1, 1) + dt.timedelta(hours=i) for i in range(N)], pa.timestamp("us")),
            "source": ["web"] * N,
            "empty": pa.array([None] * N, pa.string()),
            "raw": pa.array([b"\x00"] * N, pa.binary()),
            "place": pa.array([{"x": 1}] * N, pa.struct([("x", pa.int64())])),
        }
    )


def write_table(table: pa.Table, path: Path) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(table, path)
    else:
        pv.write_csv(table, path)
    return path


def load_configured(path: Path, label: str | None = None) -> tuple[Config, str]:
    text, _, _ = configure(path, label)
    file = path.with_name("config.yaml")
    file.write_text(text)
    return load(file), text


def inputs(config: Config) -> dict[str, dict[str, Any]]:
    dumped = config.columns.model_dump(by_alias=True, exclude_unset=True)
    return {**dumped.get("categorical", {}), **dumped.get("numeric", {})}


def comment(text: str, name: str) -> str:
    line = next(line for line in text.splitlines() if line.strip().lstrip("# ").startswith(f"{name}: "))
    return line.split("  # ")[-1] if "  # " in line else line


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return write_table(events(), tmp_path / "events.parquet")


def test_each_column_has_its_role(table: Path) -> None:
    config, text = load_configured(table)  # "returned" is a common name for a label
    assert (config.columns.key, config.columns.label, config.model.task) == (("event_id",), "returned", "binary")
    derived = {"at_hour", "at_weekday"}  # the times are 17 days
    assert set(config.columns.categorical) == {"country", "member", "user_id", "tags", "genres", "hour", *derived}
    assert inputs(config) == {
        "country": {},
        "member": {},
        "user_id": {},
        "tags": {"bag": True},
        "genres": {"bag": True, "delimiter": "|"},
        "hour": {},
        "price": {"missing_flag": True},
        "income": {"scale": "log1p"},
        "at_hour": {},
        "at_weekday": {},
    }
    for name, reason in {
        "returned_text": "reveals the label: its values are those of returned, one to one",
        "refund": "reveals the label: its numbers separate the values of returned without exception",
        "complaint": "reveals the label: it is filled in (nearly) only where returned is 1",
        "comment": "free text: 400 texts of 9 words on average",
        "at": "a time: 2026-01-01 00:00:00",
        "source": "every row contains web",
        "empty": "null in every row",
        "raw": "binary, which cannot be an input",
        "place": "struct<x: int64>, which cannot be an input",
    }.items():
        assert reason in comment(text, name)
    assert comment(text, "key") == "unique in 400 rows"
    assert comment(text, "price").startswith("float, 360 values from ")
    assert comment(text, "price").endswith(", 10.0% missing")


def test_without_a_label_the_configuration_asks_for_one(tmp_path: Path) -> None:
    path = write_table(events().drop_columns(["returned", "tags", "raw", "place"]), tmp_path / "e.csv")
    with pytest.raises(ConfigError, match=r"columns\.label: this key is required"):
        load_configured(path)
    assert "# label:" in (tmp_path / "config.yaml").read_text()


@pytest.mark.parametrize(
    ("values", "task"),
    [
        ([0, 1], "binary"),
        ([1, 2], "multiclass"),
        (["yes", "no"], "multiclass"),
        ([True, False], "binary"),
        ([1, 2, 3, 4, 5], "multiclass"),
        (list(range(50)), "regression"),
        ([0.5, 1.5], "regression"),
        ([0.0, 1.0], "binary"),
    ],
)
@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_the_task_fits_the_labels(tmp_path: Path, values: list[Any], task: str, ending: str) -> None:
    goal = pa.array([values[int(i)] for i in RNG.integers(0, len(values), N)])
    table = pa.table({"id": np.arange(N), "x": RNG.choice(["a", "b", "c"], N), "goal": goal})
    config, _ = load_configured(write_table(table, tmp_path / f"t.{ending}"), "goal")
    assert config.model.task == task


def test_rows_without_a_usable_label_are_scored_but_not_trained_on(tmp_path: Path) -> None:
    goal = ["a", "b", None, "it's"] * 3 + ["a", "b"] * (N // 2 - 6)
    table = pa.table({"id": np.arange(N), "x": RNG.choice(["a", "b", "c"], N), "the goal": goal})
    config, _ = load_configured(write_table(table, tmp_path / "t.parquet"), "the goal")
    assert config.source.where == r"`the goal` is not null and `the goal` not in ('it\'s')"
    assert config.score.source is not None
    assert (config.score.source.where, config.score.source.path) == (None, str(tmp_path / "t.parquet"))


def test_a_number_that_is_the_label_up_to_scale_or_order_is_left_out(tmp_path: Path) -> None:
    y = RNG.lognormal(3, 1, N)
    table = pa.table(
        {
            "id": np.arange(N),
            "y": y,
            "cents": (100 * y).round(),
            "log": np.log(y),
            "x": RNG.normal(size=N),
            "c": ["u", "v"] * 200,
        }
    )
    config, text = load_configured(write_table(table, tmp_path / "t.parquet"))
    assert set(inputs(config)) == {"x", "c"}
    assert comment(text, "cents") == "reveals the label: it is y up to scale"
    assert comment(text, "log") == "reveals the label: it has the same order as y in every row"


def test_a_combination_of_columns_is_the_key_if_no_column_is_unique(tmp_path: Path) -> None:
    country = np.repeat([f"Land {i}" for i in range(40)], 10)
    year = np.tile(np.arange(2000, 2010), 40)
    more = {"x": RNG.normal(size=N).round(1), "c": RNG.choice(["u", "v"], N), "d": RNG.choice(["u", "v"], N)}
    table = pa.table({"country": country, "year": year, **more, "y": RNG.integers(0, 2, N)})
    config, text = load_configured(write_table(table, tmp_path / "t.csv"))
    assert config.columns.key == ("country", "year")
    assert set(inputs(config)) == {"x", "c", "d"}
    assert comment(text, "key") == "together unique in 400 rows"


def test_users_and_items_remain_inputs_if_a_time_can_be_the_key(tmp_path: Path) -> None:
    pairs = [(u, i) for u in range(20) for i in range(20)]
    table = pa.table(
        {
            "user_id": [u for u, _ in pairs],
            "item_id": [i for _, i in pairs],
            "at": [f"2026-01-{1 + (u + i) % 28:02}" for u, i in pairs],
            "rating": RNG.integers(1, 6, N),
        }
    )
    config, _ = load_configured(write_table(table, tmp_path / "t.csv"), "rating")
    assert config.columns.key == ("at",)
    assert set(inputs(config)) == {"user_id", "item_id"}
    assert set(config.score.columns) <= {"user_id", "item_id"} and config.score.columns
    assert set(config.split.by) == {"at", *config.score.columns}


def test_without_a_unique_combination_the_least_informative_column_is_the_key(tmp_path: Path) -> None:
    y = RNG.integers(0, 2, N)
    table = pa.table(
        {"a": y ^ (RNG.random(N) < 0.1), "b": RNG.integers(0, 3, N), "c": y ^ (RNG.random(N) < 0.2), "y": y}
    )
    config, text = load_configured(write_table(table, tmp_path / "t.csv"))
    assert config.columns.key == ("b",)
    assert "NOT unique" in comment(text, "key")
    assert set(config.split.by) == {"a", "b", "c"}


def test_numbers_alone_enter_the_pooling_in_buckets(tmp_path: Path) -> None:
    table = pa.table(
        {"id": np.arange(N), "x": RNG.normal(size=N), "weight": RNG.normal(size=N), "y": RNG.integers(0, 2, N)}
    )
    config, _ = load_configured(write_table(table, tmp_path / "t.parquet"))
    assert inputs(config) == {
        "x": {},
        "weight_value": {"column": "weight"},  # the dataset has a column weight
        "x_bucket": {"column": "x", "buckets": 16},
        "weight_value_bucket": {"column": "weight", "buckets": 16},
    }


def test_a_commented_split_by_time_can_be_used(table: Path) -> None:
    _, text = load_configured(table)
    line = next(line for line in text.splitlines() if line.startswith("# split: {time: at"))
    changed = text.replace("\nsplit:", "\n# split:").replace(line, line.removeprefix("# "))
    file = table.with_name("changed.yaml")
    file.write_text(changed)
    # 400 hours from the 1st: 70 % of the rows are before the 12th, 80 % before the 14th.
    assert load(file).split.model_dump(exclude_unset=True) == {
        "time": "at", "valid_from": "2026-01-12", "test_from": "2026-01-14",
    }  # fmt: skip


def test_folders_of_parquet_files_are_sampled_from_all_files(tmp_path: Path) -> None:
    folder = tmp_path / "days"
    for day in range(5):
        (folder / f"day={day}").mkdir(parents=True)
        part = pa.table({"id": np.arange(80) + 80 * day, "x": [f"only {day}"] * 80, "y": np.arange(80) % 2})
        pq.write_table(part, folder / f"day={day}/part.parquet", row_group_size=20)
    config, text = load_configured(folder)
    assert config.source.model_dump(exclude_unset=True) == {"format": "parquet", "path": str(folder)}
    assert comment(text, "x") == "text, 5 values ('only 0', 'only 1', 'only 2', …)"
    assert set(config.columns.categorical) == {"x", "day"}


@given(
    st.lists(
        st.text(st.characters(exclude_categories=("Cs", "Cc", "Zl", "Zp")), min_size=1, max_size=150),
        min_size=1,
        max_size=4,
    )
)
def test_every_name_round_trips_through_the_yaml(names: list[str]) -> None:
    lines = [_yaml(name, {"min_count": 2}) for name in dict.fromkeys(names)]
    assert yaml.safe_load("\n".join(lines)) == {name: {"min_count": 2} for name in names}


@pytest.mark.parametrize(
    "name", ["yes", "on", "null", "1", "1e3", "a: b", "#x", "~", "- a", "{x}", "'", '"', "Größe", "a.b"]
)
def test_odd_names_round_trip_through_the_file(tmp_path: Path, name: str) -> None:
    table = pa.table({"id": np.arange(N), name: ["u", "v"] * 200, "y": RNG.integers(0, 2, N)})
    config, _ = load_configured(write_table(table, tmp_path / "t.parquet"))
    assert inputs(config) == {name: {}}


def test_a_label_is_guessed_only_from_an_unambiguous_name() -> None:
    def guess(**columns: list[Any]) -> str | None:
        facts = {n: inspect_column(n, pa.chunked_array([pa.array(v)])) for n, v in columns.items()}
        label = find_label(facts, None)
        return label.column.name if label else None

    binary, many = [0, 1] * 20, list(range(40))
    assert guess(x=binary, churned=binary) == "churned"
    assert guess(x=binary, is_fraud=binary) == "is_fraud"
    assert guess(clicked=binary, label=binary) == "label"
    assert guess(clicked=binary, churned=binary) is None
    assert guess(clicked=many, x=binary) is None
    assert guess(target=many, x=binary) == "target"
    assert guess(x=binary, z=many) is None


@pytest.mark.parametrize("largest", [np.inf, 1e308])
def test_infinite_and_huge_numbers_are_described_without_warnings(tmp_path: Path, largest: float) -> None:
    numbers = np.append(np.arange(N - 1) / 7, largest)
    table = pa.table({"id": np.arange(N), "x": numbers, "c": ["a", "b"] * 200, "y": [0, 0, 1, 1] * 100})
    config, _ = load_configured(write_table(table, tmp_path / "t.parquet"), "y")
    assert config.columns.numeric["x"].clip == (None if largest == np.inf else (0.01, 0.99))


def test_unusual_columns_are_described(tmp_path: Path) -> None:
    amounts = [30 + i % 97 / 10 for i in range(N - 3)] + [-1500.0, 250_000.0, 999_999.0]
    table = pa.table(
        {
            "id": np.arange(N),
            "zip": pa.array([None if i % 50 == 3 else f"{i % 60 + 500:05}" for i in range(N)]),
            "amount": amounts,
            "price": [f"€{1000 + i % 97:,}.50" for i in range(N)],
            "returned": ["yes", "no"] * 200,
        }
    )
    config, text = load_configured(write_table(table, tmp_path / "t.csv"))
    assert inputs(config)["amount"] == {"clip": (0.01, 0.99)}
    assert comment(text, "zip").startswith("digits with leading zeros, 60 values (00500, ")
    assert comment(text, "price").endswith("; numbers with a symbol: convert them in the source to use a number")
    assert config.model.task == "multiclass"
    assert comment(text, "label").endswith("; for a binary model, write the label as 0 and 1 in the table")
    assert "# score: {gates: {max_psi: 0.25, min_rows: 200}}" in text
    assert config.score.gates.limits == {}  # a suggestion, in a comment
