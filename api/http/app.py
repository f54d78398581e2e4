"""Assembly of the HTTP application."""

from __future__ import annotations

from contextlib import asynccontextmanager
from importlib import metadata
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
from fastapi import FastAPI

from milepost.api.http import failures
from milepost.api.http.routes import (
    approvals,
    checkpoints,
    events,
    executions,
    health,
    jobs,
    page,
    protection,
    restore,
    retention,
    steps,
    work,
)
from milepost.api.http.security.body import BodyLimits
from milepost.api.http.security.gate import SecurityMiddleware, TokenBook
from milepost.api.http.security.hosts import HostList, check_names
from milepost.api.http.services import Services
from milepost.journal.clock import utc_now
from milepost.worker.config.settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from datetime import datetime

    from milepost.journal.manager import CheckpointManager
    from milepost.worker.executors import Executor
    from milepost.worker.service import Worker

# A state is one level below the body; the rest is a margin for its sibling fields.  The
# upper bound is safe for Python's own JSON parser, which recurses.
_DEPTH_AROUND_STATE = 8
_DEPTH_MAX = 400


def create_app(
    manager: CheckpointManager | None = None,
    executor: Executor | None = None,
    *,
    settings: Settings | None = None,
    worker: Worker | None = None,
    clock: Callable[[], datetime] = utc_now,
    body_timeout_seconds: float | None = None,
) -> FastAPI:
    """Return the HTTP application.  Nothing is opened or started before it serves.

    Args:
        manager: the store; if None, the one that `settings` name, by default
            ``./checkpoints``.  The caller closes a manager that it passes in.
        executor: anything with ``resume_job(job_id)``; if None, `settings` may name a
            command or an object.  The server stops jobs at its end only if it made the
            executor itself.
        settings: hosts, tokens, limits; the defaults unless given.
        worker: for ``/readyz``; the caller starts and stops it.
        clock: the time in answers.
        body_timeout_seconds: how long a request body may take to arrive; overrides
            `settings`.

    Raises:
        ExecutorUnusable: the executor that `settings` name cannot be used.
        InvalidArgument: a host or a token in `settings` is malformed, or every host is
            allowed without a token.
    """
    settings = settings or Settings()
    hosts = HostList(settings.api.host, settings.api.allowed_hosts)
    check_names(hosts, settings.api.tokens)
    services = Services(
        manager, executor, settings=settings, worker=worker, clock=clock
    )

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield
        # In its own thread: those of requests may all hang.
        await anyio.to_thread.run_sync(
            services.close, abandon_on_cancel=True, limiter=anyio.CapacityLimiter(1)
        )

    app = FastAPI(
        title="Milepost",
        summary="Checkpoints of long-running jobs.",
        version=_version(),
        # FastAPI's pages load scripts from a CDN; `/` lists the endpoints without one.
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    app.state.services = services
    for routes in (
        restore,
        checkpoints,
        protection,
        retention,
        jobs,
        events,
        executions,
        steps,
        approvals,
        work,
        health,
        page,
    ):
        # A route keeps nothing of an application.  `include_router` would build each
        # again at the first request, which takes 70 ms.
        app.router.routes.extend(routes.router.routes)
    failures.install(app)
    app.add_middleware(
        SecurityMiddleware,
        hosts=hosts,
        tokens=TokenBook(settings.api.tokens),
        limits=BodyLimits(
            size_bytes=settings.api.max_body_bytes,
            depth=min(settings.store.max_depth + _DEPTH_AROUND_STATE, _DEPTH_MAX),
            timeout_seconds=body_timeout_seconds or settings.api.body_timeout_seconds,
        ),
    )
    return app


def _version() -> str:
    try:
        return metadata.version("milepost")
    except metadata.PackageNotFoundError:
        return "unknown"
