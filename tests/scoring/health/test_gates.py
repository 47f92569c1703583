"""Gates, with reports made by hand; no table or Spark session is needed."""

from typing import Any

import pytest

from nfm.config.score import Gates
from nfm.scoring.health.gates import GATES, crossed_gates, lift_gates


def report(rows: int = 100, multiclass: bool = False) -> dict[str, Any]:
    """Return a report: a score and a number with drift, a field with out-of-vocabulary values and drift by chance."""
    unseen = {"count": 30, "rate": 0.3, "rate_in_training": 0.05}
    score = {"psi": 0.5, "psi_by_chance": 0.1, "reference": {"fold": "valid"}}
    values = {
        "colour": {"psi": 0.4, "psi_by_chance": 0.6, "out_of_vocabulary": unseen},
        "shape": {"psi": None, "out_of_vocabulary": {"count": 0, "rate": None, "rate_in_training": 0.0}},
        "price": {"psi": 0.4, "psi_by_chance": 0.1},
    }
    scores = {"scores": {"score_a": score, "score_b": score | {"psi": 0.2}}} if multiclass else {"score": score}
    return {"rows": rows, "values": values, **scores}


def find_crossings(limits: dict[str, Any], **more: Any) -> list[tuple[str, str, float, float]]:
    crossed = crossed_gates(Gates(**limits), report(**more))
    return [(gate["gate"], gate["of"], gate["value"], gate["limit"]) for gate in crossed]


def test_each_key_of_the_settings_is_a_gate() -> None:
    assert set(GATES) == set(Gates.model_fields)


@pytest.mark.parametrize(
    ("limits", "crossed"),
    [
        ({}, []),
        ({"min_rows": 100}, []),
        ({"min_rows": 101}, [("min_rows", "table", 100, 101)]),
        ({"max_psi": 0.5}, []),  # a limit that is reached is not crossed
        ({"max_psi": 0.49}, [("max_psi", "score", 0.5, 0.49)]),
        ({"max_field_psi": 0.3}, [("max_field_psi", "price", 0.4, 0.3)]),  # chance explains 0.4 of colour
        ({"max_oov_rate": 0.3}, []),
        ({"max_oov_rate": 0}, [("max_oov_rate", "colour", 0.3, 0)]),
    ],
    ids=str,
)
def test_a_value_beyond_the_limit_crosses_a_gate(limits: dict[str, Any], crossed: list[Any]) -> None:
    assert find_crossings(limits) == crossed


def test_each_class_has_its_own_psi() -> None:
    assert find_crossings({"max_psi": 0.1}, multiclass=True) == [
        ("max_psi", "score_a", 0.5, 0.1),
        ("max_psi", "score_b", 0.2, 0.1),
    ]


def test_a_table_without_rows_passes_gates_only_with_min_rows_0() -> None:
    assert find_crossings({}, rows=0) == []
    assert find_crossings({"max_oov_rate": 1}, rows=0) == [("min_rows", "table", 0, 1)]
    assert find_crossings({"max_oov_rate": 1, "min_rows": 0}, rows=0) == []


def test_crossed_gates_have_a_reason_and_settings_that_lift_them() -> None:
    limits: dict[str, Any] = {"min_rows": 1_000_000, "max_psi": 0.1, "max_field_psi": 0.1, "max_oov_rate": 0.1}
    crossed = crossed_gates(Gates(**limits), report(rows=1000))
    assert [gate["told"] for gate in crossed] == [
        "the table has 1,000 rows",
        "the PSI of 'score' against the valid fold is 0.500",
        "the PSI of 'price' against the train fold is 0.400",
        "30.0% of the values of 'colour' are out-of-vocabulary (5.0% in training)",
    ]
    assert lift_gates(crossed) == (
        "score.gates.min_rows=0 score.gates.max_psi=null score.gates.max_field_psi=null score.gates.max_oov_rate=null"
    )


def test_every_gate_of_the_settings_is_implemented() -> None:
    assert set(GATES) == set(Gates.model_fields)
