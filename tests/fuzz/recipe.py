"""Random raw tables made of Parquet files: what each seed draws, and how its files are written."""

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pyarrow as pa

from tests.fuzz.values import FAMILIES, WEIGHTS, draw_value

NAMES = ("a", "a.b", "b", "two words", "größe", "x=y", "tick`", " pad ", "row", "label", "_nfm_number", "_nfm", "日本",
         "a,b", "'", '"', "value", "count", "1", "%41", "order", "_metadata", "_c0", "{}", "(x)", "a\nb",
         "element")  # fmt: skip
FOLDER_NAMES = ("c", "Day", "two words", "te:xt", "_nfm_number", "ü", "n.m")
FOLDER_VALUES: dict[str, tuple[str, ...]] = {
    "int": ("1", "007", "-3", "2147483648", "+5", "٣"),
    "date": ("2026-11-20", "0999-01-01", "1999-12-31"),
    "text": ("DE", "a=b", "a/b", "%", "ü", "true", "a b", " x", "#?", "{}", "x\u007fy", "null"),
    "mixed": ("1", "1.5", "abc", "007"),
    "float": ("1.5", "2", "-0.0", "NaN", "1e3"),
    "big": ("123456789012345678901234", "5"),
    "time": ("12:00:00", "13:30:00"),
    "moment": ("2026-11-20 12:00:00", "2026-11-20 12:00:01.5"),
}
PLAIN = {  # types that ORC and JSON have
    "text": (pa.string(),),
    "int": (pa.int64(),),
    "bool": (pa.bool_(),),
    "texts": (pa.list_(pa.string()),),
    "ints": (pa.list_(pa.int64()),),
    "struct": (pa.struct({"a": pa.int64(), "b": pa.string()}),),
    "lists": (pa.list_(pa.list_(pa.string())),),
}
NULL_FOLDER = "__HIVE_DEFAULT_PARTITION__"
_ESCAPED = "\"#%'*/:=?\\{[]^\x7f"
LAYOUTS = {"file": 4, "folder": 8, "paths": 2, "partitioned": 6, "recursive": 1, "filtered": 1, "glob": 1,
           "twice": 0.5, "stray": 0.5, "summary": 0.5}  # fmt: skip
SETTINGS: tuple[tuple[str, str], ...] = (
    ("spark.sql.caseSensitive", "true"),
    ("spark.sql.parquet.binaryAsString", "true"),
    ("spark.sql.parquet.inferTimestampNTZ.enabled", "false"),
    ("spark.sql.legacy.parquet.nanosAsLong", "true"),
    ("spark.sql.sources.partitionColumnTypeInference.enabled", "false"),
    ("spark.sql.execution.arrow.maxRecordsPerBatch", "2"),
    ("spark.sql.parquet.enableVectorizedReader", "false"),
    ("spark.sql.execution.arrow.useLargeVarTypes", "true"),
    ("spark.sql.parquet.mergeSchema", "true"),
    ("spark.sql.ansi.enabled", "false"),
    ("spark.sql.parquet.int96AsTimestamp", "false"),
)


@dataclass
class File:
    """A Parquet file: its place, its columns, its rows."""

    path: str  # below the table's folder
    types: dict[str, pa.DataType]
    rows: list[list[Any]]
    writer: str
    options: dict[str, Any] = field(default_factory=dict)
    folders: dict[str, str | None] = field(default_factory=dict)  # values in the names of its folders
    is_read: bool = True


@dataclass
class Recipe:
    """A table and its source."""

    seed: int
    layout: str
    files: list[File]
    path: list[str]  # below the table's folder
    options: dict[str, Any]
    settings: dict[str, str]
    format: str = "parquet"
    where: str | None = None
    keeps: Callable[[dict[str, Any]], bool] = lambda _: True  # `where` in Python, on values by lower-case name
    catalog: str | None = None  # how the table is registered: a table over the folder, saved, or a view

    def __str__(self) -> str:
        """Return the recipe, to repeat it."""
        lines = [f"seed {self.seed}: {self.format}, {self.layout}, path {self.path}, options {self.options}, "
                 f"where {self.where!r}, settings {self.settings}, catalog {self.catalog}"]  # fmt: skip
        for file in self.files:
            columns = ", ".join(f"{name!r}: {type_}" for name, type_ in file.types.items())
            lines.append(f"  {file.path!r} ({file.writer} {file.options}): {len(file.rows)} rows of {columns}")
            lines += [f"    {str(row)[:300]}" for row in file.rows[:5]]
        return "\n".join(lines)


def escape(text: str) -> str:
    return "".join(f"%{ord(c):02X}" if c in _ESCAPED or ord(c) < 32 else c for c in text)


def draw(seed: int) -> Recipe:
    """Draw the table of a seed."""
    random = Random(seed)
    layout = random.choices(list(LAYOUTS), list(LAYOUTS.values()))[0]
    format_ = random.choices(("parquet", "orc", "json"), (20, 1, 2))[0]
    families = random.choices(list(FAMILIES), [WEIGHTS.get(f, 1) for f in FAMILIES], k=random.randint(1, 6))
    if format_ != "parquet":
        families = random.choices(list(PLAIN), k=random.randint(1, 6))
    names = random.sample(NAMES, len(families))
    types_of = FAMILIES if format_ == "parquet" else PLAIN
    columns = {name: random.choice(types_of[family]) for name, family in zip(names, families, strict=True)}
    by_name = dict(zip(names, families, strict=True))
    mixed = random.random() < 0.35 and format_ == "parquet"  # whether files differ in types, columns and spelling
    places = _places(random, layout)
    recipe = Recipe(seed, layout, [], _paths(layout, random), _options(layout), {}, format_)
    for path, folders, is_read in places:
        types = dict(columns)
        if mixed and recipe.files:
            types = _vary(random, types, by_name)
        overlap = next((n for n in folders if random.random() < 0.1), None)
        if overlap is not None:
            types[overlap] = pa.string()
        rows = [
            [None if random.random() < 0.25 else draw_value(random, t, mixed) for t in types.values()]
            for _ in range(random.choice((0, 1, 2, 5, 11, 30)))
        ]
        if random.random() < 0.1:
            rows = [[None] * len(types) for _ in rows]
        writer = _writer(random) if format_ == "parquet" else (format_, {})
        recipe.files.append(File(path, types, rows, *writer, folders, is_read))
    if random.random() < 0.2:
        recipe.settings = dict([random.choice(SETTINGS)])
    if mixed and random.random() < 0.5:
        recipe.options["mergeSchema"] = "true"
    if random.random() < 0.15 and format_ == "parquet" and layout in ("file", "folder", "partitioned"):
        recipe.catalog = random.choice(("table", "saved", "view"))
    _draw_condition(random, recipe)
    return recipe


def _places(random: Random, layout: str) -> list[tuple[str, dict[str, str | None], bool]]:
    """Draw the files' paths, the values in their folders' names, and whether the source reads them."""
    count = 1 if layout == "file" else random.choice((1, 2, 3, 5))
    names = random.sample(("a.parquet", "part 1.parquet", "b#?.parquet", "ü%20.parquet", "c", "a=b.parquet"), count)
    hidden: list[tuple[str, dict[str, str | None], bool]] = [("raw/_hidden.parquet", {}, False)]
    hidden = hidden if random.random() < 0.1 and layout == "folder" else []
    if layout in ("partitioned", "stray"):
        keys = random.sample(FOLDER_NAMES, random.choice((1, 1, 2)))
        kinds = {key: random.choice(list(FOLDER_VALUES)) for key in keys}
        places = []
        for name in names:
            values = {key: random.choice((*FOLDER_VALUES[kinds[key]], None)) for key in keys}
            folders = [f"{escape(key)}={NULL_FOLDER if v is None else escape(v)}" for key, v in values.items()]
            places.append(("/".join(["raw", *folders, name]), values, True))
        return [*places, ("raw/beside.parquet", dict.fromkeys(keys), True)] if layout == "stray" else places
    if layout == "filtered":
        return [(f"raw/{name}", {}, name.endswith(".parquet")) for name in names]
    if layout == "recursive":
        return [(f"raw/{'deep/' * i}x=1/{name}", {}, True) for i, name in enumerate(names)]
    if layout == "paths":
        return [(f"{'raw' if i % 2 == 0 else 'more'}/{name}", {}, True) for i, name in enumerate(names)]
    return [(f"raw/{name}", {}, True) for name in names] + hidden


def _paths(layout: str, random: Random) -> list[str]:
    if layout == "twice":
        return random.choice((["raw", "raw"], ["raw", "raw/*"], ["ra?", "raw"]))
    return {"paths": ["raw", "mor[e]"], "glob": ["{raw,none}/*"]}.get(layout, ["raw"])


def _options(layout: str) -> dict[str, Any]:
    return {"recursive": {"recursiveFileLookup": "true"}, "filtered": {"pathGlobFilter": "*.parquet"}}.get(layout, {})


def _vary(random: Random, types: dict[str, pa.DataType], families: dict[str, str]) -> dict[str, pa.DataType]:
    """Return the columns of another file of the table: other order and types, with columns missing or added."""
    names = [name for name in types if random.random() < 0.85] or list(types)[:1]
    random.shuffle(names)
    varied = {}
    for name in names:
        family = families[name] if random.random() < 0.93 else random.choice(list(FAMILIES))
        varied[name.upper() if random.random() < 0.1 else name] = random.choice((types[name], *FAMILIES[family]))
    if random.random() < 0.2:
        varied["extra"] = pa.int64()
    return varied


def _writer(random: Random) -> tuple[str, dict[str, Any]]:
    writer = random.choices(("pyarrow", "pandas", "polars", "duckdb", "spark"), (10, 1, 1, 1, 0.5))[0]
    if writer != "pyarrow":
        return writer, {}
    options = {
        "row_group_size": random.choice((None, 1, 3, 10)),
        "compression": random.choice(("snappy", "zstd", "gzip", "none", "lz4", "brotli")),
        "version": random.choice(("1.0", "2.4", "2.6", "2.6")),
        "data_page_version": random.choice(("1.0", "2.0")),
        "use_dictionary": random.choice((True, True, False)),
        "store_schema": random.choice((True, True, False)),
        "use_compliant_nested_type": random.choice((True, True, False)),
        "use_deprecated_int96_timestamps": random.random() < 0.15,
        "store_decimal_as_integer": random.random() < 0.3,
        "write_page_checksum": random.random() < 0.2,
        "dictionary_pagesize_limit": random.choice((1 << 20, 1)),
        "use_byte_stream_split": random.random() < 0.05,
    }
    if options["use_byte_stream_split"]:
        options["use_dictionary"] = False
    return writer, options


def _draw_condition(random: Random, recipe: Recipe) -> None:
    """Draw `where`, on a partition column or another one, for some tables."""
    folders = list(recipe.files[0].folders)
    if random.random() < 0.3 and folders:
        name = random.choice(folders)
        quoted = f"`{name}`"
        recipe.where, recipe.keeps = random.choice(
            (
                (f"{quoted} is not null", lambda row: row.get(name.lower()) is not None),
                (f"{quoted} is null or true", lambda row: True),
                (f"{quoted} is null and false", lambda row: False),
                (f"{quoted.upper()} is null", lambda row: row.get(name.lower()) is None),
            )
        )
        if recipe.settings.get("spark.sql.caseSensitive"):
            recipe.where, recipe.keeps = f"{quoted} is null", lambda row: row.get(name.lower()) is None
    elif random.random() < 0.1:
        name = random.choice(list(recipe.files[0].types))
        recipe.where = f"`{name.replace('`', '``')}` is not null"
        recipe.keeps = lambda row: row.get(name.lower()) is not None
