"""Merging the environment over the config file, for any tree of pydantic models.

A key is dotted, as in config.toml: ``store.interval``.  It uses the field's validation
alias if there is one: config.toml has units in the value (``"200ms"``), Python in the
name (``interval_seconds``).
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, get_args, get_origin

from pydantic import BaseModel

from milepost.worker.config import files
from milepost.worker.config.files import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pydantic.fields import FieldInfo

_NUMBERS = {
    int: re.compile(r"\s*[+-]?\d{1,18}\s*", re.ASCII),
    float: re.compile(r"\s*[+-]?\d{1,18}(?:\.\d{1,18})?\s*", re.ASCII),
}
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


class Key(NamedTuple):
    """One setting: its dotted name and its field."""

    dotted: str
    field: FieldInfo


class Layers(NamedTuple):
    """All values set in the file or the environment, and the origin of every key."""

    values: dict[str, Any]
    origins: dict[str, str]


def written_name(name: str, field: FieldInfo) -> str:
    """Return the key under which config.toml writes `field`."""
    return str(field.validation_alias or name)


def table_of(field: FieldInfo) -> type[BaseModel] | None:
    """Return the model of `field` or of its list items, None if it is no table."""
    for kind in (*_kinds(field.annotation), *get_args(field.annotation)):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None


def keys(model: type[BaseModel], before: str = "") -> Iterator[Key]:
    """Yield every key of `model`; a list of tables is one key."""
    for name, field in model.model_fields.items():
        dotted = before + written_name(name, field)
        table = table_of(field)
        if table is None or _is_list(field.annotation):
            yield Key(dotted, field)
        else:
            yield from keys(table, f"{dotted}.")


def merge(
    model: type[BaseModel], config: files.ConfigFile | None, given: Mapping[str, str]
) -> Layers:
    """Merge the environment `given` over the file `config`.

    The model checks unknown keys of the file and bounds.

    Raises:
        ConfigError: a variable is unknown (the text suggests a similar one) or cannot
            hold its setting.
    """
    known = {key.dotted: key.field for key in keys(model)}
    layers = Layers({}, dict.fromkeys(known, "default"))
    if config:
        layers.values.update(_unshared(config.values))
        _claim(layers, known, config.path)
    for name, text in given.items():
        dotted = _setting_of(name, known)
        value = _from_text(text, known[dotted].annotation)
        if _put(layers.values, dotted, value):
            layers.origins[dotted] = name
    return layers


def _claim(layers: Layers, known: Mapping[str, FieldInfo], file: Path) -> None:
    """Record `file` as the origin of its keys, and resolve its paths."""
    for dotted, field in known.items():
        table, name = _holder(layers.values, dotted)
        if table is None or name not in table:
            continue
        layers.origins[dotted] = str(file)
        _anchor(table, name, field, file)


def _anchor(values: dict[str, Any], name: str, field: FieldInfo, file: Path) -> None:
    """Resolve the path that `values` has at `name`, and those of a list of tables."""
    value = values.get(name)
    if _is_path(field.annotation) and files.is_path(value):
        values[name] = str(files.anchored(str(value), file))
    table = table_of(field)
    if table is None or not isinstance(value, list):
        return
    for item in value:
        for key in keys(table):
            if isinstance(item, dict):
                _anchor(item, key.dotted, key.field, file)


def _setting_of(variable: str, known: Mapping[str, FieldInfo]) -> str:
    settings = {files.variable_of(dotted): dotted for dotted in known}
    dotted = settings.get(variable)
    if dotted is None:
        meant = files.nearest(variable, {*settings, *files.NOT_SETTINGS})
        hint = f"; did you mean {meant}?" if meant else ""
        raise ConfigError(f"environment: unknown variable {variable}{hint}")
    if table_of(known[dotted]):
        raise ConfigError(
            f"environment: {variable} cannot be used: {dotted} is a list of tables;"
            " set it in config.toml"
        )
    return dotted


def _from_text(text: str, kind: Any) -> object:
    """Convert a variable's text to `kind`; unchanged if invalid, validation refuses it.

    A list is shell words, as in ``MILEPOST_EXECUTOR_COMMAND='python "my job.py"'``.
    """
    kinds = _kinds(kind)
    if bool in kinds:
        return _BOOLEANS.get(text.strip().lower(), text)
    for number, form in _NUMBERS.items():
        if number in kinds and form.fullmatch(text):
            return number(text)
    if _is_path(kind):
        return str(files.anchored(text, None))
    if any(_is_list(each) for each in kinds):
        try:
            return shlex.split(text)
        except ValueError:
            return text
    return text


def _kinds(kind: Any) -> list[Any]:
    """Return `kind` and the types it is composed of, without the items of lists."""
    found = [kind]
    if not _is_list(kind):
        for each in get_args(kind):
            found += _kinds(each)
    return found


def _is_list(kind: Any) -> bool:
    return get_origin(kind) is list


def _is_path(kind: Any) -> bool:
    return Path in _kinds(kind)


def _unshared(values: dict[str, Any]) -> dict[str, Any]:
    return {key: _copied(value) for key, value in values.items()}


def _copied(value: Any) -> Any:
    if isinstance(value, list):
        return [_copied(item) for item in value]
    return _unshared(value) if isinstance(value, dict) else value


def _holder(values: dict[str, Any], dotted: str) -> tuple[dict[str, Any] | None, str]:
    """Return the table that contains `dotted`, None if there is none, and its key."""
    *path, name = dotted.split(".")
    table: Any = values
    for part in path:
        table = table.get(part) if isinstance(table, dict) else None
    return (table if isinstance(table, dict) else None), name


def _put(values: dict[str, Any], dotted: str, value: object) -> bool:
    """Set `dotted`; return False if the file has another value in place of a table."""
    *path, name = dotted.split(".")
    table: Any = values
    for part in path:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            return False  # validation reports it
    table[name] = value
    return True
