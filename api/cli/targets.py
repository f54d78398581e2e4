"""Arguments that name a job, or a checkpoint as `JOB@SELECTOR`.

A job id may contain `@`, so the *last* `@` splits; `--job ID --at SELECTOR` avoids the
split.
"""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

from milepost.api.cli.context import Frame
from milepost.api.cli.exits import Failure

if TYPE_CHECKING:
    from collections.abc import Callable

    from milepost.journal.manager import CheckpointManager

AnyFunction = TypeVar("AnyFunction", bound="Callable[..., Any]")

_MAX_COMPLETIONS = 200


class Target(NamedTuple):
    """A job and, if one was given, the selector's text."""

    job_id: str
    selector: str | None

    def __str__(self) -> str:
        return (
            self.job_id if self.selector is None else f"{self.job_id}@{self.selector}"
        )


def parse_target(text: str) -> Target:
    """Split `JOB@SELECTOR` at the last `@`.

    Raises:
        Failure: usage, if one side of the `@` is empty.
    """
    job_id, at, selector = text.rpartition("@")
    if not at:
        return Target(text, None)
    if not job_id or not selector:
        msg = f"{text!r} lacks {'a selector' if job_id else 'a job'} at its '@'"
        hint = "JOB@latest; for a job id with '@': --job ID --at SELECTOR"
        raise Failure("usage", msg, hint)
    return Target(job_id, selector)


def require_job(manager: CheckpointManager, target: Target) -> None:
    """Refuse a job that is not in the store.

    Raises:
        Failure: not_found.
    """
    if manager.seq(target.job_id):
        return
    hint = "`milepost jobs` lists them"
    if target.selector is not None and manager.seq(str(target)):
        # The whole word is a job id with an '@', where it was split.
        hint = f"for the job {str(target)!r}: --job {target} --at latest"
    raise Failure("not_found", f"no job {target.job_id!r} in {manager.root}", hint)


def complete_job(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[str]:
    """Return the job ids that begin with the typed text, for shell completion."""
    del param
    from milepost.journal.errors import MilepostError

    try:
        with ctx.ensure_object(Frame).open() as manager:
            jobs = manager.jobs()
    except (Failure, MilepostError, OSError):
        # Completion can't report errors, so it offers nothing.
        return []
    fitting = (job.job_id for job in jobs if job.job_id.startswith(incomplete))
    return list(fitting)[:_MAX_COMPLETIONS]


def job_argument(function: AnyFunction) -> AnyFunction:
    """Add JOB, which is not split at `@`."""
    return click.argument("job", shell_complete=complete_job)(function)


def target_argument(
    *, needs_selector: bool = False, before: str | None = None
) -> Callable[[AnyFunction], Callable[..., Any]]:
    """Add `JOB@SELECTOR` and its long form, passed as `target`.

    `before` names an argument that follows it.  With `--job` it is the only one.
    """

    def decorate(function: AnyFunction) -> Callable[..., Any]:
        @wraps(function)
        def with_target(
            *args: Any, word: str | None, job: str | None, at: str | None, **others: Any
        ) -> Any:
            if before is not None:
                if job is not None and others[before] is None:
                    word, others[before] = None, word
                if others[before] is None:
                    raise Failure("usage", f"missing {before.upper()}")
            target = _target(word, job, at)
            if needs_selector and target.selector is None:
                msg = f"which checkpoint of {target.job_id!r}?"
                raise Failure("usage", msg, "JOB@SELECTOR, for example JOB@latest")
            return function(*args, target=target, **others)

        described = _at_option(_job_option(with_target))
        if before is not None:
            described = click.argument(before, required=False, metavar=before.upper())(
                described
            )
        metavar = "JOB@SELECTOR" if needs_selector else "JOB[@SELECTOR]"
        argument = click.argument(
            "word", metavar=metavar, required=False, shell_complete=complete_job
        )
        return argument(described)

    return decorate


def _target(word: str | None, job: str | None, at: str | None) -> Target:
    if word is not None and job is not None:
        raise Failure("usage", f"both {word!r} and --job name a job")
    if job is not None:
        return Target(job, at)
    if word is None:
        raise Failure("usage", "which job?", "JOB@SELECTOR, or --job ID --at SELECTOR")
    if at is not None:
        raise Failure("usage", "--at goes with --job", f"--job {word} --at {at}")
    return parse_target(word)


_job_option = click.option("--job", metavar="ID", help="The job, for ids with '@'.")
_at_option = click.option("--at", metavar="SELECTOR", help="The checkpoint of --job.")
