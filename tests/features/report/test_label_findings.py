"""What stands out in the labels of each task, by hand: what must be told, and what comes near it and must not."""

from typing import Any

import pytest

from nfm.contract.schema import FOLDS
from nfm.features.report.findings import findings


def statistics(rows: list[int], label: dict[str, Any], field_auc: float | None = None) -> dict[str, Any]:
    number = {"missing": dict.fromkeys(FOLDS, 0), "min": 0.0, "max": 9.0, "auc": field_auc}
    of_label = {"column": "price", **label}
    return {"rows": dict(zip(FOLDS, rows, strict=True)), "label": of_label, "fields": {}, "numbers": {"age": number}}


def kinds(rows: list[int], label: dict[str, Any]) -> list[tuple[str, str]]:
    return [(one["about"], one["kind"]) for one in findings(statistics(rows, label), ["id"], "price")]


def classes(**counts: list[int]) -> dict[str, Any]:
    return {
        "task": "multiclass",
        "classes": [{"class": name, **dict(zip(FOLDS, n, strict=True))} for name, n in counts.items()],
    }


def numbers(*by_fold: tuple[float, float] | None) -> dict[str, Any]:
    """Mean and spread of each fold."""
    facts = [one and {"mean": one[0], "std": one[1], "min": one[0] - one[1], "max": one[0] + one[1]} for one in by_fold]
    return {"task": "regression", "by_fold": dict(zip(FOLDS, facts, strict=True))}


def test_nothing_stands_out() -> None:
    assert kinds([1000, 200, 400], classes(a=[500, 100, 200], b=[500, 100, 200])) == []
    assert kinds([1000, 200, 400], numbers((5.0, 2.0), (5.1, 2.0), (4.9, 2.0))) == []


def test_a_fold_of_one_class_and_one_without_rows() -> None:
    told = kinds([1000, 200, 0], classes(a=[500, 0, 0], b=[500, 200, 0]))
    assert told == [("valid fold", "one label"), ("test fold", "no rows")]
    text = findings(statistics([1000, 200, 10], classes(a=[500, 0, 5], b=[500, 200, 5])), ["id"], "price")[0]["text"]
    assert text.startswith("All 200 labels are ‘b’: training cannot stop early or be compared on it.")


def test_a_fold_of_one_number() -> None:
    told = findings(statistics([1000, 200, 10], numbers((5, 2), (7, 0), (5, 2))), ["id"], "price")
    assert [(one["about"], one["kind"]) for one in told] == [("valid fold", "one label")]
    assert told[0]["text"].startswith("All 200 labels are 7: ")


def test_other_shares_of_classes() -> None:
    # c has 10 % of the train fold, and 25 % of the test fold; a and b are within half and twice their share.
    label = classes(a=[450, 90, 150], b=[450, 90, 150], c=[100, 20, 100])
    told = findings(statistics([1000, 200, 400], label), ["id"], "price")
    assert [(one["about"], one["kind"]) for one in told] == [("test fold", "label rate")]
    assert told[0]["text"].startswith("‘c’ has 25.00% of the rows against 10.00% in the train fold. Scores will be off")
    # Three times as many, but of so few that chance does it.
    assert kinds([1000, 10, 400], classes(a=[900, 7, 360], b=[100, 3, 40])) == []


@pytest.mark.parametrize(("mean", "rows", "told"), [(5.9, 400, False), (6.1, 400, True), (6.1, 10, False)])
def test_another_mean(mean: float, rows: int, told: bool) -> None:
    found = kinds([1000, 200, rows], numbers((5.0, 2.0), (5.0, 2.0), (mean, 2.0)))
    assert found == ([("test fold", "label mean")] if told else [])


def test_rare_classes() -> None:
    label = classes(a=[981, 100, 200], b=[10, 1, 2], c=[9, 1, 2], d=[0, 0, 0])
    told = findings(statistics([1000, 102, 204], label), ["id"], "price")
    assert [(one["about"], one["kind"]) for one in told] == [("price", "rare classes")]
    assert told[0]["text"].startswith("2 of 4 classes have fewer than 10 rows in the train fold: ‘d’ (0), ‘c’ (9).")
