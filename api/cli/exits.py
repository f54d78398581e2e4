"""Exit codes, and the one mapping from error codes to them.

Scripts rely on both, so a code never changes its meaning.  An error code that is not
in the table exits with 1.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping


class Exit(IntEnum):
    """The exit codes of the command line."""

    OK = 0
    ERROR = 1
    USAGE = 2
    PARTLY_DONE = 3
    NOT_FOUND = 4
    CONFLICT = 5
    PROTECTED = 6
    DAMAGED = 7
    NOTHING = 8
    WAITING = 9
    NO_STORE = 10
    LOCKED = 11
    INTERRUPTED = 130


EXIT_OF_CODE = {
    "usage": Exit.USAGE,
    "invalid_argument": Exit.USAGE,
    "partly_done": Exit.PARTLY_DONE,
    "not_found": Exit.NOT_FOUND,
    "no_checkpoint": Exit.NOT_FOUND,
    "unknown_execution": Exit.NOT_FOUND,
    "unknown_approval": Exit.NOT_FOUND,
    "conflict": Exit.CONFLICT,
    "wrong_kind": Exit.CONFLICT,
    "stale_plan": Exit.CONFLICT,
    "job_running": Exit.CONFLICT,
    "lease_live": Exit.CONFLICT,
    "lease_lost": Exit.CONFLICT,
    "illegal_transition": Exit.CONFLICT,
    "execution_final": Exit.CONFLICT,
    "execution_paused": Exit.CONFLICT,
    "approval_pending": Exit.CONFLICT,
    "approval_decided": Exit.CONFLICT,
    "stale_subject": Exit.CONFLICT,
    "protected": Exit.PROTECTED,
    "held": Exit.PROTECTED,
    "not_allowed": Exit.PROTECTED,
    # Not a conflict: a script that plans again and retries would never succeed.
    "confirmation_required": Exit.PROTECTED,
    "clock_jump": Exit.PROTECTED,
    "damaged": Exit.DAMAGED,
    "unreadable": Exit.DAMAGED,
    "needs_repair": Exit.DAMAGED,
    "loss_not_accepted": Exit.DAMAGED,
    "plaintext_refused": Exit.DAMAGED,
    "nothing_to_do": Exit.NOTHING,
    "execution_waiting": Exit.WAITING,
    "no_store": Exit.NO_STORE,
    "not_imported": Exit.NO_STORE,
    "locked": Exit.LOCKED,
    "interrupted": Exit.INTERRUPTED,
    # Plain failures, listed to show that they are not forgotten.
    "config": Exit.ERROR,
    "internal": Exit.ERROR,
    "step_failed": Exit.ERROR,
    "step_uncertain": Exit.ERROR,
    "steps_changed": Exit.ERROR,
    "rejected": Exit.ERROR,
    "expired": Exit.ERROR,
    "unusable_keys": Exit.ERROR,
    "missing_key": Exit.ERROR,
    "state_over_bound": Exit.ERROR,
    "key_needed": Exit.ERROR,
    "nested_call": Exit.ERROR,
    "dropped_key": Exit.ERROR,
    "invalid_state": Exit.ERROR,
    "state_too_large": Exit.ERROR,
    "newer_format": Exit.ERROR,
    "cannot_repair": Exit.ERROR,
    "newer_state": Exit.ERROR,
    "no_migration": Exit.ERROR,
    "migration_failed": Exit.ERROR,
    "storage_failed": Exit.ERROR,
    "no_space": Exit.ERROR,
    "read_only": Exit.ERROR,
    "unsupported_folder": Exit.ERROR,
    "io_failed": Exit.ERROR,
    "cannot_listen": Exit.ERROR,
    "executor_unusable": Exit.ERROR,
    "function_unusable": Exit.ERROR,
    "executor_failed": Exit.ERROR,
    "execution_failed": Exit.ERROR,
    "execution_cancelled": Exit.ERROR,
    "execution_interrupted": Exit.ERROR,
}


class Problem(NamedTuple):
    """The reason that an answer is not a plain success; `details` are for programs."""

    code: str
    message: str
    hint: str | None = None
    details: Mapping[str, str | None] | None = None

    @property
    def exit(self) -> Exit:
        """The exit code of the error code."""
        return EXIT_OF_CODE.get(self.code, Exit.ERROR)


class Failure(Exception):
    """A command failed.  Carries the `Problem` to report."""

    def __init__(self, code: str, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.problem = Problem(code, message, hint)
