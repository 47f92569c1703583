"""Tables and options that nfm init refuses, with the message and the exit code."""

import gzip
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nfm.contract.errors import NfmError
from nfm.init.command import write_configuration
from nfm.init.sample import CSV_ENDINGS

GZIP = gzip.compress(b"a,b\n1,2\n" * 99, mtime=0)  # mtime: the same bytes in each process
GOOD = "id,x,y\n" + "".join(f"{i},{'ab'[i % 2]},{i % 3 % 2}\n" for i in range(60))


def init(table: str, label: str | None = None, output: str | None = None) -> str:
    return write_configuration(Path(table), label, output)


def refused(table: str, label: str | None = None, output: str | None = None) -> tuple[int, str]:
    with pytest.raises(NfmError) as error:
        init(table, label, output)
    return error.value.exit_code, str(error.value)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("good.csv").write_text(GOOD)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "content", "code", "message"),
    [
        ("empty.csv", b"", 3, "empty.csv is empty (0 bytes)"),
        ("header.csv", b"id,x\n", 3, "header.csv has the columns id, x, but no rows."),
        ("one.csv", b"id\n1\n2\n", 3, "one.csv has 1 columns (id), but a label and at least one input are needed."),
        ("twice.csv", b"id,x,X\n1,2,3\n", 3, "names are equal, or differ only in case: X, x."),
        ("data.csv", b"5.1,3.5,a\n" * 9, 3, "no header: its first line looks like a row ('5.1', '3.5', 'a')"),
        ("ragged.csv", b"a,b\n" + b"1,2,3\n" * 9, 3, "9 of 9 rows have a different number of values, for example 3"),
        ("zero.csv", b"a,b\n\0,\0\n", 3, "is not a text file in UTF-8 (it has zero bytes)"),
        ("bad.parquet", b"PAR1 and nothing else", 3, "bad.parquet cannot be read as Parquet"),
        ("t.xlsx", b"PK", 3, f"t.xlsx is not Parquet, and its ending is not one of {', '.join(CSV_ENDINGS)}."),
        ("t.csv", GZIP, 3, "t.csv is compressed, but Spark decompresses a file if, and only if, its name"),
        ("t.csv.gz", GZIP[:-9], 3, "t.csv.gz cannot be read: "),
        ("a[1].csv", b"a,b\n1,2\n", 2, "Spark cannot read a path with one of"),
        ("_t.csv", b"a,b\n1,2\n", 2, "or a name that begins with _ or a dot"),
    ],
)  # fmt: skip
def test_a_file_without_a_usable_table_is_refused(name: str, content: bytes, code: int, message: str) -> None:
    Path(name).write_bytes(content)
    exit_code, text = refused(name)
    assert (exit_code, message in text) == (code, True), text
    assert not list(Path().glob("*.yaml"))


def test_a_missing_table_and_an_empty_folder_are_refused(tmp_path: Path) -> None:
    assert refused("none.csv")[0] == 5
    (tmp_path / "folder").mkdir()
    assert refused("folder") == (
        3, "folder is a folder without files. Give nfm init a folder of Parquet or CSV files, or a file.",
    )  # fmt: skip


def test_a_label_that_is_not_in_the_table_is_refused() -> None:
    code, message = refused("good.csv", label="Y")
    assert (code, message) == (
        2, "--label Y: the table has no such column. Did you mean 'y'? Its columns: id, x, y",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (pa.nulls(60, pa.int64()), "it is null in all 60 rows"),
        (pa.array([1] * 60), "all rows contain 1"),
        (pa.array([b"x"] * 60), "it contains binary values"),
        (pa.array([{"a": 1}] * 60), "it contains struct<a: int64> values"),
        (pa.array([f"text {i}" for i in range(60)]), "its texts have 60 different values in 60 rows"),
        (pa.array([0] * 60, pa.timestamp("us")), "it contains time values"),
        (pa.array(["a"] * 53 + ["b"] * 7), "1 of its 2 classes have at least 8 rows"),
    ],
)
def test_a_column_that_cannot_be_the_label_is_refused(values: pa.Array, message: str) -> None:
    pq.write_table(pa.table({"id": range(60), "x": ["a", "b"] * 30, "goal": values}), "t.parquet")
    code, text = refused("t.parquet", label="goal")
    assert code == 3
    assert message in text


def test_a_table_without_inputs_is_refused() -> None:
    pq.write_table(pa.table({"id": range(60), "c": ["x"] * 60, "y": [0, 1] * 30}), "t.parquet")
    code, message = refused("t.parquet")
    assert (code, message) == (
        3, "No column of t.parquet can be an input besides the key. c: every row contains x",
    )  # fmt: skip


def test_an_existing_file_is_not_replaced() -> None:
    assert init("good.csv").startswith("Wrote good.yaml: label y (binary), 1 categorical, 0 numeric, 0 left out.")
    before = Path("good.yaml").read_text()
    assert refused("good.csv") == (
        2, "good.yaml exists already and is not replaced. Name another file with --output, or delete it.",
    )  # fmt: skip
    assert Path("good.yaml").read_text() == before
    assert init("good.csv", output="-") == before.rstrip("\n")
    init("good.csv", output="other.yaml")
    assert Path("other.yaml").read_text() == before
    assert refused("good.csv", output="no/folder.yaml")[1].startswith("no/folder.yaml cannot be written: No such file")


def test_a_table_in_delta_format_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "orders/ds=1"
    folder.mkdir(parents=True)
    pq.write_table(pa.table({"id": [1, 2, 3], "x": [1, 0, 1]}), folder / "a.parquet")
    (tmp_path / "orders/_delta_log").mkdir()
    for path in ("orders", "orders/ds=1", "orders/ds=1/a.parquet"):
        code, text = refused(path)
        assert code == 3
        assert (
            f"{path} belongs to {tmp_path}/orders, which is a table in Delta format, and nfm init reads plain" in text
        )
        assert text.endswith("Then set source.format: delta in the configuration.")
