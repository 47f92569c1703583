"""How text files (CSV, JSON) were read for training, so that scoring reads the same value from the same text."""

import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

from nfm.contract.errors import DataError
from nfm.contract.schema import Spec
from nfm.contract.times.derived import Derived

READING = "reading.json"
# Texts that Spark infers as numbers, although they are more than a number: 007, 12D (a literal of Java), 40 digits,
# digits of other scripts, and exponents that overflow.
MORE_THAN_A_NUMBER = r"^\s*[+-]?0\d|\d[dDfF]\s*$|^\s*[+-]?0[xX]|\d{39}|[^\x00-\x7F]|[eE][+-]?\d{3}"
# Integers that may not equal a double, in a column with other numbers: 2⁵³ + 1.
MORE_THAN_A_DOUBLE = rf"{MORE_THAN_A_NUMBER}|^\s*[+-]?\d{{16,}}\s*$"
TIME_FORMATS = {"timestampformat", "timestampntzformat", "dateformat"}
_INTEGER = re.compile(r"tinyint|smallint|int|bigint|decimal\(\d+,0\)")


@dataclass(frozen=True)
class Reading:
    """Format of a source, the options that its values depend on, and the types of its columns in Spark's SQL."""

    format: str = ""
    options: Mapping[str, str] = field(default_factory=dict)  # names in lower case
    types: Mapping[str, str] = field(default_factory=dict)
    # Not stored:
    untimed: Collection[str] = ()  # columns that stay texts where Spark infers timestamps, in the zone of its session
    # For scoring only:
    rounded: Collection[str] = ()  # columns of type double whose integers may be rounded
    grouped: Collection[str] = ()  # columns that training read as decimals, which may have separators of thousands
    kept: Collection[str] = ()  # columns of the output and of `where`: 007 must not become the integer 7

    def save(self, folder: Path) -> None:
        """Write `reading.json` into an encoding's folder."""
        stored = {"format": self.format, "options": dict(self.options), "types": dict(self.types)}
        (folder / READING).write_text(json.dumps(stored, indent=1, ensure_ascii=False))

    @classmethod
    def load(cls, folder: Path) -> Self | None:
        """Read `reading.json`; None if an older version wrote the encoding, which had no such file."""
        path = folder / READING
        if not path.exists():
            return None
        try:
            return cls(**json.loads(path.read_text()))
        except (ValueError, TypeError) as error:
            raise DataError(
                f"{path} cannot be parsed ({error}). It must not be changed after it is written. Restore it from a "
                "copy, or run nfm features again."
            ) from error

    def with_texts(self, derived: Iterable[Derived], options: Mapping[str, object]) -> "Reading":
        """Return the same reading, with texts in the columns that others are derived from and whose type is not known.

        Spark would read a time without a zone offset in the zone of its session, which can differ tonight. With an
        option for another form of the times, only Spark can read them.
        """
        if TIME_FORMATS & {name.lower() for name in (*options, *self.options)}:
            return self
        times = {column: "string" for one in derived for column in one.columns}
        return replace(self, types={**times, **self.types})

    def for_scoring(self, spec: Spec, kept: Collection[str] = ()) -> "Reading":
        """Return the same reading with the types for scoring, see `scoring_types`."""
        types = scoring_types(spec, self.types, kept)
        # Integers in training, of any size; the encoder makes 32-bit floats of them.
        rounded = [name for name, type_ in types.items() if type_ == "double" and self.types.get(name) != "double"]
        decimals = {name for name, type_ in self.types.items() if type_.startswith("decimal")}
        grouped = [name for name in types if name in decimals and types[name] != self.types[name]]
        return replace(self, types=types, rounded=rounded, grouped=grouped, kept=kept)


LATEST = Reading()  # the defaults of this version


def scoring_types(spec: Spec, learned: Mapping[str, str], kept: Collection[str] = ()) -> dict[str, str]:
    """Return the types in which scoring reads the columns of text files.

    The columns have the types that training learned, even if tonight's values look like another type. Integer columns
    that only the encoder reads accept more: fields read texts, and numbers read floats. So `3.0` is the value 3, and
    `A7` is an unseen value. `kept` are columns that others read too, such as those of the output.
    """
    types = dict(learned)
    times = {column for one in spec.derived for column in one.columns}
    values = {column for field in spec.fields if field.edges is None for column in field.columns}
    for column in spec.columns:
        if column not in (*spec.key, *kept, *times) and _INTEGER.fullmatch(learned.get(column, "int")):
            types[column] = "string" if column in values else "double"
    return types
