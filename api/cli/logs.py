"""Log lines of the verbs that stay, on stderr."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from api.cli.output import visible

if TYPE_CHECKING:
    from logging import LogRecord
    from types import TracebackType

    _ExceptionInfo = (
        tuple[type[BaseException], BaseException, TracebackType | None]
        | tuple[None, None, None]
    )


class _Visible(logging.Formatter):
    """Job ids and the like stand in messages, and must not act on a terminal.

    A line break in one would even forge a line of the log.
    """

    def formatMessage(self, record: LogRecord) -> str:  # noqa: N802 - logging's name
        return visible(super().formatMessage(record))

    def formatException(self, ei: _ExceptionInfo) -> str:  # noqa: N802
        lines = super().formatException(ei).splitlines()
        return "\n".join(map(visible, lines))


def log_to_stderr() -> None:
    """Send our own news and everybody's warnings to stderr."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Visible("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    logging.getLogger("milepost").setLevel(logging.INFO)
