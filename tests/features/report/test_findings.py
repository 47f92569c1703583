"""Every kind of finding: cases that must be reported, and similar cases that must not."""

from typing import Any

import pytest

from nfm.contract.schema import FOLDS
from nfm.features.report.findings import KINDS, SERIOUS, findings, names_label

ROWS = {"train": 1000, "valid": 200, "test": 400}


def folds(train: float, valid: float, test: float) -> dict[str, Any]:
    return dict(zip(FOLDS, (train, valid, test), strict=True))


def field(**others: Any) -> dict[str, Any]:
    """Return the statistics of a field with 10 values and without findings."""
    return {
        "columns": ["color"],
        "form": "vocabulary",
        "vocabulary": 10,
        "values": ROWS,
        "distinct": {**folds(10, 9, 10), "table": 11},
        "missing": folds(0, 0, 0),
        "out_of_vocabulary": folds(0, 0, 1),
        "coverage": folds(1.0, 1.0, 0.9975),
        "top": [["red", 400]],
        "auc": 0.6,
    } | others


def number(**others: Any) -> dict[str, Any]:
    facts = {"mean": 2.0, "std": 1.0, "min": 0.0, "median": 2.0, "max": 9.0}
    return {"missing": folds(0, 0, 0), **facts, "histogram": None, "log": False, "exact": True, "auc": 0.6} | others


def statistics(**others: Any) -> dict[str, Any]:
    rows = others.get("rows", ROWS)
    positive = others.pop("positive", folds(300, 60, 120))
    rate = {fold: positive[fold] / rows[fold] if rows[fold] else None for fold in FOLDS}
    label = {"column": "bought", "task": "binary", "positive": positive, "rate": rate}
    return {"rows": rows, "label": label, "fields": {"color": field()}, "numbers": {"age": number()}} | others


def found(label: str = "bought", **others: Any) -> list[tuple[str, str]]:
    return [(finding["about"], finding["kind"]) for finding in findings(statistics(**others), ["order"], label)]


def text(kind: str, **others: Any) -> str:
    return next(f["text"] for f in findings(statistics(**others), ["order"], "bought") if f["kind"] == kind)


def test_no_findings() -> None:
    assert found() == []


def test_without_fields_and_numbers() -> None:
    assert found(fields={}, numbers={}) == []


@pytest.mark.parametrize(
    ("distinct", "missing", "is_found"),
    [(1000, 0, True), (950, 0, True), (949, 0, False), (475, 500, True), (474, 500, False), (50, 950, True)],
)
def test_a_field_that_is_unique_per_row(distinct: int, missing: int, is_found: bool) -> None:
    facts = field(distinct={**folds(distinct, 9, 10), "table": distinct}, missing=folds(missing, 0, 0))
    assert (("color", "unique") in found(fields={"color": facts})) == is_found


def test_few_values_may_be_unique() -> None:
    few = field(distinct={**folds(49, 9, 10), "table": 49}, missing=folds(951, 0, 0))
    assert ("color", "unique") not in found(fields={"color": few})


def test_a_unique_field_has_no_second_finding_for_its_coverage() -> None:
    facts = field(distinct={**folds(1000, 200, 400), "table": 1600}, coverage=folds(1.0, 0.0, 0.0))
    assert found(fields={"color": facts}) == [("color", "unique")]


def test_the_finding_for_a_unique_key_names_the_setting() -> None:
    unique = field(distinct={**folds(1000, 9, 10), "table": 1000})
    assert "columns.key" not in text("unique", fields={"color": unique})
    key_text = text("unique", fields={"color": unique | {"columns": ["order"]}})
    assert "columns.key" in key_text
    assert "1,000 different values among 1,000" in key_text


@pytest.mark.parametrize(("distinct", "missing", "is_found"), [(1, 0, True), (1, 1, False), (2, 0, False)])
def test_a_constant_field(distinct: int, missing: int, is_found: bool) -> None:
    facts = field(distinct={**folds(distinct, 1, 1), "table": 2}, missing=folds(missing, 0, 0))
    assert (found(fields={"color": facts}) == [("color", "constant")]) == is_found


def test_a_constant_number() -> None:
    assert found(numbers={"age": number(max=0.0)}) == [("age", "constant")]
    assert found(numbers={"age": number(max=0.0, missing=folds(1, 0, 0))}) == []


@pytest.mark.parametrize(
    ("missing", "kinds"),
    [(500, []), (501, ["missing"]), (950, ["missing"]), (951, ["nearly all missing"])],
)
def test_mostly_missing(missing: int, kinds: list[str]) -> None:
    absent = folds(missing, 0, 0)
    result = found(fields={"color": field(missing=absent)}, numbers={"age": number(missing=absent)})
    assert result == [(name, kind) for kind in kinds for name in ("color", "age")]


def test_missing_everywhere_is_one_finding() -> None:
    nothing = {k: v for k, v in number(missing=ROWS, auc=None).items() if k not in ("mean", "std", "min", "max")}
    empty = field(
        missing=ROWS, distinct={**folds(0, 0, 0), "table": 0}, coverage=folds(1, 1, 1), vocabulary=0, auc=None
    )
    result = found(fields={"color": empty}, numbers={"age": nothing})
    assert result == [("color", "nearly all missing"), ("age", "nearly all missing")]
    assert "Missing in every row" in text("nearly all missing", fields={"color": empty})


def test_the_missing_share_of_a_bag_is_of_its_members() -> None:
    bag = field(values=folds(3000, 600, 1200), missing=folds(900, 0, 0))
    assert found(fields={"color": bag}) == []


@pytest.mark.parametrize(
    ("auc", "kinds"),
    [(0.9499, []), (0.95, ["possible leak"]), (0.9899, ["possible leak"]), (0.99, ["leak"]), (1.0, ["leak"])],
)
def test_a_leak_by_auc(auc: float, kinds: list[str]) -> None:
    assert found(fields={"color": field(auc=auc)}) == [("color", kind) for kind in kinds]
    assert found(numbers={"age": number(auc=auc)}) == [("age", kind) for kind in kinds]


def test_an_auc_of_very_few_labels_is_ignored() -> None:
    perfect = {"color": field(auc=1.0)}
    assert ("color", "leak") in found(positive=folds(6, 2, 3), fields=perfect)
    assert ("color", "leak") not in found(positive=folds(6, 2, 2), fields=perfect)
    assert ("color", "leak") not in found(positive=folds(994, 198, 398), fields=perfect)


@pytest.mark.parametrize(
    ("column", "label"),
    [
        ("clicked", "Clicked"),
        ("clicked_at", "clicked"),
        ("ClickedAt", "clicked"),
        ("is_clicked", "clicked"),
        ("isclicked", "is_clicked"),
        ("Clicked2", "clicked"),
        ("click_time", "clicked"),
        ("clicks", "clicked"),
        ("clcked", "clicked"),  # a typing error
        ("fraud_score", "is_fraud"),
        ("cancel_reason", "cancelled"),
        ("converted", "converted_7d"),
        ("order_is_late_by", "is_late"),
        ("won_amount", "won"),
        ("Target_1", "target"),
    ],
)
def test_named_like_the_label(column: str, label: str) -> None:
    assert names_label(column, label)
    result = found(label, fields={"f": field(columns=["other", column])})
    assert result == [("f", "named like the label")]


@pytest.mark.parametrize(
    ("column", "label"),
    [
        ("clickbait", "click"),
        ("template", "late"),
        ("plate", "late"),
        ("wonderland", "won"),
        ("buyer", "buy"),
        ("booking_id", "booking_cancelled"),
        ("survivors", "survived"),
        ("y", "y"),
        ("y_position", "y"),
        ("user_id", "id"),
        ("target_audience", "target"),
        ("class_room", "class"),
        ("42", "1"),
    ],
)
def test_not_named_like_the_label(column: str, label: str) -> None:
    assert not names_label(column, label)
    assert found(label, fields={"f": field(columns=[column])}) == []


def test_the_name_of_a_number_is_its_column_or_its_own() -> None:
    assert found(numbers={"bought_for": number()}) == [("bought_for", "named like the label")]
    assert found(numbers={"bought_for": number(columns=["price"])}) == []


def test_the_name_of_the_raw_column_is_compared_not_that_of_the_field() -> None:
    assert found(fields={"bought_before": field(columns=["history"])}) == []


@pytest.mark.parametrize(
    ("valid", "test", "is_found"), [(0.8, 1.0, False), (0.79, 1.0, True), (1.0, 0.79, True), (None, None, False)]
)
def test_many_values_out_of_vocabulary(valid: float | None, test: float | None, is_found: bool) -> None:
    facts = field(coverage=folds(1.0, valid, test))  # type: ignore[arg-type]
    assert found(fields={"color": facts}) == ([("color", "unseen")] if is_found else [])


def test_few_values_out_of_vocabulary_are_not_a_finding() -> None:
    few = field(coverage=folds(1.0, 0.1, 1.0), missing=folds(0, 151, 0))
    assert found(fields={"color": few}) == []


def test_reasons_for_values_out_of_vocabulary() -> None:
    changed = text("unseen", fields={"color": field(coverage=folds(1.0, 0.7, 0.6))})
    assert "30.0% of the valid fold’s values and 40.0% of the test fold’s" in changed
    assert "change with time" in changed
    small = text("unseen", fields={"color": field(coverage=folds(0.7, 0.7, 0.6))})
    assert "too small" in small
    assert "min_count" in small


def test_a_hashed_field_has_no_values_out_of_vocabulary() -> None:
    hashed = field(form="hashed", vocabulary=0, distinct=None, coverage=folds(None, None, None))  # type: ignore[arg-type]
    assert found(fields={"color": hashed}) == []
    assert found(fields={"color": hashed | {"coverage": None, "auc": None}}) == []


@pytest.mark.parametrize(
    ("valid", "is_found"),
    [(30, False), (29, True), (120, False), (121, True)],  # half and twice the train fold's rate of 0.3
)
def test_the_label_rate_differs(valid: int, is_found: bool) -> None:
    assert found(positive=folds(300, valid, 120)) == ([("valid fold", "label rate")] if is_found else [])


def test_a_rate_that_differs_by_chance() -> None:
    assert found(rows=folds(1000, 200, 400), positive=folds(10, 5, 4)) == []
    assert found(rows=folds(100_000, 20_000, 400), positive=folds(1000, 500, 4)) == [("valid fold", "label rate")]


def test_left_out_negatives_are_counted_in_the_label_rate() -> None:
    # 300 positives of 1,000 rows, but of 6,000 before negatives were left out. The other folds keep all negatives.
    positive = folds(300, 10, 20)
    assert found(positive=positive, left_out=5000, negative_rate=0.123) == []
    assert [kind for _, kind in found(positive=positive)] == ["label rate", "label rate"]


def test_a_fold_without_rows() -> None:
    result = found(rows=folds(1000, 0, 400), positive=folds(300, 0, 120))
    assert result == [("valid fold", "no rows")]


@pytest.mark.parametrize(
    ("positive", "about"),
    [
        (folds(300, 0, 120), ["valid fold"]),
        (folds(300, 60, 400), ["test fold"]),
        (folds(1000, 60, 120), ["train fold"]),
    ],
)
def test_a_fold_with_one_label(positive: dict[str, int], about: list[str]) -> None:
    result = [name for name, kind in found(positive=positive) if kind == "one label"]
    assert result == about


def test_label_rates_are_not_compared_without_positives_in_the_train_fold() -> None:
    assert found(positive=folds(0, 60, 120)) == [("train fold", "one label")]


def test_an_empty_train_fold() -> None:
    empty: dict[str, Any] = {"rows": folds(0, 0, 0), "positive": folds(0, 0, 0), "fields": {}, "numbers": {}}
    assert found(**empty) == [(f"{fold} fold", "no rows") for fold in FOLDS]
    empty_field = field(
        values=folds(0, 0, 0), distinct={**folds(0, 0, 0), "table": 0}, coverage=folds(1, 1, 1), auc=None
    )
    assert len(found(**empty | {"fields": {"color": empty_field}, "numbers": {"age": number()}})) == 3


def test_skipped_files() -> None:
    assert found(skipped_files=[]) == []
    assert found(skipped_files=["a", "b"]) == [("source", "skipped files")]
    assert text("skipped files", skipped_files=["raw/a.parquet"]).startswith("One file (raw/a.parquet) could not")
    assert text("skipped files", skipped_files=["a", "b"]).startswith("2 files could not")


def test_the_most_serious_finding_comes_first() -> None:
    result = found(
        fields={"a": field(missing=folds(600, 0, 0)), "b": field(auc=1.0), "c": field(auc=0.96)},
        skipped_files=["x"],
    )
    kinds = [kind for _, kind in result]
    assert kinds == ["leak", "skipped files", "possible leak", "missing"]
    assert list(KINDS)[: len(SERIOUS)] == list(SERIOUS)
