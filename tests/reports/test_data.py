"""Contents of the tables of statistics.json."""

from typing import Any

from nfm.contract.schema import FOLDS
from nfm.reports.data import by_auc, count_values, data_tables

ROWS = dict(zip(FOLDS, (7000, 1000, 2000), strict=True))


def test_the_highest_auc_comes_first_and_none_last() -> None:
    facts: dict[str, dict[str, Any]] = {"device": {"auc": 0.6}, "site": {"auc": None}, "hour": {}, "pair": {"auc": 0.7}}
    assert list(by_auc(facts)) == ["pair", "device", "site", "hour"]


def test_values_of_a_shared_vocabulary_are_counted_in_all_its_fields() -> None:
    shared: dict[str, dict[str, Any]] = {
        "a": {"form": "vocabulary", "values": ROWS},
        "b": {"form": "shared:a", "values": ROWS},
    }
    alone: dict[str, dict[str, Any]] = {"c": {"form": "bag", "values": ROWS}, "vocabulary": {"form": "vocabulary"}}
    expected = {"a": 14000, "b": 14000, "c": 7000, "vocabulary": 7000}
    assert count_values(shared | alone, 7000) == expected


def test_the_largest_classes_come_first_with_their_numbers() -> None:
    classes = [{"class": name, "train": n, "valid": 0, "test": 0} for name, n in (("a", 1), ("b", 5), ("c", 3))]
    label = {"column": "color", "task": "multiclass", "classes": classes}
    data = data_tables({"rows": ROWS, "label": label, "fields": {}, "numbers": {}})
    assert [(counts["class"], counts["number"]) for counts in data["classes"]] == [("b", 1), ("c", 2), ("a", 0)]
    assert not data["ranked"]
