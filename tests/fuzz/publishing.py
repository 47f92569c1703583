"""Publish again and again until killed, as jobs do: `python -m tests.fuzz.publishing WHAT TARGET SWAP PAUSE`."""

import itertools
import random
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Literal

import numpy as np
import pyarrow as pa

import nfm.contract.publishing.replace as module
from nfm.contract.artifact import Network, save
from nfm.contract.publishing.publish import publication_id, publish
from nfm.contract.schema import Field, Spec
from nfm.contract.vocabulary import write_vocabulary
from nfm.table.write import Layout, Writer, move_into_place
from tests.processes import ROOT, environment

NETWORK = Network("binary", 2, (4, 3), "relu")
FIELDS, VALUES = 4, 50
What = Literal["table", "folders", "model"]
Swap = Literal["exchange", "renames"]  # renames: as on a file system that cannot exchange two folders in one step


def write_table(staging: Path, version: int, draw: random.Random, most_folders: int) -> None:
    """Write several files, each row with the version and the number of rows of the whole table."""
    files, rows = draw.randint(2, 9), draw.randint(1, 40)
    folders = [f"country={i}" for i in range(draw.randint(1, most_folders))] if most_folders else [""]
    total = files * rows * len(folders)
    table = pa.table({"version": np.full(rows, version), "rows": np.full(rows, total)})
    written = staging / "_written"
    written.mkdir()
    reported = []
    for folder in folders * files:
        writer = Writer(written, Layout((), ()))
        writer.add(folder, table)
        reported += writer.close()
    move_into_place(reported, staging, publication_id(staging))
    shutil.rmtree(written)
    (staging / "_report.json").write_text("{}")


def write_encoding(folder: Path, version: int) -> None:
    """Write an encoding whose values contain the version; the sizes of all versions are equal."""
    fields = tuple(Field(f"f{i}", (f"f{i}",), ("text",), 1, VALUES, f"f{i}") for i in range(FIELDS))
    texts = pa.array([f"{i}/{version}" for i in range(VALUES)], pa.large_string())
    parts = [pa.table({"value": texts, "count": pa.array(range(VALUES, 0, -1), pa.int64())})]
    digests = tuple(write_vocabulary(folder, i, f"f{i}", 2, VALUES, parts) for i in range(FIELDS))
    (folder / "spec.json").write_text(Spec(("id",), fields, (), digests).to_json())


def publish_model(target: Path, version: int) -> None:
    """Publish a model, all of whose weights and vocabularies contain the version."""
    encoding = target.with_name(f"encoding-{version}")
    if not encoding.exists():
        encoding.mkdir()
        write_encoding(encoding, version)
    shapes = NETWORK.weight_shapes(Spec.from_json((encoding / "spec.json").read_bytes(), str(encoding)))
    save(
        target,
        encoding_folder=encoding,
        network=NETWORK,
        weights={name: np.full(shape, version, np.float32) for name, shape in shapes.items()},
        facts={"name": f"model {version}"},
        write_more=lambda _: None,
    )


def publish_version(what: What, target: Path, version: int, draw: random.Random) -> None:
    """Publish one version."""
    if what == "model":
        publish_model(target, version % 2)
    else:
        with publish(target, "_report.json") as staging:
            write_table(staging, version, draw, most_folders=4 if what == "folders" else 0)


def main(what: What, target: str, swap: Swap, pause: str) -> None:
    """Publish until the process is killed."""
    draw = random.Random(1)
    module._GRACE = 0.02  # more publications in the same time
    if swap == "renames":
        module._exchange = lambda a, b: False
    for version in itertools.count():
        publish_version(what, Path(target), version, draw)
        if version == 0:
            print("published", flush=True)
        time.sleep(draw.random() * float(pause))


@contextmanager
def publishing(what: What, target: Path, swap: Swap = "exchange", pause: float = 0.01) -> Iterator[None]:
    """Publish in another process until the block ends, with pauses of at most `pause` seconds."""
    command = [sys.executable, "-m", "tests.fuzz.publishing", what, str(target), swap, str(pause)]
    env = environment({"PYTHONPATH": str(ROOT)})
    with Popen(command, cwd=ROOT, env=env, stdout=PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "published\n", "the process died"
            yield
            assert process.poll() is None, "the process died"
        finally:
            process.kill()


if __name__ == "__main__":
    main(*sys.argv[1:])  # type: ignore[arg-type]
