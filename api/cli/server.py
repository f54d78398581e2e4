"""API and worker in one process: the one door to uvicorn."""

from __future__ import annotations

import logging
import os
import socket
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import uvicorn

from milepost.api.cli.connections import Bounds, Connection
from milepost.api.cli.exits import Failure
from milepost.api.cli.output import say
from milepost.api.cli.stores import actor
from milepost.api.http.app import create_app
from milepost.api.http.security.gate import check_bind
from milepost.api.http.turns import connections_max
from milepost.journal.errors import NotImported
from milepost.journal.repair import store_check
from milepost.worker.config.settings import open_manager
from milepost.worker.service import Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fastapi import FastAPI

    from milepost.api.cli.waiting import Stop
    from milepost.journal.manager import CheckpointManager
    from milepost.worker.config.settings import ApiSettings, Settings

# Together with what the worker then gets, less than 10 s: whoever stops services kills
# what takes longer.
_GRACE_SECONDS = 3
_WORKER_SECONDS = 1.5
# Connections that asyncio accepts at once, before the first of them is counted.
_BACKLOG = 128


class Prepared(NamedTuple):
    """All that a server needs but its socket."""

    manager: CheckpointManager
    worker: Worker | None
    config: uvicorn.Config


@contextmanager
def prepared(settings: Settings) -> Iterator[Prepared]:
    """Make ready what is served; `config check` does so, too.

    Raises:
        UnsafeBind: others could reach it and there is no token.
        Failure: no_store, if the store's folder is none; cannot_listen, if there is no
            such host.
        MilepostError: the store or the executor can't be used.
    """
    check_bind(settings.api.host, settings.api.tokens)
    _address(settings.api.host, settings.api.port)
    root = settings.store.root
    if not root.is_dir() and os.path.lexists(root):
        hint = "[store] root, MILEPOST_STORE_ROOT or --store name another"
        raise Failure("no_store", f"{root} is no folder", hint)
    with open_manager(settings, actor=actor()) as manager:
        worker = None
        if settings.worker.enabled:
            worker = Worker(manager, settings, config_path=settings.file)
        app = create_app(manager, settings=settings, worker=worker)
        yield Prepared(manager, worker, _config(app, settings.api))


def serve(settings: Settings, stop: Stop, *, greet: Callable[[str], None]) -> None:
    """Serve until `stop`; then finish the requests, the worker's task, and close.

    `greet` is told in a line where, once requests are answered; it must not block.

    Raises:
        UnsafeBind: others could reach it and there is no token.
        Failure: cannot_listen.
        MilepostError: the store or the executor can't be used.
    """
    host, port = settings.api.host, settings.api.port
    with ExitStack() as closing:
        _, worker, config = closing.enter_context(prepared(settings))
        listener = closing.enter_context(_listen(host, port))
        if worker is not None:
            closing.callback(worker.stop, _WORKER_SECONDS)
            worker.start()
        url = _url(host, listener)
        if jobs := store_check.jobs_to_import(settings.store.root):
            say(f"warning: {NotImported(jobs, settings.store.root)}")
        greeting = f"serving {url} from {settings.store.root} (Ctrl-C ends it)"
        # At the signal, not when the last request is answered: both end side by side.
        on_leave = (lambda: None) if worker is None else worker.ask_to_stop
        server = _Server(config, partial(greet, greeting), stop, on_leave)
        server.run(sockets=[listener])


def _config(app: FastAPI, settings: ApiSettings) -> uvicorn.Config:
    bounds = Bounds(
        connections=connections_max(settings.max_connections),
        head_seconds=settings.head_timeout_seconds,
        body_seconds=settings.body_timeout_seconds,
        send_seconds=settings.send_timeout_seconds,
    )
    # Uvicorn calls it to make a protocol, as it would call the class.
    protocol: Any = partial(Connection, bounds=bounds)
    return uvicorn.Config(
        app,
        http=protocol,
        timeout_keep_alive=settings.idle_timeout_seconds,  # type: ignore[arg-type] # any number
        backlog=_BACKLOG,
        log_config=None,
        access_log=False,
        lifespan="on",
        ws="none",
        server_header=False,
        # A header must not decide who a client is.
        proxy_headers=False,
        timeout_graceful_shutdown=_GRACE_SECONDS,
    )


class _Server(uvicorn.Server):
    """Uvicorn, but it leaves signals to us and greets when it really listens.

    Uvicorn would raise the signal once more at its end, so SIGTERM would kill the
    process before the worker was stopped and the store closed.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        greet: Callable[[], None],
        stop: Stop,
        on_leave: Callable[[], None],
    ) -> None:
        super().__init__(config)
        self._greet = greet
        self._stop = stop
        self._on_leave = on_leave

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        with self._stop.calling(self._leave, self._leave_at_once):
            yield

    def _leave(self) -> None:
        self.should_exit = True
        self._on_leave()

    def _leave_at_once(self) -> None:
        # A `KeyboardInterrupt` would tear the loop open; so slow requests are only cut
        # off, and what uvicorn has to say about each of them is no news.
        self.force_exit = True
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        if self.force_exit:
            # Uvicorn drops the requests and the application with them.  The second
            # signal was about slow requests; jobs that we started must still end.
            await self.lifespan.shutdown()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._greet()


def _address(host: str, port: int) -> tuple[socket.AddressFamily, tuple[Any, Any]]:
    """Return the address to listen on.

    Raises:
        Failure: cannot_listen: there is none of that name.
    """
    try:
        # IPv4 first, for "localhost" has two addresses and most clients try that one.
        found = sorted(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
    except (OSError, UnicodeError) as exc:
        hint = "api.host is a name or an address of this machine"
        raise _cannot_listen(host, port, exc, hint) from exc
    family, _, _, _, address = found[0]
    return family, address[:2]


def _cannot_listen(host: str, port: int, exc: Exception, hint: str) -> Failure:
    # Python adds the address, which stands in our line already.
    reason, _, _ = (getattr(exc, "strerror", None) or str(exc)).partition(" (")
    msg = f"can't listen on {host} port {port}: {reason}"
    return Failure("cannot_listen", msg, hint)


@contextmanager
def _listen(host: str, port: int) -> Iterator[socket.socket]:
    """Open the socket ourselves: uvicorn would log the failure and leave with 1.

    Raises:
        Failure: cannot_listen.
    """
    family, address = _address(host, port)
    try:
        listener = socket.create_server(address, family=family)
    except OSError as exc:
        raise _cannot_listen(host, port, exc, "--port 0 takes a free port") from exc
    with listener:
        # asyncio sets this only on sockets whose protocol is named, and without it an
        # answer's body waits 40 ms for the client to confirm its head.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield listener


def _url(host: str, listener: socket.socket) -> str:
    port = listener.getsockname()[1]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
