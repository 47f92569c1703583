"""Findings about the labels of each model task: cases that must be reported, and similar cases that must not."""

from typing import Any

import pytest

from nfm.contract.schema import FOLDS
from nfm.features.report.findings import findings


def statistics(rows: list[int], label: dict[str, Any], field_auc: float | None = None) -> dict[str, Any]:
    number = {"missing": dict.fromkeys(FOLDS, 0), "min": 0.0, "max": 9.0, "auc": field_auc}
    label = {"column": "price", **label}
    return {"rows": dict(zip(FOLDS, rows, strict=True)), "label": label, "fields": {}, "numbers": {"age": number}}


def kinds(rows: list[int], label: dict[str, Any]) -> list[tuple[str, str]]:
    found = findings(statistics(rows, label), ["id"], "price")
    return [(finding["about"], finding["kind"]) for finding in found]


def classes(**counts: list[int]) -> dict[str, Any]:
    return {
        "task": "multiclass",
        "classes": [{"class": name, **dict(zip(FOLDS, n, strict=True))} for name, n in counts.items()],
    }


def numbers(*by_fold: tuple[float, float] | None) -> dict[str, Any]:
    """Return the statistics of a regression label, from mean and standard deviation of each fold."""
    facts = [
        moments and {"mean": moments[0], "std": moments[1], "min": moments[0] - moments[1], "max": sum(moments)}
        for moments in by_fold
    ]
    return {"task": "regression", "by_fold": dict(zip(FOLDS, facts, strict=True))}


def test_no_findings() -> None:
    assert kinds([1000, 200, 400], classes(a=[500, 100, 200], b=[500, 100, 200])) == []
    assert kinds([1000, 200, 400], numbers((5.0, 2.0), (5.1, 2.0), (4.9, 2.0))) == []


def test_a_fold_with_one_class_and_a_fold_without_rows() -> None:
    found = kinds([1000, 200, 0], classes(a=[500, 0, 0], b=[500, 200, 0]))
    assert found == [("valid fold", "one label"), ("test fold", "no rows")]
    text = findings(statistics([1000, 200, 10], classes(a=[500, 0, 5], b=[500, 200, 5])), ["id"], "price")[0]["text"]
    assert text.startswith("All 200 labels are ‘b’: training cannot stop early, and trials cannot be compared.")


def test_a_fold_with_one_number() -> None:
    found = findings(statistics([1000, 200, 10], numbers((5, 2), (7, 0), (5, 2))), ["id"], "price")
    assert [(finding["about"], finding["kind"]) for finding in found] == [("valid fold", "one label")]
    assert found[0]["text"].startswith("All 200 labels are 7: ")


def test_different_shares_of_classes() -> None:
    # c has 10 % of the train fold, and 25 % of the test fold; a and b are within half and twice their share.
    label = classes(a=[450, 90, 150], b=[450, 90, 150], c=[100, 20, 100])
    found = findings(statistics([1000, 200, 400], label), ["id"], "price")
    assert [(finding["about"], finding["kind"]) for finding in found] == [("test fold", "label rate")]
    assert found[0]["text"].startswith(
        "‘c’ has 25.00% of the rows against 10.00% in the train fold. Scores will be wrong"
    )
    # The share is three times as large, but with 10 rows only this may be chance.
    assert kinds([1000, 10, 400], classes(a=[900, 7, 360], b=[100, 3, 40])) == []


@pytest.mark.parametrize(("mean", "rows", "is_found"), [(5.9, 400, False), (6.1, 400, True), (6.1, 10, False)])
def test_different_means(mean: float, rows: int, is_found: bool) -> None:
    found = kinds([1000, 200, rows], numbers((5.0, 2.0), (5.0, 2.0), (mean, 2.0)))
    assert found == ([("test fold", "label mean")] if is_found else [])


def test_rare_classes() -> None:
    label = classes(a=[981, 100, 200], b=[10, 1, 2], c=[9, 1, 2], d=[0, 0, 0])
    found = findings(statistics([1000, 102, 204], label), ["id"], "price")
    assert [(finding["about"], finding["kind"]) for finding in found] == [("price", "rare classes")]
    assert found[0]["text"].startswith("2 of 4 classes have fewer than 10 rows in the train fold: ‘d’ (0), ‘c’ (9).")
