"""A retention policy as a value, with its bounds.  Pure.

`decisions` applies it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import orjson

from milepost.journal import ids
from milepost.journal.errors import InvalidArgument
from milepost.journal.retention.duration import Span, as_span

if TYPE_CHECKING:
    from collections.abc import Sequence

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
_MAX_COUNT = (1 << 63) - 1  # the largest integer of an event
_MAX_BYTES = 1 << 50
_MAX_TAG_LISTS = 64


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
    keep_last: Count | None = None
    keep_hourly: Count | None = None
    keep_daily: Count | None = None
    keep_weekly: Count | None = None
    keep_monthly: Count | None = None
    keep_yearly: Count | None = None
    keep_within: Span | str | None = None
    keep_within_hourly: Span | str | None = None
    keep_within_daily: Span | str | None = None
    keep_within_weekly: Span | str | None = None
    keep_within_monthly: Span | str | None = None
    keep_within_yearly: Span | str | None = None
    keep_tags: tuple[Sequence[str], ...] | None = None
    keep_every: int | None = None
    keep_best: Best | None = None
    keep_failed: Count | None = None
    max_age: Span | str | None = None
    max_count: int | None = None
    max_bytes: int | None = None
    min_keep: int = 1
    min_age: Span | str = "0s"
    max_remove_fraction: float = 0.5
    timezone: str = "UTC"

    def __post_init__(self) -> None:
        """Normalize spans and tags, and check everything."""
        for name in (*WITHINS, "max_age", "min_age"):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, _span(name, value))
        if self.keep_tags is not None:
            object.__setattr__(self, "keep_tags", _tag_lists(self.keep_tags))
        self._check_bounds()
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

    def _check_bounds(self) -> None:
        ids.check_label("a policy's name", self.name)
        for name in (*COUNTS, "keep_failed"):
            value = getattr(self, name)
            least = 0 if name == "keep_failed" else 1
            if value is not None and value != "all":
                _check_number(name, value, least, _MAX_COUNT)
        for name in ("keep_every", "max_count"):
            if (value := getattr(self, name)) is not None:
                _check_number(name, value, 1, _MAX_COUNT)
        if self.max_bytes is not None:
            _check_number("max_bytes", self.max_bytes, 1, _MAX_BYTES)
        _check_number("min_keep", self.min_keep, 1, _MAX_COUNT)
        if self.keep_best is not None:
            _check_best(self.keep_best)
        fraction = self.max_remove_fraction
        is_number = isinstance(fraction, (int, float)) and not isinstance(
            fraction, bool
        )
        if not (is_number and 0 <= fraction <= 1):
            raise InvalidArgument(
                f"max_remove_fraction must be 0 to 1, got {fraction!r:.60}"
            )
        if self.timezone == "UTC":  # valid even without time zone data
            return
        from zoneinfo import ZoneInfo

        try:
            ZoneInfo(self.timezone)
        except (OSError, ValueError, KeyError, TypeError) as exc:
            raise InvalidArgument(
                f"timezone must be a name such as 'Europe/Berlin', got "
                f"{self.timezone!r:.60}"
            ) from exc

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


def describe(policy: Policy) -> dict[str, Any]:
    """Return the policy as stored in events: its name and its non-default fields."""
    unset = Policy(name=policy.name)
    said: dict[str, Any] = {"name": policy.name}
    for field in fields(policy):
        value = getattr(policy, field.name)
        if value != getattr(unset, field.name):
            said[field.name] = _plain(value)
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
    return _check_number("keep_last", keep_last, 1, _MAX_COUNT)


def _check_number(name: str, value: object, least: int, most: int) -> int:
    is_number = isinstance(value, int) and not isinstance(value, bool)
    if not (isinstance(value, int) and is_number and value >= least):
        raise InvalidArgument(
            f"{name} must be a whole number of at least {least}, got {value!r:.60}"
        )
    if value > most:
        raise InvalidArgument(f"{name} must be at most {most}, got {value}")
    return value


def _check_best(best: Best) -> None:
    if not isinstance(best, Best):
        raise InvalidArgument(f"keep_best must be a Best, got {best!r:.60}")
    ids.check_label("keep_best.metric", best.metric)
    if best.mode not in ("min", "max"):
        raise InvalidArgument(
            f"keep_best.mode must be 'min' or 'max', got {best.mode!r:.60}"
        )
    _check_number("keep_best.keep", best.keep, 1, _MAX_COUNT)


def _tag_lists(lists: object) -> tuple[tuple[str, ...], ...]:
    if isinstance(lists, str) or not isinstance(lists, (list, tuple)):
        raise InvalidArgument(f"keep_tags must be a list of lists, got {lists!r:.60}")
    if not 1 <= len(lists) <= _MAX_TAG_LISTS:
        raise InvalidArgument(
            f"keep_tags must have 1 to {_MAX_TAG_LISTS} lists, got {len(lists)}",
            hint="one empty list keeps checkpoints without tags",
        )
    for tags in lists:
        if isinstance(tags, str) or not isinstance(tags, (list, tuple)):
            raise InvalidArgument(
                f"keep_tags must be a list of lists of tags, got {tags!r:.60}"
            )
    return tuple(
        tuple(ids.check_label("a tag in keep_tags", tag) for tag in tags)
        for tags in lists
    )


def _span(name: str, value: Span | str) -> Span:
    try:
        return as_span(value)
    except InvalidArgument as exc:
        raise InvalidArgument(f"{name}: {exc}", hint=exc.hint) from exc
