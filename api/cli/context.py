"""The options that all commands share, and access to the store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from collections.abc import Callable

    from milepost.journal.manager import CheckpointManager
    from milepost.worker.config.settings import Settings

AnyFunction = TypeVar("AnyFunction", bound="Callable[..., Any]")
AnyCommand = TypeVar("AnyCommand", bound=click.Command)


class Frame:
    """The shared options of one command line."""

    def __init__(self) -> None:
        self.as_json = False
        self.with_traceback = False
        self.store: str | None = None
        self.config: str | None = None

    def open(self) -> CheckpointManager:
        """Open the store to read it.

        Raises:
            Failure: no_store.
            ConfigError: the setting of the folder is wrong.
        """
        from milepost.api.cli.stores import open_to_read

        return open_to_read(self.config, self.store)

    def open_to_write(self, *, may_create: bool = False) -> CheckpointManager:
        """Open the store with all settings.

        Raises:
            Failure: no_store, unless it may be created.
            ConfigError: a setting is wrong.
        """
        from milepost.api.cli.stores import open_to_write

        return open_to_write(self.config, self.store, may_create=may_create)

    def open_with_settings(
        self, *, may_create: bool = False
    ) -> tuple[CheckpointManager, Settings | None]:
        """Open the store with all settings; these are None if nothing is set.

        Raises:
            Failure: no_store, unless it may be created.
            ConfigError: a setting is wrong.
        """
        from milepost.api.cli.stores import open_with_settings

        return open_with_settings(self.config, self.store, may_create=may_create)

    def settings(self, **flags: str | None) -> Settings:
        """Read every setting; `flags` are variables that a command's options set.

        Raises:
            ConfigError: a setting is wrong.
        """
        from milepost.api.cli.stores import config_path, environment
        from milepost.worker.config.settings import load

        given = {name: value for name, value in flags.items() if value is not None}
        environ = {**environment(self.store), **given}
        return load(config_path(self.config), environ=environ)


def command(name: str, *, example: str) -> Callable[[AnyFunction], click.Command]:
    """Make a function the command `name`, with an example and the shared options."""

    def decorate(function: AnyFunction) -> click.Command:
        made = click.command(name, epilog=example_text(example))
        return with_shared_options(made(click.pass_obj(function)))

    return decorate


def with_shared_options(made: AnyCommand) -> AnyCommand:
    """Add the options that work before and after every command name."""
    made.params += _SHARED
    return made


def expect_seq_option(function: AnyFunction) -> AnyFunction:
    """Add `--expect-seq`, for commands that must not act on a changed job."""
    option = click.option(
        "--expect-seq",
        type=click.IntRange(0),
        help="Fail unless this is the job's last seq.",
    )
    return option(function)


def reason_option(function: AnyFunction) -> AnyFunction:
    """Add `--reason`, for commands whose event records one."""
    option = click.option(
        "--reason", metavar="TEXT", help="A reason, which is journaled."
    )
    return option(function)


def trust_clock_option(function: AnyFunction) -> AnyFunction:
    """Add `--trust-clock`, for commands that remove by age."""
    option = click.option(
        "--trust-clock",
        is_flag=True,
        help="Accept the system time although it is far ahead of the store.",
    )
    return option(function)


def fail_if_empty_option(function: AnyFunction) -> AnyFunction:
    """Add `--fail-if-empty`, for commands whose result may be empty."""
    option = click.option(
        "--fail-if-empty", is_flag=True, help="Exit with 8 if the result is empty."
    )
    return option(function)


def example_text(example: str) -> str:
    """Return the end of a help text: commands that can be run unchanged."""
    # \b keeps Click from joining the lines.
    return "\b\nExample:\n" + "\n".join(f"  {line}" for line in example.split("\n"))


def _remember(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    # A flag given before the command name is not unset by its absence after it.
    if value is not None and value is not False:
        setattr(ctx.ensure_object(Frame), str(param.name), value)


def _shared(*names: str, **attributes: Any) -> click.Option:
    return click.Option(names, expose_value=False, callback=_remember, **attributes)


_SHARED = (
    _shared(
        *("--json", "as_json"), is_flag=True, help="Print one object: ok, data, error."
    ),
    _shared("--store", metavar="DIR", help="The folder of the store."),
    _shared("--config", metavar="FILE", help="Read this config.toml."),
    _shared(
        *("--traceback", "with_traceback"),
        is_flag=True,
        help="Show Python's traceback on errors.",
    ),
)
