"""Convert tables in memory to Arrow, and results to the library of the table, without importing that library."""

import sys
from typing import Any

import pyarrow as pa

from nfm.contract.encoder import check_model_columns
from nfm.contract.errors import DataError
from nfm.contract.schema import Spec

_STREAM, _ARRAY = "__arrow_c_stream__", "__arrow_c_array__"  # Arrow's PyCapsule interface


def read_table(table: Any, spec: Spec) -> pa.Table:
    """Return the model's columns of a table of any library as Arrow; DataError if one is missing or unreadable."""
    columns = list(spec.columns)
    if is_frame(table, "pandas"):
        names = [str(name) for name in table.columns]  # pandas also allows numbers
        _check_names(spec, names)
        table = table.set_axis(names, axis="columns")
    elif is_frame(table, "polars"):
        _check_names(spec, table.columns)
        table = table.select(columns)
    elif not hasattr(table, _STREAM) and not hasattr(table, _ARRAY):
        advice = (
            "call its collect() first" if hasattr(table, "collect") else "convert it, for example with pyarrow.table"
        )
        raise DataError(
            f"score got a {type(table).__module__}.{type(table).__qualname__}, which is not a table in memory; it "
            f"takes tables of pandas, polars, pyarrow, DuckDB and others with the method {_STREAM}; {advice}."
        )
    try:
        if is_frame(table, "pandas"):
            return pa.Table.from_pandas(table[columns], preserve_index=False)
        if hasattr(table, _STREAM):
            reader = pa.RecordBatchReader.from_stream(table)
            schema, batches = reader.schema, iter(reader)
        else:
            batch = pa.record_batch(table)
            schema, batches = batch.schema, iter([batch])
        _check_names(spec, schema.names)
        chosen = pa.schema([schema.field(name) for name in columns])
        selected = pa.Table.from_batches((batch.select(columns) for batch in batches), chosen)
        return pa.table([_cast_views(column) for column in selected.columns], columns)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise DataError(
            f"The table's columns cannot be read: {str(error).splitlines()[0]}. Each column must have values of one "
            "type; convert the one that does not, for example with astype(str)."
        ) from error


def convert_result(table: Any, result: pa.Table, as_series: bool) -> Any:
    """Return a result with a row for each row of `table` as a DataFrame of its library (pandas, polars), else as Arrow.

    `as_series`: return the only column of the result as a Series or an Arrow array.
    """
    if is_frame(table, "pandas"):
        frame = result.to_pandas().set_axis(table.index, axis="index")
    elif is_frame(table, "polars"):
        frame = sys.modules["polars"].from_arrow(result)
    else:
        return result.column(0).combine_chunks() if as_series else result
    return frame[result.column_names[0]] if as_series else frame


def is_frame(table: Any, library: str) -> bool:
    """Return whether a table is a DataFrame of `pandas` or `polars`, without importing the library."""
    module = sys.modules.get(library)  # without this import, no such table can exist
    return module is not None and isinstance(table, module.DataFrame)


def _check_names(spec: Spec, names: list[str]) -> None:
    check_model_columns(spec, pa.schema([(name, pa.null()) for name in names]), "the table")


def _cast_views(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a column with plain strings and lists instead of views, for which Arrow lacks some functions."""
    type_ = column.type
    if pa.types.is_dictionary(type_) and pa.types.is_string_view(type_.value_type):
        chunks = [
            pa.DictionaryArray.from_arrays(chunk.indices, chunk.dictionary.cast(pa.large_string()))
            for chunk in column.chunks
        ]
        return pa.chunked_array(chunks, pa.dictionary(type_.index_type, pa.large_string()))
    if pa.types.is_string_view(type_):
        return column.cast(pa.large_string())
    if pa.types.is_list_view(type_) or pa.types.is_large_list_view(type_):
        return column.cast(pa.large_list(type_.value_type))
    return column
