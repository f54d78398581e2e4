"""The type of the fixture `tally`."""

from __future__ import annotations

from collections.abc import Callable

# Called with what was tried, and how often.
Tally = Callable[[str, int], None]
