"""The read calls of the public facade; they never write to a journal."""

from __future__ import annotations

import copy
import fnmatch
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from milepost.journal import ids
from milepost.journal.arguments import id_of
from milepost.journal.clock import stamped
from milepost.journal.errors import (
    InvalidArgument,
    MilepostError,
    NestedCall,
    NoCheckpoint,
    UnknownCheckpoint,
)
from milepost.journal.models import Checkpoint, CheckpointInfo, ErrorInfo, JobInfo
from milepost.journal.process import gc_pause
from milepost.journal.reading.audit import Audit
from milepost.journal.reading.planning import Planning
from milepost.journal.reading.reader import check_limit, unknown
from milepost.journal.states import diff as state_diff

if TYPE_CHECKING:
    import builtins
    from collections.abc import Callable, Collection

    from milepost.journal.events.vocabulary import Event
    from milepost.journal.index.job_view import Entry, JobView
    from milepost.journal.states.diff import Change
    from milepost.journal.states.migrations import Migrate
    from milepost.journal.states.state_digest import DecodedState

_D = TypeVar("_D")
_RAISE = object()  # no default


class CheckpointReader(Audit, Planning):
    """Queries jobs in a folder, or in any other `Storage`.

    See `Inquiry` for its arguments.
    """

    def list(self, job_id: str) -> list[CheckpointInfo]:
        """Return the job's checkpoints, oldest first; none for an unknown job.

        Raises:
            InvalidArgument: `job_id` is out of bounds.
            NotImported: the job's checkpoints are in plain files; see `import_files`.
                All other calls about such a job raise it too.
            DamagedJournal: the job is quarantined.
        """
        return self._reader.answer(
            job_id, lambda v: self._reader.infos(v, self._store.live(v))
        )

    def get(self, job_id: str, checkpoint_id: str | CheckpointInfo) -> Checkpoint:
        """Return a checkpoint with its state; the current one does not change.

        The state is migrated to the newest version of its workflow, if migrations are
        registered; `info` describes the stored checkpoint.

        Raises:
            UnknownCheckpoint, UnreadableState, DamagedJournal: as `restore`.
            NewerState, NoMigration, MigrationFailed: as `restore`.
        """
        ask = partial(self._reader.opened, id_of(checkpoint_id))
        return self._checkpoint(*self._reader.answer(job_id, ask))

    def register_migration(
        self, workflow_name: str, from_version: str, to_version: str, migrate: Migrate
    ) -> None:
        """Register a migration that `restore` and `get` apply to older states.

        Migrations are chained, from the ``workflow_version`` that a state was saved
        with to the version that no migration starts from.  Stored states are not
        changed.  A workflow without migrations is restored as it was saved.

        Args:
            workflow_name: the name it was saved with.
            from_version: version of the states that `migrate` takes.
            to_version: version of the states that it returns.
            migrate: takes a state and returns the new one; must be a pure function.

        Raises:
            InvalidArgument: a second migration from `from_version`, a cycle, or two
                versions that no migration starts from.
        """
        add = partial(
            self._reader.migrations.add,
            workflow_name,
            from_version,
            to_version,
            migrate,
        )
        self._registering.hold(add)

    def find(self, checkpoint_id: str | CheckpointInfo) -> CheckpointInfo:
        """Return the checkpoint with this id, in any job.

        Raises:
            UnknownCheckpoint: no job has it; says when and by whom if it was deleted.
            NotImported: no job has it, but some jobs are not imported yet.
        """
        checkpoint_id = id_of(checkpoint_id)
        deleted: UnknownCheckpoint | None = None
        for job_id in self._store.known_then_all():
            try:
                view = self._store.readable(job_id)
            except MilepostError:
                continue  # damage of one job must not hide another's checkpoint
            if checkpoint_id in view.checkpoints:
                return self._reader.answer(
                    job_id, partial(self._reader.one, checkpoint_id)
                )
            if checkpoint_id in view.trash:
                deleted = unknown(view, checkpoint_id)
        for job_id in [] if deleted else self._reader.not_imported():
            self._reader.view(job_id)  # raises: the checkpoint may be in this job
        raise deleted or UnknownCheckpoint(checkpoint_id)

    @overload
    def latest(self, job_id: str) -> CheckpointInfo | None: ...

    @overload
    def latest(
        self, job_id: str, *, with_state: Literal[True]
    ) -> Checkpoint | None: ...

    def latest(
        self, job_id: str, *, with_state: bool = False
    ) -> CheckpointInfo | Checkpoint | None:
        """Return the newest checkpoint, None if there is none.

        Args:
            job_id: the job.
            with_state: return a `Checkpoint`, as `get` does.

        Raises:
            DamagedJournal: the job is quarantined; an older one is never returned.
            UnreadableState and others: with the state, as `get`.
        """
        if with_state:
            return self._with_state(job_id, lambda view: view.latest)
        return self._reader.answer(
            job_id, lambda view: self._reader.info_of(view, view.latest)
        )

    def current(self, job_id: str) -> CheckpointInfo | None:
        """Return the checkpoint that a resumed job continues from; see `load`.

        A save moves it forward, a restore moves it back.

        Raises:
            DamagedJournal: the job is quarantined.
        """
        return self._reader.answer(
            job_id, lambda view: self._reader.info_of(view, view.current)
        )

    @overload
    def load(self, job_id: str) -> dict[str, Any]: ...

    @overload
    def load(self, job_id: str, default: _D) -> dict[str, Any] | _D: ...

    def load(self, job_id: str, default: object = _RAISE) -> object:
        """Return the state of the current checkpoint, to continue from.

        Nothing is recorded.  The state is migrated as in `restore`.

        Args:
            job_id: the job.
            default: returned if the job has no checkpoint; a dict is copied.

        Raises:
            NoCheckpoint: (a FileNotFoundError) there is none, and no `default`.
            UnreadableState, DamagedJournal: as `restore`.
            NewerState, NoMigration, MigrationFailed: as `restore`.
        """
        found = self._with_state(job_id, lambda view: view.current)
        if found is not None:
            return found.state
        if default is _RAISE:
            raise NoCheckpoint(job_id)
        # The job may change the result, which must not change the caller's default.
        return copy.deepcopy(default) if isinstance(default, dict) else default

    def _with_state(
        self, job_id: str, choose: Callable[[JobView], Entry | None]
    ) -> Checkpoint | None:
        """Return the chosen checkpoint and its state, both from one view."""

        def ask(view: JobView) -> tuple[CheckpointInfo, DecodedState] | None:
            entry = choose(view)
            return (
                None
                if entry is None
                else self._reader.opened(entry.checkpoint_id, view)
            )

        found = self._reader.answer(job_id, ask)
        return None if found is None else self._checkpoint(*found)

    def _checkpoint(self, info: CheckpointInfo, opened: DecodedState) -> Checkpoint:
        return Checkpoint(info, self._reader.migrated(info, opened).state)

    def page(
        self, job_id: str, *, limit: int, after_seq: int = 0
    ) -> builtins.list[CheckpointInfo]:
        """Return up to `limit` checkpoints saved after event `after_seq`.

        Raises:
            InvalidArgument, DamagedJournal: as `list`.
        """
        check_limit(limit)

        def ask(view: JobView) -> builtins.list[CheckpointInfo]:
            later = (e for e in self._store.live(view) if e.seq > after_seq)
            return self._reader.infos(view, [*islice(later, limit)])

        return self._reader.answer(job_id, ask)

    def seq(self, job_id: str) -> int:
        """Return the seq of the job's last event, 0 for an unknown job.

        Raises:
            InvalidArgument, DamagedJournal: as `list`.
        """
        return self._reader.any_view(job_id).seq

    def jobs(
        self,
        *,
        match: str | None = None,
        limit: int | None = None,
        after: str | None = None,
    ) -> builtins.list[JobInfo]:
        """Return all jobs, sorted by id, including damaged and not imported ones.

        Args:
            match: a glob pattern for ids, case-sensitive.
            limit: return at most this many.
            after: only ids that sort after this one.
        """
        return gc_pause.at_rest(partial(self._found, match, limit, after))

    def _found(
        self, match: str | None, limit: int | None, after: str | None
    ) -> builtins.list[JobInfo]:
        found: builtins.list[JobInfo] = []
        for job_id in self._reader.job_ids():
            if after is not None and job_id <= after:
                continue
            if match is not None and not fnmatch.fnmatchcase(job_id, match):
                continue
            if limit is not None and len(found) >= limit:
                break
            info = self.job(job_id)
            if info is not None:
                found.append(info)
        return found

    def job(self, job_id: str) -> JobInfo | None:
        """Return the summary of one job, None if it does not exist.

        Raises:
            InvalidArgument: `job_id` is out of bounds.
        """
        ids.check_job_id(job_id)
        try:
            view = self._reader.view(job_id)
            return None if view.seq == 0 else _job_info(view)
        except NestedCall:
            raise  # not caused by the job
        except MilepostError as exc:
            return JobInfo(job_id, damage=ErrorInfo.of(exc))

    def history(
        self,
        job_id: str,
        *,
        after_seq: int = 0,
        types: Collection[str] | None = None,
        limit: int | None = None,
        reverse: bool = False,
    ) -> builtins.list[Event]:
        """Return the job's events, verified, oldest first or newest first.

        Args:
            job_id: the job; an unknown job has no events.
            after_seq: only events after this one.
            types: only events of these types.
            limit: return at most this many.
            reverse: newest first.

        Raises:
            DamagedJournal: the job is quarantined.
        """
        check_limit(limit)
        ids.check_job_id(job_id)
        read = self._store.newest_first if reverse else self._store.history

        def ask(view: JobView) -> builtins.list[Event]:
            events = map(_shown, read(view, after_seq))
            wanted = (e for e in events if types is None or e["type"] in types)
            return [*islice(wanted, limit)]

        return self._reader.answer(job_id, ask, self._reader.any_view)

    def state_at(self, job_id: str, seq: int) -> dict[str, Any] | None:
        """Return the state that was current after event `seq`, if there was one.

        It is not migrated.

        Raises:
            InvalidArgument: there is no such event.
            UnreadableState: its bytes are missing or differ from what was saved.
            DamagedJournal: the job is quarantined.
        """
        known = self._reader.view(job_id)
        if not 1 <= seq <= known.seq:
            raise InvalidArgument(f"job {job_id!r} has events 1 to {known.seq}: {seq}")

        def ask(_: JobView) -> dict[str, Any] | None:
            view = self._store.replay(job_id, until_seq=seq)
            if view.current is None:
                return None
            return self._reader.open(view, view.current).state

        return self._reader.answer(job_id, ask)

    def diff(
        self, job_id: str, a: str | CheckpointInfo, b: str | CheckpointInfo
    ) -> builtins.list[Change]:
        """Return the changes from checkpoint `a`'s state to `b`'s, as read by `get`.

        Raises:
            UnknownCheckpoint, UnreadableState, DamagedJournal: as `restore`.
        """
        return state_diff.diff(self.get(job_id, a).state, self.get(job_id, b).state)

    def refresh(self, job_ids: Collection[str] | None = None) -> set[str]:
        """Read the latest writes of other processes; return the jobs that changed.

        Never required for correct results: every call refreshes.  It makes them faster.
        """
        moved = set()
        for job_id in self._store.storage.job_ids() if job_ids is None else job_ids:
            before = self._store.folded_seq(job_id)
            try:
                after = self._store.view(job_id).seq
            except MilepostError:
                continue  # its readers get the error
            if after != before:
                moved.add(job_id)
        return moved


def _stamped_if(at: str | None) -> str | None:
    return None if at is None else stamped(at)


def _shown(event: Event) -> Event:
    """Return an event, not shared with other code, with its time normalized.

    Development versions before the first release wrote ``Z`` for ``+00:00``.
    """
    if isinstance(at := event["at"], str) and at.endswith("Z"):
        event["at"] = f"{at[:-1]}+00:00"
    return event


def _job_info(view: JobView) -> JobInfo:
    end = view.completion
    return JobInfo(
        view.job_id,
        view.seq,
        len(view.checkpoints),
        view.saved,
        view.deleted,
        view.restored,
        _stamped_if(view.created_at),
        _stamped_if(view.last_at),
        None if view.current is None else view.current.checkpoint_id,
        None if view.latest is None else view.latest.checkpoint_id,
        view.end,
        completed_at=_stamped_if(end and end.at),
        failed=end is not None and end.failed,
        reason=end and end.reason,
    )
