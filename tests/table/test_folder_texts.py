"""Values in the names of folders: two texts never become one value, and escapes are those of Spark."""

from typing import Any

import pyarrow as pa
import pytest

from nfm.config.source import Source
from nfm.contract.errors import DataError
from nfm.table.folder_texts import check_folder_texts
from nfm.table.splits import File


def check(names: list[str], type_: pa.DataType, columns: tuple[str, ...] = ("shop",), **source: Any) -> None:
    files = [File(f"/raw/{name}/part.parquet", 1, 0) for name in names]
    check_folder_texts(Source(**{"path": "/raw", **source}), files, pa.schema([("shop", type_)]), columns)


@pytest.mark.parametrize(
    ("names", "type_"),
    [
        (["shop=007", "shop=7"], pa.int32()),
        (["shop=7", "d=1/shop=7", "d=1/shop=%207"], pa.int32()),
        (["Shop=7.0", "shop=7"], pa.float64()),
        (["shop=1e0", "shop=1"], pa.float64()),
        (["shop=1D"], pa.float64()),
        (["shop=12345678901234567890123456789012345678901"], pa.float64()),
        (["shop=1e400", "shop=2"], pa.float64()),
        (["shop=+5", "shop=5"], pa.decimal128(20, 0)),
    ],
)
def test_numbers_that_are_more_or_less_than_their_texts(names: list[str], type_: pa.DataType) -> None:
    with pytest.raises(DataError, match=r"/raw/.* gives column 'shop' the value .*TypeInference\.enabled=false"):
        check(names, type_)
    check(names, pa.string())  # Spark reads texts
    check(names, type_, columns=("city",))  # a number, or not read
    check(names, type_, types={"shop": "int"}, format="csv")  # the user's word counts


def test_numbers_that_determine_their_texts() -> None:
    check(["shop=007", "shop=08", "shop=__HIVE_DEFAULT_PARTITION__", "d=1/shop=007", "d=2/shop=007"], pa.int32())
    check(["shop=1.50", "shop=NaN", "shop=9007199254740992", "shop=1e3"], pa.float64())


def test_escaped_bytes() -> None:
    with pytest.raises(DataError, match=r"would read 'ZÃ¼rich' instead of 'Zürich'\. Rename the folder to shop=Zürich"):
        check(["shop=Oslo", "shop=Z%C3%BCrich"], pa.string())
    with pytest.raises(DataError, match="Zürich"):
        check(["shop=Z%C3%BCrich"], pa.string(), columns=(), where="Shop = 'Zürich'")
    check(["shop=Zürich", "shop=a%20b%2Fc"], pa.string())  # as Spark writes
    check(["city=Z%C3%BCrich"], pa.string())
    check(["shop=Z%C3%BCrich"], pa.string(), options={"recursiveFileLookup": True})


def test_folders_that_are_paths_of_the_source() -> None:
    # Spark takes no values from them, so the column is in the files.
    check(["shop=007", "shop=7"], pa.int32(), path=("/raw/shop=007", "file:///raw/shop=7"))
    check(["shop=007", "shop=7"], pa.int32(), path="/raw/shop=*")
    with pytest.raises(DataError, match="'shop'"):
        check(["shop=007", "shop=7"], pa.int32(), path="/raw/shop=*", options={"basePath": "/raw"})
    with pytest.raises(DataError, match="'shop'"):
        check(["a/shop=007", "b/shop=7"], pa.int32(), path=("/raw/a", "/raw/b"))
