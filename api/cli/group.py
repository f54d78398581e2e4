"""The `milepost` group: imports a command when it is called, and sets the exit code.

The table below has names, not functions, so that `list` does not import what `serve`
needs.  Errors become exit codes only here.
"""

from __future__ import annotations

import sys
from importlib import import_module
from keyword import iskeyword
from typing import TYPE_CHECKING, Any, NoReturn

import click

from milepost.api.cli import output
from milepost.api.cli.context import Frame, example_text, with_shared_options
from milepost.api.cli.exits import Exit, Failure, Problem
from milepost.api.cli.results import Answer

if TYPE_CHECKING:
    from collections.abc import Sequence

# In the order of `--help`.  Each command has a module in `milepost.api.cli.commands`.
SECTIONS: dict[str, tuple[str, ...]] = {
    "Checkpoints": (
        *("save", "list", "show", "cat", "jobs", "log", "diff"),
        *("restore", "fork", "delete", "undelete"),
        *("pin", "unpin", "hold", "release", "complete"),
    ),
    "Workflows": (
        *("run", "executions", "execution", "signal"),
        *("approvals", "approve", "reject"),
    ),
    "Retention": ("cleanup", "policy", "compact", "erase"),
    "Store": ("import", "verify", "doctor", "repair", "keys", "config"),
    "Server and worker": ("serve", "worker", "schedules", "webhooks"),
}
COMMANDS = tuple(name for names in SECTIONS.values() for name in names)


class Milepost(click.Group):
    """A group whose commands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order of the table."""
        del ctx
        return list(COMMANDS)

    def format_commands(
        self, ctx: click.Context, formatter: click.HelpFormatter
    ) -> None:
        """Write the commands in their sections."""
        width = max(map(len, COMMANDS))
        for title, names in SECTIONS.items():
            rows = []
            for name in names:
                command = self.get_command(ctx, name)
                assert command is not None
                limit = formatter.width - 6 - width
                rows.append((name.ljust(width), command.get_short_help_str(limit)))
            with formatter.section(title):
                formatter.write_dl(rows)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the module of a command and return the command."""
        del ctx
        if cmd_name not in COMMANDS:
            return None
        module_name = f"{cmd_name}_" if iskeyword(cmd_name) else cmd_name
        module = import_module(f"milepost.api.cli.commands.{module_name}")
        command: click.Command = getattr(module, f"{cmd_name}_command")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Refuse an unknown command, with similar names as a hint."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            raise click.exceptions.NoSuchCommand(
                args[0], possibilities=COMMANDS, ctx=ctx
            )
        return super().resolve_command(ctx, args)

    def main(  # type: ignore[override]  # Click's overloads promise a return for False
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        **extra: Any,
    ) -> NoReturn:
        """Run one command, print its answer, and exit with its code."""
        words = list(sys.argv[1:] if args is None else args)
        output.prepare_streams()
        frame = Frame()
        extra.pop("standalone_mode", None)
        try:
            answer = super().main(
                words,
                prog_name or "milepost",
                standalone_mode=False,
                obj=frame,
                **extra,
            )
            code = _report(answer, frame)
        except Exception as exc:  # noqa: BLE001 - a person never sees a traceback
            # A parsing error is raised before the options are stored.
            options = words[: words.index("--")] if "--" in words else words
            frame.as_json |= "--json" in options
            frame.with_traceback |= "--traceback" in options
            code = _report_exception(exc, frame)
        sys.exit(code)


def _report(answer: Answer | int | None, frame: Frame) -> int:
    """Print an answer; an int is Click's own, after `--help`."""
    if isinstance(answer, Answer):
        return output.report(answer, as_json=frame.as_json)
    return answer or Exit.OK


def _report_exception(exc: Exception, frame: Frame) -> int:
    if isinstance(exc, click.exceptions.NoArgsIsHelpError):
        exc.show()
        return Exit.USAGE
    if frame.with_traceback:
        import traceback

        traceback.print_exception(exc)
    try:
        as_json = frame.as_json and not isinstance(exc, output.Unwritable)
        return output.report_problem(_problem_of(exc), as_json=as_json)
    except output.Unwritable as unprintable:
        return output.report_problem(unprintable.problem, as_json=False)


def _problem_of(exc: Exception) -> Problem:
    """Return the problem to report for an exception."""
    from milepost.journal.errors import MilepostError

    match exc:
        case Failure():
            problem = exc.problem
        case MilepostError():
            problem = Problem(exc.code, str(exc), exc.hint, exc.details)
        case click.Abort():
            problem = Problem("interrupted", "interrupted")
        case click.ClickException():
            problem = Problem("usage", exc.format_message(), _help_of(exc))
        case OSError():
            problem = Problem("io_failed", _os_error_text(exc))
        case _:
            what = f"{type(exc).__name__}: {exc}"
            hint = "this is a bug; please report it with the output of --traceback"
            problem = Problem("internal", what, hint)
    return problem


def _help_of(exc: click.ClickException) -> str | None:
    context = getattr(exc, "ctx", None)
    # Click's "Did you mean" is the better hint if there is one.
    if context is None or getattr(exc, "possibilities", None):
        return None
    return f"see {context.command_path} --help"


def _os_error_text(exc: OSError) -> str:
    reason = exc.strerror or str(exc)
    return f"{exc.filename}: {reason}" if exc.filename else reason


@with_shared_options
@click.group(
    cls=Milepost,
    name="milepost",
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=True,
    epilog=example_text("milepost jobs\nmilepost list etl-daily"),
)
@click.version_option(package_name="milepost", prog_name="milepost")
def milepost() -> None:
    """Keep, inspect and restore the checkpoints of long-running jobs.

    A checkpoint is named JOB@SELECTOR: @latest @first @current, @12 (seq),
    @-1 (from the newest), @tag:NAME, @2026-11-20T10:00, or @CHECKPOINT_ID.
    JOB alone is JOB@current: what a resumed job continues from.
    Put -- before a job id that begins with a dash.

    Exit codes: 0 done, 1 error, 2 usage, 3 partly done, 4 not found, 5 conflict,
    6 protected, or requires confirmation, 7 damaged, 8 nothing (with --fail-if-empty),
    9 waits for a person, 10 no store, 11 locked, 130 interrupted.
    """
