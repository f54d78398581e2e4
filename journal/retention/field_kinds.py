"""The kinds of a policy's fields, each with its bounds.  Pure.

`Policy` checks its values with them, and config.toml derives its keys from them.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from milepost.journal import ids
from milepost.journal.errors import InvalidArgument
from milepost.journal.retention.duration import Span, as_span


class Whole(NamedTuple):
    """A whole number; with `or_all`, also the word "all"."""

    least: int = 1
    most: int = (1 << 63) - 1  # the largest integer of an event
    or_all: bool = False

    def checked(self, name: str, value: Any) -> Any:
        """Return `value`.

        Raises:
            InvalidArgument: it is of another type or out of bounds; names `name`.
        """
        if self.or_all and value == "all":
            return value
        is_number = isinstance(value, int) and not isinstance(value, bool)
        if not is_number or value < self.least:
            raise InvalidArgument(
                f"{name} must be a whole number of at least {self.least}, "
                f"got {value!r:.60}"
            )
        if value > self.most:
            raise InvalidArgument(f"{name} must be at most {self.most}, got {value}")
        return value


class Size(NamedTuple):
    """A size in bytes."""

    most: int = 1 << 50

    def checked(self, name: str, value: Any) -> Any:
        """See `Whole.checked`."""
        return Whole(1, self.most).checked(name, value)


class Fraction(NamedTuple):
    """A number from `least` to `most`."""

    least: float = 0.0
    most: float = 1.0

    def checked(self, name: str, value: Any) -> Any:
        """See `Whole.checked`."""
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not (is_number and self.least <= value <= self.most):
            raise InvalidArgument(
                f"{name} must be {self.least:g} to {self.most:g}, got {value!r:.60}"
            )
        return value


class Length(NamedTuple):
    """A duration, as a `Span` or as text."""

    def checked(self, name: str, value: Any) -> Span:
        """Return the duration; see `Whole.checked`."""
        try:
            return as_span(value)
        except InvalidArgument as exc:
            raise InvalidArgument(f"{name}: {exc}", hint=exc.hint) from exc


class Zone(NamedTuple):
    """The name of a time zone."""

    def checked(self, name: str, value: Any) -> Any:
        """See `Whole.checked`."""
        if not is_zone(value):
            raise InvalidArgument(
                f"{name} must be a name such as 'Europe/Berlin', got {value!r:.60}"
            )
        return value


class TagLists(NamedTuple):
    """Lists of tags."""

    most: int = 64

    def checked(self, name: str, value: Any) -> tuple[tuple[str, ...], ...]:
        """Return the lists as tuples; see `Whole.checked`."""
        if not isinstance(value, (list, tuple)):
            raise InvalidArgument(f"{name} must be a list of lists, got {value!r:.60}")
        if not 1 <= len(value) <= self.most:
            raise InvalidArgument(
                f"{name} must have 1 to {self.most} lists, got {len(value)}",
                hint="one empty list keeps checkpoints without tags",
            )
        for tags in value:
            if not isinstance(tags, (list, tuple)):
                raise InvalidArgument(
                    f"{name} must be a list of lists of tags, got {tags!r:.60}"
                )
        what = f"a tag in {name}"
        return tuple(
            tuple(ids.check_label(what, tag) for tag in tags) for tags in value
        )


class Best(NamedTuple):
    """Keep the checkpoints with the best values of a metric.

    Attributes:
        metric: a number in the metadata; dots address nested objects: ``"eval.loss"``.
        mode: whether the smallest or the largest values are best.
        keep: number of checkpoints to keep.
    """

    metric: str
    mode: Literal["min", "max"]
    keep: int = 1


class BestOf(NamedTuple):
    """A `Best`."""

    keep: Whole = Whole()

    def checked(self, name: str, value: Any) -> Best:
        """See `Whole.checked`."""
        if not isinstance(value, Best):
            raise InvalidArgument(f"{name} must be a Best, got {value!r:.60}")
        ids.check_label(f"{name}.metric", value.metric)
        if value.mode not in ("min", "max"):
            raise InvalidArgument(
                f"{name}.mode must be 'min' or 'max', got {value.mode!r:.60}"
            )
        self.keep.checked(f"{name}.keep", value.keep)
        return value


Kind = Whole | Size | Fraction | Length | Zone | TagLists | BestOf


def is_zone(name: Any) -> bool:
    """Return whether `name` is the name of a time zone."""
    if name == "UTC":  # valid even without time zone data
        return True
    from zoneinfo import ZoneInfo

    try:
        ZoneInfo(name)
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return True
