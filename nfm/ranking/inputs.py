"""Prepare what the tasks read, once in a run and the runs that resume it: candidates, segments and users.

.NAME.chunks-KEY/prepared/   items/  segments/  keys.parquet  users/part-*  facts.json
"""

import json
import logging
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

from pyspark.sql import SparkSession

from nfm.contract.artifact import Network
from nfm.contract.errors import DataError
from nfm.contract.publishing.replace import making
from nfm.ranking.items import list_candidates, write_items
from nfm.ranking.pairs import read_excluded, read_pairs
from nfm.ranking.prepare import Opened
from nfm.ranking.users import list_users, read_candidates, write_segments, write_users
from nfm.table.jobs.hosts import Placed

PREPARED = "prepared"
_FACTS = "facts.json"
_MULTIPLICATIONS = 2e12  # of a task: some minutes
_MOST_USERS = 50_000  # of a task

log = logging.getLogger(__name__)


def prepare_inputs(spark: SparkSession, opened: Opened, k: int, placed: Placed, folder: Path) -> dict[str, Any]:
    """Write the tables that the tasks read below `folder`, unless an earlier run has; return their sizes."""
    target = folder / PREPARED
    if not (target / _FACTS).exists():
        log.info("preparing candidates and users of %s", opened.names["source"])
        with making(target) as staging:
            facts = _prepare(spark, opened, placed, staging)
            (staging / _FACTS).write_text(json.dumps(facts))
    facts = json.loads((target / _FACTS).read_text())
    log.info("%s users, %s candidates, lists of %d items", f"{facts['users']:,}", f"{facts['candidates']:,}", k)
    return dict(facts)


def _prepare(spark: SparkSession, opened: Opened, placed: Placed, folder: Path) -> dict[str, Any]:
    scratch = folder / "_scratch"
    pairs = read_pairs(opened, scratch)
    candidates = read_candidates(opened, scratch)
    list_candidates(opened, pairs, candidates, scratch)
    count, new = write_items(spark, opened, placed, scratch / "items", folder / "items")
    if not count:
        settings = [name for name in ("recommend.candidates", "recommend.where") if _is_set(opened, name)]
        cause = f" ({' and '.join(settings)} leave none)" if settings else ""
        raise DataError(
            f"There is no candidate{cause}, so no list can be made. The output is unchanged. Correct these settings, "
            "or the tables that they name."
        )
    keys = spark.read.parquet(f"file://{folder / 'keys.parquet'}")
    if candidates is not None and opened.segment is not None:
        write_segments(candidates, keys, folder / "segments")
    users = list_users(opened, pairs).count()
    if not users:
        raise DataError("There is no user, so no list can be made. The output is unchanged.")
    cores = spark.sparkContext.defaultParallelism
    parts = count_parts(users, count, opened.artifact.network, cores)
    written = write_users(opened, (pairs, keys, read_excluded(opened)), parts, folder / "users")
    shutil.rmtree(scratch)
    return {"users": written, "candidates": count, "new_items": new, "parts": parts}


def _is_set(opened: Opened, name: str) -> bool:
    return opened.allowed is not None if name == "recommend.where" else name in opened.scans


def count_parts(users: int, items: int, network: Network, cores: int) -> int:
    """Return the number of tasks: each takes some minutes at most, and all cores have work."""
    per_task = min(_MOST_USERS, max(1, int(_MULTIPLICATIONS / (items * multiplications(network)))))
    return max(min(cores, users), -(-users // per_task))


def multiplications(network: Network) -> int:
    """Return the number of multiplications for the score of a pair, without dense columns."""
    widths = [network.embedding_dim, *network.hidden_units, 1]
    return sum(a * b for a, b in pairwise(widths))
