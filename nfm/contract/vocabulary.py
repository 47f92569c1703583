"""Vocabularies, value ↔ id, as Parquet tables for queries and as indices that workers memory-map.

Vocabulary i is stored under `encoding/` as `vocabulary.parquet/<i>.parquet` (field, value, id, count) and
`index/<i>/*.npy`. `offsets` and `text` contain the values in the order of their ids; `slots` is a hash table over them,
with open addressing and linear probing. A lookup reads a few memory-mapped pages that all workers of a host share.
Neither lookups nor writing need process memory that grows with the vocabulary.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.lib.format import open_memmap, write_array_header_1_0
from numpy.typing import DTypeLike, NDArray

from nfm.contract.arrays import map_file, text_buffers, to_arrow, to_numpy
from nfm.contract.errors import DataError
from nfm.contract.hashing import hash64
from nfm.contract.publishing.replace import making, replacing

SCHEMA = pa.schema([("field", pa.string()), ("value", pa.large_string()), ("id", pa.int32()), ("count", pa.int64())])
_VALUES = pa.schema([SCHEMA.field("value"), SCHEMA.field("count")])
_SEED = 0x51075  # of the slots' hash; _SEED and _BLOCK are part of the format
_BLOCK = 1 << 20
_LOOKUP = 1 << 14  # texts that are looked up together


def parquet_path(folder: Path, number: int) -> Path:
    """Return the path of a vocabulary's Parquet file; its rows are in the order of the ids."""
    return folder / "vocabulary.parquet" / f"{number:05}.parquet"


def write_vocabulary(folder: Path, number: int, field: str, first_id: int, size: int, parts: Iterable[pa.Table]) -> str:
    """Write one vocabulary; needs memory for one of the `parts` and a block of a million values.

    Args:
        folder: the `encoding/` folder.
        number: position of the vocabulary in `Spec.vocabularies`.
        field: name of the field.
        first_id: id of the first value.
        size: number of values.
        parts: tables with the columns `value` (texts without nulls, each once) and `count`, in the order of the ids;
            the files do not depend on how the rows are divided into parts.

    Returns:
        The digest, as `FieldIndex.digest` computes it.
    """
    index, table = folder / "index" / str(number), parquet_path(folder, number)
    table.parent.mkdir(exist_ok=True)
    # Spark may retry a task while its first attempt still runs.
    with making(index) as attempt, replacing(table, shared=True) as table_attempt:
        slots = open_memmap(attempt / "slots.npy", "w+", np.int32, (max(2 * size, 1),))
        with (
            pq.ParquetWriter(table_attempt, SCHEMA) as writer,
            _ArrayFile(attempt / "offsets.npy", np.int64) as all_offsets,
            _ArrayFile(attempt / "text.npy", np.uint8) as all_text,
        ):
            written = 0
            all_offsets.append(np.zeros(1, np.int64))
            for block in _cut_into_blocks(parts):
                texts = pa.concat_arrays(block["value"].chunks)
                assert written + len(texts) <= size, f"vocabulary of '{field}': more than {size} values"
                ids = np.arange(first_id + written, first_id + written + len(texts), dtype=np.int32)
                writer.write_table(pa.table([pa.repeat(field, len(texts)), texts, ids, block["count"]], schema=SCHEMA))
                offsets, text = text_buffers(texts)
                all_offsets.append(offsets[1:] + (all_text.size - offsets[0]))
                all_text.append(text)
                _insert(slots, hash64(texts, _SEED), written)
                written += len(texts)
            assert written == size, f"vocabulary of '{field}': {written} values instead of {size}"
        slots.flush()
    return _compute_digest(field, size, all_offsets.sha256.digest(), all_text.sha256.digest())


class _ArrayFile:
    """An .npy file that grows; its size is written to the header when it is closed."""

    def __init__(self, path: Path, dtype: DTypeLike) -> None:
        self.size, self.sha256 = 0, hashlib.sha256()
        self._dtype, self._file = np.dtype(dtype), path.open("wb")
        self._write_header()

    def append(self, values: NDArray[Any]) -> None:
        self._file.write(values.data)
        self.sha256.update(values.data)
        self.size += len(values)

    def _write_header(self) -> None:
        header = {"descr": self._dtype.newbyteorder("<").str, "fortran_order": False, "shape": (self.size,)}
        write_array_header_1_0(self._file, header)  # NumPy pads it to the same length for every size

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._file:
            self._file.seek(0)
            self._write_header()


def _cut_into_blocks(parts: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Yield the same rows in blocks of a fixed size, because the files must not depend on the parts."""
    waiting = _VALUES.empty_table()
    for part in parts:
        waiting = pa.concat_tables([waiting, part.select(_VALUES.names).cast(_VALUES)])
        while len(waiting) >= _BLOCK:
            yield waiting.slice(0, _BLOCK)
            waiting = waiting.slice(_BLOCK)
    if len(waiting):
        yield waiting


def _insert(slots: NDArray[np.int32], hashes: NDArray[np.uint64], first: int) -> None:
    """Put the values with these hashes, whose positions start at `first`, into free slots."""
    entries = np.arange(first + 1, first + 1 + len(hashes), dtype=np.int32)
    at = _find_first_slots(hashes, len(slots))
    while len(at):
        free = slots[at] == 0
        # Several values may try the same slot: the last one written gets it, the others try the next slot.
        slots[at[free]] = entries[free]
        lost = slots[at] != entries
        entries, at = entries[lost], (at[lost] + 1) % len(slots)


def _find_first_slots(hashes: NDArray[np.uint64], slots: int) -> NDArray[np.int64]:
    """Scale the upper half of each hash to the number of slots: multiply and shift, which is faster than modulo."""
    return ((hashes >> np.uint64(32)) * np.uint64(slots) >> np.uint64(32)).astype(np.int64)


def _compute_digest(field: str, size: int, offsets: bytes, text: bytes) -> str:
    return hashlib.sha256(f"{field}\0{size}\0".encode() + offsets + text).hexdigest()


@dataclass(frozen=True)
class FieldIndex:
    """Index of a vocabulary: V values in the order of their ids, and the S slots of their hash table."""

    slots: NDArray[np.int32]  # (S,) position of the value + 1; 0: free
    texts: pa.Array  # (V,) large_string

    def lookup(self, texts: pa.Array) -> NDArray[np.int32]:
        """Return the (N,) positions of N texts (`large_string` without nulls); -1 for a text that it lacks.

        The position of a value is its id minus the field's `first_value`.
        """
        if len(texts) > _LOOKUP:  # limits the memory of a large batch
            starts = range(0, len(texts), _LOOKUP)
            return np.concatenate([self.lookup(texts.slice(start, _LOOKUP)) for start in starts])
        pending, at = np.arange(len(texts)), _find_first_slots(hash64(texts, _SEED), len(self.slots))
        pairs = [(pending[:0], self.slots[:0])]  # texts, each with the entries up to the first free slot
        while len(pending):
            entries = self.slots[at]
            taken = np.flatnonzero(entries)
            pending, at = pending[taken], at[taken] + 1
            at[at == len(self.slots)] = 0
            pairs.append((pending, entries[taken]))
        rows, candidates = (np.concatenate(arrays) for arrays in zip(*pairs, strict=True))
        candidates = candidates - 1
        # Different values may try the same slots or even have the same hash, so the texts are compared. All pairs are
        # compared together, because there are many last rounds with few texts each.
        same = pc.equal(self.texts.take(to_arrow(candidates)), texts.take(to_arrow(rows)))
        hit = np.flatnonzero(to_numpy(same))
        positions = np.full(len(texts), -1, np.int32)
        positions[rows[hit]] = candidates[hit]
        return positions

    def digest(self, field: str) -> str:
        """Return the SHA-256 over the field's name, the number of values, and the values in order."""
        parts = (hashlib.sha256(array.data).digest() for array in text_buffers(self.texts))
        return _compute_digest(field, len(self.texts), *parts)

    def is_sound(self) -> bool:
        """Return whether the slots contain exactly the values, each where a lookup finds it; reads all data."""
        size = len(self.texts)
        if np.min(self.slots) < 0 or np.max(self.slots) > size or np.count_nonzero(self.slots) != size:
            return False
        starts = range(0, size, _BLOCK)
        blocks = (self.texts.slice(start, _BLOCK) for start in starts)
        return all(
            np.array_equal(self.lookup(block), np.arange(start, start + len(block)))
            for start, block in zip(starts, blocks, strict=True)
        )


@dataclass(frozen=True)
class Vocabulary:
    """All vocabularies, by the name of the field that each was made for."""

    fields: Mapping[str, FieldIndex]

    @classmethod
    def load(cls, folder: Path, sizes: Mapping[str, int]) -> Self:
        """Map the indices of these sizes (`Spec.vocabularies`); DataError for a missing file or another size."""
        found = {}
        for number, (name, size) in enumerate(sizes.items()):
            index = folder / "index" / str(number)
            slots = _map_array(index / "slots.npy", np.int32, max(2 * size, 1))
            offsets = _map_array(index / "offsets.npy", np.int64, size + 1)
            text = _map_array(index / "text.npy", np.uint8, int(offsets[-1]))
            texts = pa.LargeStringArray.from_buffers(size, pa.py_buffer(offsets), pa.py_buffer(text))
            found[name] = FieldIndex(slots, texts)
        return cls(found)


def _map_array(path: Path, dtype: DTypeLike, size: int) -> NDArray[Any]:
    try:
        return map_file(path, dtype, (size,))
    except ValueError as error:
        raise DataError(f"{path} {error}. Restore the file, or run the feature job again.") from error
