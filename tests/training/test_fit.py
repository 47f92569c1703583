"""Fitting: what must be found is found, the best weights are kept, a seed is repeatable."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from nfm.config import Model, Train
from nfm.contract.encoder import Inputs
from nfm.contract.errors import DataError
from nfm.contract.schema import Bag, Field, Number, Spec
from nfm.training.data import Fold, features_of, read_folds
from nfm.training.fit import Fitted, evaluate, fit, predict

SIDE = 8  # values of each field
CHECKERBOARD = Spec(
    ("k",),
    (
        Field("a", ("a",), ("number",), 1, SIDE, "a"),
        Field("b", ("b",), ("number",), 1, SIDE, "b"),
        Field("noise", ("noise",), ("number",), 1, 5, "noise"),
    ),
    (),
    (),
)


def checkerboard(rows: int, seed: int) -> Fold:
    """The label says whether a + b is even: each field alone says nothing of it."""
    rng = np.random.default_rng(seed)
    a, b, noise = rng.integers(0, SIDE, rows), rng.integers(0, SIDE, rows), rng.integers(0, 5, rows)
    ids = np.stack([a + 2, b + 2, noise + 2], axis=1).astype(np.int32)
    nothing = np.empty((rows, 0), np.float32)
    return fold(Inputs(ids, nothing, nothing), (a + b) % 2 == 0)


def fold(inputs: Inputs, label: NDArray[Any], weight: NDArray[Any] | None = None) -> Fold:
    ones = np.ones(len(label), np.float32)
    return Fold(inputs, label.astype(np.float32), ones if weight is None else weight.astype(np.float32))


def small_model(**changes: Any) -> Model:
    return Model.model_validate({"embedding_dim": 8, "hidden_units": (16,), "pooling_dropout": 0.0, **changes})


def training(**changes: Any) -> Train:
    return Train.model_validate(
        {"batch_size": 128, "epochs": 12, "learning_rate": 0.01, "optimizer": "adam", **changes}
    )


def linear_part(fitted: Fitted, data: Fold) -> NDArray[Any]:
    layer = fitted.model.get_layer("linear")
    return np.asarray(layer(data.inputs.ids_BF, data.inputs.values_BN))[:, 0]


@pytest.mark.parametrize("optimizer", ["adam", "adagrad"])
def test_a_label_of_a_pair_of_fields_is_found_by_the_interactions_and_not_by_the_linear_part(optimizer: str) -> None:
    folds = {"train": checkerboard(6000, 1), "valid": checkerboard(1000, 2), "test": checkerboard(2000, 3)}
    settings = training(optimizer=optimizer, learning_rate={"adam": 0.01, "adagrad": 0.2}[optimizer], epochs=20)
    fitted = fit(CHECKERBOARD, small_model(), settings, folds)
    metrics, _ = evaluate(fitted.model, folds)
    assert metrics["test"]["auc"] >= 0.99
    assert roc_auc_score(folds["test"].label, linear_part(fitted, folds["test"])) <= 0.6


def noise_folds() -> dict[str, Fold]:
    """Labels by chance: the validation loss soon gets worse, so that stopping has something to stop."""
    folds = {
        name: checkerboard(rows, i) for i, (name, rows) in enumerate((("train", 300), ("valid", 200), ("test", 50)))
    }
    rng = np.random.default_rng(9)
    return {name: fold(data.inputs, rng.integers(0, 2, data.rows)) for name, data in folds.items()}


def stopping(**settings: Any) -> dict[str, Any]:
    return {"early_stopping": settings, "epochs": 40, "batch_size": 32, "learning_rate": 0.02}


def test_early_stopping_restores_the_weights_of_the_best_epoch() -> None:
    folds = noise_folds()
    fitted = fit(CHECKERBOARD, small_model(), training(**stopping(monitor="val_loss", patience=3)), folds)
    losses = fitted.history["val_loss"]
    assert len(losses) == fitted.best_epoch + 3 < 40
    assert fitted.best_epoch == int(np.argmin(losses)) + 1
    score = np.clip(predict(fitted.model, folds["valid"]), 1e-7, 1 - 1e-7)
    label = folds["valid"].label
    by_hand = -np.mean(label * np.log(score) + (1 - label) * np.log(1 - score))
    assert by_hand == pytest.approx(min(losses), abs=1e-4)
    assert by_hand < losses[-1]


def test_all_epochs_are_run_where_stopping_never_triggers_and_the_best_weights_are_kept_all_the_same() -> None:
    folds = noise_folds()
    settings = training(**{**stopping(monitor="val_loss", patience=100), "epochs": 8})
    fitted = fit(CHECKERBOARD, small_model(), settings, folds)
    losses = fitted.history["val_loss"]
    assert (len(losses), fitted.best_epoch) == (8, int(np.argmin(losses)) + 1)
    assert fitted.best_epoch < 8
    metrics, _ = evaluate(fitted.model, folds)
    assert metrics["valid"]["log_loss"] == pytest.approx(min(losses), abs=1e-4)


def test_monitor_mode_and_min_delta_decide_when_to_stop() -> None:
    folds = noise_folds()
    by_auc = fit(CHECKERBOARD, small_model(), training(**stopping(monitor="val_auc", patience=2)), folds)
    assert by_auc.best_epoch == int(np.argmax(by_auc.history["val_auc"])) + 1
    # Against its sense, and with a step that no epoch makes: each stops after the first epoch and its patience.
    upwards = training(**stopping(monitor="loss", mode="max", patience=2))
    assert fit(CHECKERBOARD, small_model(), upwards, folds).best_epoch == 1
    coarse = training(**stopping(monitor="loss", patience=2, min_delta=10.0))
    assert len(fit(CHECKERBOARD, small_model(), coarse, folds).history["loss"]) == 3


def test_without_early_stopping_the_last_weights_stay() -> None:
    fitted = fit(CHECKERBOARD, small_model(), training(early_stopping=None, epochs=3), noise_folds())
    assert (len(fitted.history["loss"]), fitted.best_epoch) == (3, 3)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others() -> None:
    folds = noise_folds()

    def weights(seed: int) -> list[NDArray[Any]]:
        fitted = fit(CHECKERBOARD, small_model(hidden_dropout=0.5), training(seed=seed, epochs=2), folds)
        return [np.asarray(w) for w in fitted.model.get_weights()]

    first, again, other = weights(1), weights(1), weights(2)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def test_an_empty_validation_fold_needs_no_validation() -> None:
    folds = noise_folds()
    ids, values, dense = folds["valid"].inputs
    nothing = Inputs(ids[:0], values[:0], dense[:0])
    folds["valid"] = fold(nothing, np.empty(0))
    fitted = fit(CHECKERBOARD, small_model(), training(early_stopping=None, epochs=1), folds)
    metrics, scores = evaluate(fitted.model, folds)
    assert set(metrics) == {"train", "test"}
    assert scores["valid"].shape == (0,)
    with pytest.raises(DataError, match="Early stopping watches val_loss, but no row of the dataset fell to"):
        fit(CHECKERBOARD, small_model(), training(), folds)


def test_metrics_by_hand() -> None:
    class Fixed:
        """Stands for a model: its logits are the first number of each row."""

        def predict(self, features: dict[str, NDArray[Any]], **_: Any) -> NDArray[Any]:
            return features["dense"]

    logits = np.array([[2.0], [-1.0], [0.5], [-3.0]], np.float32)
    inputs = Inputs(np.zeros((4, 0), np.int32), np.zeros((4, 0), np.float32), logits)
    data = fold(inputs, np.array([1, 1, 0, 0]), np.array([1.0, 1.0, 1.0, 3.0]))
    one_class = fold(inputs, np.ones(4))
    metrics, _ = evaluate(Fixed(), {"train": data, "valid": one_class, "test": one_class})
    p = 1 / (1 + np.exp(-logits[:, 0].astype(float)))
    log_loss = -(np.log(p[0]) + np.log(p[1]) + np.log(1 - p[2]) + 3 * np.log(1 - p[3])) / 6
    # pairs (positive, negative) by weight: (2, 0.5) ✓ 1, (2, -3) ✓ 3, (-1, 0.5) ✗ 1, (-1, -3) ✓ 3
    assert metrics["train"] == {
        "rows": 4,
        "auc": pytest.approx(7 / 8),
        "log_loss": pytest.approx(log_loss),
        "accuracy": pytest.approx((1 + 3) / 6),
    }
    assert metrics["valid"]["auc"] is None


def test_rows_of_weight_zero_teach_nothing() -> None:
    data = checkerboard(500, 1)
    wrong = fold(data.inputs, 1 - data.label, np.zeros(500))
    both = Fold(
        Inputs(*(np.concatenate(pair) for pair in zip(data.inputs, wrong.inputs, strict=True))),
        np.concatenate([data.label, wrong.label]),
        np.concatenate([data.weight, wrong.weight]),
    )
    folds = {"train": both, "valid": data, "test": data}
    settings = training(epochs=25, early_stopping=None, learning_rate=0.03)
    metrics, _ = evaluate(fit(CHECKERBOARD, small_model(batch_norm=False), settings, folds).model, folds)
    assert metrics["test"]["auc"] > 0.95


def test_every_row_is_in_one_batch_of_each_epoch() -> None:
    data = checkerboard(100, 1)
    data = fold(data.inputs, np.arange(100))
    batches = data.batches(32, seed=1)
    epochs = [[label[:, 0].numpy() for _, label, _ in batches] for _ in range(2)]
    assert [len(batch) for batch in epochs[0]] == [32, 32, 32, 4]
    first, second = (np.concatenate(epoch) for epoch in epochs)
    assert sorted(first) == sorted(second) == list(range(100))
    assert first.tolist() != second.tolist()
    for features, label, _ in data.batches(32):
        rows = label[:, 0].numpy().astype(int)
        np.testing.assert_array_equal(features["ids"].numpy(), features_of(data.inputs)["ids"][rows])


def test_a_training_that_diverges_is_told_and_gives_no_model() -> None:
    folds = noise_folds()
    ids, _, _ = folds["train"].inputs
    spec = Spec(("k",), CHECKERBOARD.fields, (Number("x", "x", "dense", 0.0, False, None, False, 0.0, 1.0),), ())
    huge = np.full((len(ids), 1), 3e38, np.float32)
    data = fold(Inputs(ids, np.empty((len(ids), 0), np.float32), huge), folds["train"].label)
    with pytest.raises(DataError, match=r"The loss was nan in epoch 1: the training diverged.*train\.learning_rate"):
        fit(spec, small_model(), training(early_stopping=None), dict.fromkeys(("train", "valid", "test"), data))


def test_a_dataset_that_lost_a_file_is_refused(tmp_path: Path) -> None:
    facts = {"encoding_fingerprint": CHECKERBOARD.fingerprint, "rows": {"train": 3, "valid": 0, "test": 0}}
    (tmp_path / "_dataset.json").write_text(json.dumps(facts))
    with pytest.raises(DataError, match=r"fold=train holds 0 rows where _dataset.json says 3"):
        read_folds(tmp_path, CHECKERBOARD)


def test_rows_in_folders_of_their_own_are_read_too(tmp_path: Path) -> None:
    for i, place in enumerate(("country=DE", "country=FR/day=1", "")):
        folder = tmp_path / "fold=train" / place
        folder.mkdir(parents=True, exist_ok=True)
        rows = {"a": [i], "b": [1], "noise": [2], "label": [i % 2], "weight": [1.0]}
        pq.write_table(pa.table(rows), folder / "part-00000.parquet")
    facts = {"encoding_fingerprint": CHECKERBOARD.fingerprint, "rows": {"train": 3, "valid": 0, "test": 0}}
    (tmp_path / "_dataset.json").write_text(json.dumps(facts))
    train = read_folds(tmp_path, CHECKERBOARD)["train"]
    assert sorted(train.inputs.ids_BF[:, 0].tolist()) == [0, 1, 2]


def test_a_bag_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    bag = Field("tags", ("tags",), ("text",), 1, 3, "tags", None, Bag(None, ",", None))
    with pytest.raises(DataError, match=r"'tags'.* is a bag"):
        read_folds(tmp_path / "nowhere", Spec(("k",), (bag,), (), ("",)))
