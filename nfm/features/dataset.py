"""The feature job's work: count, learn the encoding, encode every row, publish dataset and encoding together."""

import json
import logging
import shutil
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyspark.sql import SparkSession

from nfm.config.settings import Config
from nfm.contract.cells import EXACT
from nfm.contract.columns import check_categorical, check_columns
from nfm.contract.encoder import Encoding
from nfm.contract.errors import DataError
from nfm.contract.publish import check_replaceable, publish
from nfm.contract.schema import DATASET_MARKER, Kind
from nfm.contract.values import check_kind, check_number
from nfm.features import vocabularies
from nfm.features.encode import RawColumns, encode
from nfm.features.encoding import (
    bag_of,
    check_growth,
    grown,
    number_part,
    specify,
)
from nfm.features.labels import Label, check_task, open_label
from nfm.features.report import facts
from nfm.features.report.page import write as write_report
from nfm.features.split import Split, moment
from nfm.features.statistics import Distribution
from nfm.table.errors import translate_spark_errors
from nfm.table.scan import Scan, open_scan

log = logging.getLogger(__name__)

ENCODING_MARKER = "spec.json"


@dataclass(frozen=True)
class Growth:
    """What `--grow-from` says."""

    folder: Path  # the encoding/ that is to grow
    refresh_numbers: bool  # learn the numbers anew; kept as they are otherwise


@dataclass(frozen=True)
class Prepared:
    """What is known before any work: the table fits the settings."""

    scan: Scan
    split: Split
    label: Label
    kinds: Mapping[str, Kind]  # what each categorical column holds
    growth: Growth | None
    old: Encoding | None


def prepare(spark: SparkSession, config: Config, growth: Growth | None = None) -> Prepared:
    """Look at the table's columns, and at the encoding that is to grow.

    Raises:
        DataError: a column is missing or of a type that its use does not allow; or the encoding cannot grow so.
    """
    columns, where = config.columns, str(config.source)
    for folder, marker in ((config.encoding_folder, ENCODING_MARKER), (config.dataset_folder, DATASET_MARKER)):
        check_replaceable(folder, marker)
    by_hash = config.split.time is None and config.split.column is None
    split = Split(
        **config.split.model_dump(exclude={"by"}),
        by=(config.split.by or columns.key) if by_hash else (),
        key=columns.key,
    )
    weight = (columns.weight,) if columns.weight else ()
    wanted = dict.fromkeys(
        [*columns.key, columns.label, *weight, *split.columns, *columns.inputs, *config.dataset.partition_by]
    )

    def needed(schema: pa.Schema) -> Iterable[str]:
        check_columns(
            wanted, schema, where, "The configuration's columns, split and dataset.partition_by say what it needs."
        )
        return wanted

    scan = open_scan(spark, config.source, needed)
    schema = scan.schema
    label = open_label(columns.label, schema.field(columns.label).type, config.model.task, where)
    kinds: dict[str, Kind] = {}
    for name, field in columns.categorical.items():
        kinds |= check_categorical(field.columns(name), bag_of(field), schema, where)
    for name, field in columns.categorical.items():
        if field.share_with is not None:
            owner = columns.categorical[field.share_with].columns(field.share_with)[0]
            _check_shared(name, kinds[field.columns(name)[0]], owner, kinds[owner], where)
    for name in (*columns.key, *split.by):
        if pa.types.is_nested(schema.field(name).type):
            raise DataError(
                f"Column '{name}' of {where} is {schema.field(name).type}: a key, or what a row's fold is decided by, "
                "is one plain value. Take another column, or make one of it in the source."
            )
    for name in (*config.dataset.partition_by, *([split.column] if split.column else [])):
        check_kind(name, schema.field(name).type, where)
    for column in [s.column or name for name, s in columns.numeric.items()] + list(weight):
        check_number(column, schema.field(column).type, where)
    for bound in (split.valid_from, split.test_from):
        if split.time is not None and bound is not None:
            moment(bound, schema.field(split.time).type, split.time)
    old = None
    if growth is not None:
        old = Encoding.load(growth.folder)
        check_task(label.task, old.spec.classes, str(growth.folder))
        check_growth(columns, kinds, old.spec, str(growth.folder), growth.refresh_numbers)
        old.verify(str(growth.folder))
    return Prepared(scan, split, label, kinds, growth, old)


def _check_shared(name: str, mine: Kind, owner: str, other: Kind, where: str) -> None:
    if mine != other:
        raise DataError(
            f"Field '{name}' of {where} shares its vocabulary with column '{owner}', but holds {mine} values where "
            f"that holds {other}: the same value would not be the same text. Cast one of them in the source."
        )


def build(spark: SparkSession, config: Config, prepared: Prepared | None = None) -> Mapping[str, Any]:
    """Raw table → `dataset/` and `encoding/`.

    Args:
        spark: the session.
        config: the settings.
        prepared: what `prepare` returned; it is called unless given.

    Returns:
        The statistics that stand in encoding/statistics.json.

    Raises:
        DataError: the table breaks its contract; nothing is published then.
    """
    prepared = prepared or prepare(spark, config)
    scan, split, where, columns = prepared.scan, prepared.split, str(config.source), config.columns
    # The places are taken before the work: a run that meets another one, or a folder that is not ours, says so at once.
    with (
        translate_spark_errors(where),
        publish(config.encoding_folder, ENCODING_MARKER) as encoding_staging,
        publish(config.dataset_folder, DATASET_MARKER) as dataset_staging,
        ThreadPoolExecutor() as pool,
    ):
        scratch = encoding_staging / "_scratch"
        log.info("counting the values of %s", where)
        counted = facts.Counted.of(scan, config, prepared.label, prepared.kinds, split, scratch / "counts")
        log.info("ranking the values of %s fields", len(columns.categorical))
        grow_from = (prepared.growth.folder, prepared.old) if prepared.growth and prepared.old else None
        # What only the report needs is summed up beside the work that leaves Spark's cores idle.
        making = pool.submit(vocabularies.make, spark, counted.runs, counted.recipes, encoding_staging, grow_from)
        old_classes = prepared.old.spec.classes if prepared.old else ()
        summed = facts.Summed.of(counted, config, prepared.label, old_classes)
        rows = summed.labels.rows
        valued = pool.submit(facts.of_values, counted.counts, summed.labels)
        made, growths = making.result()
        cells = {name: summed.cells.get(counted.places[number_part(name)]) for name in columns.numeric}
        distributions = {name: Distribution.of_fold(found, "train") for name, found in cells.items()}
        spec = specify(columns, prepared.kinds, made, distributions, split.negative_rate, summed.labels.classes)
        if prepared.growth and prepared.old:
            spec = grown(spec, prepared.old, prepared.growth.refresh_numbers)
        (encoding_staging / ENCODING_MARKER).write_text(spec.to_json())

        log.info("encoding %s rows", f"{sum(rows.values()):,}")
        raw = RawColumns(
            columns.key_names(config.dataset.partition_by),
            prepared.label,
            columns.weight,
            config.dataset.partition_by,
        )
        few = {name for name, found in cells.items() if found is None or found.bits == EXACT}
        encoded = encode(spark, scan, spec, encoding_staging, raw, split, few, dataset_staging)
        if encoded.rows != rows:
            raise DataError(
                f"{where} changed while it was read: {sum(rows.values())} rows were counted, and then "
                f"{sum(encoded.rows.values())} encoded. The old dataset was left as it was; run the job again."
            )
        values = valued.result()
        statistics = facts.gather(config, scan, spec, counted, summed, values, encoded, distributions, made, growths)
        shutil.rmtree(scratch)
        (encoding_staging / "statistics.json").write_text(json.dumps(statistics, indent=1, allow_nan=False))
        write_report(encoding_staging / "report.html", statistics)
        marker = {"encoding_fingerprint": spec.fingerprint, "rows": rows, "settings": config.of_dataset}
        (dataset_staging / DATASET_MARKER).write_text(json.dumps(marker, indent=1))
        check_replaceable(config.encoding_folder, ENCODING_MARKER)  # they are replaced together
    return statistics
