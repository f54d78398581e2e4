"""API and worker in one process.  Only this module and `connections` use uvicorn."""

from __future__ import annotations

import logging
import os
import socket
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import uvicorn

from milepost.api.cli.connections import Bounds, Fastest
from milepost.api.cli.exits import Failure
from milepost.api.cli.output import say
from milepost.api.cli.stores import actor
from milepost.api.http.app import create_app
from milepost.api.http.security.gate import check_bind
from milepost.api.http.turns import connections_max
from milepost.journal.errors import NotImported
from milepost.journal.reading import store_check
from milepost.worker.config.settings import open_executor, open_manager
from milepost.worker.executors import STOP_SECONDS, jobs_stopped
from milepost.worker.service import Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fastapi import FastAPI

    from milepost.api.cli.waiting import Stop
    from milepost.journal.manager import CheckpointManager
    from milepost.worker.config.settings import ApiSettings, Settings

# With the worker's deadline, less than 10 s in total: service managers then kill the
# process.
_GRACE_SECONDS = 3
_WORKER_SECONDS = 1.5
# Connections that asyncio accepts in one step, before the first is counted.
_BACKLOG = 128


class Prepared(NamedTuple):
    """Everything that a server needs except its socket."""

    manager: CheckpointManager
    worker: Worker | None
    config: uvicorn.Config


@contextmanager
def prepared(settings: Settings) -> Iterator[Prepared]:
    """Prepare the application and the worker; `config check` uses this too.

    Raises:
        UnsafeBind: other machines could reach it and there is no token.
        Failure: no_store, if the store is not a folder; cannot_listen, if the host is
            unknown.
        MilepostError: the store or the executor can't be used.
    """
    check_bind(settings.api.host, settings.api.tokens)
    _address(settings.api.host, settings.api.port)
    root = settings.store.root
    if not root.is_dir() and os.path.lexists(root):
        hint = "set [store] root, MILEPOST_STORE_ROOT or --store"
        raise Failure("no_store", f"{root} is not a folder", hint)
    executor = open_executor(settings)
    with (
        open_manager(settings, actor=actor()) as manager,
        jobs_stopped(executor, STOP_SECONDS),
    ):
        worker = None
        if settings.worker.enabled:
            worker = Worker(
                manager, settings, executor=executor, config_path=settings.file
            )
        app = create_app(manager, executor, settings=settings, worker=worker)
        yield Prepared(manager, worker, _config(app, settings.api))


def serve(settings: Settings, stop: Stop, *, greet: Callable[[str], None]) -> None:
    """Serve until `stop`; then finish requests and the worker's task, and close.

    `greet` gets a line with the address once requests are accepted; it must not block.

    Raises:
        UnsafeBind: other machines could reach it and there is no token.
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
        # At the signal, not after the last request, so that both end in parallel.
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
    # Uvicorn calls this as the protocol class.
    protocol: Any = partial(Fastest, bounds=bounds)
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
        # The client's address must not come from a header.
        proxy_headers=False,
        timeout_graceful_shutdown=_GRACE_SECONDS,
    )


class _Server(uvicorn.Server):
    """A uvicorn server that does not handle signals, and greets once it listens.

    Uvicorn raises the signal again at its end, so SIGTERM would kill the process before
    the worker is stopped and the store is closed.
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
        # A `KeyboardInterrupt` would break the event loop, so slow requests are only
        # cut off; uvicorn's errors about each of them are suppressed.
        self.force_exit = True
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        if self.force_exit:
            # Uvicorn drops the requests and skips the application's shutdown.  The
            # second signal is for slow requests; jobs started here must still end.
            await self.lifespan.shutdown()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._greet()


def _address(host: str, port: int) -> tuple[socket.AddressFamily, tuple[Any, Any]]:
    """Return the address to listen on.

    Raises:
        Failure: cannot_listen: the name is unknown.
    """
    try:
        # IPv4 first: "localhost" has two addresses, and most clients try that one.
        found = sorted(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
    except (OSError, UnicodeError) as exc:
        hint = "set api.host to a name or an address of this machine"
        raise _cannot_listen(host, port, exc, hint) from exc
    family, _, _, _, address = found[0]
    return family, address[:2]


def _cannot_listen(host: str, port: int, exc: Exception, hint: str) -> Failure:
    # Python appends the address, which the message already has.
    reason, _, _ = (getattr(exc, "strerror", None) or str(exc)).partition(" (")
    msg = f"can't listen on {host} port {port}: {reason}"
    return Failure("cannot_listen", msg, hint)


@contextmanager
def _listen(host: str, port: int) -> Iterator[socket.socket]:
    """Open the socket here: uvicorn would log a failure and exit with 1.

    Raises:
        Failure: cannot_listen.
    """
    family, address = _address(host, port)
    try:
        listener = socket.create_server(address, family=family)
    except OSError as exc:
        raise _cannot_listen(host, port, exc, "--port 0 chooses a free port") from exc
    with listener:
        # asyncio sets TCP_NODELAY only on sockets with an explicit protocol; without it
        # an answer's body waits 40 ms for the acknowledgement of its head.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield listener


def _url(host: str, listener: socket.socket) -> str:
    port = listener.getsockname()[1]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
