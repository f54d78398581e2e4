"""The public facade: save, list, restore, delete, clean up, query.

Each method makes one call.  Decisions under a job's lock are in `commands`, queries are
in `reading`.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, overload

from milepost.journal import ids
from milepost.journal.arguments import check_methods, checked, id_of
from milepost.journal.batch import Batch
from milepost.journal.clock import stamp, utc_now
from milepost.journal.commands import (
    applying,
    cleanup,
    completion,
    erasure,
    marks,
    removal,
    restoring,
    saving,
)
from milepost.journal.commands.appending import Appended, Log
from milepost.journal.commands.approvals import GATE, Ballot, Terms
from milepost.journal.commands.executions import End, Workflow
from milepost.journal.commands.requests import Request
from milepost.journal.errors import InvalidArgument
from milepost.journal.execution_models import Restored
from milepost.journal.process.graceful import graceful
from milepost.journal.process.mutex import Mutex
from milepost.journal.reading import audit, passes, planning, queries
from milepost.journal.reading import executions as execution_queries
from milepost.journal.reading.reader import Reader
from milepost.journal.states import diff as state_diff
from milepost.journal.states import json_states
from milepost.journal.states.access import Vault
from milepost.journal.states.json_states import Limits
from milepost.journal.states.packer import Codec, Packer
from milepost.journal.storage.files.storage import FileStorage
from milepost.journal.store.compaction import Compaction, Threshold
from milepost.journal.store.store import Store
from milepost.journal.threads import Threads
from milepost.journal.workflow.attempts import TTL_SECONDS, Attempts
from milepost.journal.workflow.calls import Calls
from milepost.journal.workflow.course import (
    Exhausted,
    Options,
    Surroundings,
    open_course,
)
from milepost.journal.workflow.engine import Engine, Tenure
from milepost.journal.workflow.triggers import CheckpointTrigger, Rule

if TYPE_CHECKING:
    import builtins
    from collections.abc import Collection, Iterator, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager, AbstractContextManager
    from datetime import datetime

    from milepost.journal.crypto.keys import KeyRing
    from milepost.journal.events.vocabulary import Event
    from milepost.journal.execution_models import (
        ApprovalInfo,
        CheckpointExecution,
        CheckpointState,
        Continuation,
        LeaseInfo,
        LiveStep,
        Outcome,
        StepRecord,
        WorkflowExecution,
    )
    from milepost.journal.importing.importing import Imported
    from milepost.journal.models import Checkpoint, CheckpointInfo, JobInfo, JobReport
    from milepost.journal.process.graceful import Stop
    from milepost.journal.recovery.diagnosis import Diagnosis
    from milepost.journal.recovery.steps import Repair
    from milepost.journal.retention.decisions import Ruling
    from milepost.journal.retention.plans import Applied, CleanedJob, JobPlan, Plan
    from milepost.journal.retention.policies import Policies
    from milepost.journal.retention.policy import Policy
    from milepost.journal.states.diff import Change
    from milepost.journal.states.migrations import Migrate
    from milepost.journal.states.types import Types
    from milepost.journal.storage.contract import OnPiece, Storage
    from milepost.journal.storage.files.folders import Durability
    from milepost.journal.storage.files.storage import Sharing
    from milepost.journal.store.clock_guard import ClockGuard
    from milepost.journal.store.clock_watch import ClockJump
    from milepost.journal.workflow.async_run import AsyncRun
    from milepost.journal.workflow.functions import WorkflowFunction
    from milepost.journal.workflow.run import Run

_T = TypeVar("_T")
_D = TypeVar("_D")
DEFAULT_FOLDER = "checkpoints"

# How far the clock may be ahead of the expected time, and how long the machine may have
# been off, before removals by age stop; see `clock_guard`.
MAX_CLOCK_JUMP_SECONDS = 3600.0
MAX_DOWNTIME_SECONDS = 30 * 86_400.0


@check_methods
class CheckpointManager:
    """Manages the checkpoints of jobs in a folder, or in another storage.

    Safe for many threads, and for many processes of one machine on one folder.
    Construction creates the folder if possible; otherwise the first write reports why
    not.  Nothing else is read or created before the first call.

    Calls that change a job take an `idempotency_key`.  A repeat within 24 hours, by any
    process, with the same key and arguments (`actor` does not count) records nothing
    and returns what the first call returned; the key with other arguments is refused.
    A call that changes nothing records no key.  `save` has other rules for its keys.

    Args:
        root: the folder, ``./checkpoints`` by default.  `storage_dir` and
            `storage_path` are synonyms; the latter wins if both are given.
        storage: used instead of a folder.
        durability: ``always``: acknowledged writes survive a power cut.  ``interval``:
            they do after `interval_seconds`.  ``never``: the operating system decides.
        interval_seconds: see `durability`.
        max_state_bytes: limit of a state's JSON, for saves and reads.
        max_depth: levels of nesting in a state, at most 250.
        lock_timeout_seconds: how long to wait for another process that writes to a job.
        trash_seconds: how long a deleted checkpoint can be undeleted.
        policies: the retention policies of jobs, applied only by `plan` and `apply`.
            By default everything is kept.
        codec: how new states are stored.  ``auto``: as a delta to an earlier state if
            that is shorter; ``zstd``: compressed, each on its own; ``json``: verbatim.
            States of every codec are readable.
        keys: encrypt states and metadata with the current key; read with any.
        allow_plaintext: with `keys`, also read states that are not encrypted.
        types: the types that states may have besides plain JSON, for `save`, for every
            call that returns a state, and for durable steps.  By default, states are
            plain JSON, and durable steps have the built-in types.
        shared: who may use a folder that is created here: ``private``: its owner;
            ``group``: also the folder's group, as far as the umask allows.
        actor: the actor in the journal; ``lib:<program>@<host>`` by default.
        clock: returns the current time.

    Raises:
        InvalidArgument: an argument has the wrong type or is out of bounds, or two
            arguments exclude each other.
    """

    @checked
    def __init__(
        self,
        root: str | Path | None = None,
        *,
        storage_dir: str | Path | None = None,
        storage_path: str | Path | None = None,
        storage: Storage | None = None,
        durability: Durability = "always",
        interval_seconds: float = 0.2,
        max_state_bytes: int = 16 * 1024 * 1024,
        max_depth: int = 200,
        lock_timeout_seconds: float = 30.0,
        trash_seconds: float = 7 * 86400.0,
        policies: Policies | None = None,
        codec: Codec = "auto",
        keys: KeyRing | None = None,
        allow_plaintext: bool = False,
        types: Types | None = None,
        shared: Sharing = "private",
        actor: str | None = None,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        folder = _folder(root, storage_dir, storage_path, storage)
        if durability not in ("always", "interval", "never"):
            raise InvalidArgument(
                f"durability must be always, interval or never, got {durability!r}"
            )
        if shared not in ("private", "group"):
            raise InvalidArgument(f"shared must be private or group, got {shared!r}")
        if codec not in ("auto", "json", "zstd"):
            raise InvalidArgument(f"codec must be auto, json or zstd, got {codec!r}")
        if not 1 <= max_depth <= json_states.DEPTH_LIMIT:
            raise InvalidArgument(
                f"max_depth must be 1 to {json_states.DEPTH_LIMIT}, got {max_depth!r}"
            )
        self.root = self.storage_dir = self.storage_path = folder
        self.trash_seconds = trash_seconds
        self.max_clock_jump_seconds = MAX_CLOCK_JUMP_SECONDS
        self.max_downtime_seconds = MAX_DOWNTIME_SECONDS
        self._clock_guard: ClockGuard | None = None
        self._policies = policies
        self._actor = _default_actor() if actor is None else actor
        ids.check_label("actor", self._actor)
        self._clock = clock
        if storage is None:
            assert folder is not None
            storage = FileStorage(
                folder,
                durability=durability,
                interval_seconds=interval_seconds,
                lock_timeout_seconds=lock_timeout_seconds,
                shared=shared,
            )
            storage.make_root()
        self._store = Store(storage, clock)
        vault = Vault(keys, allow_plaintext, max_state_bytes)
        self._store.key_id = vault.key_id
        self._reader = Reader(
            self._store, vault, Limits(max_state_bytes, max_depth), folder, types
        )
        self._packer = Packer(codec, vault.key_id, self._reader.recent)
        attempts = Attempts(storage)
        #: What the worker does for workflows; other callers use the methods here.
        self.workflows = Calls(Engine(self._reader, self._packer, attempts))
        #: The threads of LangGraph, for `milepost.langgraph`.
        self.threads = Threads(
            self._reader, self._packer, self._who, lambda: self.trash_seconds
        )
        self._registering = Mutex()

    @property
    def policies(self) -> Policies:
        """The retention policies of jobs."""
        if self._policies is None:
            from milepost.journal.retention.policies import (
                Policies,  # imported late: rarely needed
            )

            self._policies = Policies()
        return self._policies

    @policies.setter
    def policies(self, policies: Policies) -> None:
        self._policies = policies

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def storage(self) -> Storage:
        """The storage of the journals, and of the records and leases of the store."""
        return self._store.storage

    @property
    def clock_guard(self) -> ClockGuard:
        """The guard that checks the clock before removals by age."""
        if self._clock_guard is None:
            from milepost.journal.store.clock_guard import guard_of

            self._clock_guard = guard_of(self.storage, self.event_times, self._clock)
        return self._clock_guard

    @clock_guard.setter
    def clock_guard(self, guard: ClockGuard) -> None:
        self._clock_guard = guard

    def event_times(self) -> Iterator[datetime]:
        """Yield the time of each job's last write, from its journal."""
        return self._reader.event_times()

    def close(self) -> None:
        """Sync pending writes, give up leases, close every file.  Idempotent."""
        self.workflows.close()
        self._store.close()
        self._reader.recent.forget()

    def graceful(self, *, grace_seconds: float = 10.0) -> AbstractContextManager[Stop]:
        """Return a block in which SIGTERM and SIGINT ask the job to stop.

            with manager.graceful() as stop:
                while not stop and more_to_do(state):
                    state = next_step(state)
                manager.save(job_id, "end", state)
            raise SystemExit(stop.exit_code)

        A signal sets `stop`, and the block goes on.  It ends once the triggers of the
        signal have saved and every acknowledged save is durable, in any durability
        mode; then the earlier handlers are back.  A second SIGINT raises
        ``KeyboardInterrupt``.  A signal that was ignored before stays ignored, and a
        handler of your own is called too.  In nested blocks every `stop` is set.  In a
        forked child the earlier handlers apply.

        Args:
            grace_seconds: the time between the signal and SIGKILL, for
                `stop.seconds_left`.  The default is that of Docker, the shortest of
                common supervisors.

        Raises:
            InvalidArgument: it is not the main thread, or the time is not positive.
            StorageFailed: at the end of the block, saves cannot be made durable.
        """
        return graceful(grace_seconds, self._end_gracefully)

    def _end_gracefully(self, stop: Stop) -> None:
        try:
            if stop.signal is not None:
                self.workflows.stop(stop.signal)
        finally:
            self.storage.flush()

    # -- writes ------------------------------------------------------------------------

    def save(
        self,
        job_id: str,
        step_name: str,
        state: Mapping[str, Any],
        *,
        metadata: Mapping[str, Any] | None = None,
        tags: Sequence[str] = (),
        pinned: bool = False,
        failed: bool = False,
        workflow_name: str | None = None,
        workflow_version: str | None = None,
        actor: str | None = None,
        idempotency_key: str | None = None,
        expected_seq: int | None = None,
        types: Types | None = None,
    ) -> str:
        """Save `state` as a new checkpoint, make it current, and return its id.

        Returns once the checkpoint is durable.  The first save creates the job.

        Args:
            job_id: 1 to 512 bytes of printable text.
            step_name: 1 to 512 bytes; part of the id, made safe for a URL.
            state: a dict of plain JSON values, and of values that `types` has.
            metadata: a dict of plain JSON values, at most 64 KiB, shown by `list`.
            tags: labels for policies and searches.
            pinned: no policy removes it.
            failed: the step failed; policies treat failed checkpoints separately.
            workflow_name: recorded.
            workflow_version: recorded; ``"1.0"`` by default.
            actor: the actor of this save, instead of the manager's.
            idempotency_key: names this save within its job.  The key refers to its
                checkpoint as long as that is live and is `current` or one of its
                ancestors: until then the same call returns the first id and saves
                nothing, and a call with other content (anything but `actor` and
                `expected_seq`) is refused.  Once the checkpoint is deleted, cleaned up,
                purged or abandoned by a restore, the next call is a new save, which
                takes over the key permanently.  A fork starts without keys.
            expected_seq: refuse if the job is at another seq; 0: the job must be new.
            types: the types of values that are not plain JSON, instead of the
                manager's (docs/types.md).

        Raises:
            InvalidArgument: an id, a name or a label is out of bounds.
            InvalidState: the state would not round-trip; names the path.
            Conflict: `expected_seq` is stale, or `idempotency_key` refers to a
                checkpoint with other content.
            NotImported: the job's checkpoints are in plain files; see `import_files`.
            DamagedJournal: the job is quarantined.
            StorageFailed: an I/O error; see its subclasses.
        """
        fields = saving.Fields(
            step_name,
            tags,
            workflow_name,
            workflow_version,
            idempotency_key,
            pinned,
            failed,
        )
        draft = saving.draft_of(
            self._reader, self._packer, job_id, fields, state, metadata, types
        )
        decide = partial(
            saving.save,
            draft=draft,
            packer=self._packer,
            is_saved_as=self._reader.is_saved_as,
            actor=self._who(actor),
            expected_seq=expected_seq,
        )
        self._refuse_new(job_id, expected_seq)
        saved: saving.Saved = self._store.write(job_id, decide, is_shared=True)
        return saving.remember(self._packer, draft, saved)

    def append(
        self,
        job_id: str,
        entries: Sequence[Mapping[str, Any]],
        *,
        key: str | None = None,
        step_name: str = "append",
        metadata: Mapping[str, Any] | None = None,
        actor: str | None = None,
        expected_seq: int | None = None,
    ) -> Appended:
        """Append entries to a log, in one durable write.

        A log is a job that holds entries instead of states; the first append makes it.
        An append is a checkpoint: lists, deletions, pins, holds, restores and policies
        treat it as a unit (docs/logs.md).

        Args:
            job_id: the log.
            entries: dicts of plain JSON values, and of values that the manager's types
                have.  Without any, nothing is recorded.
            key: the field that names an entry.  An entry whose field is text and equals
                that of an entry of the log is left out; so an append can be repeated.
            step_name: the step of the checkpoint.
            metadata: of the checkpoint, as in `save`.
            actor: who appends, instead of the manager's actor.
            expected_seq: refuse if the job is at another seq; 0: the log must be new.

        Raises:
            WrongKind: the job holds something else.
            Conflict: `expected_seq` is stale; unless no entry is new.
            InvalidState: an entry would not round-trip; names the path.
            InvalidArgument, DamagedJournal, StorageFailed: as `save`.
        """
        log = self._log(ids.check_job_id(job_id), actor)
        self._refuse_new(job_id, expected_seq)
        return log.append(
            entries, key, saving.Fields(step_name), metadata, expected_seq
        )

    def pop(
        self,
        job_id: str,
        *,
        actor: str | None = None,
        expected_seq: int | None = None,
    ) -> dict[str, Any] | None:
        """Remove the last entry of a log and return it; None if there is none.

        One write deletes its append, and saves the other entries of that append again,
        if it has any.

        Raises:
            WrongKind: the job holds something else.
            Conflict: `expected_seq` is stale.
            Protected, OnHold: its append is pinned, or held.
            DamagedJournal, StorageFailed: as `save`.
        """
        return self._log(job_id, actor).pop(expected_seq)

    def clear(
        self,
        job_id: str,
        *,
        reason: str | None = None,
        actor: str | None = None,
        expected_seq: int | None = None,
    ) -> int:
        """Delete every append of a log in one write; return how many.

        They can be undeleted until the trash period ends.  An unknown log has none.

        Raises:
            WrongKind, Conflict, DamagedJournal, StorageFailed: as `pop`.
            Protected, OnHold: an append is pinned or held; nothing was deleted.
        """
        decide = partial(
            self._log(job_id, actor).clear,
            reason=reason,
            trash_seconds=self.trash_seconds,
            expected_seq=expected_seq,
        )
        return self._change(job_id, decide, unknown=0, removes=True)

    def _log(self, job_id: str, actor: str | None) -> Log:
        return Log(self._reader, self._packer, job_id, self._who(actor))

    def restore(
        self,
        job_id: str,
        checkpoint_id: str | CheckpointInfo,
        *,
        actor: str | None = None,
        expected_seq: int | None = None,
        idempotency_key: str | None = None,
        on_restored: Callable[[], object] | None = None,
        types: Types | None = None,
    ) -> dict[str, Any]:
        """Return a checkpoint's state, make it current and record the restore.

        The next save becomes its child; later checkpoints are kept.  `get` returns a
        state without either.  A state of an older workflow version is migrated if
        migrations are registered; the event records both versions.

        Args:
            job_id: the job.
            checkpoint_id: the checkpoint.
            actor: the actor of the restore, instead of the manager's.
            expected_seq: refuse if the job is at another seq.
            idempotency_key: a repeat returns the state and records nothing.
            on_restored: called once the restore is recorded, never for a repeat.
            types: the types that the state was saved with, instead of the manager's.

        Raises:
            UnknownCheckpoint: (a FileNotFoundError) it does not exist, or was deleted.
            UnreadableState: (a ValueError) its bytes differ from what was saved, or
                `types` cannot decode it; nothing was recorded.
            NewerState: (a ValueError) a newer version of its workflow saved it.
            NoMigration: (a ValueError) no migration starts from its version.
            MigrationFailed: (a ValueError) a migration raised or returned an invalid
                state.
            DamagedJournal: (a ValueError) the job is quarantined.
            Conflict: `expected_seq` is stale, or `idempotency_key` stands for another
                request.
            LeaseLive: (a ValueError) another process runs an execution of the job.
            StorageFailed: the restore could not be recorded.
        """
        checkpoint_id, starts = id_of(checkpoint_id), on_restored is not None
        state, done = self._restore(
            job_id,
            checkpoint_id,
            types,
            is_resumed=False,
            actor=actor,
            expected_seq=expected_seq,
            request=Request.of(
                idempotency_key, "restore", checkpoint_id, expected_seq, starts
            ),
        )
        if done is not None and on_restored is not None:
            on_restored()
        return state

    def resume_from(
        self,
        job_id: str,
        checkpoint_id: str | CheckpointInfo,
        *,
        actor: str | None = None,
        expected_seq: int | None = None,
        idempotency_key: str | None = None,
        on_restored: Callable[[Restored], object] | None = None,
        types: Types | None = None,
    ) -> Restored:
        """Restore a checkpoint, and let its execution go on from it if possible.

        From the latest checkpoint of an interrupted, failed or cancelled execution,
        that execution goes on; from an older one, or one of a completed execution, a
        new execution branches.  It is pending afterwards, in one write with the
        restore.  If the execution waits, or runs in this process, nothing goes on.

        Args:
            job_id: the job.
            checkpoint_id: the checkpoint.
            actor: the actor of the restore, instead of the manager's.
            expected_seq: refuse if the job is at another seq.
            idempotency_key: a repeat records nothing and returns the same.
            on_restored: called once all is recorded, never for a repeat, and only if
                something goes on.
            types: the types that the state was saved with, instead of the manager's.

        Raises:
            As `restore`.
        """
        checkpoint_id = id_of(checkpoint_id)
        request = Request.of(
            idempotency_key, "restore", checkpoint_id, expected_seq, True
        )
        state, done = self._restore(
            job_id,
            checkpoint_id,
            types,
            is_resumed=True,
            actor=actor,
            expected_seq=expected_seq,
            request=request,
        )
        if done is None:
            events = self.history(job_id, idempotency_key=idempotency_key)
            done = restoring.continued(self._reader.view(job_id), events)
            return Restored(state, done)
        restored = Restored(state, done)
        if on_restored is not None and done.why_not is None:
            on_restored(restored)
        return restored

    def _restore(
        self,
        job_id: str,
        checkpoint_id: str,
        types: Types | None,
        *,
        is_resumed: bool,
        actor: str | None,
        expected_seq: int | None,
        request: Request,
    ) -> tuple[dict[str, Any], Continuation | None]:
        migrated, state = queries.restorable(self._reader, job_id, checkpoint_id, types)
        done = self.workflows.restored(
            job_id,
            checkpoint_id,
            migrated,
            is_resumed=is_resumed,
            actor=self._who(actor),
            expected_seq=expected_seq,
            request=request,
        )
        return state, done

    def fork(
        self,
        job_id: str,
        checkpoint_id: str | CheckpointInfo,
        new_job_id: str,
        *,
        actor: str | None = None,
    ) -> str:
        """Start a new job with a copy of a checkpoint; return the copy's id.

        The source is not changed, and deleting it later does not affect the new job.
        The new job's first event records its origin.

        Raises:
            UnknownCheckpoint, UnreadableState: as `restore`.
            Conflict: `new_job_id` already exists.
            InvalidArgument, DamagedJournal, StorageFailed: as `save`.
        """
        ids.check_job_id(new_job_id)
        self._reader.existing(self._store.glance(new_job_id))
        draft, origin = saving.copy_of(
            self._reader, self._packer, job_id, id_of(checkpoint_id)
        )
        decide = partial(
            saving.fork, draft=draft, origin=origin, actor=self._who(actor)
        )
        forked: str = self._store.write(new_job_id, decide)
        return forked

    def import_files(
        self,
        folder: str | Path,
        *,
        dry_run: bool = False,
        actor: str | None = None,
    ) -> Imported:
        """Import a folder with one JSON file per checkpoint; the files are not changed.

        The files are ``<job>/<step>_<unix seconds>_<8 characters>.json``.  Checkpoints
        keep their ids, times, steps, workflow versions and states.  Each follows the
        one before it in time, so the newest of a job becomes current, unless the job's
        current checkpoint is newer.  An import can be repeated: checkpoints that
        already exist, or were deleted since, are not imported again.

        Args:
            folder: the folder of all jobs, or of one; may be the store's own folder.
            dry_run: only report what would be imported.
            actor: the actor of the import, instead of the manager's.

        Raises:
            InvalidArgument: `folder` is not a folder.
            StorageFailed: a write failed; repeat the import, nothing is imported twice.
        """
        from milepost.journal.importing import importing  # imported late: rarely needed

        importer = importing.Importer(
            self._store,
            self._packer,
            self._reader.vault,
            self._reader.limits,
            self._reader.is_saved_as,
            self._who(actor),
            dry_run=dry_run,
        )
        return importer.run(Path(folder))

    def complete(
        self,
        job_id: str,
        *,
        failed: bool = False,
        reason: str | None = None,
        actor: str | None = None,
        expected_seq: int | None = None,
        idempotency_key: str | None = None,
    ) -> bool:
        """Mark the job as completed; return False if there is no such job.

        Its policy for completed jobs applies from now on, if it has one.  A later save
        or restore reopens the job.

        Args:
            job_id: the job.
            failed: the job failed.
            reason: recorded.
            actor: the actor of the completion, instead of the manager's.
            expected_seq: refuse if the job is at another seq.
            idempotency_key: a repeat records nothing and returns True.

        Raises:
            Conflict: `expected_seq` is stale, or `idempotency_key` stands for another
                request.
            DamagedJournal, StorageFailed: as `save`.
        """
        decide = partial(
            completion.complete,
            failed=failed,
            reason=reason,
            actor=self._who(actor),
            expected_seq=expected_seq,
            request=Request.of(
                idempotency_key, "complete", failed, reason, expected_seq
            ),
        )
        return self._change(job_id, decide, unknown=False)

    def pin(
        self,
        job_id: str,
        checkpoint_id: str | CheckpointInfo,
        *,
        actor: str | None = None,
        reason: str | None = None,
        expected_seq: int | None = None,
        idempotency_key: str | None = None,
    ) -> bool:
        """Protect a checkpoint from every policy; return False if it already is.

        A repeat with the same `idempotency_key` changes nothing and returns True.

        Raises:
            UnknownCheckpoint: it does not exist, or was deleted.
            Conflict: `expected_seq` is stale, or `idempotency_key` stands for another
                request.
            DamagedJournal, StorageFailed: as `save`.
        """
        return self._mark(
            "pin",
            job_id,
            checkpoint_id,
            actor,
            reason,
            expected_seq,
            idempotency_key,
        )

    def unpin(
        self,
        job_id: str,
        checkpoint_id: str | CheckpointInfo,
        *,
        actor: str | None = None,
        reason: str | None = None,
        expected_seq: int | None = None,
        idempotency_key: str | None = None,
    ) -> bool:
        """Remove a pin; return False if there is none.

        A repeat with the same `idempotency_key` changes nothing and returns True.

        Raises:
            UnknownCheckpoint: it does not exist, or was deleted.
            Conflict: `expected_seq` is stale, or `idempotency_key` stands for another
                request.
            DamagedJournal, StorageFailed: as `save`.
        """
        return self._mark(
            "unpin",
            job_id,
            checkpoint_id,
            actor,
            reason,
            expected_seq,
            idempotency_key,
        )

    def hold(
        self,
        job_id: str,
        checkpoint_id: str | CheckpointInfo,
        *,
        reason: str | None = None,
        actor: str | None = None,
        expected_seq: int | None = None,
        idempotency_key: str | None = None,
    ) -> bool:
        """Place a legal hold on a checkpoint; return False if it already is held.

        No policy and no `cleanup`, `delete` or `erase` removes it until `release`, not
        even with force.  The journal records the actor, time and reason; a second hold
        does not change them.

        A repeat with the same `idempotency_key` changes nothing and returns True.

        Raises:
            UnknownCheckpoint: it does not exist, or was deleted.
            Conflict: `expected_seq` is stale, or `idempotency_key` stands for another
                request.
            DamagedJournal, StorageFailed: as `save`.
        """
        return self._mark(
            "hold",
            job_id,
            checkpoint_id,
            actor,
            reason,
            expected_seq,
            idempotency_key,
        )

    def release(
        self,
        job_id: str,
        checkpoint_id: str | CheckpointInfo,
        *,
        reason: str | None = None,
        actor: str | None = None,
        expected_seq: int | None = None,
        idempotency_key: str | None = None,
    ) -> bool:
        """End a hold, also one of another actor; return False if there is none.

        A repeat with the same `idempotency_key` changes nothing and returns True.

        Raises:
            UnknownCheckpoint: it does not exist, or was deleted.
            Conflict: `expected_seq` is stale, or `idempotency_key` stands for another
                request.
            DamagedJournal, StorageFailed: as `save`.
        """
        return self._mark(
            "release",
            job_id,
            checkpoint_id,
            actor,
            reason,
            expected_seq,
            idempotency_key,
        )

    def delete(
        self,
        job_id: str,
        checkpoint_id: str | CheckpointInfo,
        *,
        actor: str | None = None,
        reason: str | None = None,
        force: bool = False,
        purge: bool = False,
        expected_seq: int | None = None,
        idempotency_key: str | None = None,
    ) -> bool:
        """Delete a checkpoint; return False if there is none.

        It disappears from lists immediately and can be undeleted until the trash period
        ends.  Its events stay.  If it was current, its nearest remaining ancestor
        becomes current, or else the newest checkpoint; the event records which.

        Args:
            job_id: the job.
            checkpoint_id: the checkpoint.
            actor: the actor of the deletion, instead of the manager's.
            reason: recorded.
            force: delete it even if it is pinned.
            purge: erase its state immediately and permanently, also if it was deleted
                before.
            expected_seq: refuse if the job is at another seq.
            idempotency_key: a repeat records nothing and returns True; with `purge` it
                finishes the erasure.

        Raises:
            OnHold: (a Protected) it is held; `force` does not override this.
            Protected: it is pinned, and `force` was not given.
            Conflict: `expected_seq` is stale; `idempotency_key` stands for another
                request; or, with `purge`, another compaction did not finish in
                time: the checkpoint is deleted, and the next compaction erases its
                state.
            DamagedJournal, StorageFailed: as `save`.
        """
        checkpoint_id = id_of(checkpoint_id)
        given = checkpoint_id, reason, force, purge, expected_seq
        decide = partial(
            removal.delete,
            checkpoint_id=checkpoint_id,
            actor=self._who(actor),
            reason=reason,
            force=force,
            purge=purge,
            expected_seq=expected_seq,
            request=Request.of(idempotency_key, "delete", *given),
        )
        is_done = self._change(job_id, decide, unknown=False, removes=True)
        if is_done and purge:
            self._erase_states(job_id, actor)
        return is_done

    def undelete(
        self,
        job_id: str,
        checkpoint_id: str | CheckpointInfo,
        *,
        actor: str | None = None,
        expected_seq: int | None = None,
        idempotency_key: str | None = None,
    ) -> bool:
        """Restore a deleted checkpoint; return False if it was not deleted.

        A repeat with the same `idempotency_key` changes nothing and returns True.

        Raises:
            Conflict: its trash period has ended, it was purged or its state is erased;
                `expected_seq` is stale; or `idempotency_key` stands for another
                request.
            UnreadableState: its state is damaged.
            DamagedJournal, StorageFailed: as `save`.
        """
        checkpoint_id = id_of(checkpoint_id)
        request = Request.of(idempotency_key, "undelete", checkpoint_id, expected_seq)
        refuse = partial(
            removal.refuse_erased, self._store.history, checkpoint_id, request
        )
        self._reader.answer(job_id, refuse)
        decide = partial(
            removal.undelete,
            checkpoint_id=checkpoint_id,
            actor=self._who(actor),
            trash_seconds=self.trash_seconds,
            expected_seq=expected_seq,
            problem_of=self._reader.problem_of,
            request=request,
        )
        return self._change(job_id, decide, unknown=False)

    def cleanup(
        self,
        job_id: str,
        keep_last: int = 10,
        *,
        actor: str | None = None,
        expected_seq: int | None = None,
        plan_id: str | None = None,
        as_of: datetime | None = None,
        idempotency_key: str | None = None,
    ) -> int:
        """Delete all but the newest `keep_last`; return how many were deleted.

        Exactly `keep_last` remain of those that are neither pinned nor held, failed
        ones included; pinned and held ones are kept in addition.  If the current one is
        deleted, its nearest remaining ancestor becomes current, or else the newest
        checkpoint; the event records which.  `plan_cleanup` is the dry run.

        Args:
            job_id: the job.
            keep_last: how many remain.
            actor: the actor of the cleanup, instead of the manager's.
            expected_seq: refuse if the job is at another seq.
            plan_id: refuse to delete other checkpoints than this plan of
                `plan_cleanup`; needs `as_of`.
            as_of: the time of that plan, at most one hour ago.
            idempotency_key: a repeat deletes nothing and returns the same number.

        Raises:
            InvalidArgument: `keep_last` is not a whole number of at least 1; or `as_of`
                is in the future, or given without `plan_id`.
            StalePlan: the plan would delete other checkpoints now, or is too old.
            Conflict: `expected_seq` is stale, or `idempotency_key` stands for another
                request.
            DamagedJournal, StorageFailed: as `save`.
        """
        policy = planning.cleanup_policy(keep_last)
        seen = plan_id, as_of and stamp(as_of)
        request = Request.of(idempotency_key, "cleanup", keep_last, expected_seq, *seen)
        decide = partial(
            cleanup.cleanup,
            plan_of=partial(planning.cleanup_plan, self._reader, policy),
            actor=self._who(actor),
            trash_seconds=self.trash_seconds,
            expected_seq=expected_seq,
            shown=cleanup.Shown.of(plan_id, as_of),
            request=request,
        )
        nothing: int | None = 0
        removed = self._change(job_id, decide, unknown=nothing, removes=True)
        return applying.removed(self._reader, job_id, request, removed, self._clock())

    # -- reads -------------------------------------------------------------------------

    def list(self, job_id: str) -> builtins.list[CheckpointInfo]:
        """Return the job's checkpoints, oldest first; none for an unknown job.

        Raises:
            InvalidArgument: `job_id` is out of bounds.
            NotImported: the job's checkpoints are in plain files; see `import_files`.
                All other calls about such a job raise it too.
            DamagedJournal: the job is quarantined.
        """
        return queries.live(self._reader, job_id)

    def page(
        self, job_id: str, *, limit: int, after_seq: int = 0
    ) -> builtins.list[CheckpointInfo]:
        """Return up to `limit` checkpoints saved after event `after_seq`.

        Raises:
            InvalidArgument, DamagedJournal: as `list`.
        """
        return queries.page(self._reader, job_id, limit=limit, after_seq=after_seq)

    def get(
        self,
        job_id: str,
        checkpoint_id: str | CheckpointInfo,
        *,
        types: Types | None = None,
    ) -> Checkpoint:
        """Return a checkpoint with its state; the current one does not change.

        The state is migrated to the newest version of its workflow, if migrations are
        registered; `info` describes the stored checkpoint.

        Args:
            job_id: the job.
            checkpoint_id: the checkpoint.
            types: the types that the state was saved with, instead of the manager's.

        Raises:
            UnknownCheckpoint, UnreadableState, DamagedJournal: as `restore`.
            NewerState, NoMigration, MigrationFailed: as `restore`.
        """
        return queries.get(self._reader, job_id, id_of(checkpoint_id), types)

    def states(
        self, job_id: str, *, types: Types | None = None
    ) -> Iterator[Checkpoint]:
        """Yield the job's checkpoints with their states, oldest first.

        Each state is as `get` returns it.  The journal is read in order, and a state
        that others are deltas of is decoded once.  At most 1 MiB of states, or one, is
        read ahead, and 32 MiB are kept for deltas.  No lock is held between two states:
        checkpoints that are saved or deleted meanwhile may be missing.

        Raises:
            UnreadableState and others: as `get`, when the state is reached.
        """
        return passes.states(self._reader, job_id, types)

    def entries(
        self, job_id: str, *, last: int | None = None
    ) -> builtins.list[dict[str, Any]]:
        """Return the entries of a log, oldest first; none for an unknown log.

        These are the entries of its live appends from the first one to the current one:
        after a `restore` of an append, those up to it, and what is appended later.

        Args:
            job_id: the log.
            last: only the last ones, this number; no others are read.

        Raises:
            WrongKind: the job holds something else.
            UnreadableState: an append differs from what was written.
            InvalidArgument, DamagedJournal: as `list`.
        """
        return passes.entries(self._reader, job_id, last)

    @overload
    def latest(self, job_id: str) -> CheckpointInfo | None: ...

    @overload
    def latest(
        self, job_id: str, *, with_state: Literal[True], types: Types | None = None
    ) -> Checkpoint | None: ...

    def latest(
        self, job_id: str, *, with_state: bool = False, types: Types | None = None
    ) -> CheckpointInfo | Checkpoint | None:
        """Return the newest checkpoint, None if there is none.

        Args:
            job_id: the job.
            with_state: return a `Checkpoint`, as `get` does.
            types: as in `get`.

        Raises:
            DamagedJournal: the job is quarantined; an older one is never returned.
            UnreadableState and others: with the state, as `get`.
        """
        if with_state:
            newest = attrgetter("latest")
            return queries.with_state(self._reader, job_id, newest, types)
        return queries.latest(self._reader, job_id)

    def current(self, job_id: str) -> CheckpointInfo | None:
        """Return the checkpoint that a resumed job continues from; see `load`.

        A save moves it forward, a restore moves it back.

        Raises:
            DamagedJournal: the job is quarantined.
        """
        return queries.current(self._reader, job_id)

    @overload
    def load(self, job_id: str, *, types: Types | None = None) -> dict[str, Any]: ...

    @overload
    def load(
        self, job_id: str, default: _D, *, types: Types | None = None
    ) -> dict[str, Any] | _D: ...

    def load(
        self,
        job_id: str,
        default: object = queries.NO_DEFAULT,
        *,
        types: Types | None = None,
    ) -> object:
        """Return the state of the current checkpoint, to continue from.

        Nothing is recorded.  The state is migrated as in `restore`.

        Args:
            job_id: the job.
            default: returned if the job has no checkpoint; a dict is copied.
            types: the types that the state was saved with, instead of the manager's.

        Raises:
            NoCheckpoint: (a FileNotFoundError) there is none, and no `default`.
            UnreadableState, DamagedJournal: as `restore`.
            NewerState, NoMigration, MigrationFailed: as `restore`.
        """
        return queries.load(self._reader, job_id, default, types)

    def find(self, checkpoint_id: str | CheckpointInfo) -> CheckpointInfo:
        """Return the checkpoint with this id, in any job.

        Raises:
            UnknownCheckpoint: no job has it; says when and by whom if it was deleted.
            NotImported: no job has it, but some jobs are not imported yet.
        """
        return queries.find(self._reader, id_of(checkpoint_id))

    def history(
        self,
        job_id: str,
        *,
        after_seq: int = 0,
        types: Collection[str] | None = None,
        limit: int | None = None,
        reverse: bool = False,
        idempotency_key: str | None = None,
    ) -> builtins.list[Event]:
        """Return the job's events, verified, oldest first or newest first.

        Args:
            job_id: the job; an unknown job has no events.
            after_seq: only events after this one.
            types: only events of these types.
            limit: return at most this many.
            reverse: newest first.
            idempotency_key: only the events of the request with this key, in the last
                24 hours; none for a save.

        Raises:
            DamagedJournal: the job is quarantined.
        """
        key = idempotency_key
        return queries.history(
            self._reader,
            job_id,
            after_seq=after_seq,
            types=types,
            limit=limit,
            reverse=reverse,
            request=None if key is None else (key, self._clock()),
        )

    def state_at(
        self, job_id: str, seq: int, *, types: Types | None = None
    ) -> dict[str, Any] | None:
        """Return the state that was current after event `seq`, if there was one.

        It is not migrated.

        Args:
            job_id: the job.
            seq: the event.
            types: as in `get`.

        Raises:
            InvalidArgument: there is no such event.
            UnreadableState: its bytes are missing or differ from what was saved.
            DamagedJournal: the job is quarantined.
        """
        return queries.state_at(self._reader, job_id, seq, types)

    def diff(
        self, job_id: str, a: str | CheckpointInfo, b: str | CheckpointInfo
    ) -> builtins.list[Change]:
        """Return the changes from checkpoint `a`'s state to `b`'s, as read by `get`.

        Values that are not plain JSON are compared as they are stored (docs/types.md).

        Raises:
            UnknownCheckpoint, UnreadableState, DamagedJournal: as `restore`.
        """
        from milepost.journal.states.types import AS_STORED  # imported late: large

        before, after = (self.get(job_id, one, types=AS_STORED) for one in (a, b))
        return state_diff.diff(before.state, after.state)

    def seq(self, job_id: str) -> int:
        """Return the seq of the job's last event, 0 for an unknown job.

        Raises:
            InvalidArgument, DamagedJournal: as `list`.
        """
        return self._reader.any_view(job_id).seq

    def job(self, job_id: str) -> JobInfo | None:
        """Return the summary of one job, None if it does not exist.

        Raises:
            InvalidArgument: `job_id` is out of bounds.
        """
        return queries.job(self._reader, job_id)

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
        return queries.jobs(self._reader, match=match, limit=limit, after=after)

    def job_ids(self) -> builtins.list[str]:
        """Return the ids of all jobs, sorted; faster than `jobs`, which reads journals.

        Includes jobs whose checkpoints are in plain files and not imported yet.
        """
        return self._reader.job_ids()

    def refresh(self, job_ids: Collection[str] | None = None) -> set[str]:
        """Read the latest writes of other processes; return the jobs that changed.

        Never required for correct results: every call refreshes.  It makes them faster.
        """
        return self._store.refresh(job_ids)

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
        add = self._reader.migrations.add
        self._registering.hold(
            partial(add, workflow_name, from_version, to_version, migrate)
        )

    # -- workflows ---------------------------------------------------------------------

    def start_workflow_execution(
        self,
        correlation_id: str,
        workflow_name: str,
        initial_data: Mapping[str, Any] | None = None,
        *,
        workflow_version: str | None = None,
        pending: bool = False,
        actor: str | None = None,
        idempotency_key: str | None = None,
        expected_seq: int | None = None,
    ) -> WorkflowExecution:
        """Start an execution of a workflow in a job; this process runs it.

        The returned object shows the execution as it is whenever it is read.  Its id is
        opaque; ``exec_<correlation_id>`` names the job's newest unfinished execution.

        Args:
            correlation_id: the job id.
            workflow_name: recorded.
            initial_data: a dict of plain JSON values.
            workflow_version: recorded.
            pending: no process runs it until one takes its lease.
            actor: who starts it, instead of the manager's actor.
            idempotency_key: a repeat starts nothing and returns the first one.
            expected_seq: refuse if the job is at another seq.

        Raises:
            LeaseLive: another process runs an execution of this job.
            Conflict: `expected_seq` is stale, or `idempotency_key` stands for another
                request.
            InvalidArgument, InvalidState: an argument is out of bounds.
            DamagedJournal, StorageFailed: as `save`.
        """
        workflow = Workflow(workflow_name, workflow_version)
        return self.workflows.start(
            ids.check_job_id(correlation_id),
            workflow,
            initial_data,
            actor=self._who(actor),
            is_leased=not pending,
            request=Request.of(
                idempotency_key,
                "start",
                workflow_name,
                workflow_version,
                initial_data,
                expected_seq=expected_seq,
            ),
        )

    def create_checkpoint(
        self,
        execution_id: str,
        checkpoint_name: str,
        agent_id: str,
        input_data: Mapping[str, Any] | None,
        approval_required: bool = False,
        *,
        approval: Terms | None = None,
        auto_start: bool = True,
        actor: str | None = None,
        idempotency_key: str | None = None,
        attempt: int | None = None,
    ) -> LiveStep:
        """Begin a step of an execution.

        With an approval, the execution waits for it and holds neither a process nor its
        lease meanwhile; the input is what is decided on.

        Args:
            execution_id: the execution, or ``exec_<job id>`` for the job's newest
                unfinished one.
            checkpoint_name: 1 to 512 bytes.
            agent_id: recorded; not the actor.
            input_data: a dict of plain JSON values.
            approval_required: one approval of anybody is required.
            approval: the terms of an approval, if more is required.
            auto_start: start an execution if ``exec_<job id>`` names none.
            actor: the actor of the event, instead of the manager's.
            idempotency_key: a repeat begins nothing and returns the first step.
            attempt: refuse unless this process runs this attempt.

        Raises:
            UnknownExecution: (a ValueError) there is none.
            ApprovalPending, ExecutionPaused, ExecutionFinal: (ValueErrors) it waits, or
                has ended.
            LeaseLive: (a ValueError) another process runs it.
            LeaseLost: this process ran it, and another one may run it now.
            InvalidArgument, InvalidState: an argument is out of bounds.
            DamagedJournal, StorageFailed: as `save`.
        """
        gate = approval or (GATE if approval_required else None)
        who = self._who(actor)
        if auto_start:
            self.workflows.start_if_none(execution_id, actor=who)
        return self.workflows.create(
            execution_id,
            checkpoint_name,
            agent_id,
            input_data,
            gate=gate,
            actor=who,
            request=Request.of(
                idempotency_key,
                "create",
                execution_id,
                checkpoint_name,
                agent_id,
                input_data,
                None if gate is None else gate.fields,
            ),
            attempt=attempt,
        )

    def complete_checkpoint(
        self,
        execution_id: str,
        checkpoint_name: str,
        output_data: Mapping[str, Any] | None,
        success: bool = True,
        *,
        on_step_failure: Literal["fail", "keep"] = "fail",
        actor: str | None = None,
        idempotency_key: str | None = None,
        attempt: int | None = None,
    ) -> bool:
        """End the newest open step of a name; return False if there is none.

        On success the output is saved as a checkpoint, which is current from then on.
        A step whose approval is pending is not ended: False.  A step can be ended while
        its execution is paused, so that finished work is not lost.

        Args:
            execution_id: the execution, or ``exec_<job id>``.
            checkpoint_name: the name of the step.
            output_data: a dict of plain JSON values; ``error`` of a failed step says
                why it failed.
            success: False: the step failed, and with it the execution.
            on_step_failure: ``keep``: the execution goes on after a failed step.
            actor: the actor of the event, instead of the manager's.
            idempotency_key: a repeat records nothing and returns True.
            attempt: refuse unless this process runs this attempt.

        Raises:
            ExecutionFinal, LeaseLive, LeaseLost, InvalidState, DamagedJournal,
            StorageFailed: as `create_checkpoint`.
        """
        request = Request.of(
            idempotency_key,
            "complete_checkpoint",
            execution_id,
            checkpoint_name,
            output_data,
            success,
            on_step_failure,
        )
        if success:
            return self.workflows.complete(
                execution_id,
                checkpoint_name,
                output_data,
                actor=self._who(actor),
                request=request,
                attempt=attempt,
            )
        return self.workflows.fail_step(
            execution_id,
            checkpoint_name,
            output_data,
            fails_execution=on_step_failure == "fail",
            actor=self._who(actor),
            request=request,
            attempt=attempt,
        )

    def approve_checkpoint(
        self,
        execution_id: str,
        checkpoint_name: str,
        approved: bool,
        *,
        actor: str | None = None,
    ) -> bool:
        """Decide on the newest gate of a step; return False if there is none.

        The same decision again returns True, the opposite one False.

        Raises:
            NotAllowed: (a PermissionError) the actor may not decide it.
            DamagedJournal, StorageFailed: as `save`.
        """
        return self.workflows.approve(
            execution_id, checkpoint_name, approved=approved, actor=self._who(actor)
        )

    def pause_execution(
        self,
        execution_id: str,
        checkpoint_name: str | None = None,
        *,
        reason: str | None = None,
        strict: bool = False,
        actor: str | None = None,
        idempotency_key: str | None = None,
        expected_seq: int | None = None,
    ) -> bool:
        """Pause an execution; return False if it is unknown, has ended or waits.

        The process that runs it may finish its step; the next one is refused.

        Args:
            execution_id: the execution, or ``exec_<job id>``.
            checkpoint_name: a step of it; refused if there is none of that name.
            reason: recorded.
            strict: raise instead of returning False.
            actor: who pauses it, instead of the manager's actor.
            idempotency_key: a repeat changes nothing and returns True.
            expected_seq: refuse if the job is at another seq.

        Raises:
            UnknownExecution, IllegalTransition: only if `strict`; see `errors`.
            Conflict: `expected_seq` is stale, or `idempotency_key` stands for another
                request.
            DamagedJournal, StorageFailed: as `save`.
        """
        return self.workflows.pause(
            execution_id,
            checkpoint_name,
            actor=self._who(actor),
            reason=reason,
            strict=strict,
            request=Request.of(
                idempotency_key,
                "pause",
                execution_id,
                checkpoint_name,
                reason,
                expected_seq=expected_seq,
            ),
        )

    def resume_execution(
        self,
        execution_id: str,
        *,
        retry: bool = False,
        reason: str | None = None,
        strict: bool = False,
        actor: str | None = None,
        idempotency_key: str | None = None,
        expected_seq: int | None = None,
    ) -> bool:
        """Let a paused or interrupted execution go on; return False if it is neither.

        The next process that takes its lease continues it.  While an approval is open,
        only its decision does: False.

        Args:
            execution_id: the execution, or ``exec_<job id>``.
            retry: also resume a failed or cancelled execution.
            reason: recorded.
            strict: raise instead of returning False.
            actor: who resumes it, instead of the manager's actor.
            idempotency_key: a repeat changes nothing and returns True.
            expected_seq: refuse if the job is at another seq.

        Raises:
            UnknownExecution, IllegalTransition: only if `strict`; see `errors`.
            Conflict: `expected_seq` is stale, or `idempotency_key` stands for another
                request.
            DamagedJournal, StorageFailed: as `save`.
        """
        return self.workflows.resume(
            execution_id,
            actor=self._who(actor),
            retry=retry,
            reason=reason,
            strict=strict,
            request=Request.of(
                idempotency_key,
                "resume",
                execution_id,
                retry,
                reason,
                expected_seq=expected_seq,
            ),
        )

    def workflow(
        self,
        name: str,
        *,
        version: str | None = None,
        max_attempts: int | None = None,
        on_exhausted: Exhausted = "fail",
        strict_order: bool = False,
    ) -> Callable[[Callable[..., Any]], WorkflowFunction]:
        """Return a decorator that makes a workflow from a function.

            @manager.workflow("ingest", version="3")
            def ingest(run, url):
                rows = run.step("download", download, url)
                return run.step("load", load, rows)

            manager.run(ingest, job_id="ingest-7", url="https://example.com/7.csv")

        The worker can wake it; see docs/workflows.md.

        Args:
            name: of the workflow.
            version: recorded with each execution.
            max_attempts: the worker resumes an execution no more after this number of
                attempts that ended early; by default as its configuration says.
            on_exhausted: whether a step whose tries are used up fails the execution,
                or pauses it until a person resumes it.
            strict_order: refuse other steps than an earlier attempt recorded.
        """
        from milepost.journal.workflow.functions import WorkflowFunction as Made

        options = Options.of(name, version, on_exhausted, strict_order)

        def decorate(function: Callable[..., Any]) -> WorkflowFunction:
            return Made(self.root, self._surroundings, function, options, max_attempts)

        return decorate

    def run(
        self,
        workflow: WorkflowFunction,
        *,
        job_id: str,
        actor: str | None = None,
        **input: Any,  # noqa: A002 - what it is
    ) -> Outcome:
        """Run a workflow in a job as far as it goes; return how far that was.

        Starts an execution, or continues the unfinished one of this workflow, whose
        initial data stays as it was.  Runs nothing while that one waits.

        Args:
            workflow: made by `workflow`, of this manager or another one.
            job_id: the job.
            actor: who runs it, instead of the manager's actor.
            input: the initial data of a new execution.  Its names cannot be those of
                the other arguments.

        Raises:
            LeaseLive: another process runs it, or another call of this one.
            Exception: what the workflow raised; the execution has failed.
            InvalidArgument, InvalidState, DamagedJournal, StorageFailed: as
                `start_workflow_execution`.
        """
        return workflow.run(self._surroundings(actor), ids.check_job_id(job_id), input)

    async def arun(
        self,
        workflow: WorkflowFunction,
        *,
        job_id: str,
        actor: str | None = None,
        **input: Any,  # noqa: A002 - what it is
    ) -> Outcome:
        """Run an asynchronous workflow in a job; see `run`."""
        return await workflow.arun(
            self._surroundings(actor), ids.check_job_id(job_id), input
        )

    def execution(
        self,
        name: str,
        *,
        job_id: str,
        version: str | None = None,
        input: Mapping[str, Any] | None = None,  # noqa: A002 - what it is
        on_exhausted: Exhausted = "fail",
        strict_order: bool = False,
        actor: str | None = None,
    ) -> Run:
        """Return a block that runs a workflow with durable steps, in a script.

            with manager.execution("ingest", job_id="ingest-7") as run:
                rows = run.step("download", download, url)
                run.step("load", load, rows)

        Starts an execution, or continues the unfinished one of this workflow.  The
        block ends early at a wait, with `run.status` "waiting", and the next one goes
        on.  An exception of the program fails the execution and passes on; an exit or
        Ctrl-C interrupts it, and the next block continues it.

        Args:
            name: of the workflow.
            job_id: the job.
            version: recorded with a new execution.
            input: a dict, the initial data of a new execution.
            on_exhausted: whether a step whose tries are used up fails the execution,
                or pauses it until a person resumes it.
            strict_order: refuse other steps than an earlier attempt recorded.
            actor: who runs it, instead of the manager's actor.

        Raises:
            LeaseLive: another process runs it, or another block of this one.
            InvalidArgument, InvalidState, DamagedJournal, StorageFailed: as
                `start_workflow_execution`.
        """
        from milepost.journal.workflow.run import Run as Made

        options = Options.of(name, version, on_exhausted, strict_order)
        around, job_id = self._surroundings(actor), ids.check_job_id(job_id)
        return Made(open_course(around, job_id, options, input))

    def aexecution(
        self,
        name: str,
        *,
        job_id: str,
        version: str | None = None,
        input: Mapping[str, Any] | None = None,  # noqa: A002 - what it is
        on_exhausted: Exhausted = "fail",
        strict_order: bool = False,
        actor: str | None = None,
    ) -> AbstractAsyncContextManager[AsyncRun]:
        """Return an asynchronous block with durable steps; see `execution`."""
        from milepost.journal.workflow.async_run import open_run

        options = Options.of(name, version, on_exhausted, strict_order)
        return open_run(
            self._surroundings(actor), ids.check_job_id(job_id), options, input
        )

    def _surroundings(self, actor: str | None) -> Surroundings:
        return Surroundings(
            self.workflows,
            self._durable_types(),
            self._clock,
            getattr(self._clock, "sleep", time.sleep),
            self._who(actor),
        )

    def fork_execution(
        self,
        execution_id: str,
        new_job_id: str,
        *,
        before: str | None = None,
        changes: Mapping[str, Any] | None = None,
        input: Mapping[str, Any] | None = None,  # noqa: A002 - what it is
        actor: str | None = None,
    ) -> str:
        """Start an execution of the same workflow with results of another one.

        It is pending, in one write: whatever runs it goes on at the step `before`.  The
        other execution stays as it is.  Decisions of approvals are not copied.

        Args:
            execution_id: the other execution, or ``exec_<job id>``; it may have ended.
            new_job_id: the job of the new one, which may exist.
            before: the key of the first step that is run again, with all that were
                recorded after it; by default every result is kept.
            changes: other results for steps that are kept, by key.
            input: other initial data.
            actor: who starts it, instead of the manager's actor.

        Returns:
            The id of the new execution.

        Raises:
            UnknownExecution: there is none.
            InvalidArgument: `before` has no result, or `changes` names a step that is
                not kept.
            Conflict: the new job has an unfinished execution of the workflow.
            UnreadableState: a result was purged.
            InvalidState, DamagedJournal, StorageFailed: as `save`.
        """
        from milepost.journal.workflow.forks import fork

        return fork(
            self.workflows.engine,
            execution_id,
            ids.check_job_id(new_job_id),
            before,
            changes or {},
            input,
            types=self._durable_types(),
            actor=self._who(actor),
        )

    def _durable_types(self) -> Types:
        from milepost.journal.states.types import Types  # imported late: large

        return self._reader.types or Types()

    def execution_steps(self, execution_id: str) -> builtins.list[StepRecord]:
        """Return the durable steps of an execution, oldest record first.

        Args:
            execution_id: the execution, or ``exec_<job id>``.

        Raises:
            UnknownExecution: there is none.
        """
        return self.workflows.durable_steps(execution_id)

    def execution_outcome(self, execution_id: str) -> Outcome:
        """Return how far an execution came, and its result.

        Args:
            execution_id: the execution, or ``exec_<job id>``.

        Raises:
            UnknownExecution: there is none.
            UnreadableState: its result was purged.
        """
        job_id, execution_id = self.workflows.directory.execution(execution_id)
        return self.workflows.outcome(job_id, execution_id, self._durable_types())

    def complete_execution(
        self,
        execution_id: str,
        result: Mapping[str, Any] | None = None,
        *,
        actor: str | None = None,
        idempotency_key: str | None = None,
        attempt: int | None = None,
    ) -> bool:
        """End an execution successfully; return False if it was completed before.

        Open steps are abandoned.

        Args:
            execution_id: the execution, or ``exec_<job id>``.
            result: a dict of plain JSON values.
            actor: the actor of the event, instead of the manager's.
            idempotency_key: a repeat records nothing and returns True.
            attempt: refuse unless this process runs this attempt.

        Raises:
            UnknownExecution, ApprovalPending, ExecutionPaused, ExecutionFinal,
            LeaseLive, LeaseLost, InvalidState, DamagedJournal, StorageFailed: as
                `create_checkpoint`.
        """
        payload = None
        if result is not None:
            payload = self.workflows.payload({"value": dict(result)})
        how = End("execution.completed", "complete", 0, payload=payload)
        request = Request.of(
            idempotency_key, "complete_execution", execution_id, result
        )
        return self.workflows.end(
            execution_id,
            how,
            actor=self._who(actor),
            request=request,
            attempt=attempt,
        )

    def fail_execution(
        self,
        execution_id: str,
        error: str,
        *,
        actor: str | None = None,
        idempotency_key: str | None = None,
        expected_seq: int | None = None,
    ) -> bool:
        """End an execution as failed; return False if it failed before.

        Needs no lease.  Open steps are abandoned, an open approval is withdrawn.

        Raises:
            UnknownExecution: there is none.
            ExecutionFinal: it has ended otherwise.
            Conflict: `expected_seq` is stale, or `idempotency_key` stands for another
                request.
            DamagedJournal, StorageFailed: as `save`.
        """
        data = {"error": ids.check_label("error", error), "reason": "error"}
        how = End("execution.failed", "fail", data=data)
        request = Request.of(
            idempotency_key,
            "fail_execution",
            execution_id,
            error,
            expected_seq=expected_seq,
        )
        return self.workflows.end(
            execution_id, how, actor=self._who(actor), request=request
        )

    def cancel_execution(
        self,
        execution_id: str,
        *,
        reason: str | None = None,
        actor: str | None = None,
        idempotency_key: str | None = None,
        expected_seq: int | None = None,
    ) -> bool:
        """Cancel an execution; return False if it was cancelled before.

        Needs no lease.  Open steps are abandoned, an open approval is withdrawn; the
        process that runs it is refused at its next call.

        Raises:
            UnknownExecution: there is none.
            ExecutionFinal: it has ended otherwise.
            Conflict: `expected_seq` is stale, or `idempotency_key` stands for another
                request.
            DamagedJournal, StorageFailed: as `save`.
        """
        data = {} if reason is None else {"reason": ids.check_label("reason", reason)}
        how = End("execution.cancelled", "cancel", data=data)
        request = Request.of(
            idempotency_key,
            "cancel_execution",
            execution_id,
            reason,
            expected_seq=expected_seq,
        )
        return self.workflows.end(
            execution_id, how, actor=self._who(actor), request=request
        )

    def get_execution_status(self, execution_id: str) -> dict[str, Any] | None:
        """Return the status of an execution as plain JSON, None if there is none.

        `state` is a word of older callers (running, paused, completed, failed,
        cancelled), `status` the exact one.
        """
        return self.workflows.status(execution_id)

    def list_executions(
        self,
        state_filter: str | CheckpointState | None = None,
        *,
        job_id: str | None = None,
        limit: int | None = None,
        after: str | None = None,
    ) -> builtins.list[dict[str, Any]]:
        """Return the status of executions, oldest first.

        Args:
            state_filter: only those with this `state` or `status`.
            job_id: only those of this job.
            limit: at most this many.
            after: only executions after the one with this id.

        Raises:
            InvalidArgument: there is no such state.
            UnknownExecution: `after` does not exist.
        """
        wanted = execution_queries.wanted(state_filter)
        return self.workflows.listed(wanted, job_id, limit, after)

    def get_checkpoint_history(
        self, execution_id: str
    ) -> builtins.list[dict[str, Any]]:
        """Return the steps of an execution, oldest first; empty if there is none.

        The payload of a purged state is None, and `problem` says why.
        """
        return self.workflows.history(execution_id)

    def register_checkpoint_callback(
        self, checkpoint_name: str, callback: Callable[[CheckpointExecution], object]
    ) -> None:
        """Call `callback` after a step of this name has ended, well or not.

        One per name.  It runs after the event is durable, outside all locks, in this
        process only; what it raises is logged and changes nothing.
        """
        self.workflows.on_checkpoint(checkpoint_name, callback)

    def register_approval_callback(
        self, callback: Callable[[str, CheckpointExecution], object]
    ) -> None:
        """Call ``callback(execution_id, checkpoint)`` when a step wants a decision.

        A notification only: `approvals` lists every request.  It may decide itself.
        """
        self.workflows.on_approval(callback)

    def add_trigger(self, trigger: CheckpointTrigger) -> None:
        """Save a checkpoint after every event that `trigger` names.

        It is saved in this process, after events that this manager wrote, outside all
        locks; for ``process.*``, at the end of a `graceful` block.  A checkpoint with
        the trigger's `state` becomes current if this process runs the execution; every
        other one is aside, and `load` still returns the job's own.

        A failure never fails the call that fired the trigger: it is the event
        ``trigger.failed``, and counts in ``workflows.trigger_failures``.  A trigger of
        the same name is replaced.
        """
        trash = timedelta(seconds=self.trash_seconds)
        self.workflows.add_trigger(Rule(trigger, self._actor, trash))

    def cleanup_old_executions(
        self, max_age_days: float = 30, *, actor: str | None = None
    ) -> int:
        """Remove executions that ended more than `max_age_days` ago; return how many.

        They leave the lists.  Their checkpoints go to the trash, except a job's current
        and newest one and protected ones; their events stay.

        Raises:
            DamagedJournal, StorageFailed: as `save`.
        """
        return self.workflows.clear(
            timedelta(days=max_age_days),
            timedelta(seconds=self.trash_seconds),
            actor=self._who(actor),
        )

    def acquire_lease(
        self,
        execution_id: str,
        worker: str | None = None,
        *,
        ttl: float = TTL_SECONDS,
        auto_renew: bool = True,
        idempotency_key: str | None = None,
    ) -> LeaseInfo:
        """Begin the next attempt of an execution in this process.

        The lease ends with the process, or if it is not renewed for `ttl` seconds.

        Args:
            execution_id: the execution, or ``exec_<job id>``.
            worker: who holds it, instead of the manager's actor.
            ttl: see above.
            auto_renew: a thread of this process renews it; else `heartbeat` does, for
                a caller elsewhere.
            idempotency_key: a repeat takes no lease and returns the first one.

        Raises:
            UnknownExecution: there is none.
            LeaseLive: another process has it, or this one.
            ApprovalPending, ExecutionPaused, ExecutionFinal: it waits, or has ended.
        """
        request = Request.of(idempotency_key, "lease", execution_id, ttl, auto_renew)
        tenure = Tenure(ttl, auto_renew, request)
        return self.workflows.acquire(execution_id, tenure, actor=self._who(worker))

    def heartbeat(self, lease: LeaseInfo) -> None:
        """Renew a lease.

        Raises:
            LeaseLost: another attempt may have begun.
        """
        self.workflows.heartbeat(lease)

    def release_lease(self, lease: LeaseInfo, *, actor: str | None = None) -> None:
        """Give a lease back; the execution is interrupted and can be resumed.

        Raises:
            LeaseLost: another attempt may have begun.
        """
        self.workflows.release(lease, actor=self._who(actor))

    def signal(
        self,
        execution_id: str,
        name: str,
        payload: Mapping[str, Any] | None = None,
        *,
        actor: str | None = None,
        idempotency_key: str | None = None,
        expected_seq: int | None = None,
    ) -> int:
        """Send a named message to an unfinished execution; return its seq.

        It is kept until the execution consumes it, even if it comes early.

        Raises:
            UnknownExecution: there is none.
            ExecutionFinal: it has ended.
            InvalidState, DamagedJournal, StorageFailed: as `save`.
        """
        return self.workflows.signal(
            execution_id,
            name,
            payload,
            actor=self._who(actor),
            request=Request.of(
                idempotency_key,
                "signal",
                execution_id,
                name,
                payload,
                expected_seq=expected_seq,
            ),
        )

    def consume_signal(
        self, execution_id: str, name: str, *, actor: str | None = None
    ) -> dict[str, Any] | None:
        """Consume the oldest signal of a name; return its payload, None without one.

        Raises:
            UnknownExecution, ApprovalPending, ExecutionPaused, ExecutionFinal,
            LeaseLive, LeaseLost: as `create_checkpoint`.
        """
        return self.workflows.consume(execution_id, name, actor=self._who(actor))

    def request_approval(
        self,
        execution_id: str,
        subject: Mapping[str, Any],
        *,
        approvers: Sequence[str] = (),
        required: int = 1,
        allow_self: bool = False,
        deadline: datetime | None = None,
        remind_at: datetime | None = None,
        on_timeout: Literal["reject", "fail"] = "reject",
        on_reject: Literal["wait", "fail", "continue"] = "wait",
        actor: str | None = None,
        idempotency_key: str | None = None,
        attempt: int | None = None,
    ) -> ApprovalInfo:
        """Ask people to decide on `subject`; the execution waits without a process.

        Args:
            execution_id: the execution, or ``exec_<job id>``.
            subject: a dict of plain JSON values: what is shown, and decided on.
            approvers: the actors who may decide; anybody by default.
            required: how many distinct actors must approve; one rejection ends it.
            allow_self: the actor who started the execution, or asks, may decide.
            deadline: the approval expires then; it is never given by itself.
            remind_at: a reminder is recorded then.
            on_timeout: an expired approval counts as rejected, or fails the execution.
            on_reject: the execution stays paused, fails, or goes on.
            actor: who asks, instead of the manager's actor.
            idempotency_key: a repeat asks nothing and returns the first approval.
            attempt: refuse unless this process runs this attempt.

        Raises:
            InvalidArgument: these terms cannot be met.
            UnknownExecution, ApprovalPending, ExecutionPaused, ExecutionFinal,
            LeaseLive, LeaseLost, InvalidState: as `create_checkpoint`.
        """
        terms = Terms(
            approvers, required, allow_self, deadline, remind_at, on_timeout, on_reject
        )
        return self.workflows.request_approval(
            execution_id,
            subject,
            terms,
            actor=self._who(actor),
            request=Request.of(
                idempotency_key,
                "request_approval",
                execution_id,
                subject,
                terms.fields,
            ),
            attempt=attempt,
        )

    def decide(
        self,
        approval_id: str,
        decision: Literal["approve", "reject"],
        *,
        subject_digest: str,
        comment: str | None = None,
        actor: str | None = None,
        idempotency_key: str | None = None,
        expected_seq: int | None = None,
    ) -> ApprovalInfo:
        """Approve or reject what `subject_digest` names; return the approval.

        The same decision of the same actor again changes nothing.

        Raises:
            UnknownApproval: there is none.
            StaleSubject: the digest is not that of its subject.
            ApprovalDecided: it has ended otherwise.
            NotAllowed: (a PermissionError) the actor may not decide it.
            DamagedJournal, StorageFailed: as `save`.
        """
        ballot = Ballot(decision, subject_digest, comment)
        return self.workflows.decide(
            approval_id,
            ballot,
            actor=self._who(actor),
            request=Request.of(
                idempotency_key,
                "decide",
                approval_id,
                *ballot,
                expected_seq=expected_seq,
            ),
        )

    def get_approval(self, approval_id: str) -> ApprovalInfo:
        """Return an approval with its subject.

        Raises:
            UnknownApproval: there is none.
            UnreadableState: its subject differs from what was stored.
        """
        return self.workflows.approval(approval_id)

    def approvals(
        self,
        status: str = "pending",
        *,
        job_id: str | None = None,
        approver: str | None = None,
        limit: int = 1000,
        after: str | None = None,
    ) -> builtins.list[ApprovalInfo]:
        """Return approvals without their subjects, oldest first.

        Args:
            status: ``pending``, ``approved``, ``rejected``, ``expired``, ``withdrawn``
                or ``all``.
            job_id: only those of this job.
            approver: only those that this actor may decide.
            limit: at most this many.
            after: only approvals after the one with this id.

        Raises:
            InvalidArgument: there is no such status.
            UnknownApproval: `after` does not exist.
        """
        return self.workflows.asked(status, job_id, approver, limit, after)

    def get_latest_checkpoint(self, job_id: str) -> CheckpointInfo | None:
        """Return `latest`; a name that older callers use."""
        return self.latest(job_id)

    def cleanup_job(self, job_id: str, keep_last: int = 10) -> int:
        """Return `cleanup`; a name that older callers use."""
        return self.cleanup(job_id, keep_last)

    # -- retention ---------------------------------------------------------------------

    def plan(
        self,
        jobs: str,
        policy: Policy | None = None,
        *,
        now: datetime | None = None,
        limit: int | None = None,
        max_bytes: int | None = None,
        on_progress: Callable[[int, int], None] = planning.no_progress,
    ) -> Plan:
        """Return what policies would keep and remove, with reasons; change nothing.

        The same jobs, policy and `now` give a plan with the same id in every process,
        until a job changes what the plan would remove.

        Args:
            jobs: a job's id, or else a glob such as ``"etl-*"``.  The plan of one job
                includes all kept checkpoints; that of many jobs, only jobs with
                removals.  Without a match the plan is empty.
            policy: for all of them; by default, each job's own of `policies`.
            now: the time that ages are counted from, by default the manager's clock.
            limit: remove at most this many per job, the oldest.
            max_bytes: bound on the total size of these jobs, not counting those that
                could not be planned.
            on_progress: called with the number of jobs done, and of all jobs.

        Raises:
            InvalidArgument: `jobs` is neither a job id nor a glob, or a number is
                negative.
            DamagedJournal: the one job is quarantined; of many, see `Plan.problems`.
        """
        return planning.plan(
            self._reader,
            jobs,
            self._rules(policy),
            now or self._clock(),
            limit=limit,
            max_bytes=max_bytes,
            on_progress=on_progress,
        )

    def plan_cleanup(
        self, job_id: str, keep_last: int = 10, *, limit: int | None = None
    ) -> Plan:
        """Return what `cleanup` would remove, with reasons; change nothing.

        `apply` accepts the plan, and refuses it if the job has changed too much.

        Args:
            job_id: the job; an unknown job has an empty plan.
            keep_last: as for `cleanup`.
            limit: remove at most this many, the oldest.

        Raises:
            InvalidArgument: `keep_last` is not a whole number of at least 1, or `limit`
                is negative.
            DamagedJournal: the job is quarantined.
        """
        now = self._clock()
        return planning.plan_cleanup(self._reader, job_id, keep_last, now, limit=limit)

    def apply(
        self,
        plan: Plan,
        *,
        actor: str | None = None,
        confirm: bool = False,
        trust_clock: bool = False,
        plan_id: str | None = None,
        idempotency_key: str | None = None,
    ) -> Applied:
        """Carry out `plan`; return how many checkpoints were removed.

        The plan is applied job by job, each atomically.  A job that changed since is
        decided again: if everything that the plan shows would still be kept or removed
        as shown, exactly that is removed; otherwise the job is skipped.
        `Applied.skipped` has the skipped jobs with errors.

        Args:
            plan: a result of `plan`.
            actor: the actor of the removal, instead of the manager's.
            confirm: apply a plan that requires confirmation.  Later plans of the same
                policy, of any job, do not require it again.
            trust_clock: accept the current time although the clock jumped.
            plan_id: the id of a plan that was shown, possibly by another process;
                `plan` is that plan made again, with `now` at its `as_of`, which is at
                most one hour ago.  Jobs that differ are skipped.
            idempotency_key: a repeat returns what the first call removed, and finishes
                the jobs that it did not reach.

        Raises:
            ConfirmationRequired: it requires confirmation; nothing was removed.
            ClockJumped: a policy has a `max_age`, and the clock jumped; nothing was
                removed.
            InvalidArgument: `plan` was not made by `plan`; or, with `plan_id`, its
                `as_of` is in the future.
            StalePlan: every job was skipped, the first because it changed; or, with
                `plan_id`, the plan is too old.
            Conflict: `idempotency_key` stands for another request.
            OnHold: likewise, because the plan would remove a held checkpoint.
            DamagedJournal, StorageFailed: likewise, as `save`.
        """
        shown = plan_id or plan.plan_id
        request = Request.of(idempotency_key, "apply", shown, confirm)
        rest = applying.remaining(self._reader, plan, plan_id, request, self._clock())
        applying.refuse_unconfirmed(rest.plan, confirm=confirm)
        if applying.counts_ages(rest.plan):
            self._check_clock(trust_clock=trust_clock)
        elif rest.plan.remove:
            self._look_at_clock()
        apply_one = partial(self._apply_to, rest.plan_id, self._who(actor), request)
        return applying.apply_each(rest, apply_one)

    def explain(
        self,
        job_id: str,
        checkpoint_id: str | CheckpointInfo,
        policy: Policy | None = None,
        *,
        now: datetime | None = None,
    ) -> tuple[Ruling, ...]:
        """Return the result of every rule for one checkpoint.

        Args:
            job_id: the job.
            checkpoint_id: the checkpoint.
            policy: by default, the job's own of `policies`.
            now: the time that ages are counted from, by default the manager's clock.

        Raises:
            UnknownCheckpoint: it does not exist, or was deleted.
            DamagedJournal: the job is quarantined.
        """
        return planning.explain(
            self._reader,
            job_id,
            id_of(checkpoint_id),
            self._rules(policy),
            now or self._clock(),
        )

    def idle_rules(self, job_id: str) -> tuple[str, ...]:
        """Return a line for each rule of the job's policy that matches no checkpoint.

        Such a rule keeps nothing: a `keep_best` by a metric that is text, a `keep_tags`
        with a tag that no checkpoint has.

        Raises:
            DamagedJournal: the job is quarantined.
        """
        return planning.idle(self._reader, job_id, self._rules())

    # -- maintenance -------------------------------------------------------------------

    def compact(
        self,
        job_id: str,
        *,
        actor: str | None = None,
        threshold: Threshold = erasure.ALWAYS,
        rewrap: bool = False,
        trust_clock: bool = False,
        on_piece: OnPiece | None = None,
    ) -> Compaction | None:
        """Rewrite the job's journal without the states that are due.

        These are the states of deleted checkpoints that were purged or whose trash
        period has ended, and salvaged bytes after the same period.  No event is
        removed.  Disk space is freed; other callers are blocked only briefly.

        Args:
            job_id: the job.
            actor: the actor of the compaction, instead of the manager's.
            threshold: what makes it worthwhile; by default, any state that is due.
                If no state is purged or overdue by its `erase_within_seconds`, the
                compaction only frees space, and is skipped if it frees none, because
                deltas lose their bases.
            rewrap: compact in any case, so that the current key wraps all states.
            trust_clock: accept the current time although the clock jumped.
            on_piece: called between pieces of the journal with the bytes read since the
                last call; its exceptions end the compaction without any change.

        Returns:
            The result, None if nothing was due; see `Compaction.growth_bytes` for a
            compaction that was skipped.

        Raises:
            ClockJumped: a state is due by age, and the clock jumped.
            Conflict: another compaction of the job is running.
            UnreadableState: a live state differs from what was saved.
            DamagedJournal, StorageFailed: as `save`.
        """
        if (view := self._reader.view(job_id)).seq == 0:
            return None
        due = self._aged()
        if due.counts_ages(view):
            self._check_clock(trust_clock=trust_clock)
        return erasure.compact(
            self._reader,
            job_id,
            due,
            actor=self._who(actor),
            threshold=threshold,
            rewrap=rewrap,
            on_piece=on_piece,
        )

    def erase(
        self,
        job_id: str,
        *,
        actor: str | None = None,
        reason: str | None = None,
        idempotency_key: str | None = None,
    ) -> Compaction | None:
        """Erase every state of a job immediately and permanently; its events stay.

        A repeat with the same `idempotency_key` purges no checkpoint that was saved
        since, and finishes the erasure.

        Returns:
            The result of the compaction, None for an unknown job.

        Raises:
            OnHold: one of its checkpoints is held; nothing was erased.
            Conflict: `idempotency_key` stands for another request; or another
                compaction did not finish in time: the checkpoints are deleted, and the
                next compaction erases their states.
            DamagedJournal, StorageFailed: as `save`.
        """
        request = Request.of(idempotency_key, "erase", reason)
        decide = partial(
            erasure.erase, actor=self._who(actor), reason=reason, request=request
        )
        if not self._change(job_id, decide, unknown=False):
            return None
        if (done := self._erase_states(job_id, actor)) is not None:
            return done
        size = self._reader.view(
            job_id
        ).stored_bytes  # nothing to do, or the worker was faster
        return Compaction(job_id, 0, 0, size, size)

    def verify(
        self,
        job_id: str | None = None,
        *,
        deep: bool = False,
        on_piece: OnPiece | None = None,
    ) -> builtins.list[JobReport]:
        """Verify one job or all jobs from the first byte; damage is only reported.

        Args:
            job_id: the job, or None for all.  An unknown job has no report.
            deep: also check the digest of every live state; a note counts the states
                that were not checked for lack of a key.
            on_piece: called between pieces of a journal with the bytes read since the
                last call; its exceptions end the verification.
        """
        return audit.verify(self._reader, job_id, deep=deep, on_piece=on_piece)

    def diagnose(
        self, job_id: str | None = None, *, deep: bool = False
    ) -> builtins.list[Diagnosis]:
        """Diagnose one job or all jobs: the damage, what is safe, and the remedy.

        Reads every event and changes nothing, not even a torn tail.  Problems are
        reported, not raised.

        Args:
            job_id: the job, or None for all.  An unknown job has no diagnosis.
            deep: also read every live state, not only its checksum.

        Raises:
            InvalidArgument: `job_id` is out of bounds.
            StorageFailed: the jobs cannot be listed.
        """
        repairer = self._store.storage.repairer(
            self._reader.vault, self._clock, self._who(None)
        )
        return audit.diagnose(self._reader, repairer, job_id, deep=deep)

    def repair(
        self,
        job_id: str,
        *,
        accept_loss: bool = False,
        dry_run: bool = False,
        actor: str | None = None,
    ) -> Repair:
        """Repair a job as far as possible, and journal the repair.

        Without `accept_loss`, no acknowledged event is lost: a torn tail is recovered,
        a head rebuilt, a journal rewritten after a failed sync.  With it, the journal
        is cut back to its last proven write, and the removed bytes are kept in
        ``salvage/``; checkpoints with unreadable states are deleted.

        Args:
            job_id: the job.
            accept_loss: allow the loss of acknowledged events where it is unavoidable.
            dry_run: only report what would be done; see `Repair.steps`.
            actor: the actor who accepts the loss, instead of the manager's.

        Returns:
            The diagnosis and the steps; no steps if the job is sound.

        Raises:
            InvalidArgument: there is no such job, or `job_id` is out of bounds.
            LossNotAccepted: the repair would lose acknowledged events.
            CannotRepair: the journal is another job's, or of a newer version.
            LockTimeout, NoSpace, ReadOnlyStore, StorageFailed: existing data is
                intact; try again.
        """
        repairer = self._store.storage.repairer(
            self._reader.vault, self._clock, self._who(actor)
        )
        ids.check_job_id(job_id)
        return repairer.repair(job_id, accept_loss=accept_loss, dry_run=dry_run)

    def keys_in_use(self, job_id: str | None = None) -> dict[str, int]:
        """Return the number of states under each key, by key id.

        States of deleted checkpoints count while they are stored.  States that are not
        encrypted count under an empty id.

        Args:
            job_id: the job, or None for all.

        Raises:
            DamagedJournal: a job's states cannot be counted.
            UnreadableState, NewerFormat: the key of a state cannot be determined.
        """
        return audit.keys_in_use(self._reader, job_id)

    def drop_key(self, key_id: str, *, force: bool = False) -> None:
        """Stop all processes from writing with a key, even those that have it.

        States under the key stay readable for processes that have it.

        Args:
            key_id: the key.
            force: drop the key although states need it.

        Raises:
            Protected: states need the key, which stays usable.
            LockTimeout: a running write takes too long; the key stays usable.
            DamagedJournal: a job's states cannot be counted; the key stays usable.
        """
        audit.drop_key(self._reader, key_id, force=force)

    # -- inside ----------------------------------------------------------------------

    def _who(self, actor: str | None) -> str:
        return self._actor if actor is None else ids.check_label("actor", actor)

    def _refuse_new(self, job_id: str, expected_seq: int | None) -> None:
        """Refuse a write to a new job at another seq: it must not create the job."""
        if expected_seq and (view := self._store.view(job_id)).seq == 0:
            Batch(view, self._clock()).check_seq(expected_seq)

    def _change(
        self,
        job_id: str,
        decide: Callable[[Batch], _T],
        unknown: _T,
        *,
        removes: bool = False,
    ) -> _T:
        """Write to a job that must exist; return `unknown` if it does not."""
        if self._reader.view(job_id).seq == 0:
            return unknown
        if removes:
            self._look_at_clock()
        answer: _T = self._store.write(job_id, decide)
        return answer

    def _mark(
        self,
        verb: marks.Verb,
        job_id: str,
        checkpoint_id: str | CheckpointInfo,
        actor: str | None,
        reason: str | None,
        expected_seq: int | None,
        key: str | None,
    ) -> bool:
        marked = id_of(checkpoint_id)
        request = Request.of(key, verb, marked, reason, expected_seq)
        view = self._reader.view(job_id)
        if request.key not in view.answered:
            marks.refuse_unknown(view, verb, marked)
        decide = partial(
            marks.mark,
            verb=verb,
            checkpoint_id=marked,
            actor=self._who(actor),
            reason=reason,
            expected_seq=expected_seq,
            request=request,
        )
        return self._change(job_id, decide, unknown=False)

    def _apply_to(
        self, plan_id: str, actor: str, request: Request, job: JobPlan
    ) -> CleanedJob:
        cleanup.refuse_unmade(self._reader.view(job.job_id), job, plan_id)
        decide = partial(
            cleanup.apply,
            job=job,
            plan_id=plan_id,
            actor=actor,
            trash_seconds=self.trash_seconds,
            decide=partial(planning.decide, self._reader),
            request=request,
        )
        removed: int | None = self._store.write(job.job_id, decide)
        if request.key is None and removed is not None:
            return applying.cleaned(job, removed)
        return applying.recorded(self._reader, job.job_id, request, self._clock())

    def _rules(self, policy: Policy | None = None) -> planning.Rules:
        return planning.Rules(self.policies, policy)

    def _aged(self) -> erasure.Due:
        return erasure.Due(self._clock(), self.trash_seconds)

    def _erase_states(self, job_id: str, actor: str | None) -> Compaction | None:
        # A purge does not depend on the clock; removal by age does.
        jumped = self._look_at_clock() is not None
        due = erasure.PURGED if jumped else self._aged()
        return erasure.erase_states(self._reader, job_id, due, actor=self._who(actor))

    def _look_at_clock(self) -> ClockJump | None:
        return self.clock_guard.in_force(
            self.max_clock_jump_seconds, self.max_downtime_seconds
        )

    def _check_clock(self, *, trust_clock: bool) -> None:
        self.clock_guard.check(
            self.max_clock_jump_seconds,
            self.max_downtime_seconds,
            trust_clock=trust_clock,
        )


def _folder(
    root: str | Path | None,
    storage_dir: str | Path | None,
    storage_path: str | Path | None,
    storage: Storage | None,
) -> Path | None:
    """Return the store's folder; None if a `storage` replaces it.

    Raises:
        InvalidArgument: a path has the wrong type, or the arguments exclude each other.
    """
    given = [p for p in (storage_path, storage_dir, root) if p is not None]
    if storage is not None:
        if given:
            raise InvalidArgument("give a folder or a storage, not both")
        return None
    if root is not None and storage_dir is not None:
        raise InvalidArgument(
            f"give one folder, got root {root!r:.60} and storage_dir "
            f"{storage_dir!r:.60}"
        )
    return Path(given[0] if given else DEFAULT_FOLDER)


def _default_actor() -> str:
    program = Path(sys.argv[0]).stem if sys.argv and sys.argv[0] else "python"
    return f"lib:{program}@{os.uname().nodename}"
