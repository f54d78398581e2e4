"""The arguments that name a job, or a checkpoint as `JOB@SELECTOR`."""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar

import click

from api.cli.exits import Failure
from api.cli.frame import Frame
from api.cli.selectors import Target, parse_target

if TYPE_CHECKING:
    from collections.abc import Callable

AnyFunction = TypeVar("AnyFunction", bound="Callable[..., Any]")

_MAX_COMPLETIONS = 200


def complete_job(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[str]:
    """Return the job ids that begin with what was typed, for the shell."""
    del param
    from journal.errors import MilepostError

    try:
        with ctx.ensure_object(Frame).open() as manager:
            jobs = manager.jobs()
    except (Failure, MilepostError, OSError):
        # Nobody asked for an answer yet, so there is nobody to tell: no completions.
        return []
    fitting = (job.job_id for job in jobs if job.job_id.startswith(incomplete))
    return list(fitting)[:_MAX_COMPLETIONS]


def job_argument(function: AnyFunction) -> AnyFunction:
    """Add JOB, taken as it is, `@` included."""
    return click.argument("job", shell_complete=complete_job)(function)


def target_argument(
    *, needs_selector: bool = False
) -> Callable[[AnyFunction], Callable[..., Any]]:
    """Add `JOB@SELECTOR` and its long form; the verb gets a `target`."""
    metavar = "JOB@SELECTOR" if needs_selector else "JOB[@SELECTOR]"

    def decorate(function: AnyFunction) -> Callable[..., Any]:
        @wraps(function)
        def with_target(
            *args: Any, word: str | None, job: str | None, at: str | None, **others: Any
        ) -> Any:
            target = _target(word, job, at)
            if needs_selector and target.selector is None:
                msg = f"which checkpoint of {target.job_id!r}?"
                raise Failure("usage", msg, "JOB@SELECTOR, say JOB@latest")
            return function(*args, target=target, **others)

        argument = click.argument(
            "word", metavar=metavar, required=False, shell_complete=complete_job
        )
        return argument(_job_option(_at_option(with_target)))

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


_job_option = click.option(
    "--job", metavar="ID", help="The job, for ids that hold '@'."
)
_at_option = click.option("--at", metavar="SELECTOR", help="The checkpoint of --job.")
