"""Objects that the handlers of one application share."""

# FastAPI reads these annotations at run time, so their imports stay where they are.
import threading
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

from fastapi import Depends, Request

from milepost.api.http.readiness import Readiness
from milepost.api.http.resuming import Resumer
from milepost.api.http.security.tokens import EVERYONE, Principal
from milepost.api.http.turns import Sizes, connections_max
from milepost.journal.clock import stamp
from milepost.journal.manager import CheckpointManager
from milepost.worker.config.settings import Settings, open_executor, open_manager
from milepost.worker.executors import STOP_SECONDS, CommandExecutor, Executor

if TYPE_CHECKING:
    from milepost.worker.service import Worker


class Services:
    """The manager, the executor and what they need.  Thread-safe.

    `close` closes only what was made here; the caller closes what it passed in.
    """

    def __init__(
        self,
        manager: CheckpointManager | None,
        executor: Executor | None,
        *,
        settings: Settings,
        worker: "Worker | None",
        clock: Callable[[], datetime],
    ) -> None:
        self.settings = settings
        self.worker = worker
        self.readiness = Readiness(lambda: self.manager, worker)
        sizes = Sizes(connections_max(settings.api.max_connections))
        # Longer than the lock timeout, so that the error names the lock holder.
        patience = settings.store.lock_timeout_seconds + 1
        self.readers = sizes.readers(patience)
        self.writers = sizes.writers(patience)
        self._clock = clock
        self._manager = manager
        self._is_manager_ours = manager is None
        self._lock = threading.Lock()
        self._own_executor = open_executor(settings) if executor is None else None
        self.resumer = Resumer(self._own_executor if executor is None else executor)

    @property
    def settings_in_force(self) -> Settings:
        """The settings, with edits of config.toml that the worker has applied."""
        return self.settings if self.worker is None else self.worker.settings

    @property
    def manager(self) -> CheckpointManager:
        """The manager; made on first use if none was passed in."""
        with self._lock:
            if self._manager is None:
                self._manager = open_manager(self.settings)
            return self._manager

    def now(self) -> str:
        """Return the current time as answers show it."""
        return stamp(self._clock())

    @property
    def clock(self) -> Callable[[], datetime]:
        """The clock of the answers."""
        return self._clock

    def close(self, timeout_seconds: float = STOP_SECONDS) -> None:
        """Stop the jobs of an executor made here, then close a manager made here.

        The jobs have `timeout_seconds` to end.

        The next request makes a new manager, so an application can be started again.
        """
        if isinstance(self._own_executor, CommandExecutor):
            self._own_executor.stop_all(timeout_seconds)
        with self._lock:
            if self._is_manager_ours and self._manager is not None:
                self._manager.close()
                self._manager = None


# A dependency that has dependencies costs a tenth of a small request for each of them.


def services_of(request: Request) -> Services:
    """Return the services of the application that got a request."""
    services: Services = request.app.state.services
    return services


def caller_of(request: Request) -> Principal:
    """Return the sender of a request; never from the request's content."""
    principal: Principal = getattr(request.state, "principal", EVERYONE)  # by the gate
    return principal


async def _services(request: Request) -> Services:
    return services_of(request)


async def _caller(request: Request) -> Principal:
    return caller_of(request)


async def _actor(request: Request) -> str:
    return caller_of(request).actor


UseServices = Annotated[Services, Depends(_services)]
Caller = Annotated[Principal, Depends(_caller)]
Actor = Annotated[str, Depends(_actor)]
