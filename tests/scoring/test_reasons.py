"""Reason codes, compared with brute force: the same rows scored again with one column null."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from pyspark.sql import SparkSession

import nfm.scoring
from nfm.config.settings import Config
from nfm.contract import artifact
from nfm.contract.artifact import Artifact, Network
from nfm.contract.dataset import arrange_inputs
from nfm.contract.encoder import Encoding
from nfm.contract.schema import Field, Spec
from nfm.features.dataset import build
from nfm.forward.rows import score
from nfm.scoring import reasons as module
from nfm.scoring.reasons import reason_arrays, score_and_effects

CLASSES = ("a", "b", "c")
NETWORKS = {
    "machine": Network("binary", 5, (), "relu"),
    "two layers": Network("binary", 70, (7, 4), "relu"),
    "float16": Network("binary", 5, (6,), "tanh", (), "float16"),
    "regression": Network("regression", 5, (6,), "relu"),
    "regression, float16 machine": Network("regression", 5, (), "relu", (), "float16"),
    "classes": Network("multiclass", 5, (6, 3), "sigmoid", CLASSES),
}
REASONS = ["colour", "size", "pair", "last", "url", "tags", "kinds", "depth", "age", "price", "mass", "km"]
# Fields and numbers that share no raw column, with that column.
ALONE = {"last": "last", "url": "url", "kinds": "kinds", "depth": "depth", "age": "age", "price": "price"}
ALONE |= {"mass": "mass", "km": "km"}


def raw_table(count: int, seed: int) -> pa.Table:
    """Return a table with every kind of field, each with nulls, out-of-vocabulary values and empty bags."""
    random = np.random.default_rng(seed)

    def with_nulls(make: Any) -> list[Any]:
        return [None if random.random() < 0.15 else make() for _ in range(count)]

    def texts(values: str) -> list[Any]:
        return with_nulls(lambda: random.choice(list(values)))

    tags = with_nulls(
        lambda: [["x", "y", None, f"n{seed}"][random.integers(0, 4)] for _ in range(random.integers(0, 4))]
    )
    columns = {
        "id": list(range(count)),
        "colour": texts("rgb" + str(seed)),
        "size": with_nulls(lambda: int(random.integers(0, 3 + seed))),
        "last": texts("rgb"),
        "url": texts("uvwxyz"),
        "tags": tags,
        "tag_weights": [None if tag is None else random.normal(size=len(tag)).tolist() for tag in tags],
        "kinds": with_nulls(lambda: ",".join(random.choice(list("kl"), random.integers(0, 3)))),
        "depth": with_nulls(lambda: float(random.normal())),
        "age": with_nulls(lambda: random.choice([float(random.normal()), math.nan])),
        "price": with_nulls(lambda: float(random.normal(3))),
        "mass": with_nulls(lambda: float(random.normal(3))),
        "km": with_nulls(lambda: float(random.lognormal())),
        "label": [i % 2 for i in range(count)],
    }
    return pa.table(columns)


def settings(workdir: Path, source: Path) -> Config:
    return Config.model_validate(
        {
            "name": "kinds",
            "workdir": str(workdir),
            "source": {"path": str(source)},
            "columns": {
                "key": ("id",),
                "label": "label",
                "categorical": {
                    "colour": {},
                    "size": {"oov_buckets": 2},
                    "pair": {"cross": ("colour", "size")},
                    "last": {"share_with": "colour"},
                    "url": {"hash_buckets": 5},
                    "tags": {"bag": True, "weights": "tag_weights"},
                    "kinds": {"bag": True},
                },
                "numeric": {
                    "depth": {"buckets": 3},
                    "age": {"as": "field", "missing_flag": True, "clip": (0.1, 0.9)},
                    "price": {"as": "dense", "missing_flag": True},
                    "mass": {"as": "dense", "impute": "median", "scale": "minmax"},
                    "km": {"as": "field", "scale": "log1p"},
                },
            },
            "split": {"valid": 0.0, "test": 0.0},
            "train": {"early_stopping": None},
        }
    )


@pytest.fixture(scope="module")
def kinds(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Working folder with a model for each network."""
    folder = tmp_path_factory.mktemp("kinds")
    (folder / "raw").mkdir()
    pa.parquet.write_table(raw_table(200, 1), folder / "raw/a.parquet")
    build(spark, settings(folder, folder / "raw"))
    spec, random = Encoding.load(folder / "encoding").spec, np.random.default_rng(5)
    for name, network in NETWORKS.items():
        shapes = network.weight_shapes(spec)
        artifact.save(
            folder / name,
            encoding_folder=folder / "encoding",
            network=network,
            weights={n: random.normal(scale=0.4, size=shape).astype(np.float32) for n, shape in shapes.items()},
            facts={"name": "kinds"},
            write_more=lambda _: None,
        )
    return folder


def own_class(scores_BC: NDArray[np.float32], plain_BC: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return (B,) scores for the class that is each row's highest in `plain_BC`."""
    rows, highest = np.arange(len(plain_BC)), plain_BC.reshape(len(plain_BC), -1).argmax(axis=1)
    highest_scores: NDArray[np.float64] = scores_BC.reshape(len(plain_BC), -1)[rows, highest].astype(np.float64)
    return highest_scores


def encode_without(model: Artifact, table: pa.Table, reason: str) -> dict[str, Any]:
    """Return the encoded rows, with one field or number encoded as if its column were null."""
    encoding = model.encoding
    columns = encoding.encode(table.combine_chunks().to_batches()[0])
    nulls = pa.table({name: pa.nulls(len(table), table.schema.field(name).type) for name in table.column_names})
    null_columns = encoding.encode(nulls.to_batches()[0])
    (feature,) = (f for features in (encoding.spec.fields, encoding.spec.numbers) for f in features if f.name == reason)
    return columns | {name: null_columns[name] for name in feature.outputs}


def raw_scores(scorer: Any, table: pa.Table) -> NDArray[np.float32]:
    scored = scorer.score(table)
    return np.column_stack(scored.columns) if isinstance(scored, pa.Table) else scored.to_numpy()


def reasons_by_row(scored: pa.Table, rows: int) -> Iterator[dict[str, float]]:
    """Yield each row's reasons in order; check that only nulls follow the last reason."""
    reasons = [(scored[f"reason_{i}"].to_pylist(), scored[f"reason_{i}_effect"].to_pylist()) for i in range(1, 13)]
    for row in range(rows):
        pairs = [(names[row], effects[row]) for names, effects in reasons]
        present = [pair for pair in pairs if pair != (None, None)]
        assert pairs[: len(present)] == present
        assert all(name is not None and effect is not None for name, effect in present)
        yield dict(present)


@pytest.mark.parametrize("name", NETWORKS)
def test_effects_equal_the_brute_force(kinds: Path, name: str) -> None:
    scorer, table = nfm.scoring.load(kinds / name), raw_table(250, 2)  # 12 reasons and 250 rows fill several tiles
    model = scorer.artifact
    assert [
        f.name for features in (model.encoding.spec.fields, model.encoding.spec.numbers) for f in features
    ] == REASONS
    scored, plain = scorer.score(table, explain=12), raw_scores(scorer, table)
    names = [column for column in scored.column_names if not column.startswith("reason")]
    np.testing.assert_array_equal(np.column_stack([scored[n] for n in names]).reshape(plain.shape), plain)

    actual = list(reasons_by_row(scored, len(table)))
    assert all(list(map(abs, row.values())) == sorted(map(abs, row.values()), reverse=True) for row in actual)
    for reason in REASONS:
        arranged = arrange_inputs(model.encoding.spec, encode_without(model, table, reason))
        without = score(model.encoding.spec, model.network, model.weights, arranged)
        expected = own_class(plain, plain) - own_class(without, plain)
        actual_effects = np.array([row.get(reason, 0.0) for row in actual])
        np.testing.assert_allclose(actual_effects, expected, atol=1e-5, rtol=1e-5, err_msg=reason)
        assert np.count_nonzero(actual_effects) > 100  # of 250 rows; most others have a null
        if reason in ALONE:
            at = table.column_names.index(ALONE[reason])
            nulls = pa.nulls(len(table), table.schema.field(at).type)
            rescored = raw_scores(scorer, table.set_column(at, ALONE[reason], nulls))
            expected = own_class(plain, plain) - own_class(rescored, plain)
            np.testing.assert_allclose(actual_effects, expected, atol=1e-5, rtol=1e-5, err_msg=f"{reason}, raw")
        # A missing value is not a reason: setting it to null changes nothing.
        is_null = np.array([value is None or value != value for value in column_of(table, reason)])
        assert is_null.sum() > 10
        assert not actual_effects[is_null].any()


def column_of(table: pa.Table, reason: str) -> list[Any]:
    if reason == "pair":  # the pair is null if one of its values is
        pairs = zip(table["colour"].to_pylist(), table["size"].to_pylist(), strict=True)
        return [None if None in pair else pair for pair in pairs]
    return list(table[reason].to_pylist())


def test_a_bag_set_to_null_in_the_raw_table(kinds: Path) -> None:
    """The weights are set to null, too, because they have one entry for each member."""
    scorer, table = nfm.scoring.load(kinds / "two layers"), raw_table(100, 3)
    nulls = table
    for column in ("tags", "tag_weights"):
        at = table.column_names.index(column)
        nulls = nulls.set_column(at, column, pa.nulls(len(table), table.schema.field(at).type))
    expected = raw_scores(scorer, table) - raw_scores(scorer, nulls)
    actual = [row.get("tags", 0.0) for row in reasons_by_row(scorer.score(table, explain=12), len(table))]
    np.testing.assert_allclose(actual, expected, atol=1e-5)


def test_a_row_without_values_has_no_reasons(kinds: Path) -> None:
    table = raw_table(3, 2)
    nulls = pa.table({name: pa.nulls(3, table.schema.field(name).type) for name in table.column_names})
    for name in NETWORKS:
        scored = nfm.scoring.load(kinds / name).score(nulls, explain=2)
        assert [scored[f"reason_{i}{suffix}"].null_count for i in (1, 2) for suffix in ("", "_effect")] == [3] * 4


def test_threads_and_other_rows_do_not_change_effects(kinds: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, table = Artifact.load(kinds / "classes"), raw_table(700, 2)
    rows = arrange_inputs(model.encoding.spec, model.encoding.encode(table.to_batches()[0]))
    scores_BC, effects_BR = score_and_effects(model.encoding.spec, model.network, model.weights, rows)
    np.testing.assert_array_equal(scores_BC, score(model.encoding.spec, model.network, model.weights, rows))
    for tile in (90, 1):  # even a tile of one row takes a row with its variants
        monkeypatch.setattr(module, "TILE", tile)
        for threads in (1, 3):
            again = score_and_effects(model.encoding.spec, model.network, model.weights, rows, threads)
            np.testing.assert_array_equal(again[0], scores_BC)
            np.testing.assert_array_equal(again[1], effects_BR)


def test_more_fields_than_a_tile_has_rows() -> None:
    fields = tuple(Field(f"f{i}", (f"f{i}",), ("text",), 1, 2, f"f{i}") for i in range(1500))
    spec, network = Spec(("id",), fields, (), ()), Network("regression", 2, (), "relu")
    random = np.random.default_rng(1)
    weights = {
        name: random.normal(scale=0.02, size=shape).astype(np.float32)
        for name, shape in network.weight_shapes(spec).items()
    }
    ids_BF = random.integers(0, 4, (3, 1500)).astype(np.int32)
    rows = arrange_inputs(spec, {field.name: ids_BF[:, i] for i, field in enumerate(fields)})
    scores_B, effects_BR = score_and_effects(spec, network, weights, rows)
    np.testing.assert_array_equal(scores_B, score(spec, network, weights, rows))
    for i in (0, 700, 1023, 1024, 1499):
        changed = rows.ids_BF.copy()
        changed[:, i] = 0
        without = score(spec, network, weights, rows._replace(ids_BF=changed))
        np.testing.assert_allclose(effects_BR[:, i], scores_B - without, atol=1e-6)
    np.testing.assert_array_equal(effects_BR == 0, ids_BF == 0)


def test_the_largest_effects_come_first_and_ties_keep_the_order_of_the_spec() -> None:
    fields = tuple(Field(name, (name,), ("text",), 1, 2, name) for name in "abcd")
    effects = [
        [0.1, -0.3, 0.2, 0.0],
        [-0.5, 0.5, 0.5, -0.5],
        [0.0, 0.0, 0.0, -1e-30],
        [math.nan, math.inf, -0.25, 0.0],
    ]
    columns = reason_arrays(Spec((), fields, (), ()), np.array(effects, np.float32), 3)
    assert [column.to_pylist() for column in columns[::2]] == [
        ["b", "a", "d", "c"],
        ["c", "b", None, None],
        ["a", "c", None, None],
    ]
    assert [column.to_pylist() for column in columns[1::2]] == [
        pytest.approx([-0.3, -0.5, -1e-30, -0.25]),
        [pytest.approx(0.2), 0.5, None, None],
        [pytest.approx(0.1), 0.5, None, None],
    ]
    assert [column.type for column in columns] == [pa.string(), pa.float32()] * 3
