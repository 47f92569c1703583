"""Compare the job's scores with those of the Keras model, on rows of the real table."""

import io
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import SparkSession

from nfm.config.settings import Config
from nfm.contract import dataset
from nfm.contract.artifact import Artifact
from nfm.contract.columns import Rows
from nfm.contract.dataset import Inputs, arrange_inputs
from nfm.contract.errors import DataError
from nfm.contract.schema import Spec
from nfm.contract.values import decode_dictionary
from nfm.scoring.prepare import model_inputs, open_all, renamed_keys
from nfm.scoring.scorer import score_batch, score_columns
from nfm.table.errors import translate_spark_errors
from nfm.table.jobs.hosts import Placed, open_model, place_read_only
from nfm.table.relation import count_partitions
from nfm.table.scan import Scan

log = logging.getLogger(__name__)

ALLOWED = 1e-4  # largest difference; float32 alone causes about 1e-6
SHOWN = 5  # rows in messages
_SPREAD = 8  # splits of the first wave
_BATCH = 4096  # rows that the reference scores at a time
_SCORED = pa.schema([("split", pa.int32()), ("content", pa.binary())])

Reference = Callable[[Artifact, Inputs], NDArray[Any]]  # the model and encoded rows → (N, C) scores
Scored = tuple[NDArray[np.float32], pa.RecordBatch]  # (N, C) scores, and the raw rows


@dataclass(frozen=True)
class RowDifference:
    """A row, and the score column where it differs most."""

    key: Mapping[str, Any]
    column: str
    nfm: float
    keras: float
    delta: float

    def __str__(self) -> str:
        """Return a line for messages."""
        key = ", ".join(f"{name} {value!r}" for name, value in self.key.items())
        return f"    {key}: {self.column} {self.nfm:.7g}, Keras {self.keras:.7g}, delta {self.delta:.2e}"


@dataclass(frozen=True)
class Parity:
    """Result of a comparison."""

    artifact: Artifact
    where: str  # name of the table
    rows: int
    splits: int  # that the rows come from
    largest: float
    mean: float
    beyond: int  # rows that differ by more than `ALLOWED`
    worst: tuple[RowDifference, ...]  # the largest first


def compare(spark: SparkSession, config: Config, reference: Reference, rows: int) -> Parity:
    """Score `rows` rows from across the table in Spark's tasks and with a reference on the driver; compare them."""
    artifact, scan, source = open_all(spark, config)
    log.info("scoring %s rows of %s with the model %s…", f"{rows:,}", source, artifact.fingerprint[:12])
    with translate_spark_errors(str(source)):
        sample = _sample(spark, config, artifact, scan, rows)
    log.info("scoring them with Keras…")
    batches = [scored for scored_of_split in sample.values() for scored in scored_of_split]
    no_rows = np.empty((0, artifact.network.outputs))
    references = [
        reference(artifact, _encode(artifact, batch.slice(start, _BATCH), config.score.encoded, str(source)))
        for _, batch in batches
        for start in range(0, batch.num_rows, _BATCH)
    ]
    nfm_NC = np.concatenate([*(scores_NC for scores_NC, _ in batches), no_rows]).astype(np.float64)
    keras_NC = np.concatenate([*references, no_rows]).astype(np.float64)
    delta_NC = deltas(nfm_NC, keras_NC, artifact.network.task)
    delta_N, column_N = delta_NC.max(axis=1), delta_NC.argmax(axis=1)
    names, keys = score_columns(artifact.network), _key_columns(artifact.encoding.spec, config)
    key_of = [key for _, batch in batches for key in batch.select(keys).to_pylist()]
    worst = [
        RowDifference(key_of[i], names[c], float(nfm_NC[i, c]), float(keras_NC[i, c]), float(delta_N[i]))
        for i, c in ((i, int(column_N[i])) for i in np.argsort(-delta_N, kind="stable")[:SHOWN].tolist())
    ]
    largest, mean = float(delta_N.max(initial=0.0)), float(delta_N.mean()) if len(delta_N) else 0.0
    beyond = int(np.count_nonzero(delta_N > ALLOWED))
    return Parity(artifact, str(source), len(delta_N), len(sample), largest, mean, beyond, tuple(worst))


def _encode(artifact: Artifact, rows: pa.RecordBatch, encoded: bool, where: str) -> Inputs:
    spec = artifact.encoding.spec
    if encoded:
        return arrange_inputs(
            spec, {name: dataset.read_column(name, rows.column(name), where) for name in spec.outputs}
        )
    return arrange_inputs(spec, artifact.encoding.encode(rows))


def deltas(nfm_NC: NDArray[np.float64], keras_NC: NDArray[np.float64], task: str) -> NDArray[np.float64]:
    """Return (N, C) differences of scores; infinity where only one of the two scores is finite.

    Differences of probabilities are absolute. Those of a regression, which has a scale of its own, are relative to the
    score, or to the mean size of all scores if that is larger.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        delta_NC = np.abs(nfm_NC - keras_NC)
        if task == "regression":
            size_NC = np.abs(keras_NC)
            mean_size = float(size_NC[np.isfinite(size_NC)].mean()) if np.isfinite(size_NC).any() else 0.0
            scale_NC = np.maximum(size_NC, mean_size)
            delta_NC = np.where(delta_NC == 0, 0.0, delta_NC / np.where(scale_NC > 0, scale_NC, 1.0))
    same_NC = (nfm_NC == keras_NC) | (np.isnan(nfm_NC) & np.isnan(keras_NC))
    finite_NC = np.isfinite(nfm_NC) & np.isfinite(keras_NC)
    return np.where(same_NC, 0.0, np.where(finite_NC, delta_NC, np.inf))


def check(parity: Parity) -> str:
    """Return a message if the scores agree, else raise a DataError."""
    unit = "relative to the score" if parity.artifact.network.task == "regression" else "absolute"
    rows = [str(row) for row in parity.worst]
    if not parity.largest <= ALLOWED:
        raise DataError(
            f"The scores of this job and of Keras must agree to {ALLOWED:g} ({unit}), but {parity.beyond:,} of "
            f"{parity.rows:,} rows of {parity.where} differ by more, by {parity.largest:.3g} at most: keras/ and "
            f"weights/ of {parity.artifact.path} do not belong together. Nothing was published. Restore the model "
            "from a copy, or run nfm train again. The rows that differ most:\n" + "\n".join(rows)
        )
    return "\n".join(
        [
            f"Parity: {parity.rows:,} rows of {parity.where}, from {parity.splits} "
            f"split{'s' * (parity.splits != 1)}, have the same scores as in Keras; nothing was published.",
            f"  max |delta|   {parity.largest:.2e} (allowed {ALLOWED:g}, {unit})",
            f"  mean |delta|  {parity.mean:.2e}",
            f"  model         {parity.artifact.path} ({parity.artifact.fingerprint[:12]}…)",
            *["  rows that differ most:"] * bool(rows),
            *rows,
        ]
    )


def _key_columns(spec: Spec, config: Config) -> list[str]:
    """Return the names of the key columns in the table."""
    renamed = renamed_keys(spec, config)
    return [renamed.get(name, name) for name in spec.key]


def _sample(spark: SparkSession, config: Config, artifact: Artifact, scan: Scan, rows: int) -> dict[int, list[Scored]]:
    """Score `rows` rows and return them by split: first a few from distant splits, then more until there are enough."""
    spec, encoded = artifact.encoding.spec, config.score.encoded
    placed = place_read_only(spark, artifact, config.scores_folder)
    names = tuple(dict.fromkeys([*_key_columns(spec, config), *model_inputs(spec, encoded)]))
    count = count_partitions(scan.table, even_if_costly=True) if scan.files is None else len(scan.splits)
    left, done = list(range(count or 0)), dict.fromkeys(range(count or 0), 0)
    sample: dict[int, list[Scored]] = {}
    missing, wave = rows, _spread(left, min(_SPREAD, rows))
    while missing and wave:
        quota = math.ceil(missing / len(wave))
        begin = {number: done[number] for number in wave}
        mapped = scan.map_splits(names, _scoring_task(placed, begin, quota, names, encoded), _SCORED)
        # Run these tasks only: Spark would stop the worker of a task that does not read its input.
        for row in spark.sparkContext.runJob(mapped.rdd, list, wave):
            scores_NC, batch = _unpack(row.content, artifact.network.outputs)
            done[row.split] += batch.num_rows
            kept = min(missing, batch.num_rows)
            if kept:
                sample.setdefault(row.split, []).append((scores_NC[:kept], batch.slice(0, kept)))
            missing -= kept
        left = [number for number in left if number not in begin or done[number] == begin[number] + quota]
        wave = _spread(left, 4 * len(wave))
    return sample


def _scoring_task(
    placed: Placed, begin: Mapping[int, int], quota: int, names: Sequence[str], encoded: bool
) -> Callable[[int, Iterator[Rows]], Iterator[pa.RecordBatch]]:
    """Return a task that scores `quota` rows of its split, starting at row `begin[split]`."""

    # The closure takes small values or handles of broadcasts.
    def work(split: int, batches: Iterator[Rows]) -> Iterator[pa.RecordBatch]:
        for rows in _rows_between(batches, begin[split], begin[split] + quota, names):
            content = _pack(score_batch(open_model(placed), rows, encoded), rows)
            yield pa.RecordBatch.from_pylist([{"split": split, "content": content}], _SCORED)

    return work


def _spread(numbers: Sequence[int], count: int) -> list[int]:
    """Return at most `count` of the numbers, at equal distances."""
    count = min(count, len(numbers))
    return [numbers[i * len(numbers) // count] for i in range(count)]


def _rows_between(batches: Iterator[Rows], start: int, stop: int, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Yield these columns of a task's rows from `start` to before `stop`; texts are decoded."""
    position = 0
    for rows in batches:
        first, end = max(start - position, 0), min(stop - position, rows.num_rows)
        if first < end:
            arrays = [decode_dictionary(rows.column(name).slice(first, end - first)) for name in names]
            yield pa.RecordBatch.from_arrays(arrays, names=list(names))
        position += rows.num_rows
        if position >= stop:
            return


def _pack(scores_NC: NDArray[np.float32], rows: pa.RecordBatch) -> bytes:
    """Serialize scores and rows in Arrow's format: Spark's types would change some columns."""
    names = [*map(str, range(scores_NC.shape[1])), *rows.schema.names]
    batch = pa.RecordBatch.from_arrays([*map(pa.array, scores_NC.T), *rows.columns], names=names)
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue()


def _unpack(content: bytes, outputs: int) -> Scored:
    batch = pa.ipc.open_stream(bytes(content)).read_next_batch()
    scores_NC = np.column_stack([column.to_numpy() for column in batch.columns[:outputs]])
    return scores_NC, pa.RecordBatch.from_arrays(batch.columns[outputs:], names=batch.schema.names[outputs:])
