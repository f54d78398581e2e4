"""Detecting changes by other processes, and edits of the config file.

The only module that imports watchdog.  watchdog loses events (20,000 new files were
reported as 7,930) and goes silent when a watched folder is replaced.  Its events are
therefore hints; a sweep of all jobs every few seconds is the guarantee.

| event | action |
|---|---|
| an event on a journal | after the debounce time, refresh the jobs with events |
| `sweep_seconds` have passed | refresh all jobs |
| any event in the config file's folder | check the file: editors rename, links move |
| the file differs, and is stable for the debounce time | report the change |
| a folder was replaced, or its watch died | watch it again, and refresh all jobs |
| the inotify limit is reached | fall back to polling; `kind` shows it |
"""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from watchdog.events import (
    DirDeletedEvent,
    DirMovedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileModifiedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers.polling import PollingObserver

from milepost.journal.ids import job_of
from milepost.worker.config import files

if TYPE_CHECKING:
    from collections.abc import Callable

    from watchdog.observers.api import BaseObserver, ObservedWatch

    from milepost.worker.config.files import Signature

Mode = Literal["auto", "inotify", "poll", "off"]
Kind = Literal["inotify", "poll", "off"]

POLL_SECONDS = 1.0
MAX_HINTS = 1000
# A long sweep delays the next one, so that sweeps use at most a tenth of a core even if
# one takes longer than `sweep_seconds`.
REST_FACTOR = 9
MAX_REST_SECONDS = 30.0

# Opening and closing are left out: our own reads cause these events all the time.
_CHANGES: list[type[FileSystemEvent]] = [
    DirDeletedEvent,
    DirMovedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileModifiedEvent,
    FileMovedEvent,
]

log = logging.getLogger("milepost.worker")


class WatchTiming(NamedTuple):
    """The watcher's mode and timing; may change while it runs."""

    mode: Mode = "auto"
    sweep_seconds: float = 5.0
    debounce_seconds: float = 0.1


class ConfigWatch(NamedTuple):
    """The config file to watch, its signature when last read, and the callback."""

    path: Path
    signature: Signature | None
    on_change: Callable[[], None]


class Hints:
    """The changed jobs, passed from watchdog's threads to the watcher's thread.

    `on_hint` gets each at once, None for any job, in a thread of watchdog.
    """

    def __init__(self, on_hint: Callable[[str | None], object]) -> None:
        self._on_hint = on_hint
        self.bell = threading.Event()
        self._lock = threading.Lock()
        self._jobs: set[str] | None = set()

    def add(self, path: str) -> None:
        """Record a change of the file at `path` and wake the watcher."""
        name = Path(path).name
        if name.endswith(".jsonl"):
            job_id = _job_of(name.removesuffix(".jsonl"))
            self._on_hint(job_id)
            with self._lock:
                # None means any job: a name could not be decoded, or too many changed.
                if job_id is None or self._jobs is None or len(self._jobs) > MAX_HINTS:
                    self._jobs = None
                else:
                    self._jobs.add(job_id)
        self.bell.set()

    def take(self) -> set[str] | None:
        """Return the jobs changed since the last call, None for any job."""
        with self._lock:
            jobs, self._jobs = self._jobs, set()
            return jobs


class _Handler(FileSystemEventHandler):
    def __init__(self, hints: Hints) -> None:
        self._hints = hints

    def on_any_event(self, event: FileSystemEvent) -> None:
        for path in (event.src_path, event.dest_path):
            if path:
                self._hints.add(str(path))


class _Watch(NamedTuple):
    handle: ObservedWatch
    identity: tuple[int, int]


class Eyes:
    """A watchdog observer of a few folders; `rearm` replaces dead watches."""

    def __init__(self, folders: list[Path], hints: Hints, mode: Mode) -> None:
        self._folders = list(dict.fromkeys(folders))
        self._handler = _Handler(hints)
        self._watches: dict[Path, _Watch] = {}
        self._observer: BaseObserver | None = None
        self.kind: Kind = "off"
        if mode in {"auto", "inotify"}:
            self._open_inotify()
        elif mode == "poll":
            self._open_polling()

    def _open_inotify(self) -> None:
        try:
            # Not at the top: the import raises where inotify is missing.
            from watchdog.observers.inotify import InotifyObserver

            self._observer = InotifyObserver()
        except (ImportError, OSError) as exc:
            self._fall_back(exc)
            return
        self.kind = "inotify"
        self._observer.start()

    def _open_polling(self) -> None:
        self._observer = PollingObserver(timeout=POLL_SECONDS)
        self.kind = "poll"
        self._observer.start()

    def _fall_back(self, reason: Exception) -> None:
        log.warning("inotify is unavailable; falling back to polling: %s", reason)
        self.close()
        self._open_polling()

    def rearm(self) -> bool:
        """Watch every existing folder; return whether a new watch was needed.

        Changes before that went unnoticed.
        """
        armed = [self._arm(folder) for folder in self._folders]
        return any(armed)

    def _arm(self, folder: Path) -> bool:
        if self._observer is None:
            return False
        identity = _identity(folder)
        watch = self._watches.get(folder)
        if watch is not None:
            if watch.identity == identity and self._is_live(watch):
                return False
            del self._watches[folder]
            self._observer.unschedule(watch.handle)
        if identity is None:
            return False
        try:
            handle = self._observer.schedule(
                self._handler, str(folder), event_filter=_CHANGES
            )
        except OSError as exc:
            return self._is_armed_after(exc, folder)
        self._watches[folder] = _Watch(handle, identity)
        return True

    def _is_armed_after(self, refusal: OSError, folder: Path) -> bool:
        if isinstance(refusal, FileNotFoundError):
            return False  # removed meanwhile; the next sweep tries again
        if self.kind == "poll":
            log.warning("cannot watch %s; relying on sweeps: %s", folder, refusal)
            return False
        self._fall_back(refusal)
        return self.rearm()

    def _is_live(self, watch: _Watch) -> bool:
        # A deleted folder ends its emitter.  A new folder may get the same inode
        # number, so comparing the identity is not enough.
        assert self._observer is not None, "only an observer has watches"
        return any(
            emitter.watch == watch.handle and emitter.is_alive()
            for emitter in self._observer.emitters
        )

    def close(self) -> None:
        """Stop watching and wait for the observer's threads."""
        observer, self._observer = self._observer, None
        self._watches.clear()
        self.kind = "off"
        if observer is not None:
            observer.stop()
            observer.join()


def kind_to_be_had(folder: Path, mode: Mode) -> Kind:
    """Return the kind that a watcher of `folder` would get, by trying it."""
    eyes = Eyes([folder], Hints(id), mode)
    try:
        eyes.rearm()
        return eyes.kind
    finally:
        eyes.close()


class Watcher:
    """A thread that calls back when journals or the config file have changed.

    `on_jobs` gets the ids of possibly changed jobs, or None for all jobs; it must not
    raise for a single damaged job.  Both callbacks run in the watcher's thread;
    `on_hint` gets each event at once, before the debounce time, in another thread.
    """

    def __init__(
        self,
        journals: Path | None,
        on_jobs: Callable[[set[str] | None], object],
        *,
        config: ConfigWatch | None = None,
        on_hint: Callable[[str | None], object] = id,
        pace: WatchTiming | None = None,
    ) -> None:
        self._journals = journals
        self._on_jobs = on_jobs
        self._config = config
        self._applied = self._seen = config.signature if config else None
        self._pace = pace or WatchTiming()
        self._hints = Hints(on_hint)
        self._eyes: Eyes | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=self._run, name="milepost-watcher", daemon=True
        )

    @property
    def kind(self) -> Kind:
        """How changes are detected between sweeps."""
        eyes = self._eyes
        return "off" if eyes is None else eyes.kind

    def start(self) -> None:
        """Start watching."""
        self._thread.start()

    def stop(self, timeout_seconds: float) -> bool:
        """Stop; return whether the thread ended within `timeout_seconds`."""
        self._stop.set()
        self._hints.bell.set()
        if self._thread.ident is not None:
            self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    def set_pace(self, pace: WatchTiming) -> None:
        """Change mode and timing; call only from this watcher's callbacks."""
        is_other_mode = pace.mode != self._pace.mode
        self._pace = pace
        if is_other_mode and self._eyes is not None:
            self._eyes.close()
            self._eyes = self._open_eyes()
        self._hints.bell.set()

    def _open_eyes(self) -> Eyes:
        folders = [self._journals] if self._journals else []
        if self._config:
            folders.append(self._config.path.absolute().parent)
        return Eyes(folders, self._hints, self._pace.mode if folders else "off")

    def _run(self) -> None:
        self._eyes = self._open_eyes()
        try:
            next_sweep = time.monotonic()
            while not self._stop.is_set():
                next_sweep = self._turn(self._eyes, next_sweep)
        finally:
            self._eyes.close()

    def _turn(self, eyes: Eyes, next_sweep: float) -> float:
        """Wait for a hint or the sweep, handle it; return when the next sweep is."""
        if self._hints.bell.wait(max(0.0, next_sweep - time.monotonic())):
            self._debounce()
        if self._stop.is_set():
            return next_sweep
        began = time.monotonic()
        was_rearmed = _survived(eyes.rearm)
        hinted = self._hints.take()
        is_sweep = began >= next_sweep or was_rearmed or hinted is None
        if is_sweep:
            _survived(lambda: self._on_jobs(None))
        elif hinted:
            _survived(lambda: self._on_jobs(hinted))
        if self._config is not None:
            _survived(self._look_at_config)
        ended = time.monotonic()
        if not is_sweep:
            # Limits the watcher to half a core, however much is written.
            self._stop.wait(min(ended - began, self._pace.debounce_seconds))
            return next_sweep
        rest = min(REST_FACTOR * (ended - began), MAX_REST_SECONDS)
        return max(began + self._pace.sweep_seconds, ended + rest)

    def _debounce(self) -> None:
        """Collect more hints for the debounce time.

        A fixed time, because hints never cease in a busy store.
        """
        self._stop.wait(self._pace.debounce_seconds)
        self._hints.bell.clear()

    def _look_at_config(self) -> None:
        assert self._config is not None, "called only with a config file"
        found = files.signature(self._config.path)
        if found == self._applied:
            self._seen = found
        elif found != self._seen:
            # The file may be half written: check again after another debounce.
            self._seen = found
            self._hints.bell.set()
        else:
            self._applied = found
            self._config.on_change()


def _survived(look: Callable[[], object]) -> object:
    """Return the result of `look`; log an exception and return None."""
    try:
        return look()
    except Exception:
        # Sweeps must continue after a bug in one of them.
        log.exception("the watcher failed to handle a change")
        return None


def _job_of(name: str) -> str | None:
    try:
        return job_of(name)
    except ValueError:  # not a journal's name
        return None


def _identity(folder: Path) -> tuple[int, int] | None:
    try:
        stat = folder.stat()
    except OSError:
        return None
    return stat.st_dev, stat.st_ino
