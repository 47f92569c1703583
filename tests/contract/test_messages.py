"""Parts of messages, compared with examples by hand."""

import pytest

from nfm.contract.messages import Difference, did_you_mean, differences, listed, quoted, shown


def test_differences_have_dotted_names_and_both_values() -> None:
    then = {"a": {"b": {"c": 1, "same": [1]}, "removed": 2}, "same": None, "kind": {"x": 1}}
    now = {"a": {"b": {"c": 2, "same": [1]}, "new": 3}, "same": None, "kind": 7}
    assert list(differences(then, now)) == [
        ("a.b.c", 1, 2),
        ("a.removed", 2, None),
        ("a.new", None, 3),
        ("kind", {"x": 1}, 7),
    ]
    assert list(differences(then, then)) == list(differences({}, {})) == []


@pytest.mark.parametrize(
    ("was", "now", "text"),
    [
        (1, 2.5, "seed was 1 and is 2.5 now"),
        (None, "é", 'seed was not set and is "é" now'),
        ((8,), (), "seed was [8] and is [] now"),
        (True, {"a": None}, 'seed was true and is {"a": null} now'),
        ("0" * 64, "1" * 64, "seed"),  # digests are not shown
        (None, "1" * 64, "seed"),
    ],
)
def test_the_text_of_a_difference(was: object, now: object, text: str) -> None:
    assert str(Difference("seed", was, now)) == text


def test_long_lists_and_values_are_shortened() -> None:
    assert listed([]) == ""
    assert listed("abcde") == "a, b, c, d, e"
    assert listed("abcdefg", "; ", most=3) == "a; b; c and 4 more"
    assert listed(range(2000), most=1) == "0 and 1,999 more"
    assert quoted("it's") == '"it\'s"'
    assert quoted("a\n" * 100) == "'" + "a\\n" * 30 + "'…"
    assert quoted([1.5, None]) == "[1.5, None]"
    assert quoted(list(range(100))) == str(list(range(100)))[:60] + "…"
    assert shown("x" * 70) == '"' + "x" * 59 + "…"
    assert shown([f"class {i}" for i in range(9)]) == (
        '["class 0", "class 1", "class 2", "class 3", "class 4" and 4 more]'
    )


def test_similar_names_are_suggested_whatever_their_case() -> None:
    known = ["embedding_dim", "hidden_units", "Tags"]
    assert did_you_mean(["embeding_dim"], known) == "Did you mean 'embedding_dim'?"
    assert did_you_mean(["TAGS", "hiden_units", "tag"], known) == "Did you mean 'Tags', 'hidden_units'?"
    assert did_you_mean(["zebra"], known) == did_you_mean([], known) == did_you_mean(["x"], []) == ""
