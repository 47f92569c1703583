"""Measure the cost of reason codes: a batch in memory and the whole job, with and without three reasons per row."""

import statistics
from collections.abc import Callable, Sequence
from functools import partial

import pyarrow as pa
import pyarrow.parquet as pq

from nfm.contract.artifact import Artifact
from nfm.features.dataset import build
from nfm.scoring.score import score_table
from nfm.scoring.scorer import explain_batch
from tests.bench.features import FOLDER, timed
from tests.bench.score_model import HOME, SMALL, config, quiet_session, save_random, table
from tests.bench.table import FIELDS, NUMBERS, write

ROWS, ROUNDS, REASONS, TARGET = 1 << 17, 5, 3, 3
TEN: tuple[Sequence[str], Sequence[str]] = (
    [*FIELDS[:25:3], FIELDS[-1]],
    [],
)  # includes the fields with fewest and most values
ALL = FIELDS, NUMBERS
CASES = (TEN, (64,)), (TEN, (128,)), (TEN, (128, 128)), (ALL, (128, 128))


def explain() -> None:
    """Compare with and without reasons for several networks with K 64 and random weights."""
    spark, raw, warm = quiet_session(), table(SMALL / 1e6), write(FOLDER / "raw-warm", 50_000)
    for (fields, numbers), hidden in CASES:
        name = f"{len(fields)} fields, {len(numbers)} numbers, {'-'.join(map(str, hidden))}"
        settings = config(raw, workdir=HOME / f"explain-{len(fields)}", fields=fields, numbers=numbers)
        if not settings.encoding_folder.exists():
            build(spark, settings)
        save_random(settings, hidden=hidden)
        artifact = Artifact.load(settings.model_folder, verify=False)
        columns = artifact.encoding.spec.columns
        read = pq.read_table(min(raw.glob("*.parquet")), columns=list(columns), read_dictionary=list(fields))
        batch = read.slice(0, ROWS).combine_chunks().to_batches()[0]
        pa.set_cpu_count(1)  # as in a task
        _compare(f"{name}: score_batch", ROWS, lambda n, a=artifact, b=batch: explain_batch(a, b, n))  # type: ignore[misc]
        counts = {n: settings.score.model_copy(update={"explain": n}) for n in (0, REASONS)}
        jobs = {n: settings.model_copy(update={"score": score}) for n, score in counts.items()}
        for job in jobs.values():
            score_table(spark, job.model_copy(update={"source": config(warm).source}))
        _compare(f"{name}: score job", SMALL, lambda n, jobs=jobs: score_table(spark, jobs[n]))  # type: ignore[misc]
    spark.stop()


def _compare(name: str, rows: int, run: Callable[[int], object]) -> None:
    for count in (0, REASONS):
        run(count)
    rounds = [[timed(partial(run, count)) for count in (0, REASONS)] for _ in range(ROUNDS)]
    plain, explained = (statistics.median(seconds) for seconds in zip(*rounds, strict=True))
    print(
        f"{name:<48} {rows / plain / 1000:6.0f} k rows/s, with reasons {rows / explained / 1000:6.0f} k rows/s: "
        f"{explained / plain:.2f} × the time (target: at most {TARGET})",
        flush=True,
    )
