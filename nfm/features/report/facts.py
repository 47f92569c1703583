"""What the counts say of the table: the labels, each field, each number, and how well each ranks the labels alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from nfm.config.settings import Config
from nfm.contract.cells import Cells, auc
from nfm.contract.errors import DataError
from nfm.contract.schema import FOLDS, Kind, Spec
from nfm.features.count import count
from nfm.features.encode import Encoded
from nfm.features.encoding import WEIGHT, field_part, number_part, parts, recipes
from nfm.features.labels import Label, Labels, rows_of
from nfm.features.labels import check as check_labels
from nfm.features.report.findings import findings
from nfm.features.split import Split
from nfm.features.statistics import COUNTS, Distribution, number_facts
from nfm.features.sums import VALUES, read_cells
from nfm.features.vocabularies import Growth, Made, Recipe
from nfm.table.scan import Scan

_LEVELS = 1000  # of the label rates by which a field's values are put in order
_PRIOR_ROWS = 10  # a rare value's label rate is drawn to that of all
_LARGEST = float(np.finfo(np.float32).max)  # the dataset's weights are float32


@dataclass(frozen=True)
class Counted:
    """What the first pass has found; it stays in files."""

    counts: DataFrame  # like `sums.SUMMARY`
    runs: Path  # what vocabularies are made of
    places: Mapping[str, int]  # of the parts in the counts
    recipes: Sequence[Recipe]  # of the vocabularies

    @classmethod
    def of(
        cls, scan: Scan, config: Config, label: Label, kinds: Mapping[str, Kind], split: Split, target: Path
    ) -> Self:
        """Count a table into files below `target`."""
        counted = parts(config.columns, kinds)
        places = {part.name: place for place, part in enumerate(counted, start=1)}
        to_make = recipes(config.columns, places)
        counts = count(scan, label, counted, [recipe.parts for recipe in to_make], split, target)
        return cls(counts, target / "runs", places, to_make)


@dataclass(frozen=True)
class Summed:
    """What the driver needs to know of the counts."""

    labels: Labels
    cells: Mapping[int, Cells]  # of the numbers, by their parts' places; none where one is always missing

    @classmethod
    def of(cls, counted: Counted, config: Config, label: Label, old_classes: Sequence[str] = ()) -> Self:
        """Sum up the counts.

        Raises:
            DataError: labels or weights that the task cannot use, or an empty train fold.
        """
        where = str(config.source)
        weight = counted.places.get(WEIGHT, 0)
        few = counted.counts.where((F.col("part") == 0) | F.col("cell").isNotNull() | (F.col("part") == weight))
        table = few.toArrow()
        is_cell = pc.field("cell").is_valid()
        cells = read_cells(table.filter(is_cell).to_batches())
        of_label = check_labels(
            label, table.filter((pc.field("part") == 0) & ~is_cell), cells.pop(0, None), old_classes, where
        )
        if config.columns.weight is not None:
            missing = table.filter((pc.field("part") == weight) & pc.field("missing"))
            check_weights(config.columns.weight, cells.get(weight), rows_of(missing), where)
        return cls(of_label, cells)


def gather(
    config: Config,
    scan: Scan,
    spec: Spec,
    counted: Counted,
    summed: Summed,
    values: Mapping[int, Mapping[str, Any]],
    encoded: Encoded,
    distributions: Mapping[str, Distribution],
    made: Mapping[str, Made],
    growths: Mapping[str, Growth],
) -> dict[str, Any]:
    """The content of statistics.json."""
    label = summed.labels
    fields = {field.name: field for field in spec.fields}
    statistics: dict[str, Any] = {
        "name": config.name,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "source": str(config.source),
        "scan": f"{scan.method}: {scan.reason}",
        "skipped_files": list(scan.skipped),
        "fingerprint": spec.fingerprint,
        "rows": label.rows,
        "negative_rate": spec.negative_rate,
        "left_out": encoded.left_out,
        "label": label.facts,
        "fields": {},
        "numbers": {},
        "grown": None,
    }
    for name, settings in config.columns.categorical.items():
        field, of_fold = fields[name], encoded.fields[name]
        present = {fold: of_fold["values"][fold] - of_fold["missing"][fold] for fold in FOLDS}
        known = {fold: present[fold] - of_fold["out_of_vocabulary"][fold] for fold in FOLDS}
        ranked = made.get(field.vocabulary or "")
        of_value = values.get(counted.places.get(field_part(name), -1), {})
        statistics["fields"][name] = {
            "columns": list(field.columns),
            "form": _form(settings.share_with, field.hashed, field.bag is not None, len(field.columns) > 1),
            "vocabulary": field.values,
            **of_fold,
            "distinct": of_value.get("distinct"),
            "coverage": {fold: known[fold] / present[fold] if present[fold] else None for fold in FOLDS},
            "top": [list(pair) for pair in ranked.top] if ranked else [],
            "auc": of_value.get("auc"),
        }
    for name, number in config.columns.numeric.items():
        place = counted.places[number_part(name)]
        missing = values[place]["missing"]
        statistics["numbers"][name] = {
            "columns": [number.column or name],
            **number_facts(summed.cells.get(place), distributions[name], missing),
            **({"buckets": fields[name].values} if number.buckets is not None else {}),
        }
    if spec.ancestors:
        statistics["grown"] = {
            "from": spec.ancestors[0],
            "fields": {name: _growth(name, growth, spec, encoded) for name, growth in growths.items()},
            "classes": {"before": label.classes_before, "added": list(label.classes[label.classes_before :])},
        }
    statistics["findings"] = findings(statistics, config.columns.key, config.columns.label)
    return statistics


def _growth(vocabulary: str, growth: Growth, spec: Spec, encoded: Encoded) -> dict[str, Any]:
    """What a vocabulary has grown by, over all the fields that share it."""
    of_fields = [encoded.fields[field.name] for field in spec.fields if field.vocabulary == vocabulary]
    values, missing, unknown = (
        sum(facts[what]["train"] for facts in of_fields) for what in ("values", "missing", "out_of_vocabulary")
    )
    present = values - missing
    return {
        "before": growth.before,
        "added": spec.vocabularies[vocabulary] - growth.before,
        "coverage_before": growth.coverage_before,
        "coverage_after": (present - unknown) / present if present else None,
    }


def _form(shared: str | None, hashed: bool, bag: bool, cross: bool) -> str:
    if shared is not None:
        return f"shared:{shared}"
    return "bag" if bag else "cross" if cross else "hashed" if hashed else "vocabulary"


def check_weights(column: str, cells: Cells | None, missing: int, where: str) -> None:
    """Every row has a weight ≥ 0.

    Raises:
        DataError: some have none, or a negative one.
    """
    values = np.empty(0) if cells is None else cells.values
    bad = (values < 0) | (values > _LARGEST)
    wrong = 0 if cells is None else int(cells.counts[bad, : len(FOLDS)].sum())
    if wrong or missing:
        example = repr(float(values[bad][0])) if wrong else "one that is missing"
        raise DataError(
            f"Column '{column}' of {where} is the sample weight, which must be a number ≥ 0 in every row, but "
            f"{wrong + missing} rows break that, {example} for one. Correct them, or leave such rows out with "
            "source.where."
        )


def of_values(counts: DataFrame, labels: Labels) -> dict[int, dict[str, Any]]:
    """For each part: of its texts the `distinct` ones by fold and `auc`, and its `missing` rows by fold.

    The driver gets at most 2,002 rows a part, however many values there are.
    """
    prior = labels.positive["train"] / labels.rows["train"]
    positive_train, train = (F.col(name) / F.col("values") for name in ("positive", "train"))  # of one value
    rate = (positive_train + _PRIOR_ROWS * prior) / (train + _PRIOR_ROWS)
    grouped = counts.where("cell is null").groupBy("part", "missing", F.round(rate * _LEVELS).alias("level"))
    table = grouped.agg(*(F.sum(name).alias(name) for name in (*COUNTS, *VALUES))).toPandas()
    found = {}
    for part in table["part"].unique():
        mine = table[table["part"] == part]
        present, absent = mine[~mine["missing"]], mine[mine["missing"]]
        distinct = {fold: int(present[f"{fold}_values"].sum()) for fold in FOLDS} | {
            "table": int(present["values"].sum())
        }
        by_level = mine.groupby("level")[["held_positive", "valid", "test"]].sum()  # ascending
        ones = by_level["held_positive"].to_numpy()
        ranked = auc(ones, by_level["valid"].to_numpy() + by_level["test"].to_numpy() - ones)
        found[int(part)] = {
            "distinct": distinct,
            "missing": {fold: int(absent[fold].sum()) for fold in FOLDS},
            "auc": None if ranked is None else max(ranked, 0.5),
        }
    return found
