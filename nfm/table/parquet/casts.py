"""Convert a column of a file to the table's type without changing a value."""

import pyarrow as pa
import pyarrow.compute as pc


def is_text(type_: pa.DataType) -> bool:
    """Return whether columns of this type are read as dictionaries."""
    return bool(pa.types.is_string(type_) or pa.types.is_large_string(type_))


def cast_exactly(values: pa.Array, type_: pa.DataType) -> pa.Array:
    """Convert values to another type; ArrowException if a value would change."""
    if isinstance(values, pa.ExtensionArray):
        values = values.storage
    if is_text(type_):
        encoded = values if pa.types.is_dictionary(values.type) else values.dictionary_encode()
        if encoded.type.value_type == type_ and encoded.type.index_type == pa.int32():
            return encoded
        texts = encoded.dictionary
        if not _is_text_or_bytes(texts.type):
            raise pa.ArrowInvalid("its values are not strings")
        return pa.DictionaryArray.from_arrays(encoded.indices.cast(pa.int32()), texts.cast(type_))
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if values.type == type_:
        return values
    if not _are_compatible(values.type, type_):
        raise pa.ArrowInvalid("its type is incompatible")
    converted = values.cast(type_)
    _check_lossless(values, converted)
    return converted


def _are_compatible(first: pa.DataType, second: pa.DataType) -> bool:
    """Return whether two types can represent the same values. Arrow would also cast bytes to integers, and so on."""
    kind = pa.types
    if kind.is_dictionary(first):
        return _are_compatible(first.value_type, second)
    if kind.is_null(first):
        return True
    if kind.is_map(first) and kind.is_map(second):
        pairs = (first.key_type, second.key_type), (first.item_type, second.item_type)
        return all(_are_compatible(*pair) for pair in pairs)
    if hasattr(first, "value_type") and hasattr(second, "value_type"):
        return _are_compatible(first.value_type, second.value_type)
    return any(is_family(first) and is_family(second) for is_family in (kind.is_struct, kind.is_boolean, *_FAMILIES))


# Types of columns in files that Spark reads as another type.
_IN_SPARK = {
    pa.null(): pa.int32(),
    pa.uint8(): pa.int16(),
    pa.uint16(): pa.int32(),
    pa.uint32(): pa.int64(),
    pa.uint64(): pa.decimal128(20, 0),
    pa.date64(): pa.date32(),
}


def is_read_as(in_file: pa.DataType, in_table: pa.DataType) -> bool:
    """Return whether Spark's Parquet reader converts a column of a file to this type of the table as `cast_exactly`."""
    kind = pa.types
    if kind.is_dictionary(in_file):
        return is_read_as(in_file.value_type, in_table)
    if in_table == pa.struct([]):  # a type that Arrow lacks
        return True
    if in_table.num_fields:  # a list, a struct or a map
        pairs = zip(_members(in_file), _members(in_table), strict=False)
        return _shape(in_file) == _shape(in_table) and all(is_read_as(*pair) for pair in pairs)
    if is_text(in_table) or _is_bytes(in_table):
        return (_is_bytes if _is_bytes(in_table) else _is_string)(in_file)
    if kind.is_timestamp(in_file) and kind.is_timestamp(in_table):
        return in_file.unit in ("ms", "us") and (in_file.tz is None or in_table.tz is not None)
    in_file = pa.int64() if kind.is_duration(in_file) else _IN_SPARK.get(in_file, in_file)
    if kind.is_float16(in_file):  # Spark cannot read it
        return False
    is_wider = any(is_kind(in_file) and is_kind(in_table) for is_kind in (kind.is_signed_integer, kind.is_floating))
    return in_file == in_table or (is_wider and in_file.bit_width < in_table.bit_width)


def _members(type_: pa.DataType) -> list[pa.DataType]:
    """Return the types of the members of a list, a struct or a map."""
    if pa.types.is_map(type_):
        return [type_.key_type, type_.item_type]
    return [type_.field(i).type for i in range(type_.num_fields)]


def _shape(type_: pa.DataType) -> object:
    """Return what distinguishes nested types except for the types of their members."""
    if pa.types.is_struct(type_):
        return [field.name for field in type_]
    return "map" if pa.types.is_map(type_) else "list" if hasattr(type_, "value_type") else None


def _is_string(type_: pa.DataType) -> bool:
    return is_text(type_) or bool(pa.types.is_string_view(type_))


def _is_number(type_: pa.DataType) -> bool:
    kind = pa.types  # a duration is stored as an integer, and Spark reads it as an integer
    return bool(kind.is_integer(type_) or kind.is_floating(type_) or kind.is_decimal(type_) or kind.is_duration(type_))


def _is_text_or_bytes(type_: pa.DataType) -> bool:
    return _is_string(type_) or _is_bytes(type_)


def _is_date_or_timestamp(type_: pa.DataType) -> bool:
    return bool(pa.types.is_date(type_) or pa.types.is_timestamp(type_))


_FAMILIES = (_is_number, _is_text_or_bytes, _is_date_or_timestamp, pa.types.is_time)


def _is_bytes(type_: pa.DataType) -> bool:
    kind = pa.types
    checks = kind.is_binary, kind.is_large_binary, kind.is_fixed_size_binary, kind.is_binary_view
    return any(is_type(type_) for is_type in checks)


def _check_lossless(values: pa.Array, converted: pa.Array) -> None:
    """Check that a cast kept the values. Arrow's cast refuses overflows, but rounds a double to a float silently."""
    if pa.types.is_struct(values.type):
        for i, field in enumerate(converted.type):
            if field.name in values.type.names:
                _check_lossless(values.field(field.name), converted.field(i))
    elif pa.types.is_map(values.type):
        _check_lossless(values.keys, converted.keys)
        _check_lossless(values.items, converted.items)
    elif hasattr(values, "flatten"):
        _check_lossless(values.flatten(), converted.flatten())
    elif pa.types.is_primitive(values.type) or pa.types.is_decimal(values.type):
        back = converted.cast(values.type, safe=False)
        if pa.types.is_floating(values.type):  # NaN is not equal to itself
            values, back = (pc.if_else(pc.is_nan(x), None, x) for x in (values, back))
        if not back.equals(values):
            raise pa.ArrowInvalid("digits would be lost")
