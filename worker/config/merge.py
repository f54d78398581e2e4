"""Config file and environment laid over each other, for any tree of models.

A key is dotted, as config.toml writes it: ``store.interval``.  It is the field's
validation alias where there is one, because a file writes units (``"200ms"``) and
Python has them in the name (``interval_seconds``).
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
    """One setting: its dotted name and the field that holds it."""

    dotted: str
    field: FieldInfo


class Layers(NamedTuple):
    """Every value that somebody set, and for every key who did."""

    values: dict[str, Any]
    origins: dict[str, str]


def written_name(name: str, field: FieldInfo) -> str:
    """Return the key under which config.toml writes `field`."""
    return str(field.validation_alias or name)


def table_of(field: FieldInfo) -> type[BaseModel] | None:
    """Return the model that `field` holds, itself or as the items of a list."""
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
    """Return the environment `given` over the file `config`.

    Unknown keys of the file, and bounds, are left to the model.

    Raises:
        ConfigError: a variable that sets nothing; names the nearest that does.
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
    """Note what `file` set, and let its paths count from its own folder."""
    for dotted, field in known.items():
        table, name = _holder(layers.values, dotted)
        if table is None or name not in table:
            continue
        layers.origins[dotted] = str(file)
        if _is_path(field.annotation) and files.is_path(table[name]):
            table[name] = str(files.anchored(table[name], file))


def _setting_of(variable: str, known: Mapping[str, FieldInfo]) -> str:
    settings = {files.variable_of(dotted): dotted for dotted in known}
    dotted = settings.get(variable)
    if dotted is None:
        meant = files.nearest(variable, {*settings, *files.NOT_SETTINGS})
        hint = f"; did you mean {meant}?" if meant else ""
        raise ConfigError(f"environment: unknown variable {variable}{hint}")
    if table_of(known[dotted]):
        raise ConfigError(
            f"environment: {variable} sets nothing: {dotted} is a list of tables, which"
            " only config.toml can hold"
        )
    return dotted


def _from_text(text: str, kind: Any) -> object:
    """Return a variable's text as a `kind`, or as it is for validation to refuse.

    Lists are words as in a shell: ``MILEPOST_EXECUTOR_COMMAND='python "my job.py"'``.
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
    """Return all that `kind` is made of, itself first; what a list holds is not."""
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
    return {
        key: _unshared(value) if isinstance(value, dict) else value
        for key, value in values.items()
    }


def _holder(values: dict[str, Any], dotted: str) -> tuple[dict[str, Any] | None, str]:
    """Return the table that would hold `dotted`, None if there is none, and its key."""
    *path, name = dotted.split(".")
    table: Any = values
    for part in path:
        table = table.get(part) if isinstance(table, dict) else None
    return (table if isinstance(table, dict) else None), name


def _put(values: dict[str, Any], dotted: str, value: object) -> bool:
    """Set `dotted`; False if the file has something else where its table should be."""
    *path, name = dotted.split(".")
    table: Any = values
    for part in path:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            return False  # validation says so, and in its own words
    table[name] = value
    return True
