"""What a run has finished stays there when it dies: the next one goes on from it.

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
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Self

from nfm.contract.schema import canonical_json
from nfm.scoring.health.tally import Tally
from nfm.table.splits import File, Piece, Split
from nfm.table.write import WrittenFile

log = logging.getLogger(__name__)

_EVERY = 30.0  # seconds between two lines of the log
_RUN, _DONE, _FILES = "_run.json", "done", "files"
_WHAT = {  # the parts of what scores follow from, as people are told of them
    "model": "the model is another one",
    "table": "the table's files have changed",
    "cut": "Spark cuts the table otherwise",
    "settings": "the settings have changed",
    "program": "this program has changed",
}


@dataclass(frozen=True)
class Chunk:
    """A part of the table that is done."""

    number: int  # of the split, or of Spark's partition
    tally: Tally
    files: list[WrittenFile]

    def to_json(self) -> str:
        """The record."""
        files = [vars(file) for file in self.files]
        return json.dumps({"number": self.number, "files": files, "tally": self.tally.to_json()})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The chunk of a record."""
        content = json.loads(text)
        files = [WrittenFile(**file) for file in content["files"]]
        return cls(content["number"], Tally.from_json(content["tally"]), files)


@dataclass(frozen=True)
class Chunks:
    """The folder of a run's chunks."""

    folder: Path

    @property
    def files(self) -> Path:
        """Where tasks write."""
        return self.folder / _FILES

    def keep(self, chunk: Chunk) -> str:
        """In a task: the part is done. Returns the record; of two attempts the later one's stays, both are as good."""
        attempt, record = self.folder / _DONE / f".{uuid.uuid4().hex}", chunk.to_json()
        attempt.write_text(record)
        attempt.replace(self.folder / _DONE / f"{chunk.number:06}.json")
        return record

    def done(self) -> list[Chunk]:
        """The parts that are done and whose files are all there, as they were written."""
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
        """Say now and then how many parts are done; of how many, and how long the others take, where that is known."""
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
        """They are published, or nobody can go on from them."""
        shutil.rmtree(self.folder, ignore_errors=True)


def open_chunks(target: Path, run: Mapping[str, Any]) -> Chunks:
    """The chunks of this run: those that a killed one has left, or none yet. Called while the output is locked.

    Those of a run that something else followed from are removed, and it is told why.

    Args:
        target: the output.
        run: what the scores follow from, by the names of _WHAT.
    """
    target = target.resolve()
    prefix = f".{target.name}.chunks-"
    folder = target.parent / f"{prefix}{hashlib.sha256(canonical_json(run).encode()).hexdigest()[:16]}"
    for other in target.parent.glob(f"{glob.escape(prefix)}*"):
        if other != folder:
            log.info("what an earlier run has left for %s is thrown away: %s", target, _difference(other, run))
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
    """How the table is cut: as the run that began these chunks did, however many cores there are now."""
    path = chunks.folder / _RUN
    content = json.loads(path.read_text())
    if content["splits"] is None:
        _write(path, content | {"splits": splits})
        return tuple(splits)
    return tuple(tuple(Piece(File(*file), start, stop) for file, start, stop in split) for split in content["splits"])


def _write(path: Path, content: Mapping[str, Any]) -> None:
    attempt = path.with_name(f"{path.name}.tmp")
    attempt.write_text(json.dumps(content))
    attempt.replace(path)


def _difference(folder: Path, run: Mapping[str, Any]) -> str:
    try:
        before = json.loads((folder / _RUN).read_text())["run"]
    except (OSError, ValueError, KeyError):
        return "it had hardly begun"
    now = json.loads(canonical_json(run))
    return "; ".join(told for what, told in _WHAT.items() if before.get(what) != now.get(what)) or "it cannot be read"


@cache
def program() -> str:
    """A digest of this package's code: other code might give other scores."""
    package, digest = Path(__file__).parent.parent, hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(str(path.relative_to(package)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
