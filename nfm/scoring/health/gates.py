"""Gates: limits that a table must keep for its scores to be published.

A new gate needs a key in `config.settings.Gates`, and here a function with an entry in `GATES`; in `_WITH_PROFILE`,
too, if it compares with the training's distribution. A figure that the report does not have yet is counted in `tally`
and joins the report in `health`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from nfm.config.settings import Gates
from nfm.contract.artifact import Artifact
from nfm.contract.errors import ConfigError
from nfm.scoring.health.health import has_drifted, score_reports

Report = Mapping[str, Any]  # as `health` makes it, with `rows`
Crossings = Iterator[tuple[str, float, str]]  # of one gate: the column or table, its value, both in one clause


def _min_rows(report: Report, limit: float) -> Crossings:
    rows = report["rows"]
    if rows < limit:
        yield "table", rows, f"the table has {rows:,} rows" if rows else "the table has no rows"


def _max_psi(report: Report, limit: float) -> Crossings:
    for name, found in score_reports(report).items():
        if has_drifted(found, limit):
            fold = found["reference"]["fold"]
            yield name, found["psi"], f"the PSI of {name!r} against the {fold} fold is {found['psi']:.3f}"


def _max_field_psi(report: Report, limit: float) -> Crossings:
    for name, found in report["values"].items():
        if has_drifted(found, limit):
            yield name, found["psi"], f"the PSI of {name!r} against the train fold is {found['psi']:.3f}"


def _max_oov_rate(report: Report, limit: float) -> Crossings:
    for name, found in report["values"].items():
        unseen = found.get("out_of_vocabulary") or {"rate": None}
        if (unseen["rate"] or 0) > limit:
            rate, before = unseen["rate"], unseen["rate_in_training"]
            yield name, rate, f"{rate:.1%} of the values of {name!r} are out-of-vocabulary ({before:.1%} in training)"


GATES: Mapping[str, Callable[[Report, float], Crossings]] = {
    "min_rows": _min_rows,
    "max_psi": _max_psi,
    "max_field_psi": _max_field_psi,
    "max_oov_rate": _max_oov_rate,
}
_WITH_PROFILE = ("max_psi", "max_field_psi")
_LIFTED = {"min_rows": "0"}  # the value that lifts a gate; null for all others


def check_gates(gates: Gates, artifact: Artifact) -> None:
    """Raise a ConfigError if the model lacks the profile that a gate compares with."""
    for key, limit in gates.limits.items():
        if key in _WITH_PROFILE and artifact.profile is None:
            raise ConfigError(
                f"score.gates.{key}: {limit} given, but the model in {artifact.path} was saved without a profile of "
                "what it was trained on. Train it again with this version, or leave the gate out"
            )


def crossed_gates(gates: Gates, report: Report) -> list[dict[str, Any]]:
    """Return the crossed gates: `gate`, `of` (column or table), `value`, `limit`, and `told`: the reason, a clause."""
    limits = gates.limits
    if limits:
        limits.setdefault("min_rows", 1)  # without rows, rates and PSI are not known: such a table passes no gate
    return [
        {"gate": key, "of": of, "value": value, "limit": limits[key], "told": clause}
        for key in sorted(limits, key=list(GATES).index)
        for of, value, clause in GATES[key](report, limits[key])
    ]


def lift_gates(crossed: Sequence[Mapping[str, Any]]) -> str:
    """Return the settings with which a table passes the gates that it has crossed."""
    keys = dict.fromkeys(one["gate"] for one in crossed)
    return " ".join(f"score.gates.{key}={_LIFTED.get(key, 'null')}" for key in keys)
