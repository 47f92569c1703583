"""Summarize a recommend job for the terminal: before it (--plan) and after it."""

from collections.abc import Mapping
from typing import Any

from nfm.config.settings import Config
from nfm.ranking.health import describe_users
from nfm.ranking.inputs import multiplications
from nfm.ranking.page import REPORT
from nfm.ranking.prepare import Opened


def summary(config: Config, report: Mapping[str, Any]) -> str:
    """Return a summary: how many lists there are, what they contain, where they are."""
    overlap, popular = report["overlap"], report["popular_share"]
    length = "" if report["mean_length"] is None else f", {report['mean_length']:.1f} items on average"
    lines = [
        f"Lists of {config.name}: {report['lists']:,} of {report['users']:,} users{length}",
        f"  coverage    {report['coverage']:.1%} of {report['candidates']:,} candidates are in a list",
    ]
    if popular is not None:
        items = f"{report['popular_items']:,} most popular"
        lines.append(f"  popularity  {popular:.1%} of the recommended items are among the {items}")
    if overlap is not None:
        users = f"{overlap['users']:,} users"
        lines.append(f"  overlap     {overlap['share']:.1%} of a user's items were in the last list ({users})")
    lines += [f"  note        {line}" for line in describe_users(report)]
    lines += [f"  skipped     {path}, which cannot be read" for path in report["skipped_files"]]
    if report["bad_rows"]:
        lines.append(f"  left out    {report['bad_rows']:,} rows that do not fit the columns")
    lines += [
        f"  model       {report['model']} ({report['model_fingerprint'][:12]}…)",
        f"  lists       {config.recommendations_folder}",
        f"  report      {config.recommendations_folder}/{REPORT}",
    ]
    return "\n".join(lines)


def plan(config: Config, opened: Opened) -> str:
    """Return what the job will do; the model was verified and the columns were checked."""
    settings, artifact = config.recommend, opened.artifact
    lines = [
        f"Plan of {config.name}: the model was verified and the tables' columns were checked; nothing was written.",
        *(f"  {name:<20} {opened.names[name]} (scan: {scan.method})" for name, scan in opened.scans.items()),
        f"  {'where':<20} {settings.where or 'none'}",
        f"  {'max_per':<20} {', '.join(f'{k} {n}' for k, n in settings.max_per.items()) or 'none'}",
        f"  {'k':<20} {settings.k}",
        f"  {'model':<20} {artifact.path} ({artifact.fingerprint[:12]}…)",
        f"  {'cost of a pair':<20} {multiplications(artifact.network):,} multiplications",
        f"  {'output':<20} {config.recommendations_folder}",
        f"  {'gates':<20} {', '.join(f'{key} {limit}' for key, limit in settings.gates.limits.items()) or 'none'}",
    ]
    if opened.missing:
        lines.append(f"  {'missing columns':<20} {', '.join(opened.missing)}: no table of users has them")
    return "\n".join(lines)
