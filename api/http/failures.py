"""From exceptions to HTTP: one table, and no answer that is not JSON."""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match

from milepost.api.http.responses import error_answer, writable
from milepost.journal.errors import Conflict, MilepostError, UnreadableState

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.requests import Request

    from milepost.api.http.responses import JsonAnswer
    from milepost.journal.models import ErrorInfo

logger = logging.getLogger("milepost.api")

_OPERATOR = "whoever runs the server"
# By the `code` of an error.  What is missing here is our fault: 500.
STATUS_OF = {
    "invalid_argument": 422,
    "invalid_state": 422,
    "state_too_large": 413,
    "forbidden": 403,
    "not_found": 404,
    "no_checkpoint": 404,
    "conflict": 409,
    "not_imported": 409,
    "stale_plan": 409,
    "protected": 409,
    "held": 409,
    "cannot_repair": 409,
    "loss_not_accepted": 409,
    "confirmation_required": 409,
    "clock_jump": 409,
    "job_running": 409,
    "damaged": 500,
    "unreadable": 400,
    "missing_key": 400,
    "state_over_bound": 400,
    "plaintext_refused": 400,
    "unusable_keys": 500,
    "nested_call": 500,
    "key_needed": 500,
    "dropped_key": 500,
    "newer_format": 500,
    "newer_state": 500,
    "no_migration": 500,
    "migration_failed": 500,
    "storage_failed": 503,
    "no_space": 507,
    "read_only": 503,
    "locked": 503,
    "busy": 503,
    "unsupported_folder": 503,
}
_RETRY_AFTER_SECONDS = {"locked": "1", "busy": "1", "storage_failed": "30"}
# They pass, and a traceback would say no more than the line.
_PASSING = frozenset({"locked", "busy"})
_CODE_OF_STATUS = {404: "not_found", 405: "method_not_allowed"}
_SHOWN = 80


# What a client of this API can do about it.  The hint of an error is for the program
# that calls the library; where it names a call or a command, the words here replace it.
ADVICE = {
    "protected": "POST to its /unpin first, or DELETE it with ?force=true",
    "held": "nothing removes it until a POST to its /release",
    "invalid_state": "send plain JSON: null or text for what JSON has no number for",
    "state_too_large": "send less, or keep large data elsewhere; store.max_state and "
    "store.max_depth of the server say how much",
    "stale_plan": "preview again",
    "clock_jump": f"{_OPERATOR} has to confirm that the clock is right",
    "confirmation_required": "preview it, then apply with confirm = true (scope admin)",
    "damaged": f"other jobs go on; {_OPERATOR} can say what is safe and repair it",
    "unreadable": "no older checkpoint is given instead; choose one yourself",
    "missing_key": f"{_OPERATOR} has to add the key",
    "key_needed": f"{_OPERATOR} has to set store.key_file",
    "dropped_key": f"{_OPERATOR} has to restart the server with the current keys",
    "state_over_bound": f"{_OPERATOR} has to raise max_state",
    "plaintext_refused": f"{_OPERATOR} has to allow it: store.allow_plaintext",
    "unusable_keys": f"{_OPERATOR} has to correct the key file",
    "cannot_repair": f"{_OPERATOR} has to look at it",
    "loss_not_accepted": f"{_OPERATOR} has to decide",
}


class PreconditionFailed(Conflict):
    """The job is not where ``If-Match`` says; nothing was done."""


class Unsearchable(MilepostError):
    """A checkpoint may be in a job that cannot be read, so it cannot be called unknown.

    A client that is told "not found" may start its job from the beginning.
    """

    def __init__(self, checkpoint_id: str, damage: ErrorInfo) -> None:
        super().__init__(
            f"checkpoint {checkpoint_id!r} is in no job that can be read: {damage}",
            hint=damage.hint,
        )
        # On purpose the code of the cause: clients decide by it.
        self.code = damage.code  # type: ignore[misc]


def install(app: FastAPI) -> None:
    """Make `app` answer every expected exception in our shape."""
    app.add_exception_handler(MilepostError, _of_milepost)
    app.add_exception_handler(RequestValidationError, _of_validation)
    app.add_exception_handler(HTTPException, _of_http)


async def _of_milepost(request: Request, exc: Exception) -> JsonAnswer:
    assert isinstance(exc, MilepostError)
    status = STATUS_OF.get(exc.code, 500)
    if isinstance(exc, PreconditionFailed):
        status = 412
    if exc.code in _PASSING:
        logger.warning("%s %r: %s", request.method, request.url.path, exc)
    elif status >= 500 or isinstance(exc, UnreadableState):  # noqa: PLR2004 - ours
        logger.error("%s %r: %s", request.method, request.url.path, exc, exc_info=exc)
    hint = ADVICE.get(exc.code, exc.hint)
    detail = f"{exc} ({hint})" if hint else str(exc)
    retry = _RETRY_AFTER_SECONDS.get(exc.code)
    headers = {"Retry-After": retry} if retry else None
    return error_answer(status, exc.code, detail, details=exc.details, headers=headers)


async def _of_validation(_request: Request, exc: Exception) -> JsonAnswer:
    assert isinstance(exc, RequestValidationError)
    errors = [_plain(error) for error in exc.errors()]
    detail = "; ".join(_sentence(error) for error in exc.errors())
    return error_answer(422, "invalid_argument", detail, errors=errors)


async def _of_http(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, HTTPException)
    headers = exc.headers
    if exc.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        # Starlette tells the methods of the first route; several share a path.
        headers = {"Allow": ", ".join(_methods_of(request))}
        if request.method == "OPTIONS":
            return Response(status_code=HTTPStatus.NO_CONTENT, headers=headers)
    code = _CODE_OF_STATUS.get(exc.status_code, "invalid_request")
    detail = f"{request.method} {request.url.path[:_SHOWN]}: {exc.detail.lower()}"
    return error_answer(exc.status_code, code, detail, headers=headers)


def _methods_of(request: Request) -> list[str]:
    """Return the methods of all that is at the path of a request."""
    scopes = {
        name: {**request.scope, "method": "GET" if name == "HEAD" else name}
        for name in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
    }
    found = [
        name
        for name, scope in scopes.items()
        if any(route.matches(scope)[0] is Match.FULL for route in request.app.routes)
    ]
    return [*found, "OPTIONS"]


def _plain(error: dict[str, Any]) -> dict[str, Any]:
    """Return one error of pydantic's without what was sent, which may be anything."""
    where = [writable(p) if isinstance(p, str) else p for p in error["loc"]]
    return {"loc": where, "msg": writable(error["msg"]), "type": error["type"]}


def _sentence(error: dict[str, Any]) -> str:
    place, *path = error["loc"]
    if error["type"] == "json_invalid":
        return f"body: not valid JSON at character {path[0]}: {error['ctx']['error']}"
    field = ".".join(str(part) for part in path) or "body"
    where = f"{field} (in the {place})"
    if error["type"] == "missing":
        return f"{where} is missing"
    shown = repr(error["input"])
    if len(shown) > _SHOWN:
        shown = shown[:_SHOWN] + "…"
    return f"{where}: {error['msg'].lower()}, got {shown}"
