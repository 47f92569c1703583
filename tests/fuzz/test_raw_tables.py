"""Random raw tables: both scans and plain Python give the same rows, and a refusal is a one-line error.

`FUZZ=full pytest tests/fuzz/test_raw_tables.py` tries 500 tables; `FUZZ=17,99` repeats the seeds 17 and 99.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import reduce
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyspark.sql import DataFrame, SparkSession

from nfm.config.source import Source
from nfm.contract.columns import Rows
from nfm.contract.encoder import Encoding
from nfm.contract.errors import DataError, NfmError
from nfm.contract.schema import Bag, Field, Number
from nfm.contract.values import check_kind, check_number, decode_dictionary, is_list
from nfm.features.split import assign_by_hash
from nfm.table.errors import translate_spark_errors
from nfm.table.scan import Scan, open_scan
from tests.contract.conftest import encoding_of
from tests.fuzz import oracle
from tests.fuzz.recipe import Recipe, draw
from tests.fuzz.values import canonical_text, meaning
from tests.fuzz.writing import write_files
from tests.table.reading import all_columns

pytestmark = pytest.mark.e2e

ROW = pa.schema([("table", pa.int32()), ("row", pa.string()), ("fold", pa.string())])
BUCKETS = 1_000_003


def seeds() -> list[int]:
    chosen = os.environ.get("FUZZ", "")
    if chosen and chosen != "full":
        return [int(seed) for seed in chosen.split(",")]
    # A backtick in a name of an ORC column, bytes that are not UTF-8, and a line break in a name once failed.
    return list(range(500)) if chosen else [*range(8), 193, 210, 475]


def encode(
    number: int, names: list[str], schema: pa.Schema, encoding: Encoding
) -> Callable[[Iterator[Rows]], Iterator[pa.RecordBatch]]:
    """Return a task that encodes rows, and copies their values, as the feature job and the score job do."""

    def work(groups: Iterator[Rows]) -> Iterator[pa.RecordBatch]:
        for rows in groups:
            carried = [decode_dictionary(rows.column(name)).cast(schema.field(name).type) for name in names]
            columns = encoding.encode(rows, same_table=True)
            ids = [columns[field.name].tolist() if field.bag is None else columns[field.name].to_pylist()
                   for field in encoding.spec.fields]  # fmt: skip
            numbers = [zip(*(columns[out].tolist() for out in n.outputs), strict=True) for n in encoding.spec.numbers]
            scalar = [name for name in names if not pa.types.is_nested(schema.field(name).type)][:1]
            folds = assign_by_hash([rows.column(scalar[0])], 0.3, 0.3, 7).tolist() if scalar else [0] * rows.num_rows
            texts = []
            for i in range(rows.num_rows):
                values = [meaning(column[i].as_py()) for column in carried]
                texts.append(repr((values, [of_field[i] for of_field in ids], [next(pairs) for pairs in numbers])))
            yield pa.RecordBatch.from_pydict(
                {"table": pa.array([number] * len(texts), pa.int32()), "row": texts, "fold": [str(f) for f in folds]},
                schema=ROW,
            )

    return work


def make_encoding(recipe: Recipe, schema: pa.Schema) -> tuple[Encoding, dict[str, list[str]]]:
    """Return an encoding of every column that can be a field or a number, and the vocabulary of its first field."""
    fields, numbers, vocabularies = [], [], dict[str, list[str]]()
    for i, column in enumerate(schema):
        bag = Bag(None, ",", None) if is_list(column.type) else None
        try:
            kind = check_kind(column.name, column.type, "the table", bag is not None)
        except DataError:
            continue
        if not vocabularies and bag is None:
            values = (
                oracle.stored(row[column.name], column.type, "replace") for row in oracle.table_rows(recipe, schema)
            )
            texts = sorted({text for v in values if (text := canonical_text(v, column.type))})[::2] or ["none"]
            vocabularies[f"f{i}"] = texts
            fields.append(Field(f"f{i}", (column.name,), (kind,), 2, len(texts), f"f{i}"))
        else:
            fields.append(Field(f"f{i}", (column.name,), (kind,), BUCKETS, 0, None, None, bag))
        try:
            check_number(column.name, column.type, "the table")
        except DataError:
            continue
        if kind != "text":
            numbers.append(Number(f"n{i}", column.name, "dense", 0.0, True, None, "none", 0.0, 1.0))
    return encoding_of(fields, vocabularies, numbers), vocabularies


@contextmanager
def session_settings(spark: SparkSession, settings: dict[str, str]) -> Iterator[None]:
    before: dict[str, str | None] = {key: spark.conf.get(key, None) for key in settings}
    try:
        for key, value in settings.items():
            spark.conf.set(key, value)
        yield
    finally:
        for key, earlier in before.items():
            if earlier is None:
                spark.conf.unset(key)
            else:
                spark.conf.set(key, earlier)


def make_source(spark: SparkSession, recipe: Recipe, folder: Path, scan: Any) -> Source:
    paths = [f"{folder}/{path}" for path in recipe.path]
    if recipe.catalog is None:
        path = paths[0] if len(paths) == 1 else tuple(paths)
        return Source(format=recipe.format, path=path, options=recipe.options, where=recipe.where, scan=scan)
    return Source(table=f"fuzz_{recipe.seed}", where=recipe.where, scan=scan)


def register(spark: SparkSession, recipe: Recipe, folder: Path) -> None:
    name, path = f"fuzz_{recipe.seed}", f"{folder}/{recipe.path[0]}"
    if recipe.catalog == "table":
        spark.sql(f"create table {name} using parquet location '{path}'")
        if recipe.files[0].folders:
            spark.catalog.recoverPartitions(name)
    elif recipe.catalog is not None:
        table = spark.read.options(**recipe.options).parquet(path)
        if recipe.catalog == "saved":
            table.write.saveAsTable(name, path=f"{folder}/saved")
        else:
            table.createOrReplaceTempView(name)


def unregister(spark: SparkSession, recipe: Recipe) -> None:
    if recipe.catalog in ("table", "saved"):
        spark.sql(f"drop table if exists fuzz_{recipe.seed}")
    elif recipe.catalog:
        spark.catalog.dropTempView(f"fuzz_{recipe.seed}")


class Outcome:
    """What the two scans did with a table."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.rows: dict[str, Counter[Any]] = {}
        self.refusals: dict[str, NfmError] = {}
        self.schema: pa.Schema | None = None
        self.problems: list[str] = []
        self.expected: Counter[str] | None = None


def prepare(spark: SparkSession, recipe: Recipe, folder: Path, outcome: Outcome) -> dict[str, DataFrame]:
    """Open both scans; return the tables of their rows."""
    jobs: dict[str, DataFrame] = {}
    schemas = {}
    for method in ("auto", "spark"):
        try:
            scan: Scan = open_scan(spark, make_source(spark, recipe, folder, method), all_columns)
            schemas[method] = scan.schema
            if len(schemas) == 1:
                outcome.schema = scan.schema
                encoding, vocabularies = make_encoding(recipe, scan.schema)
                with suppress(UnicodeDecodeError):  # bytes that are not a text: both scans must refuse them
                    outcome.expected = Counter(
                        oracle.expected(row, scan.schema, encoding, vocabularies)
                        for row in oracle.table_rows(recipe, scan.schema)
                    )
            work = encode(recipe.seed, scan.schema.names, scan.schema, encoding)
            jobs[method] = scan.map(scan.schema.names, work, ROW)
            if method == "auto" and scan.method == "spark":
                break
        except NfmError as error:
            outcome.refusals[method] = error
    if len(schemas) == 2 and schemas["auto"] != schemas["spark"]:
        outcome.problems.append(f"the schemas differ: {schemas}")
    return jobs


def run(job: DataFrame) -> dict[int, Counter[Any]]:
    found: dict[int, Counter[Any]] = {}
    with translate_spark_errors("the table"):
        for table, row, fold in job.collect():
            found.setdefault(table, Counter())[row, fold] += 1
    return found


def judge(outcome: Outcome) -> list[str]:
    """Return what is wrong with a table's outcome."""
    problems = list(outcome.problems)
    for method, error in outcome.refusals.items():
        if "\n" in str(error).strip():
            problems.append(f"{method}: the error has several lines: {error}")
    if "auto" in outcome.refusals and "spark" in outcome.rows:
        if _rows(outcome.rows.pop("spark")) != outcome.expected:
            return problems  # Spark converts a value to another one, for example a date to an integer: refused by auto
        problems.append(f"auto refuses what Spark reads: {outcome.refusals['auto']}")
    if len(outcome.rows) == 2 and outcome.rows["auto"] != outcome.rows["spark"]:
        auto, other = outcome.rows["auto"], outcome.rows["spark"]
        problems.append(f"the scans differ:\n auto  {_some(auto - other)}\n spark {_some(other - auto)}")
    for method, rows in outcome.rows.items():
        counted = _rows(rows)
        if outcome.expected is None:
            problems.append(f"{method} accepts invalid UTF-8: {_some(counted)}")
        elif counted != outcome.expected:
            problems.append(
                f"{method} differs from what was written:\n read    {_some(counted - outcome.expected)}\n"
                f" written {_some(outcome.expected - counted)}"
            )
    return problems


def _rows(rows: Counter[Any]) -> Counter[str]:
    """Count the rows without their folds."""
    counted: Counter[str] = Counter()
    for (row, _), n in rows.items():
        counted[row] += n
    return counted


def _some(rows: Counter[Any]) -> str:
    return f"{rows.total()} rows: " + "; ".join(f"{str(row)[:600]} × {n}" for row, n in list(rows.items())[:2])


def try_tables(spark: SparkSession, folder: Path, numbers: list[int]) -> list[Outcome]:
    """Read the tables of these seeds with both scans; tables with default settings share their Spark jobs."""
    outcomes, waiting = [], list[tuple[Outcome, str, DataFrame]]()
    for seed in numbers:
        recipe = draw(seed)
        place = folder / str(seed)
        write_files(recipe, place, spark)
        outcome = Outcome(recipe)
        outcomes.append(outcome)
        with session_settings(spark, recipe.settings):
            try:
                register(spark, recipe, place)
            except Exception as error:  # Spark refuses the table
                outcome.refusals["auto"] = DataError(str(error).splitlines()[0])
                continue
            try:
                jobs = prepare(spark, recipe, place, outcome)
            except Exception as error:
                outcome.problems.append(f"open_scan raised {type(error).__name__}: {str(error)[:1000]}")
                continue
            if recipe.settings:
                for method, job in jobs.items():
                    run_one(outcome, method, job)
            else:
                waiting += [(outcome, method, job) for method, job in jobs.items()]
    for start in range(0, len(waiting), 16):
        run_together(waiting[start : start + 16])
    for outcome in outcomes:
        unregister(spark, outcome.recipe)
    return outcomes


def run_together(jobs: list[tuple[Outcome, str, DataFrame]]) -> None:
    """Run the jobs as one; if that fails, one by one."""
    for method in ("auto", "spark"):
        chosen = [(outcome, job) for outcome, m, job in jobs if m == method]
        if not chosen:
            continue
        try:
            found = run(reduce(DataFrame.unionAll, (job for _, job in chosen)))
        except Exception:
            for outcome, job in chosen:
                run_one(outcome, method, job)
        else:
            for outcome, _ in chosen:
                outcome.rows[method] = found.get(outcome.recipe.seed, Counter())


def run_one(outcome: Outcome, method: str, job: DataFrame) -> None:
    try:
        outcome.rows[method] = run(job).get(outcome.recipe.seed, Counter())
    except NfmError as error:
        outcome.refusals[method] = error
    except Exception as error:
        outcome.problems.append(f"{method} raised {type(error).__name__}: {str(error)[:2000]}")


def test_tables(spark: SparkSession, tmp_path: Path) -> None:
    outcomes = try_tables(spark, tmp_path, seeds())
    judged = [(outcome, judge(outcome)) for outcome in outcomes]
    failures = ["\n".join([*problems, str(outcome.recipe)]) for outcome, problems in judged if problems]
    accepted = sum(bool(outcome.rows) for outcome in outcomes)
    print(f"{len(outcomes)} tables, {accepted} accepted, {len(failures)} with differences")
    assert not failures, f"{len(failures)} of {len(outcomes)} tables:\n\n" + "\n\n".join(failures)
