"""Counts → the encoding: vocabularies and transformations from the train fold, facts about every fold."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nfm.config import Columns
from nfm.contract.encoder import Encoding
from nfm.contract.errors import DataError
from nfm.contract.schema import FOLDS, Field, Kind, Spec
from nfm.contract.vocabulary import Vocabulary, rank
from nfm.features.count import Part
from nfm.features.statistics import Distribution, bucket_edges, transformation

LABEL, WEIGHT = "label", "weight"  # field and number parts are called field:… and number:…


def parts(columns: Columns, kinds: Mapping[str, Kind]) -> list[Part]:
    """What has to be counted, for a table whose categorical columns are of these kinds."""
    counted = [Part(LABEL, columns.label, kinds[columns.label])]
    if columns.weight is not None:
        counted.append(Part(WEIGHT, columns.weight, None))
    for name, field in columns.categorical.items():
        raw = field.column or name
        counted.append(Part(f"field:{name}", raw, kinds[raw]))
    counted += [Part(f"number:{name}", number.column or name, None) for name, number in columns.numeric.items()]
    return counted


@dataclass(frozen=True)
class Made:
    """An encoding in memory, and what there is to say of the table it was made from."""

    encoding: Encoding
    ranked: Mapping[str, pa.Table]
    statistics: Mapping[str, Any]

    def save(self, folder: Path) -> None:
        """Write `encoding/` into an existing, empty folder."""
        self.encoding.vocabulary.save(folder, self.ranked)
        (folder / "statistics.json").write_text(json.dumps(self.statistics, indent=1, allow_nan=False))
        (folder / "spec.json").write_text(self.encoding.spec.to_json())


def make(columns: Columns, kinds: Mapping[str, Kind], counts: pa.Table, where: str) -> Made:
    """Learn the encoding.

    Args:
        columns: the settings.
        kinds: what each categorical column holds.
        counts: of the parts of `parts`, as `features.count.count` returns them.
        where: the table, for messages.

    Raises:
        DataError: labels or weights that the task cannot use, or an empty train fold.
    """
    by_part = {name: counts.filter(pc.field("part") == name) for name in counts["part"].unique().to_pylist()}

    def of(name: str) -> pa.Table:
        return by_part.get(name, counts.slice(0, 0))

    rows = _rows_per_fold(of(LABEL))
    positive = _check_labels(columns.label, of(LABEL), where)
    if columns.weight is not None:
        _check_weights(columns.weight, of(WEIGHT), where)
    if not rows["train"]:
        raise DataError(
            f"The train fold of {where} is empty: the table has {sum(rows.values())} rows, of which {rows['valid']} "
            f"fall to validation and {rows['test']} to test. Check source.path, source.where and the shares in split."
        )
    fields, ranked, transforms = [], {}, []
    field_facts, number_facts = {}, {}
    for name, settings in columns.categorical.items():
        raw = settings.column or name
        table = of(f"field:{name}")
        ranked[name] = rank(_values(table, "train"), settings.min_count, settings.max_size)
        fields.append(Field(name, raw, kinds[raw], settings.oov_buckets, len(ranked[name])))
        field_facts[name] = _field_facts(table, ranked[name])
    for name, number in columns.numeric.items():
        table = of(f"number:{name}")
        train = _distribution(table, "train")
        if number.buckets is None:
            transforms.append(transformation(name, number, train))
        else:
            edges = bucket_edges(number.buckets, train)
            fields.append(Field(name, number.column or name, "number", 0, len(edges) + 1, edges))
        number_facts[name] = _number_facts(table, train)
        if number.buckets is not None:
            number_facts[name]["buckets"] = len(edges) + 1
    vocabulary = Vocabulary.build(ranked, {f.name: f.first_value for f in fields if f.edges is None})
    spec = Spec(columns.key, tuple(fields), tuple(transforms), vocabulary.digest, vocabulary.seed)
    statistics = {
        "rows": rows,
        "positive": positive,
        "label_rate": {fold: positive[fold] / rows[fold] if rows[fold] else None for fold in FOLDS},
        "fields": field_facts,
        "numbers": number_facts,
    }
    return Made(Encoding(spec, vocabulary), ranked, statistics)


def _fold(table: pa.Table, fold: str) -> pa.Table:
    return table.filter(pc.field("fold") == FOLDS.index(fold))


def _count(table: pa.Table) -> int:
    return int(pc.sum(table["count"]).as_py() or 0)


def _rows_per_fold(table: pa.Table) -> dict[str, int]:
    return {fold: _count(_fold(table, fold)) for fold in FOLDS}


def _values(table: pa.Table, fold: str | None) -> pa.Table:
    """Each text of a fold (None: of the whole table) once, with its count."""
    rows = table.filter(pc.field("text").is_valid())
    if fold is not None:
        rows = _fold(rows, fold)
    return rows.group_by("text").aggregate([("count", "sum")]).rename_columns(["value", "count"])


def _distribution(table: pa.Table, fold: str) -> Distribution:
    rows = _fold(table, fold).filter(pc.field("number").is_valid()).sort_by("number")
    return Distribution(rows["number"].to_numpy(), rows["count"].to_numpy())


def _check_labels(column: str, table: pa.Table, where: str) -> dict[str, int]:
    """How many labels are 1 in each fold. The task is binary: 0 and 1, or false and true."""
    wrong = table.filter(~pc.is_in(pc.field("text"), pa.array(["0", "1", "false", "true"], pa.large_string())))
    if len(wrong):
        nulls = _count(wrong.filter(pc.field("text").is_null()))
        others = wrong.filter(pc.field("text").is_valid()).sort_by([("count", "descending"), ("text", "ascending")])
        found = [f"{nulls} null labels"] * (nulls > 0)
        if len(others):
            found.append(f"{_count(others)} labels that are something else, {others['text'][0].as_py()!r} for one")
        raise DataError(
            f"Column '{column}' of {where} is the label of a binary task, which takes 0 and 1 (or false and true), but "
            f"holds {' and '.join(found)}. Correct them, or leave such rows out with source.where."
        )
    ones = table.filter(pc.is_in(pc.field("text"), pa.array(["1", "true"], pa.large_string())))
    return _rows_per_fold(ones)


def _check_weights(column: str, table: pa.Table, where: str) -> None:
    wrong = table.filter(pc.field("number").is_null() | (pc.field("number") < 0))
    if len(wrong):
        example = next((x for x in wrong["number"].to_pylist() if x is not None), None)
        shown = "one that is missing" if example is None else repr(example)
        raise DataError(
            f"Column '{column}' of {where} is the sample weight, which must be a number ≥ 0 in every row, but "
            f"{_count(wrong)} rows break that, {shown} for one. Correct them, or leave such rows out with source.where."
        )


def _field_facts(table: pa.Table, ranked: pa.Table) -> dict[str, Any]:
    known = pa.array(ranked["value"].combine_chunks(), pa.large_string())
    present = table.filter(pc.field("text").is_valid())
    unknown = present.filter(~pc.is_in(pc.field("text"), known))
    return {
        "vocabulary": len(ranked),
        "distinct": {fold: len(_values(table, fold)) for fold in FOLDS} | {"table": len(_values(table, None))},
        "missing": _rows_per_fold(table.filter(pc.field("text").is_null())),
        "out_of_vocabulary": _rows_per_fold(unknown),
    }


def _number_facts(table: pa.Table, train: Distribution) -> dict[str, Any]:
    facts: dict[str, Any] = {"missing": _rows_per_fold(table.filter(pc.field("number").is_null()))}
    if train.rows:
        facts |= {
            "mean": train.mean,
            "std": train.std,
            "min": float(np.min(train.values)),
            "median": train.quantile(0.5),
            "max": float(np.max(train.values)),
        }
    return facts
