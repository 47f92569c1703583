"""Format the configuration as commented YAML: a line for each column, with the reason for its role."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from nfm.config.file import as_yaml
from nfm.contract.errors import DataError
from nfm.contract.messages import listed
from nfm.contract.times.derived import CATEGORIES
from nfm.contract.times.local import time_kind
from nfm.init.facts import Column
from nfm.init.key import Key
from nfm.init.label import Label
from nfm.init.roles import BUCKETS, Role, choose_output_names
from nfm.init.sample import Sample

_WIDEST = 60  # characters of YAML before a comment that is aligned with the others
_LINE = 130  # characters with the comment
_SMALL = 5_000  # rows; a large model would overfit fewer
_GROUP = re.compile(r"user|customer|client|patient|member|account|household|session|visitor", re.IGNORECASE)

Line = tuple[str, str]  # YAML and its comment


def format_configuration(
    name: str, sample: Sample, columns: Mapping[str, Column], label: Label | None, key: Key, roles: Sequence[Role]
) -> str:
    """Return the text of the configuration file; DataError if no column is left as an input."""
    inputs = [role for role in roles if role.section != "left out"]
    if not inputs:
        reasons = listed((f"{role.column}: {role.reason}" for role in roles), "; ")
        raise DataError(f"No column of {sample.source['path']} can be an input besides the key. {reasons}")
    source = dict(sample.source) | ({"where": label.where} if label and label.where else {})
    read = f"all {len(sample.table):,} rows"
    if not sample.is_whole:
        read = f"a sample of {len(sample.table):,} rows" + (f" of {sample.rows:,}" if sample.rows else "")
    return "\n".join(
        [
            f"# A first configuration, written by nfm init from {read}.",
            "# Check each column's role; the comments describe the values.",
            "# `python -m nfm.config.reference` explains all keys.",
            *_aligned([(_yaml("name", name), ""), (_yaml("workdir", f"build/{name}"), "all results")]),
            *_source(source, label),
            "columns:",
            *_aligned(_key_and_label(key, label), 2),
            *_fields(roles, columns),
            *_left_out([role for role in roles if role.section == "left out"]),
            *_split(key, sample, columns, roles),
            *_training(sample, label),
            *_score(key, sample, label),
            "",
        ]
    )


def _yaml(key: str, value: Any) -> str:
    """Return `key: value` on one line."""
    text = as_yaml({key: value}, flow=True, width=math.inf).rstrip("\n")[1:-1]
    return as_yaml({key: value}).rstrip("\n") if text.startswith("? ") else text  # a key of more than 128 characters


def _aligned(lines: Sequence[Line], indent: int = 0) -> list[str]:
    """Return lines with aligned comments; the comment of a line that is too long is placed above it."""
    width = max((len(text) for text, comment in lines if comment and len(text) <= _WIDEST), default=0)
    aligned = []
    for text, comment in lines:
        comment = "".join(c if c.isprintable() else " " for c in comment)
        if comment and len(text) + len(comment) > _LINE:
            aligned += [f"# {comment}", *text.split("\n")]
        else:
            aligned += (f"{text:{width}}  # {comment}" if comment else text).split("\n")
    return [" " * indent + line for line in aligned]


def _source(source: Mapping[str, Any], label: Label | None) -> list[str]:
    lines = [(_yaml(key, value), "") for key, value in source.items() if key != "where"]
    if "where" in source:
        lines.append((_yaml("where", source["where"]), "rows whose label is missing or too rare cannot be used"))
    return ["source:", *_aligned(lines, 2)]


def _key_and_label(key: Key, label: Label | None) -> list[Line]:
    lines = [(_yaml("key", list(key.columns)), key.reason)]
    if label is None:
        return [*lines, ("# label:", "choose the column to predict: run nfm init again with --label COLUMN")]
    return [*lines, (_yaml("label", label.column.name), label.reason)]


def _fields(roles: Sequence[Role], columns: Mapping[str, Column]) -> list[str]:
    inputs = [role for role in roles if role.section != "left out"]
    names = choose_output_names(inputs)
    lines: dict[str, list[Line]] = {"categorical": [], "numeric": [], "time": []}
    for role in inputs:
        if role.section == "time":
            lines["time"].append((_yaml(role.column, list(role.parts)), role.reason))
            continue
        name = names[role.column]
        settings = ({"column": role.column} if name != role.column else {}) | role.settings
        lines[role.section].append((_yaml(name, settings), role.reason))
    has_fields = lines["categorical"] or any(part in CATEGORIES for role in inputs for part in role.parts)
    if not has_fields:  # numbers alone would leave the pooling empty
        taken = {name.lower() for name in names.values()}
        for role in [role for role in inputs if role.section != "time"]:
            name = f"{names[role.column]}_bucket"
            while name.lower() in taken:
                name += "_"
            taken.add(name.lower())
            settings = {"column": role.column, "buckets": BUCKETS}
            lines["numeric"].append((_yaml(name, settings), "the same number as a field"))
    text = [line for section, some in lines.items() if some for line in (f"  {section}:", *_aligned(some, 4))]
    if any(time_kind(columns[role.column].values.type) == "instant" for role in inputs if role.section == "time"):
        why = "or the zone in which people read these times, such as Europe/Berlin"
        text += _aligned([(_yaml("time_zone", "UTC"), why)], 2)
    return text


def _left_out(roles: Sequence[Role]) -> list[str]:
    if not roles:
        return []
    lines = _aligned([(_yaml(role.column, {}).replace("\n", " "), role.reason) for role in roles])
    return ["  # Not inputs. To use a column, move its line to categorical or numeric.", *(f"  #   {x}" for x in lines)]


def _split(key: Key, sample: Sample, columns: Mapping[str, Column], roles: Sequence[Role]) -> list[str]:
    small = sample.rows is not None and sample.rows < _SMALL
    shares = {"valid": 0.2 if small else 0.1, "test": 0.2}
    by = {"by": list(key.by)} if key.by else {}
    lines = [(_yaml("split", by | shares), "by hash of these columns" if by else "by hash of the key")]
    used = {role.column for role in roles if role.section != "left out"} | set(key.columns)
    groups = [c.name for c in columns.values() if c.name in used and _is_group(c)]
    lines += [(f"# {_yaml('split', {'by': [name]} | shares)}", f"or: each {name} in one fold only") for name in groups]
    for column in columns.values():
        if (bounds := _time_bounds(column)) is not None:
            settings = {"time": column.name, "valid_from": bounds[0], "test_from": bounds[1]}
            lines.append(
                (f"# {_yaml('split', settings)}".replace("\n", " "), "or: train on the past, test on the future")
            )
    return _aligned(lines)


def _is_group(column: Column) -> bool:
    return column.has_id_name and bool(_GROUP.search(column.name)) and 2 * column.distinct < column.filled


def _time_bounds(column: Column) -> tuple[str, str] | None:
    """Return the days before which 70 % and 80 % of the rows are; None if this column cannot split the rows."""
    if column.kind != "time" or column.filled < column.rows:
        return None
    texts = pc.cast(column.values, pa.string())
    if not pc.all(pc.match_substring_regex(texts, r"^\d{4}-\d\d-\d\d")).as_py():
        return None
    days = pc.utf8_slice_codeunits(texts, 0, 10).sort()
    first, valid, test = (days[int(share * (len(days) - 1))].as_py() for share in (0, 0.7, 0.8))
    return (valid, test) if first < valid < test else None


def _training(sample: Sample, label: Label | None) -> list[str]:
    model: dict[str, Any] = {"task": label.task} if label and label.task != "binary" else {}
    rows = sample.rows or 10**9
    if rows < _SMALL:
        model |= {"embedding_dim": 16, "hidden_units": [32]}
    lines = []
    if label is None:
        lines.append(("# model: {task: binary}", "or regression, or multiclass; --label sets the task"))
    if model:
        why = "a table this small needs a small model" if rows < _SMALL else ""
        if label and label.task == "multiclass" and label.column.is_number:
            why = "if the labels are quantities, use task: regression" + (f"; {why}" if why else "")
        lines.append((_yaml("model", model), why))
    if (batch := 2 ** int(math.log2(max(rows * 0.7 / 40, 32)))) < 1024:
        lines.append((_yaml("train", {"batch_size": batch}), "small batches give enough steps per epoch"))
    return _aligned(lines)


def _score(key: Key, sample: Sample, label: Label | None) -> list[str]:
    lines = []
    if label and label.where:  # rows without a label are scored, too
        lines.append((_yaml("source", sample.source), "includes the rows without a label"))
    if key.also:
        lines.append((_yaml("columns", list(key.also)), "identify a row, together with the key"))
    rows = f", min_rows: {sample.rows // 2}" if sample.rows else ""
    gates = f"gates: {{max_psi: 0.25{rows}}}"
    why = "publish no scores of a table that differs from the training data"
    if not lines:
        return [f"# score: {{{gates}}}  # {why}"]
    return ["score:", *_aligned(lines, 2), f"  # {gates}  # {why}"]
