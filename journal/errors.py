"""The errors of Milepost: one class per decision that a caller can make.

Every error carries a stable ``code`` for programs and a one-line message.  Each is
also a built-in exception that older callers already catch.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


_MAX_NAMED = 5


def _shown(text: str) -> str:
    """Return `text` in a form that keeps a message on one line."""
    return text if text.isprintable() else repr(text)


def _revived(kind: type[MilepostError], args: tuple[Any, ...]) -> MilepostError:
    """Rebuild an error for `pickle` and `copy`, without calling its `__init__`."""
    made = kind.__new__(kind)
    made.args = args
    return made


class MilepostError(Exception):
    """Base class of all errors that Milepost raises on purpose.

    Attributes:
        code: stable and machine-readable; used by the HTTP API and ``--json``.
        hint: what to do about it, where that is not obvious from the text.
    """

    code: ClassVar[str] = "error"
    _details: ClassVar[tuple[str, ...]] = ()  # the attributes that `details` shows

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        if hint is not None:
            self.add_note(f"hint: {hint}")  # shown in tracebacks

    def __reduce__(self) -> tuple[Any, ...]:
        # Subclasses take other arguments than `args`, so `args` cannot rebuild them.
        return _revived, (type(self), self.args), self.__dict__

    def __str__(self) -> str:
        return self.message

    @property
    def details(self) -> dict[str, str | None]:
        """Fields for programs besides the code; empty for most errors."""
        return {name: getattr(self, name) for name in self._details}


class InvalidArgument(MilepostError, ValueError):
    """An id, a name or a number is out of bounds; nothing was done."""

    code = "invalid_argument"


class InvalidState(MilepostError, ValueError):
    """A state would not round-trip; nothing was written.

    Attributes:
        path: the place in the state, as ``$.plan.deadline`` or ``$.items[3]``.
    """

    code = "invalid_state"

    def __init__(self, path: str, problem: str, *, hint: str | None = None) -> None:
        super().__init__(f"{path}: {problem}", hint=hint)
        self.path = path


class StateTooLarge(InvalidState):
    """A state is larger or nested deeper than the settings allow."""

    code = "state_too_large"


class UnknownCheckpoint(MilepostError, FileNotFoundError):
    """The checkpoint does not exist, or was deleted; then says when and by whom."""

    code = "not_found"

    def __init__(
        self,
        checkpoint_id: str,
        *,
        job_id: str | None = None,
        deleted_at: str | None = None,
        deleted_by: str | None = None,
    ) -> None:
        text = f"checkpoint {checkpoint_id!r} not found"
        if job_id is not None:
            text += f" in job {job_id!r}"
        if deleted_at is not None:
            text += f": deleted at {deleted_at} by {_shown(deleted_by or '')}"
        super().__init__(text)
        self.job_id = job_id
        self.deleted_at = deleted_at
        self.deleted_by = deleted_by


class NoCheckpoint(UnknownCheckpoint):
    """The job has no checkpoint."""

    code = "no_checkpoint"

    def __init__(self, job_id: str) -> None:
        MilepostError.__init__(
            self,
            f"checkpoint not found: job {job_id!r} has none",
            hint="on the first run of a job, load its state with a default",
        )
        self.job_id = job_id
        self.deleted_at = self.deleted_by = None


class NotImported(MilepostError, RuntimeError):
    """The job's checkpoints are in plain files that must be imported first.

    Deliberately not an error that older callers catch: they would start the job over.
    """

    code = "not_imported"

    def __init__(self, job_ids: Sequence[str], root: Path) -> None:
        more = len(job_ids) - _MAX_NAMED
        named = ", ".join(map(repr, job_ids[:_MAX_NAMED])) + f" and {more} more" * (
            more > 0
        )
        where = shlex.quote(str(root))
        super().__init__(
            f"{where} has checkpoint files of job {named}, which are not in the "
            f"store: run `milepost import files {where} --store {where}`",
            hint="or move the folder away to start the job over",
        )


class Conflict(MilepostError, ValueError):
    """The job was modified concurrently; re-read and retry."""

    code = "conflict"


# What a job holds, by its kind.
_HELD = {
    "": "states",
    "log": "the entries of a log",
    "thread": "the checkpoints of a LangGraph thread",
}


class WrongKind(MilepostError, ValueError):
    """The job holds something else than what the caller writes or reads.

    Attributes:
        job_id: the job.
        kind: what it holds: `log`, `thread`, or empty for states.
        asked: what it would have to hold.
    """

    code = "wrong_kind"
    _details = ("job_id", "kind", "asked")

    def __init__(
        self, job_id: str, kind: str, asked: str, hint: str = "use another job id"
    ) -> None:
        held = _HELD.get(kind, f"{kind!r:.40}, which this version does not know")
        super().__init__(
            f"job {job_id!r} holds {held}, not {_HELD[asked]}",
            hint=hint,
        )
        self.job_id = job_id
        self.kind = kind
        self.asked = asked


class UnknownExecution(MilepostError, ValueError):
    """There is no such execution; nothing was done."""

    code = "unknown_execution"
    _details = ("execution_id",)

    def __init__(self, execution_id: str) -> None:
        super().__init__(f"execution {execution_id!r:.120} does not exist")
        self.execution_id = execution_id


class UnknownApproval(MilepostError, ValueError):
    """There is no such approval; nothing was done."""

    code = "unknown_approval"
    _details = ("approval_id",)

    def __init__(self, approval_id: str) -> None:
        super().__init__(f"approval {approval_id!r:.120} does not exist")
        self.approval_id = approval_id


class IllegalTransition(Conflict):
    """The call does not fit the state of the execution; nothing was done."""

    code = "illegal_transition"


class ExecutionFinal(IllegalTransition):
    """The execution has ended; nothing was done."""

    code = "execution_final"


class ExecutionPaused(IllegalTransition):
    """The execution is paused; nothing was done."""

    code = "execution_paused"


class ApprovalPending(IllegalTransition):
    """The execution waits for an approval; nothing was done."""

    code = "approval_pending"


class ApprovalDecided(Conflict):
    """The approval was decided otherwise, or has ended; nothing was done."""

    code = "approval_decided"


class StaleSubject(Conflict):
    """The decision names another subject than the one to decide on."""

    code = "stale_subject"


class NotAllowed(MilepostError, PermissionError):
    """This actor may not decide this approval; nothing was done."""

    code = "not_allowed"


class LeaseLive(Conflict):
    """Another process runs the execution; nothing was done.

    Attributes:
        owner: that process.
        deadline: when its lease ends unless it is renewed, as ISO 8601 UTC; None if it
            ends with the process.
    """

    code = "lease_live"
    _details = ("execution_id", "owner", "deadline")

    def __init__(self, execution_id: str, owner: str, deadline: str | None) -> None:
        until = "" if deadline is None else f", until {deadline} unless it renews"
        super().__init__(
            f"execution {execution_id!r} is run by {_shown(owner)}{until}",
            hint="wait for it to end, or stop it",
        )
        self.execution_id = execution_id
        self.owner = owner
        self.deadline = deadline


class LeaseLost(MilepostError, RuntimeError):
    """This attempt lost its lease: it must end quietly; nothing was written."""

    code = "lease_lost"
    _details = ("execution_id",)

    def __init__(self, execution_id: str, attempt: int, now: str) -> None:
        super().__init__(
            f"attempt {attempt} of execution {execution_id!r} lost its lease: {now}",
            hint="end this process; another attempt may run already",
        )
        self.execution_id = execution_id
        self.attempt = attempt


class StepUncertain(MilepostError, RuntimeError):
    """A step that must not run twice may have run; nothing was run."""

    code = "step_uncertain"
    _details = ("execution_id",)

    def __init__(self, execution_id: str, key: str, attempt: int) -> None:
        super().__init__(
            f"step {key!r} of execution {execution_id!r} may have run in attempt "
            f"{attempt}, and must not run twice",
            hint="find out, and give the step a function reconcile that says so",
        )
        self.execution_id = execution_id


class StepFailed(MilepostError, RuntimeError):
    """The last try of a step failed, or an item of a map, or a child execution."""

    code = "step_failed"


class StepsChanged(MilepostError, RuntimeError):
    """The program asks for another step than was recorded; nothing was run."""

    code = "steps_changed"


class Rejected(MilepostError, PermissionError):
    """The approval that a step asked for was not given."""

    code = "rejected"


class Expired(MilepostError, TimeoutError):
    """The approval that a step asked for was not decided before its deadline."""

    code = "expired"


class StalePlan(Conflict):
    """A job changed since the plan was made; nothing was removed from it."""

    code = "stale_plan"

    def __init__(self, message: str) -> None:
        super().__init__(message, hint="plan again")


class ConfirmationRequired(Conflict):
    """The plan exceeds the policy's removal limit; nothing was removed."""

    code = "confirmation_required"


class ClockJumped(MilepostError):
    """The clock is far ahead of the expected time; nothing was removed by age."""

    code = "clock_jump"


class Protected(MilepostError, ValueError):
    """The checkpoint is pinned; nothing was removed."""

    code = "protected"


class OnHold(Protected):
    """The checkpoint is under a legal hold; nothing removes it, not even `force`.

    Attributes:
        checkpoint_id: the held checkpoint.
        held_by: the actor who placed the hold.
        held_since: when the hold began, as ISO 8601 UTC.
        reason: the recorded reason, if there is one.
    """

    code = "held"
    _details = ("checkpoint_id", "held_by", "held_since", "reason")

    def __init__(
        self, checkpoint_id: str, *, held_by: str, held_since: str, reason: str | None
    ) -> None:
        why = "" if reason is None else f": {reason}"
        super().__init__(
            f"checkpoint {checkpoint_id!r} is held by {_shown(held_by)} since "
            f"{held_since}{_shown(why)}",
            hint="nothing removes it until it is released",
        )
        self.checkpoint_id = checkpoint_id
        self.held_by = held_by
        self.held_since = held_since
        self.reason = reason


class DamagedJournal(MilepostError, ValueError):
    """The journal differs from what was written; the job is quarantined until repaired.

    Attributes:
        job_id: the damaged job; other jobs are not affected.
        line: 1-based number of the first bad line, 0 if the file itself is missing.
        offset: byte offset of that line in the journal.
        expected: the content that belongs there.
        found: the actual content.
    """

    code = "damaged"

    def __init__(
        self, job_id: str, *, line: int, offset: int, expected: str, found: str
    ) -> None:
        super().__init__(
            f"job {job_id!r} is damaged at line {line}, byte {offset}: "
            f"expected {expected}, found {found}",
            hint="other jobs are not affected; run `milepost doctor`, then "
            f"`milepost repair {shlex.quote(job_id)} --dry-run`",
        )
        self.job_id = job_id
        self.line = line
        self.offset = offset
        self.expected = expected
        self.found = found


class LossNotAccepted(MilepostError, ValueError):
    """The repair would lose acknowledged events, and the loss was not accepted."""

    code = "loss_not_accepted"


class CannotRepair(MilepostError, ValueError):
    """No automatic repair is possible; an operator must act.  Nothing was changed."""

    code = "cannot_repair"


class UnreadableState(MilepostError, ValueError):
    """The state of this one checkpoint cannot be trusted; no older one is returned."""

    code = "unreadable"


class MissingKey(UnreadableState):
    """The state is encrypted with a key that is not in the key ring.

    Attributes:
        key_id: the missing key.
    """

    code = "missing_key"

    def __init__(self, message: str, key_id: str) -> None:
        super().__init__(message, hint=f"add key {key_id!r} (docs/encryption.md)")
        self.key_id = key_id


class PlaintextRefused(UnreadableState):
    """The state is not encrypted although the store has keys; it may be forged."""

    code = "plaintext_refused"

    def __init__(self, message: str) -> None:
        super().__init__(
            message,
            hint="set allow_plaintext to read states from before the store had keys",
        )


class StateOverBound(UnreadableState):
    """The stored state exceeds this process's size limit; it was not read."""

    code = "state_over_bound"

    def __init__(self, message: str) -> None:
        super().__init__(message, hint="raise max_state_bytes ([store] max_state)")


class KeyNeeded(MilepostError, ValueError):
    """The store is encrypted and no key is configured; nothing was written."""

    code = "key_needed"


class DroppedKey(MilepostError, ValueError):
    """The key was dropped from this store; nothing is written with it any more.

    Attributes:
        key_id: the dropped key.
    """

    code = "dropped_key"

    def __init__(self, key_id: str) -> None:
        super().__init__(
            f"key {key_id!r} was dropped from this store; nothing was written",
            hint="restart this process with the store's current keys "
            "(store.key_file, MILEPOST_KEYS or keys=)",
        )
        self.key_id = key_id


class UnusableKeys(MilepostError, ValueError):
    """The keys cannot be used: absent, readable by other users, or malformed."""

    code = "unusable_keys"


class NewerFormat(MilepostError, ValueError):
    """A newer Milepost wrote this; this version does not interpret it."""

    code = "newer_format"


class MigrationFailed(MilepostError, ValueError):
    """A registered migration failed on this state; nothing was recorded.

    Attributes:
        workflow: the workflow of the migration.
        from_version: the version that it migrates from.
        to_version: the version that it migrates to.
        checkpoint_id: the checkpoint whose state was migrated.
    """

    code = "migration_failed"
    _details = ("workflow", "from_version", "to_version", "checkpoint_id")

    def __init__(
        self,
        workflow: str,
        from_version: str,
        to_version: str,
        checkpoint_id: str,
        problem: str,
    ) -> None:
        super().__init__(
            f"the migration of {workflow!r} from {from_version!r} to {to_version!r} "
            f"failed for checkpoint {checkpoint_id!r}: {_shown(problem)}",
            hint="the stored state is unchanged; correct the migration",
        )
        self.workflow = workflow
        self.from_version = from_version
        self.to_version = to_version
        self.checkpoint_id = checkpoint_id


class NoMigration(MilepostError, ValueError):
    """No registered migration leads from this state's version to the newest.

    Attributes:
        workflow: the workflow of the state.
        version: the version that saved it.
        known: the versions covered by the workflow's migrations.
        checkpoint_id: the checkpoint of the state.
    """

    code = "no_migration"
    _details = ("workflow", "version", "checkpoint_id")
    _problem: ClassVar[str] = "no migration starts from that version"
    _hint: ClassVar[str] = "register a migration from that version"

    def __init__(
        self,
        workflow: str,
        version: str,
        known: Sequence[str],
        checkpoint_id: str,
    ) -> None:
        super().__init__(
            f"checkpoint {checkpoint_id!r} of workflow {workflow!r} was saved as "
            f"version {version!r}: {self._problem}; known are "
            + ", ".join(map(repr, known)),
            hint=self._hint,
        )
        self.workflow = workflow
        self.version = version
        self.known = tuple(known)
        self.checkpoint_id = checkpoint_id


class NewerState(NoMigration):
    """The state was saved by a newer version of its workflow than this program has."""

    code = "newer_state"
    _problem = "that is newer than this program"
    _hint = "upgrade the program, or restore an older checkpoint"


class NestedCall(MilepostError, RuntimeError):
    """A call was made inside another call of the same thread; nothing was done.

    The inner call comes from a signal handler, a destructor or a callback, and needs a
    lock that the outer one has.
    """

    code = "nested_call"

    @classmethod
    def inside(cls) -> NestedCall:
        """Return the error for a nested call."""
        return cls(
            "called inside another call of the same thread, from a signal handler, "
            "a destructor or a callback; nothing was done",
            hint="for signals use `with manager.graceful() as stop:`, and save in the "
            "main loop once `stop` is set (docs/jobs.md)",
        )


class StorageFailed(MilepostError, OSError):
    """A storage operation failed.  Unless a subclass says otherwise, stop writing."""

    code = "storage_failed"

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        MilepostError.__init__(self, message, hint=hint)


class NoSpace(StorageFailed):
    """The disk is full; nothing was written, and existing data is intact."""

    code = "no_space"


class ReadOnlyStore(StorageFailed):
    """The folder is not writable; nothing was changed."""

    code = "read_only"


class LockTimeout(StorageFailed):
    """Another process held the job's lock for longer than the limit."""

    code = "locked"


class UnsupportedFolder(StorageFailed):
    """The folder cannot contain a store: file locks or syncs do not work there."""

    code = "unsupported_folder"
