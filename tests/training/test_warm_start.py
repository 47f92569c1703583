"""Warm starts from an older model and from a factorization machine; the correction for left-out negatives."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from numpy.typing import NDArray

from nfm.config.settings import Config
from nfm.config.train import Model
from nfm.contract.artifact import Artifact, _compute_fingerprint
from nfm.contract.errors import DataError
from nfm.contract.schema import Spec
from nfm.training import layers  # noqa: F401 (its import registers the layers of saved models)
from nfm.training.fit import Places, fit
from nfm.training.model import TABLES, Weights, initial_weights
from nfm.training.train import train
from nfm.training.unit import PUBLISHED, Unit
from nfm.training.warm_start import start_from_fm, start_from_model
from tests.training.examples import (
    CHECKERBOARD,
    COLORS,
    TAGS,
    checkerboard,
    fold_in_memory,
    folds_of,
    rows_of,
    shop_encoding,
    small_model,
    training,
    write_shop,
)
from tests.training.trained import logits, sigmoid

GROWN_COLORS, GROWN_TAGS = (*COLORS, "green", "pink"), (*TAGS, "gift")


def by_path(weights: Weights) -> dict[str, NDArray[Any]]:
    return {**dict(zip(TABLES, weights.tables, strict=True)), **weights.network}


def saved_keras(folder: Path) -> dict[str, NDArray[Any]]:
    model = keras.models.load_model(folder / "keras/model.keras", compile=False)
    return {variable.path: variable.numpy() for variable in model.variables if "seed" not in variable.path}


@pytest.fixture(scope="module")
def older(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """Train a model in a working folder; half of the negatives were left out."""
    folder = tmp_path_factory.mktemp("older")
    config = write_shop(folder, shop_encoding(folder / "encoding", negative_rate=0.5))
    train(config)
    return config


def grown_spec(folder: Path, older: Config, **changes: Any) -> Spec:
    old = Artifact.load(Path(older.workdir, "model")).encoding.spec
    ancestors = (old.fingerprint, *old.ancestors)
    return shop_encoding(folder, GROWN_COLORS, GROWN_TAGS, **{"ancestors": ancestors, **changes}).spec


def test_rows_are_copied_to_the_ids_of_the_same_values(older: Config, tmp_path: Path) -> None:
    spec = grown_spec(tmp_path / "encoding", older)
    start = start_from_model(Path(older.workdir, "model"), spec, older.model)
    assert start.name == Artifact.load(Path(older.workdir, "model")).fingerprint
    weights = initial_weights(spec, older.model, 8)
    fresh = by_path(initial_weights(spec, older.model, 8))
    start.set_weights(weights, Unit(shift=float(np.log(0.5))))
    started, before = by_path(weights), saved_keras(Path(older.workdir, "model"))
    assert started.keys() == before.keys()
    for name in ("embedding/table", "linear/table"):
        # Ids of color: missing, 2 out-of-vocabulary, 3 values, 2 new values; of tags: missing, 1 out-of-vocabulary, 2
        # values, 1 new value; of age: missing, 3 buckets; then the row of kg.
        copied = [*range(6), *range(8, 12), *range(13, 17), 17]
        new = [6, 7, 12]
        np.testing.assert_array_equal(started[name][copied], before[name][:15])
        np.testing.assert_array_equal(started[name][new], fresh[name][new])
        assert len(started[name]) == 18
    others = before.keys() - {"embedding/table", "linear/table", "linear/bias"}
    assert {"hidden_0/kernel", "hidden_0_norm/moving_variance", "dense_linear/kernel", "output/kernel"} <= others
    for name in others:
        np.testing.assert_array_equal(started[name], before[name], err_msg=name)
    # The bias is the one in training, with half of the negatives: log 2 more than in the published model.
    np.testing.assert_allclose(started["linear/bias"], before["linear/bias"] + np.log(2), rtol=1e-6)


def test_a_warm_start_is_trained_and_published(older: Config, tmp_path: Path) -> None:
    old = Artifact.load(Path(older.workdir, "model"))
    grown = shop_encoding(
        tmp_path / "encoding", GROWN_COLORS, GROWN_TAGS, ancestors=(old.encoding.spec.fingerprint,), negative_rate=0.5
    )
    # With a learning rate near 0, the final weights equal the initial ones.
    start = {"init_from": f"{older.workdir}/model", "learning_rate": 1e-30, "epochs": 1, "optimizer": "sgd"}
    trained = train(write_shop(tmp_path, grown, train=start))
    new = Artifact.load(tmp_path / "model")
    np.testing.assert_array_equal(new.weights["embedding"][:6], old.weights["embedding"][:6])
    np.testing.assert_array_equal(new.weights["dense_linear"], old.weights["dense_linear"])
    # The correction is undone before the training and repeated after it.
    np.testing.assert_allclose(
        saved_keras(tmp_path / "model")["linear/bias"], saved_keras(old.path)["linear/bias"], rtol=1e-5
    )
    assert trained.fitted.best_epoch == 1


def test_the_encoding_must_have_grown_from_the_models(older: Config, tmp_path: Path) -> None:
    model = Path(older.workdir, "model")
    unrelated = grown_spec(tmp_path / "encoding", older, ancestors=("0" * 64,))
    old = Artifact.load(model).encoding.spec.fingerprint
    with pytest.raises(DataError) as refused:
        start_from_model(model, unrelated, older.model)
    message = str(refused.value)
    assert f"train.init_from: the model in {model} (binary) was trained with the encoding {old[:12]}…" in message
    assert f"Run nfm features with --grow-from {model}/encoding, or leave train.init_from out." in message
    with pytest.raises(DataError, match=f"There is no model in {tmp_path}/nowhere"):
        start_from_model(tmp_path / "nowhere", unrelated, older.model)
    # The model's own encoding, and one with several ancestors, are accepted.
    same = Artifact.load(model).encoding.spec
    start_from_model(model, same, older.model)
    start_from_model(model, replace(unrelated, ancestors=("0" * 64, old)), older.model)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"embedding_dim": 5}, "embedding_dim was 4 and is 5 now"),
        ({"hidden_units": (8, 8)}, "hidden_units was [8] and is [8, 8] now"),
        ({"activation": "tanh"}, 'activation was "relu" and is "tanh" now'),
        ({"batch_norm": False, "batch_norm_epsilon": 0.1}, "batch_norm was true and is false now."),
        ({"batch_norm_epsilon": 0.001}, "batch_norm_epsilon was 1e-05 and is 0.001 now"),
        ({"task": "regression"}, 'task was "binary" and is "regression" now'),
        (
            {"hidden_units": (), "output": "ones"},
            'hidden_units was [8] and is [] now; output was "trained" and is "ones" now',
        ),
    ],
)
def test_a_model_with_a_different_form_is_refused_with_reasons(
    older: Config, tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    spec = grown_spec(tmp_path / "encoding", older)
    settings = Model.model_validate({**older.model.model_dump(), **changes})
    with pytest.raises(DataError, match="has a different form") as refused:
        start_from_model(Path(older.workdir, "model"), spec, settings)
    assert reason in str(refused.value)


def test_a_model_from_before_a_setting_has_its_default(older: Config, tmp_path: Path) -> None:
    shutil.copytree(Path(older.workdir, "model"), tmp_path / "model")
    file = tmp_path / "model/metadata.json"
    metadata = json.loads(file.read_text())
    del metadata["configuration"]["model"]["batch_norm_epsilon"], metadata["fingerprint"]
    file.write_text(json.dumps({**metadata, "fingerprint": _compute_fingerprint(metadata)}))
    spec = grown_spec(tmp_path / "encoding", older)
    start_from_model(tmp_path / "model", spec, older.model)
    with pytest.raises(DataError, match=r"batch_norm_epsilon was 1e-05 and is 0\.1 now"):
        start_from_model(tmp_path / "model", spec, older.model.model_copy(update={"batch_norm_epsilon": 0.1}))


def test_a_model_with_different_numbers_is_refused(older: Config, tmp_path: Path) -> None:
    spec = grown_spec(tmp_path / "encoding", older)
    kg, price = spec.numbers
    other = replace(spec, numbers=(replace(kg, placement="dense"), replace(price, missing_flag=False)))
    with pytest.raises(DataError) as refused:
        start_from_model(Path(older.workdir, "model"), other, older.model)
    assert 'dense numbers was ["price", "price_missing"] and is ["kg", "price"] now' in str(refused.value)
    assert 'numbers in the pooling was ["kg"] and is [] now' in str(refused.value)


def test_the_bias_correction_for_left_out_negatives() -> None:
    """Each id has its own rate of label 1; a tenth of the train fold's negatives is kept."""
    spec = replace(CHECKERBOARD, negative_rate=0.1)
    rates = np.array([0.02, 0.1, 0.3])
    rng = np.random.default_rng(4)

    def draw(count: int, keep: float) -> Any:
        kind = rng.integers(0, 3, count)
        label = rng.random(count) < rates[kind]
        kept = label | (rng.random(count) < keep)
        ids = np.stack([2 + kind, np.full(count, 2), np.full(count, 2)], axis=1)
        return rows_of(ids[kept], label[kept])

    folds = folds_of(draw(40_000, 0.1), draw(4000, 1.0), draw(100, 1.0), spec)
    settings = training(epochs=10, batch_size=512, learning_rate=0.02, early_stopping=None, schedule={"kind": "cosine"})
    fitted = fit(spec, small_model(batch_norm=False, hidden_dropout=0.0), settings, folds)
    one_of_each = rows_of(np.array([[2, 2, 2], [3, 2, 2], [4, 2, 2]]), np.zeros(3))

    def probabilities(unit: Unit) -> NDArray[Any]:
        return sigmoid(logits(fitted, fold_in_memory(spec, one_of_each), unit)[0][:, 0])

    assert (probabilities(PUBLISHED) > 1.8 * rates).all()  # without the correction
    # During the training, the validation fold is measured with the correction: near the entropy of the labels.
    entropy = -np.mean(rates * np.log(rates) + (1 - rates) * np.log(1 - rates))
    assert fitted.history["val_loss"][-1] == pytest.approx(entropy, abs=0.03)
    assert fitted.constant[0] == pytest.approx(rates.mean(), abs=0.01)
    fitted.unit.publish(fitted.weights)
    # Within four standard errors: √(1/positives + 1/kept negatives) of the logit, times p(1 − p).
    counts = np.array([[4 / 3 * 1e4 * p, 4 / 3 * 1e3 * (1 - p)] for p in rates])
    errors = np.sqrt((1 / counts).sum(axis=1)) * rates * (1 - rates)
    assert (np.abs(probabilities(PUBLISHED) - rates) < 4 * errors).all()


def test_a_start_from_a_factorization_machine_has_its_table_and_linear_part(tmp_path: Path) -> None:
    folds = folds_of(checkerboard(500, 0), checkerboard(100, 1), checkerboard(50, 2))
    model, settings = small_model(), training(epochs=2, pretrain="fm")
    places = Places(tmp_path / "checkpoint", tmp_path / "logs")
    start = start_from_fm(CHECKERBOARD, model, settings, folds, places)
    # The factorization machine alone: no hidden layers, h = 1.
    plain = {"hidden_units": (), "batch_norm": False, "hidden_dropout": 0.0, "output": "ones"}
    fm = fit(CHECKERBOARD, small_model(**plain), settings.model_copy(update={"pretrain": None}), folds).weights
    started = initial_weights(CHECKERBOARD, model, 3)
    start.set_weights(started, PUBLISHED)
    expected, found = by_path(fm), by_path(started)
    for name in ("embedding/table", "linear/table", "linear/bias"):
        np.testing.assert_array_equal(found[name], expected[name])
    assert not np.array_equal(expected["linear/table"], np.zeros_like(expected["linear/table"]))
    assert (start.name, len(list((tmp_path / "logs/fm").iterdir()))) == ("fm", 1)
    # The model's checkpoints do not replace the factorization machine's: a killed training need not fit it again.
    before = (tmp_path / "checkpoint/fm/checkpoint.npz").stat().st_mtime_ns
    fit(CHECKERBOARD, model, settings, folds, places, start)
    start_from_fm(CHECKERBOARD, model, settings, folds, places)
    assert (tmp_path / "checkpoint/fm/checkpoint.npz").stat().st_mtime_ns == before


def test_pretraining_of_a_multiclass_model_with_dense_numbers(tmp_path: Path) -> None:
    encoding = shop_encoding(tmp_path / "encoding", classes=("none", "one", "both"))
    config = write_shop(tmp_path, encoding, "multiclass", train={"pretrain": "fm", "epochs": 1})
    train(config)
    weights = Artifact.load(tmp_path / "model").weights
    assert weights["linear"].shape == (15, 3)
    assert (tmp_path / "tensorboard/fm").is_dir()
    # A training without pretraining deletes the curves of the earlier one.
    shutil.rmtree(tmp_path / "model")
    train(config.model_copy(update={"train": config.train.model_copy(update={"pretrain": None})}))
    assert not (tmp_path / "tensorboard/fm").exists()
    assert json.loads((tmp_path / "model/metadata.json").read_text())["network"]["classes"] == ["none", "one", "both"]


def test_a_model_with_fewer_classes_is_refused(tmp_path: Path) -> None:
    config = write_shop(tmp_path, shop_encoding(tmp_path / "encoding", classes=("none", "one", "both")), "multiclass")
    train(config)
    old = Artifact.load(tmp_path / "model").encoding.spec
    classes = (*old.classes, *(f"c{i}" for i in range(9)))
    grown = replace(old, classes=classes, ancestors=(old.fingerprint,))
    with pytest.raises(DataError, match=r'classes was \["none", "one", "both"\] and is \["none", .* and 7 more\] now'):
        start_from_model(tmp_path / "model", grown, config.model)
