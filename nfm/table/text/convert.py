"""Convert the texts of a file to the types of its columns: each value without a change, or not at all.

Spark's readers of CSV and JSON round 3.14159 to decimal(18,2), and read 2026 as a date. Therefore they deliver texts,
and these expressions convert them.
"""

from collections.abc import Mapping
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Any

from pyspark.sql import Column, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

if TYPE_CHECKING:
    from nfm.config.source import Source

_DATE = r"^\s*[+-]?\d{4,7}-\d{1,2}-\d{1,2}"
_MIDNIGHT = r"([T ]0?0:00(:00(\.0*)?)?)?\s*$"
_TIME = r"([T ]\d{1,2}(:\d{1,2}(:\d{1,2}(\.\d*)?)?)?)?\s*$"
_NANOSECONDS = r"\.\d{6}\d*[1-9]"  # Spark's timestamps have microseconds
_EPOCH = r"^-?\d{9,11}$"  # a timestamp in JSON, as a number: seconds since 1970
_LITERAL = r"[\d.][dDfF]\s*$|0[xX]"  # 12D and 0x1p3 are numbers in Java only
_GROUPED = r"^\s*[+-]?\d{{1,3}}({group}\d{{2,3}})*{group}\d{{3}}({point}\d*)?\s*$"  # 1,234,567.8
_EXPONENT = r"[eE][+-]?\d+\s*$"


class Rounded(T.DoubleType):
    """A double, to which integers of any size are rounded."""

    @classmethod
    def typeName(cls) -> str:  # noqa: N802
        """Return Spark's name of the type."""
        return "double"


class GroupedDouble(Rounded):
    """A rounded double, in whose texts separators of thousands are allowed, as in decimals."""


class Numeral(T.DataType):
    """A text; numbers are written without the separators of thousands that decimals may have."""

    @classmethod
    def typeName(cls) -> str:  # noqa: N802
        """Return Spark's name of the type."""
        return "string"


# The integer from which on a type skips some, and the number of digits with which it distinguishes any two numbers.
_EXACT: dict[type[T.DataType], tuple[float, int]] = {
    T.DoubleType: (2**53, 15),
    Rounded: (float("inf"), 15),
    GroupedDouble: (float("inf"), 15),
    T.FloatType: (2**24, 6),
}
# Options with the format of a type's texts.
FORMATS: dict[type[T.DataType], str] = {
    T.DateType: "dateFormat",
    T.TimestampType: "timestampFormat",
    T.TimestampNTZType: "timestampNTZFormat",
}
_RULES: dict[type[T.DataType], str] = {
    T.BooleanType: "true or false",
    T.DoubleType: "a number; an integer of 2⁵³ or more only if a double equals it",
    Rounded: "a number",
    GroupedDouble: "a number",
    Numeral: "a number or a text, without misplaced separators of thousands",
    T.FloatType: "a number; an integer of 2²⁴ or more only if a float equals it",
    T.DecimalType: "a number with at most {precision} digits, {scale} of them after the decimal point",
    T.DateType: "a date, such as 2026-01-05",
    T.TimestampType: "a date and a time to the microsecond, such as 2026-01-05 12:30:00",
    T.TimestampNTZType: "a date and a time to the microsecond without a zone, such as 2026-01-05 12:30:00",
    **dict.fromkeys((T.ByteType, T.ShortType, T.IntegerType, T.LongType), "an integer in the type's range"),
}


def parse_types(types: Mapping[str, str]) -> dict[str, T.DataType]:
    """Return the types that are given in Spark's SQL."""
    parsed = {type_: T.DataType.fromDDL(type_) for type_ in set(types.values())}
    return {name: parsed[type_] for name, type_ in types.items()}


def text_type(type_: T.DataType) -> T.DataType:
    """Return the type with which Spark reads a column that is converted here: texts instead of the types in _RULES."""
    match type_:
        case T.ArrayType():
            return T.ArrayType(text_type(type_.elementType))
        case T.MapType():
            return T.MapType(type_.keyType, text_type(type_.valueType))
        case T.StructType():
            return T.StructType([T.StructField(f.name, text_type(f.dataType)) for f in type_])
    return T.StringType() if type(type_) in _RULES else type_


def rule(type_: T.DataType) -> str:
    """Return which texts have the type or its members', as a clause; empty for types that are not converted here."""
    match type_:
        case T.ArrayType():
            return rule(type_.elementType)
        case T.MapType():
            return rule(type_.valueType)
        case T.StructType():
            return "; ".join(f"{field.name}: {rule(field.dataType)}" for field in type_ if rule(field.dataType))
    digits = {"precision": type_.precision, "scale": type_.scale} if isinstance(type_, T.DecimalType) else {}
    return _RULES.get(type(type_), "").format(**digits)


def convert(text: Column, type_: T.DataType, source: "Source") -> Column:
    """Convert a column that was read with `text_type` to its type; null where that would change a value."""
    if text_type(type_) == type_:
        return text
    match type_:
        case T.ArrayType():
            return F.transform(text, lambda member: convert(member, type_.elementType, source))
        case T.MapType():
            return F.transform_values(text, lambda _, value: convert(value, type_.valueType, source))
        case T.StructType():
            members = (convert(text.getField(f.name), f.dataType, source).alias(f.name) for f in type_)
            return F.when(text.isNotNull(), F.struct(*members))
        case Numeral():
            return F.when(text.rlike(r"\p{L}"), text).otherwise(_without_locale(text, source))
        case T.BooleanType():
            word = F.lower(F.trim(text))
            return F.when(word == "true", True).when(word == "false", False)
        case T.DoubleType() | T.FloatType():
            return _to_float(text, type_, source)
        case T.DecimalType():
            return _to_decimal(text, type_, source)
        case T.DateType() | T.TimestampType() | T.TimestampNTZType():
            return _to_time(text, type_, source)
    return text.try_cast(type_)


def is_changed(text: Column, type_: T.DataType, source: "Source") -> Column:
    """Return whether `convert` loses a value of a column, or a member of one."""

    def changed(member: Column, of: T.DataType) -> Column:
        return is_changed(member, of, source)

    never = F.lit(False)
    if text_type(type_) == type_:
        return never
    match type_:
        case T.ArrayType():
            return F.coalesce(F.exists(text, lambda member: changed(member, type_.elementType)), never)
        case T.MapType():
            return F.coalesce(F.exists(F.map_values(text), lambda value: changed(value, type_.valueType)), never)
        case T.StructType():
            return reduce(or_, (changed(text.getField(f.name), f.dataType) for f in type_), never)
    if source.format == "xml":
        text = F.nullif(text, F.lit(""))
    return text.isNotNull() & convert(text, type_, source).isNull()


def _to_float(text: Column, type_: T.DataType, source: "Source") -> Column:
    """Convert to the nearest number of the type; integers must be equal to it, as they may be ids."""
    first_gap, digits = _EXACT[type(type_)]
    original, text = text, _without_locale(text, source) if isinstance(type_, GroupedDouble) else text
    value = text.try_cast(type_)
    size = F.abs(value)
    short = rf"^\s*[+-]?0*\d{{1,{digits}}}0*(\.0*)?\s*$|{_EXPONENT}"
    integer = F.regexp_replace(text, r"\.0*\s*$", "").try_cast(T.LongType())
    is_exact = (
        F.when(size < first_gap, (size > 0) | ~text.rlike(r"^[^eE]*[1-9]"))  # 1e-400 is not 0
        .when(size.isin(float("inf"), float("nan")), ~text.rlike(r"\d"))  # nor is 1e400 infinite
        .otherwise(text.rlike(short) | (value.try_cast(T.LongType()) == integer))
    )
    # Most texts are short numbers, and one pattern accepts them.
    is_short = text.rlike(rf"^-?\d{{1,{digits}}}(\.\d{{1,15}})?$")
    converted = F.when(is_short, value).when(is_exact & ~text.rlike(_LITERAL), value)
    names = {"nanvalue": "NaN", "positiveinf": "Infinity", "negativeinf": "-Infinity"}
    for option, name in names.items():
        if option in source.options:
            converted = F.when(original == source.options[option], F.lit(name).cast(type_)).otherwise(converted)
    return converted


def _to_decimal(text: Column, type_: T.DecimalType, source: "Source") -> Column:
    plain = _without_locale(text, source)
    fraction = F.length(F.regexp_extract(plain, r"\.(\d*?)0*(?:[eE]|\s*$)", 1))
    exponent = F.coalesce(F.regexp_extract(plain, r"[eE]([+-]?\d+)", 1).try_cast(T.IntegerType()), F.lit(0))
    may_round = plain.rlike(rf"[eE]|\.\d{{{type_.scale}}}\d*[1-9]")
    return F.when(~may_round | (fraction - exponent <= type_.scale), plain.try_cast(type_))


def _without_locale(text: Column, source: "Source") -> Column:
    """Return a number's text without separators of thousands, with a decimal point; null if they are misplaced."""
    point, group = _separators(source.options.get("locale"))
    grouped = _GROUPED.format(group=rf"\x{{{ord(group):x}}}", point=rf"\x{{{ord(point):x}}}")
    plain = F.when(~text.contains(group), F.translate(text, point, "."))
    plain = plain.when(text.rlike(grouped), F.translate(text, point + group, "."))
    if source.format != "json":
        return plain
    is_number = text.rlike(r"^-?\d+(\.\d+)?([eE][+-]?\d+)?$")  # of JSON, in any locale
    return F.when(is_number, text).otherwise(plain)


def _separators(locale: str | None) -> tuple[str, str]:
    """Return the decimal separator and that of thousands in a locale of Java."""
    if locale is None:
        return ".", ","
    spark: Any = SparkSession.active()
    java = spark._jvm.java
    symbols = java.text.DecimalFormatSymbols.getInstance(java.util.Locale.forLanguageTag(locale))
    return symbols.getDecimalSeparator(), symbols.getGroupingSeparator()


def _to_time(text: Column, type_: T.DataType, source: "Source") -> Column:
    format_ = FORMATS[type(type_)].lower()
    given = {name: source.options[name] for name in (format_, "timezone", "locale") if name in source.options}
    value = _parse_with(text, type_, given) if given.keys() - {"locale"} else text.try_cast(type_)
    if format_ in given:
        return value
    if isinstance(type_, T.DateType):
        return F.when(text.rlike(_DATE + _MIDNIGHT), value)
    is_exact = text.rlike(_DATE + (_TIME if isinstance(type_, T.TimestampNTZType) else r"(?!\d)"))
    value = F.when(is_exact & ~text.rlike(_NANOSECONDS), value)
    if source.format == "json" and isinstance(type_, T.TimestampType):
        value = F.when(text.rlike(_EPOCH), F.timestamp_seconds(text.try_cast(T.LongType()))).otherwise(value)
    return value


def _parse_with(text: Column, type_: T.DataType, options: Mapping[str, str]) -> Column:
    """Parse a text as Spark's reader does with these options; slower than a cast."""
    line = F.to_csv(F.struct(text.alias("value")), {"quoteAll": "true", "escape": '"'})
    parsed = F.from_csv(line, f"value {type_.simpleString()}", {"escape": '"', **options})
    return F.when(text.isNotNull(), parsed.getField("value"))
