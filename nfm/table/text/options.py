"""Options with which Spark reads text files (CSV, JSON, XML): the defaults, and options that cannot be set."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from nfm.contract.errors import ConfigError
from nfm.contract.messages import shown
from nfm.contract.reading import Reading
from nfm.kernels.quotes import Dialect

if TYPE_CHECKING:  # workers import this module, and do not need the settings classes
    from nfm.config.settings import Source

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
_ONE_BYTE = ("utf-8", "utf8", "us-ascii", "ascii")  # and ISO-8859-…, windows-…


def resolve_options(source: "Source", reading: Reading | None) -> dict[str, str]:
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
    if not is_ascii_compatible(options) and given.get("multiline", "true") != "true":
        raise ConfigError(
            f"source.options.multiLine: false given, but Spark cannot find the line ends of {options['encoding']}. "
            "Remove this option"
        )
    return options


def value_options(options: Mapping[str, str]) -> dict[str, str]:
    """Return the options that scoring must repeat."""
    return {key: value for key, value in options.items() if key in _OF_VALUES}


def is_ascii_compatible(options: Mapping[str, str]) -> bool:
    """Return whether delimiters, quotes and line ends are single bytes in the encoding of the files."""
    encoding = options.get("encoding", "utf-8").lower()
    return encoding in _ONE_BYTE or encoding.startswith(("iso-8859-", "iso8859", "latin", "windows-125", "cp125"))


def is_unicode(options: Mapping[str, str]) -> bool:
    """Return whether the files must be UTF-8, of which not every sequence of bytes is valid."""
    return options.get("encoding", "utf-8").lower() in _ONE_BYTE


def dialect_of(options: Mapping[str, str]) -> Dialect | None:
    """Return the special bytes of the CSV files; None if their quotes cannot be followed byte by byte."""
    special = [options.get("sep", ",").replace("\\t", "\t"), options.get("quote", '"'), options.get("escape", '"')]
    if options.get("multiline") == "false" and special[1:2] != special[2:]:
        return None  # Spark parses line by line, and accepts doubled quotes besides the escape character
    is_plain = all(len(text) <= 1 and text.isascii() for text in special) and special[0]
    if not is_plain or not is_ascii_compatible(options) or options.get("comment") or options.get("linesep"):
        return None
    codes = [ord(text) if text else -1 for text in special]
    return Dialect(codes[0], codes[1], codes[2], int(options.get("ignoreleadingwhitespace") == "true"))


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
