"""The parts that are counted, the recipes of vocabularies, and the specification."""

from typing import Any

import pytest

from nfm.config.columns import Columns
from nfm.contract.errors import DataError
from nfm.contract.schema import Bag, Field, Spec
from nfm.features.count import Part
from nfm.features.encoding import build_spec, check_growth, list_parts, list_recipes
from nfm.features.statistics import Distribution
from nfm.features.vocabularies import Recipe, WrittenVocabulary
from tests.features.test_statistics import distribution


def columns(**changes: Any) -> Columns:
    return Columns.model_validate({"key": ("k",), "label": "y", "categorical": {"c": {}}, **changes})


EVERYTHING = columns(
    weight="w",
    categorical={
        "c": {"oov_buckets": 2, "min_count": 3},
        "again": {"column": "c", "max_size": 5},
        "like_c": {"column": "d", "share_with": "c"},
        "tags": {"bag": True, "weights": "tw", "delimiter": "|", "max_length": 4},
        "pair": {"cross": ("c", "d")},
        "hashed": {"column": "d", "hash_buckets": 9},
    },
    numeric={"x": {"as": "dense", "scale": "none"}, "x_bucket": {"column": "x", "buckets": 4}},
)
KINDS = {"y": "boolean", "c": "text", "d": "text", "tags": "number"}
BAG = Bag("tw", "|", 4)


def test_all_fields_except_hashed_ones_are_counted() -> None:
    assert list_parts(EVERYTHING, KINDS) == [  # type: ignore[arg-type]
        Part("weight", ("w",)),
        Part("field:c", ("c",), ("text",)),
        Part("field:again", ("c",), ("text",)),
        Part("field:like_c", ("d",), ("text",)),
        Part("field:tags", ("tags",), ("number",), BAG),
        Part("field:pair", ("c", "d"), ("text", "text")),
        Part("number:x", ("x",)),
        Part("number:x_bucket", ("x",)),
    ]


def places() -> dict[str, int]:
    return {part.name: i for i, part in enumerate(list_parts(EVERYTHING, KINDS), start=1)}  # type: ignore[arg-type]


def test_fields_that_share_have_one_recipe() -> None:
    assert list_recipes(EVERYTHING, places()) == [
        Recipe("c", (2, 4), 3, 3, None),
        Recipe("again", (3,), 2, 1, 5),
        Recipe("tags", (5,), 2, 1, None),
        Recipe("pair", (6,), 2, 1, None),
    ]


def test_vocabularies_are_in_the_order_of_first_use() -> None:
    settings = columns(categorical={"a": {"share_with": "c"}, "b": {}, "c": {"oov_buckets": 2}})
    kinds: Any = dict.fromkeys("abc", "text")
    recipes = list_recipes(settings, {f"field:{name}": i for i, name in enumerate("abc", start=1)})
    assert recipes == [Recipe("c", (1, 3), 3, 1, None), Recipe("b", (2,), 2, 1, None)]
    written = {recipe.field: WrittenVocabulary(5, recipe.field, ()) for recipe in recipes}
    assert list(build_spec(settings, kinds, written, {}, 1.0).vocabularies) == ["c", "b"]


def specification(x: Distribution | None = None) -> Spec:
    made = {
        name: WrittenVocabulary(size, name.upper(), ())
        for name, size in (("c", 10), ("again", 5), ("tags", 7), ("pair", 20))
    }
    train = x or distribution([float(i) for i in range(8)])
    return build_spec(EVERYTHING, KINDS, made, {"x": train, "x_bucket": train}, 0.5)  # type: ignore[arg-type]


def test_the_specification_by_hand() -> None:
    spec = specification()
    assert spec.fields == (
        Field("c", ("c",), ("text",), 2, 10, "c"),
        Field("again", ("c",), ("text",), 1, 5, "again"),
        Field("like_c", ("d",), ("text",), 2, 10, "c"),
        Field("tags", ("tags",), ("number",), 1, 7, "tags", None, BAG),
        Field("pair", ("c", "d"), ("text", "text"), 1, 20, "pair"),
        Field("hashed", ("d",), ("text",), 9, 0, None),
        Field("x_bucket", ("x",), ("number",), 0, 4, None, (1.75, 3.5, 5.25)),
    )
    assert spec.digests == ("C", "AGAIN", "TAGS", "PAIR")
    assert spec.vocabularies == {"c": 10, "again": 5, "tags": 7, "pair": 20}
    assert spec.negative_rate == 0.5
    assert [number.name for number in spec.numbers] == ["x"]
    assert [field.hashed for field in spec.fields] == [False] * 5 + [True, False]
    # Blocks of the embedding table: missing, buckets, values.
    assert [field.size for field in spec.fields] == [13, 7, 13, 9, 22, 10, 5]
    assert spec.columns == ("c", "d", "tags", "tw", "x")
    assert spec.outputs == ("c", "again", "like_c", "tags", "tags_weights", "pair", "hashed", "x_bucket", "x")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"categorical": {"c": {"oov_buckets": 3}}},
            r"its fields differ from those .*\(c.oov_buckets was 2 and is 3 now\)",
        ),
        ({"categorical": {"c": {"oov_buckets": 2}, "new": {}}}, r"\(new was not set and is .* now\)"),
        (
            {"categorical": {"c": {"oov_buckets": 2, "column": "other"}}},
            r"c.columns was \[\"c\"\] and is \[\"other\"\] now",
        ),
        ({"numeric": {"x": {"scale": "log1p"}}}, r"x.scale curve was \"none\" and is \"log1p\" now"),
        (
            {"numeric": {"x": {"missing_flag": True}}},
            r"its numbers differ from those .*x.missing_flag was false and is true now",
        ),
    ],
)
def test_changes_in_the_meaning_of_ids_and_numbers_are_refused(changes: dict[str, Any], message: str) -> None:
    settings: dict[str, Any] = {"categorical": {"c": {"oov_buckets": 2}}, "numeric": {"x": {}}}
    kinds: Any = {"c": "text", "other": "text", "new": "text"}
    distributions = {"x": distribution([1.0])}
    old = build_spec(columns(**settings), kinds, {"c": WrittenVocabulary(3, "C", ())}, distributions, 1.0)
    check_growth(columns(**settings), kinds, old, "encoding")
    check_growth(
        columns(categorical={"c": {"oov_buckets": 2, "min_count": 9}}, numeric={"x": {}}), kinds, old, "encoding"
    )
    with pytest.raises(DataError, match=rf"The encoding in encoding cannot grow: .*{message}"):
        check_growth(columns(**settings | changes), kinds, old, "encoding")


def test_a_change_of_a_columns_kind_is_refused() -> None:
    old = build_spec(columns(), {"c": "text"}, {"c": WrittenVocabulary(3, "C", ())}, {}, 1.0)
    with pytest.raises(DataError, match="cannot grow"):
        check_growth(columns(), {"c": "number"}, old, "encoding")
