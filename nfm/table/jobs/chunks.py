"""Keep the finished chunks of a killed run, so that the next run resumes from them.

    .NAME.chunks-KEY/   beside the output NAME; deleted when the output is published
        _run.json       everything that the results depend on, and the splits
        done/           a record for each chunk: its files and its tally
        files/          files that tasks write

KEY is a digest of everything that the results depend on: the model, the table's files, the settings and this package's
code. A task that still runs after its driver has died is therefore harmless: it writes into the folder of its own run.
"""

import hashlib
import json
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from nfm.contract.messages import differences, listed
from nfm.contract.publishing.replace import hidden_path, hidden_paths, replacing
from nfm.contract.schema import canonical_json
from nfm.table.splits import File, Piece, Split
from nfm.table.write import WrittenFile

log = logging.getLogger(__name__)

_LOG_INTERVAL = 30.0  # seconds between two log lines
_RUN, _DONE, _FILES = "_run.json", "done", "files"
_DISPLAY_NAMES = {  # for messages
    "table": "the table's files",
    "cut": "Spark's partitioning of the table",
    "reader": "Spark's setting",
    "program": "the version of nfm",
}


class Record(Protocol):
    """Results of one split."""

    @property
    def number(self) -> int:
        """Number of the split."""
        ...

    @property
    def all_files(self) -> list[WrittenFile]:
        """Files that the task wrote."""
        ...

    def to_json(self) -> str:
        """Return the record as JSON."""
        ...


Chunk = TypeVar("Chunk", bound=Record)


@dataclass(frozen=True)
class Chunks(Generic[Chunk]):
    """Folder of a run's chunks."""

    folder: Path
    read: Callable[[str], Chunk] = field(repr=False)  # reads a record that `to_json` returned

    @property
    def files(self) -> Path:
        """Folder that tasks write to."""
        return self.folder / _FILES

    def keep(self, chunk: Chunk) -> str:
        """Write and return the record of a finished chunk. If a task runs twice, both records are valid."""
        record = chunk.to_json()
        with replacing(self.folder / _DONE / f"{chunk.number:06}.json", shared=True) as attempt:
            attempt.write_text(record)
        return record

    def done(self) -> list[Chunk]:
        """Return the chunks that are done and whose files are complete."""
        chunks = []
        for path in self._records():
            try:
                chunk = self.read(path.read_text())
                is_complete = all(os.stat(file.path).st_size == file.bytes for file in chunk.all_files)  # noqa: PTH116
            except (OSError, ValueError, KeyError, TypeError):  # the machine crashed before all data was written
                is_complete = False
            if is_complete:
                chunks.append(chunk)
        return chunks

    @contextmanager
    def log_progress(self, splits: int | None, concurrent_tasks: int, what: str = "splits scored") -> Iterator[None]:
        """Log at intervals how many splits are done and, if their number is known, the time that is left."""
        finished, began, before = threading.Event(), time.monotonic(), len(self._records())

        def log_at_intervals() -> None:
            while not finished.wait(_LOG_INTERVAL):
                done, left = len(self._records()), ""
                # The first tasks are slower than the others: their workers had to start.
                if splits is not None and done - before >= 2 * concurrent_tasks:
                    seconds = (time.monotonic() - began) / (done - before) * (splits - done)
                    left = (
                        f", about {round(seconds / 60)} min left" if seconds >= 99 else f", about {seconds:.0f} s left"
                    )
                log.info("%d%s %s%s", done, "" if splits is None else f" of {splits}", what, left)

        thread = threading.Thread(target=log_at_intervals, daemon=True)
        thread.start()
        try:
            yield
        finally:
            finished.set()
            thread.join()

    def _records(self) -> list[Path]:
        return sorted((self.folder / _DONE).glob("[0-9]*.json"))

    def remove(self) -> None:
        """Delete the folder when its files are published or can no longer be used."""
        shutil.rmtree(self.folder, ignore_errors=True)


def open_chunks(target: Path, run: Mapping[str, Any], read: Callable[[str], Chunk]) -> Chunks[Chunk]:
    """Open the chunk folder of this run; it contains chunks if an earlier run was killed.

    The caller must lock the output. `run` contains everything that the results depend on, ready for JSON. `read` reads
    the record of a chunk. Chunks of another run are deleted; the reason is logged.
    """
    target = target.resolve()
    folder = hidden_path(target, f"chunks-{hashlib.sha256(canonical_json(run).encode()).hexdigest()[:16]}")
    for other in hidden_paths(target, "chunks-*"):
        if other != folder:
            log.info("the chunks of an earlier run for %s are deleted: %s", target, _difference(other, run))
            shutil.rmtree(other, ignore_errors=True)  # its tasks may still write there; then the next run deletes it
    if not (folder / _RUN).exists():
        shutil.rmtree(folder, ignore_errors=True)
        for name in (_DONE, _FILES):
            (folder / name).mkdir(parents=True)
        _write(folder / _RUN, {"run": run, "splits": None})
    chunks = Chunks(folder, read)
    kept = {Path(file.path).name for chunk in chunks.done() for file in chunk.all_files}
    for path in chunks.files.iterdir():  # files that tasks were writing when the run stopped
        if path.name not in kept:
            path.unlink(missing_ok=True)
    return chunks


def reuse_splits(chunks: Chunks[Any], splits: Sequence[Split]) -> tuple[Split, ...]:
    """Return the splits of the run that created the chunks, even if the number of cores has changed since."""
    path = chunks.folder / _RUN
    content = json.loads(path.read_text())
    if content["splits"] is None:
        _write(path, content | {"splits": splits})
        return tuple(splits)
    return tuple(tuple(Piece(File(*file), start, stop) for file, start, stop in split) for split in content["splits"])


def _write(path: Path, content: Mapping[str, Any]) -> None:
    with replacing(path) as attempt:
        attempt.write_text(json.dumps(content))


def _difference(folder: Path, run: Mapping[str, Any]) -> str:
    try:
        before = json.loads((folder / _RUN).read_text())["run"]
    except (OSError, ValueError, KeyError):
        return "it stopped before recording any progress"
    changed = differences(before, json.loads(canonical_json(run)))
    named = (entry._replace(name=_DISPLAY_NAMES.get(entry.name, entry.name)) for entry in changed)
    return f"changed since then: {listed(named, '; ')}"


@cache
def code_digest() -> str:
    """Return a digest of this package's code: different code might give different results."""
    package, digest = Path(__file__).parents[2], hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(str(path.relative_to(package)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
