"""The specification: layout of the embedding table, fingerprint and text on disk."""

import hashlib
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfm.contract.errors import DataError
from nfm.contract.schema import Bag, Field, Number, Spec, canonical_json
from nfm.contract.times.derived import Derived

CABIN = Field("cabin", ("Cabin",), ("text",), oov_buckets=2, values=5, vocabulary="cabin")
AGE_BUCKET = Field("age_bucket", ("Age",), ("number",), 1, 3, None, edges=(18.0, 65.5))
TAGS = Field("tags", ("Tags",), ("number",), 1, 4, "tags", bag=Bag("TagWeights", ",", 20))
OTHER_TAGS = Field("other_tags", ("Other",), ("number",), 1, 4, "tags", bag=Bag(None, "|", None))
HASHED = Field("hashed", ("Cabin", "Sex"), ("text", "boolean"), oov_buckets=10, values=0, vocabulary=None)
AGE = Number("age", "Age", "dense", 30.5, True, (0.5, 80.0), "none", 29.0, 14.5)
FARE = Number("fare", "Fare", "field", 0.0, False, None, "log1p", 0.0, 1.0)
SIBLINGS = Number("siblings", "SibSp", "field", 0.0, True, None, "none", 0.0, 1.0)
SPEC = Spec(("id", "day"), (CABIN, AGE_BUCKET), (AGE, FARE, SIBLINGS), ("ab" * 32,))
FIELDS = (TAGS, CABIN, HASHED, OTHER_TAGS, AGE_BUCKET)
HOUR = Derived("pickup_hour", "hour", ("pickup",), ("local",))
SINCE = Derived("pickup_age", "age", ("pickup", "booked"), ("instant", "local"), "Europe/Berlin")
WIDE = Spec(("id",), FIELDS, (AGE,), ("ab", "cd"), 0.25, ("ef", "01"), ("red", "", "Blue"))


def test_ids_of_a_field() -> None:
    # 0 missing, 1 and 2 out-of-vocabulary, 3 … 7 the values.
    assert (CABIN.first_value, CABIN.size) == (3, 8)


def test_rows_of_the_embedding_table() -> None:
    assert SPEC.offsets == (0, 8)
    # 8 of cabin, 5 of age_bucket, then fare, siblings and siblings_missing.
    assert SPEC.field_numbers == ("fare", "siblings", "siblings_missing")
    assert SPEC.rows == 8 + 5 + 3
    assert SPEC.dense == ("age", "age_missing")


def test_each_raw_column_is_read_once() -> None:
    assert SPEC.columns == ("Cabin", "Age", "Fare", "SibSp")
    rush = Field("rush", ("pickup_hour", "Cabin"), ("number", "text"), 1, 5, "rush")
    since = replace(FARE, column="pickup_age")
    assert Spec(("id",), (rush,), (since,), (), derived=(HOUR, SINCE)).columns == ("pickup", "Cabin", "booked")


def test_a_hashed_field_has_only_buckets_and_no_values() -> None:
    assert [field.hashed for field in (CABIN, AGE_BUCKET, TAGS, HASHED)] == [False, False, False, True]
    assert (HASHED.first_value, HASHED.size) == (11, 11)


def test_columns_and_outputs_of_crosses_and_bags() -> None:
    assert WIDE.columns == ("Tags", "TagWeights", "Cabin", "Sex", "Other", "Age")
    assert WIDE.outputs == (
        *("tags", "tags_weights", "cabin", "hashed", "other_tags", "other_tags_weights", "age_bucket"),
        *("age", "age_missing"),
    )
    assert WIDE.numeric_columns == ("Age",)


def test_a_shared_vocabulary_is_listed_once() -> None:
    assert list(WIDE.vocabularies.items()) == [("tags", 4), ("cabin", 5)]
    assert WIDE.rows == 6 + 8 + 11 + 6 + 5


def test_a_specification_without_numbers_or_without_fields() -> None:
    assert (replace(SPEC, numbers=()).rows, replace(SPEC, numbers=()).dense) == (13, ())
    assert (replace(SPEC, fields=()).offsets, replace(SPEC, fields=()).rows) == ((), 3)


FIELD_CHANGES: list[dict[str, Any]] = [
    {"name": "x"},
    {"columns": ("x",)},
    {"columns": ("Cabin", "Sex")},
    {"kinds": ("number",)},
    {"oov_buckets": 3},
    {"values": 6},
    {"vocabulary": None},
    {"vocabulary": "x"},
    {"edges": (1.0,)},
    {"bag": Bag(None, ",", None)},
    {"bag": Bag("x", ",", None)},
    {"bag": Bag(None, ";", None)},
    {"bag": Bag(None, ",", 1)},
]
NUMBER_CHANGES: list[dict[str, Any]] = [
    {"name": "x"},
    {"column": "x"},
    {"placement": "field"},
    {"impute": 30.500000000000004},
    {"missing_flag": False},
    {"clip": None},
    {"clip": (0.5, 81.0)},
    {"curve": "log1p"},
    {"shift": 29.5},
    {"divisor": 14.0},
]
DERIVED_CHANGES: list[dict[str, Any]] = [
    {"name": "x"},
    {"part": "day"},
    {"columns": ("booked", "pickup")},
    {"kinds": ("text", "local")},
    {"zone": "UTC"},
    {"zone": None},
]
CHANGED = [
    replace(SPEC, key=("id",)),
    replace(SPEC, key=("day", "id")),
    replace(SPEC, fields=(AGE_BUCKET, CABIN)),
    replace(SPEC, fields=(CABIN,)),
    replace(SPEC, numbers=(FARE, AGE, SIBLINGS)),
    replace(SPEC, digests=("cd" * 32,)),
    replace(SPEC, digests=()),
    replace(SPEC, negative_rate=0.5),
    replace(SPEC, ancestors=("ab" * 32,)),
    replace(SPEC, classes=("0", "1")),
    replace(SPEC, classes=("1", "0")),
    WIDE,
    replace(SPEC, derived=(HOUR,)),
    replace(SPEC, derived=(HOUR, SINCE)),
    replace(SPEC, derived=(SINCE, HOUR)),
    *(replace(SPEC, derived=(replace(SINCE, **change),)) for change in DERIVED_CHANGES),
    *(replace(SPEC, fields=(replace(CABIN, **change), AGE_BUCKET)) for change in FIELD_CHANGES),
    *(replace(SPEC, numbers=(replace(AGE, **change), FARE, SIBLINGS)) for change in NUMBER_CHANGES),
]


def test_every_change_changes_the_fingerprint() -> None:
    assert len({spec.fingerprint for spec in [SPEC, *CHANGED]}) == len(CHANGED) + 1


def test_the_fingerprint_is_the_sha256_of_sorted_json() -> None:
    content = (
        '{"ancestors":["ef"],"classes":["no","yes"],"digests":["ab"],'
        '"fields":[{"bag":{"delimiter":",","max_length":20,"weights":"TagWeights"},"columns":["Tags"],"edges":null,'
        '"kinds":["number"],"name":"tags","oov_buckets":1,"values":4,"vocabulary":"tags"}],"key":["id"],'
        '"negative_rate":1.0,'
        '"numbers":[{"clip":[0.5,80.0],"column":"Age","divisor":14.5,"impute":30.5,"log1p":false,"missing_flag":true,'
        '"name":"age","placement":"dense","shift":29.0}]}'
    )
    spec = Spec(("id",), (TAGS,), (AGE,), ("ab",), ancestors=("ef",), classes=("no", "yes"))
    assert spec.fingerprint == hashlib.sha256(content.encode()).hexdigest()


def test_every_specification_is_read_as_written() -> None:
    for spec in [SPEC, *CHANGED]:
        again = Spec.from_json(spec.to_json(), "spec.json")
        assert again == spec
        assert again.fingerprint == spec.fingerprint


floats = st.floats(allow_nan=False, allow_infinity=False)
names = st.text(min_size=1, max_size=8)


@given(
    edges=st.lists(floats, min_size=1, max_size=5, unique=True).map(sorted),
    numbers=st.lists(st.tuples(names, floats, floats, st.none() | st.tuples(floats, floats), floats), max_size=3),
    name=names,
)
def test_any_floats_and_names_are_read_as_written(
    edges: list[float],
    numbers: list[tuple[str, float, float, tuple[float, float] | None, float]],
    name: str,
) -> None:
    field = Field(name, (name,), ("number",), 1, len(edges) + 1, None, tuple(edges))
    many = tuple(Number(n, n, "dense", impute, False, clip, "log1p", a, b) for n, impute, a, clip, b in numbers)
    spec = Spec((name,), (field,), many, ())
    again = Spec.from_json(spec.to_json(), "spec.json")
    assert repr(again) == repr(spec)  # repr distinguishes -0.0 and 0.0
    assert again.fingerprint == spec.fingerprint


def edited(**changes: object) -> str:
    return json.dumps({**json.loads(SPEC.to_json()), **changes})


@pytest.mark.parametrize(
    "change",
    [
        {"key": ["id"]},
        {"negative_rate": 0.5},
        {"digests": ["cd" * 32]},
        {"ancestors": ["ab"]},
        {"classes": ["no", "yes"]},
        {"fields": []},
        {"numbers": json.loads(SPEC.to_json())["numbers"][:1]},
        {"fingerprint": "0" * 64},
        {"fingerprint": None},
    ],
    ids=str,
)
def test_a_changed_file_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=r"m/spec.json records the fingerprint .*it was changed after it was written"):
        Spec.from_json(edited(**change), "m/spec.json")


def test_another_format_version_is_refused() -> None:
    with pytest.raises(
        DataError,
        match=r"m/spec.json has format version 1; this version of nfm reads 3\. Run nfm features and nfm train again",
    ):
        Spec.from_json(edited(format=1), "m/spec.json")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "{}",
        '"text"',
        edited(fields=[{"name": "x"}]),
        edited(fields=7),
        edited(fields=[{**json.loads(SPEC.to_json())["fields"][0], "bag": {"weights": None}}]),
        edited(unknown=1).replace('"key"', '"keys"'),
        edited(classes=None),
        edited(numbers=[{**json.loads(SPEC.to_json())["numbers"][0], "shift": float("nan")}]),
    ],
)
def test_a_text_that_is_not_a_specification_is_refused(text: str) -> None:
    with pytest.raises(
        DataError, match=r"m/spec.json is not a specification that this version of nfm can read"
    ) as error:
        Spec.from_json(text, "m/spec.json")
    assert error.value.exit_code == 3


@given(data=st.data())
def test_every_changed_character_is_detected(data: st.DataObject) -> None:
    text = SPEC.to_json()
    place = data.draw(st.integers(0, len(text) - 1))
    character = data.draw(st.characters(min_codepoint=32, max_codepoint=126).filter(lambda c: c != text[place]))
    changed = text[:place] + character + text[place + 1 :]
    try:
        unchanged = json.loads(changed) == json.loads(text)  # white space between two keys is not content
    except ValueError:
        unchanged = False
    if not unchanged:
        with pytest.raises(DataError):
            Spec.from_json(changed, "spec.json")


def test_canonical_json_is_the_same_for_equal_content() -> None:
    assert canonical_json({"b": 1, "a": [1.5, None]}) == canonical_json({"a": [1.5, None], "b": 1})
    assert canonical_json({"b": 1, "a": [1.5, None]}) == '{"a":[1.5,null],"b":1}'
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json(float("nan"))


def test_an_older_specification_keeps_its_fingerprint() -> None:
    text = SPEC.to_json()  # numbers have the key log1p, as in files of earlier versions
    stored = json.loads(text)["numbers"]
    assert [number["log1p"] for number in stored] == [number.curve == "log1p" for number in SPEC.numbers]
    assert not any("curve" in number for number in stored)
