"""Vocabularies: lookups, files on disk, digests, and independence of the parts that are written."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import nfm.contract.vocabulary as module
from nfm.contract.errors import DataError
from nfm.contract.hashing import hash64
from nfm.contract.vocabulary import FieldIndex, Vocabulary, parquet_path, write_vocabulary

short_texts = st.text("ab\0é", max_size=3)
vocabularies = st.lists(short_texts, unique=True)
cuts = st.lists(st.integers(0, 12), max_size=4).map(sorted)


def array(values: Sequence[str]) -> pa.Array:
    return pa.array(values, pa.large_string())


def parts(values: Sequence[str], cut_at: Sequence[int] = ()) -> list[pa.Table]:
    """Return values in the order of their ids, cut at these positions; some parts may be empty."""
    table = pa.table({"value": array(values), "count": pa.array(range(len(values), 0, -1), pa.int64())})
    ends = [*cut_at, len(values)]
    return [table.slice(start, max(end - start, 0)) for start, end in zip([0, *cut_at], ends, strict=True)]


def write_all(folder: Path, fields: dict[str, list[str]], first_id: int = 2) -> list[str]:
    """Write a vocabulary for each field; return their digests."""
    return [write_vocabulary(folder, i, name, first_id, len(v), parts(v)) for i, (name, v) in enumerate(fields.items())]


def sizes(fields: dict[str, list[str]]) -> dict[str, int]:
    return {name: len(values) for name, values in fields.items()}


def index_of(values: Sequence[str], cut_at: Sequence[int] = ()) -> FieldIndex:
    with TemporaryDirectory() as folder:
        write_vocabulary(Path(folder), 0, "f", 2, len(values), parts(values, cut_at))
        return Vocabulary.load(Path(folder), {"f": len(values)}).fields["f"]


def lookups(values: Sequence[str], texts: Sequence[str], cut_at: Sequence[int] = ()) -> tuple[list[int], list[int]]:
    """Return the positions that the vocabulary finds, and those of a dict."""
    expected = {value: i for i, value in enumerate(values)}
    found = index_of(values, cut_at).lookup(array(texts))
    assert found.dtype == np.int32
    return found.tolist(), [expected.get(text, -1) for text in texts]


@given(values=vocabularies, texts=st.lists(short_texts), cut_at=cuts)
def test_lookup_equals_a_dict(values: list[str], texts: list[str], cut_at: list[int]) -> None:
    found, expected = lookups(values, texts + values, cut_at)
    assert found == expected


def bad_hash(texts: pa.Array, seed: int = 0) -> NDArray[np.uint64]:
    """Hash to three values only, the last one at the end of the table, so that runs are long and wrap around."""
    return (hash64(texts, seed) % np.uint64(3)) * np.uint64(2**63 - 1)


def test_a_run_of_slots_wraps_around(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "hash64", lambda texts, seed: np.full(len(texts), 2**64 - 1, np.uint64))
    index = index_of(["a", "b", "c"])
    assert index.slots.tolist().index(0) == 2  # the last slot of six, then the first two
    assert sorted(index.slots.tolist()) == [0, 0, 0, 1, 2, 3]
    assert index.lookup(array(["c", "x", "a", "b"])).tolist() == [2, -1, 0, 1]


@given(values=vocabularies, texts=st.lists(short_texts), cut_at=cuts, block=st.integers(1, 5))
def test_lookup_equals_a_dict_if_all_texts_collide(
    values: list[str], texts: list[str], cut_at: list[int], block: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "hash64", bad_hash)
        patch.setattr(module, "_BLOCK", block)
        found, expected = lookups(values, texts + values, cut_at)
        assert index_of(values).is_sound()
    assert found == expected


def test_lookup_in_a_larger_vocabulary() -> None:
    values = [f"value {i * 7919 % 100_003}" for i in range(100_003)]
    index = index_of(values, [1, 2, 65_536])
    places = np.random.default_rng(1).integers(0, len(values), 20_000)
    assert index.lookup(array([values[i] for i in places])).tolist() == places.tolist()
    assert set(index.lookup(array([f"other {i}" for i in range(20_000)])).tolist()) == {-1}
    assert index.is_sound()


def test_lookup_with_an_empty_vocabulary_or_no_texts() -> None:
    assert lookups([], ["a", ""]) == ([-1, -1], [-1, -1])
    assert lookups(["a"], []) == ([], [])


def test_lookup_of_a_slice() -> None:
    assert index_of(["a", "", "b"]).lookup(array(["x", "b", "", "a"])[1:3]).tolist() == [2, 1]


@given(values=vocabularies, cut_at=cuts, block=st.integers(1, 5))
def test_the_files_do_not_depend_on_the_parts(values: list[str], cut_at: list[int], block: int) -> None:
    with pytest.MonkeyPatch.context() as patch, TemporaryDirectory() as one, TemporaryDirectory() as other:
        patch.setattr(module, "_BLOCK", block)
        digests = [
            write_vocabulary(Path(folder), 3, "f", 2, len(values), tables)
            for folder, tables in ((one, parts(values)), (other, parts(values, cut_at)))
        ]
        assert digests[0] == digests[1]
        for path in [*(f"index/3/{name}.npy" for name in FILES), "vocabulary.parquet/00003.parquet"]:
            assert Path(one, path).read_bytes() == Path(other, path).read_bytes()


def test_the_arrays_on_disk(tmp_path: Path) -> None:
    write_vocabulary(tmp_path, 0, "f", 2, 3, parts(["bb", "", "é"], [1]))
    arrays = {name: np.load(tmp_path / f"index/0/{name}.npy") for name in FILES}
    assert {name: str(found.dtype) for name, found in arrays.items()} == {
        "slots": "int32",
        "offsets": "int64",
        "text": "uint8",
    }
    assert arrays["offsets"].tolist() == [0, 2, 2, 4]  # é takes two bytes
    assert arrays["text"].tobytes() == "bbé".encode()
    # A value's slot is the upper half of its hash, scaled to six slots, or the next free one.
    assert sorted(arrays["slots"].tolist()) == [0, 0, 0, 1, 2, 3]
    home = [int(h >> 32) * 6 >> 32 for h in hash64(array(["bb", "", "é"]), module._SEED).tolist()]
    assert len(set(home)) == 3, "these values do not show the slot of a value, because they collide"
    assert [int(np.flatnonzero(arrays["slots"] == i + 1)[0]) for i in range(3)] == home


def test_parts_may_have_other_columns_and_smaller_types(tmp_path: Path) -> None:
    part = pa.table({"count": pa.array([2, 1], pa.int32()), "more": [0, 0], "value": pa.array(["b", "a"], pa.string())})
    write_vocabulary(tmp_path, 0, "f", 5, 2, iter([part]))
    assert pq.read_table(parquet_path(tmp_path, 0)).to_pydict() == {
        "field": ["f", "f"],
        "value": ["b", "a"],
        "id": [5, 6],
        "count": [2, 1],
    }


@pytest.mark.parametrize("size", [1, 3])
def test_a_wrong_number_of_values_fails_an_assertion(tmp_path: Path, size: int) -> None:
    with pytest.raises(AssertionError, match="vocabulary of 'f': "):
        write_vocabulary(tmp_path, 0, "f", 2, size, parts(["a", "b"], [1]))


def test_a_vocabulary_is_written_again_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="lost"):
        write_vocabulary(tmp_path, 0, "f", 2, 9, broken())
    digest = write_vocabulary(tmp_path, 0, "f", 2, 2, parts(["b", "a"]))
    index = Vocabulary.load(tmp_path, {"f": 2}).fields["f"]
    assert (index.digest("f"), index.is_sound(), index.texts.to_pylist()) == (digest, True, ["b", "a"])


def test_a_second_attempt_keeps_the_files_of_the_first(tmp_path: Path) -> None:
    digests = [write_vocabulary(tmp_path, 0, "f", 2, 2, parts(["b", "a"])) for _ in range(2)]
    index = Vocabulary.load(tmp_path, {"f": 2}).fields["f"]
    assert (digests[0], index.digest("f"), index.is_sound()) == (digests[1], digests[0], True)
    assert [path.name for path in (tmp_path / "index").iterdir()] == ["0"]


def broken() -> Any:
    yield from parts(["x", "y", "z"])
    raise RuntimeError("the connection was lost")


def test_the_digest_is_over_name_size_and_values_in_order(tmp_path: Path) -> None:
    offsets = b"".join(n.to_bytes(8, "little") for n in (0, 2, 2, 4))
    content = b"f\0" + b"3\0" + hashlib.sha256(offsets).digest() + hashlib.sha256("bbé".encode()).digest()
    assert write_all(tmp_path, {"f": ["bb", "", "é"]}) == [hashlib.sha256(content).hexdigest()]


def test_different_vocabularies_have_different_digests(tmp_path: Path) -> None:
    fields = [("f", ["a", "b"]), ("f", ["b", "a"]), ("f", ["ab", ""]), ("g", ["a", "b"]), ("f", ["a"]), ("f", [])]
    digests = {write_vocabulary(tmp_path, i, name, 2, len(v), parts(v)) for i, (name, v) in enumerate(fields)}
    assert len(digests) == len(fields)


@given(
    fields=st.dictionaries(st.sampled_from(["f", "g", "h"]), vocabularies),
    texts=st.lists(short_texts),
)
def test_loaded_equals_written(fields: dict[str, list[str]], texts: list[str]) -> None:
    with TemporaryDirectory() as folder:
        digests = write_all(Path(folder), fields)
        loaded = Vocabulary.load(Path(folder), sizes(fields)).fields
        assert list(loaded) == list(fields)
        assert [index.digest(name) for name, index in loaded.items()] == digests
        for name, values in fields.items():
            expected = {value: i for i, value in enumerate(values)}
            assert loaded[name].lookup(array(texts + values)).tolist() == [expected.get(t, -1) for t in texts + values]
            assert loaded[name].texts.to_pylist() == values
            assert loaded[name].is_sound()


def test_the_folder_of_parquet_files_can_be_queried(tmp_path: Path) -> None:
    write_all(tmp_path, {"f": ["b", "", "a"], "empty": [], "g": ["é"]}, first_id=3)
    assert sorted(path.name for path in (tmp_path / "vocabulary.parquet").iterdir()) == [
        "00000.parquet",
        "00001.parquet",
        "00002.parquet",
    ]
    read = pd.read_parquet(tmp_path / "vocabulary.parquet")
    assert read.to_dict("list") == {
        "field": ["f", "f", "f", "g"],
        "value": ["b", "", "a", "é"],
        "id": [3, 4, 5, 3],
        "count": [3, 2, 1, 1],
    }


def test_the_loaded_index_is_memory_mapped(tmp_path: Path) -> None:
    fields = {"f": [str(i) for i in range(100)]}
    write_all(tmp_path, fields)
    vocabulary = Vocabulary.load(tmp_path, sizes(fields))
    mapped = Path("/proc/self/maps").read_text()
    assert [name for name in FILES if f"{tmp_path}/index/0/{name}.npy" in mapped] == FILES
    assert len(vocabulary.fields["f"].texts) == 100  # keeps the mapping alive until here


FIELDS = {"f": ["b", "", "a"], "g": ["é", "x"]}
FILES = ["slots", "offsets", "text"]


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_refused(tmp_path: Path, name: str) -> None:
    write_all(tmp_path, FIELDS)
    path = tmp_path / f"index/1/{name}.npy"
    path.unlink()
    with pytest.raises(DataError) as refused:
        Vocabulary.load(tmp_path, sizes(FIELDS))
    assert str(refused.value).startswith(f"{path} cannot be read ([Errno 2] No such file or directory")


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_file_is_refused(tmp_path: Path, name: str) -> None:
    write_all(tmp_path, FIELDS)
    path = tmp_path / f"index/1/{name}.npy"
    original = path.read_bytes()
    for size in range(len(original)):
        path.write_bytes(original[:size])
        with pytest.raises(DataError) as refused:
            Vocabulary.load(tmp_path, sizes(FIELDS))
        assert str(path) in str(refused.value)


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("slots", np.zeros(5, np.int32), r"int32 (5,) where int32 (6,) is needed"),
        ("offsets", np.zeros(3, np.int64), "int64 (3,) where int64 (4,) is needed"),
        ("offsets", np.zeros(4, np.int32), "int32 (4,) where int64 (4,) is needed"),
        ("text", np.zeros(99, np.uint8), "uint8 (99,) where uint8 (2,) is needed"),
        ("text", np.zeros((2, 1), np.uint8), "uint8 (2, 1) where uint8 (2,) is needed"),
    ],
)
def test_a_file_of_another_size_or_type_is_refused(
    tmp_path: Path, name: str, content: NDArray[Any], problem: str
) -> None:
    write_all(tmp_path, FIELDS)  # "b" "" "a" are 2 bytes
    np.save(tmp_path / f"index/0/{name}.npy", content)
    with pytest.raises(DataError) as refused:
        Vocabulary.load(tmp_path, sizes(FIELDS))
    assert str(refused.value).startswith(f"{tmp_path}/index/0/{name}.npy is {problem}. Restore the file")


def test_another_specification_is_refused(tmp_path: Path) -> None:
    write_all(tmp_path, FIELDS)
    with pytest.raises(DataError, match=r"1/slots.npy is int32 \(4,\) where int32 \(2,\) is needed"):
        Vocabulary.load(tmp_path, {"f": 3, "g": 1})


@pytest.mark.parametrize("name", FILES)
def test_a_pickle_is_never_loaded(tmp_path: Path, name: str) -> None:
    write_all(tmp_path, FIELDS)
    np.save(tmp_path / f"index/0/{name}.npy", np.array([print] * 20, dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match=rf"{name}.npy cannot be read"):
        Vocabulary.load(tmp_path, sizes(FIELDS))


@pytest.mark.parametrize("place", range(6))
@pytest.mark.parametrize("entry", [-1, 0, 1, 2, 3, 4])
def test_a_changed_slot_is_detected(tmp_path: Path, place: int, entry: int) -> None:
    write_all(tmp_path, FIELDS)
    slots = np.load(tmp_path / "index/0/slots.npy")
    unchanged = slots[place] == entry
    slots[place] = entry
    np.save(tmp_path / "index/0/slots.npy", slots)
    assert Vocabulary.load(tmp_path, sizes(FIELDS)).fields["f"].is_sound() == unchanged
