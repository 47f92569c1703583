"""The health report: tonight's table and scores beside those that the model was trained on, and the gates."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from nfm.config.settings import Gates
from nfm.contract.artifact import Artifact
from nfm.contract.cells import Cells, quantile
from nfm.contract.errors import ConfigError
from nfm.contract.profile import Bins, has_unseen, psi, psi_by_chance
from nfm.contract.schema import FOLDS, Field, Number
from nfm.scoring.health.tally import Scores, Tally
from nfm.scoring.scorer import score_columns

MOVED = 0.25  # a PSI above this is usually read as another population
_QUANTILES = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
_HISTOGRAM_BINS = 40
_OUTER = 0.001  # share of the scores on each side that goes into a histogram's outermost bins, however far away
_NEW_VALUES = 20  # of a field


def health(artifact: Artifact, tally: Tally, encoded: bool) -> dict[str, Any]:
    """What was counted, and how far it is from what the model knows.

    Args:
        artifact: the model.
        tally: of the whole table.
        encoded: the table is a dataset: what a number was before it was encoded is not known any more.

    Returns:
        `score`, or for multiclass `scores` by column: range, quantiles, histogram, PSI against the profile's fold.
        `values` by field and number: how many there are, missing and out-of-vocabulary ones with their rates in the
        train fold, PSI against the train fold, the most frequent new values. A PSI is None without rows, and for a
        model without a profile.
    """
    names, profile = score_columns(artifact.network), artifact.profile
    of_columns: Sequence[Scores | None] = tally.scores or [None] * len(names)
    references: Sequence[Cells | None] = profile.scores if profile else [None] * len(names)
    fold = profile.fold if profile else None
    scores = {
        name: _scores(found, tally.rows - tally.not_finite, reference, fold)
        for name, found, reference in zip(names, of_columns, references, strict=True)
    }
    several = artifact.network.task == "multiclass"
    return {**({"scores": scores} if several else scores), "values": _values(artifact, tally, encoded)}


def _scores(found: Scores | None, rows: int, reference: Cells | None, fold: str | None) -> dict[str, Any]:
    told: dict[str, Any] = {"min": None, "mean": None, "max": None, "quantiles": None, "psi": None}
    if found is not None:
        told |= {"min": found.low, "mean": found.total / rows, "max": found.high, "quantiles": _quantiles(found.cells)}
    both = [one for one in (found.cells if found else None, reference) if one is not None and len(one.keys)]
    if both:
        low, high = (pick(_at(one, q) for one in both) for pick, q in ((min, _OUTER), (max, 1 - _OUTER)))
        if found is not None:
            told["histogram"] = _histogram(found.cells, low, high)
        if reference is not None:
            told["reference"] = {
                "fold": fold,
                "rows": int(reference.counts.sum()),
                "quantiles": _quantiles(reference),
                "histogram": _histogram(reference, low, high),
            }
    if found is not None and reference is not None:
        told |= _psi(Bins.of_cells(reference).counts, found.bins)
    return told


def _psi(expected: Sequence[float], actual: Sequence[float]) -> dict[str, Any]:
    return {"psi": psi(expected, actual), "psi_by_chance": psi_by_chance(expected, actual)}


def _at(cells: Cells, q: float) -> float:
    return quantile(cells.values, cells.counts[:, 0], q)


def _quantiles(cells: Cells) -> dict[str, float] | None:
    return {str(q): _at(cells, q) for q in _QUANTILES} if len(cells.keys) else None


def _histogram(cells: Cells, low: float, high: float) -> dict[str, list[float]]:
    """Counts in bins of equal width; the outermost ones hold what lies beyond them, too."""
    if high <= low:
        return {"edges": [low, high], "counts": [int(cells.counts.sum())]}
    counts, edges = np.histogram(
        np.clip(cells.values, low, high), _HISTOGRAM_BINS, (low, high), weights=cells.counts[:, 0]
    )
    return {"edges": edges.tolist(), "counts": counts.astype(np.int64).tolist()}


def _values(artifact: Artifact, tally: Tally, encoded: bool) -> dict[str, dict[str, Any]]:
    spec, profile = artifact.encoding.spec, artifact.profile
    statistics = json.loads((artifact.path / "encoding" / "statistics.json").read_text())
    told: dict[str, dict[str, Any]] = {}
    for field in spec.fields:
        reference = profile.fields[field.name] if profile else None
        bins = tally.values.get(field.name)
        values = sum(bins) if bins else 0
        in_training = _trained_rates(statistics, field.name)
        if field.hashed and reference is not None:  # the feature job has not counted them
            in_training = {"missing": reference.counts[0] / reference.rows if reference.rows else 0.0}
        told[field.name] = {"values": values, "missing": _rate(bins[0] if bins else 0, values, in_training, "missing")}
        if has_unseen(field):
            unseen = bins[1] if bins else 0
            told[field.name]["out_of_vocabulary"] = _rate(unseen, values, in_training, "out_of_vocabulary")
            new = tally.new.get(field.name, {})
            most = sorted(new.items(), key=lambda one: (-one[1], one[0]))[:_NEW_VALUES]
            told[field.name]["new_values"] = [{"value": value, "count": count} for value, count in most]
            # Where not all could be counted, a count may lack those of tasks in which the value was rare.
            told[field.name]["new_values_exact"] = field.name not in tally.dropped
        told[field.name] |= _drift(
            reference, bins, None if reference is None else _id_names(artifact, field, reference)
        )
    for number in spec.numbers:
        bins = tally.values.get(number.name)
        told[number.name] = {"values": tally.rows}
        if not encoded:
            missing, in_training = tally.missing.get(number.name, 0), _trained_rates(statistics, number.name)
            told[number.name]["missing"] = _rate(missing, tally.rows, in_training, "missing")
        reference = profile.numbers[number.name] if profile else None
        told[number.name] |= _drift(reference, bins, None if reference is None else _range_names(number, reference))
    return told


def _trained_rates(statistics: Mapping[str, Any], name: str) -> dict[str, float]:
    facts = statistics["fields"].get(name) or statistics["numbers"][name]
    trained_on = facts.get("values", statistics["rows"])[FOLDS[0]]
    return {
        what: facts[what][FOLDS[0]] / trained_on if trained_on else 0.0
        for what in ("missing", "out_of_vocabulary")
        if what in facts
    }


def _rate(count: int, values: int, in_training: Mapping[str, float], what: str) -> dict[str, Any]:
    rate = count / values if values else None
    return {"count": count, "rate": rate, "rate_in_training": in_training.get(what, 0.0)}


def _drift(reference: Bins | None, bins: Sequence[int] | None, names: list[str] | None) -> dict[str, Any]:
    if reference is None:
        return {"psi": None}
    counts = bins or [0] * len(reference.counts)
    both = {"edges": list(reference.edges), "training": list(reference.counts), "counts": list(counts), "names": names}
    return {**_psi(reference.counts, counts), "bins": both}


def _id_names(artifact: Artifact, field: Field, reference: Bins) -> list[str]:
    """What a field's bins hold: the value, where it is one of a vocabulary, else ids."""
    plain = ["missing", "out-of-vocabulary"] if has_unseen(field) else ["missing"]
    starts = [int(edge) for edge in reference.edges[len(plain) - 1 :]]
    names = []
    for low, high in pairwise([*starts, field.size]):
        if high - low == 1 and field.vocabulary is not None:
            names.append(str(artifact.encoding.vocabulary.fields[field.vocabulary].texts[low - field.first_value]))
        else:
            names.append(f"id {low}" if high - low == 1 else f"ids {low}–{high - 1}" if high > low else "no values")
    return plain + names


def _range_names(number: Number, reference: Bins) -> list[str]:
    """What a number's bins hold: values as they are in the raw table."""
    raw = [edge * number.divisor + number.shift for edge in reference.edges]
    shown = [f"{math.copysign(math.expm1(abs(x)), x) if number.log1p else x:,.3g}" for x in raw]
    if not shown:
        return ["all"]
    return [f"< {shown[0]}", *(f"{low} … {high}" for low, high in pairwise(shown)), f"≥ {shown[-1]}"]


def score_reports(report: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a report says of each score column."""
    found: Mapping[str, Any] = report.get("scores") or {"score": report["score"]}
    return found


def has_moved(told: Mapping[str, Any]) -> bool:
    """Whether a column's PSI says that it is no longer what the model knows, and chance does not explain it."""
    return told["psi"] is not None and told["psi"] > max(MOVED, told["psi_by_chance"])


def check_gates(gates: Gates, artifact: Artifact) -> None:
    """Before any work: whether the model knows what the gates compare with.

    Raises:
        ConfigError: it does not.
    """
    for key, value in (("max_psi", gates.max_psi), ("max_field_psi", gates.max_field_psi)):
        if value is not None and artifact.profile is None:
            raise ConfigError(
                f"score.gates.{key}: {value} given, but the model in {artifact.path} was saved without a profile of "
                "what it was trained on. Train it again with this version, or leave the gate out"
            )


def crossed(gates: Gates, report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The gates that a table does not pass: `gate`, `of` what, its `value`, the `limit`, and all in one clause, `told`.

    A PSI crosses its gate if chance alone would hardly bring it about in a table of so few rows.
    """
    return list(_crossed(gates, report))


def lifted(found: Sequence[Mapping[str, Any]]) -> str:
    """The settings with which a table passes the gates that it has crossed."""
    gates = dict.fromkeys(one["gate"] for one in found)
    return " ".join(f"score.gates.{gate}={'0' if gate == 'min_rows' else 'null'}" for gate in gates)


def _crossed(gates: Gates, report: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    def found(gate: str, of: str, value: float, limit: float, told: str) -> dict[str, Any]:
        return {"gate": gate, "of": of, "value": value, "limit": limit, "told": told}

    rows, least = report["rows"], gates.min_rows
    if least is None and gates.limits:
        least = 1  # of nothing, no rate and no PSI is known: that is no pass
    if least is not None and rows < least:
        yield found(
            "min_rows", "table", rows, least, f"the table has {rows:,} rows" if rows else "the table has no rows"
        )
    for gate, limit, parts in (
        ("max_psi", gates.max_psi, score_reports(report)),
        ("max_field_psi", gates.max_field_psi, report["values"]),
    ):
        for name, told in parts.items():
            value = told["psi"]
            if limit is not None and value is not None and value > max(limit, told["psi_by_chance"]):
                against = f"the {told['reference']['fold']} fold" if gate == "max_psi" else "the train fold"
                yield found(gate, name, value, limit, f"the PSI of {name!r} against {against} is {value:.3f}")
    for name, told in report["values"].items():
        unseen = told.get("out_of_vocabulary")
        limit = gates.max_oov_rate
        if limit is not None and unseen is not None and (unseen["rate"] or 0) > limit:
            rate, before = unseen["rate"], unseen["rate_in_training"]
            clause = f"{rate:.1%} of the values of {name!r} are out-of-vocabulary ({before:.1%} in training)"
            yield found("max_oov_rate", name, rate, limit, clause)
