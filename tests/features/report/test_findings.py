"""Every kind of finding, by hand: what must be told, and what comes near it and must not."""

from typing import Any

import pytest

from nfm.contract.schema import FOLDS
from nfm.features.report.findings import KINDS, SERIOUS, findings, names_label

ROWS = {"train": 1000, "valid": 200, "test": 400}


def folds(train: float, valid: float, test: float) -> dict[str, Any]:
    return dict(zip(FOLDS, (train, valid, test), strict=True))


def field(**others: Any) -> dict[str, Any]:
    """A field of 10 values about which there is nothing to say."""
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
    return [(one["about"], one["kind"]) for one in findings(statistics(**others), ["order"], label)]


def text(kind: str, **others: Any) -> str:
    return next(one["text"] for one in findings(statistics(**others), ["order"], "bought") if one["kind"] == kind)


def test_nothing_stands_out() -> None:
    assert found() == []


def test_without_fields_and_numbers() -> None:
    assert found(fields={}, numbers={}) == []


@pytest.mark.parametrize(
    ("distinct", "missing", "told"),
    [(1000, 0, True), (950, 0, True), (949, 0, False), (475, 500, True), (474, 500, False), (50, 950, True)],
)
def test_a_field_that_is_unique_per_row(distinct: int, missing: int, told: bool) -> None:
    facts = field(distinct={**folds(distinct, 9, 10), "table": distinct}, missing=folds(missing, 0, 0))
    assert (("color", "unique") in found(fields={"color": facts})) == told


def test_few_values_may_all_differ() -> None:
    few = field(distinct={**folds(49, 9, 10), "table": 49}, missing=folds(951, 0, 0))
    assert ("color", "unique") not in found(fields={"color": few})


def test_the_values_of_an_id_are_not_unseen_on_top() -> None:
    facts = field(distinct={**folds(1000, 200, 400), "table": 1600}, coverage=folds(1.0, 0.0, 0.0))
    assert found(fields={"color": facts}) == [("color", "unique")]


def test_a_unique_key_is_told_to_be_one() -> None:
    unique = field(distinct={**folds(1000, 9, 10), "table": 1000})
    assert "columns.key" not in text("unique", fields={"color": unique})
    said = text("unique", fields={"color": unique | {"columns": ["order"]}})
    assert "columns.key" in said
    assert "1,000 different values among 1,000" in said


@pytest.mark.parametrize(("distinct", "missing", "told"), [(1, 0, True), (1, 1, False), (2, 0, False)])
def test_a_constant_field(distinct: int, missing: int, told: bool) -> None:
    facts = field(distinct={**folds(distinct, 1, 1), "table": 2}, missing=folds(missing, 0, 0))
    assert (found(fields={"color": facts}) == [("color", "constant")]) == told


def test_a_constant_number() -> None:
    assert found(numbers={"age": number(max=0.0)}) == [("age", "constant")]
    assert found(numbers={"age": number(max=0.0, missing=folds(1, 0, 0))}) == []


@pytest.mark.parametrize(
    ("missing", "kinds"),
    [(500, []), (501, ["missing"]), (950, ["missing"]), (951, ["nearly all missing"])],
)
def test_mostly_missing(missing: int, kinds: list[str]) -> None:
    absent = folds(missing, 0, 0)
    told = found(fields={"color": field(missing=absent)}, numbers={"age": number(missing=absent)})
    assert told == [(name, kind) for kind in kinds for name in ("color", "age")]


def test_missing_everywhere_is_one_finding() -> None:
    nothing = {k: v for k, v in number(missing=ROWS, auc=None).items() if k not in ("mean", "std", "min", "max")}
    empty = field(
        missing=ROWS, distinct={**folds(0, 0, 0), "table": 0}, coverage=folds(1, 1, 1), vocabulary=0, auc=None
    )
    told = found(fields={"color": empty}, numbers={"age": nothing})
    assert told == [("color", "nearly all missing"), ("age", "nearly all missing")]
    assert "Missing in every row" in text("nearly all missing", fields={"color": empty})


def test_a_bag_misses_a_share_of_its_members() -> None:
    many = field(values=folds(3000, 600, 1200), missing=folds(900, 0, 0))
    assert found(fields={"color": many}) == []


@pytest.mark.parametrize(
    ("auc", "kinds"),
    [(0.9499, []), (0.95, ["possible leak"]), (0.9899, ["possible leak"]), (0.99, ["leak"]), (1.0, ["leak"])],
)
def test_a_leak_by_auc(auc: float, kinds: list[str]) -> None:
    assert found(fields={"color": field(auc=auc)}) == [("color", kind) for kind in kinds]
    assert found(numbers={"age": number(auc=auc)}) == [("age", kind) for kind in kinds]


def test_an_auc_of_hardly_any_labels_says_nothing() -> None:
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
        ("clcked", "clicked"),  # a slip of the pen
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
    told = found(label, fields={"f": field(columns=["other", column])})
    assert told == [("f", "named like the label")]


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


def test_a_number_is_named_by_its_column_or_itself() -> None:
    assert found(numbers={"bought_for": number()}) == [("bought_for", "named like the label")]
    assert found(numbers={"bought_for": number(columns=["price"])}) == []


def test_the_raw_column_counts_and_not_the_field() -> None:
    assert found(fields={"bought_before": field(columns=["history"])}) == []


@pytest.mark.parametrize(
    ("valid", "test", "told"), [(0.8, 1.0, False), (0.79, 1.0, True), (1.0, 0.79, True), (None, None, False)]
)
def test_much_unseen(valid: float | None, test: float | None, told: bool) -> None:
    facts = field(coverage=folds(1.0, valid, test))  # type: ignore[arg-type]
    assert found(fields={"color": facts}) == ([("color", "unseen")] if told else [])


def test_few_unseen_values_are_no_finding() -> None:
    few = field(coverage=folds(1.0, 0.1, 1.0), missing=folds(0, 151, 0))
    assert found(fields={"color": few}) == []


def test_why_values_are_unseen() -> None:
    changed = field(coverage=folds(1.0, 0.7, 0.6))
    said = text("unseen", fields={"color": changed})
    assert "30.0% of the valid fold’s values and 40.0% of the test fold’s" in said
    assert "change with time" in said
    small = text("unseen", fields={"color": field(coverage=folds(0.7, 0.7, 0.6))})
    assert "too small" in small
    assert "min_count" in small


def test_a_hashed_field_has_nothing_unseen() -> None:
    hashed = field(form="hashed", vocabulary=0, distinct=None, coverage=folds(None, None, None))  # type: ignore[arg-type]
    assert found(fields={"color": hashed}) == []
    assert found(fields={"color": hashed | {"coverage": None, "auc": None}}) == []


@pytest.mark.parametrize(
    ("valid", "told"),
    [(30, False), (29, True), (120, False), (121, True)],  # half and twice the train fold's rate of 0.3
)
def test_the_label_rate_differs(valid: int, told: bool) -> None:
    assert found(positive=folds(300, valid, 120)) == ([("valid fold", "label rate")] if told else [])


def test_a_rate_that_differs_by_chance() -> None:
    assert found(rows=folds(1000, 200, 400), positive=folds(10, 5, 4)) == []
    assert found(rows=folds(100_000, 20_000, 400), positive=folds(1000, 500, 4)) == [("valid fold", "label rate")]


def test_left_out_negatives_are_thought_back() -> None:
    # 300 of 1,000, but 300 of 6,000 before negatives were left out; the other folds keep theirs.
    positive = folds(300, 10, 20)
    assert found(positive=positive, left_out=5000, negative_rate=0.123) == []
    assert [kind for _, kind in found(positive=positive)] == ["label rate", "label rate"]


def test_a_fold_without_rows() -> None:
    told = found(rows=folds(1000, 0, 400), positive=folds(300, 0, 120))
    assert told == [("valid fold", "no rows")]


@pytest.mark.parametrize(
    ("positive", "about"),
    [
        (folds(300, 0, 120), ["valid fold"]),
        (folds(300, 60, 400), ["test fold"]),
        (folds(1000, 60, 120), ["train fold"]),
    ],
)
def test_a_fold_with_one_label(positive: dict[str, int], about: list[str]) -> None:
    told = [name for name, kind in found(positive=positive) if kind == "one label"]
    assert told == about


def test_a_train_fold_without_positives_compares_no_rates() -> None:
    assert found(positive=folds(0, 60, 120)) == [("train fold", "one label")]


def test_an_empty_train_fold() -> None:
    empty: dict[str, Any] = {"rows": folds(0, 0, 0), "positive": folds(0, 0, 0), "fields": {}, "numbers": {}}
    assert found(**empty) == [(f"{fold} fold", "no rows") for fold in FOLDS]
    none = field(values=folds(0, 0, 0), distinct={**folds(0, 0, 0), "table": 0}, coverage=folds(1, 1, 1), auc=None)
    assert len(found(**empty | {"fields": {"color": none}, "numbers": {"age": number()}})) == 3


def test_skipped_files() -> None:
    assert found(skipped_files=[]) == []
    assert found(skipped_files=["a", "b"]) == [("source", "skipped files")]
    assert text("skipped files", skipped_files=["raw/a.parquet"]).startswith("One file (raw/a.parquet) could not")
    assert text("skipped files", skipped_files=["a", "b"]).startswith("2 files could not")


def test_the_most_serious_comes_first() -> None:
    told = found(
        fields={"a": field(missing=folds(600, 0, 0)), "b": field(auc=1.0), "c": field(auc=0.96)},
        skipped_files=["x"],
    )
    kinds = [kind for _, kind in told]
    assert kinds == ["leak", "skipped files", "possible leak", "missing"]
    assert list(KINDS)[: len(SERIOUS)] == list(SERIOUS)
