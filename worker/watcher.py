"""Noticing what other processes did to the store, and edits of the config file.

The one door to watchdog.  It loses events (20,000 new files were reported as 7,930) and
goes silent for ever when a watched folder is replaced, so events are only hints; the
sweep, which looks at everything every few seconds, is the guarantee.

| seen | done |
|---|---|
| an event on a journal | a debounce later, all jobs with events are looked at |
| `sweep_seconds` have passed | all jobs are looked at, whatever was reported |
| any event beside the config file | the file is looked at: editors rename, links move |
| the file is new, and the same a debounce later | it is told: no half-written file |
| a folder was replaced, or its watch died | watched anew, and all jobs looked at |
| inotify has no room | polling, and `kind` says so |
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
# A sweep that took long puts the next one off, so that sweeping costs a tenth of a core
# even in a store where one takes longer than `sweep_seconds`.
REST_FACTOR = 9
MAX_REST_SECONDS = 30.0

# Our own reads open and close files all the time; the kernel needn't tell us.
_CHANGES: list[type[FileSystemEvent]] = [
    DirDeletedEvent,
    DirMovedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileModifiedEvent,
    FileMovedEvent,
]

log = logging.getLogger("milepost.worker")


class Pace(NamedTuple):
    """How the watcher looks; may change while it runs."""

    mode: Mode = "auto"
    sweep_seconds: float = 5.0
    debounce_seconds: float = 0.1


class ConfigWatch(NamedTuple):
    """The config file to watch, and what it looked like when it was last read."""

    path: Path
    signature: Signature | None
    on_change: Callable[[], None]


class Hints:
    """What watchdog's threads tell the watcher's own: names and a bell, no more."""

    def __init__(self) -> None:
        self.bell = threading.Event()
        self._lock = threading.Lock()
        self._jobs: set[str] | None = set()

    def add(self, path: str) -> None:
        """Note a change of the file at `path` and ring."""
        name = Path(path).name
        if name.endswith(".jsonl"):
            job_id = _job_of(name.removesuffix(".jsonl"))
            with self._lock:
                # None is "any": a name that can't be read back, or too many.
                if job_id is None or self._jobs is None or len(self._jobs) > MAX_HINTS:
                    self._jobs = None
                else:
                    self._jobs.add(job_id)
        self.bell.set()

    def take(self) -> set[str] | None:
        """Return the jobs that were hinted at since the last call, None for any."""
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
    """One watchdog observer on a few folders, armed again whenever one is replaced."""

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
            # Not at the top: where there is no inotify, importing it raises.
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
        log.warning("watching by polling, inotify is not to be had: %s", reason)
        self.close()
        self._open_polling()

    def rearm(self) -> bool:
        """Watch every folder that is there; return whether one had to be armed.

        What happened in it before that went unseen.
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
            return False  # gone again; the next sweep looks once more
        if self.kind == "poll":
            log.warning("cannot watch %s, only sweeping it: %s", folder, refusal)
            return False
        self._fall_back(refusal)
        return self.rearm()

    def _is_live(self, watch: _Watch) -> bool:
        # A deleted folder ends its emitter.  The folder made next may well get the
        # same inode number, so identity alone would not show it.
        assert self._observer is not None, "only an observer has watches"
        return any(
            emitter.watch == watch.handle and emitter.is_alive()
            for emitter in self._observer.emitters
        )

    def close(self) -> None:
        """Stop watching; returns when the observer's threads have ended."""
        observer, self._observer = self._observer, None
        self._watches.clear()
        self.kind = "off"
        if observer is not None:
            observer.stop()
            observer.join()


def kind_to_be_had(folder: Path, mode: Mode) -> Kind:
    """Return what a watcher of `folder` would watch with, by trying it."""
    eyes = Eyes([folder], Hints(), mode)
    try:
        eyes.rearm()
        return eyes.kind
    finally:
        eyes.close()


class Watcher:
    """A thread that calls back when journals or the config file have changed.

    `on_jobs` gets the ids that were hinted at, or None for "look at all"; it must not
    raise for a single bad job.  Both callbacks run in the watcher's thread.
    """

    def __init__(
        self,
        journals: Path | None,
        on_jobs: Callable[[set[str] | None], object],
        *,
        config: ConfigWatch | None = None,
        pace: Pace | None = None,
    ) -> None:
        self._journals = journals
        self._on_jobs = on_jobs
        self._config = config
        self._applied = self._seen = config.signature if config else None
        self._pace = pace or Pace()
        self._hints = Hints()
        self._eyes: Eyes | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=self._run, name="milepost-watcher", daemon=True
        )

    @property
    def kind(self) -> Kind:
        """How changes are noticed now, beside the sweep."""
        eyes = self._eyes
        return "off" if eyes is None else eyes.kind

    def start(self) -> None:
        """Start watching."""
        self._thread.start()

    def stop(self, timeout_seconds: float) -> bool:
        """Stop; return whether the thread ended in time."""
        self._stop.set()
        self._hints.bell.set()
        if self._thread.ident is not None:
            self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    def set_pace(self, pace: Pace) -> None:
        """Look at another pace from now on; call from its own callbacks only."""
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
        """Wait for a hint or the sweep, look, rest; return when the next sweep is."""
        if self._hints.bell.wait(max(0.0, next_sweep - time.monotonic())):
            self._settle()
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
            # However much is written, half a core is left for answers.
            self._stop.wait(min(ended - began, self._pace.debounce_seconds))
            return next_sweep
        rest = min(REST_FACTOR * (ended - began), MAX_REST_SECONDS)
        return max(began + self._pace.sweep_seconds, ended + rest)

    def _settle(self) -> None:
        """Let more hints come for the debounce; what comes later rings again.

        Not until it is quiet: in a busy store it never is.
        """
        self._stop.wait(self._pace.debounce_seconds)
        self._hints.bell.clear()

    def _look_at_config(self) -> None:
        assert self._config is not None, "asked only where there is a file"
        found = files.signature(self._config.path)
        if found == self._applied:
            self._seen = found
        elif found != self._seen:
            # An editor may be half way through.  Ringing brings us back here after
            # one more debounce.
            self._seen = found
            self._hints.bell.set()
        else:
            self._applied = found
            self._config.on_change()


def _survived(look: Callable[[], object]) -> object:
    """Return what `look` returns; None if it raised, which ends no watcher."""
    try:
        return look()
    except Exception:
        # The sweep is a guarantee: a bug in one look must not end all later ones.
        log.exception("the watcher stumbled")
        return None


def _job_of(name: str) -> str | None:
    try:
        return job_of(name)
    except ValueError:  # bytes that are no text: no name of ours
        return None


def _identity(folder: Path) -> tuple[int, int] | None:
    try:
        stat = folder.stat()
    except OSError:
        return None
    return stat.st_dev, stat.st_ino
