"""The feature job's work: count, learn the encoding, encode every row, publish dataset and encoding together."""

import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import types as T

from nfm.config import Config
from nfm.contract.encoder import ENCODER_FILES, Encoding, check_columns
from nfm.contract.publish import publish
from nfm.contract.schema import DATASET_MARKER, FOLDS, Spec
from nfm.contract.values import canonical_text, check_kind, check_number, kind_of, numbers
from nfm.features.count import HashSplit, count
from nfm.features.encoding import make, parts
from nfm.spark import arrow_schema, distribute, map_rows, on_worker, read, told_plainly

log = logging.getLogger(__name__)

ENCODING_MARKER = "spec.json"


@dataclass(frozen=True)
class RawColumns:
    """Columns of the raw table that go into the dataset beside the encoded ones."""

    key: Mapping[str, str]  # name in the dataset → raw column
    label: str
    weight: str | None


def build(spark: SparkSession, config: Config) -> Mapping[str, Any]:
    """Raw table → `dataset/` and `encoding/`.

    Returns:
        The statistics that stand in encoding/statistics.json.

    Raises:
        DataError: the table breaks its contract; nothing is published then.
    """
    table, split = checked_table(spark, config)
    where = str(config.source)
    schema = arrow_schema(table)
    categorical = [field.column or name for name, field in config.columns.categorical.items()]
    for name, number in config.columns.numeric.items():
        check_number(number.column or name, schema.field(number.column or name).type, where)
    kinds = {name: check_kind(name, schema.field(name).type, where) for name in [config.columns.label, *categorical]}
    # The places are taken before the work: a run that meets another one, or a folder that is not ours, says so at once.
    with (
        told_plainly(where),
        publish(config.encoding_folder, ENCODING_MARKER) as encoding_staging,
        publish(config.dataset_folder, DATASET_MARKER) as dataset_staging,
    ):
        log.info("counting the values of %s", where)
        counts = count(table, parts(config.columns, kinds), split)
        made = make(config.columns, kinds, counts, where)
        log.info("encoding %s rows", f"{sum(made.statistics['rows'].values()):,}")
        made.save(encoding_staging)
        _write(spark, table, config, made.encoding.spec, encoding_staging, split, dataset_staging)
        facts = {"encoding_fingerprint": made.encoding.spec.fingerprint, "rows": made.statistics["rows"]}
        (dataset_staging / DATASET_MARKER).write_text(json.dumps(facts, indent=1))
    return made.statistics


def checked_table(spark: SparkSession, config: Config) -> tuple[DataFrame, HashSplit]:
    """The source's table, once it is known to have every column, and how its rows are split.

    Raises:
        DataError: names the column that is missing, and what the table has.
    """
    columns, split = config.columns, config.split
    table = read(spark, config.source)
    hash_split = HashSplit(split.by or columns.key, split.valid, split.test, split.seed)
    wanted = [*columns.key, columns.label, *([columns.weight] if columns.weight else []), *hash_split.by]
    wanted += [s.column or name for part in (columns.categorical, columns.numeric) for name, s in part.items()]
    check_columns(
        dict.fromkeys(wanted), arrow_schema(table), str(config.source), "The configuration's columns and split name it."
    )
    return table, hash_split


def _write(
    spark: SparkSession,
    table: DataFrame,
    config: Config,
    spec: Spec,
    encoding_folder: Path,
    split: HashSplit,
    target: Path,
) -> None:
    columns = config.columns
    encoded_names = [
        *(field.name for field in spec.fields),
        *(out for number in spec.numbers for out in number.outputs),
    ]
    raw = RawColumns(_key_names(columns.key, encoded_names), columns.label, columns.weight)
    raw_types = {field.name: field.dataType for field in table.schema.fields}
    schema = T.StructType(
        [T.StructField(name, raw_types[source]) for name, source in raw.key.items()]
        + [T.StructField("label", T.FloatType()), T.StructField("weight", T.FloatType())]
        + [T.StructField(field.name, T.IntegerType()) for field in spec.fields]
        + [T.StructField(name, T.FloatType()) for number in spec.numbers for name in number.outputs]
        + [T.StructField("fold", T.StringType())]
    )
    # The closure takes these small values and the broadcast's handle, never the vocabulary itself.
    files, fingerprint = distribute(spark, encoding_folder, ENCODER_FILES), spec.fingerprint

    def encoded(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        return encode_batches(batches, on_worker(files, fingerprint, Encoding.load), raw, split)

    needed = dict.fromkeys(
        [*raw.key.values(), raw.label, *([raw.weight] if raw.weight else []), *split.by, *spec.columns]
    )
    rows = map_rows(table, needed, encoded, schema)
    rows.write.mode("append").partitionBy("fold").parquet(str(target))


def _key_names(key: tuple[str, ...], encoded: Iterable[str]) -> dict[str, str]:
    """A key column keeps its name, unless a field has it too: then the raw key is called key_…"""
    taken = {name.lower() for name in encoded} | {"label", "weight", "fold"}
    return {(f"key_{name}" if name.lower() in taken else name): name for name in key}


def encode_batches(
    batches: Iterable[pa.RecordBatch], encoding: Encoding, raw: RawColumns, split: HashSplit
) -> Iterator[pa.RecordBatch]:
    """Raw rows → the dataset's rows, fold included; needs no Spark."""
    for batch in batches:
        columns: dict[str, Any] = {name: batch.column(source) for name, source in raw.key.items()}
        columns["label"] = _labels(batch.column(raw.label))
        columns["weight"] = (
            np.ones(len(batch), np.float32)
            if raw.weight is None
            else numbers(batch.column(raw.weight), raw.weight).astype(np.float32)
        )
        columns |= encoding.encode(batch)
        columns["fold"] = pa.array(FOLDS).take(pa.array(split.folds(batch)))
        yield pa.RecordBatch.from_pydict({name: pa.array(values) for name, values in columns.items()})


def _labels(values: pa.Array) -> NDArray[np.float32]:
    """(N,) 0.0 and 1.0; the counts have shown that there is nothing else."""
    kind = kind_of(values.type)
    assert kind is not None
    encoded = values if pa.types.is_dictionary(values.type) else values.dictionary_encode()
    ones = pc.is_in(canonical_text(encoded.dictionary, kind, "label"), pa.array(["1", "true"], pa.large_string()))
    return np.asarray(ones.take(encoded.indices).to_numpy(zero_copy_only=False), np.float32)
