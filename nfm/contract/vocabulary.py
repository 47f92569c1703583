"""The vocabulary: value ↔ id of every field, as a Parquet table people can query and an index that workers map.

On disk, under `encoding/`: `vocabulary.parquet` (field, value, id, count) and `index/*.npy`, four arrays over all
fields in the specification's order. Within a field the index is sorted by the values' hashes, so that a lookup is a
binary search over memory-mapped pages that all workers of a host share.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from nfm.contract.errors import DataError
from nfm.contract.hashing import hash64

SCHEMA = pa.schema([("field", pa.string()), ("value", pa.large_string()), ("id", pa.int32()), ("count", pa.int64())])
_ARRAYS = ("hashes", "ids", "offsets", "text")


def rank(counts: pa.Table, min_count: int = 1, max_size: int | None = None) -> pa.Table:
    """The values that enter a field's vocabulary, in the order of their ids: (count descending, value ascending).

    Args:
        counts: columns `value` (texts without nulls, each once) and `count`.
        min_count: values seen less often stay out.
        max_size: at most so many values; None for all.

    Returns:
        `value` and `count` of the values that remain. The order is total: any order of the input gives the same.
    """
    kept = counts.filter(pc.field("count") >= min_count).select(["value", "count"])
    ranked = kept.sort_by([("count", "descending"), ("value", "ascending")])
    return ranked if max_size is None else ranked.slice(0, max_size)


@dataclass(frozen=True)
class FieldIndex:
    """One field's values, sorted by hash."""

    hashes: NDArray[np.uint64]  # (V,)
    ids: NDArray[np.int32]  # (V,)
    texts: pa.Array  # (V,) large_string

    def lookup(self, texts: pa.Array, seed: int) -> NDArray[np.int32]:
        """(N,) ids of N texts without nulls; -1 where a text is not in the vocabulary."""
        if not len(self.hashes) or not len(texts):
            return np.full(len(texts), -1, np.int32)
        hashes = hash64(texts, seed)
        place = np.minimum(np.searchsorted(self.hashes, hashes), len(self.hashes) - 1)
        hit = np.flatnonzero(self.hashes[place] == hashes)
        # Two texts can share a hash: only the text itself decides.
        same = pc.equal(self.texts.take(pa.array(place[hit])), texts.take(pa.array(hit)))
        hit = hit[same.to_numpy(zero_copy_only=False)]
        ids = np.full(len(texts), -1, np.int32)
        ids[hit] = self.ids[place[hit]]
        return ids

    def in_order_of_ids(self) -> pa.Array:
        """(V,) the values, the most frequent first."""
        return self.texts.take(pa.array(np.argsort(self.ids)))


@dataclass(frozen=True)
class Vocabulary:
    """Every field's index, and the seed its hashes were made with."""

    fields: Mapping[str, FieldIndex]
    seed: int

    @classmethod
    def build(cls, ranked: Mapping[str, pa.Table], first_ids: Mapping[str, int]) -> Self:
        """Index ranked values; the first value of a field gets its first id.

        Args:
            ranked: for each field, a table as `rank` returns it.
            first_ids: for each field, the id of its most frequent value (1 + oov_buckets).
        """
        values = {name: _one_chunk(table["value"]) for name, table in ranked.items()}
        # A seed under which no two values of a field collide makes the binary search exact. The first one nearly always
        # does: ten million values collide with a probability of about 3e-6.
        seed = 0
        while any(_collide(hash64(texts, seed)) for texts in values.values()):
            seed += 1
        fields = {}
        for name, texts in values.items():
            hashes = hash64(texts, seed)
            order = np.argsort(hashes)
            ids = (order + first_ids[name]).astype(np.int32)
            fields[name] = FieldIndex(hashes[order], ids, texts.take(pa.array(order)))
        return cls(fields, seed)

    @property
    def digest(self) -> str:
        """SHA-256 over the names of the fields and their values in the order of their ids."""
        digest = hashlib.sha256()
        for name, index in self.fields.items():
            digest.update(f"{name}\0{len(index.hashes)}\0".encode())
            for part in _buffers([index.in_order_of_ids()]):
                digest.update(part.tobytes())
        return digest.hexdigest()

    def save(self, folder: Path, ranked: Mapping[str, pa.Table]) -> None:
        """Write `vocabulary.parquet` and `index/*.npy` into an existing folder."""
        tables = [
            pa.table(
                [
                    pa.array([name] * len(table), pa.string()),
                    table["value"],
                    np.sort(self.fields[name].ids),
                    table["count"],
                ],
                schema=SCHEMA,
            )
            for name, table in ranked.items()
        ]
        pq.write_table(pa.concat_tables(tables) if tables else SCHEMA.empty_table(), folder / "vocabulary.parquet")
        indices = list(self.fields.values())
        offsets, text = _buffers([index.texts for index in indices])
        arrays: dict[str, Any] = {
            "hashes": np.concatenate([index.hashes for index in indices] or [np.empty(0, np.uint64)]),
            "ids": np.concatenate([index.ids for index in indices] or [np.empty(0, np.int32)]),
            "offsets": offsets,
            "text": text,
        }
        (folder / "index").mkdir()
        for name in _ARRAYS:
            np.save(folder / "index" / f"{name}.npy", arrays[name])

    @classmethod
    def load(cls, folder: Path, sizes: Sequence[tuple[str, int]], seed: int) -> Self:
        """Map the index; nothing is read until a lookup needs it.

        Args:
            folder: the `encoding/` folder.
            sizes: name and number of values of each field that has a vocabulary, in the specification's order.
            seed: the specification's `hash_seed`.

        Raises:
            DataError: a file is missing, or its size is not what the specification says.
        """
        hashes, ids, offsets, text = (_map(folder / "index" / f"{name}.npy") for name in _ARRAYS)
        total = sum(size for _, size in sizes)
        for name, found, wanted in (
            ("hashes", len(hashes), total),
            ("ids", len(ids), total),
            ("offsets", len(offsets), total + 1),
            ("text", len(text), int(offsets[-1]) if len(offsets) else 0),
        ):
            if found != wanted:
                raise DataError(
                    f"{folder / 'index' / name}.npy holds {found} entries where spec.json and the other arrays ask for "
                    f"{wanted}. Restore the file, or run the features job again."
                )
        texts = pa.LargeStringArray.from_buffers(total, pa.py_buffer(offsets), pa.py_buffer(text))
        fields, start = {}, 0
        for name, size in sizes:
            part = slice(start, start + size)
            fields[name] = FieldIndex(hashes[part], ids[part], texts[part])
            start += size
        return cls(fields, seed)


def _map(path: Path) -> NDArray[Any]:
    try:
        if path.stat().st_size <= 128:  # a header of 128 bytes and no content: nothing to map
            return np.asarray(np.load(path, allow_pickle=False))
        return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    except (OSError, EOFError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}). Restore the file, or run the features job again.") from error


def _collide(hashes: NDArray[np.uint64]) -> bool:
    return len(np.unique(hashes)) < len(hashes)


def _one_chunk(texts: pa.ChunkedArray) -> pa.Array:
    return pa.concat_arrays([pa.array([], pa.large_string()), *texts.cast(pa.large_string()).chunks])


def _buffers(parts: list[pa.Array]) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Where each text ends, counted from 0, and all texts one behind the other."""
    texts = _one_chunk(pa.chunked_array(parts, pa.large_string()))
    _, offsets_buffer, text_buffer = texts.buffers()
    offsets = np.frombuffer(offsets_buffer, np.int64)[: len(texts) + 1]
    return offsets, np.frombuffer(text_buffer or b"", np.uint8)[: int(offsets[-1])]
