"""Files that differ from those that the feature job wrote are refused by name."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nfm.contract.errors import DataError
from nfm.training.data import batches as data
from nfm.training.data.batches import read_folds
from tests.training.numbered import FILES, PLAIN, SPEC, table, train_fold, write


def rewrite(path: Path, change: dict[str, pa.Array | None]) -> None:
    """Replace columns of a file, or remove them (None)."""
    old = pq.read_table(path, partitioning=None)
    columns = {name: old[name] for name in old.column_names} | change
    pq.write_table(pa.table({name: column for name, column in columns.items() if column is not None}), path)


def test_a_missing_incomplete_or_foreign_dataset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"There is no dataset in .*_dataset\.json cannot be read"):
        read_folds(tmp_path, PLAIN)
    (tmp_path / "_dataset.json").write_text("[1]")
    with pytest.raises(DataError, match="There is no dataset in"):
        read_folds(tmp_path, PLAIN)
    write(tmp_path, PLAIN, FILES)
    with pytest.raises(DataError, match="they do not belong together"):
        read_folds(tmp_path, SPEC)
    (tmp_path / "fold=train" / "part-1.parquet").unlink()
    with pytest.raises(DataError, match=r"fold=train has 92 rows, but _dataset\.json says 93"):
        read_folds(tmp_path, PLAIN)
    write(tmp_path / "empty", PLAIN, {"part-0.parquet": [0]})
    with pytest.raises(DataError, match=r"The train fold of .* is empty"):
        read_folds(tmp_path / "empty", PLAIN)
    (tmp_path / "fold=train" / "part-1.parquet").write_bytes(b"PAR1 not at all")
    with pytest.raises(DataError, match=r"part-1\.parquet cannot be read"):
        read_folds(tmp_path, PLAIN)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"b": None}, r"part-1\.parquet has no column 'b'; it has label, weight, k"),
        ({"k": None}, r"part-1\.parquet has no column 'k'"),
        ({"b": pa.array([1], pa.int64())}, r"Column 'b' of .*part-1\.parquet is int64, not int32"),
        ({"label": pa.array([1.0])}, r"Column 'label' of .*part-1\.parquet is double, not float"),
        ({"tags": pa.array([1], pa.int32())}, r"Column 'tags' of .*part-1\.parquet is int32, not list<int32>"),
        ({"tags_weights": pa.array([[1.0]])}, r"'tags_weights' of .*part-1\.parquet is list<.*>, not list<float>"),
        ({"y_missing": None}, r"part-1\.parquet has no column 'y_missing'"),
    ],
)
def test_a_file_with_another_schema_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    write(tmp_path, SPEC, FILES)
    rewrite(tmp_path / "fold=train" / "part-1.parquet", change)
    with pytest.raises(DataError, match=message):
        read_folds(tmp_path, SPEC, "k")


WRONG_ROWS = [
    ({"label": pa.array([None], pa.float32())}, r"Column 'label' of .*part-1\.parquet has nulls"),
    ({"weight": pa.array([None], pa.float32())}, r"Column 'weight' of .*part-1\.parquet has nulls"),
    ({"b": pa.array([None], pa.int32())}, r"Column 'b' of .*part-1\.parquet has nulls"),
    ({"tags": pa.array([[None]], pa.list_(pa.int32()))}, r"Column 'tags' of .*part-1\.parquet has nulls"),
    ({"b": pa.array([7], pa.int32())}, r"part-1\.parquet has ids of the field 'b' that its vocabulary does not have"),
    ({"a": pa.array([-1], pa.int32())}, r"part-1\.parquet has ids of the field 'a'"),
]


@pytest.mark.parametrize(("change", "message"), WRONG_ROWS)
def test_invalid_rows_are_refused_with_their_file(
    tmp_path: Path, small_pieces: None, change: dict[str, Any], message: str
) -> None:
    write(tmp_path, SPEC, FILES)
    rewrite(tmp_path / "fold=train" / "part-1.parquet", change)
    fold = train_fold(tmp_path, SPEC)
    with pytest.raises(DataError, match=message):
        list(fold.pieces())
    with pytest.raises(DataError, match=message):
        list(fold.batches(8, seed=1))


def test_a_file_that_is_deleted_or_changed_during_a_training_is_refused(
    tmp_path: Path, small_pieces: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "KEPT_BYTES", -1)
    fold = train_fold(write(tmp_path, PLAIN, FILES))
    path = tmp_path / "fold=train" / "part-0.parquet"
    assert len(list(fold.batches(8, seed=1, shuffle_rows=30))) == 12
    content = path.read_bytes()
    path.unlink()
    with pytest.raises(DataError, match=r"part-0\.parquet cannot be read"):
        list(fold.batches(8, seed=1, shuffle_rows=30))
    path.write_bytes(content[:-100])
    with pytest.raises(DataError, match=r"part-0\.parquet cannot be read"):
        list(fold.batches(8, seed=1, shuffle_rows=30))
    pq.write_table(table(PLAIN, 0, 47), path)
    with pytest.raises(DataError, match=r"of .*part-0\.parquet has 47 rows, but had|part-0\.parquet cannot be read"):
        list(fold.pieces())
