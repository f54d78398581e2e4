"""What can go wrong: one class per decision that a caller can make.

Every error carries a stable ``code`` for programs and one clear line for people.  Each
is also the built-in exception that older callers already catch.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


_MAX_NAMED = 5


def _shown(text: str) -> str:
    """Return `text` so that a message with it stays one line."""
    return text if text.isprintable() else repr(text)


def _revived(kind: type[MilepostError], args: tuple[Any, ...]) -> MilepostError:
    """Return an error as it was, for `pickle` and `copy`, without its `__init__`."""
    made = kind.__new__(kind)
    made.args = args
    return made


class MilepostError(Exception):
    """Root of every error that Milepost raises on purpose.

    Attributes:
        code: stable and machine-readable; the HTTP API and ``--json`` repeat it.
        hint: what to do about it, where that is not obvious from the text.
    """

    code: ClassVar[str] = "error"

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        if hint is not None:
            self.add_note(f"hint: {hint}")  # a traceback shows it

    def __reduce__(self) -> tuple[Any, ...]:
        # Subclasses are made from other arguments than those that exceptions keep.
        return _revived, (type(self), self.args), self.__dict__

    def __str__(self) -> str:
        return self.message

    @property
    def details(self) -> dict[str, str | None]:
        """What a program may want to know besides the code; mostly nothing."""
        return {}


class InvalidArgument(MilepostError, ValueError):
    """An id, a name or a number is out of bounds; nothing was done."""

    code = "invalid_argument"


class InvalidState(MilepostError, ValueError):
    """A state would not come back as it was saved; nothing was written.

    Attributes:
        path: where in the state, as ``$.plan.deadline`` or ``$.items[3]``.
    """

    code = "invalid_state"

    def __init__(self, path: str, problem: str, *, hint: str | None = None) -> None:
        super().__init__(f"{path}: {problem}", hint=hint)
        self.path = path


class StateTooLarge(InvalidState):
    """A state is larger or nested deeper than the settings allow."""

    code = "state_too_large"


class UnknownCheckpoint(MilepostError, FileNotFoundError):
    """No such checkpoint, or it was deleted: then it says when and by whom."""

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
    """Checkpoints of a job are in plain files, which have to be imported first.

    On purpose none of the errors that older callers catch: they would begin anew.
    """

    code = "not_imported"

    def __init__(self, job_ids: Sequence[str], root: Path) -> None:
        more = len(job_ids) - _MAX_NAMED
        named = ", ".join(map(repr, job_ids[:_MAX_NAMED])) + f" and {more} more" * (
            more > 0
        )
        where = shlex.quote(str(root))
        super().__init__(
            f"{where} holds checkpoint files of job {named}, which are not in the "
            f"store: run `milepost import files {where} --store {where}`",
            hint="or move the folder away, if the job is to begin anew",
        )


class Conflict(MilepostError, ValueError):
    """Somebody else was first: read again, then decide again."""

    code = "conflict"


class StalePlan(Conflict):
    """A job moved on since the plan was made; nothing of it was removed."""

    code = "stale_plan"

    def __init__(self, message: str) -> None:
        super().__init__(message, hint="plan again")


class ConfirmationRequired(Conflict):
    """The plan removes so much that somebody should say yes; nothing was removed."""

    code = "confirmation_required"


class ClockJumped(MilepostError):
    """The clock is far ahead of all that is known; nothing was removed by its word."""

    code = "clock_jump"


class Protected(MilepostError, ValueError):
    """The checkpoint is pinned; nothing was removed."""

    code = "protected"


class OnHold(Protected):
    """The checkpoint is held, so nothing removes it, not even force.

    Attributes:
        checkpoint_id: which.
        held_by: the actor who holds it.
        held_since: when the hold began, as ISO 8601 UTC.
        reason: why, if that was said.
    """

    code = "held"

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

    @property
    def details(self) -> dict[str, str | None]:
        """Which checkpoint, and who holds it since when and why."""
        return {
            "checkpoint_id": self.checkpoint_id,
            "held_by": self.held_by,
            "held_since": self.held_since,
            "reason": self.reason,
        }


class DamagedJournal(MilepostError, ValueError):
    """A journal is not what was written: this job is quarantined until repaired.

    Attributes:
        job_id: the job; other jobs go on.
        line: 1-based number of the first bad line, 0 if the file itself is missing.
        offset: byte offset of that line in the journal.
        expected: what should stand there.
        found: what stands there.
    """

    code = "damaged"

    def __init__(
        self, job_id: str, *, line: int, offset: int, expected: str, found: str
    ) -> None:
        super().__init__(
            f"job {job_id!r} is damaged at line {line}, byte {offset}: "
            f"expected {expected}, found {found}",
            hint="other jobs go on; `milepost doctor` says what is safe, "
            f"`milepost repair {shlex.quote(job_id)} --dry-run` what can be done",
        )
        self.job_id = job_id
        self.line = line
        self.offset = offset
        self.expected = expected
        self.found = found


class LossNotAccepted(MilepostError, ValueError):
    """A repair would give up what was acknowledged, and nobody has accepted that."""

    code = "loss_not_accepted"


class CannotRepair(MilepostError, ValueError):
    """This is not for a repair to change: a person has to act; nothing was changed."""

    code = "cannot_repair"


class UnreadableState(MilepostError, ValueError):
    """The state of this one checkpoint cannot be trusted; no older one is given."""

    code = "unreadable"


class MissingKey(UnreadableState):
    """A state is encrypted with a key that is not at hand; it says which.

    Attributes:
        key_id: that key.
    """

    code = "missing_key"

    def __init__(self, message: str, key_id: str) -> None:
        super().__init__(message, hint=f"add key {key_id!r} (docs/encryption.md)")
        self.key_id = key_id


class PlaintextRefused(UnreadableState):
    """A state is not encrypted though there are keys: who put it there?"""

    code = "plaintext_refused"

    def __init__(self, message: str) -> None:
        super().__init__(
            message,
            hint="if it is from before the store had keys, allow_plaintext reads it",
        )


class StateOverBound(UnreadableState):
    """A stored state is larger than this process may read; none of it was."""

    code = "state_over_bound"

    def __init__(self, message: str) -> None:
        super().__init__(message, hint="raise max_state_bytes ([store] max_state)")


class KeyNeeded(MilepostError, ValueError):
    """The store is encrypted and there is no key to write with; nothing was written."""

    code = "key_needed"


class DroppedKey(MilepostError, ValueError):
    """The key was dropped from this store: nothing is written with it any more.

    Attributes:
        key_id: that key.
    """

    code = "dropped_key"

    def __init__(self, key_id: str) -> None:
        super().__init__(
            f"key {key_id!r} was dropped from this store; nothing was written",
            hint="start this process again, with the keys that are current now "
            "(store.key_file, MILEPOST_KEYS or keys=)",
        )
        self.key_id = key_id


class UnusableKeys(MilepostError, ValueError):
    """The keys cannot be used: absent, open to others, or not keys at all."""

    code = "unusable_keys"


class NewerFormat(MilepostError, ValueError):
    """A newer Milepost wrote here; this one does not guess what it meant."""

    code = "newer_format"


class MigrationFailed(MilepostError, ValueError):
    """A registered migration broke on this state; nothing was recorded.

    Attributes:
        workflow: whose migration.
        from_version: that it migrates from.
        to_version: that it migrates to.
        checkpoint_id: whose state.
    """

    code = "migration_failed"

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
            hint="the stored state is untouched; correct the migration",
        )
        self.workflow = workflow
        self.from_version = from_version
        self.to_version = to_version
        self.checkpoint_id = checkpoint_id

    @property
    def details(self) -> dict[str, str | None]:
        """Which migration, and of which checkpoint's state."""
        return {
            "workflow": self.workflow,
            "from_version": self.from_version,
            "to_version": self.to_version,
            "checkpoint_id": self.checkpoint_id,
        }


class NoMigration(MilepostError, ValueError):
    """No registered migration leads from this state's version to the newest.

    Attributes:
        workflow: whose state.
        version: what it was saved with.
        known: the versions that the workflow's migrations know.
        checkpoint_id: whose state.
    """

    code = "no_migration"
    _problem: ClassVar[str] = "no migration leads on from that"
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

    @property
    def details(self) -> dict[str, str | None]:
        """Which workflow and version, and of which checkpoint."""
        return {
            "workflow": self.workflow,
            "version": self.version,
            "checkpoint_id": self.checkpoint_id,
        }


class NewerState(NoMigration):
    """This state was saved by a newer version of its workflow than the code knows."""

    code = "newer_state"
    _problem = "that is newer than this program"
    _hint = "upgrade the program, or restore an older checkpoint"


class NestedCall(MilepostError, RuntimeError):
    """A call inside another call of its thread was refused; nothing was done.

    A signal handler, a destructor or a callback made it while the other one held what
    it needs.
    """

    code = "nested_call"

    @classmethod
    def inside(cls) -> NestedCall:
        """Return the error for a call that was made inside another one."""
        return cls(
            "called inside another call of the same thread, from a signal handler, "
            "a destructor or a callback; nothing was done",
            hint="set a flag or raise in the handler, and save in the main loop "
            "(docs/jobs.md)",
        )


class StorageFailed(MilepostError, OSError):
    """The storage said no.  Unless a subclass says otherwise, stop writing."""

    code = "storage_failed"

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        MilepostError.__init__(self, message, hint=hint)


class NoSpace(StorageFailed):
    """The disk is full; nothing was written, and what was there is intact."""

    code = "no_space"


class ReadOnlyStore(StorageFailed):
    """The folder cannot be written; nothing was changed."""

    code = "read_only"


class LockTimeout(StorageFailed):
    """Another process held the job's lock for longer than the limit."""

    code = "locked"


class UnsupportedFolder(StorageFailed):
    """The folder cannot hold a store: file locks or syncs mean nothing there."""

    code = "unsupported_folder"
