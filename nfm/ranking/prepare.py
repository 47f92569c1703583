"""Load the model and open the tables of the recommend job, and check that they fit each other."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyspark.errors import AnalysisException, ParseException
from pyspark.sql import DataFrame, SparkSession

from nfm.config.ranking import History, Ranking
from nfm.config.settings import Config
from nfm.config.source import Source
from nfm.contract.artifact import Artifact
from nfm.contract.columns import check_columns
from nfm.contract.dataset import HISTORY, HISTORY_WEIGHTS
from nfm.contract.errors import ConfigError, DataError
from nfm.contract.publishing.publish import check_replaceable
from nfm.contract.reading import LATEST, Reading
from nfm.contract.schema import Bag, Kind, Spec
from nfm.contract.values import check_kind, is_list
from nfm.forward.sides import divide
from nfm.ranking.page import MARKER
from nfm.ranking.stored import LimitColumn
from nfm.table.errors import translate_spark_errors
from nfm.table.jobs.interactions import Order
from nfm.table.jobs.sides import list_columns, list_sides
from nfm.table.scan import Scan, open_scan

OUTPUT_COLUMNS = ("rank", "score")


@dataclass(frozen=True)
class Segment:
    """The column that assigns candidates to users."""

    section: str  # of the table of users
    column: str
    kind: Kind  # of the candidates' column


@dataclass(frozen=True)
class Opened:
    """The model and the tables, opened and checked."""

    artifact: Artifact
    ranking: Ranking
    order: Order
    scans: Mapping[str, Scan]  # by section: source, and those that are set of users, items, recommend.users, …
    names: Mapping[str, str]  # for messages, likewise
    side_columns: Mapping[str, tuple[str, ...]]  # columns besides the key that are needed, likewise
    missing: tuple[str, ...]  # columns of the user's side that no table has
    limits: tuple[LimitColumn, ...]
    segment: Segment | None
    allowed: DataFrame | None  # rows of the items' table that satisfy recommend.where

    @property
    def key_types(self) -> tuple[pa.DataType, pa.DataType]:
        """Types of users and items in the interactions and in the output."""
        schema = self.scans["source"].schema
        return schema.field(self.order.user).type, schema.field(self.order.item).type

    @property
    def user_columns(self) -> tuple[str, ...]:
        """Raw columns of the user's side that tables have, besides the history."""
        read = raw_columns(divide(self.artifact.encoding.spec)[0])
        return tuple(name for name in read if name not in (HISTORY, HISTORY_WEIGHTS, *self.missing))

    def exclude(self) -> Iterator[tuple[Scan, str]]:
        """Yield the tables of recommend.exclude, with names for messages."""
        for name, scan in self.scans.items():
            if name.startswith("recommend.exclude"):
                yield scan, self.names[name]


def open_all(spark: SparkSession, config: Config, searches: bool = True) -> Opened:
    """Return the verified model and the tables after all checks; `searches` as for `open_scan`.

    Raises:
        DataError: the model is refused, a column is missing or has another type than in training, or the output's
            folder contains something else.
        ConfigError: the settings do not fit the model.
    """
    if config.ranking is None:
        raise ConfigError(f"nfm recommend is only for model.task: ranking, but it is {config.model.task}")
    ranking, artifact = config.ranking, Artifact.load(config.model_folder)
    check_replaceable(config.recommendations_folder, MARKER)
    _check_model(artifact, ranking)
    tables = dict(_list_tables(artifact, config))
    scans, names = dict[str, Scan](), dict[str, str]()
    for name, (source, columns, reading) in tables.items():
        names[name] = str(source) if name == "source" else f"{source} ({name})"
        scans[name] = _open(spark, source, columns, reading, searches)
    context, missing = _find_context(artifact, config, scans.get("recommend.users"))
    side_columns = {name: columns[1:] for name, (_, columns, _) in tables.items() if name != "source"}
    if context:
        source, columns, reading = tables["recommend.users"]
        scans["recommend.users"] = _open(spark, source, tuple(dict.fromkeys([*columns, *context])), reading, searches)
        side_columns["recommend.users"] = tuple(dict.fromkeys([*columns[1:], *context]))
    opened = Opened(
        artifact,
        ranking,
        _make_order(config, scans["source"].schema),
        scans,
        names,
        side_columns,
        missing,
        _find_limits(config, scans.get("items"), names),
        _find_segment(config, scans, names),
        _select_items(config, scans.get("items")),
    )
    _check_types(opened)
    return opened


def _check_model(artifact: Artifact, ranking: Ranking) -> None:
    """Raise ConfigError if the model is not one that ranks, or was trained with other settings."""
    if artifact.network.task != "ranking":
        raise ConfigError(
            f"score.model: the model in {artifact.path} has the task {artifact.network.task}, but nfm recommend needs "
            "one with the task ranking"
        )
    trained = (artifact.metadata.get("configuration") or {}).get("ranking")
    if trained is None:  # a model that was not made by nfm train
        return
    now = ranking.model_dump(mode="json", include={"user", "item", "time", "history"})
    history = trained.get("history")
    before = {key: trained.get(key) for key in ("user", "item", "time")}
    before["history"] = None if history is None else History.model_validate(history).model_dump(mode="json")
    for key, value in before.items():
        if now[key] != value:
            raise ConfigError(
                f"ranking.{key}: {now[key]} given, but the model in {artifact.path} was trained with {value}. Restore "
                "it, or train again"
            )
    read = dict.fromkeys(c for name, _, table in list_sides(ranking) if name == "items" for c in list_columns(table))
    for column in raw_columns(divide(artifact.encoding.spec)[1]):
        if column not in (*read, ranking.item):
            raise ConfigError(
                f"ranking.items: the model in {artifact.path} reads the column {column!r} of items, but no input of "
                "ranking.items does. Restore it, or train again"
            )


def raw_columns(side: Spec) -> tuple[str, ...]:
    """Return the raw columns that the inputs of a side read."""
    return replace(side, key=()).columns


def _list_tables(artifact: Artifact, config: Config) -> Iterator[tuple[str, tuple[Source, tuple[str, ...], Any]]]:
    """Yield the section of each table, its source, the columns that it must have, and how to read text files."""
    ranking, settings = config.ranking, config.recommend
    assert ranking is not None
    spec, reading = artifact.encoding.spec, artifact.encoding.reading
    time = (ranking.time,) if ranking.time else ()
    if reading is not None:
        reading = reading.for_scoring(spec, (ranking.user, ranking.item, *time))
    yield "source", (config.source, (ranking.user, ranking.item, *time), reading)
    for name, key, table in list_sides(ranking):
        columns = list_columns(table)
        if name == "users" and settings.users is None and settings.segment:
            columns = (*columns, settings.segment)
        if name == "items":
            columns = (*columns, *(_limit_column(ranking, column) for column in settings.max_per))
        of_side = _load_reading(artifact.path / "encoding" / name)
        if of_side is not None:
            of_side = of_side.for_scoring(spec, (key,))
        yield name, (table.source, tuple(dict.fromkeys((key, *columns))), of_side)
    segment = (settings.segment,) if settings.segment else ()
    if settings.users is not None:
        yield "recommend.users", (settings.users, (ranking.user, *segment), LATEST)
    if settings.candidates is not None:
        yield "recommend.candidates", (settings.candidates, (ranking.item, *segment), LATEST)
    for i, source in enumerate(settings.exclude):
        yield f"recommend.exclude[{i}]", (source, (ranking.user, ranking.item), LATEST)


def _load_reading(folder: Path) -> Reading | None:
    return Reading.load(folder) if folder.exists() else LATEST


def _open(spark: SparkSession, source: Source, columns: Sequence[str], reading: Reading | None, searches: bool) -> Scan:
    def check(schema: pa.Schema) -> Sequence[str]:
        why = "The sections ranking and recommend refer to these columns."
        check_columns(columns, schema, str(source), why)
        return columns

    return open_scan(spark, source, check, reading, searches=searches)


def _make_order(config: Config, schema: pa.Schema) -> Order:
    ranking, where = config.ranking, str(config.source)
    assert ranking is not None
    user, item = (check_kind(name, schema.field(name).type, where) for name in (ranking.user, ranking.item))
    format_ = config.split.format if ranking.time == config.split.time else None
    history = ranking.history
    items, decay, same_time = (
        (None, 1.0, True) if history is None else (history.items, history.decay, history.same_time)
    )
    return Order(ranking.user, ranking.item, (user, item), ranking.time, format_, None, items, decay, same_time)


def _find_context(artifact: Artifact, config: Config, users: Scan | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the context columns that recommend.users has, and those that no table has."""
    ranking = config.ranking
    assert ranking is not None
    known = {ranking.user, HISTORY, HISTORY_WEIGHTS} if ranking.history is not None else {ranking.user}
    if ranking.users is not None:
        known |= set(list_columns(ranking.users))
    context = [c for c in raw_columns(divide(artifact.encoding.spec)[0]) if c not in known]
    names = [] if users is None else users.schema.names
    return tuple(c for c in context if c in names), tuple(c for c in context if c not in names)


def _limit_column(ranking: Ranking, name: str) -> str:
    """Return the raw column of an entry of recommend.max_per: that of a field of ranking.items, or a column."""
    field = ranking.items.categorical.get(name) if ranking.items is not None else None
    return name if field is None or field.cross else field.columns(name)[0]


def _find_limits(config: Config, items: Scan | None, names: Mapping[str, str]) -> tuple[LimitColumn, ...]:
    found, ranking = [], config.ranking
    for name, most in config.recommend.max_per.items():
        assert ranking is not None
        assert ranking.items is not None
        assert items is not None
        column, field = _limit_column(ranking, name), ranking.items.categorical.get(name)
        type_ = items.schema.field(column).type
        is_bag = is_list(type_) or (field is not None and field.bag)
        bag = Bag(None, field.delimiter if field is not None else ",", None) if is_bag else None
        kind = check_kind(column, type_, names["items"], bag=is_bag)
        found.append(LimitColumn(name, column, kind, bag, most))
    return tuple(found)


def _find_segment(config: Config, scans: Mapping[str, Scan], names: Mapping[str, str]) -> Segment | None:
    segment = config.recommend.segment
    if segment is None:
        return None
    type_ = scans["recommend.candidates"].schema.field(segment).type
    kind = check_kind(segment, type_, names["recommend.candidates"])
    users = "recommend.users" if "recommend.users" in scans else "users"
    check_kind(segment, scans[users].schema.field(segment).type, names[users])
    return Segment(users, segment, kind)


def _select_items(config: Config, items: Scan | None) -> DataFrame | None:
    where = config.recommend.where
    if where is None or items is None:
        return None
    try:
        return items.table.where(where)
    except (AnalysisException, ParseException) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"recommend.where: {where!r} is not a condition on the table of items: {reason}") from error


def _check_types(opened: Opened) -> None:
    """Raise DataError for a column of a type that the model's encoding does not accept."""
    artifact, order, scans = opened.artifact, opened.order, opened.scans
    user_side, item_side = (replace(side, key=()) for side in divide(artifact.encoding.spec))
    user_type, item_type = opened.key_types
    fields = {order.user: user_type, order.item: item_type, HISTORY: pa.list_(item_type)}
    fields[HISTORY_WEIGHTS] = pa.list_(pa.float32())
    for name in ("users", "items", "recommend.users"):
        for column in opened.side_columns.get(name, ()):
            fields.setdefault(column, scans[name].schema.field(column).type)
    if opened.order.history is None:
        del fields[HISTORY], fields[HISTORY_WEIGHTS]
    fields |= dict.fromkeys(opened.missing, pa.null())
    for side in (user_side, item_side):
        names = [name for name in side.columns if name in fields]
        encoding = replace(artifact.encoding, spec=side)
        with translate_spark_errors(str(artifact.path)):
            encoding.check(pa.schema([(name, fields[name]) for name in names]), "the tables of users and items")
    for column in (order.user, order.item):
        if column.lower() in OUTPUT_COLUMNS:
            raise DataError(
                f"Column '{column}' has the name of another column of the lists ({', '.join(OUTPUT_COLUMNS)}). Rename "
                "it in a view."
            )
