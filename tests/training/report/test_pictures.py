"""Pictures: what the architecture says, names that must not break it, and the same SVG every time."""

import re
from collections.abc import Callable
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest

from nfm.config.train import Model
from nfm.contract.schema import Bag, Field, Spec
from nfm.training.metrics import curves
from nfm.training.model import build
from nfm.training.report import pictures
from nfm.training.report.architecture import architecture as draw_architecture
from nfm.training.report.page import parameter_counts

SVG = "{http://www.w3.org/2000/svg}"
MODELS = {
    "default": Model(),
    "machine": Model(hidden_units=(), batch_norm=False, pooling_dropout=0, hidden_dropout=0, output="ones"),
    "no hidden layers": Model(hidden_units=()),
    "classes": Model(task="multiclass", embedding_dim=4, hidden_units=(2,), batch_norm=False),
    "three, no norm": Model(embedding_dim=8, hidden_units=(32, 16, 8), activation="tanh", batch_norm=False),
}


@pytest.fixture(params=["mixed", "40 fields", "100 numbers"])
def spec(request: pytest.FixtureRequest, mixed: Spec) -> Spec:
    return {
        "mixed": mixed,
        "40 fields": replace(mixed, fields=forty_fields(), numbers=()),
        "100 numbers": replace(mixed, numbers=tuple(replace(mixed.numbers[i % 2], name=f"n{i}") for i in range(100))),
    }[request.param]


def forty_fields() -> tuple[Field, ...]:
    return tuple(Field(f"field {i}", (f"field {i}",), ("text",), 1, i, f"field {i}") for i in range(40))


def architecture(spec: Spec, settings: Model) -> ElementTree.Element:
    parameters = parameter_counts(build(spec, settings))
    return ElementTree.fromstring(draw_architecture(spec, settings, parameters))


def texts(picture: ElementTree.Element) -> list[str]:
    return [element.text or "" for element in picture.iter(f"{SVG}text")]


@pytest.mark.parametrize("settings", [MODELS[name] for name in MODELS if name != "classes"])
def test_the_architecture_is_the_models(spec: Spec, settings: Model) -> None:
    written = " | ".join(texts(architecture(spec, settings)))
    layers = len(settings.hidden_units)
    assert written.count("Hidden layer") == layers
    assert written.count("batch norm") == (layers + 1) * settings.batch_norm
    assert written.count("dropout") == bool(settings.pooling_dropout) + layers * bool(settings.hidden_dropout)
    assert ("Dense numbers" in written) == bool(spec.dense)
    assert ("Join the dense numbers" in written) == bool(spec.dense and layers)
    assert ("factorization machine" in written) == (settings.output == "ones")


def test_the_architecture_counts_parameters(mixed: Spec) -> None:
    # 5 + 9 + 5 ids, x and its flag: 21 rows; y and z are dense.
    written = texts(architecture(mixed, Model(embedding_dim=4, hidden_units=(3, 2))))
    for expected in [
        "table 21 × 4 = 84 parameters",
        "batch norm · 16",
        "B × (4 + 2)",
        "6 × 3 + 3 = 21 parameters",
        "batch norm · 12",
        "3 × 2 + 2 = 8 parameters",
        "batch norm · 8",
        "2 parameters",
        "1 + 21 + 2",
        "= 24 parameters",
    ]:
        assert written.count(expected) == 1, expected


def test_nothing_is_written_outside_the_picture(spec: Spec) -> None:
    picture = architecture(spec, MODELS["three, no norm"])
    width, height = map(float, picture.attrib["viewBox"].split()[2:])
    for element in picture.iter(f"{SVG}text"):
        at = re.search(r"translate\(([-\d.]+) ([-\d.]+)\)", element.attrib.get("transform", ""))
        x, y = map(float, at.groups() if at else (element.attrib["x"], element.attrib["y"]))
        assert 0 < x < width
        assert 0 < y < height


def test_many_fields_are_summed_up(mixed: Spec) -> None:
    written = texts(architecture(replace(mixed, fields=forty_fields(), numbers=()), Model()))
    assert "field 8" in written
    assert "field 9" not in written
    assert written[written.index("31 more") + 1] == f"{sum(2 + i for i in range(9, 40))} ids"


@pytest.mark.parametrize("name", ["x" * 300, "$\\alpha^$", "名前", "two\nlines", "<b>&]]>--c"])
def test_any_name_can_be_drawn(name: str, mixed: Spec) -> None:
    fields = (replace(mixed.fields[0], name=name), *mixed.fields[1:])
    numbers = (replace(mixed.numbers[0], name=name), replace(mixed.numbers[1], name=name))
    written = texts(architecture(replace(mixed, fields=fields, numbers=numbers), Model()))
    begin = " ".join(name.split())[:8]
    assert sum(text.startswith(begin) for text in written) == 4  # the field, the number, its flag, the dense number
    assert max(map(len, written)) < 60


def test_pictures_are_the_same_every_time(mixed: Spec) -> None:
    parameters = parameter_counts(build(mixed, Model()))
    draw: list[Callable[[], str]] = [
        lambda: pictures.curve({"loss": [1.0, 0.5]}, "loss", "loss", 2),
        lambda: pictures.roc({"test": curves.Roc(np.array([0.0, 1]), np.array([0.0, 1]), 0.5)}),
        lambda: pictures.pairs([("a", "b", 1.0)]),
        lambda: draw_architecture(mixed, Model(), parameters),
    ]
    for picture in draw:
        assert picture() == picture()


@pytest.mark.parametrize("epochs", [1, 2, 50])
def test_the_marked_epoch_is_one_of_the_epochs(epochs: int) -> None:
    history = {"loss": [0.5] * epochs, "val_loss": [float("nan")] * epochs}
    written = texts(ElementTree.fromstring(pictures.curve(history, "loss", "loss", epochs)))
    assert f"weights of epoch {epochs}" in written
    assert {int(text) for text in written if re.fullmatch(r"\d+", text)} <= set(range(epochs + 1))


@pytest.mark.parametrize(("largest", "end"), [(0.04, 0.04), (0.7, 1.0), (0.0, 1.0)])
def test_the_axis_of_the_scores_ends_where_they_do(largest: float, end: float) -> None:
    scores = np.array([0.0, largest])
    picture = pictures.scores_by_label(scores, np.array([0.0, 1]), np.array([1.0, 0]))
    ticks = [text for text in texts(ElementTree.fromstring(picture)) if re.fullmatch(r"\d\.\d+", text)]
    assert float(ticks[-1]) == end


def test_a_calibration_of_labels_that_are_all_0() -> None:
    nothing, three = np.zeros(1), np.zeros(3)
    bins = curves.Calibration(nothing, nothing, nothing, nothing)
    assert "test" in texts(ElementTree.fromstring(pictures.calibration(bins, three, three + 1, "test")))


@pytest.mark.parametrize("rows", [1, 2, 3000])
def test_predictions_of_any_number_of_rows_can_be_drawn(rows: int) -> None:
    label = np.linspace(-1, 1, rows)
    weight = np.arange(rows, 0.0, -1)
    for picture in (
        pictures.predicted_and_actual(label, np.zeros(rows), weight, "test"),  # all predictions are equal
        pictures.residuals(np.zeros(rows), weight, "valid"),
        pictures.residuals(label, weight, "train"),
    ):
        assert "label" in " ".join(texts(ElementTree.fromstring(picture)))
        assert picture.count("<use") < 1000


def test_pairs_are_named_from_the_strongest_down() -> None:
    strongest = [("a", "$b$", 0.3), ("x" * 300, "c", 0.2), ("d", "e", 0.1)]
    written = [text for text in texts(ElementTree.fromstring(pictures.pairs(strongest))) if "×" in text]
    assert written == ["a × $b$", f"{'x' * 23}… × c", "d × e"]


def test_the_architecture_ends_as_the_task_does(mixed: Spec) -> None:
    classes = replace(mixed, classes=("red", "green", "blue"))
    parameters = {"embedding": 84, "linear": 66, "dense_linear": 6, "output": 6, "hidden_0": 10}
    of_classes = " | ".join(texts(ElementTree.fromstring(draw_architecture(classes, MODELS["classes"], parameters))))
    assert "Softmax | B × 3" in of_classes
    assert "3 + 63 + 6 | = 72 parameters" in of_classes
    of_numbers = " | ".join(texts(architecture(mixed, Model(task="regression"))))
    assert "the number that is predicted" in of_numbers
    assert "Sigmoid" not in of_numbers


def test_a_bag_is_named_as_one(mixed: Spec) -> None:
    bag = replace(mixed.fields[0], bag=Bag(None, "|", None))
    parameters = dict.fromkeys(("embedding", "linear", "output"), 1)
    spec = replace(mixed, fields=(bag, *mixed.fields[1:]))
    written = texts(ElementTree.fromstring(draw_architecture(spec, MODELS["machine"], parameters)))
    assert "5 ids, bag" in written
    assert "B × (4 + members of bags) × 64" in written  # two fields, a number and its flag
