"""Save, load and verify a trained model.

    model/  metadata.json  encoding/  weights/*.npy  profile.json  keras/model.keras  report.html

`metadata.json` is written last and contains the checksum of every other file; a folder without it is not a model.
Weights are plain arrays with batch norm folded in, so scoring needs no TensorFlow; nothing is pickled.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NoReturn, Self

import numpy as np
from numpy.typing import NDArray

from nfm.contract.arrays import map_file
from nfm.contract.encoder import ENCODER_FILES, Encoding, read_more
from nfm.contract.errors import DataError
from nfm.contract.profile import PROFILE, Profile
from nfm.contract.publishing.publish import FILES, publish
from nfm.contract.publishing.published import Result, check_fingerprint, read_published
from nfm.contract.schema import Spec, canonical_json, tuples

ARTIFACT_FORMAT = 2
MARKER = "metadata.json"
# Files that scoring needs
SCORER_FILES = (MARKER, PROFILE, *(f"encoding/{name}" for name in ENCODER_FILES), "weights/*.npy")


@dataclass(frozen=True)
class Network:
    """Architecture of a model, which the forward pass needs besides the weights."""

    task: str
    embedding_dim: int
    hidden_units: tuple[int, ...]
    activation: str
    classes: tuple[str, ...] = ()  # of a multiclass model: the class of each output
    embedding_dtype: str = "float32"
    bins: bool = True  # numbers use their interpolated bins, if the encoding has them
    rates: tuple[str, ...] = ()  # fields whose values have target rates
    counts: bool = False  # the fields with target rates also have the logarithm of the number of rows

    @property
    def outputs(self) -> int:
        """Number of outputs, C: one, or one for each class."""
        return max(1, len(self.classes))

    @property
    def rate_columns(self) -> int:
        """Number of dense columns of a field with target rates: one for each output, and the one of `counts`."""
        return self.outputs + self.counts

    def dense_columns(self, spec: Spec) -> int:
        """Return the number of dense columns: numbers, missing flags, target rates and counts."""
        return len(spec.dense) + len(self.rates) * self.rate_columns

    def weight_shapes(self, spec: Spec) -> dict[str, tuple[int, ...]]:
        """Return the names and shapes of the arrays under `weights/`.

        R rows of the table, K embedding size, D dense columns, C outputs: `embedding` (R, K), `linear` (R, C),
        `dense_linear` (D, C), `bias` (C,), `hidden_i_kernel` (in, out), `hidden_i_bias` (out,), `output` (K or the last
        hidden size, C); with target rates `rates` (R, C or C + 1). All are float32, except `embedding`, which
        has `embedding_dtype`.
        """
        dense = self.dense_columns(spec)
        shapes: dict[str, tuple[int, ...]] = {
            "embedding": (spec.rows, self.embedding_dim),
            "linear": (spec.rows, self.outputs),
            "dense_linear": (dense, self.outputs),
            "bias": (self.outputs,),
        }
        if self.rates:
            shapes["rates"] = (spec.rows, self.rate_columns)
        width = self.embedding_dim
        for i, units in enumerate(self.hidden_units):
            inputs = width + dense if i == 0 else width
            shapes[f"hidden_{i}_kernel"], shapes[f"hidden_{i}_bias"] = (inputs, units), (units,)
            width = units
        return shapes | {"output": (width, self.outputs)}

    def dtype(self, name: str) -> str:
        """Return the dtype of the array of this name."""
        return self.embedding_dtype if name == "embedding" else "float32"


@dataclass(frozen=True)
class Artifact:
    """A loaded model; the weights are memory-mapped."""

    path: Path
    metadata: Mapping[str, Any]
    encoding: Encoding
    network: Network
    weights: Mapping[str, NDArray[Any]]  # of Network.dtype
    profile: Profile | None  # of the training data; None: the model was saved without one

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the metadata, which includes the checksum of every file."""
        return str(self.metadata["fingerprint"])

    @property
    def description(self) -> str:
        """Folder, model task, number of inputs, and the first digits of the fingerprint."""
        spec = self.encoding.spec
        counts = {"field": len(spec.fields), "number": len(spec.numbers)}
        inputs = [f"{count} {name}{'s' * (count != 1)}" for name, count in counts.items()]
        return ", ".join([repr(str(self.path)), self.network.task, *inputs, f"{self.fingerprint[:12]}…"])

    def __repr__(self) -> str:
        """Return a short description instead of all weights."""
        return f"Artifact({self.description})"

    @classmethod
    def load(cls, folder: Path, verify: bool = True) -> Self:
        """Open the model in `folder`; with `verify`, read every file and compare its checksum.

        Workers skip this if the driver has verified the model. All files belong to one model, even if it is replaced
        meanwhile. Raises DataError, which names the file, for a folder that is not a model, or for a wrong version,
        fingerprint, shape or checksum.
        """
        return read_published([folder], lambda: cls._read(folder, verify))

    @classmethod
    def _read(cls, folder: Path, verify: bool) -> Self:
        metadata = _read_metadata(folder)
        for name, checksum in metadata["files"].items() if verify else ():
            path = folder / name
            if not path.is_file():
                _refuse(path, "it is missing")
            if _compute_checksum(path) != checksum:
                _refuse(path, "its checksum is not the one in metadata.json")
        encoding = Encoding.load(folder / "encoding")
        if encoding.spec.fingerprint != metadata["encoding_fingerprint"]:
            _refuse(folder / "encoding/spec.json", "its fingerprint is not the one that the model was trained with")
        network = Network(**tuples(metadata["network"]))
        encoding = replace(encoding, spec=replace(encoding.spec, uses_bins=network.bins))
        weights = {}
        for name, shape in network.weight_shapes(encoding.spec).items():
            path = folder / "weights" / f"{name}.npy"
            try:
                weights[name] = map_file(path, network.dtype(name), shape)
            except ValueError as error:
                _refuse(path, f"it {error}")
        return cls(folder, metadata, encoding, network, weights, Profile.load(folder, encoding.spec))

    def read_more(self, read: Callable[[], Result]) -> Result:
        """Call `read` for further files of the model; ReplacedError if it was replaced since it was loaded."""

        def check_and_read() -> Result:
            found = _read_metadata(self.path)["fingerprint"]
            check_fingerprint(self.path, "model", found, self.fingerprint)
            return read()

        return read_published([self.path], check_and_read)


def save(
    target: Path,
    *,
    encoding_folder: Path,
    encoding_fingerprint: str | None = None,
    network: Network,
    weights: Mapping[str, NDArray[np.float32]],
    facts: Mapping[str, Any],
    write_more: Callable[[Path], None],
) -> str:
    """Write a model and publish it in `target`; readers see the old one until the new one is complete.

    Args:
        target: the model folder.
        encoding_folder: is copied.
        encoding_fingerprint: the encoding with which the model was trained; None: the one in the folder.
        network: the architecture.
        weights: the arrays that `network.weight_shapes` lists.
        facts: further entries of metadata.json.
        write_more: writes further files into the folder that it is called with.

    Returns:
        The model's fingerprint.

    Raises:
        DataError: a weight is too large for its type, or `target` exists and is not a model.
        ReplacedError: the encoding was replaced since the training read it.
    """
    spec = Encoding.load(encoding_folder).spec
    check_fingerprint(encoding_folder, "encoding", spec.fingerprint, encoding_fingerprint or spec.fingerprint)
    shapes = network.weight_shapes(replace(spec, uses_bins=network.bins))
    assert {name: array.shape for name, array in weights.items()} == shapes, "the export does not fit the network"
    with publish(target, MARKER) as staging:
        _copy_encoding(encoding_folder, spec.fingerprint, staging / "encoding")
        (staging / "weights").mkdir()
        for name, array in weights.items():
            np.save(staging / "weights" / f"{name}.npy", _cast(array, network.dtype(name), name))
        write_more(staging)
        metadata = {
            "format": ARTIFACT_FORMAT,
            "encoding_fingerprint": spec.fingerprint,
            "network": asdict(network),
            **facts,
            "files": {
                str(path.relative_to(staging)): _compute_checksum(path)
                for path in sorted(staging.rglob("*"))
                if path.is_file()
            },
        }
        metadata["fingerprint"] = _compute_fingerprint(metadata)
        (staging / MARKER).write_text(json.dumps(metadata, indent=1))
    return str(metadata["fingerprint"])


def _copy_encoding(folder: Path, fingerprint: str, copy: Path) -> None:
    def copy_again() -> None:
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(folder, copy, ignore=shutil.ignore_patterns(FILES))

    read_more(folder, fingerprint, copy_again)


def _cast(array: NDArray[Any], dtype: str, name: str) -> NDArray[Any]:
    with np.errstate(over="ignore"):  # raised below
        saved = np.ascontiguousarray(array, dtype)
    lost = np.isfinite(array) & ~np.isfinite(saved)
    if lost.any():
        raise DataError(
            f"The trained weights '{name}' contain {float(array[lost][0]):g}, but the largest {dtype} is "
            f"{np.finfo(dtype).max:g}. Set model.embedding_dtype: float32, or train with a smaller learning rate."
        )
    return saved


def _read_metadata(folder: Path) -> dict[str, Any]:
    path = folder / MARKER
    try:
        metadata: dict[str, Any] = json.loads(path.read_text())
        written_format, fingerprint = metadata["format"], metadata.pop("fingerprint")
        found = _compute_fingerprint(metadata)
    except OSError as error:
        raise DataError(
            f"There is no model in {folder}: {MARKER} cannot be read ({error.strerror}). Run nfm train first, "
            "or name the folder of an existing model (score.model, train.init_from)."
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        _refuse(path, f"it is not a model's metadata ({error!r})")
    if written_format != ARTIFACT_FORMAT:
        _refuse(path, f"its format version is {written_format}, and this version of nfm reads {ARTIFACT_FORMAT}")
    if fingerprint != found:
        _refuse(path, "its content does not match its fingerprint")
    return metadata | {"fingerprint": fingerprint}


def _refuse(path: Path, reason: str) -> NoReturn:
    raise DataError(
        f"{path} is refused: {reason}. A model must not be changed after it is written. Restore it from a copy, or run "
        "nfm train again."
    )


def _compute_fingerprint(metadata: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical_json(metadata).encode()).hexdigest()


def _compute_checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
