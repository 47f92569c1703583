"""The health report and the gates on a real Spark session, compared with pandas over the same table."""

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from nfm.config.settings import Config
from nfm.contract import artifact
from nfm.contract.artifact import Artifact
from nfm.contract.cells import count_cells
from nfm.contract.encoder import Encoding
from nfm.contract.errors import ConfigError, GateError
from nfm.contract.profile import Bins, Profile, make_id_bins
from nfm.features.dataset import build
from nfm.scoring.score import score_table
from nfm.scoring.summary import summary
from tests.scoring.examples import NETWORK

SCHEMA = pa.schema(
    [
        ("id", pa.int64()),
        ("colour", pa.string()),
        ("tags", pa.list_(pa.string())),
        ("account", pa.int64()),
        ("size", pa.int64()),
        ("price", pa.float64()),
        ("label", pa.int64()),
    ]
)
COLOURS = [f"c{i}" for i in range(12)]
SCANS = pytest.mark.parametrize("scan", ["parquet", "spark"])


def day(seed: int, rows: int = 3000, shifted: bool = False) -> pd.DataFrame:
    """Return a day's table. If `shifted`, frequent colours are rare and vice versa, some are new, prices double."""
    random = np.random.default_rng(seed)
    place = np.minimum(random.geometric(0.3, rows) - 1, 11)
    colour: Any = np.array([*COLOURS, "new", "newer"], object)[np.where(shifted, 13 - place, place)]
    sizes = random.integers(0, 4, rows)
    price = random.lognormal(1, 0.5, rows) * (2 if shifted else 1)
    return pd.DataFrame(
        {
            "id": np.arange(rows) + seed * rows,
            "colour": pd.Series(colour).mask(random.random(rows) < 0.05, None),
            "tags": [None if n == 3 else [f"t{t}" for t in random.geometric(0.5, n)] for n in sizes],
            "account": random.integers(0, 5000, rows),
            "size": random.integers(0, 4, rows),
            "price": np.where(random.random(rows) < 0.1, np.nan, price.round(2)),
            "label": random.integers(0, 2, rows),
        }
    )


def write(frame: pd.DataFrame, folder: Path, files: int = 4) -> Path:
    folder.mkdir(parents=True)
    for i, part in enumerate(np.array_split(np.arange(len(frame)), files)):
        table = pa.Table.from_pandas(frame.iloc[part], SCHEMA, preserve_index=False)
        pq.write_table(table, folder / f"{i}.parquet", row_group_size=211)
    return folder


def config(workdir: Path, source: Path, scan: str = "auto", **score: Any) -> Config:
    return Config.model_validate(
        {
            "name": "shop",
            "workdir": str(workdir),
            "source": {"path": str(source), "scan": scan},
            "columns": {
                "key": ("id",),
                "label": "label",
                "categorical": {
                    "colour": {"oov_buckets": 2},
                    "tags": {"bag": True},
                    "account": {"hash_buckets": 40},
                },
                "numeric": {"price": {"as": "field", "scale": "log1p"}, "size": {"buckets": 3}},
            },
            "split": {"valid": 0.0, "test": 0.0},
            "train": {"early_stopping": None},
            "score": score,
        }
    )


@pytest.fixture(scope="module")
def made(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Working folder with a model whose profile NumPy counted from its dataset and its scores."""
    folder = tmp_path_factory.mktemp("health")
    settings = config(folder, write(day(0), folder / "trained"))
    build(spark, settings)
    encoding = Encoding.load(folder / "encoding")
    rng = np.random.default_rng(3)
    shapes = NETWORK.weight_shapes(encoding.spec)
    weights = {name: rng.normal(0, 0.3, shape).astype(np.float32) for name, shape in shapes.items()}

    def save(profile: Profile | None) -> None:
        artifact.save(
            folder / "model",
            encoding_folder=folder / "encoding",
            network=NETWORK,
            weights=weights,
            facts={"name": "shop"},
            write_more=lambda to: None if profile is None else profile.save(to),
        )

    save(None)
    score_table(spark, settings)
    scored = read_scores(folder / "scores")["score"].to_numpy().astype(float)
    dataset = pd.read_parquet(folder / "dataset/fold=train")
    fields = {}
    for field in encoding.spec.fields:
        ids = dataset[field.name].explode().dropna().to_numpy(int) if field.bag else dataset[field.name].to_numpy()
        fields[field.name] = make_id_bins(field, np.bincount(ids, minlength=field.size).astype(float))

    def to_cells(x: Any) -> Any:
        return count_cells(np.asarray(x, float), np.zeros(len(x), np.int64), 1)

    save(Profile(fields, {"price": Bins.from_cells(to_cells(dataset["price"]))}, "valid", (to_cells(scored),)))
    return folder


def read_scores(folder: Path) -> pd.DataFrame:
    return pd.concat([pd.read_parquet(path) for path in sorted(folder.glob("*.parquet"))])


def psi(expected: Any, actual: Any) -> float:
    """Return the PSI of two pandas Series of categories or intervals."""
    shares = pd.DataFrame({"e": expected.value_counts(), "a": actual.value_counts()}).fillna(0.0)
    shares = (shares.clip(lower=0.5) / shares.sum()).clip(lower=1e-4)
    return float(((shares.a - shares.e) * np.log(shares.a / shares.e)).sum())


@SCANS
def test_the_report_agrees_with_pandas(spark: SparkSession, made: Path, tmp_path: Path, scan: str) -> None:
    tonight = day(1, shifted=True)
    settings = config(made, write(tonight, tmp_path / "raw"), scan, output=str(tmp_path / "scores"))
    report = score_table(spark, settings)
    assert report == json.loads((tmp_path / "scores/_report.json").read_text())
    values, before = report["values"], day(0)

    colour, trained = tonight["colour"], before["colour"]
    unseen = colour.notna() & ~colour.isin(trained.dropna().unique())
    assert report["rows"] == values["colour"]["values"] == 3000
    assert values["colour"]["missing"]["count"] == colour.isna().sum() > 50
    assert values["colour"]["missing"]["rate"] == colour.isna().mean()
    assert values["colour"]["missing"]["rate_in_training"] == trained.isna().mean()
    assert values["colour"]["out_of_vocabulary"]["count"] == unseen.sum() > 100
    assert values["colour"]["out_of_vocabulary"]["rate"] == unseen.mean()
    assert values["colour"]["new_values"] == [
        {"value": value, "count": count} for value, count in colour[unseen].value_counts().items()
    ]
    assert values["colour"]["new_values_exact"] is True
    binned = [x.fillna("missing").where(~x.isin(["new", "newer"]), "unseen") for x in (trained, colour)]
    rare = [name for name in COLOURS if (trained == name).mean() < 0.02]  # they share bins, which are not compared here
    assert len(rare) < 6
    assert values["colour"]["psi"] > 1
    edges, counts = values["colour"]["bins"]["edges"], values["colour"]["bins"]["counts"]
    assert (sum(counts), counts[0], counts[1]) == (3000, colour.isna().sum(), unseen.sum())
    # Ids are ordered by frequency in training, so a bin with one id has one colour.
    ranked = trained.value_counts().sort_index(kind="stable").sort_values(ascending=False, kind="stable").index
    assert edges[:2] == [1, 3]
    for low, high, count in zip(edges[1:], [*edges[2:], 3 + len(ranked)], counts[2:], strict=True):
        assert count == colour.isin(ranked[low - 3 : high - 3]).sum()
    bins = enumerate(zip(edges[1:], [*edges[2:], 99], strict=True))
    groups = {name: i for i, (low, high) in bins for name in ranked[low - 3 : high - 3]}
    groups |= {"missing": -2, "unseen": -1}
    names = values["colour"]["bins"]["names"]
    assert names[:4] == ["missing", "out-of-vocabulary", *ranked[:2]]
    assert len(names) == len(counts)
    assert values["colour"]["psi"] == pytest.approx(psi(*(x.map(groups) for x in binned)))

    members = tonight["tags"].explode()[tonight["tags"].map(lambda x: x is None or len(x) > 0)]
    assert values["tags"]["values"] == len(members)
    assert values["tags"]["missing"]["count"] == tonight["tags"].isna().sum() > 100
    assert 0 < values["tags"]["psi"] < 0.1
    account, size = (values[name]["bins"]["names"] for name in ("account", "size"))
    assert (account[0], size) == ("missing", ["missing", "id 1", "id 2", "id 3"])  # buckets of a number
    assert re.fullmatch(r"ids? 1(–\d+)?", account[1])
    assert account[-1].endswith("40")
    assert "out_of_vocabulary" not in values["account"]  # a hashed field takes every value
    assert values["account"]["missing"] == {"count": 0, "rate": 0.0, "rate_in_training": 0.0}
    assert values["account"]["psi"] < 0.05
    assert values["size"]["psi"] < 0.05

    price, price_before = tonight["price"], before["price"]
    assert values["price"]["missing"]["rate"] == pytest.approx(price.isna().mean())
    cuts = [-math.inf, *values["price"]["bins"]["edges"], math.inf]
    impute = Encoding.load(made / "encoding").spec.numbers[0].impute
    assert impute == pytest.approx(price_before.mean(), rel=1e-3)
    encoded = [np.log1p(x.fillna(impute)).astype(np.float32) for x in (price_before, price)]
    assert values["price"]["psi"] == pytest.approx(psi(*(pd.cut(x, cuts, right=False) for x in encoded)))
    assert values["price"]["psi"] > 0.25
    first = float(values["price"]["bins"]["names"][0].removeprefix("< "))  # a value of the raw table
    assert first == pytest.approx(math.expm1(values["price"]["bins"]["edges"][0]), rel=0.01)

    scores, trained_scores = read_scores(tmp_path / "scores")["score"], read_scores(made / "scores")["score"]
    score_report = report["score"]
    assert (score_report["min"], score_report["max"]) == (scores.min(), scores.max())
    assert score_report["mean"] == pytest.approx(scores.astype(float).mean(), rel=1e-9)
    for q, value in score_report["quantiles"].items():
        assert value == pytest.approx(scores.astype(float).quantile(float(q)), rel=1e-12)
    edges = sorted({float(trained_scores.quantile(i / 10)) for i in range(1, 10)})
    assert score_report["psi"] == pytest.approx(
        psi(*(pd.cut(x, [-1, *edges, 2]) for x in (trained_scores, scores))), rel=0.05
    )  # deciles may differ by one row
    assert score_report["reference"]["fold"] == "valid"
    assert score_report["reference"]["rows"] == 3000
    assert sum(score_report["histogram"]["counts"]) == sum(score_report["reference"]["histogram"]["counts"]) == 3000
    assert score_report["histogram"]["edges"] == score_report["reference"]["histogram"]["edges"]
    assert "  drift     " in summary(settings, report)


def test_both_scans_and_the_dataset_give_equal_counts(spark: SparkSession, made: Path, tmp_path: Path) -> None:
    raw = write(day(2, shifted=True), tmp_path / "raw")
    reports = [
        dict(score_table(spark, config(made, raw, scan, output=str(tmp_path / scan)))) for scan in ("parquet", "spark")
    ]
    for report in reports:
        for changing in ("created", "publication", "scan"):
            del report[changing]
        report["score"]["mean"] = round(report["score"]["mean"], 9)  # sums are in another order
    assert reports[0] == reports[1]
    raw_report = score_table(spark, config(made, made / "trained", output=str(tmp_path / "scores")))
    encoded = score_table(
        spark, config(made, made / "dataset/fold=train", encoded=True, output=str(tmp_path / "encoded"))
    )
    for name, column in raw_report["values"].items():
        assert encoded["values"][name]["psi"] == column["psi"] == 0, name
        assert encoded["values"][name]["bins"] == column["bins"]
    assert encoded["score"]["psi"] == raw_report["score"]["psi"] < 1e-3


@SCANS
def test_a_drifted_day_is_refused_and_a_reshuffled_one_is_not(
    spark: SparkSession, made: Path, tmp_path: Path, scan: str
) -> None:
    gates = {"max_psi": 0.25, "max_field_psi": 0.25, "max_oov_rate": 0.01}
    output = {"output": str(tmp_path / "scores"), "gates": gates}
    usual = day(4)
    score_table(spark, config(made, write(usual, tmp_path / "usual"), scan, **output))
    before = {path.name: path.read_bytes() for path in (tmp_path / "scores").iterdir()}

    with pytest.raises(GateError) as refused:
        score_table(spark, config(made, write(day(5, shifted=True), tmp_path / "shifted"), scan, **output))
    assert refused.value.exit_code == 4
    lines = str(refused.value).splitlines()
    assert lines[0].endswith("shifted does not pass the gates, and its scores are not published:")
    assert lines[1].startswith("  the PSI of 'score' against the valid fold is ")
    assert lines[1].endswith("; score.gates.max_psi is 0.25")
    assert lines[2].startswith("  the PSI of 'colour' against the train fold is ")
    assert re.search(
        r"\d% of the values of 'colour' are out-of-vocabulary \(0\.0% in training\); .*\.max_oov_rate is 0\.01",
        str(refused.value),
    )
    assert "tags" not in str(refused.value)
    assert {path.name: path.read_bytes() for path in (tmp_path / "scores").iterdir()} == before
    report = json.loads((tmp_path / "_refused_scores/_report.json").read_text())
    assert {(one["gate"], one["of"]) for one in report["gates"]["crossed"]} == {
        ("max_psi", "score"),
        ("max_field_psi", "colour"),
        ("max_field_psi", "price"),
        ("max_oov_rate", "colour"),
    }
    assert str(tmp_path / "_refused_scores") in lines[-2]
    every = "score.gates.max_psi=null score.gates.max_field_psi=null score.gates.max_oov_rate=null"
    assert f"run the job again with --set {every}:" in lines[-1]

    shuffled = usual.sample(frac=1, random_state=1)
    report = dict(score_table(spark, config(made, write(shuffled, tmp_path / "shuffled", 7), scan, **output)))
    assert report["gates"] == {"limits": gates, "crossed": []}
    assert not (tmp_path / "_refused_scores").exists()  # an accepted table deletes the report of the refusal
    assert not list(tmp_path.glob(".scores.chunks-*"))


def test_a_refused_table_is_published_without_the_gate_and_not_scored_again(
    spark: SparkSession, made: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    raw = write(day(6, shifted=True), tmp_path / "ds=2026-11-20")
    output = {"output": str(tmp_path / "scores/ds=2026-11-20")}
    with pytest.raises(GateError):
        score_table(spark, config(made, raw, gates={"max_psi": 0.25}, **output))
    # Readers of the parent folder ignore the report.
    assert sorted(path.name for path in (tmp_path / "scores").iterdir() if path.name[0] not in "._") == []
    assert (tmp_path / "scores/_refused_ds-2026-11-20/_report.json").exists()
    with caplog.at_level("INFO", logger="nfm"):
        score_table(spark, config(made, raw, gates={"max_psi": None}, **output))
    assert "an earlier run has already scored 3,000 rows" in caplog.text
    assert spark.read.parquet(str(tmp_path / "scores")).count() == 3000


def test_a_large_psi_of_few_rows_does_not_close_a_gate(spark: SparkSession, made: Path, tmp_path: Path) -> None:
    few = day(7, rows=40)
    gates = {"max_psi": 0.05, "max_field_psi": 0.05}
    report = score_table(
        spark, config(made, write(few, tmp_path / "raw"), output=str(tmp_path / "scores"), gates=gates)
    )
    assert max(column["psi"] for column in report["values"].values()) > 0.05  # by chance alone
    assert report["score"]["psi_by_chance"] > 0.5


def test_too_few_rows_and_no_rows_are_refused(spark: SparkSession, made: Path, tmp_path: Path) -> None:
    nothing = write(day(8).head(0), tmp_path / "raw", 1)
    for gates in ({"min_rows": 1}, {"max_psi": 0.1}):  # without rows, no rate is known, so no gate is passed
        with pytest.raises(GateError, match=r"the table has no rows; score\.gates\.min_rows is 1\n"):
            score_table(spark, config(made, nothing, output=str(tmp_path / "scores"), gates=gates))
    report = score_table(
        spark,
        config(
            made, nothing, output=str(tmp_path / "scores"), gates={"max_psi": 0.1, "max_oov_rate": 0, "min_rows": 0}
        ),
    )
    assert (report["rows"], report["score"]["psi"], report["values"]["colour"]["psi"]) == (0, None, None)
    assert report["values"]["colour"]["missing"]["rate"] is None


def test_a_gate_needs_a_profile(spark: SparkSession, made: Path, tmp_path: Path) -> None:
    model = Artifact.load(made / "model")
    artifact.save(
        tmp_path / "model",
        encoding_folder=made / "encoding",
        network=model.network,
        weights=dict(model.weights),
        facts={"name": "shop"},
        write_more=lambda _: None,
    )
    with pytest.raises(ConfigError, match=r"^score\.gates\.max_psi: 0\.25 given, but the model .* without a profile"):
        score_table(spark, config(made, made / "trained", model=str(tmp_path / "model"), gates={"max_psi": 0.25}))
