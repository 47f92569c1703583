"""The train job on a dataset on disk: the published model, messages, and refusals."""

import json
import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import log_loss

import nfm.scoring
from nfm.config.settings import Config
from nfm.config.train import Model
from nfm.contract.artifact import Artifact
from nfm.contract.dataset import arrange_inputs
from nfm.contract.encoder import Encoding
from nfm.contract.errors import DataError
from nfm.contract.publishing.publish import BusyError, locked
from nfm.contract.schema import DATASET_MARKER
from nfm.forward.rows import score
from nfm.training.fit import Places, fit
from nfm.training.layers import make_keras_inputs
from nfm.training.model import build
from nfm.training.parity import keras_scores
from nfm.training.report import summary
from nfm.training.train import read, read_encoding, train
from tests.forks import Forks
from tests.training.examples import shop_encoding, shop_labels, shop_visits, write_shop
from tests.training.trained import read_events

TASKS: dict[str, dict[str, Any]] = {
    "binary": {"negative_rate": 0.5},
    "regression": {},
    "multiclass": {"classes": ("none", "one", "both")},
}


@pytest.fixture(scope="module", params=TASKS)
def done(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A trained model with a float16 table."""
    folder, task = tmp_path_factory.mktemp("shop"), str(request.param)
    encoding = shop_encoding(folder / "encoding", **TASKS[task])
    config = write_shop(folder, encoding, task, model={"embedding_dtype": "float16"}, train={"group": None})
    train(config)
    return config


def test_the_model_has_the_rounded_table_and_the_metrics_before_rounding(done: Config) -> None:
    model = Artifact.load(Path(done.workdir, "model"))
    table = keras.models.load_model(model.path / "keras/model.keras").get_layer("embedding").table.numpy()
    assert model.weights["embedding"].dtype == np.float16
    np.testing.assert_array_equal(model.weights["embedding"].astype(np.float32), table[:-1])
    metrics, in_float32 = model.metadata["metrics"], model.metadata["metrics_in_float32"]
    assert {"train", "valid", "test"} == metrics.keys()
    assert in_float32["rows"] == metrics["test"]["rows"] == 100
    name = {"binary": "log_loss", "regression": "rmse", "multiclass": "log_loss"}[done.model.task]
    assert in_float32[name] != metrics["test"][name]  # measured again after rounding
    assert in_float32[name] == pytest.approx(metrics["test"][name], abs=1e-3)


def test_the_metrics_equal_those_of_the_published_model(done: Config) -> None:
    """Compute the metrics by hand, with the saved Keras model on raw rows."""
    model = Artifact.load(Path(done.workdir, "model"))
    visits, spec = shop_visits(100, 2), model.encoding.spec  # the rows of the test fold
    loaded = keras.models.load_model(model.path / "keras/model.keras")
    logits = np.asarray(
        loaded(make_keras_inputs(arrange_inputs(spec, model.encoding.encode(visits)), spec)), np.float64
    )
    label, metrics = shop_labels(visits, done.model.task), model.metadata["metrics"]["test"]
    match done.model.task:
        case "binary":
            expected = np.mean(np.logaddexp(0, np.where(label > 0, -1, 1) * logits[:, 0]))
        case "regression":
            expected = np.sqrt(np.mean((logits[:, 0] - label) ** 2))
        case _:
            p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
            expected = -np.mean(np.log(p[np.arange(100), label.astype(int)]))
    name = "rmse" if done.model.task == "regression" else "log_loss"
    assert metrics[name] == pytest.approx(expected, rel=1e-5)


def test_the_profile_equals_counts_by_pandas(done: Config) -> None:
    model, rate = Artifact.load(Path(done.workdir, "model")), 0.5 if done.model.task == "binary" else 1.0
    train_fold = pd.read_parquet(Path(done.workdir, "dataset/fold=train"))
    # A kept negative also counts for those that were left out.
    row_weights = np.where((train_fold["label"] == 0) & (done.model.task == "binary"), 1 / rate, 1.0)
    assert model.profile is not None
    assert (list(model.profile.fields), list(model.profile.numbers)) == (["color", "tags", "age"], ["kg", "price"])
    for name, bins in {**model.profile.fields, **model.profile.numbers}.items():
        values = train_fold[name].explode() if name == "tags" else train_fold[name]
        weights = pd.Series(row_weights, train_fold.index).reindex(values.dropna().index)
        expected = np.histogram(values.dropna().astype(float), [-np.inf, *bins.edges, np.inf], weights=weights)[0]
        np.testing.assert_allclose(bins.counts, expected, err_msg=name)
    assert model.profile.fields["color"].edges == (1, 3, 4, 5)  # missing, unseen, red, "", blue
    assert model.profile.fields["age"].edges == (1, 2, 3)
    assert len(model.profile.numbers["price"].edges) == 9
    shares = np.array(model.profile.numbers["price"].counts) / np.sum(model.profile.numbers["price"].counts)
    assert shares.min() > 0.03

    visits = shop_visits(100, 1)
    scored = nfm.scoring.load(model.path).score(visits)
    columns = scored.columns if done.model.task == "multiclass" else [scored]
    assert model.profile.fold == "valid"
    assert len(model.profile.scores) == len(columns)
    for cells, scores in zip(model.profile.scores, columns, strict=True):
        counted = np.repeat(cells.values, cells.counts[:, 0])
        np.testing.assert_allclose(counted, np.sort(scores.to_numpy()), rtol=1e-4, atol=1e-5)


def test_files_in_the_working_folder_after_a_training(done: Config) -> None:
    folder = Path(done.workdir)
    assert not (folder / "checkpoint").exists()
    assert (folder / "model/report.html").stat().st_size > 10_000
    metadata = json.loads((folder / "model/metadata.json").read_text())
    assert (metadata["epochs"], metadata["rows"]) == (3, {"train": 400, "valid": 100, "test": 100})
    libraries = metadata["libraries"]
    assert libraries.pop("tensorflow").startswith("2.21.")  # of the package tensorflow-cpu or tensorflow
    assert libraries == {name: version(name) for name in ("keras", "numpy", "pyarrow")}
    steps = {step for step, _, _ in read_events(folder / "tensorboard")}
    assert steps == {1, 2, 3}


def test_a_second_training_in_the_same_folder_is_refused(done: Config) -> None:
    before = Artifact.load(Path(done.workdir, "model")).fingerprint
    with (
        locked(Path(done.workdir, "checkpoint")),
        pytest.raises(BusyError, match=f"Another run is writing {done.workdir}/checkpoint: process {os.getpid()} on"),
    ):
        train(done)
    assert Artifact.load(Path(done.workdir, "model")).fingerprint == before


def test_a_dataset_made_for_another_task_is_refused(done: Config) -> None:
    for task in TASKS.keys() - {done.model.task}:
        if {task, done.model.task} == {"binary", "regression"} and done.model.task == "regression":
            continue  # only the labels show this, not the encoding
        other = done.model_copy(update={"model": done.model.model_copy(update={"task": task})})
        with pytest.raises(DataError, match=f"was not made for model.task: {task}: "):
            read_encoding(other)


def test_a_dataset_made_with_different_settings_is_refused(tmp_path: Path) -> None:
    config = write_shop(tmp_path, shop_encoding(tmp_path / "encoding"), rows=40, split={"valid": 0.2})
    content = config.model_dump(by_alias=True, exclude_defaults=True)

    def refused(columns: dict[str, Any], split: dict[str, Any]) -> str:
        other = Config.model_validate({**content, "columns": {**content["columns"], **columns}, "split": split})
        with pytest.raises(DataError) as error:
            read(other)
        return str(error.value)

    split: dict[str, Any] = {"valid": 0.2, "seed": 1}  # the default seed
    problem = f"{tmp_path}/dataset was made with other settings than this configuration: "
    remedy = ". Run nfm features with this configuration, or restore these settings."
    assert refused({"label": "returned"}, split) == (
        f'{problem}columns.label was "bought" and is "returned" now{remedy}'
    )
    categorical, numeric = content["columns"]["categorical"], content["columns"]["numeric"]
    changed = {"color": {"oov_buckets": 3}, "tags": categorical["tags"], "size": {"min_count": 5}}
    assert refused({"categorical": changed, "numeric": {"age": numeric["age"], "kg": numeric["kg"]}}, {"seed": 2}) == (
        f"{problem}columns.categorical.color.oov_buckets was 2 and is 3 now; "
        'columns.categorical.size was not set and is {"min_count": 5} now; '
        'columns.numeric.price was {"as": "dense", "missing_flag": true} and is not set now; '
        f"split.valid was 0.2 and is not set now; split.seed was not set and is 2 now{remedy}"
    )
    fields: dict[str, Any] = {f"f{i}": {} for i in range(4)}
    assert '; columns.weight was not set and is "w" now and 1 more. Run' in refused(
        {"categorical": {**categorical, **fields}, "weight": "w"}, {"valid": 0.2, "seed": 4}
    )
    # Another notation or order, and settings that do not concern the dataset, are not different settings.
    color = {**categorical["color"], "column": "color"}
    same = {**content["columns"], "categorical": {"tags": categorical["tags"], "color": color}}
    split["by"] = ("id",)
    assert (
        read(Config.model_validate({**content, "columns": same, "split": split, "name": "new"}))[1]["train"].rows == 40
    )


def test_labels_not_valid_for_the_task_are_refused(tmp_path: Path) -> None:
    config = write_shop(tmp_path, shop_encoding(tmp_path / "encoding"), "regression", rows=40)
    with pytest.raises(DataError, match=r"The labels of a binary task are 0 and 1, but 10 of the 10 rows of the valid"):
        train(config.model_copy(update={"model": config.model.model_copy(update={"task": "binary"})}))
    assert not (tmp_path / "model").exists()


def test_a_model_folder_with_other_files_is_not_replaced(tmp_path: Path) -> None:
    config = write_shop(tmp_path, shop_encoding(tmp_path / "encoding"), rows=40)
    (tmp_path / "model").mkdir()
    (tmp_path / "model/thesis.txt").write_text("years of work")
    with pytest.raises(DataError, match="was not written by this job"):
        train(config)
    assert not (tmp_path / "checkpoint").exists()  # refused before the training


def test_the_plan_describes_the_training_and_writes_nothing(tmp_path: Path) -> None:
    config = write_shop(tmp_path, shop_encoding(tmp_path / "encoding"), rows=40)
    before = sorted(tmp_path.rglob("*"))
    encoding, folds = read(config)
    text = summary.plan(config, encoding, folds)
    # Table: color 1 + 2 + 3, tags 1 + 1 + 2, age 1 + 3, kg 1 = 15 rows of 4 and of w_i, w_0; 2 dense columns, which
    # have weights and join 4 pooled numbers into 8 units; norms of 4 and 8; h.
    parameters = 15 * 4 + 15 + 1 + 2 + (4 + 2) * 8 + 8 + 4 * (4 + 8) + 8
    assert f"  model     {parameters} parameters, 15 rows in the embedding table" in text
    assert "no row of the dataset was read, nothing was trained or written" in text
    assert "(train 40, valid 10, test 10 rows)" in text
    assert "starts" not in text
    assert "resumes" not in text
    assert sorted(tmp_path.rglob("*")) == before


def test_the_plan_shows_what_the_training_starts_from(tmp_path: Path) -> None:
    config = write_shop(tmp_path, shop_encoding(tmp_path / "encoding"), rows=40, train={"epochs": 1})
    encoding, folds = read(config)
    fit(encoding.spec, config.model, config.train, folds, Places(tmp_path / "checkpoint"))
    assert "  resumes   from the checkpoint after 1 steps, in epoch 2" in summary.plan(config, encoding, folds)

    def plan_with(**changes: Any) -> str:
        train_settings = config.train.model_copy(update=changes)
        return summary.plan(config.model_copy(update={"train": train_settings}), encoding, folds)

    assert "  resumes   no, the training starts again: since the checkpoint" in plan_with(seed=2)
    assert "this changed: train.seed was 1 and is 2 now" in plan_with(seed=2)
    assert "  starts    from a factorization machine, which is trained first" in plan_with(pretrain="fm")
    train(config)
    model = Artifact.load(tmp_path / "model")
    started = plan_with(init_from=f"{tmp_path}/model")
    assert f"  starts    from the model in {tmp_path}/model ({model.fingerprint[:12]}…)" in started
    with pytest.raises(DataError, match="There is no model in"):
        plan_with(init_from=f"{tmp_path}/nowhere")


def test_the_job_prints_the_network_from_the_encoding_alone(trainings: Forks, tmp_path: Path) -> None:
    encoding: Encoding = shop_encoding(tmp_path / "encoding")
    (tmp_path / "encoding/statistics.json").write_text('{"rows": {"train": 50}}')
    (tmp_path / "config.yaml").write_text(
        f"{{name: shop, workdir: {tmp_path}, source: {{path: raw}}, model: {{embedding_dim: 4, hidden_units: [8]}}, "
        "columns: {key: [id], label: bought, categorical: {color: {}}}}"
    )
    ran = trainings.run("train", "--config", str(tmp_path / "config.yaml"), "--summary")
    assert ran.returncode == 0, ran.stderr
    cells = [line.split() for line in ran.stdout.splitlines()]
    assert ["embedding", "FeatureEmbedding", "B", "×", "…", "×", "4", "60"] in cells
    assert ["hidden_0", "Dense", "B", "×", "8", "56"] in cells
    assert "BatchNormalization" not in ran.stdout  # the default for 50 train rows
    model = build(encoding.spec, Model(embedding_dim=4, hidden_units=(8,), batch_norm=False))
    padding = 4 + 1
    assert ["sum", str(model.count_params() - padding)] in cells
    assert "Each field reserves one row for missing" in ran.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml", "encoding"]


def test_a_published_model_has_its_target_rates(tmp_path: Path) -> None:
    encoding = shop_encoding(tmp_path / "encoding")
    config = write_shop(tmp_path, encoding, model={"use": {"rates": True}})
    trained = train(config)
    model = Artifact.load(tmp_path / "model")
    assert model.network.rates == ("color", "tags", "age")
    assert model.weights["rates"].shape == (encoding.spec.rows, 2)
    # The train fold's rows have the rates of other parts than their own; metrics of the test fold use the whole fold's.
    fold = read(config)[1]["test"]
    (rows,) = fold.pieces()
    scores = score(model.encoding.spec, model.network, model.weights, rows.inputs)
    np.testing.assert_allclose(scores, keras_scores(model, rows.inputs)[:, 0], atol=1e-6)
    assert trained.metrics["test"]["log_loss"] == pytest.approx(log_loss(rows.label, scores), abs=1e-5)


def test_a_dataset_from_before_bins_were_the_default_has_dense_numbers(tmp_path: Path) -> None:
    config = write_shop(tmp_path, shop_encoding(tmp_path / "encoding"), rows=40)
    marker = tmp_path / "dataset" / DATASET_MARKER
    facts = json.loads(marker.read_text())
    del facts["settings"]["columns"]["numeric"]["price"]["as"]  # older versions left the default out
    marker.write_text(json.dumps(facts))
    assert read(config)[1]["train"].rows == 40
    content = config.model_dump(by_alias=True, exclude_defaults=True)
    del content["columns"]["numeric"]["price"]["as"]
    with pytest.raises(
        DataError, match=r'columns\.numeric\.price\.as was "dense" and is "bins" now\. Run nfm features'
    ):
        read(Config.model_validate(content))


def test_a_dataset_of_an_older_version_trains_without_target_rates(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    encoding = shop_encoding(tmp_path / "encoding")
    train(write_shop(tmp_path, encoding, has_parts=False, model={"use": {"rates": True}}))
    assert "written by an older version of nfm, so the model has no target rates" in caplog.text
    model = Artifact.load(tmp_path / "model")
    assert model.network.rates == ()
    assert "rates" not in model.weights
