"""The mapping from exceptions to HTTP answers: one table, JSON only."""

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

_OPERATOR = "the operator of the server"
# By the `code` of an error.  A code that is not listed is a bug of the server: 500.
STATUS_OF = {
    "invalid_argument": 422,
    "invalid_state": 422,
    "state_too_large": 413,
    "forbidden": 403,
    "not_allowed": 403,
    "not_found": 404,
    "unknown_execution": 404,
    "unknown_approval": 404,
    "no_checkpoint": 404,
    "conflict": 409,
    "not_imported": 409,
    "wrong_kind": 409,
    "stale_plan": 409,
    "protected": 409,
    "held": 409,
    "cannot_repair": 409,
    "loss_not_accepted": 409,
    "confirmation_required": 409,
    "clock_jump": 409,
    "job_running": 409,
    "illegal_transition": 409,
    "execution_final": 409,
    "execution_paused": 409,
    "approval_pending": 409,
    "approval_decided": 409,
    "stale_subject": 409,
    "lease_live": 409,
    "lease_lost": 409,
    "step_failed": 409,
    "step_uncertain": 409,
    "steps_changed": 409,
    "rejected": 409,
    "expired": 409,
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
# Transient errors, for which a traceback adds nothing.
_PASSING = frozenset({"locked", "busy"})
_CODE_OF_STATUS = {404: "not_found", 405: "method_not_allowed"}
_SHOWN = 80


# Hints for clients of this API.  An error's own hint addresses users of the library;
# where it names a call or a command, the text here replaces it.
ADVICE = {
    "protected": "POST to its /unpin first, or DELETE it with ?force=true",
    "held": "POST to its /release first",
    "invalid_state": "send plain JSON; replace NaN and infinities by null or text",
    "state_too_large": "send a smaller state, or store large data elsewhere; limits: "
    "store.max_state and store.max_depth of the server",
    "stale_plan": "preview again",
    "clock_jump": f"{_OPERATOR} must confirm the system time",
    "confirmation_required": "preview it, then apply with confirm = true (scope admin)",
    "damaged": f"other jobs are not affected; {_OPERATOR} must repair this one",
    "unreadable": "choose another checkpoint; none is substituted",
    "missing_key": f"{_OPERATOR} must add the key",
    "key_needed": f"{_OPERATOR} must set store.key_file",
    "dropped_key": f"{_OPERATOR} must restart it with the current keys",
    "state_over_bound": f"{_OPERATOR} must raise max_state",
    "plaintext_refused": f"{_OPERATOR} can set store.allow_plaintext",
    "unusable_keys": f"{_OPERATOR} must correct the key file",
    "cannot_repair": f"{_OPERATOR} must repair it by hand",
    "loss_not_accepted": f"{_OPERATOR} must accept the loss",
    "lease_lost": "stop working on it; another attempt may run already",
}


class PreconditionFailed(Conflict):
    """The job's seq differs from ``If-Match``; nothing was done."""


class Unsearchable(MilepostError):
    """What a path names is in no readable job, but may be in an unreadable one.

    "Not found" would be wrong: a client may then restart its job from the beginning.
    """

    def __init__(self, id_: str, damage: ErrorInfo) -> None:
        super().__init__(
            f"{id_!r:.120} is in no job that can be read: {damage}",
            hint=damage.hint,
        )
        # The code of the cause: clients decide by it.
        self.code = damage.code  # type: ignore[misc]


def install(app: FastAPI) -> None:
    """Register handlers: every expected exception becomes the error shape."""
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
        # Starlette lists the methods of the first route only; several share a path.
        headers = {"Allow": ", ".join(_methods_of(request))}
        if request.method == "OPTIONS":
            return Response(status_code=HTTPStatus.NO_CONTENT, headers=headers)
    code = _CODE_OF_STATUS.get(exc.status_code, "invalid_request")
    detail = f"{request.method} {request.url.path[:_SHOWN]}: {exc.detail.lower()}"
    return error_answer(exc.status_code, code, detail, headers=headers)


def _methods_of(request: Request) -> list[str]:
    """Return the methods of all routes at the path of a request."""
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
    """Return an error of pydantic without the input, which may be of any size."""
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
