"""Current worker problems, for status and logs."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING

from milepost.journal.errors import MilepostError

if TYPE_CHECKING:
    from collections.abc import Iterator

log = logging.getLogger("milepost.worker")


class Problems:
    """The current problems, by subject."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}

    @contextlib.contextmanager
    def noting(self, what: str, *kinds: type[Exception]) -> Iterator[None]:
        """Catch `kinds` and record them as the problem of `what`; clear it on success.

        Logs a problem when its text changes.
        """
        try:
            yield
        except kinds as exc:
            self.note(what, exc)
        else:
            self._texts.pop(what, None)

    def note(self, what: str, exc: Exception) -> None:
        """Record `exc` as the problem of `what`; log it when its text changes."""
        text = f"{what}: {exc or type(exc).__name__}"
        if self._texts.get(what) != text:
            is_expected = isinstance(exc, (MilepostError, OSError))
            log.warning("%s", text, exc_info=exc if not is_expected else None)
        self._texts[what] = text

    def settle(self, what: str) -> None:
        """Clear the problem of `what`."""
        self._texts.pop(what, None)

    def get(self, what: str) -> str | None:
        """Return the problem of `what`, None if there is none."""
        return self._texts.get(what)

    def __str__(self) -> str:
        return "; ".join([*self._texts.values()])
