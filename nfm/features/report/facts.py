"""Collect statistics.json: statistics of the labels, fields and numbers, and how well each input ranks the labels."""

from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from pyspark.sql import functions as F

from nfm.config.columns import Categorical
from nfm.config.settings import Config
from nfm.contract.cells import auc
from nfm.contract.schema import FOLDS, Field, Spec
from nfm.features.counted import Counted, Summed
from nfm.features.encode import Encoded
from nfm.features.encoding import field_part, number_part
from nfm.features.labels import Labels
from nfm.features.report.findings import findings
from nfm.features.statistics import COUNTS, Distribution, describe_number
from nfm.features.sums import VALUES
from nfm.features.vocabularies import Coverage, WrittenVocabulary
from nfm.table.scan import Scan
from nfm.table.session import read_settings

_LEVELS = 1000  # levels of the label rates by which a field's values are sorted
_PRIOR_ROWS = 10  # rows with the overall label rate that are added to each value, so that rare values have no extremes


def gather(
    config: Config,
    scan: Scan,
    spec: Spec,
    summed: Summed,
    values: Mapping[str, Mapping[str, Any]],
    encoded: Encoded,
    written: Mapping[str, WrittenVocabulary],
    coverages: Mapping[str, Coverage],
) -> dict[str, Any]:
    """Return the content of statistics.json.

    `values` is the result of `count_values`; `written` and `coverages` are by vocabulary.
    """
    fields = {field.name: field for field in spec.fields}
    statistics: dict[str, Any] = {
        "name": config.name,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "source": str(config.source),
        "scan": f"{scan.method}: {scan.reason}",
        "read_settings": read_settings(scan.table.sparkSession),
        "skipped_files": list(scan.skipped),
        "bad_rows": scan.bad_rows,
        "fingerprint": spec.fingerprint,
        "rows": summed.labels.rows,
        "times": encoded.times,
        "derived": [asdict(one) for one in spec.derived],
        "negative_rate": spec.negative_rate,
        "left_out": encoded.left_out,
        "label": summed.labels.facts,
        "fields": {
            name: _field_facts(settings, fields[name], encoded, values.get(field_part(name), {}), written)
            for name, settings in config.columns.categorical.items()
        },
        "numbers": {},
        "grown": _growth_facts(spec, summed.labels, encoded, coverages) if spec.ancestors else None,
    }
    for name, number in config.columns.numeric.items():
        part = number_part(name)
        cells = summed.cells.get(part)
        statistics["numbers"][name] = {
            "columns": [number.column or name],
            **describe_number(cells, Distribution.of_fold(cells, "train"), values[part]["missing"]),
            **({"buckets": fields[name].values} if number.buckets is not None else {}),
        }
    statistics["findings"] = findings(statistics, config.columns.key, config.columns.label)
    return statistics


def _field_facts(
    settings: Categorical,
    field: Field,
    encoded: Encoded,
    values: Mapping[str, Any],
    written: Mapping[str, WrittenVocabulary],
) -> dict[str, Any]:
    counts = encoded.fields[field.name]
    present = {fold: counts["values"][fold] - counts["missing"][fold] for fold in FOLDS}
    known = {fold: present[fold] - counts["out_of_vocabulary"][fold] for fold in FOLDS}
    vocabulary = written.get(field.vocabulary or "")
    cross = len(field.columns) > 1
    form = "bag" if field.bag else "cross" if cross else "hashed" if field.hashed else "vocabulary"
    return {
        "columns": list(field.columns),
        "form": form if settings.share_with is None else f"shared:{settings.share_with}",
        "vocabulary": field.values,
        **counts,
        "distinct": values.get("distinct"),
        "coverage": {fold: known[fold] / present[fold] if present[fold] else None for fold in FOLDS},
        "top": [list(pair) for pair in vocabulary.top] if vocabulary else [],
        "auc": values.get("auc"),
    }


def _growth_facts(spec: Spec, labels: Labels, encoded: Encoded, coverages: Mapping[str, Coverage]) -> dict[str, Any]:
    """Return how much each vocabulary has grown, with the coverage over all fields that share it, and the classes."""
    fields = {}
    for name, growth in coverages.items():
        users = [encoded.fields[field.name] for field in spec.fields if field.vocabulary == name]
        values, missing, lacking = (
            sum(counts[what]["train"] for counts in users) for what in ("values", "missing", "out_of_vocabulary")
        )
        present = values - missing
        fields[name] = {
            "before": growth.before,
            "added": spec.vocabularies[name] - growth.before,
            "coverage_before": growth.coverage_before,
            "coverage_after": (present - lacking) / present if present else None,
        }
    before = labels.classes_before
    return {
        "from": spec.ancestors[0],
        "fields": fields,
        "classes": {"before": before, "added": list(labels.classes[before:])},
    }


def count_values(counted: Counted, labels: Labels) -> dict[str, dict[str, Any]]:
    """Return, for each part, its `distinct` values by fold, its `missing` rows by fold, and its `auc`.

    The driver receives at most 2,002 rows per part, for any number of values.
    """
    prior = labels.positive["train"] / labels.rows["train"]
    positive_train, train = (F.col(name) / F.col("values") for name in ("positive", "train"))  # per value
    rate = (positive_train + _PRIOR_ROWS * prior) / (train + _PRIOR_ROWS)
    grouped = counted.counts.where("cell is null").groupBy("part", "missing", F.round(rate * _LEVELS).alias("level"))
    table = grouped.agg(*(F.sum(name).alias(name) for name in (*COUNTS, *VALUES))).toPandas()
    facts = {}
    for name, part in counted.places.items():
        counts = table[table["part"] == part]
        present, missing = counts[~counts["missing"]], counts[counts["missing"]]
        distinct = {fold: int(present[f"{fold}_values"].sum()) for fold in FOLDS}
        by_level = counts.groupby("level")[["held_positive", "valid", "test"]].sum()  # ascending
        ones = by_level["held_positive"].to_numpy()
        field_auc = auc(ones, by_level["valid"].to_numpy() + by_level["test"].to_numpy() - ones)
        facts[name] = {
            "distinct": {**distinct, "table": int(present["values"].sum())},
            "missing": {fold: int(missing[fold].sum()) for fold in FOLDS},
            "auc": None if field_auc is None else max(field_auc, 0.5),
        }
    return facts
