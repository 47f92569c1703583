"""The second pass: every raw row → the dataset's files, and counts of what the encoder met."""

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
from nfm.contract.schema import FOLDS, MISSING, Spec
from nfm.contract.values import decode_dictionary, to_floats
from nfm.features import labels
from nfm.features.labels import Label
from nfm.features.split import LEFT_OUT, Split, folds
from nfm.table.folders import add_by_folder
from nfm.table.scan import Scan
from nfm.table.write import FILES, Layout, Writer, WrittenFile, compact_files, file_batch, move_into_place

_REPORTED = pa.schema([*FILES, ("counts", pa.map_(pa.string(), pa.int64()))])


@dataclass(frozen=True)
class RawColumns:
    """Columns of the raw table that go into the dataset beside the encoded ones."""

    key: Mapping[str, str]  # name in the dataset → raw column
    label: Label
    weight: str | None
    partition_by: tuple[str, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """The raw columns, each once."""
        weight = (self.weight,) if self.weight else ()
        return tuple(dict.fromkeys([*self.key.values(), self.label.column, *weight, *self.partition_by]))


@dataclass(frozen=True)
class Encoded:
    """Counts of what the encoder met, by fold."""

    rows: Mapping[str, int]
    left_out: int  # negatives that the train fold does without
    # By field: `values`, `missing` and `out_of_vocabulary`; of a bag, its members are counted.
    fields: Mapping[str, Mapping[str, Mapping[str, int]]]


def encode(
    spark: SparkSession,
    scan: Scan,
    spec: Spec,
    encoding_folder: Path,
    raw: RawColumns,
    split: Split,
    few: Collection[str],
    target: Path,
) -> Encoded:
    """Encode every row of a scan and write the dataset's files into `target`, an empty folder that every machine sees.

    The workers map `encoding_folder`. `raw`: columns carried along; `few`: the numbers that have few values.
    """
    written = target / "_written"
    written.mkdir()
    layout = _layout(spec, raw, few)
    fingerprint = spec.fingerprint

    # The closure takes small values: a worker maps the encoding from its folder.
    def encoded(all_rows: Iterator[Rows]) -> Iterator[pa.RecordBatch]:
        writer, counts = Writer(written, layout), Counter[str]()
        encode_rows(all_rows, load_once(encoding_folder, fingerprint), raw, split, writer, counts)
        files = file_batch(writer.close()).to_pylist()
        yield pa.RecordBatch.from_pylist([*files, {"counts": list(counts.items())}], _REPORTED)

    needed = dict.fromkeys([*raw.columns, *split.columns, *spec.columns])
    told_rows = scan.map(needed, encoded, _REPORTED).collect()
    files = [WrittenFile(row.folder, row.path, row.rows, row.bytes) for row in told_rows if row.path is not None]
    move_into_place(compact_files(spark, files, written, layout), target)
    shutil.rmtree(written, ignore_errors=True)  # with what tasks have left that died, or ran twice
    return _sum(spec, [row.counts for row in told_rows if row.counts is not None])


def encode_rows(
    all_rows: Iterable[Rows],
    encoding: Encoding,
    raw: RawColumns,
    split: Split,
    writer: Writer,
    counts: Counter[str],
) -> None:
    """Encode one task's rows into a writer, and count by `what\tname\tfold`; needs no Spark."""
    for rows in all_rows:
        of_rows = labels.read(rows, raw.label)
        fold = folds(split, rows, of_rows.is_zero)
        columns: dict[str, Any] = {name: decode_dictionary(rows.column(source)) for name, source in raw.key.items()}
        columns["label"] = labels.column(of_rows, raw.label, encoding.spec.classes)
        weight = np.ones(rows.num_rows) if raw.weight is None else to_floats(rows.column(raw.weight), raw.weight)
        columns["weight"] = weight.astype(np.float32)
        columns |= encoding.encode(rows, same_table=True)
        _count(encoding.spec, columns, fold, counts)
        table = pa.table({name: pa.array(values) for name, values in columns.items()})
        partitions = {name: rows.column(name) for name in raw.partition_by}
        add_by_folder(writer, table, [f"fold={name}" for name in FOLDS], fold, partitions, "dataset.partition_by")


def _count(spec: Spec, columns: Mapping[str, Any], fold: NDArray[np.int8], counts: Counter[str]) -> None:
    def add(what: str, name: str, of_fold: NDArray[np.int8]) -> None:
        for name_of_fold, n in zip(FOLDS, np.bincount(of_fold[of_fold >= 0], minlength=len(FOLDS)), strict=True):
            counts[f"{what}\t{name}\t{name_of_fold}"] += int(n)

    counts["left_out\t\t"] += int(np.count_nonzero(fold == LEFT_OUT))
    add("rows", "", fold)
    for field in spec.fields:
        ids, of_value = columns[field.name], fold
        if field.bag is not None:
            of_value = np.repeat(fold, np.diff(ids.offsets.to_numpy()))
            ids = ids.flatten().to_numpy()
        add("values", field.name, of_value)
        add("missing", field.name, of_value[ids == MISSING])
        if not field.hashed:
            add("out_of_vocabulary", field.name, of_value[(ids != MISSING) & (ids < field.first_value)])


def _layout(spec: Spec, raw: RawColumns, few: Collection[str]) -> Layout:
    members = [f"{name}.list.element" for field in spec.fields if field.bag for name in field.outputs]
    plain = [field.name for field in spec.fields if field.bag is None]
    numbers = [name for number in spec.numbers for name in number.outputs if number.name in few or name != number.name]
    return Layout(("label", "weight", *plain, *members, *numbers), tuple(raw.key))


def _sum(spec: Spec, told_counts: Sequence[Mapping[str, int]]) -> Encoded:
    total: Counter[str] = Counter()
    for counts in told_counts:
        total.update(counts)
    by_fold = {
        name: {
            what: {fold: total[f"{what}\t{name}\t{fold}"] for fold in FOLDS}
            for what in ("values", "missing", "out_of_vocabulary")
        }
        for name in (field.name for field in spec.fields)
    }
    return Encoded({fold: total[f"rows\t\t{fold}"] for fold in FOLDS}, total["left_out\t\t"], by_fold)
