"""Lists of a ranking model in memory, in one process, without Spark."""

import sys
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nfm.contract.arrays import to_arrow, to_numpy
from nfm.contract.artifact import Artifact
from nfm.contract.columns import check_columns, read_field_values
from nfm.contract.dataset import HISTORY, HISTORY_WEIGHTS
from nfm.contract.errors import ConfigError, DataError
from nfm.contract.messages import quoted
from nfm.contract.schema import Kind
from nfm.contract.values import check_kind, decode_dictionary
from nfm.forward.catalogue import Catalogue
from nfm.forward.lists import Seen
from nfm.forward.ranker import Ranker, Rules, list_rows
from nfm.forward.sides import divide, select_side, sum_side
from nfm.scoring.tables import is_frame, read_table

_USERS = 1 << 12  # users whose lists are made at a time


class _Opened(NamedTuple):
    ranker: Ranker
    items: pa.Array  # (I,)
    item: str  # column of the item


def recommend(artifact: Artifact, users: Any, k: int, exclude: Any) -> Any:
    """Return the table that `Scorer.recommend` documents."""
    _check_count(k)
    opened = _open(artifact)
    rows = _read_users(users, opened)
    seen = _find_excluded(rows, exclude, opened)
    parts = []
    for start in range(0, rows.num_rows, _USERS):
        batch = rows.slice(start, _USERS)
        summed, splits = opened.ranker.sum_users(batch), seen.splits_U1[start : start + batch.num_rows + 1]
        own = Seen(splits - splits[0], seen.items[splits[0] : splits[-1]])
        places_N, ranks_N, items_N, scores_N = list_rows(opened.ranker.make_lists(summed, own, Rules(k)))
        scores = to_arrow(scores_N, summed.unknown_U[places_N])
        user = decode_dictionary(batch.column(opened.ranker.user)).take(to_arrow(places_N))
        columns = [user, to_arrow(ranks_N), opened.items.take(to_arrow(items_N)), scores]
        parts.append(pa.table(columns, [opened.ranker.user, "rank", opened.item, "score"]))
    if not parts:
        raise DataError("recommend got a table without users")
    result = pa.concat_tables(parts)
    if is_frame(users, "pandas"):
        return result.to_pandas()
    return sys.modules["polars"].from_arrow(result) if is_frame(users, "polars") else result


def similar_items(artifact: Artifact, items: Any, k: int) -> pa.Table:
    """Return the table that `Scorer.similar_items` documents."""
    _check_count(k)
    opened = _open(artifact)
    given = pa.array(list(items))
    places = _find_items(given, opened)
    if places.null_count:
        example = given[int(np.argmax(to_numpy(places.is_null())))].as_py()
        raise DataError(f"the catalogue of the model in {artifact.path} has no item {quoted(example)}")
    sum_IK = opened.ranker.scorer.items.sum_BK.astype(np.float64)
    lengths_I = np.sqrt((sum_IK**2).sum(axis=1))
    unit_IK = sum_IK / np.where(lengths_I > 0, lengths_I, 1)[:, np.newaxis]
    found: list[tuple[int, NDArray[Any], NDArray[Any]]] = []
    for place in to_numpy(places):
        cosine_I = unit_IK @ unit_IK[place]
        best = np.argsort(-cosine_I, kind="stable")
        best = best[best != place][:k]
        found.append((int(place), best, cosine_I[best]))
    columns = {
        "item": opened.items.take(to_arrow(np.repeat([p for p, _, _ in found], [len(b) for _, b, _ in found]))),
        "rank": to_arrow(np.concatenate([np.arange(1, len(b) + 1, dtype=np.int32) for _, b, _ in found])),
        "similar_item": opened.items.take(to_arrow(np.concatenate([b for _, b, _ in found]))),
        "similarity": to_arrow(np.concatenate([c for _, _, c in found]).astype(np.float32)),
    }
    return pa.table(columns)


def _check_count(k: int) -> None:
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise ConfigError(f"k is {k!r}, but a list has a positive number of items")


def _open(artifact: Artifact) -> _Opened:
    if artifact.network.task != "ranking":
        raise DataError(f"the model in {artifact.path} has the task {artifact.network.task}: only ranking makes lists")
    return _open_once(artifact.path, artifact.fingerprint)


@lru_cache(maxsize=2)
def _open_once(folder: Path, _fingerprint: str) -> _Opened:
    artifact = Artifact.load(folder, verify=False)
    spec, ranking = artifact.encoding.spec, artifact.metadata["configuration"]["ranking"]
    side = divide(spec)[1]
    catalogue = Catalogue.load(folder, side)
    sums = sum_side(spec, artifact.network, artifact.weights, side, catalogue.inputs)
    return _Opened(Ranker.of(artifact, ranking["user"], sums, catalogue.counts), catalogue.items, ranking["item"])


def _read_users(users: Any, opened: _Opened) -> pa.RecordBatch:
    """Return the raw columns of the user's side, with an empty history if the table has none."""
    side = replace(opened.ranker.encoding.spec, key=())
    names = {str(name) for name in (users.column_names if hasattr(users, "column_names") else users.columns)}
    has_history = any(field.name == HISTORY for field in side.fields)
    given = side
    if has_history and HISTORY not in names:
        inputs = {field.name for field in side.fields} | {number.name for number in side.numbers}
        given = replace(select_side(side, inputs - {HISTORY}), key=())
    rows = read_table(users, given)
    if given is not side:
        splits = to_arrow(np.zeros(rows.num_rows + 1, np.int32))
        rows = rows.append_column(HISTORY, pa.ListArray.from_arrays(splits, opened.items[:0]))
        rows = rows.append_column(HISTORY_WEIGHTS, pa.ListArray.from_arrays(splits, pa.array([], pa.float32())))
    replace(opened.ranker.encoding, spec=side).check(rows.schema, "the table of users")
    rows = rows.combine_chunks()
    return rows.to_batches()[0] if rows.num_rows else pa.RecordBatch.from_pylist([], rows.schema)


def _texts(values: pa.Array, kind: Kind) -> pa.Array:
    batch = pa.RecordBatch.from_arrays([values], ["key"])
    read = read_field_values(("key",), (kind,), None, batch)
    return pa.concat_arrays([read.texts, pa.nulls(1, pa.large_string())]).take(to_arrow(read.indices))


def _find_items(items: pa.Array, opened: _Opened) -> pa.Array:
    """Return the indices of items; null for one that is not in the catalogue."""
    kind = check_kind(opened.item, opened.items.type, "the catalogue")
    return pc.index_in(_texts(items, kind), _texts(opened.items, kind))


def _find_excluded(rows: pa.RecordBatch, exclude: Any, opened: _Opened) -> Seen:
    if exclude is None:
        return Seen(np.zeros(rows.num_rows + 1, np.int64), np.empty(0, np.int32))
    table = pa.Table.from_pandas(exclude, preserve_index=False) if is_frame(exclude, "pandas") else pa.table(exclude)
    user, item = opened.ranker.user, opened.item
    check_columns((user, item), table.schema, "the table exclude", "It lists pairs of users and items.")
    kind = check_kind(user, rows.schema.field(user).type, "the table of users")
    users = _texts(table[user].combine_chunks(), kind)
    items = _find_items(table[item].combine_chunks(), opened)
    pairs = pa.table({"user": users, "item": items}).drop_null()
    by_user: dict[str, list[int]] = {}
    for text, place in zip(pairs["user"].to_pylist(), pairs["item"].to_pylist(), strict=True):
        by_user.setdefault(text, []).append(place)
    own = [sorted(set(by_user.get(text, []))) for text in _texts(rows.column(user), kind).to_pylist()]
    splits = np.concatenate([[0], np.cumsum([len(one) for one in own])]).astype(np.int64)
    return Seen(splits, np.array([place for one in own for place in one], np.int32))
