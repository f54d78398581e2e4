"""A retention policy as a value, with its bounds.  Pure.

`decisions` applies it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal

import orjson

from milepost.journal import ids
from milepost.journal.errors import InvalidArgument
from milepost.journal.retention.duration import Span, as_span
from milepost.journal.retention.field_kinds import (
    Best,
    BestOf,
    Fraction,
    Length,
    Size,
    TagLists,
    Whole,
    Zone,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from milepost.journal.retention.field_kinds import Kind

# "all" keeps one of each hour, day, … without a limit.
Count = int | Literal["all"]

COUNTS = (
    "keep_last",
    "keep_hourly",
    "keep_daily",
    "keep_weekly",
    "keep_monthly",
    "keep_yearly",
)
WITHINS = (
    "keep_within",
    "keep_within_hourly",
    "keep_within_daily",
    "keep_within_weekly",
    "keep_within_monthly",
    "keep_within_yearly",
)
KEEP_RULES = (*COUNTS, *WITHINS, "keep_tags", "keep_every", "keep_best", "keep_failed")
CAPS = ("max_age", "max_count", "max_bytes")
# Rules that may match no checkpoint: alone, they could remove almost everything.
_FICKLE = frozenset({"keep_tags", "keep_every", "keep_best", "keep_failed"})
_COUNT: Mapping[str, Kind] = {"kind": Whole(or_all=True)}
_NUMBER: Mapping[str, Kind] = {"kind": Whole()}
_SPAN: Mapping[str, Kind] = {"kind": Length()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """A retention policy.  Keep rules are independent and ORed; none keeps everything.

    Without caps, another rule, a larger count or a higher floor never removes more.
    Exceptions are the first rule, and `keep_failed`, which replaces the other rules for
    failed checkpoints.  Under `max_count` and `max_bytes`, a checkpoint kept by one
    rule can displace one kept by another.

    Spans may be given as text (``"7d"``), tag lists as any sequences.

    Attributes:
        name: shown in plans and events.
        keep_last: keep the N newest.
        keep_hourly: keep the newest of each hour, for the last N hours with a
            checkpoint; also `keep_daily`, `keep_weekly` (ISO weeks), `keep_monthly`,
            `keep_yearly`.  The oldest of all is kept while fewer than N are.
        keep_within: keep checkpoints at most this much older than the newest, so an
            idle job loses nothing as time passes.
        keep_within_hourly: within this span, keep the newest of each hour; also
            `keep_within_daily` and so on.
        keep_tags: keep checkpoints with all tags of one of these lists; an empty list
            matches those without tags.
        keep_every: keep every Nth save of the job.
        keep_best: keep the best by a metric.
        keep_failed: keep the N newest that were saved as failed.  They never use
            another rule's slots; if unset, the other rules apply to them as a separate
            group.
        max_age: remove checkpoints older than this, even if a keep rule matches.
        max_count: remove the oldest until at most N remain.
        max_bytes: remove the oldest until the rest has at most this many bytes.
        min_keep: keep the N newest, whatever rules and caps decide; at least 1.
        min_age: remove nothing younger than this.
        max_remove_fraction: in a job with over 10 checkpoints, a plan that removes a
            larger fraction requires confirmation.
        timezone: the time zone of hours, days and months.

    Raises:
        InvalidArgument: a value is out of bounds, or rules contradict each other.
    """

    name: str = "policy"
    keep_last: Count | None = field(default=None, metadata=_COUNT)
    keep_hourly: Count | None = field(default=None, metadata=_COUNT)
    keep_daily: Count | None = field(default=None, metadata=_COUNT)
    keep_weekly: Count | None = field(default=None, metadata=_COUNT)
    keep_monthly: Count | None = field(default=None, metadata=_COUNT)
    keep_yearly: Count | None = field(default=None, metadata=_COUNT)
    keep_within: Span | str | None = field(default=None, metadata=_SPAN)
    keep_within_hourly: Span | str | None = field(default=None, metadata=_SPAN)
    keep_within_daily: Span | str | None = field(default=None, metadata=_SPAN)
    keep_within_weekly: Span | str | None = field(default=None, metadata=_SPAN)
    keep_within_monthly: Span | str | None = field(default=None, metadata=_SPAN)
    keep_within_yearly: Span | str | None = field(default=None, metadata=_SPAN)
    keep_tags: tuple[Sequence[str], ...] | None = field(
        default=None, metadata={"kind": TagLists()}
    )
    keep_every: int | None = field(default=None, metadata=_NUMBER)
    keep_best: Best | None = field(default=None, metadata={"kind": BestOf()})
    keep_failed: Count | None = field(
        default=None, metadata={"kind": Whole(0, or_all=True)}
    )
    max_age: Span | str | None = field(default=None, metadata=_SPAN)
    max_count: int | None = field(default=None, metadata=_NUMBER)
    max_bytes: int | None = field(default=None, metadata={"kind": Size()})
    min_keep: int = field(default=1, metadata=_NUMBER)
    min_age: Span | str = field(default="0s", metadata=_SPAN)
    max_remove_fraction: float = field(default=0.5, metadata={"kind": Fraction()})
    timezone: str = field(default="UTC", metadata={"kind": Zone()})

    def __post_init__(self) -> None:
        """Normalize spans and tags, and check everything."""
        ids.check_label("a policy's name", self.name)
        for name, kind in KINDS.items():
            value = getattr(self, name)
            if value is not None or name in FLOORS:
                object.__setattr__(self, name, kind.checked(name, value))
        self._check_sense()

    @property
    def rules(self) -> dict[str, Any]:
        """The keep rules that are set, in the order of evaluation."""
        return self._set(KEEP_RULES)

    @property
    def windows(self) -> dict[str, Any]:
        """The keep rules that count from the newest."""
        return self._set(WITHINS)

    @property
    def caps(self) -> dict[str, Any]:
        """The caps that are set."""
        return self._set(CAPS)

    @property
    def removes(self) -> bool:
        """Whether this policy can remove a checkpoint."""
        return bool(self.rules or self.caps)

    def _set(self, names: tuple[str, ...]) -> dict[str, Any]:
        values = ((name, getattr(self, name)) for name in names)
        return {name: value for name, value in values if value is not None}

    def _check_sense(self) -> None:
        """Refuse rules that contradict each other or may remove everything.

        Raises:
            InvalidArgument: names the rules and the remedy.
        """
        for name in WITHINS:
            if (value := getattr(self, name)) is not None and not any(value):
                raise InvalidArgument(
                    f"{name} = {value} keeps nothing",
                    hint="remove it, or set a length",
                )
        rules = self.rules
        if rules and rules.keys() <= _FICKLE:
            raise InvalidArgument(
                f"{' and '.join(rules)} may match no checkpoint at all, and then "
                "everything but the newest would be removed",
                hint="add keep_last or keep_within",
            )
        if (most := self.max_count) is not None:
            for name, least in (
                ("min_keep", self.min_keep),
                ("keep_last", self.keep_last),
            ):
                if isinstance(least, int) and least > most:
                    raise InvalidArgument(
                        f"max_count = {most} contradicts {name} = {least}",
                        hint=f"set max_count to at least {least}, or lower {name}",
                    )
        if self.max_age is not None:
            oldest = as_span(self.max_age).about_seconds
            for name in ("min_age", *WITHINS):
                value = getattr(self, name)
                if value is not None and value.about_seconds > oldest:
                    raise InvalidArgument(
                        f"max_age = {self.max_age} contradicts {name} = {value}",
                        hint="set max_age to at least that much",
                    )
            if oldest == 0:
                raise InvalidArgument("max_age = 0s would remove everything")


# Every field but the name.
KINDS: Mapping[str, Kind] = {
    each.name: each.metadata["kind"] for each in fields(Policy) if each.metadata
}
# The fields that always have a value.
FLOORS = tuple(f.name for f in fields(Policy) if f.metadata and f.default is not None)


def describe(policy: Policy) -> dict[str, Any]:
    """Return the policy as stored in events: its name and its non-default fields."""
    unset = Policy(name=policy.name)
    said: dict[str, Any] = {"name": policy.name}
    for name in KINDS:
        value = getattr(policy, name)
        if value != getattr(unset, name):
            said[name] = _plain(value)
    return said


def policy_hash(policy: Policy) -> str:
    """Return 16 hex digits that depend on every field of the policy."""
    return hashlib.sha256(orjson.dumps(describe(policy))).hexdigest()[:16]


def _plain(value: object) -> object:
    if isinstance(value, Span):
        return str(value)
    if isinstance(value, Best):
        return value._asdict()
    return value


def check_keep_last(keep_last: object) -> int:
    """Return `keep_last` if it is a whole number of at least 1.

    Raises:
        InvalidArgument: it is not.
    """
    kept: int = Whole().checked("keep_last", keep_last)
    return kept
