"""Read a configuration file and check it; a message names each wrong key, its value and the allowed values."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from nfm.config.settings import Config
from nfm.config.source import PLACEHOLDER
from nfm.contract.errors import ConfigError
from nfm.contract.messages import did_you_mean

_FILLED = ("workdir", "source", "score", "recommend")  # sections whose texts may contain names in braces
_VALUE = re.compile(r"[\w.:+@ -]+")


def load(path: Path, changes: Sequence[str] = ()) -> Config:
    """Read a configuration file, apply changes (`train.seed=2`) and check it; ConfigError names all wrong keys."""
    keys = ", ".join(change.partition("=")[0] for change in changes)  # a value may be a password
    return checked(read(path, changes), f"{path} with --set of {keys}" if keys else str(path))


def load_config(config: str | Path | Mapping[str, Any] | Config, overrides: Sequence[str] = ()) -> Config:
    """Read and check a configuration.

    Args:
        config: path of a YAML file, or its content as a mapping; a loaded configuration is returned as it is.
        overrides: changes as `--set` of the command line takes them.

    Returns:
        The settings, frozen.

    Raises:
        ConfigError: the file cannot be read, or settings are wrong; the message names every wrong key.

    Example:
        >>> config = nfm.load_config("conf/titanic.yaml", ["train.seed=2", "model.embedding_dim=16"])
        >>> config.train.seed, config.model.embedding_dim
        (2, 16)
    """
    changes = [overrides] if isinstance(overrides, str) else overrides
    if isinstance(config, Mapping):
        return checked(change_settings(dict(config), changes), "the configuration")
    if not isinstance(config, Config):
        return load(Path(config), changes)
    if changes:
        raise ConfigError(
            "overrides cannot change a loaded configuration: pass them to load_config together with the file"
        )
    return config


def read(path: Path, changes: Sequence[str] = ()) -> dict[str, Any]:
    """Read a configuration file and apply changes from the command line, without checking the settings.

    A change such as `ds=2026-11-20` fills the name in braces of `scores/ds={ds}` in `workdir`, `source`, `score` and
    `recommend`. Raises ConfigError if the file cannot be read or is not YAML, or if a change has another form.
    """
    try:
        content: dict[str, Any] = _parse(path.read_text())
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}. Give a YAML file with --config.") from error
    except yaml.YAMLError as error:
        line, problem = _explain_yaml_error(error)
        raise ConfigError(f"{path}{f', line {line}' if line else ''}: {problem}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not YAML: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} contains no settings. `python -m nfm.config.reference` prints all of them.")
    return change_settings(content, changes)


def change_settings(content: dict[str, Any], changes: Sequence[str]) -> dict[str, Any]:
    """Apply the changes that `read` describes to a file's content."""
    for change in sorted(changes, key=lambda change: "." not in change.partition("=")[0]):  # names in braces last
        key, equals, text = change.partition("=")
        if not equals or not all(key.split(".")):
            raise ConfigError(f"--set {change}: write it as section.key=value, for example --set train.seed=2")
        filled = (found for section in _FILLED for found in _texts(content.get(section)))
        if key not in content and any(key in PLACEHOLDER.findall(found) for found in filled):
            content = _filled(content, key, text)
            continue
        try:
            value = _parse(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {change}: {_explain_yaml_error(error)[1]}") from error
        content = put(content, key, value, f"--set {change}")
    return content


def _texts(value: Any) -> list[str]:
    if isinstance(value, dict | list):
        return [text for part in (value.values() if isinstance(value, dict) else value) for text in _texts(part)]
    return [value] if isinstance(value, str) else []


def _filled(content: dict[str, Any], name: str, value: str) -> dict[str, Any]:
    if not _VALUE.fullmatch(value) or ".." in value:
        raise ConfigError(
            f"--set {name}={value}: the value of {{{name}}} may contain only letters, digits, spaces and . : + @ _ -, "
            "because it becomes one folder name"
        )

    def fill(part: Any) -> Any:
        if isinstance(part, dict):
            return {key: fill(inner) for key, inner in part.items()}
        if isinstance(part, list):
            return [fill(inner) for inner in part]
        return part.replace(f"{{{name}}}", value) if isinstance(part, str) else part

    return {key: fill(part) if key in _FILLED else part for key, part in content.items()}


def put(content: dict[str, Any], key: str, value: Any, where: str) -> dict[str, Any]:
    """Return a copy of a file's content with a new value for one key, such as `train.seed`; add missing sections.

    Raises ConfigError, which names `where` as the origin of the change, if a part of the key is not a section.
    """
    first, _, rest = key.partition(".")
    if rest:
        section = content.get(first)
        if section is not None and not isinstance(section, dict):
            raise ConfigError(f"{where}: {first} is not a section")
        value = put(section or {}, rest, value, where)
    return {**content, first: value}


def checked(content: dict[str, Any], where: str) -> Config:
    """Check a file's content; the ConfigError names its origin, `where`, and all wrong keys."""
    try:
        return Config.model_validate(_lists_to_tuples(content))
    except ValidationError as error:
        problems = "\n".join(f"  {_describe(problem)}" for problem in error.errors())
        raise ConfigError(
            f"{where} is invalid:\n{problems}\n`python -m nfm.config.reference` prints every key with its meaning."
        ) from error


def as_yaml(content: dict[str, Any], flow: bool | None = None, width: float = 120) -> str:
    """Return a file's content as YAML, in its order, without comments; `flow`: in braces, None: inner parts only."""
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=width, default_flow_style=flow)


class _Yaml(yaml.SafeLoader):
    """Loader with the numbers of YAML 1.2 (PyYAML alone reads 1e-3 as a text); refuses repeated keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Refuse a repeated key: YAML would silently use the last one."""
        lines: list[tuple[Any, int]] = []  # a list, because a key may be unhashable
        for key_node, _ in node.value:
            key, line = self.construct_object(key_node, deep=True), key_node.start_mark.line + 1
            first = next((known_line for known, known_line in lines if known == key), None)
            if first is not None:
                raise yaml.MarkedYAMLError(
                    problem=f"the key {key!r} is already on line {first}", problem_mark=key_node.start_mark
                )
            lines.append((key, line))
        return super().construct_mapping(node, deep=deep)


class _Dumper(yaml.SafeDumper):
    """Writer that `_Yaml` reads: quotes a text such as 1e-3, writes no aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


for _kind in (_Yaml, _Dumper):
    _kind.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
    )


def _explain_yaml_error(error: yaml.YAMLError) -> tuple[int | None, str]:
    """Return the line of a mistake in YAML, counted from 1 (None if unknown), and the mistake."""
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return None, f"not valid YAML ({str(error).splitlines()[0]})"
    line = error.problem_mark.line + 1
    if type(error) is yaml.MarkedYAMLError:  # raised above for a repeated key
        return line, str(error.problem)
    return line, f"not valid YAML ({', '.join(filter(None, (error.context, error.problem)))})"


def _parse(text: str) -> Any:
    return yaml.load(text, _Yaml)  # noqa: S506 (a SafeLoader)


def _lists_to_tuples(content: Any) -> Any:
    """Replace lists by tuples, because settings are immutable."""
    if isinstance(content, dict):
        return {key: _lists_to_tuples(value) for key, value in content.items()}
    return tuple(map(_lists_to_tuples, content)) if isinstance(content, list) else content


def _describe(problem: ErrorDetails) -> str:
    """Return a line with the key, the value given and the allowed values."""
    where = ".".join(str(part) for part in problem["loc"])
    given = problem["input"]
    match problem["type"]:
        case "extra_forbidden":
            allowed = _keys_at(problem["loc"][:-1])
            hint = did_you_mean([str(problem["loc"][-1])], allowed)
            return " ".join(filter(None, [f"{where}: unknown key.", hint, f"Allowed here: {', '.join(allowed)}"]))
        case "missing":
            return f"{where}: this key is required"
        case "value_error":
            message = problem["msg"].removeprefix("Value error, ")
            return f"{where}: {message}" if where else message
        case "literal_error":
            return f"{where}: {given!r} given; allowed: {problem['ctx']['expected']}"
        case _:
            shown = list(given) if isinstance(given, tuple) else given
            message = problem["msg"].replace("tuple", "list")
            a_text = isinstance(given, bool) and problem["type"] == "string_type"
            hint = ". YAML reads yes, no, on and off as booleans: put strings in quotes" if a_text else ""
            return f"{where}: {shown!r} given; {message[:1].lower()}{message[1:]}{hint}"


def _keys_at(path: tuple[int | str, ...]) -> list[str]:
    """Return the allowed keys of the section at this path."""
    section: type[BaseModel] = Config
    entries = False  # inside a mapping whose keys are names of the user, such as columns.categorical
    for part in path:
        if entries:
            entries = False
            continue
        field = next(f for name, f in section.model_fields.items() if (f.alias or name) == part)
        models = [t for t in _types(field.annotation) if isinstance(t, type) and issubclass(t, BaseModel)]
        section, entries = models[0], get_origin(field.annotation) is dict
    return [field.alias or name for name, field in section.model_fields.items()]


def _types(annotation: Any) -> list[Any]:
    arguments = get_args(annotation)
    return [t for argument in arguments for t in _types(argument)] if arguments else [annotation]
