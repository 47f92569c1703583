"""Summarize a finished score job for the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from nfm.config.settings import Config
from nfm.scoring.formats import report_folder
from nfm.scoring.health.health import describe_keys, describe_settings, has_drifted, score_reports
from nfm.scoring.health.page import REPORT, describe_psi

_SHOWN = 10  # column names that are shown; the report has all


def summary(config: Config, report: Mapping[str, Any]) -> str:
    """Return a summary: what the job did, how tonight's values compare with the train fold, where the scores are."""
    rows, ranges, reasons = report["rows"], score_reports(report), config.score.explain
    name_width = max(9, *(len(name) for name in ranges))
    width = max(12, *(len(name) for name in report["values"]))
    lines = [
        f"Scores of {config.name}: {rows:,} rows of {report['source']}",
        *(f"  {name:<{name_width}} {_range(ranges.get(name), rows)}".rstrip() for name in shorten(list(ranges))),
        *([f"  reasons   {reasons} for each row"] if reasons else []),
        *(f"  skipped   {path}, which cannot be read: its rows have no score" for path in report["skipped_files"]),
        *([f"  left out  {report['bad_rows']:,} rows that do not fit the columns"] if report["bad_rows"] else []),
        *(f"  settings  {line}" for line in describe_settings(report)),
        *(f"  keys      {line}" for line in describe_keys(report)),
        f"  {'column':<{width}}{'missing (train)':>20}{'out-of-vocabulary (train)':>28}{'PSI':>10}",
    ]
    for name, counts in report["values"].items():
        missing, unseen = (_cell(counts.get(kind)) for kind in ("missing", "out_of_vocabulary"))
        psi = "–" if counts["psi"] is None else f"{counts['psi']:.3f}"
        lines.append(f"  {name:<{width}}{missing:>20}{unseen:>28}{psi:>10}")
    drifted = [name for name, column in (*ranges.items(), *report["values"].items()) if has_drifted(column)]
    lines += [
        *(
            [f"  drift     {', '.join(shorten(drifted))}: far from the training data, see the report"]
            if drifted
            else []
        ),
        f"  model     {report['model']} ({report['model_fingerprint'][:12]}…; its metrics are in report.html there)",
        f"  scores    {config.scores_folder}",
        f"  report    {report_folder(config.score.format, config.scores_folder)}/{REPORT}",
    ]
    return "\n".join(lines)


def shorten(names: Sequence[str]) -> list[str]:
    """Return the first column names, and how many more there are."""
    more = [f"… and {len(names) - _SHOWN} more"] * (len(names) > _SHOWN)
    return [*names[:_SHOWN], *more]


def _range(score: Mapping[str, Any] | None, rows: int) -> str:
    if score is None:
        return ""
    if score["mean"] is None:
        return "none"
    values = f"{score['mean']:.4f} on average, {score['min']:.4f} to {score['max']:.4f}"
    if score["psi"] is not None:
        drift = describe_psi(score)
        drift += f" for {rows:,} rows" if drift == "within chance" else ""
        values += f"; PSI {score['psi']:.3f} against the {score['reference']['fold']} fold: {drift}"
    return values


def _cell(count: Mapping[str, Any] | None) -> str:
    if count is None or count["rate"] is None:
        return "–"
    return f"{count['rate']:.1%} ({count['rate_in_training']:.1%})"
