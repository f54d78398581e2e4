"""The reason that a caller gives for a change."""

from __future__ import annotations

from milepost.journal import ids


def with_reason(data: dict[str, object], reason: str | None) -> dict[str, object]:
    """Return an event's `data` with the reason, if there is one.

    Raises:
        InvalidArgument: it is out of bounds.
    """
    if reason is None:
        return data
    return data | {"reason": ids.check_label("reason", reason)}
