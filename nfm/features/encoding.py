"""Counts → the encoding's specification: what each field and number becomes, learned from the train fold."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from nfm.config.columns import Categorical, Columns
from nfm.contract.encoder import Encoding
from nfm.contract.errors import DataError
from nfm.contract.schema import Bag, Field, Kind, Spec
from nfm.features.count import Part
from nfm.features.statistics import Distribution, bucket_edges, transformation
from nfm.features.vocabularies import Made, Recipe


def parts(columns: Columns, kinds: Mapping[str, Kind]) -> list[Part]:
    """What has to be counted, for a table whose categorical columns are of these kinds.

    A hashed field is not: it has no vocabulary, and may have more values than anybody wants to count.
    """
    counted = [Part(WEIGHT, (columns.weight,))] if columns.weight is not None else []
    counted += [
        Part(field_part(name), field.columns(name), tuple(kinds[c] for c in field.columns(name)), bag_of(field))
        for name, field in columns.categorical.items()
        if field.hash_buckets is None
    ]
    return counted + [Part(number_part(name), (number.column or name,)) for name, number in columns.numeric.items()]


WEIGHT = "weight"


def field_part(name: str) -> str:
    """Name of the part that counts a field's values."""
    return f"field:{name}"


def number_part(name: str) -> str:
    """Name of the part that counts a number's cells."""
    return f"number:{name}"


def bag_of(field: Categorical) -> Bag | None:
    """The settings of a bag as the specification holds them."""
    return Bag(field.weights, field.delimiter, field.max_length) if field.bag else None


def recipes(columns: Columns, places: Mapping[str, int]) -> list[Recipe]:
    """Which vocabularies there are to make, from the places of the parts that were counted."""
    sharing: dict[str, list[str]] = {}  # in the order of their first use, as in Spec.vocabularies
    for name, field in columns.categorical.items():
        if field.hash_buckets is None:
            sharing.setdefault(field.share_with or name, []).append(name)
    found = []
    for name, users in sharing.items():
        field, of_parts = columns.categorical[name], tuple(places[field_part(user)] for user in users)
        found.append(Recipe(name, of_parts, 1 + field.oov_buckets, field.min_count, field.max_size))
    return found


def specify(
    columns: Columns,
    kinds: Mapping[str, Kind],
    made: Mapping[str, Made],
    distributions: Mapping[str, Distribution],
    negative_rate: float,
    classes: tuple[str, ...] = (),
) -> Spec:
    """The specification.

    Args:
        columns: the settings.
        kinds: what each categorical column holds.
        made: the vocabularies, by the fields they were made for.
        distributions: each number's values in the train fold.
        negative_rate: share of the train fold's negatives that was kept.
        classes: of a multiclass label.
    """
    fields, numbers = [], []
    for name, settings in columns.categorical.items():
        raw = settings.columns(name)
        of_kinds, bag = tuple(kinds[column] for column in raw), bag_of(settings)
        if settings.hash_buckets is not None:
            fields.append(Field(name, raw, of_kinds, settings.hash_buckets, 0, None, None, bag))
        else:
            owner = settings.share_with or name
            buckets = columns.categorical[owner].oov_buckets
            fields.append(Field(name, raw, of_kinds, buckets, made[owner].size, owner, None, bag))
    for name, number in columns.numeric.items():
        if number.buckets is None:
            numbers.append(transformation(name, number, distributions[name]))
        else:
            edges = bucket_edges(number.buckets, distributions[name])
            fields.append(Field(name, (number.column or name,), ("number",), 0, len(edges) + 1, None, edges))
    digests = tuple(one.digest for one in made.values())
    return Spec(columns.key, tuple(fields), tuple(numbers), digests, negative_rate, classes=classes)


def grown(new: Spec, old: Encoding, refresh_numbers: bool) -> Spec:
    """The new specification as one that grew from the old: ids stay, and numbers unless they are to be refreshed.

    Buckets of a number are ids, and keep their edges in any case.
    """
    fields = [
        replace(field, edges=before.edges, values=before.values) if field.edges is not None else field
        for field, before in zip(new.fields, old.spec.fields, strict=True)
    ]
    numbers = new.numbers if refresh_numbers else old.spec.numbers
    ancestors = (old.spec.fingerprint, *old.spec.ancestors)
    return replace(new, fields=tuple(fields), numbers=numbers, ancestors=ancestors)


def check_growth(
    columns: Columns, kinds: Mapping[str, Kind], old: Spec, where: str, refresh_numbers: bool = False
) -> None:
    """The settings make the same fields as the encoding that is to grow; and the same numbers, where these are kept.

    Raises:
        DataError: they do not; names the first difference.
    """
    now = [
        (name, s.columns(name), tuple(kinds[c] for c in s.columns(name)), bag_of(s), *_ids(columns, s, name))
        for name, s in columns.categorical.items()
    ]
    now += [(n, (s.column or n,), ("number",), None, None, 0) for n, s in columns.numeric.items() if s.buckets]
    then = [(f.name, f.columns, f.kinds, f.bag, f.vocabulary, f.oov_buckets) for f in old.fields]
    numbers = [
        (n, s.column or n, s.as_, s.missing_flag, refresh_numbers or (s.scale == "log1p", s.clip is not None))
        for n, s in columns.numeric.items()
        if not s.buckets
    ]
    numbers_then = [
        (n.name, n.column, n.placement, n.missing_flag, refresh_numbers or (n.log1p, n.clip is not None))
        for n in old.numbers
    ]
    _check_same("fields", ("columns", "kinds", "bag", "share_with", "buckets"), now, then, where)
    _check_same("numbers", ("column", "as", "missing_flag", "log1p and clip"), numbers, numbers_then, where)


def _ids(columns: Columns, settings: Categorical, name: str) -> tuple[str | None, int]:
    if settings.hash_buckets is not None:
        return None, settings.hash_buckets
    owner = settings.share_with or name
    return owner, columns.categorical[owner].oov_buckets


def _check_same(
    what: str,
    settings: Sequence[str],
    now: Sequence[tuple[object, ...]],
    then: Sequence[tuple[object, ...]],
    where: str,
) -> None:
    if list(now) == list(then):
        return
    changes = [
        f"{was[0]!r}: {setting} was {_shown(before)} and is {_shown(after)}"
        for was, is_ in zip(then, now, strict=False)
        if was[0] == is_[0]
        for setting, before, after in zip(settings, was[1:], is_[1:], strict=True)
        if before != after
    ]
    names = [", ".join(str(one[0]) for one in ones) or "none" for ones in (then, now)]
    different = "; ".join(changes) or f"there were {names[0]} and are {names[1]}"
    raise DataError(
        f"The encoding in {where} cannot grow: its {what} are not those of the configuration ({different}). An id or a "
        "number that meant one thing must not come to mean another. Put the settings back, or make the features anew, "
        "without --grow-from."
    )


def _shown(setting: object) -> str:
    return ", ".join(map(str, setting)) if isinstance(setting, tuple) else str(setting)
