"""The training report: numbers against hand counts, edge cases, and a page without external resources."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nfm.config.settings import Config
from nfm.config.train import Model, Train
from nfm.contract.profile import Profile
from nfm.contract.schema import FOLDS, Field, Number, Placement, Spec
from nfm.reports.data import CLASSES
from nfm.training.metrics.multiclass import MOST_CLASSES
from nfm.training.metrics.names import METRICS
from nfm.training.metrics.tally import compute_constant, make_tally
from nfm.training.model import build, initial_weights
from nfm.training.network import Network
from nfm.training.report import page as report
from nfm.training.report.parameters import count_parameters, list_layers
from nfm.training.report.summary import summary
from nfm.training.result import Fitted, Trained
from nfm.training.step import make_measure
from nfm.training.tables import TableReader
from nfm.training.unit import PUBLISHED
from tests.parsed import Parsed

Write = Callable[..., str]
SMALL = Model(embedding_dim=4, hidden_units=(3,))
NONE_MISSING = dict.fromkeys(FOLDS, 0)


def number(name: str, placement: Placement = "dense", missing_flag: bool = False) -> Number:
    return Number(name, name, placement, 0.0, missing_flag, None, "none", 0.0, 1.0)


def field_facts(known: int, distinct: int, missing_in_test: int) -> dict[str, Any]:
    shares = {"missing": {**NONE_MISSING, "test": missing_in_test}, "out_of_vocabulary": NONE_MISSING}
    return {"vocabulary": known, "distinct": dict.fromkeys((*FOLDS, "table"), distinct), **shares}


# a: 1 + 2 + 3 ids, b: 1 + 1 + 2, bucketed c: 1 + 4; z enters the pooling; x and its flag are dense.
TINY = Spec(
    ("k",),
    (
        Field("a", ("a",), ("text",), 2, 3, "a"),
        Field("b", ("b",), ("text",), 1, 2, "b"),
        Field("c", ("c",), ("number",), 0, 4, None, (1.0, 2.0, 3.0)),
    ),
    (number("x", missing_flag=True), Number("z", "z", "field", 7.0, False, (1.0, 90.0), "log1p", 2.5, 0.5)),
    (),
)
TINY_FACTS: dict[str, dict[str, Any]] = {
    "fields": {"a": field_facts(3, 7, 1), "b": field_facts(2, 2, 0)},
    "numbers": {
        "c": {"missing": {**NONE_MISSING, "train": 2}},
        "x": {"missing": NONE_MISSING, "mean": 1.5, "std": 0.5, "min": -1234.5, "median": 1.0, "max": 2.0},
        "z": {"missing": NONE_MISSING},
    },
}


def config_of(model: Model = SMALL, **others: Any) -> Config:
    columns = {"key": ("k",), "label": others.pop("label", "y"), "categorical": {"a": {}}}
    settings = {"name": "tiny", "workdir": "build/tiny", "source": {"path": "raw"}, "columns": columns, "model": model}
    return Config.model_validate({**settings, **others})


def trained_of(
    config: Config,
    spec: Spec,
    facts: Mapping[str, Any],
    labels: Mapping[str, Sequence[float]],
    history: Mapping[str, list[float]] | None = None,
    pairs: Sequence[tuple[str, str, float]] = (("a", "b", 0.02), ("b", "z", 0.01)),
) -> Trained:
    """Return the result of a made-up training: an untrained model, and outputs that correlate with the labels."""
    rng, task = np.random.default_rng(7), config.model.task
    label = {fold: np.array(labels[fold], np.float32) for fold in FOLDS}
    train = label["train"]
    constant = compute_constant(task, spec.classes, [(train, np.ones(len(train)))])
    tallies = {}
    for fold in FOLDS:
        known = np.eye(len(spec.classes))[label[fold].astype(int)] if spec.classes else label[fold][:, np.newaxis]
        noise = rng.normal(size=(2, *known.shape))
        tallies[fold] = make_tally(task, spec.classes, constant)
        tallies[fold].add(label[fold], np.ones(len(label[fold])), known + noise[0], known + 2 * noise[1])
    label_facts: dict[str, dict[str, Any]] = {
        "binary": {"positive": {fold: int(label[fold].sum()) for fold in FOLDS}},
        "regression": {"by_fold": {fold: {"mean": 1.25, "std": 0.5, "min": -3.0, "max": 4321.0} for fold in FOLDS[:2]}},
        "multiclass": {
            "classes": [
                {"class": name, **{fold: int((label[fold] == i).sum()) for fold in FOLDS}}
                for i, name in enumerate(spec.classes)
            ]
        },
    }
    rows = {fold: len(label[fold]) for fold in FOLDS}
    statistics = {
        "rows": rows,
        "label": {"column": config.columns.label, "task": task, **label_facts[task]},
        **facts,
    }
    metric = {"binary": "auc", "regression": "rmse", "multiclass": "accuracy"}[task]
    history = history or {name: [0.5, 0.6, 0.7] for name in ("loss", metric, "val_loss", f"val_{metric}")}
    model, train_settings = config.model, Train()
    weights = initial_weights(spec, model, 1)
    measure = make_measure(TableReader(spec, weights.tables), Network(spec, model, train_settings), weights)
    fitted = Fitted(weights, PUBLISHED, history, min(2, len(history["loss"])), constant, measure)
    metrics = {fold: tallies[fold].metrics() for fold in FOLDS if len(label[fold])}
    profile, keras_model = Profile({}, {}, "valid", ()), build(spec, model, weights)
    return Trained(config, spec, statistics, fitted, keras_model, metrics, None, tallies, rows, pairs, profile)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Return a function that writes the report of an untrained model and returns the page."""

    def write_report(
        spec: Spec = TINY,
        facts: Mapping[str, Any] = TINY_FACTS,
        config: Config | None = None,
        history: Mapping[str, list[float]] | None = None,
        pairs: Sequence[tuple[str, str, float]] = (("a", "b", 0.02), ("b", "z", 0.01)),
        **changed_labels: Sequence[float],
    ) -> str:
        labels = {"train": [0, 1] * 20, "valid": [0, 1] * 10, "test": [0, 0, 0, 1] * 10} | changed_labels
        config = config or config_of()
        report.write(tmp_path / "report.html", config, trained_of(config, spec, facts, labels, history, pairs))
        return (tmp_path / "report.html").read_text(encoding="utf-8")

    return write_report


class Page(Parsed):
    """A parsed page whose table rows can be found by name and number of columns."""

    def row_of(self, name: str, columns: int) -> list[str]:
        cells = [[" ".join(cell.split()) for cell in row] for row in self.rows]
        return next(row for row in cells if row[0] == name and len(row) == columns)

    def count(self, tag: str) -> int:
        return [name for name, _ in self.tags].count(tag)


def prose(page: str) -> str:
    return " ".join(re.sub(r"<[^>]*>", " ", page).split())


def test_parameter_counts_of_a_tiny_model_by_hand(categories: Spec) -> None:
    model = build(TINY, SMALL)
    # 6 + 4 + 5 + 1 rows; K = 4; dense: x and its flag; a norm has 4 arrays.
    assert {name: n for name, n in count_parameters(model).items() if n} == {
        "embedding": 16 * 4,
        "linear": 16 + 1,
        "dense_linear": 2,
        "pooling_norm": 4 * 4,
        "hidden_0": (4 + 2) * 3 + 3,
        "hidden_0_norm": 4 * 3,
        "output": 3,
    }
    layers = {layer.name: (layer.shape, layer.parameters, layer.trainable) for layer in list_layers(model)}
    assert list(layers)[:5] == ["ids", "values", "dense", "embedding", "pooling"]
    assert list(layers)[-5:] == ["output", "linear", "dense_linear", "linear_sum", "score"]
    assert layers["embedding"] == ("B × 4 × 4", 64, 64)
    assert layers["hidden_0_norm"] == ("B × 3", 12, 6)
    assert not {"values", "dense", "linear_sum"} & {layer.name for layer in list_layers(build(categories, SMALL))}
    assert (
        sum(parameters for _, parameters, _ in layers.values())
        == sum(count_parameters(model).values())
        == model.count_params() - (4 + 1)
        == 135
    )


def test_field_rows_by_hand() -> None:
    # name; values, reserved, rows; distinct values with missing as one of them, and one row more
    assert [tuple(row.values()) for row in report.count_field_rows(TINY, TINY_FACTS)] == [
        ("a", 3, 3, 6, 8, 9),  # missing in the test fold only
        ("b", 2, 2, 4, 2, 3),
        ("c", 4, 1, 5, 5, 6),
        ("z", 1, 0, 1, 1, 1),
    ]


def test_the_report_shows_published_parameter_counts(write: Write) -> None:
    known = {"Pclass": (3, 3, 0), "Sex": (2, 2, 0), "Cabin": (122, 147, 9), "Embarked": (3, 3, 1)}
    fields = tuple(Field(name, (name,), ("text",), 1, values, name) for name, (values, _, _) in known.items())
    numbers = tuple(number(name) for name in ("Age", "SibSp", "Parch", "Fare"))
    facts = {"fields": {name: field_facts(*counts) for name, counts in known.items()}, "numbers": {}}
    page = Page(write(Spec(("k",), fields, numbers, ()), facts, config_of(Model(batch_norm=False))))
    # field; values, reserved, rows, × 64; distinct, rows, × 64
    assert page.row_of("Pclass", 8)[5:] == ["3", "4", "256"]
    assert page.row_of("Sex", 8)[5:] == ["2", "3", "192"]
    assert page.row_of("Cabin", 8)[1:] == ["122", "2", "124", "7,936", "148", "149", "9,536"]
    assert page.row_of("Embarked", 8)[5:] == ["4", "5", "320"]
    # 64 + 4 inputs into 128, and 128 into 128, with biases: 25,344 in the MLP, as in the literature; h has 128.
    assert "68 × 128 + 128 = 8,832 parameters" in page.text
    assert "128 × 128 + 128 = 16,512 parameters" in page.text
    assert "Output weights h B × 1 128 parameters" in prose(page.page)
    assert "batch norm ·" not in page.text
    # 138 rows of 64; 138 + 1 first-order weights, and 4 of dense numbers; hidden layers; h
    assert f"{138 * 64 + 139 + 4 + 25_344 + 128:,} parameters" in page.text


def test_the_page_needs_no_other_file_and_explains_its_curves(write: Write) -> None:
    text = write()
    page = Page(text)
    namespaces = {value for _, attributes in page.tags for name, value in attributes.items() if "xmlns" in name}
    assert set(re.findall(r"https?://[^\"'<\s]+", text)) <= namespaces
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert not [tag for tag, _ in page.tags if tag in ("script", "link", "img", "iframe", "object")]
    links = [attributes.get(name) for _, attributes in page.tags for name in ("src", "href", "xlink:href")]
    targets = [link for link in links if link] + re.findall(r"url\(([^)]*)\)", text)
    assert {target[0] for target in targets} == {"#"}
    assert {target[1:] for target in targets} <= set(ids)
    assert page.count("svg") == 6  # two curves, and four of the ranking
    assert "measured during training, with dropout and the batch’s own statistics for batch norm" in prose(text)
    assert "The model has the weights of epoch 2, the best by val_loss" in prose(text)
    assert text.count("</i>weights of epoch 2<") == 2
    assert "embedding_dim: 4" in text
    assert page.row_of("x", 11)[3:] == ["0.0%", "0.0%", "0.0%", "1.5", "0.5", "-1,234", "1", "2"]


def test_names_from_users_are_escaped(write: Write) -> None:
    nasty = '<script>alert("1")</script><img src=x>&amp;'
    numbers = (number(f"{nasty}2"), number(f"{nasty}3", "field"))
    facts = {"fields": {nasty: field_facts(3, 3, 0)}, "numbers": {f"{nasty}2": TINY_FACTS["numbers"]["x"]}}
    spec = Spec(("k",), (Field(nasty, (nasty,), ("text",), 1, 3, nasty),), numbers, ())
    text = write(spec, facts, config_of(label=nasty, name=nasty))
    page = Page(text)
    assert page.count("script") == page.count("img") == 0
    assert page.row_of(nasty, 8)[1] == "3"
    assert page.row_of("fold", 5)[3] == f"{nasty} = 1"
    assert "<script>" not in text


def test_metrics_are_shown_with_those_of_the_linear_part_and_the_constant(write: Write) -> None:
    labels = {"train": [0, 1] * 20, "valid": [], "test": [0] * 39 + [1]}
    expected = trained_of(config_of(), TINY, TINY_FACTS, labels).metrics["test"]
    text = write(**labels)
    page = Page(text)
    test = page.rows.index(page.row_of("test", 8))
    # fold, rows, predicted by; AUC, log loss, accuracy, PR-AUC, ECE
    model, linear, constant = page.rows[test : test + 3]
    assert model[1:3] == ["40", "the model"]
    for shown, values in ((model, expected), (linear, expected["linear"])):
        assert shown[3:] == [f"{values[key]:.4f}" for key in ("auc", "log_loss", "accuracy", "pr_auc", "ece")]
    # The constant is the train fold's rate, ½, which predicts label 0.
    assert constant[2:] == ["the train fold’s label rate", "0.5000", f"{np.log(2):.4f}", "0.9750", "0.0250", "0.4750"]
    assert "Measured on the test fold (40 rows), compared with" in prose(text)
    assert f"{expected['auc']:.3f} linear part {expected['linear']['auc']:.3f} · constant 0.500" in prose(text)
    assert "<strong>In log loss and accuracy the model is not better than this constant.</strong>" in text


def test_a_report_with_only_a_train_fold_and_nan_losses(write: Write) -> None:
    settings = config_of(train={"early_stopping": None, "epochs": 1})
    page = write(config=settings, valid=[], test=[], history={"loss": [float("nan")], "auc": [0.5]}, pairs=())
    shown = prose(page[page.index("<main>") : page.index("<pre>")])
    assert "There is no test fold. The model was fitted on the train fold" in shown
    assert "There is no validation fold." in shown
    assert "The valid fold has no rows: no ROC. The test fold has no rows: no ROC." in shown
    assert "No early stopping: the model has the weights of the last epoch." in shown
    assert "Largest pair terms" not in shown
    assert Page(page).row_of("test", 5)[1:] == ["0", "0.0%", "0", "–"]
    assert not re.search(r"\b(nan|inf|None|Undefined)\b", shown)


def test_a_report_without_test_fold_and_with_one_label_in_the_validation_fold(write: Write) -> None:
    page = write(valid=[0] * 30, test=[])
    assert "Measured on the validation fold (30 rows)" in prose(page)
    assert "There is no test fold. If the validation fold decided when to stop" in prose(page)
    assert "All labels are equal, so the AUC is not defined" in prose(page)
    assert "The valid fold has rows of one label only: no ROC." in prose(page)
    assert "Calibration, validation fold" in page
    assert Page(page).row_of("valid", 8)[3] == "–"


def test_a_report_with_one_label_and_a_test_fold_of_one_row(write: Write) -> None:
    page = write(train=[0] * 30, valid=[0] * 30, test=[0])
    assert "No fold has rows of both labels, so the ROC is not defined." in prose(page)
    assert "Measured on the test fold (1 row)" in prose(page)
    assert Page(page).count("svg") == 4  # two curves, calibration and scores; neither a ROC nor precision and recall


def test_a_regression_report_shows_the_errors(write: Write) -> None:
    config, spec = config_of(Model(task="regression", embedding_dim=4, hidden_units=(3,))), TINY
    rng = np.random.default_rng(1)
    labels = {fold: list(rng.normal(50, 9, 60)) for fold in FOLDS}
    expected = trained_of(config, spec, TINY_FACTS, labels).metrics["test"]
    text = write(config=config, **labels)
    page = Page(text)
    test = page.rows.index(page.row_of("test", 6))
    for shown, values in zip(
        page.rows[test : test + 3], (expected, expected["linear"], expected["constant"]), strict=True
    ):
        assert shown[3:] == [f"{values['rmse']:,.4g}", f"{values['mae']:,.4g}", f"{values['r2']:.4f}"]
    assert f"MAE {expected['mae']:.4g} linear part" in prose(text)
    assert "the predicted number" in text
    assert "Predicted and actual, test fold" in text
    assert page.row_of("train", 7)[3:] == ["1.25", "0.5", "-3", "4,321"]
    assert page.row_of("test", 7)[3:] == ["–"] * 4
    assert page.count("svg") == 4  # two curves, two of the errors


def test_a_multiclass_report_has_a_table_and_a_confusion_matrix(write: Write) -> None:
    nasty = "<script>blue"
    spec, config = replace(TINY, classes=("red", nasty, "none")), config_of(Model(task="multiclass", embedding_dim=4))
    labels = {fold: [0, 1, 1, 0, 1] * 8 for fold in FOLDS}
    expected = trained_of(config, spec, TINY_FACTS, labels)
    text = write(spec, config=config, **labels)
    page = Page(text)
    assert "<script>" not in text
    red = expected.metrics["test"]["classes"]["red"]
    assert page.row_of("red", 7)[1:3] == ["16", "40.0%"]
    assert page.row_of("red", 7)[3:] == [f"{red[key]:.3f}" for key in ("precision", "recall", "f1", "auc")]
    assert page.row_of("none", 7)[1:3] == ["0", "0.0%"]
    matrix = expected.tallies["test"].confusion()
    assert matrix is not None
    assert page.row_of(nasty, 4)[1:] == [f"{weight:g}" for weight in matrix[1]]
    assert page.row_of(nasty, 7)[1:4] != page.row_of("red", 7)[1:4]
    assert page.row_of(nasty, 8) == [nasty, "1", *["24", "60.0%"] * 3]
    assert "Softmax" in text
    assert f"Accuracy {expected.metrics['test']['accuracy']:.3f} linear part" in prose(text)


def test_a_report_lists_only_the_most_frequent_of_many_classes(write: Write) -> None:
    names = tuple(f"class {i}" for i in range(MOST_CLASSES + 40))
    config = config_of(Model(task="multiclass", embedding_dim=4))
    labels = {fold: [*range(len(names)), 7, 7] for fold in FOLDS}
    text = write(replace(TINY, classes=names), config=config, **labels)
    page = Page(text)
    assert page.row_of("class 7", 7)[1] == "3"
    names_shown = [row[0] for row in page.rows if len(row) == 7 and row[0].startswith("class ")]
    assert names_shown[0] == "class 7"
    assert len(names_shown) == CLASSES
    assert len([row for row in page.rows if len(row) == 8 and row[0].startswith("class ")]) == CLASSES  # of the table
    assert "Confusion matrix" not in text
    assert f"These are the {CLASSES} most frequent of {len(names)} classes" in prose(text)


def test_the_learning_rate_is_drawn_only_if_it_changes(write: Write) -> None:
    history = {"loss": [3.0, 2.0, 1.0], "auc": [0.5, 0.6, 0.7], "learning_rate": [0.1, 0.1, 0.05]}
    assert "Learning rate by epoch" in write(history=history)
    assert "Learning rate by epoch" not in write(history=history | {"learning_rate": [0.1] * 3})


def test_metrics_not_better_than_the_constant_are_found() -> None:
    higher, lower = (METRICS["binary"][i] for i in (0, 1))
    for metric, model, expected in ((higher, 0.5, True), (higher, 0.6, False), (lower, 0.4, False), (lower, 0.6, True)):
        assert report._is_beaten(metric, {metric.key: model, "constant": {metric.key: 0.5}}) is expected
    assert not report._is_beaten(higher, {"auc": None, "constant": {"auc": None}})


def test_the_summary_has_metrics_of_each_fold_and_baselines_of_the_judged_fold() -> None:
    labels = {"train": [0, 1] * 20, "valid": [], "test": [0] * 39 + [1]}
    config = config_of()
    trained = trained_of(config, TINY, TINY_FACTS, labels)
    first, head, *lines = summary(trained).splitlines()
    assert first == "Model of tiny: 135 parameters, the weights of epoch 2 after 3 epochs"
    assert head.split() == ["fold", "rows", "AUC", "log", "loss", "accuracy", "PR-AUC", "ECE"]
    keys = ("auc", "log_loss", "accuracy", "pr_auc", "ece")
    test = trained.metrics["test"]
    assert lines[1].split() == ["test", "40", *(f"{test[key]:.4f}" for key in keys)]
    assert lines[2].split() == ["linear", "part", *(f"{test['linear'][key]:.4f}" for key in keys)]
    assert lines[3].split() == ["constant", "0.5000", f"{np.log(2):.4f}", "0.9750", "0.0250", "0.4750"]
    assert len({len(line) for line in (head, *lines[:4])}) == 1
