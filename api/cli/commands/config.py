"""`milepost config`: show and check the settings (show, check, path)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from milepost.api.cli.context import Frame, command, example_text, with_shared_options
from milepost.api.cli.exits import Failure
from milepost.api.cli.results import Answer, Table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic import BaseModel


@with_shared_options
@click.group("config", epilog=example_text("milepost config show --origin"))
def config_command() -> None:
    """Show and check the settings."""


@command("show", example="milepost config show --origin")
@click.option("--origin", is_flag=True, help="Show the origin of each value.")
def show_command(frame: Frame, *, origin: bool) -> Answer:
    """Print every setting in force.

    Hashes of tokens are hidden.
    """
    settings = frame.settings()
    shown = dict(_written(settings, ""))
    origins = settings.origins
    data = {
        key: {"value": value, "origin": origins.get(key, "default")}
        for key, value in shown.items()
    }
    columns = ("key", "value", "origin") if origin else ("key", "value")
    rows = (
        (key, toml(entry["value"]), entry["origin"])[: len(columns)]
        for key, entry in data.items()
    )
    return Answer(data, Table(columns, rows))


@command("check", example="milepost config check")
def check_command(frame: Frame) -> Answer:
    """Check the settings.

    Does what `serve` and `worker` do at start, except listening: host and tokens,
    keys, store, executor, schedules.  Then it lists the retention rules that match
    no job or no checkpoint of the store.
    """
    settings = frame.settings()
    from milepost.api.cli.idle import idle_retention
    from milepost.api.cli.server import prepared

    with prepared(settings) as found:
        warnings = idle_retention(found.manager, settings.retention)
    path = None if settings.file is None else str(settings.file)
    changed = sum(origin != "default" for origin in settings.origins.values())
    note = (
        f"{path or 'no config file'}: ok, {changed} settings differ from the defaults"
    )
    data = {"path": path, "changed": changed, "warnings": warnings}
    return Answer(data, None, (note, *warnings))


@command("path", example="milepost config path")
def path_command(frame: Frame) -> Answer:
    """Print the path of the config file in force.

    Exit 4 if there is none.
    """
    from milepost.api.cli.stores import config_path, environment
    from milepost.worker.config import files

    path = files.find(config_path(frame.config), environment(frame.store))
    if path is None:
        hint = "the defaults apply; `milepost config show` prints them"
        raise Failure("not_found", "no config file", hint)
    return Answer({"path": str(path)}, str(path))


for _command in (show_command, check_command, path_command):
    config_command.add_command(_command)


def _written(table: BaseModel, before: str) -> Iterator[tuple[str, Any]]:
    """Yield every setting with its key in config.toml, with units."""
    from pydantic import BaseModel

    for name, field in type(table).model_fields.items():
        value = getattr(table, name)
        key = f"{before}{field.validation_alias or name}"
        if isinstance(value, BaseModel):
            yield from _written(value, f"{key}.")
        else:
            yield key, _plain(name, value)


def _plain(name: str, value: Any) -> Any:
    """Return a value as in config.toml, tables as dicts."""
    from pydantic import BaseModel

    if isinstance(value, BaseModel):
        fields = {
            str(field.validation_alias or key): _plain(key, getattr(value, key))
            for key, field in type(value).model_fields.items()
            if getattr(value, key) is not None
        }
        return {**fields, "sha256": "hidden"} if "sha256" in fields else fields
    if name == "keep_tags" and value is not None:
        return [",".join(tags) for tags in value]
    if isinstance(value, list):
        return [_plain("", item) for item in value]
    if isinstance(value, dict):
        return value
    return _with_unit(name, value)


def _with_unit(name: str, value: Any) -> Any:
    """Return a value as in config.toml; the field's name has the unit."""
    from milepost.journal.quantities import seconds_text, size_in_units

    if value is None or isinstance(value, (bool, str)):
        return value
    if name.endswith("_seconds"):
        return seconds_text(value)
    if name.endswith("_bytes"):
        return size_in_units(value)
    return value if isinstance(value, (int, float)) else str(value)


def toml(value: Any) -> str:
    """Return `value` as one line of TOML; an unset value is empty."""
    import json

    match value:
        case None:
            return ""
        case dict():
            fields = ", ".join(f"{key} = {toml(item)}" for key, item in value.items())
            return f"{{{fields}}}"
        case list():
            return f"[{', '.join(map(toml, value))}]"
    return json.dumps(value, ensure_ascii=False)
