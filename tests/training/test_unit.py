"""Regressions on standardized labels: quality for any size of the labels, the published unit, and the first bias."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from sklearn.compose import make_column_transformer
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

import nfm.scoring
from nfm.config.settings import Config
from nfm.config.train import Model, Train
from nfm.contract.artifact import Artifact
from nfm.contract.dataset import arrange_inputs
from nfm.contract.scaling import describe_lost_precision
from nfm.contract.schema import Field, Number, Spec
from nfm.forward.rows import score
from nfm.training.data.batches import Fold, Rows
from nfm.training.data.labels import describe_train_labels
from nfm.training.fit import Places, fit
from nfm.training.model import BIAS, describe, export, initial_weights
from nfm.training.network import Network
from nfm.training.parity import keras_scores
from nfm.training.step import make_measure
from nfm.training.tables import TableReader
from nfm.training.train import train
from nfm.training.unit import Unit
from nfm.training.warm_start import start_from_model
from tests.training.examples import (
    CHECKERBOARD,
    fold_in_memory,
    folds_of,
    no_rows,
    random_ids,
    rows_of,
    shop_encoding,
    shop_labels,
    shop_visits,
    small_model,
    training,
    write_shop,
)
from tests.training.trained import Recorder, logits, rows, weights

HOUSES = Spec(
    ("k",),
    (Field("city", ("city",), ("text",), 1, 4, "city"), Field("shop", ("shop",), ("text",), 1, 6, "shop")),
    (Number("price", "price", "dense", 0.0, False, None, "none", 50.0, 10.0),),
    (),
)
NO_STEP: dict[str, Any] = {"optimizer": "sgd", "learning_rate": 1e-30, "epochs": 1, "early_stopping": None}


def houses(count: int, seed: int, center: float, size: float) -> Rows:
    """Draw rows of two cities and shops with an effect; missing (0) and out-of-vocabulary (1) ids are among them."""
    rng = np.random.default_rng(seed)
    city, shop = rng.choice(6, count, p=[0.03, 0.02, 0.3, 0.25, 0.2, 0.2]), rng.integers(0, 8, count)
    price = rng.normal(50, 10, count)
    effects = 80_000 * (city == 2) - 60_000 * (shop == 3) + 1_000 * (price - 50) + rng.normal(0, 5_000, count)
    ids = np.stack([city, shop], axis=1)
    return rows_of(ids, center + size * effects, dense_BD=((price - 50) / 10)[:, np.newaxis])


def house_folds(center: float, size: float) -> dict[str, Fold]:
    drawn = [houses(count, seed, center, size) for seed, count in enumerate((1050, 150, 300))]
    return folds_of(drawn[0], drawn[1], drawn[2], HOUSES)


def ridge_score(folds: dict[str, Fold]) -> float:
    """Return R² of one-hot ridge regression on the test fold."""

    def table(fold: Fold) -> tuple[pd.DataFrame, NDArray[Any]]:
        inputs, label, *_ = rows(fold)
        frame = pd.DataFrame(inputs.ids_BF, columns=["city", "shop"]).assign(price=inputs.dense_BD[:, 0])
        return frame, label.astype(np.float64)

    encode = make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore"), ["city", "shop"]), (StandardScaler(), ["price"])
    )
    model = make_pipeline(encode, Ridge()).fit(*table(folds["train"]))
    frame, label = table(folds["test"])
    return float(r2_score(label, model.predict(frame)))


@pytest.mark.parametrize(
    ("center", "size"),
    [(350_000, 1), (1_000, 1 / 350), (30, 1e-4), (-1e12, 1e6), (0, 1e-14)],
    ids=["350000", "1000", "30", "-1e12", "1e-9"],
)
def test_the_default_recipe_is_about_as_good_as_ridge_for_labels_of_any_size(center: float, size: float) -> None:
    folds = house_folds(center, size)
    fitted = fit(HOUSES, Model(task="regression"), Train(), folds)
    fitted.unit.publish(fitted.weights)
    label = rows(folds["test"]).label.astype(np.float64)
    predicted = logits(fitted, folds["test"], Unit())[0][:, 0]
    assert ridge_score(folds) > 0.97
    assert r2_score(label, predicted) > 0.95
    trained = rows(folds["train"]).label.astype(np.float64)
    assert fitted.unit == pytest.approx(Unit(float(trained.std()), float(trained.mean())), rel=1e-9)
    # What the training logs is in the label's unit, too.
    best = fitted.best_epoch - 1
    valid = rows(folds["valid"]).label.astype(np.float64)
    rmse = float(np.sqrt(np.mean((logits(fitted, folds["valid"], Unit())[0][:, 0] - valid) ** 2)))
    assert fitted.history["val_rmse"][best] == pytest.approx(rmse, rel=1e-2)
    assert fitted.history["val_loss"][best] == pytest.approx(rmse**2, rel=2e-2)


def test_the_first_loss_is_the_variance_of_the_labels() -> None:
    """Before the first step, the model predicts the weighted mean."""
    data = houses(300, 1, 5e4, 0.01)
    weight = np.random.default_rng(0).uniform(0, 3, 300).astype(np.float32)
    folds = folds_of(data._replace(weight=weight), data, data, HOUSES)
    label = data.label.astype(np.float64)
    mean = np.average(label, weights=weight)
    for standardize in (True, False):
        model = small_model(task="regression", standardize_label=standardize)
        fitted = fit(HOUSES, model, training(**NO_STEP), folds)
        np.testing.assert_allclose(logits(fitted, folds["test"])[1], mean, rtol=1e-6)
        if not standardize:
            continue  # h is not 0
        variance = float(np.average((label - mean) ** 2, weights=weight))
        assert fitted.history["loss"] == pytest.approx([variance], rel=1e-4)
        assert fitted.history["val_loss"] == pytest.approx([float(np.mean((label - mean) ** 2))], rel=1e-4)
        np.testing.assert_allclose(logits(fitted, folds["test"])[0], mean, rtol=1e-6)


def test_the_first_bias_is_the_constant_of_the_sampled_and_weighted_rows() -> None:
    label, weight = np.array([1.0, 1, 0, 0, 0, 0]), np.array([1.0, 2, 1, 1, 4, 0])
    ids = np.full((6, 3), 2)

    def bias(task: str, labels: Any, weights: Any = weight, rate: float = 1.0, **changes: Any) -> list[float]:
        classes = ("x", "y", "z") if task == "multiclass" else ()
        spec = Spec(("k",), CHECKERBOARD.fields, (), (), negative_rate=rate, classes=classes)
        model = {name: changes.pop(name) for name in ("standardize_label",) if name in changes}
        data = rows_of(ids, labels, weights)
        settings = training(**NO_STEP, **changes)
        folds = folds_of(data, no_rows(data), no_rows(data), spec)
        fitted = fit(spec, small_model(task=task, **model), settings, folds)
        found: list[float] = fitted.weights.network[BIAS].tolist()
        # The first prediction of the linear part is the baseline, unless classes are weighted.
        if "class_weights" not in changes and 0 < min(fitted.constant) < 1:
            published = logits(fitted, fold_in_memory(spec, data))[1]
            expected = np.log(fitted.constant)
            if task == "binary":
                expected = np.log(fitted.constant[0] / (1 - fitted.constant[0]))
            np.testing.assert_allclose(published, np.broadcast_to(expected, published.shape), rtol=1e-5, atol=1e-6)
        return found

    assert bias("binary", label) == pytest.approx([np.log(3 / 6)])
    assert bias("binary", label, rate=0.25) == pytest.approx([np.log(3 / 6)])  # published: log(3 / 24)
    assert bias("binary", label, np.zeros(6)) == pytest.approx([np.log(2 / 4)])  # without weights, rows count equally
    assert bias("binary", label, class_weights={"1": 4.0}) == pytest.approx([np.log(12 / 6)])
    assert bias("binary", label, class_weights="balanced") == pytest.approx([0], abs=1e-6)
    assert bias("binary", np.ones(6)) == pytest.approx([np.log(6 / 0.5)])  # no label 0: half a row
    classes = np.array([0.0, 0, 2, 2, 2, 2])
    # Class y has no rows: it counts as half a row.
    assert bias("multiclass", classes) == pytest.approx([np.log(3 / 9), np.log(0.5 / 6), np.log(6 / 9)])
    classes[5] = 1
    assert bias("multiclass", classes, np.ones(6)) == pytest.approx(np.log([2 / 6, 1 / 6, 3 / 6]).tolist())
    assert bias("regression", 10 * label, standardize_label=False) == pytest.approx([10 * 3 / 9])
    assert bias("regression", 10 * label) == pytest.approx([0], abs=1e-9)


@pytest.mark.parametrize("weights_of_rows", [np.ones(200), np.zeros(200)])
def test_equal_labels_are_predicted_exactly_and_logged(
    weights_of_rows: NDArray[Any], caplog: pytest.LogCaptureFixture
) -> None:
    ids = random_ids(200, 1)
    data, valid = (rows_of(ids, np.full(200, 0.1), weight) for weight in (weights_of_rows, None))
    with caplog.at_level(logging.WARNING):
        fitted = fit(
            CHECKERBOARD, small_model(task="regression"), training(epochs=2), folds_of(data, valid, no_rows(data))
        )
    assert "all labels of the train fold are 0.100000001: the model can only predict this number" in caplog.text
    fitted.unit.publish(fitted.weights)
    tenth = float(np.float32(0.1))
    np.testing.assert_array_equal(logits(fitted, fold_in_memory(CHECKERBOARD, data), Unit())[0], tenth)
    assert fitted.history["loss"] == fitted.history["val_loss"] == [0.0, 0.0]


def test_labels_that_float32_cannot_tell_apart_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    ids, rng = random_ids(200, 1), np.random.default_rng(0)
    for label, is_logged in ((1e9 + 64 * rng.integers(0, 3, 200), True), (1e9 + 1e5 * rng.normal(size=200), False)):
        caplog.clear()
        fold = fold_in_memory(CHECKERBOARD, rows_of(ids, label))
        describe_train_labels(CHECKERBOARD, Model(task="regression"), Train(), fold)
        assert ("32-bit floats have steps of 64" in caplog.text) == is_logged


def test_scores_at_the_limit_of_precision_are_as_good_as_reported() -> None:
    """The scorer adds 24 terms to a bias of a million, in float32 with steps of 1/16; the report uses float64."""
    count, step, center = 24, 1 / 16, 1e6
    fields = tuple(Field(f"f{i}", (f"f{i}",), ("number",), 1, 4, f"f{i}") for i in range(count))
    spec, model = Spec(("k",), fields, (), ()), small_model(task="regression", hidden_units=())
    effects = np.random.default_rng(0).normal(size=(count, 6))

    def draw(rows: int, seed: int) -> tuple[NDArray[Any], NDArray[np.float64]]:
        rng = np.random.default_rng(seed)
        ids = rng.choice(6, (rows, count), p=[0.05, 0.05, 0.3, 0.2, 0.2, 0.2])  # missing (0) and unseen (1), too
        signal = effects[np.arange(count), ids].sum(axis=1)
        return ids, signal + rng.normal(0, 0.3 * signal.std(), rows)

    drawn = [draw(rows, seed) for seed, rows in enumerate((4000, 500, 2000))]
    size = 61 * step / drawn[0][1].std()
    train_rows, valid, test = (rows_of(ids, center + size * (signal - drawn[0][1].mean())) for ids, signal in drawn)
    folds = folds_of(train_rows, valid, test, spec)
    label = rows(folds["test"]).label.astype(np.float64)
    deviation = float(rows(folds["train"]).label.astype(np.float64).std())
    assert describe_lost_precision(center, deviation) is None
    assert describe_lost_precision(center, 0.9 * deviation) is not None
    fitted = fit(spec, model, training(epochs=20), folds)
    reported = logits(fitted, folds["test"])[0][:, 0]
    fitted.unit.publish(fitted.weights)
    arrays = {name: array.astype(np.float32) for name, array in export(fitted.weights, spec, model).items()}
    scores = score(spec, describe(spec, model), arrays, rows(folds["test"]).inputs).astype(np.float64)

    def rmse(predicted: NDArray[np.float64]) -> float:
        return float(np.sqrt(np.mean((predicted - label) ** 2)))

    assert 0.25 * deviation < rmse(reported) < 0.6 * deviation
    assert rmse(scores) == pytest.approx(rmse(reported), rel=0.005)
    # The rounding is that of the comment on the limit.
    assert 0.7 * step < np.sqrt(np.mean((scores - reported) ** 2)) < 2 * step


def test_heavy_tailed_labels_are_finite() -> None:
    ids, rng = random_ids(600, 1), np.random.default_rng(0)
    data = rows_of(ids, np.exp(rng.normal(0, 6, 600) + ids[:, 0]))
    fitted = fit(CHECKERBOARD, small_model(task="regression"), training(epochs=3), folds_of(data, data, data))
    assert np.isfinite(logits(fitted, fold_in_memory(CHECKERBOARD, data))[0]).all()
    assert np.isfinite(fitted.history["val_loss"]).all()


def scaled_shop(folder: Path, center: float, size: float, **changes: Any) -> Config:
    """Write the shop of `examples` with the labels center + size · label."""
    encoding = shop_encoding(folder / "encoding")
    settings = {"early_stopping": None, **changes.pop("train", {})}
    config = write_shop(folder, encoding, "regression", train=settings, **changes)
    for path in (folder / "dataset").rglob("*.parquet"):
        table = pq.read_table(path)
        label = center + size * table["label"].to_numpy().astype(np.float64)
        place = table.schema.get_field_index("label")
        pq.write_table(table.set_column(place, "label", pa.array(label, pa.float32())), path)
    return config


@pytest.fixture(scope="module")
def older(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A regression with large labels, and a table of float16."""
    config = scaled_shop(tmp_path_factory.mktemp("older"), 350_000, 20_000, model={"embedding_dtype": "float16"})
    train(config)
    return config


def test_a_published_regression_is_in_the_labels_unit_everywhere(older: Config) -> None:
    model = Artifact.load(Path(older.workdir, "model"))
    visits = shop_visits(100, 2)  # the rows of the test fold
    scores = nfm.scoring.load(model.path).score(visits).to_numpy().astype(np.float64)
    inputs = arrange_inputs(model.encoding.spec, model.encoding.encode(visits))
    np.testing.assert_allclose(keras_scores(model, inputs)[:, 0], scores, rtol=1e-6)
    label = 350_000 + 20_000 * shop_labels(visits, "regression")
    metrics = model.metadata["metrics"]["test"]
    assert metrics["rmse"] == pytest.approx(float(np.sqrt(np.mean((scores - label) ** 2))), rel=1e-3)
    assert scores.std() > 1_000
    assert metrics["r2"] > 0.3
    # A reason's effect is a difference of scores.
    explained = nfm.scoring.load(model.path).score(visits, explain=1).to_pandas()
    assert explained["reason_1_effect"].abs().max() > 2_000


@pytest.mark.parametrize(("center", "size", "standardize"), [(0, 1, True), (-5e6, 3e5, True), (350_000, 20_000, False)])
def test_a_warm_start_first_predicts_what_the_older_model_does(
    older: Config, tmp_path: Path, center: float, size: float, standardize: bool
) -> None:
    model = Artifact.load(Path(older.workdir, "model"))
    spec, settings = model.encoding.spec, older.model.model_copy(update={"standardize_label": standardize})
    inputs = arrange_inputs(spec, model.encoding.encode(shop_visits(100, 2)))
    label = (center + size * np.random.default_rng(1).normal(size=100)).astype(np.float32)
    data = Rows(inputs, label, np.ones(100, np.float32), None)
    fold = fold_in_memory(spec, data)
    unit = describe_train_labels(spec, settings, older.train, fold).unit
    assert (unit == Unit()) == (not standardize)
    weights = initial_weights(spec, settings, 5)
    start_from_model(model.path, spec, settings).set_weights(weights, unit)
    recorder: Any = Recorder()
    measure = make_measure(TableReader(spec, weights.tables), Network(spec, settings, older.train), weights)
    measure(fold, recorder, unit=unit)
    expected = nfm.scoring.load(model.path).score(shop_visits(100, 2)).to_numpy()
    np.testing.assert_allclose(recorder.logits[0][:, 0], expected, rtol=2e-4)


def test_a_warm_start_from_labels_of_another_size_learns_them(older: Config, tmp_path: Path) -> None:
    start = {"init_from": f"{older.workdir}/model", "epochs": 30, "learning_rate": 0.02}
    config = scaled_shop(tmp_path, 450_000, 60_000, train=start, model={"embedding_dtype": "float16"})
    train(config)
    metrics = json.loads((tmp_path / "model/metadata.json").read_text())["metrics"]["test"]
    assert metrics["r2"] > 0.8


def test_a_killed_regression_resumes_to_the_same_weights(tmp_path: Path) -> None:
    folds = house_folds(350_000, 1)
    model, settings = small_model(task="regression", hidden_dropout=0.3), training(epochs=4, batch_size=300)

    def kill(epoch: int, _: Any) -> None:
        if epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(HOUSES, model, settings, folds, Places(tmp_path), each_epoch=kill)
    assert (tmp_path / "checkpoint.npz").exists()
    resumed = fit(HOUSES, model, settings, folds, Places(tmp_path))
    whole = fit(HOUSES, model, settings, folds)
    assert resumed.history == whole.history
    for found, expected in zip(weights(resumed), weights(whole), strict=True):
        np.testing.assert_array_equal(found, expected)
