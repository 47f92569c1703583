"""Counts of a table: in files, from which vocabularies are made, and summed on the driver."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from nfm.config.settings import Config
from nfm.contract.cells import Cells
from nfm.contract.errors import DataError
from nfm.contract.messages import CORRECT_ROWS
from nfm.contract.schema import FOLDS, Kind
from nfm.contract.times.derived import Derived
from nfm.features.count import count
from nfm.features.encoding import WEIGHT, list_parts, list_recipes
from nfm.features.labels import Label, Labels, sum_rows
from nfm.features.labels import check as check_labels
from nfm.features.split import Split
from nfm.features.sums import read_cells
from nfm.features.vocabularies import Recipe
from nfm.table.scan import Scan

_LARGEST = float(np.finfo(np.float32).max)  # the dataset's weights are float32


@dataclass(frozen=True)
class Counted:
    """Result of the first pass over the table, in files."""

    counts: DataFrame  # with the schema `sums.SUMMARY`
    runs: Path  # folder of the sorted runs, from which vocabularies are made
    places: Mapping[str, int]  # name of a counted part → its number in the counts
    recipes: Sequence[Recipe]  # of the vocabularies

    @classmethod
    def of(
        cls,
        scan: Scan,
        config: Config,
        label: Label,
        kinds: Mapping[str, Kind],
        split: Split,
        derived: Sequence[Derived],
        target: Path,
    ) -> Self:
        """Count a table into files below `target`."""
        parts = list_parts(config.columns, kinds)
        places = {part.name: place for place, part in enumerate(parts, start=1)}
        recipes = list_recipes(config.columns, places)
        counts = count(scan, label, parts, [recipe.parts for recipe in recipes], split, derived, target)
        return cls(counts, target / "runs", places, recipes)


@dataclass(frozen=True)
class Summed:
    """Counts that the driver needs."""

    labels: Labels
    cells: Mapping[str, Cells]  # name of a number's part → its cells; not for a number that is always missing

    @classmethod
    def of(cls, counted: Counted, config: Config, label: Label, old_classes: Sequence[str] = ()) -> Self:
        """Sum the counts; DataError for labels or weights that the model task cannot use, or an empty train fold."""
        where = str(config.source)
        weight = counted.places.get(WEIGHT, 0)
        needed = counted.counts.where((F.col("part") == 0) | F.col("cell").isNotNull() | (F.col("part") == weight))
        table = needed.toArrow()
        is_cell = pc.field("cell").is_valid()
        cells = read_cells(table.filter(is_cell).to_batches())
        labels = check_labels(
            label, table.filter((pc.field("part") == 0) & ~is_cell), cells.pop(0, None), old_classes, where
        )
        by_name = {name: cells[place] for name, place in counted.places.items() if place in cells}
        if config.columns.weight is not None:
            missing = table.filter((pc.field("part") == weight) & pc.field("missing"))
            _check_weights(config.columns.weight, by_name.get(WEIGHT), sum_rows(missing), where)
        return cls(labels, by_name)


def _check_weights(column: str, cells: Cells | None, missing: int, where: str) -> None:
    """Raise DataError unless every row has a weight ≥ 0 that fits into float32."""
    values = np.empty(0) if cells is None else cells.values
    invalid = (values < 0) | (values > _LARGEST)
    rows = 0 if cells is None else int(cells.counts[invalid, : len(FOLDS)].sum())
    if rows or missing:
        example = repr(float(values[invalid][0])) if rows else "a missing value"
        raise DataError(
            f"Column '{column}' of {where} is the sample weight, which must be a 32-bit float ≥ 0 in every row, but "
            f"{rows + missing} rows have other values, for example {example}. {CORRECT_ROWS}"
        )
