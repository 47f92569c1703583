"""Gates: limits that a table must not exceed if its scores are to be published.

A new gate needs a key in `config.score.Gates`, and here a function and its entry in `GATES`; also an entry in
`_WITH_PROFILE` if it compares with the training's distribution. Figures that the report lacks are counted in `tally`
and added to the report in `health`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from nfm.config.score import Gates
from nfm.contract.artifact import Artifact
from nfm.contract.errors import ConfigError
from nfm.scoring.health.health import describe_duplicates, has_drifted, score_reports

Report = Mapping[str, Any]  # from `compare_with_training`, with `rows`
Crossings = Iterator[tuple[str, float, str]]  # the column or "table", its value, and the reason


def _min_rows(report: Report, limit: float) -> Crossings:
    rows = report["rows"]
    if rows < limit:
        yield "table", rows, f"the table has {rows:,} rows" if rows else "the table has no rows"


def _max_psi(report: Report, limit: float) -> Crossings:
    for name, facts in score_reports(report).items():
        if has_drifted(facts, limit):
            fold = facts["reference"]["fold"]
            yield name, facts["psi"], f"the PSI of {name!r} against the {fold} fold is {facts['psi']:.3f}"


def _max_field_psi(report: Report, limit: float) -> Crossings:
    for name, facts in report["values"].items():
        if has_drifted(facts, limit):
            yield name, facts["psi"], f"the PSI of {name!r} against the train fold is {facts['psi']:.3f}"


def _max_oov_rate(report: Report, limit: float) -> Crossings:
    for name, facts in report["values"].items():
        unseen = facts.get("out_of_vocabulary") or {"rate": None}
        if (unseen["rate"] or 0) > limit:
            rate, in_training = unseen["rate"], unseen["rate_in_training"]
            yield (
                name,
                rate,
                f"{rate:.1%} of the values of {name!r} are out-of-vocabulary ({in_training:.1%} in training)",
            )


def _max_duplicate_keys(report: Report, limit: float) -> Crossings:
    duplicates = report["duplicate_keys"]
    if duplicates["keys"] > limit:
        yield "table", duplicates["keys"], describe_duplicates(duplicates)


GATES: Mapping[str, Callable[[Report, float], Crossings]] = {
    "min_rows": _min_rows,
    "max_psi": _max_psi,
    "max_field_psi": _max_field_psi,
    "max_oov_rate": _max_oov_rate,
    "max_duplicate_keys": _max_duplicate_keys,
}
_WITH_PROFILE = ("max_psi", "max_field_psi")
_LIFTED = {"min_rows": "0"}  # values that disable a gate; null disables the others


def check_gates(gates: Gates, artifact: Artifact) -> None:
    """Raise a ConfigError if the model lacks the profile that a gate compares with."""
    for key, limit in gates.limits.items():
        if key in _WITH_PROFILE and artifact.profile is None:
            raise ConfigError(
                f"score.gates.{key}: {limit} given, but the model in {artifact.path} was saved without a profile of "
                "its training data. Train it again with this version, or remove the gate"
            )


def crossed_gates(gates: Gates, report: Report) -> list[dict[str, Any]]:
    """Return the crossed gates; each has the keys of an entry of `gates.crossed` in _report.json."""
    limits = gates.limits
    if limits:
        limits.setdefault("min_rows", 1)  # without rows, rates and PSI are not known, so no gate is passed
    return [
        {"gate": key, "of": of, "value": value, "limit": limits[key], "told": clause}
        for key in sorted(limits, key=list(GATES).index)
        for of, value, clause in GATES[key](report, limits[key])
    ]


def lift_gates(crossed: Sequence[Mapping[str, Any]]) -> str:
    """Return the settings that disable the crossed gates."""
    keys = dict.fromkeys(crossing["gate"] for crossing in crossed)
    return " ".join(f"score.gates.{key}={_LIFTED.get(key, 'null')}" for key in keys)
