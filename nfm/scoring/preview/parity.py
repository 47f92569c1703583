"""Rows of the real table, scored as the job scores them and once more by somebody else: do they agree?"""

import io
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark import TaskContext
from pyspark.sql import SparkSession

from nfm.config.settings import Config
from nfm.contract import dataset
from nfm.contract.artifact import Artifact
from nfm.contract.columns import Rows
from nfm.contract.encoder import Inputs, inputs
from nfm.contract.errors import DataError
from nfm.contract.values import decoded
from nfm.scoring.hosts import Placed, open_model, place_read_only
from nfm.scoring.prepare import open_all
from nfm.scoring.scorer import score_batch, score_columns
from nfm.table.errors import translate_spark_errors
from nfm.table.relation import partitions_of
from nfm.table.scan import Scan, Work

log = logging.getLogger(__name__)

ALLOWED = 1e-4  # float32 gives some 1e-6
SHOWN = 5  # rows
_SPREAD = 8  # splits that are begun with
_AT_ONCE = 4096  # rows that the other one scores at once
_PACKED = pa.schema([("split", pa.int32()), ("content", pa.binary())])

Reference = Callable[[Artifact, Inputs], NDArray[Any]]


@dataclass(frozen=True)
class Difference:
    """One row, by the output column where it differs most."""

    key: Mapping[str, Any]
    column: str
    ours: float
    theirs: float
    delta: float


@dataclass(frozen=True)
class Parity:
    """What a comparison found."""

    artifact: Artifact
    where: str  # the table
    rows: int
    splits: int  # they are from
    largest: float
    mean: float
    beyond: int  # rows that differ by more than `ALLOWED`
    worst: tuple[Difference, ...]  # the largest first


def compare(spark: SparkSession, config: Config, reference: Reference, rows: int) -> Parity:
    """Score rows that lie spread over the table in Spark's tasks, and with a reference on the driver.

    Args:
        spark: the session.
        config: the settings; nothing is written.
        reference: the artifact and some encoded rows → (N, C) scores.
        rows: how many; all, if the table has no more.

    Raises:
        DataError: as the job: the artifact is refused, or the table does not fit it.
    """
    artifact, scan, source = open_all(spark, config)
    spec, names = artifact.encoding.spec, score_columns(artifact.network)
    encoded = config.score.encoded
    log.info("scoring %s rows of %s with the model %s…", f"{rows:,}", source, artifact.fingerprint[:12])
    with translate_spark_errors(str(source)):
        taken = _sample(spark, config, artifact, scan, rows)
    log.info("scoring them with Keras…")
    theirs, ours, keys = list[NDArray[Any]](), list[NDArray[Any]](), list[Mapping[str, Any]]()
    for scores_NC, batch in (part for parts in taken.values() for part in parts):
        ours.append(scores_NC)
        keys += batch.select(list(spec.key)).to_pylist()
        for start in range(0, batch.num_rows, _AT_ONCE):
            piece = batch.slice(start, _AT_ONCE)
            if encoded:
                columns = {name: dataset.column(name, piece.column(name), str(source)) for name in spec.outputs}
            else:
                columns = artifact.encoding.encode(piece)
            theirs.append(reference(artifact, inputs(spec, columns)))
    ours_NC = np.concatenate([*ours, np.empty((0, len(names)))]).astype(np.float64)
    theirs_NC = np.concatenate([*theirs, np.empty((0, len(names)))]).astype(np.float64)
    delta_NC = deltas(ours_NC, theirs_NC, artifact.network.task)
    delta_N = delta_NC.max(axis=1)
    worst = np.argsort(-delta_N, kind="stable")[:SHOWN].tolist()
    column_of = delta_NC.argmax(axis=1)
    return Parity(
        artifact,
        str(source),
        len(keys),
        len(taken),
        float(delta_N.max(initial=0.0)),
        float(delta_N.mean()) if len(keys) else 0.0,
        int(np.count_nonzero(delta_N > ALLOWED)),
        tuple(
            Difference(keys[i], names[c], float(ours_NC[i, c]), float(theirs_NC[i, c]), float(delta_N[i]))
            for i, c in ((i, int(column_of[i])) for i in worst)
        ),
    )


def deltas(ours_NC: NDArray[np.float64], theirs_NC: NDArray[np.float64], task: str) -> NDArray[np.float64]:
    """(N, C) how far scores lie apart; infinity where one of them alone is no finite number.

    Of probabilities, the absolute difference. Of a regression, which has a scale of its own, its share of the score, or
    where that is close to zero of the mean size of all scores here.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        delta_NC = np.abs(ours_NC - theirs_NC)
        if task == "regression":
            size_NC = np.abs(theirs_NC)
            usual = float(size_NC[np.isfinite(size_NC)].mean()) if np.isfinite(size_NC).any() else 0.0
            scale_NC = np.maximum(size_NC, usual)
            delta_NC = np.where(delta_NC == 0, 0.0, delta_NC / np.where(scale_NC > 0, scale_NC, 1.0))
    same_NC = (ours_NC == theirs_NC) | (np.isnan(ours_NC) & np.isnan(theirs_NC))
    finite_NC = np.isfinite(ours_NC) & np.isfinite(theirs_NC)
    return np.where(same_NC, 0.0, np.where(finite_NC, delta_NC, np.inf))


def check(found: Parity) -> str:
    """What to tell people of a comparison that went well.

    Raises:
        DataError: it did not.
    """
    whose = "relative to the score" if found.artifact.network.task == "regression" else "of a probability"
    rows = [_line(row) for row in found.worst]
    if not found.largest <= ALLOWED:
        raise DataError(
            f"The scores of this job and of Keras must agree to {ALLOWED:g} ({whose}), but {found.beyond:,} of "
            f"{found.rows:,} rows of {found.where} differ by more, by {found.largest:.3g} at most: keras/ and weights/ "
            f"of {found.artifact.path} do not belong together. Nothing was published. Restore the model from a copy, "
            "or run jobs/train.py again. The rows that differ most:\n" + "\n".join(rows)
        )
    return "\n".join(
        [
            f"Parity: {found.rows:,} rows of {found.where}, from {found.splits} "
            f"split{'s' * (found.splits != 1)}, have the scores that Keras gives them; nothing was published.",
            f"  max |delta|   {found.largest:.2e} (allowed {ALLOWED:g}, {whose})",
            f"  mean |delta|  {found.mean:.2e}",
            f"  model         {found.artifact.path} ({found.artifact.fingerprint[:12]}…)",
            *["  rows that differ most:"] * bool(rows),
            *rows,
        ]
    )


def _line(row: Difference) -> str:
    key = ", ".join(f"{name} {value!r}" for name, value in row.key.items())
    return f"    {key}: {row.column} {row.ours:.7g}, Keras {row.theirs:.7g}, delta {row.delta:.2e}"


_Part = tuple[NDArray[np.float32], pa.RecordBatch]  # (N, C) scores, and the raw rows


def _sample(spark: SparkSession, config: Config, artifact: Artifact, scan: Scan, rows: int) -> dict[int, list[_Part]]:
    """So many rows, by the number of their split: first a few from splits far apart, then as many as are missing."""
    spec, encoded = artifact.encoding.spec, config.score.encoded
    placed = place_read_only(spark, artifact, config.scores_folder)
    needed = tuple(dict.fromkeys([*spec.key, *(spec.outputs if encoded else spec.columns)]))
    count = partitions_of(scan.table, even_if_costly=True) if scan.files is None else len(scan.splits)
    left, done = list(range(count or 0)), dict.fromkeys(range(count or 0), 0)
    taken: dict[int, list[_Part]] = {}
    missing, wave = rows, _spread(left, min(_SPREAD, rows))
    while missing and wave:
        quota = math.ceil(missing / len(wave))
        begin = {number: done[number] for number in wave}
        mapped = scan.map(needed, _task(placed, begin, quota, needed, encoded), _PACKED)
        # Only these tasks are run: one that reads nothing of what Spark hands it would cost its worker.
        for told in spark.sparkContext.runJob(mapped.rdd, list, wave):
            scores_NC, batch = _unpacked(told.content, artifact.network.outputs)
            done[told.split] += batch.num_rows
            kept = min(missing, batch.num_rows)
            if kept:
                taken.setdefault(told.split, []).append((scores_NC[:kept], batch.slice(0, kept)))
            missing -= kept
        left = [number for number in left if number not in begin or done[number] == begin[number] + quota]
        wave = _spread(left, 4 * len(wave))
    return taken


def _task(placed: Placed, begin: Mapping[int, int], quota: int, names: tuple[str, ...], encoded: bool) -> Work:
    """So many rows and their scores; of each split, the rows before the one it begins with are passed over."""

    # The closure takes small values, or the handles of broadcasts.
    def work(batches: Iterator[Rows]) -> Iterator[pa.RecordBatch]:
        context = TaskContext.get()
        assert context is not None
        split = context.partitionId()
        for part in _between(batches, begin[split], begin[split] + quota, names):
            scores_NC = score_batch(open_model(placed), part, encoded)
            yield pa.RecordBatch.from_pydict({"split": [split], "content": [_packed(scores_NC, part)]}, _PACKED)

    return work


def _spread(numbers: Sequence[int], count: int) -> list[int]:
    """So many of them at most, at equal distances."""
    count = min(count, len(numbers))
    return [numbers[i * len(numbers) // count] for i in range(count)]


def _between(batches: Iterator[Rows], start: int, stop: int, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Rows of a task from `start` to before `stop`, of these columns; texts as texts."""
    position = 0
    for rows in batches:
        here = slice(max(start - position, 0), min(stop - position, rows.num_rows))
        if here.start < here.stop:
            length = here.stop - here.start
            arrays = [decoded(rows.column(name).slice(here.start, length)) for name in names]
            yield pa.RecordBatch.from_arrays(arrays, names=list(names))
        position += rows.num_rows
        if position >= stop:
            return


def _packed(scores_NC: NDArray[np.float32], rows: pa.RecordBatch) -> bytes:
    """As Arrow's own bytes: Spark's types would not carry every column as it is."""
    names = [*map(str, range(scores_NC.shape[1])), *rows.schema.names]
    batch = pa.RecordBatch.from_arrays([*map(pa.array, scores_NC.T), *rows.columns], names=names)
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue()


def _unpacked(content: bytes, outputs: int) -> _Part:
    batch = pa.ipc.open_stream(bytes(content)).read_next_batch()
    scores_NC = np.column_stack([column.to_numpy() for column in batch.columns[:outputs]])
    return scores_NC, pa.RecordBatch.from_arrays(batch.columns[outputs:], names=batch.schema.names[outputs:])
