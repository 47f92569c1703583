"""The vocabulary: the order of its ids, its lookup, and its files."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
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
from nfm.contract.vocabulary import Vocabulary, rank

few_texts = st.text("ab\0é", max_size=3)
counts_of = st.dictionaries(few_texts, st.integers(1, 4))


def table(counts: dict[str, int]) -> pa.Table:
    return pa.table({"value": pa.array(counts, pa.large_string()), "count": pa.array(counts.values(), pa.int64())})


def in_order(values: Sequence[str]) -> pa.Table:
    return table({value: len(values) - i for i, value in enumerate(values)})


def array(values: Sequence[str]) -> pa.Array:
    return pa.array(values, pa.large_string())


def test_ids_go_by_count_then_by_value() -> None:
    ranked = rank(table({"b": 2, "": 2, "a": 2, "é": 9, "B": 2, "rare": 1}))
    assert ranked.to_pydict() == {"value": ["é", "", "B", "a", "b", "rare"], "count": [9, 2, 2, 2, 2, 1]}


def test_rare_values_and_values_beyond_the_size_stay_out() -> None:
    counts = table({"a": 3, "b": 1, "c": 3, "d": 2})
    assert rank(counts, min_count=2)["value"].to_pylist() == ["a", "c", "d"]
    assert rank(counts, max_size=1)["value"].to_pylist() == ["a"]
    assert rank(counts, min_count=3, max_size=9)["value"].to_pylist() == ["a", "c"]
    assert rank(counts, min_count=4).num_rows == 0


@given(counts=counts_of, min_count=st.integers(1, 4), max_size=st.none() | st.integers(1, 9), data=st.data())
def test_rank_equals_pandas_in_any_order_of_the_input(
    counts: dict[str, int], min_count: int, max_size: int | None, data: st.DataObject
) -> None:
    frame = pd.DataFrame({"value": list(counts), "count": list(counts.values())}, dtype=object)
    frame["bytes"] = [value.encode() for value in counts]
    expected = frame[frame["count"] >= min_count].sort_values(["count", "bytes"], ascending=[False, True])
    shuffled = table(counts).take(pa.array(data.draw(st.permutations(range(len(counts)))), pa.int64()))
    ranked = rank(shuffled, min_count, max_size)
    assert ranked["value"].to_pylist() == expected["value"].tolist()[:max_size]
    assert ranked["count"].to_pylist() == expected["count"].tolist()[:max_size]


def lookups(values: Sequence[str], asked: Sequence[str], first_id: int = 2) -> tuple[list[int], list[int]]:
    """What the vocabulary answers, and what a dict answers."""
    vocabulary = Vocabulary.build({"f": in_order(values)}, {"f": first_id})
    expected = {value: first_id + i for i, value in enumerate(values)}
    found = vocabulary.fields["f"].lookup(array(asked), vocabulary.seed)
    assert found.dtype == np.int32
    return found.tolist(), [expected.get(text, -1) for text in asked]


@given(values=st.lists(few_texts, unique=True), asked=st.lists(few_texts), first_id=st.integers(2, 50))
def test_lookup_equals_a_dict(values: list[str], asked: list[str], first_id: int) -> None:
    found, expected = lookups(values, asked, first_id)
    assert found == expected


BUCKETS = 8


def bad_hash(texts: pa.Array, seed: int = 0) -> NDArray[np.uint64]:
    """Eight hashes for all texts of the world: strangers share them all the time."""
    return hash64(texts, seed) % np.uint64(BUCKETS)


@pytest.fixture
def collisions(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(module, "hash64", bad_hash)
    yield


@pytest.mark.usefixtures("collisions")
def test_only_the_text_decides_between_two_values_of_one_hash() -> None:
    strangers = [f"stranger {i}" for i in range(100)]
    found, expected = lookups(["a", "", "b"], ["b", *strangers, "", "a"])
    assert found == expected == [4, *[-1] * 100, 3, 2]
    seed = Vocabulary.build({"f": in_order(["a", "", "b"])}, {"f": 2}).seed
    known = set(bad_hash(array(["a", "", "b"]), seed).tolist())
    assert sum(h in known for h in bad_hash(array(strangers), seed).tolist()) > 20, "no collision was tried"


@given(values=st.lists(few_texts, unique=True, max_size=4), asked=st.lists(few_texts))
def test_lookup_equals_a_dict_where_strangers_collide(values: list[str], asked: list[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "hash64", bad_hash)
        found, expected = lookups(values, asked)
    assert found == expected


@pytest.mark.usefixtures("collisions")
def test_the_seed_is_the_first_under_which_no_values_of_a_field_collide(
    reference_hash: Callable[[str, int], int],
) -> None:
    fields = {"f": ["a", "b", "c", "", "d"], "g": ["b", "x", "y"], "empty": []}

    def collides(seed: int) -> bool:
        return any(len({reference_hash(v, seed) % BUCKETS for v in values}) < len(values) for values in fields.values())

    expected = next(seed for seed in range(1000) if not collides(seed))
    assert expected > 0, "these values do not exercise another seed"
    ranked = {name: in_order(values) for name, values in fields.items()}
    vocabulary = Vocabulary.build(ranked, dict.fromkeys(fields, 2))
    assert vocabulary.seed == expected
    for name, values in fields.items():
        found = vocabulary.fields[name].lookup(array([*values, "z"]), vocabulary.seed)
        assert found.tolist() == [*range(2, 2 + len(values)), -1]


def test_lookup_in_an_empty_vocabulary_and_of_no_texts() -> None:
    assert lookups([], ["a", ""]) == ([-1, -1], [-1, -1])
    assert lookups(["a"], []) == ([], [])


def test_values_come_back_in_the_order_of_their_ids() -> None:
    values = [str(i * 7 % 100) for i in range(100)]
    vocabulary = Vocabulary.build({"f": in_order(values)}, {"f": 2})
    assert vocabulary.fields["f"].in_order_of_ids().to_pylist() == values


def test_the_digest_is_over_names_and_values_in_order() -> None:
    ranked = {"f": in_order(["bb", "", "é"]), "g": in_order([])}
    offsets = b"".join(n.to_bytes(8, "little") for n in (0, 2, 2, 4))  # é takes two bytes
    content = b"f\0" + b"3\0" + offsets + "bbé".encode() + b"g\0" + b"0\0" + bytes(8)
    assert Vocabulary.build(ranked, {"f": 2, "g": 2}).digest == hashlib.sha256(content).hexdigest()


def test_the_digest_tells_vocabularies_apart() -> None:
    fields = [{"f": ["a", "b"]}, {"f": ["b", "a"]}, {"f": ["ab", ""]}, {"g": ["a", "b"]}, {"f": ["a"], "g": ["b"]}, {}]
    digests = {
        Vocabulary.build({n: in_order(v) for n, v in names.items()}, dict.fromkeys(names, 2)).digest for names in fields
    }
    assert len(digests) == len(fields)


def saved(folder: Path, fields: dict[str, list[str]], first_id: int = 2) -> Vocabulary:
    ranked = {name: in_order(values) for name, values in fields.items()}
    vocabulary = Vocabulary.build(ranked, dict.fromkeys(fields, first_id))
    vocabulary.save(folder, ranked)
    return vocabulary


def sizes(fields: dict[str, list[str]]) -> list[tuple[str, int]]:
    return [(name, len(values)) for name, values in fields.items()]


@given(
    fields=st.dictionaries(st.sampled_from(["f", "g", "h"]), st.lists(few_texts, unique=True)),
    asked=st.lists(few_texts),
)
def test_saved_and_loaded_equals_the_original(fields: dict[str, list[str]], asked: list[str]) -> None:
    with TemporaryDirectory() as folder:
        original = saved(Path(folder), fields)
        loaded = Vocabulary.load(Path(folder), sizes(fields), original.seed)
        assert list(loaded.fields) == list(fields)
        assert loaded.digest == original.digest
        for name, values in fields.items():
            expected = {value: 2 + i for i, value in enumerate(values)}
            found = loaded.fields[name].lookup(array(asked + values), loaded.seed).tolist()
            assert found == [expected.get(text, -1) for text in asked + values]


def test_the_parquet_table_is_for_people(tmp_path: Path) -> None:
    saved(tmp_path, {"f": ["b", "", "a"], "empty": [], "g": ["é"]}, first_id=3)
    read = pq.read_table(tmp_path / "vocabulary.parquet")
    assert read.schema.names == ["field", "value", "id", "count"]
    assert read.to_pydict() == {
        "field": ["f", "f", "f", "g"],
        "value": ["b", "", "a", "é"],
        "id": [3, 4, 5, 3],
        "count": [3, 2, 1, 1],
    }


def test_the_loaded_index_is_mapped_and_not_read(tmp_path: Path) -> None:
    fields = {"f": [str(i) for i in range(100)]}
    vocabulary = Vocabulary.load(tmp_path, sizes(fields), saved(tmp_path, fields).seed)
    mapped = Path("/proc/self/maps").read_text()
    assert [name for name in FILES if f"{tmp_path}/index/{name}.npy" in mapped] == FILES
    assert len(vocabulary.fields["f"].texts) == 100  # alive until here


FIELDS = {"f": ["b", "", "a"], "g": ["é", "x"]}
FILES = ["hashes", "ids", "offsets", "text"]


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_refused(tmp_path: Path, name: str) -> None:
    saved(tmp_path, FIELDS)
    path = tmp_path / "index" / f"{name}.npy"
    path.unlink()
    with pytest.raises(DataError) as refused:
        Vocabulary.load(tmp_path, sizes(FIELDS), 0)
    assert str(refused.value).startswith(f"{path} cannot be read ([Errno 2] No such file or directory")


@pytest.mark.parametrize("name", FILES)
def test_a_file_cut_anywhere_is_refused(tmp_path: Path, name: str) -> None:
    saved(tmp_path, FIELDS)
    path = tmp_path / "index" / f"{name}.npy"
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(DataError) as refused:
            Vocabulary.load(tmp_path, sizes(FIELDS), 0)
        assert str(path) in str(refused.value)


@pytest.mark.parametrize(
    ("name", "content", "numbers"),
    [
        ("hashes", np.zeros(4, np.uint64), "holds 4 entries where spec.json and the other arrays ask for 5"),
        ("ids", np.zeros(6, np.int32), "holds 6 entries where spec.json and the other arrays ask for 5"),
        ("offsets", np.zeros(5, np.int64), "holds 5 entries where spec.json and the other arrays ask for 6"),
        ("text", np.zeros(99, np.uint8), "holds 99 entries where spec.json and the other arrays ask for 5"),
    ],
)
def test_a_file_of_another_size_is_refused(tmp_path: Path, name: str, content: NDArray[Any], numbers: str) -> None:
    saved(tmp_path, FIELDS)  # 5 values; "b" "" "a" "é" "x" are 5 bytes
    np.save(tmp_path / "index" / f"{name}.npy", content)
    with pytest.raises(DataError) as refused:
        Vocabulary.load(tmp_path, sizes(FIELDS), 0)
    assert f"{tmp_path}/index/{name}.npy {numbers}" in str(refused.value)


def test_another_specification_is_refused(tmp_path: Path) -> None:
    saved(tmp_path, FIELDS)
    with pytest.raises(DataError, match=r"hashes.npy holds 5 entries where spec.json and the other arrays ask for 4"):
        Vocabulary.load(tmp_path, [("f", 3), ("g", 1)], 0)


def test_no_pickle_is_ever_loaded(tmp_path: Path) -> None:
    saved(tmp_path, FIELDS)
    np.save(tmp_path / "index" / "ids.npy", np.array([print], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match=r"ids.npy cannot be read"):
        Vocabulary.load(tmp_path, sizes(FIELDS), 0)
