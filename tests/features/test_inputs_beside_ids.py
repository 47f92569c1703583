"""Bins of numbers and parts of the train fold in the dataset, compared with pandas; both scans give the same."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from nfm.config.settings import Config
from nfm.contract.encoder import Encoding
from nfm.contract.errors import DataError
from nfm.features.dataset import Growth, build, prepare
from tests.features.examples import config

COUNT = 900


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table whose number has a frequent value, nulls, NaN and ±inf; users have several rows."""
    rng = np.random.default_rng(1)
    x = np.where(rng.random(COUNT) < 0.5, 0.0, rng.lognormal(0, 2, COUNT))
    x[::90], x[1::90], x[2::90] = np.nan, np.inf, -np.inf
    users, labels = rng.integers(0, 200, COUNT), rng.integers(0, 2, COUNT)
    table = pd.DataFrame({"id": range(COUNT), "user": users, "x": x, "y": labels})
    table["x"] = table.x.mask(rng.random(COUNT) < 0.05).astype("Float64")
    path = tmp_path_factory.mktemp("raw")
    table.to_parquet(path / "a.parquet", row_group_size=200)
    return path


def settings(workdir: Path, raw: Path, scan: str = "auto", **x: Any) -> Config:
    number = {"as": "bins", "bins": 6, "scale": "log1p", **x}
    columns = {"key": ("id",), "label": "y", "categorical": {"user": {}}, "numeric": {"x": number}}
    source = {"path": str(raw), "scan": scan}
    return config(workdir, raw, columns=columns, source=source, split={"by": ("user",), "valid": 0.2, "test": 0.2})


def read(of: Config) -> pd.DataFrame:
    frames = [
        pq.ParquetFile(path).read().to_pandas().assign(fold=path.parent.name.removeprefix("fold="))
        for path in of.dataset_folder.glob("fold=*/*.parquet")
    ]
    rows: pd.DataFrame = pd.concat(frames).sort_values("id").reset_index(drop=True)
    return rows


@pytest.fixture(scope="module")
def built(spark: SparkSession, raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Config:
    made = settings(tmp_path_factory.mktemp("shop"), raw)
    build(spark, made)
    return made


def test_bins_equal_numpy(built: Config, raw: Path) -> None:
    rows, x = read(built), pd.read_parquet(raw).x.astype(float).to_numpy()
    x = np.where(np.isfinite(x), x, np.nan)
    values, counts = np.unique(x[(rows.fold == "train") & ~np.isnan(x)], return_counts=True)
    # Each value weighs the square root of its rows, in the middle of its interval; places at even distances.
    middles = np.cumsum(np.sqrt(counts)) - np.sqrt(counts) / 2
    edges = [values[np.flatnonzero(middles >= place - 1e-9)[0]] for place in np.linspace(middles[0], middles[-1], 6)]
    (number,) = Encoding.load(built.encoding_folder).spec.numbers
    assert number.edges == tuple(edges)
    assert len(set(edges)) == 6
    missing = np.isnan(x)
    assert missing.sum() > 60
    assert not rows.x_bin[missing].any()
    position = np.interp(x[~missing], edges, np.arange(1.0, 7))
    np.testing.assert_allclose((rows.x_bin + rows.x_fraction.astype(float))[~missing], position, atol=1e-6)
    np.testing.assert_allclose(rows.x[~missing], np.sign(x)[~missing] * np.log1p(np.abs(x[~missing])), rtol=1e-6)


def test_both_scans_give_the_same_bits(spark: SparkSession, built: Config, raw: Path, tmp_path: Path) -> None:
    other = settings(tmp_path, raw, "spark")
    build(spark, other)
    pd.testing.assert_frame_equal(read(other), read(built), check_exact=True)
    fingerprints = {Encoding.load(of.encoding_folder).spec.fingerprint for of in (built, other)}
    assert len(fingerprints) == 1


def test_rows_that_belong_together_are_in_one_part(built: Config, raw: Path) -> None:
    rows = read(built).assign(user=pd.read_parquet(raw).user)
    assert rows.groupby("user").rate_part.nunique().max() == 1
    shares = rows.groupby("user").rate_part.first().value_counts(normalize=True)
    assert sorted(shares.index) == [0, 1, 2, 3, 4]
    assert shares.between(0.1, 0.3).all()
    # A part says nothing about the fold.
    assert (rows.groupby("rate_part").fold.nunique() == 3).all()


def test_growth_keeps_the_edges(spark: SparkSession, built: Config, raw: Path, tmp_path: Path) -> None:
    larger = pd.read_parquet(raw)
    larger["x"] = larger.x + 100
    (tmp_path / "raw").mkdir()
    larger.to_parquet(tmp_path / "raw/a.parquet")
    old = Encoding.load(built.encoding_folder).spec.numbers[0]
    for refresh in (False, True):
        new = settings(tmp_path / str(refresh), tmp_path / "raw", scale="standard" if refresh else "log1p")
        build(spark, new, prepare(spark, new, Growth(built.encoding_folder, refresh)))
        grown = Encoding.load(new.encoding_folder).spec.numbers[0]
        assert grown.edges == old.edges
        assert (grown.divisor != old.divisor) == refresh
    dense: Any = {"as": "dense", "bins": 32}
    without = settings(tmp_path / "dense", raw, **dense)
    with pytest.raises(DataError, match=r'cannot grow: its numbers differ .*x\.as was "bins" and is "dense"'):
        prepare(spark, without, Growth(built.encoding_folder, False))
