"""Fixtures of the contract's tests: a slow reference hash, reference texts, and small encodings."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import strategies as st

import nfm.contract.publishing.replace
from nfm.contract.encoder import Encoding
from nfm.contract.schema import Field, Kind, Number, Spec
from nfm.contract.vocabulary import Vocabulary, write_vocabulary

MASK = 2**64 - 1
GOLDEN = 0x9E3779B97F4A7C15
NULL = 0xD6E8FEB86659FD93

MakeEncoding = Callable[[Sequence[Field], Mapping[str, Sequence[str]], Sequence[Number]], Encoding]


def mix(h: int) -> int:
    h = (h ^ (h >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    h = (h ^ (h >> 27)) * 0x94D049BB133111EB & MASK
    return h ^ (h >> 31)


def slow_hash(text: str | None, seed: int) -> int:
    """Return hash64 of one text, computed with Python's integers."""
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


NAN, INF = math.nan, math.inf

WORDS = ["", "a", "b", "A", " a", "007", "7", "é", "a longer text than a word"]
# Canonical form of texts where the vocabulary was made from numbers.
NUMBER_TEXTS = {"3": "3", " 3": "3", "3.0": "3", "3e2": "300", "007": "7", "": "", "x": "x", "nan": None, "-inf": None}
SHORT = st.integers(-9_999, 9_999).map(lambda i: i / 100)  # at most four digits: the same text in 32 and in 64 bits
# Arrow type, its values, kind of the field.
RAW_COLUMNS: list[tuple[pa.DataType, st.SearchStrategy[Any], Kind]] = [
    (pa.string(), st.sampled_from(WORDS), "text"),
    (pa.large_string(), st.text(max_size=9), "text"),
    (pa.string_view(), st.sampled_from(WORDS), "text"),
    (pa.dictionary(pa.int8(), pa.string()), st.sampled_from(WORDS), "text"),
    (pa.dictionary(pa.int32(), pa.large_string()), st.sampled_from(WORDS), "text"),
    (pa.string(), st.sampled_from(list(NUMBER_TEXTS)), "number"),
    (pa.int8(), st.integers(-3, 3), "number"),
    (pa.int64(), st.integers(-(2**63), 2**63 - 1) | st.integers(0, 3), "number"),
    (pa.dictionary(pa.int16(), pa.int64()), st.integers(0, 9), "number"),
    (pa.float32(), SHORT | st.sampled_from([NAN, INF, -0.0]), "number"),
    (pa.float64(), SHORT | st.floats(), "number"),
    (pa.decimal128(12, 3), st.integers(-9999, 9999).map(lambda i: Decimal(i) / 1000), "number"),
    (pa.decimal32(6, 3), st.integers(-9999, 9999).map(lambda i: Decimal(i) / 1000), "number"),
    (pa.decimal64(12, 0), st.integers(-9999, 9999).map(Decimal), "number"),
    (pa.bool_(), st.booleans(), "boolean"),
    (pa.string(), st.sampled_from(["true", "True", "FALSE", "", "x"]), "boolean"),
    (pa.date32(), st.dates(date(1, 1, 1)), "date"),
    (pa.date64(), st.dates(date(1970, 1, 1)), "date"),
    (pa.string(), st.dates(date(2000, 1, 1)).map(str), "date"),
    (pa.null(), st.none(), "text"),
]


def text_of(value: Any, kind: Kind) -> str | None:
    """Return the canonical text of one value."""
    match value:
        case None:
            return None
        case bool():
            return "true" if value else "false"
        case date():
            return value.isoformat()
        case str():
            if kind == "number":
                return NUMBER_TEXTS[value]
            return value.lower() if kind == "boolean" and value.lower() in ("true", "false") else value
        case float() if not math.isfinite(value):
            return None
        case _ if value == int(value) and abs(value) < 2**64:
            return str(int(value))
    text = f"{Decimal(repr(value)) if isinstance(value, float) else value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


@pytest.fixture(scope="session")
def raw_columns() -> list[tuple[pa.DataType, st.SearchStrategy[Any], Kind]]:
    return RAW_COLUMNS


@pytest.fixture(scope="session")
def canonical() -> Callable[[Any, Kind], str | None]:
    return text_of


def counted(values: Sequence[str]) -> pa.Table:
    """Return a table of values in the order of their ids; the last one has the count 1."""
    counts = range(len(values), 0, -1)
    return pa.table({"value": pa.array(values, pa.large_string()), "count": pa.array(counts, pa.int64())})


def write_vocabularies(
    folder: Path, fields: Sequence[Field], vocabularies: Mapping[str, Sequence[str]]
) -> tuple[str, ...]:
    """Write vocabularies, with the most frequent value first; return their digests."""
    first_ids = {field.name: field.first_value for field in fields}
    return tuple(
        write_vocabulary(folder, i, name, first_ids[name], len(values), [counted(values)])
        for i, (name, values) in enumerate(vocabularies.items())
    )


def encoding_of(
    fields: Sequence[Field], vocabularies: Mapping[str, Sequence[str]], numbers: Sequence[Number] = ()
) -> Encoding:
    """Return an encoding with these vocabularies, with the most frequent value first."""
    with TemporaryDirectory() as folder:  # mapped files stay readable after the folder is deleted
        digests = write_vocabularies(Path(folder), fields, vocabularies)
        spec = Spec(("id",), tuple(fields), tuple(numbers), digests)
        return Encoding(spec, Vocabulary.load(Path(folder), spec.vocabularies))


@pytest.fixture(scope="session")
def make_encoding() -> MakeEncoding:
    return encoding_of


@pytest.fixture(scope="session")
def write_encoding() -> Callable[..., Encoding]:
    """Function that writes an `encoding/` folder and loads it; the values of `color` and the shift of `price` vary."""

    def write_folder(folder: Path, colors: Sequence[str] = ("red", "", "blue"), shift: float = 20.0) -> Encoding:
        fields = (
            Field("color", ("color",), ("text",), 2, len(colors), "color"),
            Field("size", ("size",), ("number",), 1, 2, "size"),
            Field("age_bucket", ("age",), ("number",), 1, 3, None, edges=(18.0, 65.5)),
        )
        numbers = (
            Number("price", "price", "dense", 10.0, True, None, "none", shift, 5.0),
            Number("weight_kg", "kg", "field", 0.0, False, (0.0, 8.0), "log1p", 0.0, 1.0),
        )
        folder.mkdir(parents=True)
        digests = write_vocabularies(folder, fields, {"color": colors, "size": ["3", "0.1"]})
        (folder / "spec.json").write_text(Spec(("id",), fields, numbers, digests).to_json())
        return Encoding.load(folder)

    return write_folder


@pytest.fixture(scope="session")
def edit_json() -> Callable[..., None]:
    """Function that changes keys of a JSON file, as a user with an editor would."""

    def edit(path: Path, **changes: object) -> None:
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return edit


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "scores"


@pytest.fixture(params=["exchange", "renames"])
def any_file_system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "renames":
        monkeypatch.setattr(nfm.contract.publishing.replace, "_exchange", lambda a, b: False)
