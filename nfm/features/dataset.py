"""The feature job: count, learn the encoding, encode every row, and publish dataset and encoding together."""

import json
import logging
import shutil
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyspark.sql import SparkSession

from nfm.config.ranking import item_inputs
from nfm.config.settings import Config
from nfm.contract.columns import check_categorical, check_columns, check_key
from nfm.contract.dataset import FOLD
from nfm.contract.encoder import Encoding
from nfm.contract.errors import DataError
from nfm.contract.publishing.publish import check_replaceable, publish_together
from nfm.contract.reading import LATEST, TIME_FORMATS
from nfm.contract.schema import DATASET_MARKER, Kind
from nfm.contract.times.compare import check_times
from nfm.contract.times.derive import check_derived, learn_kinds
from nfm.contract.times.derived import Derived, explain_missing
from nfm.contract.values import check_kind, check_number
from nfm.features import vocabularies
from nfm.features.counted import Counted, Summed
from nfm.features.encode import RawColumns, encode
from nfm.features.encoding import build_spec, check_growth, get_bag, grow_spec, keep_derived, number_part
from nfm.features.labels import NO_LABEL, Label, check_task, open_label
from nfm.features.ranking.catalogue import write_catalogue
from nfm.features.ranking.tables import Tables, join_all, open_tables
from nfm.features.report import facts
from nfm.features.report.page import write as write_report
from nfm.features.split import Split
from nfm.features.statistics import Distribution
from nfm.table.errors import translate_spark_errors
from nfm.table.folder_texts import check_folder_texts
from nfm.table.scan import Scan, open_scan
from nfm.table.session import TIME_ZONE, read_settings

log = logging.getLogger(__name__)

ENCODING_MARKER = "spec.json"


@dataclass(frozen=True)
class Growth:
    """The options `--grow-from` and `--refresh-numbers`."""

    folder: Path  # the encoding/ to grow from
    refresh_numbers: bool  # learn the transformations of numbers again instead of keeping them


@dataclass(frozen=True)
class Prepared:
    """A table that has been checked against the configuration."""

    scan: Scan
    split: Split
    label: Label
    kinds: Mapping[str, Kind]  # kind of each categorical column
    derived: tuple[Derived, ...]
    growth: Growth | None
    old: Encoding | None  # the encoding to grow from
    tables: Tables | None = None  # of a ranking


def prepare(spark: SparkSession, config: Config, growth: Growth | None = None, *, searches: bool = True) -> Prepared:
    """Check the table's columns and the encoding to grow from, before any work; DataError if one does not match.

    `searches` as for `open_scan`.
    """
    given, columns, where = config.columns, config.joined.columns, str(config.source)
    for folder, marker in ((config.encoding_folder, ENCODING_MARKER), (config.dataset_folder, DATASET_MARKER)):
        check_replaceable(folder, marker)
    split = make_split(config)
    why = "The settings columns, split and dataset.partition_by refer to these columns."
    times = dict.fromkeys(filter(None, (config.split.time, config.ranking.time if config.ranking else None)))
    others = [n for n in (given.label, given.weight, *times, *split.columns, *split.by) if n not in (None, FOLD)]
    needed = dict.fromkeys(filter(None, [*given.key, *others, *given.inputs, *config.dataset.partition_by]))

    def check_needed(schema: pa.Schema) -> Iterable[str]:
        check_columns(needed, schema, where, explain_missing(config.derived, schema.names, why))
        return needed

    old = Encoding.load(growth.folder) if growth is not None else None
    reading = old.reading if old is not None else LATEST
    if reading is not None:
        reading = reading.with_texts(config.derived, config.source.options)
        if times and not {name.lower() for name in config.source.options} & TIME_FORMATS:
            reading = replace(reading, untimed=list(times))
    scan, tables = open_scan(spark, config.source, check_needed, reading, searches=searches), None
    if config.ranking is not None:
        tables = open_tables(spark, config, scan, tuple(needed), searches)
        scan = replace(scan, schema=tables.schema)
    label = NO_LABEL
    if given.label is not None:
        label = open_label(given.label, scan.schema.field(given.label).type, config.model.task, where)
    zone = columns.time_zone or read_settings(spark)[TIME_ZONE]
    derived = learn_kinds(config.derived, scan.schema, where, zone)
    if growth is not None and old is not None:
        derived = keep_derived(derived, columns.time_zone, old.spec, str(growth.folder))
    schema = check_derived(derived, scan.schema, where)
    kinds = _categorical_kinds(config.joined, schema)
    in_table = [name for name in dict.fromkeys([*columns.key, *kinds]) if name in needed]
    check_folder_texts(config.source, scan.read_files, scan.schema, in_table)
    _check_other_columns(config.joined, split, schema)
    if growth is not None and old is not None:
        check_task(label.task, old.spec.classes, str(growth.folder))
        check_growth(columns, kinds, old.spec, str(growth.folder), growth.refresh_numbers)
        old.verify(str(growth.folder))
    return Prepared(scan, split, label, kinds, derived, growth, old, tables)


def make_split(config: Config) -> Split:
    """Return the split of the table that is encoded."""
    key = config.columns.key
    return Split(**config.joined.split.model_dump(exclude={"by", "last"}), by=config.split.by or key, key=key)


def _categorical_kinds(config: Config, schema: pa.Schema) -> dict[str, Kind]:
    kinds: dict[str, Kind] = {}
    for name, field in config.columns.categorical.items():
        kinds |= check_categorical(field.columns(name), get_bag(field), schema, str(config.source))
    return kinds


def _check_other_columns(config: Config, split: Split, schema: pa.Schema) -> None:
    """Check the types of all columns except the label and the categorical ones."""
    columns, where = config.columns, str(config.source)
    check_key((*columns.key, *split.by), schema, where)
    for name in (*config.dataset.partition_by, *([split.column] if split.column else [])):
        check_kind(name, schema.field(name).type, where)
    for column in [s.column or name for name, s in columns.numeric.items()] + [columns.weight]:
        if column is not None:
            check_number(column, schema.field(column).type, where)
    if split.time is not None:
        bounds = [bound for bound in split.bounds if bound is not None]
        check_times(split.time, schema.field(split.time).type, split.format, bounds)


def build(spark: SparkSession, config: Config, prepared: Prepared | None = None) -> Mapping[str, Any]:
    """Write `dataset/` and `encoding/` from the raw table, and return the statistics.

    Calls `prepare` unless its result is given. If DataError is raised for the table, nothing is published.
    """
    prepared = prepared or prepare(spark, config)
    # Lock the folders first, so that conflicts are reported before the long work starts.
    outputs = (config.encoding_folder, ENCODING_MARKER), (config.dataset_folder, DATASET_MARKER)
    with translate_spark_errors(str(config.source)), publish_together(*outputs) as (encoding, dataset):
        statistics = _build(spark, config, prepared, encoding, dataset)
        (encoding / "statistics.json").write_text(json.dumps(statistics, indent=1, allow_nan=False))
        write_report(encoding / "report.html", statistics)
        marker: dict[str, Any] = {key: statistics[key] for key in ("rows", "times")}
        marker["encoding_fingerprint"] = statistics["fingerprint"]
        (dataset / DATASET_MARKER).write_text(json.dumps(marker | {"settings": config.of_dataset}, indent=1))
    return statistics


def _build(spark: SparkSession, config: Config, prepared: Prepared, encoding: Path, dataset: Path) -> dict[str, Any]:
    """Count, learn the specification and encode into the two folders; returns the statistics."""
    scan, split, label = prepared.scan, prepared.split, prepared.label
    scratch, catalogue, given, config = encoding / "_scratch", None, config, config.joined
    columns = config.columns
    if prepared.tables is not None:
        log.info("joining the interactions of %s with their users, items and histories", config.source)
        scan, catalogue = join_all(spark, prepared.tables, scratch)
    log.info("counting the values of %s", config.source)
    counted = Counted.of(scan, config, label, prepared.kinds, split, prepared.derived, scratch / "counts")
    log.info("ranking the values of %s fields", len(columns.categorical))
    grow_from = (prepared.growth.folder, prepared.old) if prepared.growth and prepared.old else None
    with ThreadPoolExecutor() as pool:
        # Compute report-only statistics in parallel, because writing vocabularies leaves cores idle.
        vocabulary_future = pool.submit(vocabularies.make, spark, counted.runs, counted.recipes, encoding, grow_from)
        summed = Summed.of(counted, config, label, prepared.old.spec.classes if prepared.old else ())
        counting_values = pool.submit(facts.count_values, counted, summed.labels)
        written, coverages = vocabulary_future.result()
        cells = {name: summed.cells.get(number_part(name)) for name in columns.numeric}
        distributions = {name: Distribution.of_fold(part_cells, "train") for name, part_cells in cells.items()}
        spec = build_spec(columns, prepared.kinds, written, distributions, split.negative_rate, summed.labels.classes)
        inputs = () if given.ranking is None else item_inputs(given.ranking, given.columns)
        spec = replace(spec, key=given.columns.key, derived=prepared.derived, item_inputs=inputs)
        if prepared.growth and prepared.old:
            spec = grow_spec(spec, prepared.old, prepared.growth.refresh_numbers)
        (encoding / ENCODING_MARKER).write_text(spec.to_json())
        prepared.scan.reading.save(encoding)
        # A vocabulary of several columns can have values that one of their types cannot represent.
        Encoding.load(encoding).check(scan.schema, str(config.source))

        rows, folders = summed.labels.rows, config.dataset.partition_by
        log.info("encoding %s rows", f"{sum(rows.values()):,}")
        raw = RawColumns(columns.key_names(folders), label, columns.weight, folders)
        repeating = {name for name, part_cells in cells.items() if part_cells is None or part_cells.exact}
        encoded = encode(spark, scan, spec, encoding, raw, split, repeating, dataset)
        if encoded.rows != rows:
            raise DataError(
                f"{config.source} changed while it was read: {sum(rows.values())} rows were counted, and then "
                f"{sum(encoded.rows.values())} rows were encoded. The old dataset is unchanged; run the job again."
            )
        prepared.scan.check_unchanged()
        values = counting_values.result()
    if prepared.tables is not None and catalogue is not None:
        encoder = encoding, spec.fingerprint
        write_catalogue(spark, scratch / "items", prepared.tables.order.item, encoder, dataset)
        summed.labels.facts.update(catalogue)
        for name, side in prepared.tables.sides.items():
            side.check_unchanged()
            (encoding / name).mkdir()
            side.reading.save(encoding / name)
    statistics = facts.gather(config, prepared.scan, spec, summed, values, encoded, written, coverages)
    shutil.rmtree(scratch)
    return statistics
