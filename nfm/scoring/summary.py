"""Summarize a finished score job for the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from nfm.config.settings import Config
from nfm.scoring.health.health import has_moved, score_reports
from nfm.scoring.health.page import REPORT, reading

_SHOWN = 10  # score columns; the report has all


def summary(config: Config, report: Mapping[str, Any]) -> str:
    """Return what the job did, how tonight's values compare with the train fold, and where the scores are."""
    rows, ranges, reasons = report["rows"], score_reports(report), config.score.explain
    name_width = max(9, *(len(name) for name in ranges))
    width = max(12, *(len(name) for name in report["values"]))
    lines = [
        f"Scores of {config.name}: {rows:,} rows of {report['source']}",
        *(f"  {name:<{name_width}} {_range(ranges.get(name))}".rstrip() for name in few(list(ranges))),
        *([f"  reasons   {reasons} a row"] if reasons else []),
        *(f"  skipped   {path}, which cannot be read: its rows have no score" for path in report["skipped_files"]),
        f"  {'column':<{width}}     missing (train)      unseen (train)       PSI",
    ]
    for name, counts in report["values"].items():
        cells = [_cell(counts.get(what)) for what in ("missing", "out_of_vocabulary")]
        psi = "–" if counts["psi"] is None else f"{counts['psi']:.3f}"
        lines.append(f"  {name:<{width}}{cells[0]:>20}{cells[1]:>20}{psi:>10}")
    moved = [name for name, column in (*ranges.items(), *report["values"].items()) if has_moved(column)]
    lines += [
        *(f"  moved     {', '.join(few(moved))}: far from what the model knows, see the report" for _ in moved[:1]),
        f"  model     {report['model']} ({report['model_fingerprint'][:12]}…; how good it is: report.html there)",
        f"  scores    {config.scores_folder}",
        f"  report    {config.scores_folder}/{REPORT}",
    ]
    return "\n".join(lines)


def few(names: Sequence[str]) -> list[str]:
    """Return the first of many column names, and how many more there are."""
    more = [f"… and {len(names) - _SHOWN} more"] * (len(names) > _SHOWN)
    return [*names[:_SHOWN], *more]


def _range(score: Mapping[str, Any] | None) -> str:
    if score is None:
        return ""
    if score["mean"] is None:
        return "none"
    values = f"{score['mean']:.4f} on average, {score['min']:.4f} to {score['max']:.4f}"
    if score["psi"] is not None:
        values += f"; PSI {score['psi']:.3f} against the {score['reference']['fold']} fold: {reading(score)}"
    return values


def _cell(count: Mapping[str, Any] | None) -> str:
    if count is None or count["rate"] is None:
        return "–"
    return f"{count['rate']:.1%} ({count['rate_in_training']:.1%})"
