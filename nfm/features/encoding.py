"""Build the encoding's specification from the counts of the train fold, and grow an older specification."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, replace

from nfm.config.columns import Categorical, Columns, Uncounted
from nfm.contract.encoder import Encoding
from nfm.contract.errors import DataError
from nfm.contract.messages import differences, listed
from nfm.contract.scaling import SCALES
from nfm.contract.schema import Bag, Field, Kind, Spec
from nfm.contract.times.derived import Derived
from nfm.features.count import Part
from nfm.features.statistics import Distribution, compute_bucket_edges, learn_transformation
from nfm.features.vocabularies import Recipe, WrittenVocabulary


def list_parts(columns: Columns, kinds: Mapping[str, Kind]) -> list[Part]:
    """Return the parts to count, given the kinds of the categorical columns.

    Hashed fields are not counted: they have no vocabulary, and may have too many values. Nor is the history of a
    ranking, whose values are those of the item.
    """
    counted = [Part(WEIGHT, (columns.weight,))] if columns.weight is not None else []
    counted += [
        Part(field_part(name), field.columns(name), tuple(kinds[c] for c in field.columns(name)), get_bag(field))
        for name, field in columns.categorical.items()
        if is_counted(field)
    ]
    return counted + [Part(number_part(name), (number.column or name,)) for name, number in columns.numeric.items()]


WEIGHT = "weight"


def field_part(name: str) -> str:
    """Return the name of the part that counts a field's values."""
    return f"field:{name}"


def number_part(name: str) -> str:
    """Return the name of the part that counts a number's cells."""
    return f"number:{name}"


def get_bag(field: Categorical) -> Bag | None:
    """Return the bag of a field for the specification; None if the field is not a bag."""
    return Bag(field.weights, field.delimiter, field.max_length) if field.bag else None


def is_counted(field: Categorical) -> bool:
    """Return whether the values of a field make a vocabulary."""
    return field.hash_buckets is None and not isinstance(field, Uncounted)


def list_recipes(columns: Columns, places: Mapping[str, int]) -> list[Recipe]:
    """Return a recipe for each vocabulary; `places` are the numbers of the counted parts."""
    sharing: dict[str, list[str]] = {}  # in the order of first use, as in Spec.vocabularies
    for name, field in columns.categorical.items():
        if is_counted(field):
            sharing.setdefault(field.share_with or name, []).append(name)
    recipes = []
    for name, users in sharing.items():
        field, parts = columns.categorical[name], tuple(places[field_part(user)] for user in users)
        recipes.append(Recipe(name, parts, 1 + field.oov_buckets, field.min_count, field.max_size))
    return recipes


def build_spec(
    columns: Columns,
    kinds: Mapping[str, Kind],
    written: Mapping[str, WrittenVocabulary],
    distributions: Mapping[str, Distribution],
    negative_rate: float,
    classes: tuple[str, ...] = (),
) -> Spec:
    """Build the specification.

    Args:
        columns: Settings of the columns.
        kinds: Kind of each categorical column.
        written: Vocabularies by the fields that own them.
        distributions: Each number's values in the train fold.
        negative_rate: Share of the train fold's negatives that is kept.
        classes: Labels of a multiclass task.
    """
    edges = {
        name: compute_bucket_edges(number.buckets, distributions[name])
        for name, number in columns.numeric.items()
        if number.buckets is not None
    }
    return Spec(
        columns.key,
        tuple(_fields(columns, kinds, {name: vocabulary.size for name, vocabulary in written.items()}, edges)),
        tuple(learn_transformation(n, s, distributions[n]) for n, s in columns.numeric.items() if s.buckets is None),
        tuple(vocabulary.digest for vocabulary in written.values()),
        negative_rate,
        classes=classes,
    )


def _fields(
    columns: Columns, kinds: Mapping[str, Kind], sizes: Mapping[str, int], edges: Mapping[str, tuple[float, ...]]
) -> Iterator[Field]:
    """Yield the specification's fields, from the sizes of the vocabularies and the edges of the bucketed numbers."""
    for name, settings in columns.categorical.items():
        raw, owner = settings.columns(name), settings.share_with or name
        raw_kinds, bag = tuple(kinds[column] for column in raw), get_bag(settings)
        if settings.hash_buckets is not None:
            yield Field(name, raw, raw_kinds, settings.hash_buckets, 0, None, None, bag, settings.rates)
        else:
            buckets = columns.categorical[owner].oov_buckets
            yield Field(name, raw, raw_kinds, buckets, sizes[owner], owner, None, bag, settings.rates)
    for name, inner in edges.items():
        column = columns.numeric[name].column or name
        yield Field(name, (column,), ("number",), 0, len(inner) + 1, None, inner)


def grow_spec(new: Spec, old: Encoding, refresh_numbers: bool) -> Spec:
    """Return the new specification as a growth of the old one: ids are kept, and numbers unless they are refreshed.

    Buckets of a number are ids, and its bins have embeddings, so both always keep their edges.
    """
    fields = [
        replace(field, edges=before.edges, values=before.values) if field.edges is not None else field
        for field, before in zip(new.fields, old.spec.fields, strict=True)
    ]
    kept = [replace(number, edges=before.edges) for number, before in zip(new.numbers, old.spec.numbers, strict=True)]
    numbers = tuple(kept) if refresh_numbers else old.spec.numbers
    ancestors = (old.spec.fingerprint, *old.spec.ancestors)
    return replace(new, fields=tuple(fields), numbers=numbers, ancestors=ancestors)


def check_growth(
    columns: Columns, kinds: Mapping[str, Kind], old: Spec, where: str, refresh_numbers: bool = False
) -> None:
    """Raise DataError unless the settings give the same fields, and the same numbers unless they are refreshed.

    The message names the differences; `where` is the folder of the old encoding.
    """
    no_sizes = dict.fromkeys(columns.categorical, 0)
    no_edges: dict[str, tuple[float, ...]] = {name: () for name, s in columns.numeric.items() if s.buckets}
    fields = {field.name: _fixed_settings(field) for field in _fields(columns, kinds, no_sizes, no_edges)}
    _check_same("fields", {field.name: _fixed_settings(field) for field in old.fields}, fields, where)
    numbers: dict[str, dict[str, object]] = {
        name: {"column": s.column or name, "as": s.as_, "missing_flag": s.missing_flag}
        | ({} if refresh_numbers else {"scale curve": SCALES[s.scale].curve, "clip": s.clip is not None})
        for name, s in columns.numeric.items()
        if not s.buckets
    }
    old_numbers: dict[str, dict[str, object]] = {
        n.name: {
            "column": n.column,
            "as": n.placement if n.edges is None else "bins",
            "missing_flag": n.missing_flag,
        }
        | ({} if refresh_numbers else {"scale curve": n.curve, "clip": n.clip is not None})
        for n in old.numbers
    }
    _check_same("numbers", old_numbers, numbers, where)


def keep_derived(derived: Iterable[Derived], zone: str | None, old: Spec, where: str) -> tuple[Derived, ...]:
    """Return the derived columns of the old encoding; DataError unless the settings give the same ones.

    `zone` is that of the settings, and `where` the folder of the old encoding.
    """

    def describe(some: Iterable[Derived]) -> dict[str, object]:
        return {
            one.name: {"columns": one.columns} | ({"time_zone": one.zone} if zone and one.zone else {}) for one in some
        }

    new = [replace(one, zone=zone) for one in derived]
    _check_same("derived columns", describe(old.derived), describe(new), where)
    return old.derived


def _fixed_settings(field: Field) -> dict[str, object]:
    """Return the settings that give the field's ids their meaning, and so must not change."""
    return {key: value for key, value in asdict(field).items() if key not in ("name", "values", "edges", "rates")}


def _check_same(what: str, old: Mapping[str, object], new: Mapping[str, object], where: str) -> None:
    changed = listed(differences(old, new), "; ")
    if not changed and list(old) != list(new):
        changed = f"their order was {', '.join(old)} and is {', '.join(new)} now"
    if changed:
        raise DataError(
            f"The encoding in {where} cannot grow: its {what} differ from those of the configuration ({changed}). Ids "
            "and numbers must keep their meaning. Restore these settings, or run the feature job without --grow-from."
        )
