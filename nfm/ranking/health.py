"""Report of the recommend job: how many users and candidates the lists reach, and which gates they cross."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from nfm.config.recommend import RecommendGates
from nfm.ranking.page import MARKER
from nfm.table.spark import column

POPULAR = 0.01  # share of the candidates that are called the most popular; at least one item
_GROUPS = 10
_TOP = 20  # items that the report lists
_LIFTED = {"min_users": "0"}  # values that disable a gate; null disables the others

Crossings = Iterator[tuple[float, str]]  # the value, and the reason


def count_lists(paths: Sequence[str], items: int) -> NDArray[np.int64]:
    """Return the (I,) numbers of lists with each item, from the files that tasks wrote."""
    lists_I = np.zeros(items, np.int64)
    for path in paths:
        found, counts = np.load(path)
        lists_I[found] += counts
    return lists_I


def describe_lists(lists_I: NDArray[np.int64], counts_I: NDArray[np.int64], items: pa.Array) -> dict[str, Any]:
    """Return the report's facts about candidates.

    Args:
        lists_I: number of lists with each candidate.
        counts_I: number of interactions of each candidate.
        items: (I,) candidates.
    """
    order_I, places = np.argsort(-counts_I, kind="stable"), int(lists_I.sum())
    popular = max(1, round(POPULAR * len(items)))
    top = np.argsort(-lists_I, kind="stable")[:_TOP]
    groups = np.array_split(order_I, min(_GROUPS, len(items)))
    total = int(counts_I.sum())
    return {
        "candidates": len(items),
        "covered": int(np.count_nonzero(lists_I)),
        "coverage": float(np.count_nonzero(lists_I) / len(items)),
        "popular_items": popular,
        "popular_share": float(lists_I[order_I[:popular]].sum() / places) if places else None,
        "groups": [
            {
                "lists": float(lists_I[group].sum() / places) if places else 0.0,
                "interactions": float(counts_I[group].sum() / total) if total else 0.0,
            }
            for group in groups
        ],
        "top": [
            {"item": str(items[int(i)].as_py()), "lists": int(lists_I[i]), "interactions": int(counts_I[i])}
            for i in top
            if lists_I[i]
        ],
    }


def compare_with_last(
    spark: SparkSession, paths: Sequence[str], output: Path, keys: tuple[str, str]
) -> dict[str, Any] | None:
    """Compare the lists with those of the last publication.

    Args:
        spark: the session.
        paths: new files.
        output: folder of the last publication.
        keys: columns of the user and the item.

    Returns:
        `share`: mean share of a user's items that were in the user's list before, over `users` who have both lists.
        None if there is no last publication, its columns have other types, or no user has both lists.
    """
    before = sorted(str(path) for path in output.glob("*.parquet"))
    if not paths or not before or not (output / MARKER).exists():
        return None
    schemas = [pq.read_schema(files[0]) for files in (paths, before)]
    if any(name not in schema.names for schema in schemas for name in keys):
        return None
    if any(schemas[0].field(name).type != schemas[1].field(name).type for name in keys):
        return None
    new, old = (_read(spark, files).select(*map(column, keys)) for files in (paths, before))
    old = old.withColumn("_nfm_hit", F.lit(1.0))
    user, (user_name, item_name) = column(keys[0]), keys
    shares = new.join(old, [user_name, item_name], "left").groupBy(user)
    shares = shares.agg(F.avg(F.coalesce("_nfm_hit", F.lit(0.0))).alias("share"))
    shares = shares.join(old.select(user).distinct(), user_name, "left_semi")
    found = shares.agg(F.count(F.lit(1)).alias("users"), F.avg("share").alias("share")).collect()[0]
    return {"share": float(found["share"]), "users": int(found["users"])} if found["users"] else None


def _read(spark: SparkSession, paths: Sequence[str]) -> Any:
    return spark.read.option("__globPaths__", "false").parquet(*(f"file://{path}" for path in paths))


def _min_users(report: Mapping[str, Any], limit: float) -> Crossings:
    if report["lists"] < limit:
        yield report["lists"], f"{report['lists']:,} users have a list"


def _min_coverage(report: Mapping[str, Any], limit: float) -> Crossings:
    if report["coverage"] < limit:
        yield report["coverage"], f"{report['coverage']:.1%} of the candidates are in a list"


def _max_popular_share(report: Mapping[str, Any], limit: float) -> Crossings:
    share = report["popular_share"]
    if share is not None and share > limit:
        yield share, f"{share:.1%} of the recommended items are among the {report['popular_items']:,} most popular"


def _min_overlap(report: Mapping[str, Any], limit: float) -> Crossings:
    overlap = report["overlap"]
    if overlap is not None and overlap["share"] < limit:
        yield overlap["share"], f"{overlap['share']:.1%} of a user's items were in the last list, on average"


_GATES = {
    "min_users": _min_users,
    "min_coverage": _min_coverage,
    "max_popular_share": _max_popular_share,
    "min_overlap": _min_overlap,
}


def find_crossed(gates: RecommendGates, report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the crossed gates; each has the keys of an entry of `gates.crossed` in _report.json.

    Without a last publication, min_overlap is not checked.
    """
    limits = gates.limits
    if limits:
        limits.setdefault("min_users", 1)  # without lists, shares are not known, so no gate is passed
    return [
        {"gate": key, "value": value, "limit": limits[key], "reason": clause}
        for key in _GATES
        if key in limits
        for value, clause in _GATES[key](report, limits[key])
    ]


def lift_gates(crossed: Sequence[Mapping[str, Any]]) -> str:
    """Return the settings that disable the crossed gates."""
    keys = dict.fromkeys(crossing["gate"] for crossing in crossed)
    return " ".join(f"recommend.gates.{key}={_LIFTED.get(key, 'null')}" for key in keys)


def describe_users(report: Mapping[str, Any]) -> list[str]:
    """Return the lines about users whose lists are special."""
    lines = [
        (report["new_users"], "did not occur in training"),
        (report["popular_users"], "are unknown in every respect: they get the most popular items, without a score"),
        (report["short"], f"have fewer than {report['k']} items: no more are left for them"),
        (report["empty"], "have no list: they have seen every candidate"),
        (report["without_candidates"], "have no list: no candidate belongs to their segment"),
    ]
    found = [f"{count:,} users {text}" for count, text in lines if count]
    if report["new_items"]:
        found.append(f"{report['new_items']:,} candidates did not occur in training")
    if report["missing_columns"]:
        names = ", ".join(report["missing_columns"])
        found.append(f"columns that no table of users has, and that are missing for every user: {names}")
    return found
