"""Options with which Spark reads text files (CSV, JSON, XML): the defaults, and options that cannot be set."""

import codecs
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from py4j.protocol import Py4JJavaError
from pyspark.errors import IllegalArgumentException
from pyspark.sql import SparkSession

from nfm.contract.errors import ConfigError
from nfm.contract.messages import shown
from nfm.contract.reading import Reading
from nfm.kernels.quotes import Dialect
from nfm.table.text.files import has_plain_bytes, has_single_bytes
from nfm.table.text.json_values import Layout

if TYPE_CHECKING:  # workers import this module, and do not need the settings classes
    from nfm.config.source import Source

FORMATS = ("csv", "json", "xml")
BAD_ROW = "_nfm_bad_row"  # column for the text of a row that cannot be parsed; not the name of a user's column
_RFC_4180 = {"header": "true", "inferschema": "true", "escape": '"'}
_SPARK = {"header": "false", "inferschema": "false", "escape": "\\", "multiline": "false"}
_SYNONYMS = {"delimiter": "sep", "charset": "encoding"}
# Options that decide which value a text becomes; scoring reads with those of the training. Others say where the files
# are, or contain passwords.
_OF_VALUES = {
    *("sep", "encoding", "quote", "escape", "comment", "header", "inferschema", "multiline", "linesep", "locale"),
    *("emptyvalue", "nullvalue", "nanvalue", "positiveinf", "negativeinf", "dateformat", "timestampformat"),
    *("timestampntzformat", "timezone", "prefersdate", "unescapedquotehandling", "chartoescapequoteescaping"),
    *("ignoreleadingwhitespace", "ignoretrailingwhitespace", "primitivesasstring", "prefersdecimal", "allowcomments"),
    *("allowunquotedfieldnames", "allowsinglequotes", "allownumericleadingzeros", "allownonnumericnumbers"),
    *("allowbackslashescapinganycharacter", "allowunquotedcontrolchars", "rowtag", "attributeprefix", "valuetag"),
    *("excludeattribute", "ignoresurroundingspaces", "ignorenamespace"),
}
_REFUSED = {
    "mode": "source.on_bad_row decides what happens to rows that cannot be parsed",
    "columnnameofcorruptrecord": "source.on_bad_row decides what happens to rows that cannot be parsed",
    "enforceschema": "each file is read by its own header",
    "samplingratio": "types are inferred from all rows; name them in source.types to avoid this pass",
}


def resolve_options(spark: SparkSession, source: "Source", reading: Reading | None) -> dict[str, str]:
    """Return the reader's options, names in lower case: the user's, then those of the training, then the defaults.

    `reading`: of the model; None for a model of an older version, which read CSV with Spark's own defaults. Raises
    ConfigError for an option that would lose rows or mix columns.
    """
    given = {_SYNONYMS.get(key.lower(), key.lower()): _text(value) for key, value in source.options.items()}
    for name, instead in _REFUSED.items():
        if name in given:
            raise ConfigError(f"source.options.{name}: {shown(given[name])} given, but {instead}. Remove this option")
    defaults: Mapping[str, str] = {}
    if source.format == "csv":
        defaults = _SPARK if reading is None else _RFC_4180
    if reading is not None and reading.format == source.format:
        defaults = {**defaults, **reading.options}
    options = {**defaults, **given}
    encoding = options.get("encoding", "utf-8")
    if "encoding" in options:
        encoding = options["encoding"] = _java_encoding(spark, encoding)
    if not has_plain_bytes(encoding) and given.get("multiline", "true") != "true":
        raise ConfigError(
            f"source.options.multiLine: false given, but Spark cannot find the line ends of {encoding}. "
            "Remove this option"
        )
    if source.format == "json" and options.get("multiline") != "true" and "linesep" not in options:
        if encoding.lower().startswith(("utf-16", "utf-32")):
            raise ConfigError(
                f"source.options.encoding: {encoding} given, but Spark cannot find the lines of JSON in it. Convert "
                "the files to UTF-8, or set source.options.multiLine: true if each is one array or one object"
            )
        if python_encoding(options) != "utf-8":
            options["linesep"] = "\n"  # Spark requires it
    return options


def _java_encoding(spark: SparkSession, encoding: str) -> str:
    """Return Java's name of an encoding, which may be given as Python spells it: latin-1, utf-8-sig."""
    names = [encoding]
    with suppress(LookupError):
        name = codecs.lookup(encoding).name
        names += [name.removesuffix("-sig"), name.replace("-", ""), re.sub("-(?=[lb]e$)", "", name)]
    session: Any = spark
    charset = session._jvm.java.nio.charset.Charset
    for name in names:
        with suppress(Py4JJavaError, IllegalArgumentException):  # a name that is not allowed
            if charset.isSupported(name):
                return str(charset.forName(name).name())
    raise ConfigError(
        f"source.options.encoding: {encoding!r} given, which is not an encoding of Java, such as UTF-8, ISO-8859-1, "
        "windows-1252 or UTF-16"
    )


def value_options(options: Mapping[str, str]) -> dict[str, str]:
    """Return the options that scoring must repeat."""
    return {key: value for key, value in options.items() if key in _OF_VALUES}


def checked_encoding(options: Mapping[str, str]) -> str | None:
    """Return the encoding of the files; None if each byte is a character, or if Python does not know the encoding."""
    name = python_encoding(options)
    if name is None or not has_single_bytes(name):
        return name
    with suppress(UnicodeDecodeError):  # windows-1252 lacks five: Spark would make U+FFFD of each
        bytes(range(256)).decode(name)
        return None
    return name


def python_encoding(options: Mapping[str, str]) -> str | None:
    """Return Python's name of the files' encoding; None if Python does not know it."""
    with suppress(LookupError):
        return codecs.lookup(options.get("encoding", "utf-8")).name
    return None


def dialect_of(options: Mapping[str, str]) -> Dialect | None:
    """Return the special bytes of the CSV files; None if their quotes cannot be followed byte by byte."""
    special = [options.get("sep", ",").replace("\\t", "\t"), options.get("quote", '"'), options.get("escape", '"')]
    if options.get("multiline") == "false" and special[1:2] != special[2:]:
        return None  # Spark parses line by line, and accepts doubled quotes besides the escape character
    special.append(options.get("comment", ""))
    is_plain = all(len(text) <= 1 and text.isascii() for text in special) and special[0]
    if not is_plain or "linesep" in options:
        return None
    skips_spaces = int(options.get("ignoreleadingwhitespace") == "true")
    return Dialect._make([*(ord(text) if text else -1 for text in special), skips_spaces])


def layout_of(source: "Source") -> Layout | None:
    """Return how values of JSON are arranged in files; None if they are not JSON, or have line ends of their own."""
    if source.format != "json" or source.options.get("linesep", "\n") != "\n":
        return None
    return "document" if source.options.get("multiline") == "true" else "lines"


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
