"""Keep the finished parts of a run that is killed, so that the next run resumes from them.

    .NAME.chunks-KEY/   beside the output NAME; gone when that is published
        _run.json       what the scores follow from, and the splits
        done/           a record for each part of the table: its files, and its tally
        files/          what tasks have written

The key is that of everything the scores follow from: the model, the table's files, the settings, this program. A task
that outlives its driver can so do no harm: it writes into the folder of its own run.
"""

import glob
import hashlib
import json
import logging
import os
import shutil
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Self

from nfm.contract.messages import differences, listed
from nfm.contract.replace import replacing
from nfm.contract.schema import canonical_json
from nfm.scoring.health.tally import Tally
from nfm.table.splits import File, Piece, Split
from nfm.table.write import WrittenFile

log = logging.getLogger(__name__)

_EVERY = 30.0  # seconds between two lines of the log
_RUN, _DONE, _FILES = "_run.json", "done", "files"
_NAMES = {  # of what scores follow from, in messages
    "table": "the table's files",
    "cut": "how Spark cuts the table",
    "program": "the version of nfm",
}


@dataclass(frozen=True)
class Chunk:
    """A part of the table that is scored."""

    number: int  # of the split, or of Spark's partition
    tally: Tally
    files: list[WrittenFile]

    def to_json(self) -> str:
        """The record as text."""
        files = [vars(file) for file in self.files]
        return json.dumps({"number": self.number, "files": files, "tally": self.tally.to_json()})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read a record."""
        content = json.loads(text)
        files = [WrittenFile(**file) for file in content["files"]]
        return cls(content["number"], Tally.from_json(content["tally"]), files)


@dataclass(frozen=True)
class Chunks:
    """The folder of a run's chunks."""

    folder: Path

    @property
    def files(self) -> Path:
        """The folder that tasks write to."""
        return self.folder / _FILES

    def keep(self, chunk: Chunk) -> str:
        """In a task: record that the part is done, and return the record. Of two attempts either is as good."""
        record = chunk.to_json()
        with replacing(self.folder / _DONE / f"{chunk.number:06}.json", shared=True) as attempt:
            attempt.write_text(record)
        return record

    def done(self) -> list[Chunk]:
        """The parts that are done and whose files are complete."""
        found = []
        for path in self._records():
            try:
                chunk = Chunk.from_json(path.read_text())
                whole = all(os.stat(file.path).st_size == file.bytes for file in chunk.files)  # noqa: PTH116
            except (OSError, ValueError, KeyError, TypeError):  # the machine went down before all was on its disk
                whole = False
            if whole:
                found.append(chunk)
        return found

    @contextmanager
    def progress(self, parts: int | None, at_once: int) -> Iterator[None]:
        """Log now and then how many parts are done, and how long the others take where `parts` is known."""
        over, began, before = threading.Event(), time.monotonic(), len(self._records())

        def tell() -> None:
            while not over.wait(_EVERY):
                done, left = len(self._records()), ""
                # Those that were begun first tell nothing: their workers had to start.
                if parts is not None and done - before >= 2 * at_once:
                    seconds = (time.monotonic() - began) / (done - before) * (parts - done)
                    left = (
                        f", about {round(seconds / 60)} min left" if seconds >= 99 else f", about {seconds:.0f} s left"
                    )
                log.info("%d%s parts of the table are scored%s", done, "" if parts is None else f" of {parts}", left)

        teller = threading.Thread(target=tell, daemon=True)
        teller.start()
        try:
            yield
        finally:
            over.set()
            teller.join()

    def _records(self) -> list[Path]:
        return sorted((self.folder / _DONE).glob("[0-9]*.json"))

    def remove(self) -> None:
        """Delete the folder: its files are published, or cannot be resumed from."""
        shutil.rmtree(self.folder, ignore_errors=True)


def open_chunks(target: Path, run: Mapping[str, Any]) -> Chunks:
    """Open the chunks of this run: those that a killed one has left, or none yet. Call it while the output is locked.

    `run` is what the scores follow from, JSON-ready. Chunks of another run are deleted; the reason is logged.
    """
    target = target.resolve()
    prefix = f".{target.name}.chunks-"
    folder = target.parent / f"{prefix}{hashlib.sha256(canonical_json(run).encode()).hexdigest()[:16]}"
    for other in target.parent.glob(f"{glob.escape(prefix)}*"):
        if other != folder:
            log.info("what an earlier run has left for %s is deleted: %s", target, _difference(other, run))
            shutil.rmtree(other, ignore_errors=True)  # its tasks may still write there; then the next run removes it
    if not (folder / _RUN).exists():
        shutil.rmtree(folder, ignore_errors=True)
        for name in (_DONE, _FILES):
            (folder / name).mkdir(parents=True)
        _write(folder / _RUN, {"run": run, "splits": None})
    chunks = Chunks(folder)
    kept = {Path(file.path).name for chunk in chunks.done() for file in chunk.files}
    for path in chunks.files.iterdir():  # what tasks were at when the run died
        if path.name not in kept:
            path.unlink(missing_ok=True)
    return chunks


def splits_of(chunks: Chunks, splits: Sequence[Split]) -> tuple[Split, ...]:
    """The splits of the run that began these chunks, however many cores there are now."""
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
    named = (one._replace(name=_NAMES.get(one.name, one.name)) for one in changed)
    return f"since then, this changed: {listed(named, '; ')}"


@cache
def program() -> str:
    """A digest of this package's code: other code might give other scores."""
    package, digest = Path(__file__).parent.parent, hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(str(path.relative_to(package)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
