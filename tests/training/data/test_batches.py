"""Batches of the dataset: every row once in each epoch, in an order that depends only on the seed."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from nfm.contract.schema import Spec
from nfm.training.data import batches as data
from nfm.training.data.batches import Fold, Rows
from nfm.training.data.files import RowGroup
from nfm.training.layers import make_keras_inputs
from tests.bins import without_bins
from tests.training.examples import fold_in_memory
from tests.training.numbered import FILES, PLAIN, SPEC, table, train_fold, write


@pytest.fixture(params=["kept", "streamed"])
def fold_storage(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Keep folds in memory, or read them again in each epoch."""
    if request.param == "streamed":
        monkeypatch.setattr(data, "KEPT_BYTES", -1)
    return str(request.param)


def labels(batches: Iterable[Rows]) -> list[list[int]]:
    return [rows.label.astype(int).tolist() for rows in batches]


def flat(batches: list[list[int]]) -> list[int]:
    return [row for batch in batches for row in batch]


def arrange_by_hand(columns: pa.Table, spec: Spec, batch_labels: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Return the features of the rows with these labels, arranged row by row from the table."""
    by_label = {int(row["label"]): row for row in columns.to_pylist()}
    rows = [by_label[int(label)] for label in batch_labels]
    members = []
    for row in rows:
        row_members: list[tuple[int, float]] = []
        for field, offset in zip(spec.fields, spec.offsets, strict=True):
            if field.bag is not None:
                pairs = zip(row[field.name], row[f"{field.name}_weights"], strict=True)
                row_members += [(id_ + offset, weight) for id_, weight in pairs]
        members.append(row_members)
    widest = max(1, *(len(row_members) for row_members in members))
    padded = [row_members + [(spec.rows, 0.0)] * (widest - len(row_members)) for row_members in members]
    features = {
        "ids": np.array([[row[f.name] for f in spec.fields if f.bag is None] for row in rows]),
        "values": np.array([[row[name] for name in spec.field_numbers] for row in rows]),
        "dense": np.array([[row[name] for name in spec.dense] for row in rows]),
    }
    if any(field.bag for field in spec.fields):
        features["bag_rows"] = np.array([[place for place, _ in row_members] for row_members in padded])
        features["bag_values"] = np.array([[value for _, value in row_members] for row_members in padded])
    return features


def check_batches(batches: Iterable[Rows], columns: pa.Table, spec: Spec) -> None:
    for rows in batches:
        features, expected = make_keras_inputs(rows.inputs, spec), arrange_by_hand(columns, spec, rows.label)
        assert features.keys() == expected.keys()
        for name, array in features.items():
            np.testing.assert_array_equal(array, expected[name], err_msg=name)
            assert array.dtype == (np.int32 if name in ("ids", "bag_rows") else np.float32)
        assert rows.label.dtype == rows.weight.dtype == np.dtype("float32")
        np.testing.assert_array_equal(rows.weight, rows.label / 4)


TOTAL = 93


@pytest.mark.parametrize("spec", [SPEC, PLAIN], ids=["bags", "plain"])
@pytest.mark.parametrize("seed", [None, 3])
def test_batches_have_the_rows_of_the_files(
    tmp_path: Path, fold_storage: str, small_pieces: None, spec: Spec, seed: int | None
) -> None:
    fold = train_fold(write(tmp_path, spec, FILES), spec)
    found = list(fold.batches(8, seed=seed, shuffle_rows=30))
    assert len(found) == fold.steps(8) == 12
    assert [len(rows.label) for rows in found] == [8] * 11 + [5]
    check_batches(found, read_all(spec), spec)
    rows = flat(labels(found))
    assert sorted(rows) == list(range(TOTAL))
    if seed is None:  # the files by name: country=DE comes first
        assert rows == [*range(48, 93), *range(48)]


def read_all(spec: Spec) -> pa.Table:
    """Return all rows of FILES, as `write` makes them."""
    tables, start = [], 0
    for groups in FILES.values():
        for rows in groups:
            tables.append(table(spec, start, rows))
            start += rows
    return pa.concat_tables(tables)


def test_batches_do_not_depend_on_the_size_of_pieces(
    tmp_path: Path, fold_storage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fold = train_fold(write(tmp_path, SPEC, FILES), SPEC)
    for skip in (0, 3, 12):
        few = list(fold.batches(8, seed=1, epoch=2, skip=skip, shuffle_rows=30))
        with monkeypatch.context() as patch:
            patch.setattr(data, "PIECE", 16)
            many = list(fold.batches(8, seed=1, epoch=2, skip=skip, shuffle_rows=30))
        assert len(few) == len(many) == 12 - skip
        check_batches(few, read_all(SPEC), SPEC)
        assert labels(few) == labels(many)


def test_the_order_depends_on_seed_and_epoch(
    tmp_path: Path, small_pieces: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(tmp_path, PLAIN, FILES)

    def batches(seed: int, epoch: int) -> list[list[int]]:
        return labels(train_fold(folder).batches(8, seed=seed, epoch=epoch, shuffle_rows=30))

    first = batches(1, 0)
    assert batches(1, 0) == first
    assert sorted(flat(batches(1, 1))) == sorted(flat(batches(2, 0))) == list(range(TOTAL))
    assert batches(1, 1) != first != batches(2, 0) != batches(1, 1)
    monkeypatch.setattr(data, "KEPT_BYTES", -1)
    assert batches(1, 0) == first
    fold = train_fold(folder)
    once, again = (labels(fold.batches(8, seed=1, shuffle_rows=30)) for _ in range(2))
    assert once == again == first


def in_memory(rows: int) -> Fold:
    label = np.arange(rows, dtype=np.float32)
    ids = np.stack([np.arange(rows), np.zeros(rows)], axis=1).astype(np.int32)
    empty = np.empty((rows, 0), np.float32)
    none = without_bins(ids, empty, empty, np.empty(0, np.int32), np.empty(0, np.float32), np.zeros(rows + 1, np.int64))
    return fold_in_memory(PLAIN, Rows(none, label, np.float32(0.25) * label, None))


@given(
    files=st.lists(st.lists(st.integers(0, 25), min_size=1, max_size=4), min_size=1, max_size=4).filter(
        lambda files: sum(map(sum, files)) > 0
    ),
    size=st.integers(1, 40),
    shuffle_rows=st.integers(1, 120),
    epoch=st.integers(0, 3),
    kept=st.booleans(),
    piece=st.integers(1, 50),
)
@settings(max_examples=40)
def test_every_row_is_in_one_batch_and_an_epoch_can_start_partway(
    tmp_path_factory: pytest.TempPathFactory,
    files: list[list[int]],
    size: int,
    shuffle_rows: int,
    epoch: int,
    kept: bool,
    piece: int,
) -> None:
    folder = tmp_path_factory.mktemp("dataset")
    write(folder, SPEC, {f"part-{i}.parquet": groups for i, groups in enumerate(files)})
    rows = sum(map(sum, files))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "KEPT_BYTES", 1 << 20 if kept else -1)
        patch.setattr(data, "PIECE", piece)
        fold = train_fold(folder, SPEC)
        # Each piece consists of whole batches.
        pieces = list(fold._shuffled(size, 5, epoch, 0, shuffle_rows))
        assert all(len(p.label) % size == 0 for p in pieces[:-1])
        order = np.concatenate([p.label for p in pieces]).astype(int).tolist()
        assert sorted(order) == list(range(rows))
        for skip in {0, 1, fold.steps(size) // 2, fold.steps(size) - 1, fold.steps(size), fold.steps(size) + 1}:
            rest = [p.label for p in fold._shuffled(size, 5, epoch, skip, shuffle_rows)]
            assert np.concatenate([np.empty(0), *rest]).astype(int).tolist() == order[skip * size :]


@pytest.mark.parametrize("skip", [0, 1, 5, 11, 12, 20])
def test_skip_leaves_out_exactly_the_first_batches(
    tmp_path: Path, fold_storage: str, small_pieces: None, skip: int
) -> None:
    fold = train_fold(write(tmp_path, SPEC, FILES), SPEC)
    all_batches = list(fold.batches(8, seed=1, epoch=1, shuffle_rows=30))
    rest = list(fold.batches(8, seed=1, epoch=1, skip=skip, shuffle_rows=30))
    assert len(rest) == max(0, 12 - skip)
    for rows, expected in zip(rest, all_batches[skip:], strict=True):
        for array, right in zip((*rows.inputs, rows.label), (*expected.inputs, expected.label), strict=True):
            np.testing.assert_array_equal(array, right)


def test_skipped_files_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "KEPT_BYTES", -1)
    folder = write(tmp_path, PLAIN, {f"part-{i}.parquet": [10] for i in range(10)})
    fold = train_fold(folder)
    order = flat(labels(fold.batches(10, seed=1, shuffle_rows=20)))
    for row in order[:80:10]:  # windows of two files each: the first four are skipped
        (folder / "fold=train" / f"part-{row // 10}.parquet").unlink(missing_ok=True)
    for row in order[:80]:
        (folder / "fold=train" / f"part-{row // 10}.parquet").unlink(missing_ok=True)
    assert flat(labels(fold.batches(10, seed=1, skip=8, shuffle_rows=20))) == order[80:]


def test_batches_mix_files_within_windows_of_shuffle_rows(tmp_path: Path, fold_storage: str) -> None:
    fold = train_fold(write(tmp_path, PLAIN, {f"part-{i:02}.parquet": [25, 25] for i in range(20)}))
    order = np.array(flat(labels(fold.batches(50, seed=1, shuffle_rows=250))))
    windows = order.reshape(4, 250)  # five row groups each
    for window in windows:
        assert len(set(window // 25)) == 10
        for batch in window.reshape(5, 50):
            assert len(set(batch // 50)) >= 4  # files
    assert len({row // 25 for row in order[:250]} & {row // 25 for row in order[250:]}) == 0
    # The place in the epoch is independent of the place in the files.
    assert abs(np.corrcoef(order, np.arange(1000))[0, 1]) < 0.5
    within = windows[0]
    assert abs(np.corrcoef(within, np.arange(250))[0, 1]) < 0.2


def test_pieces_have_the_order_of_the_files_and_the_groups(tmp_path: Path, fold_storage: str) -> None:
    fold = train_fold(write(tmp_path, SPEC, FILES), SPEC, "k")
    pieces = list(fold.pieces(12))
    assert max(len(piece.label) for piece in pieces) == 12
    rows = np.concatenate([piece.label for piece in pieces]).astype(int)
    assert rows.tolist() == [*range(48, 93), *range(48)]
    groups = np.concatenate([piece.group for piece in pieces if piece.group is not None])
    assert groups.tolist() == [f"g{i % 3}" if i % 5 else None for i in rows]
    check_batches(pieces, read_all(SPEC), SPEC)
    assert all(piece.group is None for piece in train_fold(tmp_path, SPEC).pieces())


def test_a_fold_in_memory_yields_batches_and_pieces() -> None:
    fold = in_memory(100)
    epochs = [labels(fold.batches(32, seed=1, epoch=epoch)) for epoch in range(2)]
    assert [len(batch) for batch in epochs[0]] == [32, 32, 32, 4]
    assert sorted(flat(epochs[0])) == sorted(flat(epochs[1])) == list(range(100))
    assert epochs[0] != epochs[1]
    assert [len(piece.label) for piece in fold.pieces(40)] == [40, 40, 20]
    for rows in fold.batches(32):
        np.testing.assert_array_equal(rows.inputs.ids_BF[:, 0], rows.label)
    empty = in_memory(0)
    assert (empty.rows, empty.steps(5), list(empty.pieces()), list(empty.batches(5, seed=1))) == (0, 0, [], [])


def test_rows_without_members_are_padding() -> None:
    ids, no_numbers = np.zeros((2, 2), np.int32), np.zeros((2, 0), np.float32)
    none = without_bins(
        ids, no_numbers, no_numbers, np.empty(0, np.int32), np.empty(0, np.float32), np.zeros(3, np.int64)
    )
    features = make_keras_inputs(none, SPEC)
    assert features["bag_rows"].tolist() == [[SPEC.rows], [SPEC.rows]]
    assert features["bag_values"].tolist() == [[0.0], [0.0]]
    three = none._replace(
        bag_rows=np.array([5, 7, 5], np.int32),
        bag_values=np.array([1, 2, 3], np.float32),
        bag_splits=np.array([0, 0, 3]),
    )
    assert make_keras_inputs(three, SPEC)["bag_rows"].tolist() == [[SPEC.rows] * 3, [5, 7, 5]]
    assert "bag_rows" not in make_keras_inputs(none, PLAIN)


def test_equal_digests_mean_equal_files(tmp_path: Path) -> None:
    first = train_fold(write(tmp_path / "one", PLAIN, FILES)).digest
    assert train_fold(write(tmp_path / "two", PLAIN, FILES)).digest == first
    published_again = {name.replace(".parquet", "-0123456789abcdef.parquet"): groups for name, groups in FILES.items()}
    assert train_fold(write(tmp_path / "again", PLAIN, published_again)).digest == first
    renamed = {name.replace("part-1", "part-2"): groups for name, groups in FILES.items()}
    regrouped = {**FILES, "part-0.parquet": [8, 39]}
    others = [train_fold(write(tmp_path / str(i), PLAIN, f)).digest for i, f in enumerate((renamed, regrouped))]
    assert len({first, *others}) == 3
    assert in_memory(10).digest == in_memory(10).digest != in_memory(11).digest


@pytest.mark.parametrize(
    ("count", "size", "even"),
    # 31 rows fill no batch of 32; 99 rows fill three of them.
    [(5150, 1024, 859), (5120, 1024, 1024), (300, 60, 60), (999, 1024, 200), (99, 1024, 33), (31, 64, 31), (0, 8, 0)],
)
def test_batches_have_about_equal_size_and_are_at_least_five(count: int, size: int, even: int) -> None:
    fold = Fold(SPEC, [RowGroup(count, lambda: pytest.fail("no row is read"))], True, "")
    assert fold.even(size) == even
