"""Error lines for invalid settings.

``<file or environment>: <key> = <value>: expected …``.  Only the first problem is
shown, because a typo often causes the others.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from milepost.worker.config import files, merge

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError
    from pydantic_core import ErrorDetails

    from milepost.worker.config.merge import Layers

SHOWN_CHARACTERS = 60
# Keys whose values are never shown: a token or a secret may be pasted there.
SECRETS = frozenset({"tokens", "url", "secret_file", "secret_env"})

_PREFIX = re.compile(r"^(Input should be|(String|List) should have) ")
_BARE_KEY = re.compile(r"[\w-]+")

Loc = tuple[int | str, ...]


def refusal(
    failure: ValidationError,
    model: type[BaseModel],
    merged: Layers,
    read_from: str,
) -> str:
    """Return one line saying why `merged` is not a valid `model`.

    It names `read_from` as the source of a value that no variable set.
    """
    errors = failure.errors(include_url=False, include_input=False)
    error = errors[0]
    dotted = _dotted(error["loc"])
    origin = merged.origins.get(dotted.partition("[")[0], "default")
    label = dotted
    place = read_from
    if origin.startswith(files.PREFIX):
        place, label = "environment", origin
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return f"{place}: {_problem(error, label, model, merged)}{more}"


def _problem(
    error: ErrorDetails, label: str, model: type[BaseModel], merged: Layers
) -> str:
    loc = error["loc"]
    if error["type"] == "extra_forbidden":
        return f"unknown key {_dotted(loc)}{_suggestion(loc, model)}"
    if error["type"] == "missing":
        return f"{label} is missing"
    return f"{label}{_shown(loc, merged.values)}: {_expected(error)}"


def _expected(error: ErrorDetails) -> str:
    context = error.get("ctx", {})
    match error["type"]:
        case "value_error":
            return str(context["error"])
        case "model_type" | "model_attributes_type":
            return "expected a table"
        case "string_pattern_mismatch":
            return f"expected text of the form {context['pattern']}"
        case _:
            wanted = _PREFIX.sub("", error["msg"])
            return f"expected {wanted[:1].lower()}{wanted[1:]}"


def _shown(loc: Loc, values: dict[str, Any]) -> str:
    """Return `` = <value>``, truncated; empty for a table, a list or a secret."""
    value: Any = values
    for part in loc:
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            return ""
    if not SECRETS.isdisjoint(loc) or isinstance(value, (dict, list)):
        return ""
    text = json.dumps(value, ensure_ascii=False, default=str)
    cut = text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "…"
    return f" = {cut}"


def _dotted(loc: Loc) -> str:
    """Return the key as config.toml writes it: ``retention.rule[0].match``."""
    text = ""
    for part in loc:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{part if _BARE_KEY.fullmatch(part) else json.dumps(part)}"
    return text.removeprefix(".")


def _suggestion(loc: Loc, model: type[BaseModel]) -> str:
    """Return ``; did you mean …?``, empty if no key fits.

    Suggests a similar key of the same table, else the same key of another table.
    """
    *path, name = loc
    siblings = [
        merge.written_name(field_name, field)
        for field_name, field in _table_at(tuple(path), model).model_fields.items()
    ]
    if meant := files.nearest(str(name), siblings):
        return f"; did you mean {_dotted((*path, meant))}?"
    everywhere = [key.dotted for key in merge.keys(model)]
    elsewhere = [dotted for dotted in everywhere if dotted.endswith(f".{name}")]
    return f"; did you mean {elsewhere[0]}?" if elsewhere else ""


def _table_at(path: Loc, model: type[BaseModel]) -> type[BaseModel]:
    for part in path:
        for name, field in model.model_fields.items():
            if merge.written_name(name, field) == part:
                below = merge.table_of(field)
                assert below is not None, f"{part} has keys but is not a table"
                model = below
                break
    return model
