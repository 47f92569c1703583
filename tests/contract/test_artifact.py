"""Saving and loading a model: the loaded model equals the saved one, and any changed file is refused."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from nfm.contract.artifact import Artifact, Network, save
from nfm.contract.encoder import Encoding
from nfm.contract.errors import DataError, ReplacedError

Write = Callable[..., Encoding]
Weights = dict[str, NDArray[np.float32]]

NETWORK = Network(task="binary", embedding_dim=2, hidden_units=(4, 3), activation="relu")
# Ids of color: missing, 2 out-of-vocabulary, 3 values; size: missing, 1, 2 values; age_bucket: missing, 1, 3 buckets;
# weight_kg enters the pooling. Dense: price and price_missing.
ROWS = 6 + 4 + 5 + 1
SHAPES: dict[str, tuple[int, ...]] = {
    "embedding": (ROWS, 2),
    "linear": (ROWS, 1),
    "dense_linear": (2, 1),
    "bias": (1,),
    "hidden_0_kernel": (2 + 2, 4),
    "hidden_0_bias": (4,),
    "hidden_1_kernel": (4, 3),
    "hidden_1_bias": (3,),
    "output": (3, 1),
}
FILES = [
    *(f"encoding/index/{number}/{name}.npy" for number in (0, 1) for name in ("offsets", "slots", "text")),
    "encoding/spec.json",
    *(f"encoding/vocabulary.parquet/0000{number}.parquet" for number in (0, 1)),
    "keras/model.keras",
    *(f"weights/{name}.npy" for name in sorted(SHAPES)),
]
FACTS = {"metrics": {"auc": 0.75, "loss": 1e-300}, "rows": {"train": 12}, "config": {"name": "é"}}


def weights_of(seed: int) -> Weights:
    random = np.random.default_rng(seed)
    return {name: random.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}


def write_keras(staging: Path) -> None:
    (staging / "keras").mkdir()
    (staging / "keras/model.keras").write_bytes(b"not read by these tests")


def save_model(target: Path, encoding_folder: Path, weights: Weights, **changes: Any) -> None:
    arguments = {"network": NETWORK, "facts": FACTS, "write_more": write_keras, **changes}
    save(target, encoding_folder=encoding_folder, weights=weights, **arguments)


@pytest.fixture
def encoding_folder(write_encoding: Write, tmp_path: Path) -> Path:
    write_encoding(tmp_path / "encoding")
    return tmp_path / "encoding"


@pytest.fixture
def model(encoding_folder: Path, tmp_path: Path) -> Path:
    save_model(tmp_path / "model", encoding_folder, weights_of(1))
    return tmp_path / "model"


def refusal(folder: Path, verify: bool = True) -> str:
    with pytest.raises(DataError) as refused:
        Artifact.load(folder, verify)
    assert refused.value.exit_code == 3
    return str(refused.value)


def test_shapes_of_the_weights(model: Path, encoding_folder: Path) -> None:
    spec = Encoding.load(encoding_folder).spec
    assert NETWORK.weight_shapes(spec) == SHAPES
    without_hidden = Network("binary", 7, (), "relu").weight_shapes(spec)
    assert without_hidden == {
        "embedding": (ROWS, 7),
        "linear": (ROWS, 1),
        "dense_linear": (2, 1),
        "bias": (1,),
        "output": (7, 1),
    }


def test_shapes_of_several_classes(encoding_folder: Path) -> None:
    spec = Encoding.load(encoding_folder).spec
    network = Network("multiclass", 2, (4, 3), "relu", ("red", "green", "blue"))
    several = {"linear": (ROWS, 3), "dense_linear": (2, 3), "bias": (3,), "output": (3, 3)}
    assert network.weight_shapes(spec) == {**SHAPES, **several}
    assert Network("multiclass", 2, (), "relu", ("a", "b")).weight_shapes(spec)["output"] == (2, 2)
    assert [Network(task, 2, (), "relu").outputs for task in ("binary", "regression")] == [1, 1]


@pytest.mark.parametrize(
    "network",
    [
        Network("multiclass", 2, (4, 3), "tanh", ("", "é", "1.5"), "float16"),
        Network("regression", 2, (), "relu"),
    ],
    ids=str,
)
def test_every_architecture_is_loaded_as_saved(encoding_folder: Path, tmp_path: Path, network: Network) -> None:
    random = np.random.default_rng(1)
    shapes = network.weight_shapes(Encoding.load(encoding_folder).spec)
    weights = {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    save_model(tmp_path / "model", encoding_folder, weights, network=network)
    artifact = Artifact.load(tmp_path / "model")
    assert artifact.network == network
    for name, array in weights.items():
        wanted = array.astype(np.float16) if name == "embedding" and network.embedding_dtype == "float16" else array
        np.testing.assert_array_equal(artifact.weights[name], wanted, strict=True)


HALF = Network("binary", 2, (4, 3), "relu", embedding_dtype="float16")


def test_only_the_embeddings_are_float16(encoding_folder: Path, tmp_path: Path) -> None:
    save_model(tmp_path / "model", encoding_folder, weights_of(1), network=HALF)
    artifact = Artifact.load(tmp_path / "model")
    types = {name: str(array.dtype) for name, array in artifact.weights.items()}
    assert types == {**dict.fromkeys(SHAPES, "float32"), "embedding": "float16"}
    # A float16 has 11 significant bits.
    np.testing.assert_allclose(artifact.weights["embedding"], weights_of(1)["embedding"], rtol=2.0**-11)


def test_embeddings_with_a_dtype_other_than_the_networks_are_refused(
    model: Path, encoding_folder: Path, tmp_path: Path
) -> None:
    save_model(tmp_path / "half", encoding_folder, weights_of(1), network=HALF)
    for folder, needed, name in ((model, "float32", "float16"), (tmp_path / "half", "float16", "float32")):
        path = folder / "weights/embedding.npy"
        np.save(path, np.load(path).astype(name))
        assert refusal(folder, verify=False).startswith(
            f"{path} is refused: it is {name} {(ROWS, 2)} where {needed} {(ROWS, 2)} is needed."
        )


def test_an_embedding_too_large_for_float16_is_refused(model: Path, encoding_folder: Path) -> None:
    before = Artifact.load(model).fingerprint
    weights = weights_of(1)
    weights["embedding"][3, 1] = -65519  # the largest value that is rounded to -65504
    save_model(model.parent / "half", encoding_folder, weights, network=HALF)
    assert Artifact.load(model.parent / "half").weights["embedding"][3, 1] == -65504
    weights["embedding"][3, 1] = -65520
    with pytest.raises(DataError, match=r"'embedding' contain -65520, but the largest float16 is 65504\. Set"):
        save_model(model, encoding_folder, weights, network=HALF)
    assert Artifact.load(model).fingerprint == before


@pytest.mark.parametrize("verify", [True, False])
def test_loaded_equals_saved(model: Path, encoding_folder: Path, verify: bool) -> None:
    artifact = Artifact.load(model, verify)
    assert artifact.network == NETWORK
    assert list(artifact.weights) == list(SHAPES)
    for name, array in weights_of(1).items():
        np.testing.assert_array_equal(artifact.weights[name], array, strict=True)
    assert {key: artifact.metadata[key] for key in FACTS} == FACTS
    original = Encoding.load(encoding_folder)
    assert artifact.encoding.spec == original.spec
    artifact.encoding.verify("the model")
    batch = pa.record_batch({"color": ["red", None, "", "x"], "size": [3, None, 1, 3], "age": [1.0] * 4})
    batch = batch.append_column("price", pa.array([None, "", "1", "2"])).append_column("kg", pa.array([1, 2, 3, None]))
    for name, expected in original.encode(batch).items():
        np.testing.assert_array_equal(artifact.encoding.encode(batch)[name], expected, strict=True)


def test_weights_are_memory_mapped(model: Path) -> None:
    artifact = Artifact.load(model, verify=False)
    mapped = Path("/proc/self/maps").read_text()
    assert [name for name in artifact.weights if f"{model}/weights/{name}.npy" not in mapped] == []


def test_weights_are_saved_by_value_in_any_memory_order_and_precision(encoding_folder: Path, tmp_path: Path) -> None:
    weights = weights_of(1)
    reordered: Any = {name: np.asfortranarray(array).astype(np.float64, order="K") for name, array in weights.items()}
    save_model(tmp_path / "model", encoding_folder, reordered)
    for name, array in Artifact.load(tmp_path / "model").weights.items():
        np.testing.assert_array_equal(array, weights[name], strict=True)


def test_metadata_lists_every_other_file_with_its_checksum(model: Path) -> None:
    metadata = json.loads((model / "metadata.json").read_text())
    assert list(metadata["files"]) == FILES
    assert {path.relative_to(model).as_posix() for path in model.rglob("*") if path.is_file()} == {
        *FILES,
        "metadata.json",
        "_files.json",
    }
    for name, checksum in metadata["files"].items():
        assert hashlib.sha256((model / name).read_bytes()).hexdigest() == checksum


def test_nothing_is_pickled(model: Path) -> None:
    arrays = sorted(model.rglob("*.npy"))
    assert len(arrays) == 2 * 3 + len(SHAPES)
    for path in arrays:
        assert np.load(path, allow_pickle=False).dtype != object
    for path in model.rglob("*.json"):
        json.loads(path.read_text())
    assert pq.read_table(model / "encoding/vocabulary.parquet").num_rows == 5
    known = {".npy", ".json", ".parquet", ".keras"}
    assert {path.suffix for path in model.rglob("*") if path.is_file()} == known


def test_the_fingerprint_differs_exactly_if_the_content_differs(encoding_folder: Path, tmp_path: Path) -> None:
    def fingerprint(name: str, weights: Weights, **changes: Any) -> str:
        save_model(tmp_path / name, encoding_folder, weights, **changes)
        return Artifact.load(tmp_path / name).fingerprint

    weights = weights_of(1)
    one_bit = {**weights, "bias": np.nextafter(weights["bias"], np.float32(9))}
    fingerprints = [
        fingerprint("a", weights),
        fingerprint("b", one_bit),
        fingerprint("c", weights, facts={**FACTS, "rows": {"train": 13}}),
        fingerprint("d", weights, network=Network("binary", 2, (4, 3), "tanh")),
        fingerprint("f", weights, network=Network("regression", 2, (4, 3), "relu")),
        fingerprint("g", weights, network=HALF),
    ]
    assert len(set(fingerprints)) == 6
    assert fingerprint("e", weights) == fingerprints[0]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("place", [0, 0.5, 1])
def test_a_flipped_bit_is_refused(model: Path, name: str, place: float) -> None:
    path = model / name
    content = bytearray(path.read_bytes())
    content[round(place * (len(content) - 1))] ^= 1
    path.write_bytes(content)
    assert refusal(model).startswith(f"{path} is refused: its checksum is not the one in metadata.json.")


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_refused(model: Path, name: str) -> None:
    (model / name).unlink()
    assert refusal(model).startswith(f"{model / name} is refused: it is missing.")


@pytest.mark.parametrize("bit", [0x01, 0x80])
def test_every_flipped_byte_of_the_metadata_is_refused(model: Path, bit: int) -> None:
    path = model / "metadata.json"
    original = path.read_bytes()
    for place in range(len(original)):
        path.write_bytes(original[:place] + bytes([original[place] ^ bit]) + original[place + 1 :])
        assert refusal(model, verify=False).startswith(f"{path} is refused: ")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"metrics": {"auc": 0.99}}, "its content does not match its fingerprint"),
        ({"files": {}}, "its content does not match its fingerprint"),
        ({"added": 1}, "its content does not match its fingerprint"),
        ({"fingerprint": "0" * 64}, "its content does not match its fingerprint"),
        ({"fingerprint": None}, "its content does not match its fingerprint"),
        ({"format": 1}, "its format version is 1, and this version of nfm reads 2"),
        ({"metrics": {"auc": float("nan")}}, "it is not a model's metadata"),
    ],
    ids=str,
)
def test_edited_metadata_is_refused(
    model: Path, edit_json: Callable[..., None], changes: dict[str, Any], reason: str
) -> None:
    edit_json(model / "metadata.json", **changes)
    assert refusal(model).startswith(f"{model}/metadata.json is refused: {reason}")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", '"x"', '{"format": 1}'])
def test_a_file_that_is_not_metadata_is_refused(model: Path, text: str) -> None:
    (model / "metadata.json").write_text(text)
    assert refusal(model).startswith(f"{model}/metadata.json is refused: it is not a model's metadata")


@pytest.mark.parametrize("verify", [True, False])
def test_a_folder_without_metadata_is_not_a_model(model: Path, tmp_path: Path, verify: bool) -> None:
    (model / "metadata.json").unlink()
    for folder in (model, tmp_path / "nowhere"):
        assert refusal(folder, verify) == (
            f"There is no model in {folder}: metadata.json cannot be read (No such file or directory). "
            "Run nfm train first, or name the folder of an existing model (score.model, train.init_from)."
        )


@pytest.mark.parametrize("other", [{"colors": ("blue", "", "red")}, {"shift": 21.0}], ids=str)
def test_another_encoding_is_refused(model: Path, write_encoding: Write, tmp_path: Path, other: dict[str, Any]) -> None:
    write_encoding(tmp_path / "other", **other)
    shutil.rmtree(model / "encoding")
    shutil.copytree(tmp_path / "other", model / "encoding")
    assert "is refused: its checksum is not the one in metadata.json." in refusal(model)
    assert refusal(model, verify=False).startswith(
        f"{model}/encoding/spec.json is refused: its fingerprint is not the one that the model was trained with."
    )


@pytest.mark.parametrize("name", SHAPES)
def test_without_verification_shapes_are_still_checked(model: Path, name: str) -> None:
    path, shape = model / f"weights/{name}.npy", SHAPES[name]
    for wrong in (np.zeros((*shape, 1), np.float32), np.zeros((shape[0] + 1, *shape[1:]), np.float32), np.zeros(shape)):
        np.save(path, wrong)
        assert refusal(model, verify=False).startswith(
            f"{path} is refused: it is {wrong.dtype} {wrong.shape} where float32 {shape} is needed."
        )


def test_without_verification_an_unreadable_array_is_refused(model: Path) -> None:
    path = model / "weights/linear.npy"
    original = path.read_bytes()
    np.save(model / "object.npy", np.array([print] * ROWS, dtype=object), allow_pickle=True)
    pickled = (model / "object.npy").read_bytes()
    for content in (b"", original[:50], original[:-1], b"x" * len(original), pickled):
        path.write_bytes(content)
        assert refusal(model, verify=False).startswith(f"{path} is refused: it cannot be read (")
    path.unlink()
    assert refusal(model, verify=False).startswith(f"{path} is refused: it cannot be read ([Errno 2] No such file")


def test_a_new_model_replaces_the_old_one(model: Path, encoding_folder: Path) -> None:
    save_model(model, encoding_folder, weights_of(2))
    np.testing.assert_array_equal(Artifact.load(model).weights["bias"], weights_of(2)["bias"])


def test_a_model_is_not_saved_with_another_encoding_than_its_own(
    model: Path, encoding_folder: Path, write_encoding: Write
) -> None:
    before, trained_with = Artifact.load(model).fingerprint, Encoding.load(encoding_folder).spec.fingerprint
    shutil.rmtree(encoding_folder)
    write_encoding(encoding_folder, ("red", "", "green"))  # of the same size
    with pytest.raises(ReplacedError, match=r"^The encoding in .*/encoding was replaced while the job ran: "):
        save_model(model, encoding_folder, weights_of(2), encoding_fingerprint=trained_with)
    assert Artifact.load(model).fingerprint == before


def test_further_files_are_those_of_the_loaded_model(model: Path, encoding_folder: Path) -> None:
    artifact = Artifact.load(model)
    assert artifact.read_more(lambda: (model / "keras/model.keras").read_text()) == "not read by these tests"
    save_model(model, encoding_folder, weights_of(2))
    with pytest.raises(ReplacedError, match=r"^The model in .*/model was replaced while the job ran: "):
        artifact.read_more(lambda: (model / "keras/model.keras").read_text())


def test_a_save_that_fails_leaves_the_old_model(model: Path, encoding_folder: Path, tmp_path: Path) -> None:
    before = Artifact.load(model).fingerprint

    def fail(staging: Path) -> None:
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        save_model(model, encoding_folder, weights_of(2), write_more=fail)
    with pytest.raises(AssertionError, match="the export does not fit the network"):
        save_model(model, encoding_folder, {**weights_of(2), "bias": np.zeros(2, np.float32)})
    with pytest.raises(AssertionError, match="the export does not fit the network"):
        save_model(model, encoding_folder, {"bias": np.zeros(1, np.float32)})
    assert Artifact.load(model).fingerprint == before
    assert {path.name for path in tmp_path.iterdir()} == {"encoding", "model", ".model.lock"}


def test_a_folder_that_is_not_a_model_is_never_replaced(encoding_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model/thesis.txt").write_text("years of work")
    with pytest.raises(DataError, match=r"it contains no metadata.json\. It was not changed\."):
        save_model(tmp_path / "model", encoding_folder, weights_of(1))
    assert (tmp_path / "model/thesis.txt").read_text() == "years of work"
