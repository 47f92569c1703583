"""One copy of the model for each host: linked, mapped in place, or broadcast by Spark in pieces."""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from pyspark.sql import SparkSession

from nfm.contract.artifact import SCORER_FILES, Artifact
from nfm.contract.errors import ReplacedError
from nfm.table.jobs import hosts
from tests.scoring.examples import save_model


@pytest.fixture(autouse=True)
def _no_open_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts, "_opened", {})


@pytest.fixture
def other_disk() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


def test_late_workers_still_find_a_replaced_model(spark: SparkSession, made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "model", tmp_path / "model")
    shutil.copytree(made / "encoding", tmp_path / "encoding")
    artifact = Artifact.load(tmp_path / "model")
    (tmp_path / "staging").mkdir()
    placed = hosts.place(spark, artifact, tmp_path / "staging")
    assert placed.pieces == ()
    name = "weights/embedding.npy"
    assert (tmp_path / "staging" / name).samefile(tmp_path / "model" / name)
    save_model(tmp_path, 7)
    assert Artifact.load(tmp_path / "model").fingerprint != placed.fingerprint
    assert hosts.open_model(placed).fingerprint == placed.fingerprint
    assert (hosts.open_model(placed).weights["embedding"] == artifact.weights["embedding"]).all()
    assert hosts.open_model(placed) is hosts.open_model(placed)


@pytest.mark.parametrize("when", ["before", "while it is linked"])
def test_a_model_replaced_since_it_was_verified_is_not_placed(
    spark: SparkSession, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    shutil.copytree(made / "model", tmp_path / "model")
    shutil.copytree(made / "encoding", tmp_path / "encoding")
    artifact = Artifact.load(tmp_path / "model")
    (tmp_path / "staging").mkdir()
    if when == "before":
        save_model(tmp_path, 7)
    else:
        link_to = Path.hardlink_to

        def replace_and_link(link: Path, file: Path) -> None:
            if link.name == "bias.npy":  # the metadata are linked before, the other weights after
                save_model(tmp_path, 7)
            link_to(link, file)

        monkeypatch.setattr(Path, "hardlink_to", replace_and_link)
    with pytest.raises(ReplacedError, match=r"The model in .* was replaced while the job ran: .* Run the job again"):
        hosts.place(spark, artifact, tmp_path / "staging")


def test_a_model_replaced_in_place_is_refused(
    spark: SparkSession, made: Path, tmp_path: Path, other_disk: Path
) -> None:
    shutil.copytree(made / "model", tmp_path / "model")
    shutil.copytree(made / "encoding", tmp_path / "encoding")
    placed = hosts.place(spark, Artifact.load(tmp_path / "model"), other_disk)  # in local mode, nothing is broadcast
    assert placed.folder == str(tmp_path / "model")
    save_model(tmp_path, 7)
    with pytest.raises(ReplacedError, match=r"The model in .* was replaced while the job ran: .* Run the job again"):
        hosts.open_model(placed)


def test_a_model_broadcast_in_pieces_is_identical(
    spark: SparkSession, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(made / "encoding", tmp_path / "encoding")
    save_model(tmp_path, 11)  # a model that no worker has opened for another test
    artifact = Artifact.load(tmp_path / "model")
    monkeypatch.setattr(hosts, "_PIECE", 100)
    paths = sorted(path for pattern in SCORER_FILES for path in artifact.path.glob(pattern))
    pieces = [
        (str(path.relative_to(artifact.path)), spark.sparkContext.broadcast(piece))
        for path in paths
        for piece in hosts._pieces(path)
    ]
    assert max(len(piece.value) for _, piece in pieces) == 100
    placed = hosts.Placed(artifact.fingerprint, None, tuple(pieces))
    names = [str(path.relative_to(artifact.path)) for path in paths]

    def compare_model(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            model = hosts.open_model(placed)
            same = all((model.path / name).read_bytes() == (artifact.path / name).read_bytes() for name in names)
            kept = sum("_value" in vars(piece) for _, piece in placed.pieces)
            yield pa.RecordBatch.from_pydict(
                {"folder": [str(model.path)], "same": [same], "kept": [kept], "rows": [batch.num_rows]}
            )

    rows = (
        spark.range(0, 4, 1, 4).mapInArrow(compare_model, "folder string, same boolean, kept long, rows long").collect()
    )
    assert len(rows) == 4
    assert len({row.folder for row in rows}) == 1  # one copy for each host
    assert rows[0].folder != str(artifact.path)
    assert [(row.same, row.kept) for row in rows] == [(True, 0)] * 4  # no worker keeps a piece in memory


@pytest.mark.e2e
@pytest.mark.parametrize("home", ["home", "none"])
def test_the_package_in_a_zip_archive_needs_no_home_folder(tmp_path: Path, home: str) -> None:
    root = Path(hosts.__file__).parents[3]
    archive = shutil.make_archive(str(tmp_path / "nfm"), "zip", root_dir=root, base_dir="nfm")
    (tmp_path / "home").mkdir()
    (tmp_path / "none").touch()  # no folder can be made below a file, even by root
    loop = "from nfm.kernels import bins; bins._compiled('float32'); print(bins.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", loop],
        cwd=tmp_path,
        env={"PYTHONPATH": archive, "HOME": str(tmp_path / home)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(archive)
    assert list((tmp_path / "home").iterdir()) == []
