"""What the score job tells people."""

from collections.abc import Mapping, Sequence
from typing import Any

from nfm.config import Config, Source
from nfm.contract.artifact import Artifact
from nfm.scoring.explain import reason_columns
from nfm.scoring.health import has_moved, score_reports
from nfm.scoring.output import QUANTILE, RANK
from nfm.scoring.report import REPORT
from nfm.scoring.scorer import score_columns
from nfm.scoring.table import carried_columns

_SHOWN = 10  # score columns; the report has all


def plan(config: Config, artifact: Artifact, source: Source, scan: str) -> str:
    """What the job would do."""
    size = sum(array.nbytes for array in artifact.weights.values())
    spec, settings = artifact.encoding.spec, config.score
    carried = [name for name in carried_columns(spec, config) if name not in settings.partition_by]
    behind = [name for name, _ in reason_columns(settings.explain)]
    behind += [RANK] * settings.rank + [QUANTILE] * settings.quantile
    return "\n".join(
        [
            f"Plan of {config.name}: the model was verified and the table's columns were checked, nothing was scored.",
            f"  source    {source}",
            f"  scan      {scan}",
            f"  model     {artifact.path} ({artifact.fingerprint[:12]}…)",
            f"  weights   {size / 2**20:.1f} MiB, once a host",
            f"  reads     {', '.join(spec.outputs if settings.encoded else spec.columns)}",
            f"  writes    {', '.join([*carried, *_few(score_columns(artifact.network)), *behind])}",
            *(f"  folders   by {', '.join(settings.partition_by)}" for _ in settings.partition_by[:1]),
            f"  output    {config.scores_folder} ({settings.format})",
        ]
    )


def summary(config: Config, report: Mapping[str, Any]) -> str:
    """What the job did, how tonight's values compare with the train fold's, and where the scores lie."""
    rows, ranges = report["rows"], score_reports(report)
    of_scores = max(9, *(len(name) for name in ranges))
    width = max(12, *(len(name) for name in report["values"]))
    lines = [
        f"Scores of {config.name}: {rows:,} rows of {report['source']}",
        *(f"  {name:<{of_scores}} {_range(ranges.get(name))}".rstrip() for name in _few(list(ranges))),
        *(f"  skipped   {path}, which cannot be read: its rows have no score" for path in report["skipped_files"]),
        f"  {'column':<{width}}     missing (train)      unseen (train)       PSI",
    ]
    for name, counts in report["values"].items():
        cells = [_cell(counts.get(what)) for what in ("missing", "out_of_vocabulary")]
        psi = "–" if counts["psi"] is None else f"{counts['psi']:.3f}"
        lines.append(f"  {name:<{width}}{cells[0]:>20}{cells[1]:>20}{psi:>10}")
    moved = [name for name, told in (*ranges.items(), *report["values"].items()) if has_moved(told)]
    lines += [
        *(f"  moved     {', '.join(_few(moved))}: far from what the model knows, see the report" for _ in moved[:1]),
        f"  model     {report['model']} ({report['model_fingerprint'][:12]}…)",
        f"  scores    {config.scores_folder}",
        f"  report    {config.scores_folder}/{REPORT}",
    ]
    return "\n".join(lines)


def _few(names: Sequence[str]) -> list[str]:
    more = [f"… and {len(names) - _SHOWN} more"] * (len(names) > _SHOWN)
    return [*names[:_SHOWN], *more]


def _range(score: Mapping[str, Any] | None) -> str:
    if score is None:
        return ""
    if score["mean"] is None:
        return "none"
    told = f"{score['mean']:.4f} on average, {score['min']:.4f} to {score['max']:.4f}"
    known = "" if score["psi"] is None else f"; PSI {score['psi']:.3f} against the {score['reference']['fold']} fold"
    return told + known


def _cell(count: Mapping[str, Any] | None) -> str:
    if count is None or count["rate"] is None:
        return "–"
    return f"{count['rate']:.1%} ({count['rate_in_training']:.1%})"
