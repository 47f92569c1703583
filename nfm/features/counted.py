"""Counts of a table: in files, which vocabularies are made of, and summed up on the driver."""

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
from nfm.features.count import count
from nfm.features.encoding import WEIGHT, parts, recipes
from nfm.features.labels import Label, Labels, rows_of
from nfm.features.labels import check as check_labels
from nfm.features.split import Split
from nfm.features.sums import read_cells
from nfm.features.vocabularies import Recipe
from nfm.table.scan import Scan

_LARGEST = float(np.finfo(np.float32).max)  # the dataset's weights are float32


@dataclass(frozen=True)
class Counted:
    """Result of the first pass; it stays in files."""

    counts: DataFrame  # like `sums.SUMMARY`
    runs: Path  # what vocabularies are made of
    places: Mapping[str, int]  # of the parts in the counts, by name
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
    """Counts that the driver needs."""

    labels: Labels
    cells: Mapping[str, Cells]  # of the numbers, by their parts' names; none for a number that is always missing

    @classmethod
    def of(cls, counted: Counted, config: Config, label: Label, old_classes: Sequence[str] = ()) -> Self:
        """Sum up the counts; DataError for labels or weights that the task cannot use, or an empty train fold."""
        where = str(config.source)
        weight = counted.places.get(WEIGHT, 0)
        few = counted.counts.where((F.col("part") == 0) | F.col("cell").isNotNull() | (F.col("part") == weight))
        table = few.toArrow()
        is_cell = pc.field("cell").is_valid()
        cells = read_cells(table.filter(is_cell).to_batches())
        of_label = check_labels(
            label, table.filter((pc.field("part") == 0) & ~is_cell), cells.pop(0, None), old_classes, where
        )
        named = {name: cells[place] for name, place in counted.places.items() if place in cells}
        if config.columns.weight is not None:
            missing = table.filter((pc.field("part") == weight) & pc.field("missing"))
            _check_weights(config.columns.weight, named.get(WEIGHT), rows_of(missing), where)
        return cls(of_label, named)


def _check_weights(column: str, cells: Cells | None, missing: int, where: str) -> None:
    """Raise DataError unless every row has a weight ≥ 0."""
    values = np.empty(0) if cells is None else cells.values
    bad = (values < 0) | (values > _LARGEST)
    wrong = 0 if cells is None else int(cells.counts[bad, : len(FOLDS)].sum())
    if wrong or missing:
        example = repr(float(values[bad][0])) if wrong else "one that is missing"
        raise DataError(
            f"Column '{column}' of {where} is the sample weight, which must be a number ≥ 0 in every row, but "
            f"{wrong + missing} rows break that, {example} for one. {CORRECT_ROWS}"
        )
