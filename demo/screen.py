"""The demo's output: a progress bar on a terminal, plain lines otherwise."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Self

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_PLAIN_COLUMNS = 120
_PLAIN_STEPS = 10
_LABEL = 10


class Screen:
    """Prints the story; a context manager that restores the terminal's cursor.

    `is_live` is whether the terminal can redraw a progress bar.
    """

    def __init__(self) -> None:
        self.is_terminal = sys.stdout.isatty()
        self._console = Console(
            file=sys.stdout,
            highlight=False,
            width=None if self.is_terminal else _PLAIN_COLUMNS,
        )
        self.is_live = self.is_terminal and not self._console.is_dumb_terminal
        self._bar = Progress(
            TextColumn("{task.description:<9}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("files"),
            console=self._console,
            transient=True,
            disable=not self.is_live,
        )
        self._task = self._bar.add_task("", total=None, visible=False)
        self._printed = 0

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._bar.stop()

    def say(self, label: str, text: str, style: str = "") -> None:
        """Print one line of the story."""
        line = Text.assemble((f"{label:<{_LABEL}}", style), " ", text)
        self._print(line)

    def blank(self) -> None:
        """Print an empty line."""
        self._print(Text())

    def progress(self, label: str, done: int, total: int) -> None:
        """Show the job's progress; without a live bar, one line for every tenth."""
        self._bar.update(
            self._task, description=label, completed=done, total=total, visible=True
        )
        if not self.is_live and done * _PLAIN_STEPS // total != self._printed:
            self._printed = done * _PLAIN_STEPS // total
            self.say(label, f"{done:,} of {total:,} files")

    def end_progress(self) -> None:
        """Remove the bar."""
        self._bar.stop()

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Print a table; long cells are wrapped."""
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for column in columns:
            table.add_column(column, overflow="fold")
        for row in rows:
            table.add_row(*map(Text, row))
        self._print(table)

    def _print(self, what: Text | Table) -> None:
        # soft_wrap: commands to copy must not be broken into lines.
        self._console.print(what, soft_wrap=isinstance(what, Text))
        sys.stdout.flush()
