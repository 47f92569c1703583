"""Reference of all settings: `python -m nfm.config.reference` prints it, `make reference` writes it into a checkout.

conf/reference.yaml is a valid configuration that contains every key. docs/configuration.md ends with the same keys as
tables. Both come from the settings classes: names, types, defaults, and the text below each key.
"""

import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from nfm.config.settings import Config
from nfm.config.source import Source

MARKER = "<!-- `make reference` generates the rest from nfm/config: edit the settings classes instead. -->\n"
_HEAD = """\
# All keys with their defaults and meaning. A configuration needs only the keys that it changes.
# `make reference` generates this file from the settings classes in nfm/config: edit them instead.
# `--set a.b=value` changes any key on the command line.
"""
_COMMENT, _WIDTH = 35, 120  # columns of the YAML file where comments begin and end
_TYPES = {
    str: "string",
    int: "integer",
    float: "number",
    bool: "`true`, `false`",
    type(None): "`null`",
    Any: "value",
}
_LIMITS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
# Sections with the keys of another one, by the end of their name.
_SAME = {
    ".categorical.NAME": "columns.categorical.NAME",
    ".numeric.NAME": "columns.numeric.NAME",
    "ranking.items": "ranking.users",
}
_NOTHING: Mapping[str, Any] = MappingProxyType({})


def reference_yaml() -> str:
    """Return the content of conf/reference.yaml."""
    return _HEAD + "".join(f"{line}\n" for line in _yaml_lines(Config, 0, _NOTHING))


def reference_tables() -> str:
    """Return the generated part of docs/configuration.md: a table for each section."""
    return "".join(_tables(Config, ""))


def _yaml_lines(section: type[BaseModel], depth: int, example: Mapping[str, Any]) -> Iterator[str]:
    """Write each key with its default, or the example's value if it has one."""
    for name, field in section.model_fields.items():
        key, inner, text = field.alias or name, _section(field), _text(field)
        start = f"{'  ' * depth}{key}:"
        if depth == 0:
            yield ""
        if field.is_required():
            text = f"Required. {text}"
        if inner is None or field.default is None or field.default == ():
            value = example.get(key, field.examples[0] if field.is_required() and field.examples else field.default)
            yield from _commented(f"{start} {_inline(value)}", f"{text} {_choices(field)} {_value_hint(field, value)}")
            if inner is not None and depth == 0:  # the keys of a section that is not set, as comments
                yield from (f"# {line}".rstrip() for line in _yaml_lines(inner, 1, _NOTHING))
        elif _names_entries(field):
            yield from _commented(start, text)
            for entry in field.examples or ():
                yield f"{'  ' * (depth + 1)}{entry}:"
                yield from _yaml_lines(inner, depth + 2, _NOTHING)
        else:
            yield from _commented(start, text)
            yield from _yaml_lines(inner, depth + 1, (field.examples or [_NOTHING])[0])


def _choices(field: FieldInfo) -> str:
    """Return the values of a choice, unless the description names them."""
    values = [value for value in _values(field).split(", ") if value.startswith("`")]
    described = field.annotation is bool or all(value in _text(field) for value in values[1:])
    return "" if described else f"Allowed: {', '.join(values)}."


def _value_hint(field: FieldInfo, shown: Any) -> str:
    """Return examples if the default is shown; the default if another value is."""
    if field.is_required():
        return ""
    return _examples(field) if shown == field.default else f"Default: {_inline(field.default)}."


def _examples(field: FieldInfo) -> str:
    return f"Example: {' or '.join(f'`{_inline(example)}`' for example in field.examples)}." if field.examples else ""


def _commented(start: str, text: str) -> Iterator[str]:
    """Write a line of YAML with a comment behind it; above it if the line is long."""
    indent = _COMMENT if len(start) < _COMMENT else len(start) - len(start.lstrip())
    plain = " ".join(text.replace("`", "").split())
    comment = textwrap.wrap(plain, _WIDTH - indent - 2, break_long_words=False, break_on_hyphens=False)
    behind = indent == _COMMENT
    for i, line in enumerate(comment):
        yield f"{start if behind and i == 0 else '':{indent}}# {line}"
    if not behind or not comment:
        yield start


def _tables(section: type[BaseModel], path: str) -> Iterator[str]:
    """Write a table of the section's keys, then those of its sections."""
    if path:
        yield f"\n## `{path}`\n\n{' '.join((section.__doc__ or '').split())}\n"
    yield "\n| key | default | values | meaning |\n|---|---|---|---|\n"
    below: list[tuple[type[BaseModel], str]] = []
    for name, field in section.model_fields.items():
        key, inner = field.alias or name, _section(field)
        default = "required" if field.is_required() else f"`{_inline(field.default)}`"
        values, text = _values(field), f"{_text(field)} {_examples(field)}"
        if inner is not None:
            place = f"{path}.{key}".lstrip(".") + (".NAME" if _names_entries(field) else "")
            same = next((known for known in _SAME if place.endswith(known) and not place.startswith("columns")), None)
            if inner is Source and path:
                place = "source"
            elif same is not None and path:
                place = _SAME[same]
            else:
                below.append((inner, place))
            shown = "list of sections" if field.default == () else "section"
            values, text = f"[{shown}](#{place.replace('.', '').lower()})", field.description or ""
            default = default if field.is_required() or field.default is None else ""
        cells = (f"`{key}`", default, values, " ".join(text.split()).replace("|", "\\|"))
        yield f"| {' | '.join(cells)} |\n".replace("  ", " ")
    for inner, place in below:
        yield from _tables(inner, place)


def _section(field: FieldInfo) -> type[BaseModel] | None:
    """Return the settings class of a field, None for a single value."""
    for kind in (field.annotation, *get_args(field.annotation)):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None


def _names_entries(field: FieldInfo) -> bool:
    """Return whether the keys of the field are names of the user's own, such as those in columns.categorical."""
    return get_origin(field.annotation) is dict


def _text(field: FieldInfo) -> str:
    """Return a field's description in one line; for a section without one, the class's docstring."""
    section = _section(field)
    return " ".join((field.description or (section and section.__doc__) or "").split())


def _values(field: FieldInfo) -> str:
    """Return the allowed values: a type with its limits, or each value of a choice."""
    return _values_of(field.annotation, field.metadata)


def _values_of(annotation: Any, limits: list[Any]) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin is Annotated:
        return _values_of(arguments[0], list(arguments[1:]))
    if origin in (Union, UnionType):
        return ", ".join(dict.fromkeys(_values_of(argument, []) for argument in arguments))
    if origin is tuple:
        inner = [_values_of(argument, []) for argument in arguments if argument is not Ellipsis]
        return f"list of {inner[0]}" if arguments[-1] is Ellipsis else f"list of {len(inner)} ({'; '.join(inner)})"
    if origin is dict:
        return "mapping"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "section"
    parts = [part for limit in limits for part in (limit.metadata if isinstance(limit, FieldInfo) else [limit])]
    signs = [f"{sign} {getattr(part, name)}" for part in parts for name, sign in _LIMITS.items() if hasattr(part, name)]
    return " ".join([_TYPES[annotation], " and ".join(signs)]).strip()


def _inline(value: Any) -> str:
    """Return a value as YAML in one line."""
    text = yaml.safe_dump(_plain(value), default_flow_style=True, width=1000, sort_keys=False)
    return text.removesuffix("...\n").strip()


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        value = value.model_dump(by_alias=True)
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return int(value) if isinstance(value, float) and value == int(value) else value


def write_files() -> None:
    """Write conf/reference.yaml and the tables of docs/configuration.md below the current folder."""
    Path("conf/reference.yaml").write_text(reference_yaml())
    document = Path("docs/configuration.md")
    document.write_text(document.read_text().partition(MARKER)[0] + MARKER + reference_tables())


if __name__ == "__main__":
    print(reference_yaml(), end="")
