"""Read-only checks of a store's settings, worker and keys."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from milepost.journal.errors import MilepostError
from milepost.journal.reading.store_check import Finding
from milepost.journal.wording import needing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime
    from pathlib import Path

    from milepost.api.cli.context import Frame
    from milepost.journal.crypto.keys import KeyRing
    from milepost.journal.manager import CheckpointManager
    from milepost.journal.recovery.diagnosis import Diagnosis
    from milepost.worker.config.settings import Settings, WorkerSettings
    from milepost.worker.status import TaskStatus

_RUNS = 3
_CLOCK_HINT = "if the time is right: milepost worker task --trust-clock"


class Surroundings:
    """The settings of a store, as far as they can be read.

    Raises:
        ConfigError: the setting of the store's folder is wrong.
    """

    def __init__(self, frame: Frame) -> None:
        from milepost.api.cli.stores import config_path, environment
        from milepost.worker.config import files
        from milepost.worker.config.settings import load_keys

        self._settings: Settings | None = None
        self._problems: list[MilepostError] = []
        self._keys: KeyRing | None = None
        path, environ = config_path(frame.config), environment(frame.store)
        try:
            self._settings = frame.settings()
        except MilepostError as exc:
            self._problems.append(exc)
            self.root: Path = files.store_root(path, environ=environ)
            return
        self.root = self._settings.store.root
        try:
            self._keys = load_keys(self._settings.store, environ=environ)
        except MilepostError as exc:
            self._problems.append(exc)

    def open(self) -> CheckpointManager:
        """Open the store with the available keys."""
        from milepost.journal.manager import CheckpointManager

        allow = self._settings is not None and self._settings.store.allow_plaintext
        return CheckpointManager(self.root, keys=self._keys, allow_plaintext=allow)

    def settings_findings(self) -> Iterator[Finding]:
        """Yield the problems of the settings, or that there are none."""
        for problem in self._problems:
            yield Finding(problem.code, False, str(problem), problem.hint)
        if self._settings is not None:
            file = self._settings.file
            yield Finding("config", True, f"{file or 'no config file'}")

    def keys(self, found: list[Diagnosis]) -> Iterator[Finding]:
        """Yield the keys that states need."""
        needed: Counter[str] = Counter()
        for each in found:
            needed.update(dict(each.keys))
        for key_id, count in sorted(needed.items()):
            states = f"{needing(count)} it"
            if self._keys is not None and self._keys.get(key_id) is not None:
                yield Finding("key", True, f"key {key_id!r} is available, and {states}")
            else:
                what = f"key {key_id!r} is missing, and {states}"
                yield Finding("missing_key", False, what, "see docs/encryption.md")

    def worker(self) -> list[Finding]:
        """Return the active worker, the last runs and the due tasks."""
        from milepost.journal.clock import utc_now
        from milepost.journal.storage.files.storage import FileStorage
        from milepost.worker.config.settings import WorkerSettings
        from milepost.worker.status import stored_status

        now = utc_now()
        table = WorkerSettings() if self._settings is None else self._settings.worker
        status = stored_status(FileStorage(self.root), table, now)
        pid = status.leader_pid
        who = "no worker is running" if pid is None else f"process {pid} is the worker"
        found = [Finding("leader", True, who)]
        if status.problem is not None:
            hint = "remove records/last-runs; the next run writes a new one"
            found.append(Finding("last_runs", False, status.problem, hint))
        if status.clock_jump is not None:
            found.append(Finding("clock_jump", False, "the clock jumped", _CLOCK_HINT))
        found += [_last_run(task) for task in status.tasks if task.last is not None]
        if self._settings is not None:
            found += [self._schedule(table, now), self._watcher(table)]
        return found

    @staticmethod
    def _schedule(table: WorkerSettings, now: datetime) -> Finding:
        from milepost.worker.config.settings import NEVER
        from milepost.worker.schedule.scheduler import coming, read_schedule

        if table.cleanup == NEVER:
            return Finding("schedule", True, "cleanup is off")
        runs = coming(read_schedule(table.cleanup, table.timezone), now, _RUNS)
        when = ", ".join(f"{run:%Y-%m-%d %H:%M}Z" for run in runs)
        return Finding("schedule", True, f"cleanup {table.cleanup!r}: next {when}")

    def _watcher(self, table: WorkerSettings) -> Finding:
        from milepost.worker.watcher import kind_to_be_had

        kind = kind_to_be_had(self.root / "journals", table.watcher)
        fell_back = kind == "poll" and table.watcher != "poll"
        hint = "raise fs.inotify.max_user_instances or max_user_watches"
        note = f"changes are noticed by {kind}, and a sweep"
        return Finding("watcher", True, note, hint if fell_back else None)


def orphaned_executions(
    manager: CheckpointManager, found: list[Diagnosis]
) -> Iterator[Finding]:
    """Yield the executions that lost their process unnoticed.

    A worker would notice them at once.  Only sound jobs are read: reading another one
    may recover it.
    """
    from milepost.api.cli.workflows import is_orphan
    from milepost.worker.status import LEASE, leader_pid

    if leader_pid(manager.storage.lease(LEASE)) is not None:
        return
    sound = [each.job_id for each in found if each.verdict.value == "sound"]
    try:
        listed = [
            e for j in sound for e in manager.list_executions("interrupted", job_id=j)
        ]
    except MilepostError:
        return  # of the store, whose own check reports it
    for each in filter(is_orphan, listed):
        name, job_id = each["execution_id"], each["correlation_id"]
        what = f"execution {name} of job {job_id} lost its process"
        hint = f"start `milepost worker`, or milepost execution cancel {name}"
        yield Finding("orphaned", True, f"{what}; no worker recorded that", hint)


def _last_run(task: TaskStatus) -> Finding:
    last = task.last
    assert last is not None
    did = f"{task.name} ran at {last.at:%Y-%m-%d %H:%M:%S}Z: {last.outcome}"
    parts = [did, *filter(None, (last.line, last.error))]
    ok = last.outcome not in {"failed", "partly"}
    return Finding("last_run", ok, ", ".join(parts))
