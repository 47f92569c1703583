"""The score job's report: _report.json for programs, _report.html for people."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nfm.config.settings import Gates
from nfm.reports import page
from nfm.scoring.health import pictures
from nfm.scoring.health.gates import lift_gates
from nfm.scoring.health.health import MOVED, has_moved, score_reports

SCORES_MARKER = "_report.json"  # every folder of scores has one
REPORT = "_report.html"  # a name that readers of the scores pass over
LITTLE = 0.1  # a PSI below this is usually read as stable
FULL = 50  # columns that are told of in full, the most moved ones; the others are in a compact table
PLOTS = 10  # classes with a plot
PICTURES = 6  # columns whose bins are drawn
FILES = 200  # skipped files that are listed
_TEXT = 60  # characters of a user's text


def refused_folder(target: Path) -> Path:
    """Where the report of a refused run lies: beside the output, under a name that readers of tables pass over."""
    target = target.resolve()
    return target.parent / f"_refused_{target.name.replace('=', '-')}"


def write_report(folder: Path, report: Mapping[str, Any]) -> None:
    """Write _report.json and _report.html."""
    (folder / SCORES_MARKER).write_text(json.dumps(report, indent=1))
    page.write(folder / REPORT, "scoring/health/report.html.jinja", _content(report), short=short)


@dataclass(frozen=True)
class Column:
    """A score column, a field or a number, and how far it has moved."""

    name: str
    told: Mapping[str, Any]  # as `health` returns it

    @property
    def psi(self) -> float | None:
        """The PSI, if it is known."""
        psi: float | None = self.told["psi"]
        return psi

    @property
    def width(self) -> float:
        """Of the PSI's bar, from 0 to 1."""
        return pictures.psi_width(self.psi or 0.0)

    @property
    def reading(self) -> str:
        """The PSI in words."""
        return reading(self.told)

    @property
    def level(self) -> str:
        """How serious that is, for its colour."""
        if self.psi is None or self.psi < LITTLE or self.by_chance:
            return "calm"
        return "moved" if self.psi > MOVED else "little"

    @property
    def by_chance(self) -> bool:
        """Whether chance alone explains the PSI."""
        return self.psi is not None and self.psi <= self.told["psi_by_chance"]


def reading(told: Mapping[str, Any]) -> str:
    """A PSI in words, as it is usually read."""
    psi = told["psi"]
    if psi is None:
        return "not known"
    words = "stable" if psi < LITTLE else "moved a little" if psi <= MOVED else "moved"
    return f"{words}, within chance" if psi <= told["psi_by_chance"] else words


def by_psi(told: Mapping[str, Mapping[str, Any]]) -> list[Column]:
    """The most moved columns first; those without a PSI in their own order, at the end."""
    columns = [Column(name, one) for name, one in told.items()]
    return sorted(columns, key=lambda one: -1.0 if one.psi is None else one.psi, reverse=True)


def short(value: object) -> str:
    """A text on one line, cut where it is long."""
    text = " ".join(str(value).split())
    return text if len(text) <= _TEXT else f"{text[: _TEXT - 1]}…"


def _content(report: Mapping[str, Any]) -> dict[str, Any]:
    scores, columns = by_psi(score_reports(report)), by_psi(report["values"])
    several = "scores" in report
    limits, crossed = report["gates"]["limits"], report["gates"]["crossed"]
    size = pictures.SMALL if several else pictures.PLOT
    plotted = scores[:PLOTS] if several else scores
    drawn = [column for column in columns if column.psi is not None][:PICTURES]
    new = by_unseen(column for column in columns if column.told.get("new_values"))
    return {
        "report": report,
        "crossed": crossed,
        "limits": {key: limits.get(key) for key in Gates.model_fields},
        "refusal": refusal(crossed),
        "lifted": lift_gates(crossed),
        "created": page.moment(report["created"]),
        "several": several,
        "fold": next((one.told["reference"]["fold"] for one in scores if "reference" in one.told), None),
        "profiled": any("reference" in one.told for one in scores) or any("bins" in one.told for one in columns),
        "plotted": [(column, pictures.histogram(column.told, size)) for column in plotted],
        "other_scores": scores[len(plotted) :],
        "columns": columns[:FULL],
        "other_columns": columns[FULL:],
        "count_of": {"columns": len(columns), "scores": len(scores)},
        "moved_scores": [column.name for column in scores if has_moved(column.told)],
        "moved_columns": [column.name for column in columns if has_moved(column.told)],
        "most_unseen": most_unseen(columns),
        "drawn": [(column, picture) for column in drawn if (picture := pictures.bins(column.told))],
        "new": new[:FULL],
        "other_new": new[FULL:],
        "skipped": report["skipped_files"],
        "MOVED": MOVED,
        "LITTLE": LITTLE,
        "FULL": FULL,
        "FILES": FILES,
        "BIN": pictures.BIN,
    }


def refusal(crossed: Sequence[Mapping[str, Any]]) -> str:
    """Why the scores are not published, in one clause; "" where they are."""
    if not crossed:
        return ""
    first = crossed[0]
    more = len(crossed) - 1
    rest = f", and {more} more {'limit is' if more == 1 else 'limits are'} crossed" if more else ""
    return f"{_cut(first['told'])}, and score.gates.{first['gate']} is {page.compact(first['limit'])}{rest}"


def _cut(clause: str) -> str:
    """Column names may be long, and what is told of them stands behind them."""
    return clause if len(clause) <= 4 * _TEXT else f"{clause[: 2 * _TEXT]} … {clause[-2 * _TEXT :]}"


def by_unseen(columns: Iterable[Column]) -> list[Column]:
    """Those with the highest out-of-vocabulary rate first."""
    return sorted(columns, key=lambda one: one.told["out_of_vocabulary"]["rate"] or 0.0, reverse=True)


def most_unseen(columns: Sequence[Column]) -> Column | None:
    """The field of which most values are out of its vocabulary; None where none has any."""
    unseen = [column for column in columns if column.told.get("out_of_vocabulary", {}).get("count")]
    return next(iter(by_unseen(unseen)), None)
