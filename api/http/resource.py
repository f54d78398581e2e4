"""The route class of this API: rules that every endpoint shares.

- An unknown or repeated query parameter is refused: an ignored filter would show, or
  delete, more than the client asked for.
- A handler that is a plain function runs in a thread, as `milepost.api.http.turns`
  allows.
"""

from __future__ import annotations

import functools
import inspect
from difflib import get_close_matches
from functools import partial
from typing import TYPE_CHECKING, Any, get_origin

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute

from milepost.api.http.services import Services, services_of
from milepost.journal.errors import MilepostError, UnknownCheckpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from fastapi import Response
    from fastapi.dependencies.models import Dependant

    from milepost.journal.manager import CheckpointManager


class Resource(APIRoute):
    """An endpoint; its handler takes `services` if it is a plain function."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        if not inspect.iscoroutinefunction(endpoint):
            is_reading = set(options.get("methods") or ("GET",)) == {"GET"}
            endpoint = _in_turn(endpoint, is_reading=is_reading)
        # The gate checked Content-Type: a body without one is not from a browser.
        options["strict_content_type"] = False
        super().__init__(path, endpoint, **options)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return a handler that checks the query before it runs the endpoint."""
        answer = super().get_route_handler()
        known = _query_of(self.dependant)

        async def checked(request: Request) -> Response:
            items = request.query_params.multi_items()
            if items and (errors := _misfits(items, known)):
                raise RequestValidationError(errors)
            return await answer(request)

        return checked


def _query_of(dependant: Dependant) -> dict[str, bool]:
    """Return the query parameters of an endpoint, and whether each may repeat."""
    found = {
        field.alias: get_origin(field.field_info.annotation) is list
        or "list[" in str(field.field_info.annotation)
        for field in dependant.query_params
    }
    for each in dependant.dependencies:
        found |= _query_of(each)
    return found


def _misfits(
    items: list[tuple[str, str]], known: dict[str, bool]
) -> list[dict[str, Any]]:
    errors: list[dict[str, Any]] = []
    seen: set[str] = set()
    for name, value in items:
        if name not in known:
            message, kind = f"unknown parameter{_advice(name, known)}", "extra"
        elif name in seen and not known[name]:
            message, kind = "must be given once", "repeated"
        else:
            seen.add(name)
            continue
        errors.append(
            {"loc": ("query", name), "msg": message, "type": kind, "input": value}
        )
    return errors


def _advice(name: str, known: dict[str, bool]) -> str:
    if near := get_close_matches(name, known, n=1):
        return f" (did you mean {near[0]}?)"
    return f" (known: {', '.join(known)})" if known else " (there are none)"


_KEYWORD = inspect.Parameter.POSITIONAL_OR_KEYWORD


def _in_turn(handler: Callable[..., Any], *, is_reading: bool) -> Callable[..., Any]:
    """Return `handler` as a coroutine that runs it in a thread."""

    @functools.wraps(handler)
    async def asked(asked_by: Request, **values: Any) -> Any:  # as FastAPI parsed them
        values["services"] = services = services_of(asked_by)
        work = partial(handler, **values)
        if is_reading:
            return await services.readers.run(_named(values), work)
        job_id = await _job_of(services, values)
        return await services.writers.run(job_id, work)

    # FastAPI gives it the request instead of the services, which is quicker.
    signature = inspect.signature(handler)
    parsed = [p for name, p in signature.parameters.items() if name != "services"]
    request = inspect.Parameter("asked_by", _KEYWORD, annotation=Request)
    asked.__signature__ = signature.replace(parameters=[request, *parsed])  # type: ignore[attr-defined] # as `inspect` reads it
    return asked


def _named(values: dict[str, Any]) -> str:
    """Return the job, or what is in one, that a request names, or ""."""
    for source in (values, vars(values.get("body") or object)):
        for name in ("job_id", "correlation_id", *_FINDERS):
            if isinstance(value := source.get(name), str):
                return value
    return ""


async def _job_of(services: Services, values: dict[str, Any]) -> str:
    """Return the job whose lock a request may wait for."""
    named = next((name for name in _FINDERS if name in values), None)
    if named is None:
        return _named(values)
    id_: str = values[named]

    def find() -> str:
        try:
            job_id: str = _FINDERS[named](services.manager, id_)
        except UnknownCheckpoint as exc:  # the handler reports it
            job_id = exc.job_id or id_
        except MilepostError:
            job_id = id_
        return job_id

    return await services.readers.run(id_, find)


# How the job of what a path names is found.
_FINDERS: dict[str, Callable[[CheckpointManager, str], str]] = {
    "checkpoint_id": lambda manager, id_: manager.find(id_).job_id,
    "execution_id": lambda manager, id_: manager.workflows.directory.execution(id_)[0],
    "approval_id": lambda manager, id_: manager.workflows.directory.approval(id_),
}
