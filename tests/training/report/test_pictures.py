"""Charts and the architecture diagram: their content, and ranges and names that must not break them."""

import re
from dataclasses import replace
from html import unescape

import numpy as np
import pytest

from nfm.config.train import Model, Use
from nfm.contract.schema import Bag, Field, Spec
from nfm.reports import page
from nfm.reports.charts import Chart
from nfm.training.metrics import curves
from nfm.training.model import build, describe
from nfm.training.report import pictures
from nfm.training.report.parameters import count_parameters
from tests.parsed import Parsed

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


def architecture(spec: Spec, settings: Model, parameters: dict[str, int] | None = None) -> str:
    """Return the text of the diagram, as a browser reads it."""
    macro = (
        '{% from "training/report/architecture.html.jinja" import architecture %}'
        "{{ architecture(spec, settings, parameters, network) }}"
    )
    counts = parameters or count_parameters(build(spec, settings))
    diagram = (
        page._environment()
        .from_string(macro)
        .render(spec=spec, settings=settings, parameters=counts, network=describe(spec, settings))
    )
    Parsed(diagram)  # every tag is closed
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", diagram)).split())


@pytest.mark.parametrize("settings", [MODELS[name] for name in MODELS if name != "classes"])
def test_the_diagram_has_the_layers_of_the_model(spec: Spec, settings: Model) -> None:
    text = architecture(spec, settings)
    layers = len(settings.hidden_units)
    assert text.count("Hidden layer") == layers
    assert text.count("batch norm") == (layers + 1) * settings.batch_norm
    assert text.count("dropout") == bool(settings.pooling_dropout) + layers * bool(settings.hidden_dropout)
    assert text.count(settings.activation) == layers
    assert ("Dense numbers" in text) == bool(spec.dense)
    assert ("Concatenate the dense numbers" in text) == bool(spec.dense and layers)
    assert ("factorization machine" in text) == (settings.output == "ones")


def test_the_diagram_counts_parameters(mixed: Spec) -> None:
    # 5 + 9 + 5 ids, x and its flag: 21 rows; y and z are dense.
    text = architecture(mixed, Model(embedding_dim=4, hidden_units=(3, 2)))
    for expected in [
        "B × 6 × 4 table 25 × 4 = 100 parameters",
        "batch norm · 16",
        "B × (4 + 2)",
        "6 × 3 + 3 = 21 parameters",
        "batch norm · 12",
        "3 × 2 + 2 = 8 parameters",
        "batch norm · 8",
        "Output weights h B × 1 2 parameters",
        "1 + 25 + 2 = 28 parameters",
    ]:
        assert text.count(expected) == 1, expected


def test_the_diagram_shows_target_rates(mixed: Spec) -> None:
    rated = replace(mixed, has_parts=True, fields=(replace(mixed.fields[0], rates=False), *mixed.fields[1:]))
    text = architecture(rated, Model(use=Use(rates=True), embedding_dim=4, hidden_units=(3,)))
    assert "Target rates, each with a count (2): b c" in text
    assert "Concatenate the dense numbers and target rates B × (4 + 6)" in text
    classes = replace(rated, classes=("red", "green", "blue"))
    text = architecture(
        classes, Model(task="multiclass", use=Use(rates=True, counts=False), embedding_dim=4, hidden_units=(3,))
    )
    assert "Target rates (2 for each class): b c" in text
    assert "B × (4 + 8)" in text


def test_many_fields_are_abbreviated(mixed: Spec) -> None:
    text = architecture(replace(mixed, fields=forty_fields(), numbers=()), Model())
    assert "field 23 25 ids" in text
    assert "field 24" not in text
    assert "16 more" in text


@pytest.mark.parametrize("name", ["x" * 300, "$\\alpha^$", "名前", "two\nlines", "<b>&]]>--c"])
def test_any_name_can_be_shown(name: str, mixed: Spec) -> None:
    fields = (replace(mixed.fields[0], name=name), *mixed.fields[1:])
    numbers = (replace(mixed.numbers[0], name=name), replace(mixed.numbers[1], name=name))
    text = architecture(replace(mixed, fields=fields, numbers=numbers), Model())
    short = " ".join(name.split()) if len(name) < 40 else f"{name[:39]}…"
    assert text.count(short) == 5  # the field, the number, its flag, the dense number, its bins
    assert "x" * 40 not in text


def test_the_last_layer_of_the_diagram_depends_on_the_task(mixed: Spec) -> None:
    classes = replace(mixed, classes=("red", "green", "blue"))
    parameters = {"embedding": 100, "linear": 78, "dense_linear": 6, "output": 6, "hidden_0": 10}
    multiclass = architecture(classes, MODELS["classes"], parameters)
    assert "Softmax B × 3" in multiclass
    assert "3 + 75 + 6 = 84 parameters" in multiclass
    regression = architecture(mixed, Model(task="regression"))
    assert "the predicted number" in regression
    assert "Sigmoid" not in regression


def test_the_diagram_marks_bags(mixed: Spec) -> None:
    bag = replace(mixed.fields[0], bag=Bag(None, "|", None))
    parameters = dict.fromkeys(("embedding", "linear", "output"), 1)
    text = architecture(replace(mixed, fields=(bag, *mixed.fields[1:])), MODELS["machine"], parameters)
    assert "a 5 ids, bag" in text
    assert "B × (5 + members of bags) × 64" in text  # two fields, a number, its flag, and the bins of another


@pytest.mark.parametrize("epochs", [1, 2, 50])
def test_a_curve_marks_the_best_epoch(epochs: int) -> None:
    history = {"loss": [0.5] * epochs, "val_loss": [float("nan")] * epochs}
    chart = pictures.draw_curve(history, "loss", "loss", epochs)
    assert [name for _, name in chart.legend] == [f"weights of epoch {epochs}", "train", "valid"]
    assert {int(text) for _, text in chart.x_ticks} <= set(range(1, epochs + 1))
    dots = [path.count("h0") for path, style in chart.lines if "points" in style]
    assert dots == [epochs if epochs < 50 else 1, 0]  # a loss that is not a number has no point


@pytest.mark.parametrize(("largest", "end"), [(0.04, 0.04), (0.7, 1.0), (0.0, 1.0)])
def test_the_axis_of_small_scores_ends_at_the_largest(largest: float, end: float) -> None:
    chart = pictures.draw_scores_by_label(np.array([0.0, largest]), np.array([0.0, 1]), np.array([1.0, 0]))
    assert float(chart.x_ticks[-1][1]) == end
    assert chart.x_ticks[-1][0] == chart.right


def test_the_score_distributions_equal_a_hand_count() -> None:
    # Label 0: a quarter at 0, the rest at 0.5; label 1 at 1.
    chart = pictures.draw_scores_by_label(np.array([0, 0.5, 1.0]), np.array([0, 0, 2.0]), np.array([1.0, 3, 0]))
    height = chart.bottom - chart.top
    assert [(bar.style, bar.height) for bar in chart.bars] == [
        ("train", height / 4),
        ("train", 3 * height / 4),
        ("one", height),
    ]
    assert [name for _, name in chart.legend] == ["label 0", "label 1"]


def test_the_roc_chart_by_hand() -> None:
    points = curves.Roc(np.array([0, 0.5, 1]), np.array([0, 1.0, 1]), 0.75)
    chart = pictures.draw_roc({"train": points, "test": points}, points)
    left, right, top, bottom = map(float, (chart.left, chart.right, chart.top, chart.bottom))
    bent = f"M{left} {bottom}L{(left + right) / 2} {top}L{right} {top}"
    assert chart.lines == [
        (f"M{left} {bottom}L{right} {top}", "faint dashed"),
        *((bent, style) for style in ("linear dashed", "train thin", "test")),
    ]
    assert [name for _, name in chart.legend] == ["linear part, AUC 0.750", "train, AUC 0.750", "test, AUC 0.750"]


def test_each_calibration_bin_has_an_interval() -> None:
    bins = curves.Calibration(*(np.array(x) for x in ([0.2, 0.8], [0.25, 0.75], [0.1, 0.6], [0.4, 0.9])))
    chart = pictures.draw_calibration(bins, "test")
    height = chart.bottom - chart.top
    interval, _ = chart.lines[1]
    ends = [float(end) for end in re.findall(r" ([\d.]+)", interval)]
    assert [(chart.bottom - end) / height for end in ends] == pytest.approx([0.1, 0.4, 0.6, 0.9], abs=0.001)
    assert interval.count("M") == 2


def test_a_calibration_chart_without_positive_labels() -> None:
    nothing = np.zeros(1)
    chart = pictures.draw_calibration(curves.Calibration(nothing, nothing, nothing, nothing), "test")
    assert chart.y_ticks[-1][1] == "1"


@pytest.mark.parametrize("rows", [1, 2, 3000])
def test_predictions_of_any_number_of_rows_can_be_drawn(rows: int) -> None:
    label = np.linspace(-1, 1, rows)
    weight = np.arange(rows, 0.0, -1)
    charts: list[Chart] = [
        pictures.draw_predicted_and_actual(label, np.zeros(rows), weight),  # all predictions are equal
        pictures.draw_residuals(np.zeros(rows), weight),
        pictures.draw_residuals(label, weight),
        pictures.draw_residuals(label + 5, weight),
    ]
    assert [chart.labels[0] for chart in charts] == ["predicted", *["label − prediction"] * 3]
    assert sum(path.count("h0") for path, _ in charts[0].lines) <= 800 + 15
    assert [len(chart.lines) for chart in charts[1:]] == [
        1,
        int(rows > 1),
        0,
    ]  # a line at 0 if 0 is in the range of the errors
    for chart in charts:
        heights = [bar.height for bar in chart.bars]
        assert all(0 < height <= chart.bottom - chart.top for height in heights)
