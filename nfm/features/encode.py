"""The second pass over the table: encode every row into the dataset's files, and count values per field."""

import shutil
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import SparkSession

from nfm.contract.columns import Rows
from nfm.contract.encoder import Encoding, load_once
from nfm.contract.publishing.publish import publication_id
from nfm.contract.schema import FOLDS, MISSING, PART_COLUMN, Spec, bin_name
from nfm.contract.times.compare import TIMES, FoldTimes
from nfm.contract.values import decode_dictionary, to_floats
from nfm.features import labels
from nfm.features.labels import Label
from nfm.features.split import LEFT_OUT, Split, assign_folds, assign_parts
from nfm.table.folders import add_by_folder
from nfm.table.scan import Scan
from nfm.table.write import FILES, Layout, Writer, WrittenFile, compact_files, file_batch, move_into_place

_REPORTED = pa.schema([*FILES, ("counts", pa.map_(pa.string(), pa.int64())), ("times", TIMES)])


@dataclass(frozen=True)
class RawColumns:
    """Columns of the raw table that the dataset contains besides the encoded ones."""

    key: Mapping[str, str]  # name in the dataset → raw column
    label: Label
    weight: str | None
    partition_by: tuple[str, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the raw columns, each once."""
        weight = (self.weight,) if self.weight else ()
        label = (self.label.column,) if self.label.column else ()
        return tuple(dict.fromkeys([*self.key.values(), *label, *weight, *self.partition_by]))


@dataclass(frozen=True)
class Encoded:
    """Counts of the encoded rows and values, by fold."""

    rows: Mapping[str, int]
    left_out: int  # negatives left out of the train fold
    # By field, then `values`, `missing` or `out_of_vocabulary`, then fold; for a bag, members are counted.
    fields: Mapping[str, Mapping[str, Mapping[str, int]]]
    times: Mapping[str, Any] | None  # first and last time of each fold; None unless rows are split by time


def encode(
    spark: SparkSession,
    scan: Scan,
    spec: Spec,
    encoding_folder: Path,
    raw: RawColumns,
    split: Split,
    repeating: Collection[str],
    target: Path,
) -> Encoded:
    """Encode every row of a scan, and write the dataset's files.

    Args:
        spark: The session.
        scan: The raw table.
        spec: Specification of the encoding.
        encoding_folder: Folder of the encoding, which the workers map into memory.
        raw: Raw columns that are copied into the dataset.
        split: How rows are assigned to folds.
        repeating: Numbers with few distinct values, which are stored with a dictionary.
        target: An empty folder that every machine can access; receives the files.
    """
    written = target / "_written"
    written.mkdir()
    layout = _layout(spec, raw, repeating)
    fingerprint = spec.fingerprint

    # The closure takes only small values: each worker maps the encoding from its folder.
    def encode_split(all_rows: Iterator[Rows]) -> Iterator[pa.RecordBatch]:
        writer, counts, times = Writer(written, layout), Counter[str](), FoldTimes()
        encode_rows(all_rows, load_once(encoding_folder, fingerprint), raw, split, writer, counts, times)
        files = file_batch(writer.close()).to_pylist()
        report = {"counts": list(counts.items()), "times": times.to_rows()}
        yield pa.RecordBatch.from_pylist([*files, report], _REPORTED)

    needed = dict.fromkeys([*raw.columns, *split.columns, *split.by, *spec.columns])
    reports = scan.map(needed, encode_split, _REPORTED).collect()
    files = [WrittenFile(row.folder, row.path, row.rows, row.bytes) for row in reports if row.path is not None]
    times = FoldTimes()
    for row in reports:
        times.merge_rows(row.times or ())
    time_facts = None if split.time is None else times.facts(split.time)
    move_into_place(compact_files(spark, files, written, layout), target, publication_id(target))
    shutil.rmtree(written, ignore_errors=True)  # including files of tasks that failed or ran twice
    return _sum_counts(spec, [row.counts for row in reports if row.counts is not None], time_facts)


def encode_rows(
    all_rows: Iterable[Rows],
    encoding: Encoding,
    raw: RawColumns,
    split: Split,
    writer: Writer,
    counts: Counter[str],
    times: FoldTimes,
) -> None:
    """Encode one task's rows into a writer, and add to `counts` by `what\tname\tfold`. Does not need Spark."""
    for rows in all_rows:
        row_labels = labels.read(rows, raw.label)
        fold = assign_folds(split, rows, row_labels.is_zero, times)
        columns: dict[str, Any] = {name: decode_dictionary(rows.column(source)) for name, source in raw.key.items()}
        columns["label"] = labels.encode(row_labels, raw.label, encoding.spec.classes)
        weight = np.ones(rows.num_rows) if raw.weight is None else to_floats(rows.column(raw.weight), raw.weight)
        columns["weight"] = weight.astype(np.float32)
        columns[PART_COLUMN] = assign_parts(split, rows)
        columns |= encoding.encode(rows, same_table=True)
        _count(encoding.spec, columns, fold, counts)
        table = pa.table({name: pa.array(values) for name, values in columns.items()})
        partitions = {name: rows.column(name) for name in raw.partition_by}
        add_by_folder(writer, table, [f"fold={name}" for name in FOLDS], fold, partitions, "dataset.partition_by")


def _count(spec: Spec, columns: Mapping[str, Any], fold: NDArray[np.int8], counts: Counter[str]) -> None:
    def add(what: str, name: str, folds: NDArray[np.int8]) -> None:
        for fold_name, n in zip(FOLDS, np.bincount(folds[folds >= 0], minlength=len(FOLDS)), strict=True):
            counts[f"{what}\t{name}\t{fold_name}"] += int(n)

    counts["left_out\t\t"] += int(np.count_nonzero(fold == LEFT_OUT))
    add("rows", "", fold)
    for field in spec.fields:
        ids, value_folds = columns[field.name], fold
        if field.bag is not None:
            value_folds = np.repeat(fold, np.diff(ids.offsets.to_numpy()))
            ids = ids.flatten().to_numpy()
        add("values", field.name, value_folds)
        add("missing", field.name, value_folds[ids == MISSING])
        if not field.hashed:
            add("out_of_vocabulary", field.name, value_folds[(ids != MISSING) & (ids < field.first_value)])


def _layout(spec: Spec, raw: RawColumns, repeating: Collection[str]) -> Layout:
    members = [f"{name}.list.element" for field in spec.fields if field.bag for name in field.outputs]
    plain = [field.name for field in spec.fields if field.bag is None]
    numbers = [
        name for number in spec.numbers for name in number.outputs if number.name in repeating or name != number.name
    ]
    bins = [bin_name(number.name) for number in spec.binned]
    return Layout(("label", "weight", PART_COLUMN, *plain, *members, *numbers, *bins), tuple(raw.key))


def _sum_counts(spec: Spec, task_counts: Sequence[Mapping[str, int]], times: Mapping[str, Any] | None) -> Encoded:
    total: Counter[str] = Counter()
    for counts in task_counts:
        total.update(counts)
    by_fold = {
        name: {
            what: {fold: total[f"{what}\t{name}\t{fold}"] for fold in FOLDS}
            for what in ("values", "missing", "out_of_vocabulary")
        }
        for name in (field.name for field in spec.fields)
    }
    return Encoded({fold: total[f"rows\t\t{fold}"] for fold in FOLDS}, total["left_out\t\t"], by_fold, times)
