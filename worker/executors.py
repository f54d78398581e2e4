"""Executors, which resume jobs: a configured command or a user's Python object.

An executor has ``resume_job(job_id)``.  Two more methods are optional:
``is_running(job_id)``, called before anything is journaled, and
``stop_all(timeout_seconds)``, called when the server shuts down.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import importlib
import inspect
import logging
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from contextlib import suppress
from errno import EINVAL
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from milepost.journal.errors import MilepostError
from milepost.journal.ids import check_job_id, file_name

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

logger = logging.getLogger("milepost.executors")

PLACEHOLDER = "{job_id}"
_LOCK_TRIES = 20
_LOCK_PAUSE_SECONDS = 0.01
_KILL_GRACE_SECONDS = 5.0
# How long jobs have to end when the process that started them ends, in 10 s.
STOP_SECONDS = 2.0
# Shell scripts reuse descriptors 3 to 9 (`exec 3>file`), which would release a lock on
# one of them.
_LOCK_DESCRIPTOR_MIN = 100


class JobStillRunning(MilepostError):
    """The job already runs, started by this or another server; nothing was started."""

    code = "job_running"

    def __init__(self, job_id: str, *, detail: str = "it is still running") -> None:
        super().__init__(f"job {job_id!r} was not started: {detail}")
        self.job_id = job_id


class ExecutorUnusable(MilepostError, ValueError):
    """The configured executor cannot be loaded or is invalid."""

    code = "executor_unusable"


@runtime_checkable
class Executor(Protocol):
    """The interface that `create_app` uses to resume jobs."""

    def resume_job(self, job_id: str) -> object:
        """Start `job_id` from its current checkpoint; return without waiting for it."""


class _Child:
    """One started process and its process group."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.is_stopping = False
        self.is_reaped = threading.Event()

    def is_alive(self) -> bool:
        # WNOWAIT leaves the zombie for the reaper thread.
        options = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self.process.pid, options) is None

    def signal_group(self, number: signal.Signals) -> None:
        # Called only before the group leader is reaped: until then its process id
        # cannot be reused by an unrelated process.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, number)


class CommandExecutor:
    """Starts a job as ``command``, in its own process group, without a shell.

    ``{job_id}`` inside an element is replaced by the job's id; the element remains one
    argument.  An id may begin with a dash, so write ``--job={job_id}`` rather than two
    elements.  Standard input is empty.  Output is appended to ``<log_dir>/<name>.log``,
    where the name is the job's file name in the store.  The process inherits a lock on
    ``<log_dir>/<name>.lock`` and keeps it until it ends, so servers that share
    `log_dir` never run a job twice.

    Args:
        command: program and arguments.
        log_dir: created if missing, readable by its owner only.
        cwd: the working directory of the command; the server's unless given.
        on_ended: called, in another thread, when a process has ended.

    Raises:
        ExecutorUnusable: `command` is empty or is not a sequence of strings.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        log_dir: str | Path,
        cwd: str | Path | None = None,
        on_ended: Callable[[], object] = lambda: None,
    ) -> None:
        if isinstance(command, str) or not command:
            raise ExecutorUnusable(
                f"command must be a list such as ['python', 'job.py'], got {command!r}"
            )
        bad = next((part for part in command if not isinstance(part, str)), None)
        if bad is not None or any("\0" in part for part in command):
            raise ExecutorUnusable(
                f"command must be strings without NUL characters, got {command!r}"
            )
        self._command = tuple(command)
        self._log_dir = Path(log_dir)
        self._cwd = cwd
        self._on_ended = on_ended
        self._children: dict[str, _Child] = {}
        self._lock = threading.Lock()

    def resume_job(self, job_id: str) -> int:
        """Start the command for `job_id` and return its process id.

        Raises:
            JobStillRunning: an earlier process of the job has not ended.
            InvalidArgument: `job_id` is not a valid id.
            OSError: the command cannot be started, or its log cannot be written.
        """
        check_job_id(job_id)
        argv = [part.replace(PLACEHOLDER, job_id) for part in self._command]
        held = self._take_lock(job_id)
        # A program that closes inherited descriptors releases the lock, but our own
        # children are known.
        if self.has_child(job_id):
            os.close(held)
            raise JobStillRunning(job_id)
        try:
            with self._open("log", job_id) as log:
                process = subprocess.Popen(  # noqa: S603 - argv, never a shell
                    argv,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    cwd=self._cwd,
                    start_new_session=True,
                    # flock belongs to the open file description: the child's copy
                    # keeps the lock while the child lives, even if this server dies.
                    pass_fds=(held,),
                )
            self._watch(job_id, _Child(process))
        finally:
            os.close(held)
        logger.info("job %r started as process %d", job_id, process.pid)
        return process.pid

    def is_running(self, job_id: str) -> bool:
        """Return whether a process of `job_id` runs, started by any server.

        Raises:
            InvalidArgument: `job_id` is not a valid id.
            OSError: the lock file cannot be opened.
        """
        path = self._log_dir / f"{file_name(check_job_id(job_id))}.lock"
        if self.has_child(job_id):
            return True
        if not path.exists():
            return False
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            # A shared lock, so that two callers do not mistake each other for the job.
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    @property
    def running(self) -> int:
        """How many processes that were started here run."""
        with self._lock:
            return sum(child.is_alive() for child in self._children.values())

    def ask_to_stop(self) -> None:
        """Send SIGTERM, once, to every process group started here."""
        with self._lock:
            for child in self._children.values():
                if not child.is_stopping:
                    child.is_stopping = True
                    child.signal_group(signal.SIGTERM)

    def stop_all(self, timeout_seconds: float = 10.0) -> None:
        """End every process group started here and wait for the processes.

        Sends SIGTERM, and after `timeout_seconds` SIGKILL to processes still running.
        Remaining members of a group whose leader ended also get SIGKILL.
        """
        self.ask_to_stop()
        with self._lock:
            children = list(self._children.values())
        deadline = time.monotonic() + timeout_seconds
        for child in children:
            child.is_reaped.wait(max(0.0, deadline - time.monotonic()))
        with self._lock:
            for child in self._children.values():
                if child.is_stopping:
                    child.signal_group(signal.SIGKILL)
        for child in children:
            child.is_reaped.wait(_KILL_GRACE_SECONDS)

    def _watch(self, job_id: str, child: _Child) -> None:
        with self._lock:
            self._children[job_id] = child
        threading.Thread(
            target=self._reap, args=(job_id, child), name="milepost-reap", daemon=True
        ).start()

    def _reap(self, job_id: str, child: _Child) -> None:
        # WNOWAIT keeps the zombie until `_lock` is taken.  `stop_all` signals under the
        # same lock, so it never signals a reused process id.
        os.waitid(os.P_PID, child.process.pid, os.WEXITED | os.WNOWAIT)
        with self._lock:
            if child.is_stopping:
                child.signal_group(signal.SIGKILL)
            status = child.process.wait()
            if self._children.get(job_id) is child:
                del self._children[job_id]
        logger.info("job %r: process %d ended, %d", job_id, child.process.pid, status)
        child.is_reaped.set()
        self._on_ended()

    def has_child(self, job_id: str) -> bool:
        """Return whether a process of `job_id` that was started here runs."""
        with self._lock:
            child = self._children.get(job_id)
            return child is not None and child.is_alive()

    def _take_lock(self, job_id: str) -> int:
        low = self._open_raw("lock", job_id)
        try:
            descriptor = fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, _LOCK_DESCRIPTOR_MIN)
        finally:
            os.close(low)
        for attempt in range(_LOCK_TRIES):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                # `is_running` in another server has the lock only for an instant; a
                # job keeps it while it runs.
                if attempt + 1 < _LOCK_TRIES:
                    time.sleep(_LOCK_PAUSE_SECONDS)
            except BaseException:
                os.close(descriptor)
                raise
            else:
                return descriptor
        os.close(descriptor)
        raise JobStillRunning(job_id)

    def _open(self, kind: str, job_id: str) -> Any:  # an open binary file
        return os.fdopen(self._open_raw(kind, job_id), "ab", buffering=0)

    def _open_raw(self, kind: str, job_id: str) -> int:
        self._log_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._log_dir / f"{file_name(job_id)}.{kind}"
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        # O_NONBLOCK: opening a FIFO would block.
        descriptor = os.open(path, flags | os.O_NONBLOCK, 0o600)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise OSError(EINVAL, "is not a regular file", str(path))
        return descriptor


def start(executor: Executor, job_id: str) -> None:
    """Start a job from a thread without an event loop; awaits an async executor.

    Raises:
        JobStillRunning: the job already runs.
        Exception: whatever a user's executor raises.
    """
    answer: Any = executor.resume_job(job_id)
    if inspect.isawaitable(answer):
        asyncio.run(_wait_for(answer))


async def _wait_for(answer: Awaitable[object]) -> object:
    return await answer


@contextlib.contextmanager
def jobs_stopped(executor: Executor | None, seconds: float) -> Iterator[None]:
    """Stop, at the end of a block, the jobs that a configured command started."""
    try:
        yield
    finally:
        if isinstance(executor, CommandExecutor):
            executor.stop_all(seconds)


def load_executor(spec: str) -> Executor:
    """Import and return the object named by `spec`, ``package.module:object``.

    The current folder is added to the import path, as other servers do.

    Raises:
        ExecutorUnusable: the spec is malformed, the module cannot be imported, it has
            no such object, or the object has no ``resume_job(job_id)``.
    """
    found = load_object(spec, "executor", ExecutorUnusable)
    if isinstance(found, type):
        raise ExecutorUnusable(
            f"executor {spec!r} is a class; name an object made from it"
        )
    if not callable(getattr(found, "resume_job", None)):
        raise ExecutorUnusable(
            f"executor {spec!r} is a {type(found).__name__} without resume_job(job_id)"
        )
    executor: Executor = found
    return executor


def load_object(spec: str, what: str, unusable: type[MilepostError]) -> Any:
    """Import and return the object named by `spec`, ``package.module:object``.

    The current folder is added to the import path.

    Args:
        spec: the name.
        what: it is, for the message.
        unusable: the error that is raised.

    Raises:
        MilepostError: an `unusable`: the spec is malformed, the module cannot be
            imported, or it has no such object.
    """
    module_name, colon, attribute = spec.partition(":")
    if not (module_name and colon and attribute):
        raise unusable(f"{what} {spec!r} must be written as 'package.module:object'")
    with contextlib.suppress(OSError):  # the current folder was removed
        here = str(Path.cwd())
        if "" not in sys.path and here not in sys.path:
            sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module_name)
    except Exception as exc:
        # A user's module may raise anything during its import.
        raise unusable(
            f"{what} {spec!r}: module {module_name!r} cannot be imported: "
            f"{type(exc).__name__}: {exc}"
        ) from exc
    for part in attribute.split("."):
        try:
            found = getattr(found, part)
        except AttributeError as exc:
            raise unusable(
                f"{what} {spec!r}: module {module_name!r} has no {attribute!r}"
            ) from exc
    return found
