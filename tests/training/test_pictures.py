"""Pictures: what the architecture says, names that must not break it, and the same SVG every time."""

import re
from collections.abc import Callable
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest

from nfm.config import Model
from nfm.contract.schema import Field, Spec
from nfm.training import pictures
from nfm.training.model import build

SVG = "{http://www.w3.org/2000/svg}"
MODELS = {
    "default": Model(),
    "machine": Model(hidden_units=(), batch_norm=False, pooling_dropout=0, hidden_dropout=0, output="ones"),
    "no hidden layers": Model(hidden_units=()),
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
    parameters = {layer.name: layer.count_params() for layer in build(spec, settings).layers}
    return ElementTree.fromstring(pictures.architecture(spec, settings, parameters))


def texts(picture: ElementTree.Element) -> list[str]:
    return [element.text or "" for element in picture.iter(f"{SVG}text")]


@pytest.mark.parametrize("settings", MODELS.values(), ids=MODELS)
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
    parameters = {layer.name: layer.count_params() for layer in build(mixed, Model()).layers}
    draw: list[Callable[[], str]] = [
        lambda: pictures.curve({"loss": [1.0, 0.5]}, "loss", "loss", 2),
        lambda: pictures.roc({"test": pictures.Roc(np.array([0.0, 1]), np.array([0.0, 1]), 0.5)}),
        lambda: pictures.architecture(mixed, Model(), parameters),
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
    scores, label = np.array([0.0, largest]), np.array([0, 1], np.float32)
    picture = pictures.scores_by_label(scores, label, np.ones(2, np.float32))
    ticks = [text for text in texts(ElementTree.fromstring(picture)) if re.fullmatch(r"\d\.\d+", text)]
    assert float(ticks[-1]) == end


def test_a_calibration_of_labels_that_are_all_0() -> None:
    nothing = np.zeros(1)
    bins = pictures.Calibration(nothing, nothing, nothing, nothing)
    assert "test" in texts(ElementTree.fromstring(pictures.calibration(bins, np.zeros(3), "test")))
