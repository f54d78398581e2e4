"""How often a step is tried, and what it may raise to say so."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, NamedTuple

from milepost.journal.errors import IllegalTransition, LeaseLost

if TYPE_CHECKING:
    from collections.abc import Callable

# Errors that end the attempt: it may not write any more.
OVER = (LeaseLost, IllegalTransition)
# Of ``backoff ** tries``, which would overflow.
_MAX_EXPONENT = 64


class Suspended(BaseException):
    """The execution waits: its block ends, and a later attempt goes on.

    Not an `Exception`, so that no handler of the program's own errors catches it.
    """


class Fatal(Exception):
    """Raise it in a step: the step is not tried again."""


class RetryAfter(Exception):
    """Raise it in a step: the next try, if there is one, is due after `seconds`."""

    def __init__(self, seconds: float, reason: str = "") -> None:
        super().__init__(reason or f"try again after {seconds:g} s")
        self.seconds = max(0.0, seconds)


class NotRun(Exception):
    """Raise it in a `reconcile` function: the step did not run, so it is run now."""


class Retry(NamedTuple):
    """How often a step is tried.

    Attributes:
        attempts: tries at most, the first included.
        delay: seconds before the second try.
        backoff: factor from one pause to the next.
        max_delay: the longest pause, in seconds.
        jitter: the random part of a pause, 0 to 1.
        on: the errors after which it is tried again.
        when: returns whether an error is tried again, if it is one of `on`.
    """

    attempts: int = 3
    delay: float = 1.0
    backoff: float = 2.0
    max_delay: float = 60.0
    jitter: float = 0.1
    on: tuple[type[Exception], ...] = (Exception,)
    when: Callable[[Exception], bool] | None = None

    def pause(self, error: Exception, tries: int) -> float:
        """Return the seconds before the next try, after `tries` failed ones."""
        if isinstance(error, RetryAfter):
            return error.seconds
        factor = self.backoff ** min(tries - 1, _MAX_EXPONENT)
        seconds = min(self.delay * factor, self.max_delay)
        return seconds * (1 + self.jitter * (2 * random.random() - 1))  # noqa: S311

    def applies(self, error: Exception, tries: int) -> bool:
        """Return whether there is another try after `error`, the last of `tries`."""
        if tries >= self.attempts or isinstance(error, (Fatal, *OVER)):
            return False
        if isinstance(error, RetryAfter):
            return True
        return isinstance(error, self.on) and (self.when is None or self.when(error))


ONCE = Retry(attempts=1)
