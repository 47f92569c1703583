"""Compare tonight's table and scores with the data that the model was trained on."""

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from nfm.contract.artifact import Artifact
from nfm.contract.cells import Cells, quantile
from nfm.contract.messages import quoted
from nfm.contract.profile import Bins, has_out_of_vocabulary, psi, psi_by_chance
from nfm.contract.scaling import CURVES
from nfm.contract.schema import FOLDS, Field, Number
from nfm.scoring.health.tally import Scores, Tally
from nfm.scoring.scorer import score_columns

LARGE = 0.25  # a PSI above this is a large drift: usually, the population is another one
_QUANTILES = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
_HISTOGRAM_BINS = 40
_OUTER = 0.001  # share of the scores on each side that goes into a histogram's outermost bins, however far away
_NEW_VALUES = 20  # of a field


def compare_with_training(artifact: Artifact, tally: Tally, encoded: bool) -> dict[str, Any]:
    """Compare the counts of a table with those of the training data.

    An encoded table (a dataset) does not show which numbers were missing.

    Returns:
        `score`, or for multiclass `scores` by column: range, quantiles, histogram, PSI against the profile's fold.
        `values` by field and number: their count, missing and out-of-vocabulary values with their rates in the train
        fold, PSI against the train fold, the most frequent new values. A PSI is None if the table has no rows or the
        model no profile.
    """
    names, profile = score_columns(artifact.network), artifact.profile
    columns: Sequence[Scores | None] = tally.scores or [None] * len(names)
    references: Sequence[Cells | None] = profile.scores if profile else [None] * len(names)
    fold = profile.fold if profile else None
    scores = {
        name: _score_report(column, tally.rows - tally.not_finite, reference, fold)
        for name, column, reference in zip(names, columns, references, strict=True)
    }
    statistics = json.loads((artifact.path / "encoding" / "statistics.json").read_text())
    values = {field.name: _field_report(artifact, field, tally, statistics) for field in artifact.encoding.spec.fields}
    for number in artifact.encoding.spec.numbers:
        values[number.name] = _number_report(artifact, number, tally, None if encoded else statistics)
    return {**({"scores": scores} if artifact.network.task == "multiclass" else scores), "values": values}


def _score_report(scores: Scores | None, rows: int, reference: Cells | None, fold: str | None) -> dict[str, Any]:
    report: dict[str, Any] = {"min": None, "mean": None, "max": None, "quantiles": None, "psi": None}
    if scores is not None:
        report |= {"min": scores.low, "mean": scores.total / rows, "max": scores.high}
        report["quantiles"] = _quantiles(scores.cells)
    known = [cells for cells in (scores.cells if scores else None, reference) if cells is not None and len(cells.keys)]
    if known:
        low, high = (pick(_quantile(cells, q) for cells in known) for pick, q in ((min, _OUTER), (max, 1 - _OUTER)))
        if scores is not None:
            report["histogram"] = _histogram(scores.cells, low, high)
        if reference is not None:
            report["reference"] = {
                "fold": fold,
                "rows": int(reference.counts.sum()),
                "quantiles": _quantiles(reference),
                "histogram": _histogram(reference, low, high),
            }
    if scores is not None and reference is not None:
        report |= _psi(Bins.from_cells(reference).counts, scores.bins)
    return report


def _psi(expected: Sequence[float], actual: Sequence[float]) -> dict[str, Any]:
    return {"psi": psi(expected, actual), "psi_by_chance": psi_by_chance(expected, actual)}


def _quantile(cells: Cells, q: float) -> float:
    return quantile(cells.values, cells.counts[:, 0], q)


def _quantiles(cells: Cells) -> dict[str, float] | None:
    return {str(q): _quantile(cells, q) for q in _QUANTILES} if len(cells.keys) else None


def _histogram(cells: Cells, low: float, high: float) -> dict[str, list[float]]:
    """Count scores in bins of equal width. The outermost bins include all scores beyond them."""
    if high <= low:
        return {"edges": [low, high], "counts": [int(cells.counts.sum())]}
    values, weights = np.clip(cells.values, low, high), cells.counts[:, 0]
    counts, edges = np.histogram(values, _HISTOGRAM_BINS, (low, high), weights=weights)
    return {"edges": edges.tolist(), "counts": counts.astype(np.int64).tolist()}


def _field_report(artifact: Artifact, field: Field, tally: Tally, statistics: Mapping[str, Any]) -> dict[str, Any]:
    reference = artifact.profile.fields[field.name] if artifact.profile else None
    bins = tally.values.get(field.name)
    values = sum(bins) if bins else 0
    in_training = _rates_in_training(statistics, field.name)
    if field.hashed and reference is not None:  # the feature job does not count its missing values
        in_training = {"missing": reference.counts[0] / reference.rows if reference.rows else 0.0}
    report = {"values": values, "missing": _rate(bins[0] if bins else 0, values, in_training, "missing")}
    if has_out_of_vocabulary(field):
        unseen = bins[1] if bins else 0
        report["out_of_vocabulary"] = _rate(unseen, values, in_training, "out_of_vocabulary")
        new = sorted(tally.new.get(field.name, {}).items(), key=lambda item: (-item[1], item[0]))
        report["new_values"] = [{"value": value, "count": count} for value, count in new[:_NEW_VALUES]]
        # Not exact if tasks dropped rare values: their counts are then missing here.
        report["new_values_exact"] = field.name not in tally.dropped
    names = None if reference is None else _id_names(artifact, field, reference)
    return report | _drift(reference, bins, names)


def _number_report(
    artifact: Artifact, number: Number, tally: Tally, statistics: Mapping[str, Any] | None
) -> dict[str, Any]:
    reference = artifact.profile.numbers[number.name] if artifact.profile else None
    report: dict[str, Any] = {"values": tally.rows}
    if statistics is not None:
        missing, in_training = tally.missing.get(number.name, 0), _rates_in_training(statistics, number.name)
        report["missing"] = _rate(missing, tally.rows, in_training, "missing")
    names = None if reference is None else _range_names(number, reference)
    return report | _drift(reference, tally.values.get(number.name), names)


def _rates_in_training(statistics: Mapping[str, Any], name: str) -> dict[str, float]:
    facts = statistics["fields"].get(name) or statistics["numbers"][name]
    rows = facts.get("values", statistics["rows"])[FOLDS[0]]
    kinds = [kind for kind in ("missing", "out_of_vocabulary") if kind in facts]
    return {kind: facts[kind][FOLDS[0]] / rows if rows else 0.0 for kind in kinds}


def _rate(count: int, values: int, in_training: Mapping[str, float], kind: str) -> dict[str, Any]:
    rate = count / values if values else None
    return {"count": count, "rate": rate, "rate_in_training": in_training.get(kind, 0.0)}


def _drift(reference: Bins | None, bins: Sequence[int] | None, names: list[str] | None) -> dict[str, Any]:
    if reference is None:
        return {"psi": None}
    counts = bins or [0] * len(reference.counts)
    bin_report = {"edges": list(reference.edges), "training": list(reference.counts), "counts": list(counts)}
    return {**_psi(reference.counts, counts), "bins": {**bin_report, "names": names}}


def _id_names(artifact: Artifact, field: Field, reference: Bins) -> list[str]:
    """Name a field's bins: by the value if a bin contains one value of a vocabulary, else by ids."""
    special = ["missing", "out-of-vocabulary"] if has_out_of_vocabulary(field) else ["missing"]
    starts = [int(edge) for edge in reference.edges[len(special) - 1 :]]
    names = []
    for low, high in pairwise([*starts, field.size]):
        if high - low == 1 and field.vocabulary is not None:
            names.append(str(artifact.encoding.vocabulary.fields[field.vocabulary].texts[low - field.first_value]))
        else:
            names.append(f"id {low}" if high - low == 1 else f"ids {low}–{high - 1}" if high > low else "no values")
    return special + names


def _range_names(number: Number, reference: Bins) -> list[str]:
    """Name a number's bins by values of the raw table."""
    scaled = np.array(reference.edges, np.float64) * number.divisor + number.shift
    shown = [f"{x:,.3g}" for x in CURVES[number.curve].invert(scaled)]
    if not shown:
        return ["all"]
    return [f"< {shown[0]}", *(f"{low} … {high}" for low, high in pairwise(shown)), f"≥ {shown[-1]}"]


def score_reports(report: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the report's facts about each score column, by name."""
    reports: Mapping[str, Any] = report.get("scores") or {"score": report["score"]}
    return reports


def describe_duplicates(duplicates: Mapping[str, Any]) -> str:
    """Describe keys that occur more than once, of which there is at least one, with an example or two."""
    keys, rows = duplicates["keys"], duplicates["rows"]
    examples = (f"{_key(example['key'])} in {example['rows']:,} rows" for example in duplicates["examples"])
    occur = f"{keys:,} keys occur" if keys > 1 else "one key occurs"
    return f"{occur} in more than one row ({rows:,} rows), for example {' and '.join(dict.fromkeys(examples))}"


def describe_settings(report: Mapping[str, Any]) -> list[str]:
    """Return how the settings of Spark differ from those in training."""
    return [
        f"{key} was {was} in training and is {now} now, so Spark may select other rows with source.where, and read "
        f"times and other values differently; --spark {key}={was} restores it"
        for key, (was, now) in report.get("changed_settings", {}).items()
    ]


def describe_keys(report: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with the keys of a report's table."""
    duplicates = report.get("duplicate_keys")
    if not duplicates:
        return []
    lines, nulls = [describe_duplicates(duplicates)] if duplicates["keys"] else [], duplicates["null_rows"]
    if nulls:
        folders = duplicates.get("empty_is_null")  # reports of earlier versions lack it
        note = f" (an empty text counts as null in the names of folders: {', '.join(folders)})" if folders else ""
        lines.append(f"{nulls:,} {'rows have' if nulls > 1 else 'row has'} a null in the key{note}")
    return lines


def _key(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={'null' if value is None else quoted(value)}" for name, value in values.items())


def has_drifted(column: Mapping[str, Any], limit: float = LARGE) -> bool:
    """Return whether a column's PSI is above a limit and larger than chance explains in a table of this size."""
    return column["psi"] is not None and column["psi"] > max(limit, column["psi_by_chance"])
