"""Counts → the encoding's specification: what each field and number becomes, learned from the train fold."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace

from nfm.config.columns import Categorical, Columns
from nfm.contract.encoder import Encoding
from nfm.contract.errors import DataError
from nfm.contract.messages import differences, listed
from nfm.contract.scaling import SCALES
from nfm.contract.schema import Bag, Field, Kind, Spec
from nfm.features.count import Part
from nfm.features.statistics import Distribution, bucket_edges, transformation
from nfm.features.vocabularies import Made, Recipe


def parts(columns: Columns, kinds: Mapping[str, Kind]) -> list[Part]:
    """Return the parts to count, for a table whose categorical columns are of these kinds.

    Hashed fields are left out: they have no vocabulary, and may have too many values to count.
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
    """The settings of a bag as the specification has them."""
    return Bag(field.weights, field.delimiter, field.max_length) if field.bag else None


def recipes(columns: Columns, places: Mapping[str, int]) -> list[Recipe]:
    """The vocabularies to make, from the places of the parts that were counted."""
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
    """Build the specification.

    `kinds`: of each categorical column; `made`: the vocabularies, by the fields they were made for; `distributions`:
    each number's values in the train fold; `negative_rate`: share of the train fold's negatives that was kept.
    """
    edges = {
        name: bucket_edges(number.buckets, distributions[name])
        for name, number in columns.numeric.items()
        if number.buckets is not None
    }
    return Spec(
        columns.key,
        tuple(_fields(columns, kinds, {name: one.size for name, one in made.items()}, edges)),
        tuple(transformation(n, s, distributions[n]) for n, s in columns.numeric.items() if s.buckets is None),
        tuple(one.digest for one in made.values()),
        negative_rate,
        classes=classes,
    )


def _fields(
    columns: Columns, kinds: Mapping[str, Kind], sizes: Mapping[str, int], edges: Mapping[str, tuple[float, ...]]
) -> Iterator[Field]:
    """The fields, of vocabularies of these sizes and buckets with these edges."""
    for name, settings in columns.categorical.items():
        raw, owner = settings.columns(name), settings.share_with or name
        of_kinds, bag = tuple(kinds[column] for column in raw), bag_of(settings)
        if settings.hash_buckets is not None:
            yield Field(name, raw, of_kinds, settings.hash_buckets, 0, None, None, bag)
        else:
            buckets = columns.categorical[owner].oov_buckets
            yield Field(name, raw, of_kinds, buckets, sizes[owner], owner, None, bag)
    for name, inner in edges.items():
        column = columns.numeric[name].column or name
        yield Field(name, (column,), ("number",), 0, len(inner) + 1, None, inner)


def grown(new: Spec, old: Encoding, refresh_numbers: bool) -> Spec:
    """The new specification as one that grew from the old: ids stay, and numbers unless they are refreshed.

    Buckets of a number are ids, and always keep their edges.
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
    """Raise DataError unless the settings make the same fields, and the same numbers unless they are refreshed.

    The message names the differences.
    """
    no_sizes = dict.fromkeys(columns.categorical, 0)
    no_edges: dict[str, tuple[float, ...]] = {name: () for name, s in columns.numeric.items() if s.buckets}
    now = {field.name: _fixed(field) for field in _fields(columns, kinds, no_sizes, no_edges)}
    _check_same("fields", {field.name: _fixed(field) for field in old.fields}, now, where)
    numbers: dict[str, dict[str, object]] = {
        name: {"column": s.column or name, "as": s.as_, "missing_flag": s.missing_flag}
        | ({} if refresh_numbers else {"scale curve": SCALES[s.scale].curve, "clip": s.clip is not None})
        for name, s in columns.numeric.items()
        if not s.buckets
    }
    numbers_then: dict[str, dict[str, object]] = {
        n.name: {"column": n.column, "as": n.placement, "missing_flag": n.missing_flag}
        | ({} if refresh_numbers else {"scale curve": n.curve, "clip": n.clip is not None})
        for n in old.numbers
    }
    _check_same("numbers", numbers_then, numbers, where)


def _fixed(field: Field) -> dict[str, object]:
    """Return the settings that must not change, or the field's ids lose their meaning."""
    return {key: value for key, value in asdict(field).items() if key not in ("name", "values", "edges")}


def _check_same(what: str, then: Mapping[str, object], now: Mapping[str, object], where: str) -> None:
    changed = listed(differences(then, now), "; ")
    if not changed and list(then) != list(now):
        changed = f"their order was {', '.join(then)} and is {', '.join(now)} now"
    if changed:
        raise DataError(
            f"The encoding in {where} cannot grow: its {what} are not those of the configuration ({changed}). An id or "
            "a number that meant one thing must not come to mean another. Put the settings back, or make the features "
            "again without --grow-from."
        )
