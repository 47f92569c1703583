"""The report: every number against a hand count, every case it has to cope with, and a page that stands alone."""

import re
from collections.abc import Callable, Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn.metrics

from nfm.config import Config, Model
from nfm.contract.encoder import Inputs
from nfm.contract.schema import FOLDS, Field, Number, Placement, Spec
from nfm.training import report
from nfm.training.data import Fold
from nfm.training.fit import Fitted
from nfm.training.model import build
from nfm.training.train import Trained

Write = Callable[..., str]
SMALL = Model(embedding_dim=4, hidden_units=(3,))
NONE_MISSING = dict.fromkeys(FOLDS, 0)


def number(name: str, placement: Placement = "dense", missing_flag: bool = False) -> Number:
    return Number(name, name, placement, 0.0, missing_flag, None, False, 0.0, 1.0)


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
    (number("x", missing_flag=True), Number("z", "z", "field", 7.0, False, (1.0, 90.0), True, 2.5, 0.5)),
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


def fold_of(label: Any, weight: Any = None, rows: Inputs | None = None) -> Fold:
    labels = np.array(label, np.float32)
    nothing = np.zeros((len(labels), 0), np.float32)
    weights = np.ones_like(labels) if weight is None else np.array(weight, np.float32)
    return Fold(rows or Inputs(nothing.astype(np.int32), nothing, nothing), labels, weights)


@pytest.fixture
def write(tmp_path: Path, make_rows: Callable[[Spec, int], Inputs]) -> Write:
    """Write the report of an untrained model and return the page."""

    def written(
        spec: Spec = TINY,
        facts: Mapping[str, Any] = TINY_FACTS,
        config: Config | None = None,
        history: Mapping[str, list[float]] | None = None,
        **labels_of: Sequence[float],
    ) -> str:
        config = config or config_of()
        labels = {"train": [0, 1] * 20, "valid": [0, 1] * 10, "test": [0, 0, 0, 1] * 10} | labels_of
        rng = np.random.default_rng(7)
        folds = {fold: fold_of(labels[fold], rows=make_rows(spec, len(labels[fold]))) for fold in FOLDS}
        scores = {fold: rng.uniform(0.1, 0.9, folds[fold].rows) for fold in FOLDS}
        metrics = {
            fold: {
                "rows": len(y),
                "auc": sklearn.metrics.roc_auc_score(y, scores[fold]) if len(set(y)) == 2 else None,
                "log_loss": sklearn.metrics.log_loss(y, scores[fold], labels=[0, 1]),
                "accuracy": np.mean((scores[fold] > 0.5) == y),
            }
            for fold, y in labels.items()
            if len(y)
        }
        history = history or {name: [0.5, 0.6, 0.7] for name in ("loss", "auc", "val_loss", "val_auc")}
        fitted = Fitted(build(spec, config.model), history, min(2, len(history["loss"])))
        counted = {"rows": {f: len(y) for f, y in labels.items()}, "positive": {f: sum(y) for f, y in labels.items()}}
        trained = Trained(spec, {**counted, **facts}, fitted, metrics, folds, scores)
        report.write(tmp_path / "report.html", config, trained)
        return (tmp_path / "report.html").read_text(encoding="utf-8")

    return written


class Page(HTMLParser):
    """What a browser makes of the page: the elements with their attributes, and the rows of the tables."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.cell = True

    def handle_endtag(self, tag: str) -> None:
        self.cell = self.cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self.cell:
            self.rows[-1][-1] += data

    def row(self, name: str, columns: int) -> list[str]:
        """The row with this name in a table with so many columns."""
        return next(row for row in self.rows if row[0] == name and len(row) == columns)

    def count(self, tag: str) -> int:
        return [name for name, _ in self.elements].count(tag)


def prose(page: str) -> str:
    return " ".join(re.sub(r"<[^>]*>", " ", page).split())


def test_the_parameters_of_a_tiny_model_by_hand(categories: Spec) -> None:
    model = build(TINY, SMALL)
    # 6 + 4 + 5 + 1 rows; K = 4; dense: x and its flag; a norm has 4 arrays.
    assert report.parts(model) == {
        "embedding table": 16 * 4,
        "first-order weights w_i and bias w_0": 16 + 1,
        "first-order weights of the dense numbers": 2,
        "hidden layers (kernels and biases)": (4 + 2) * 3 + 3,
        "batch norm (γ, β, moving mean and variance)": 4 * 4 + 4 * 3,
        "h": 3,
    }
    layers = {layer.name: (layer.shape, layer.parameters, layer.trainable) for layer in report.layers(model)}
    assert list(layers)[:5] == ["ids", "values", "dense", "embedding", "pooling"]
    assert list(layers)[-5:] == ["output", "linear", "dense_linear", "linear_sum", "score"]
    assert layers["embedding"] == ("B × 4 × 4", 64, 64)
    assert layers["hidden_0_norm"] == ("B × 3", 12, 6)
    assert not {"values", "dense", "linear_sum"} & {layer.name for layer in report.layers(build(categories, SMALL))}
    assert sum(of for _, of, _ in layers.values()) == sum(report.parts(model).values()) == model.count_params() == 135


def test_the_rows_of_each_field_by_hand() -> None:
    a, b, c, z = report.field_rows(TINY, TINY_FACTS)
    assert (a.values, a.missing, a.out_of_vocabulary, a.rows) == (3, 1, 2, 6)
    assert (a.distinct, a.has_missing, a.reserved, a.literature_rows) == (7, 1, 1, 9)  # missing in the test fold only
    assert (b.rows, b.has_missing, b.literature_rows) == (4, 0, 3)
    assert (c.out_of_vocabulary, c.rows, c.literature_rows) == (0, 5, 6)
    assert (z.name, z.rows, z.literature_rows) == ("z", 1, 1)


def test_the_published_parameter_counts_can_be_read_off(write: Write) -> None:
    known = {"Pclass": (3, 3, 0), "Sex": (2, 2, 0), "Cabin": (122, 147, 9), "Embarked": (3, 3, 1)}
    fields = tuple(Field(name, (name,), ("text",), 1, values, name) for name, (values, _, _) in known.items())
    numbers = tuple(number(name) for name in ("Age", "SibSp", "Parch", "Fare"))
    facts = {"fields": {name: field_facts(*counts) for name, counts in known.items()}, "numbers": {}}
    page = Page(write(Spec(("k",), fields, numbers, ()), facts, config_of(Model(batch_norm=False))))
    # field; values, missing, unseen, rows, × 64, first order; distinct, missing, reserved, rows, × 64
    assert page.row("Pclass", 12)[7:] == ["3", "0", "1", "4", "256"]
    assert page.row("Sex", 12)[7:] == ["2", "0", "1", "3", "192"]
    assert page.row("Cabin", 12)[1:7] == ["122", "1", "1", "124", "7,936", "124"]
    assert page.row("Cabin", 12)[7:] == ["147", "1", "1", "149", "9,536"]
    assert page.row("Embarked", 12)[7:] == ["3", "1", "1", "5", "320"]
    assert page.row("hidden layers (kernels and biases)", 3)[1] == "25,344"
    assert page.row("h", 3)[1] == "128"
    assert page.row("batch norm (γ, β, moving mean and variance)", 3)[1] == "0"
    # 138 rows of 64; 138 + 1 first-order weights, and 4 of dense numbers; hidden layers; h
    assert page.row("total", 3)[1] == page.row("total", 5)[3] == f"{138 * 64 + 139 + 4 + 25_344 + 128:,}"


def test_the_page_stands_alone_and_explains_its_curves(write: Write) -> None:
    text = write()
    page = Page(text)
    namespaces = {value for _, attributes in page.elements for name, value in attributes.items() if "xmlns" in name}
    assert set(re.findall(r"https?://[^\"'<\s]+", text)) <= namespaces
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert not [tag for tag, _ in page.elements if tag in ("script", "link", "img", "iframe", "object")]
    links = [attributes.get(name) for _, attributes in page.elements for name in ("src", "href", "xlink:href")]
    targets = [link for link in links if link] + re.findall(r"url\(([^)]*)\)", text)
    assert {target[0] for target in targets} == {"#"}
    assert {target[1:] for target in targets} <= set(ids)
    assert page.count("svg") == 6
    assert "measured while training: with dropout on and batch norm by" in prose(text)
    assert "The model has the weights of epoch 2, the best by val_loss" in prose(text)
    assert text.count(">weights of epoch 2<") == 2
    assert "embedding_dim: 4" in text
    row = page.row("x", 10)
    assert row[1:9] == ["0.0%", "0.0%", "0.0%", "1.5", "0.5", "-1,234", "1", "2"]
    assert row[9] == "beside the pooled vector: 0 where missing; a column that says where it is missing"
    assert page.row("c", 10)[9] == "a field of 4 buckets with edges at 1, 2, 3"
    steps = "clipped to 1 … 90; 7 where missing; log(1 + |x|) with its sign; (x − 2.5) / 0.5"
    assert page.row("z", 10)[9] == f"a feature in the pooling: {steps}"


def test_what_users_wrote_is_text_and_never_markup(write: Write) -> None:
    nasty = '<script>alert("1")</script><img src=x>&amp;'
    numbers = (number(f"{nasty}2"), number(f"{nasty}3", "field"))
    facts = {"fields": {nasty: field_facts(3, 3, 0)}, "numbers": {f"{nasty}2": TINY_FACTS["numbers"]["x"]}}
    spec = Spec(("k",), (Field(nasty, (nasty,), ("text",), 1, 3, nasty),), numbers, ())
    text = write(spec, facts, config_of(label=nasty, name=nasty))
    page = Page(text)
    assert page.count("script") == page.count("img") == 0
    assert page.row(nasty, 12)[1] == "3"
    assert page.row("fold", 5)[3] == f"{nasty} = 1"
    assert "<script>" not in text  # nor in the comments of the pictures


def test_metrics_stand_beside_those_of_the_constant(write: Write) -> None:
    page = write(test=[0] * 39 + [1])
    assert Page(page).row("test", 7)[5:] == [f"{np.log(2):.4f}", "0.9750"]  # the train fold's rate, ½, says 0
    assert "On the test fold (40 rows) the model scores a row with y = 1 above" in prose(page)
    assert "the model is no better than that constant" in prose(page)


def test_only_a_train_fold_and_losses_that_are_not_numbers(write: Write) -> None:
    settings = config_of(train={"early_stopping": None, "epochs": 1})
    page = write(config=settings, valid=[], test=[], history={"loss": [float("nan")], "auc": [0.5]})
    shown = prose(page[page.index("<main>") : page.index("<pre>")])
    assert "There is no test fold, so this is the train fold, on which the model was fitted" in shown
    assert "There is no validation fold." in shown
    assert "The valid fold has no rows: no ROC. The test fold has no rows: no ROC." in shown
    assert "No early stopping: the model has the weights of the last epoch." in shown
    assert Page(page).row("test", 5)[1:] == ["0", "0.0%", "0", "–"]
    assert not re.search(r"\b(nan|inf|None|Undefined)\b", shown)


def test_no_test_fold_and_a_validation_fold_with_one_label(write: Write) -> None:
    page = write(valid=[0] * 30, test=[])
    assert "so this is the validation fold" in prose(page)
    assert "all labels are equal, so an AUC is not defined" in prose(page)
    assert "The valid fold has rows of one label only: no ROC." in prose(page)
    assert "Calibration, validation fold" in page
    assert Page(page).row("valid", 7)[2] == "–"


def test_one_label_everywhere_and_a_test_fold_of_one_row(write: Write) -> None:
    page = write(train=[0] * 30, valid=[0] * 30, test=[0])
    assert "No fold has rows of both labels, so a ROC is not defined." in prose(page)
    assert "On the test fold (1 row) all labels" in prose(page)
    assert Page(page).count("svg") == 5


@pytest.mark.parametrize("rate", [0.2, 0.8])
def test_the_constant_is_weighted(rate: float) -> None:
    fold = fold_of([1, 0, 0], [3, 1, 1])
    expected = sklearn.metrics.log_loss(fold.label, [rate] * 3, sample_weight=fold.weight)
    assert report.constant(fold, rate) == pytest.approx((expected, 0.6 if rate > 0.5 else 0.4), abs=1e-6)


def test_bins_have_equal_weight_and_equal_scores_share_one() -> None:
    score = np.array([0.1] * 30 + [0.2] * 10 + [0.9] * 40)
    bins = report.calibration(fold_of([0] * 40 + [1] * 40), score, bins=2)
    assert bins.predicted == pytest.approx([0.125, 0.9])
    assert bins.observed == pytest.approx([0, 1])
    # Wilson's interval of 5 in 10
    bins = report.calibration(fold_of([0, 1] * 5), np.full(10, 0.5))
    assert (bins.low[0], bins.high[0]) == (pytest.approx(0.2366, abs=1e-4), pytest.approx(0.7634, abs=1e-4))


def test_a_weight_counts_as_so_many_rows() -> None:
    rng = np.random.default_rng(3)
    score, label, times = rng.uniform(size=200), rng.integers(0, 2, 200), rng.integers(1, 3, 200)
    weighted, repeated = (fold_of(label, times), score), (fold_of(np.repeat(label, times)), np.repeat(score, times))
    for of_weighted, of_repeated in zip(
        report.calibration(*weighted)[:2], report.calibration(*repeated)[:2], strict=True
    ):
        assert of_weighted == pytest.approx(of_repeated)
    curve, again = report.roc(*weighted, 0.5), report.roc(*repeated, 0.5)
    assert curve is not None and again is not None
    assert report.roc(fold_of([0, 1], [1, 0]), np.array([0.2, 0.8]), 1.0) is None  # one label has no weight at all
    assert curve.true_positive_rate == pytest.approx(again.true_positive_rate)


def test_a_long_roc_is_thinned_and_keeps_its_area() -> None:
    rng = np.random.default_rng(5)
    label = rng.integers(0, 2, 20_000)
    score = rng.normal(size=20_000) + label
    auc = sklearn.metrics.roc_auc_score(label, score)
    curve = report.roc(fold_of(label), score, auc)
    assert curve is not None
    assert len(curve.false_positive_rate) <= report.MOST_POINTS
    assert sklearn.metrics.auc(curve.false_positive_rate, curve.true_positive_rate) == pytest.approx(auc, abs=0.002)
