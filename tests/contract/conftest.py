"""What several tests of the contract build on: a slow hash to compare with, and small encodings."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pytest

from nfm.contract.encoder import Encoding
from nfm.contract.schema import Field, Number, Spec
from nfm.contract.vocabulary import Vocabulary

MASK = 2**64 - 1
GOLDEN = 0x9E3779B97F4A7C15
NULL = 0xD6E8FEB86659FD93

Ranked = Mapping[str, pa.Table]
MakeEncoding = Callable[[Sequence[Field], Mapping[str, Sequence[str]], Sequence[Number]], Encoding]


def mix(h: int) -> int:
    h = (h ^ (h >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    h = (h ^ (h >> 27)) * 0x94D049BB133111EB & MASK
    return h ^ (h >> 31)


def slow_hash(text: str | None, seed: int) -> int:
    """hash64 of one text, with Python's integers."""
    start = mix((seed + GOLDEN) & MASK)
    if text is None:
        return mix(start ^ NULL)
    data = text.encode()
    h = mix(start ^ (len(data) * GOLDEN & MASK))
    for i in range(0, len(data), 8):
        h = mix(((h ^ int.from_bytes(data[i : i + 8], "little")) + GOLDEN) & MASK)
    return h


@pytest.fixture(scope="session")
def splitmix() -> Callable[[int], int]:
    return mix


@pytest.fixture(scope="session")
def reference_hash() -> Callable[[str | None, int], int]:
    return slow_hash


def ranked_values(values: Sequence[str]) -> pa.Table:
    """Values in the order of their ids, as `rank` returns them: the last one was seen once."""
    counts = range(len(values), 0, -1)
    return pa.table({"value": pa.array(values, pa.large_string()), "count": pa.array(counts, pa.int64())})


def encoding_of(
    fields: Sequence[Field], vocabularies: Mapping[str, Sequence[str]], numbers: Sequence[Number] = ()
) -> Encoding:
    """An encoding whose fields have these values, the most frequent first."""
    ranked = {name: ranked_values(values) for name, values in vocabularies.items()}
    vocabulary = Vocabulary.build(ranked, {field.name: field.first_value for field in fields})
    spec = Spec(("id",), tuple(fields), tuple(numbers), vocabulary.digest, vocabulary.seed)
    return Encoding(spec, vocabulary)


@pytest.fixture(scope="session")
def make_encoding() -> MakeEncoding:
    return encoding_of


@pytest.fixture(scope="session")
def write_encoding() -> Callable[..., Encoding]:
    """Writes an `encoding/` folder and returns what is in it. `values` of `color` and `shift` of `price` can be set."""

    def write(folder: Path, colors: Sequence[str] = ("red", "", "blue"), shift: float = 20.0) -> Encoding:
        fields = [
            Field("color", "color", "text", oov_buckets=2, values=len(colors)),
            Field("size", "size", "number", oov_buckets=1, values=2),
            Field("age_bucket", "age", "number", oov_buckets=1, values=3, edges=(18.0, 65.5)),
        ]
        numbers = [
            Number("price", "price", "dense", 10.0, True, None, False, shift, 5.0),
            Number("weight_kg", "kg", "field", 0.0, False, (0.0, 8.0), True, 0.0, 1.0),
        ]
        vocabularies = {"color": colors, "size": ["3", "0.1"]}
        encoding = encoding_of(fields, vocabularies, numbers)
        folder.mkdir(parents=True)
        encoding.vocabulary.save(folder, {name: ranked_values(values) for name, values in vocabularies.items()})
        (folder / "spec.json").write_text(encoding.spec.to_json())
        return encoding

    return write


@pytest.fixture(scope="session")
def edit_json() -> Callable[..., None]:
    """Changes keys of a JSON file, as a person with an editor would."""

    def edit(path: Path, **changes: object) -> None:
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return edit
