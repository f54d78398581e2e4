"""The keep rules: each walks a group of checkpoints from the newest to the oldest.

Counts, buckets and windows are those of restic's ``forget``
(https://restic.readthedocs.io/en/stable/060_forget.html): the newest of each hour, day,
week, month and year is kept; periods without a checkpoint use no slot; the oldest of
all is kept while a slot is left; windows count from the newest that is not in the
future.  Where restic's result is not determined, this one is: the order is by seq, a
bucket that was seen once is not counted again, and an hour that a clock repeats is two.

For every checkpoint of its group, in order, `keeps` returns the reason to keep it; if
that is None, `missed` returns by how little the rule missed it.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from math import inf, isfinite
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from milepost.journal.clock import EARLIEST
from milepost.journal.retention.duration import as_span, how_long
from milepost.journal.retention.policy import Policy

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import tzinfo

    from milepost.journal.retention.field_kinds import Best
    from milepost.journal.retention.policy import Count


CURRENT = "current"  # the shield of the current checkpoint


class Candidate(NamedTuple):
    """A checkpoint as the rules see it.

    Attributes:
        at: when it was saved, in UTC; never used as an order.
        shields: reasons that take precedence over any rule.
        number: its 1-based number among the job's saves, deleted ones counted.
        stored_bytes: its size in the journal.
        is_failed: it was saved as failed.
        metric: the number that `Policy.keep_best` ranks by; None if it has none.
        not_a_number: the type of a value that is not a number: ``text``, ``a list``;
            None if there is no value.
    """

    checkpoint_id: str
    seq: int
    at: datetime
    shields: tuple[str, ...] = ()
    number: int = 0
    tags: tuple[str, ...] = ()
    stored_bytes: int = 0
    is_failed: bool = False
    metric: float | None = None
    not_a_number: str | None = None


class Item(NamedTuple):
    """A candidate in its group: its position from the newest, and its local time."""

    candidate: Candidate
    position: int
    is_oldest: bool
    local: datetime


class KeepRule(Protocol):
    """One rule, with its state for one group."""

    def keeps(self, item: Item) -> str | None:
        """Return why this rule keeps `item`, or None."""

    def missed(self, item: Item) -> str:
        """Return by how little the rule missed `item`; called right after `keeps`."""


def zone_of(policy: Policy) -> tzinfo:
    """Return the policy's time zone; UTC works without time zone data."""
    if policy.timezone == "UTC":
        return UTC
    from zoneinfo import ZoneInfo

    return ZoneInfo(policy.timezone)


def rules_for(
    policy: Policy, newest_first: Sequence[Candidate], now: datetime, zone: tzinfo
) -> list[KeepRule]:
    """Return the rules that `policy` sets, each ready to walk `newest_first`."""
    rules: list[KeepRule] = []
    if policy.keep_last is not None:
        rules.append(Newest("keep_last", policy.keep_last))
    counts = {name: getattr(policy, f"keep_{name}") for name in _PERIODS}
    rules += [_Bucket(n, count) for n, count in counts.items() if count is not None]
    windows = _windows(policy, newest_first, now, zone)
    for name, window in windows.items():
        rules.append(_BucketWithin(name, window) if name else _Within(window))
    if policy.keep_tags is not None:
        rules.append(_Tagged(policy.keep_tags))
    if policy.keep_every is not None:
        rules.append(_Every(policy.keep_every))
    if policy.keep_best is not None:
        rules.append(_Best(policy.keep_best, newest_first))
    return rules


def counted_from(candidates: Iterable[Candidate], now: datetime) -> Candidate | None:
    """Return the checkpoint that windows count from: the latest not after `now`."""
    past = (c for c in candidates if c.at < now)
    return max(past, key=lambda c: (c.at, c.seq), default=None)


def _windows(
    policy: Policy, candidates: Iterable[Candidate], now: datetime, zone: tzinfo
) -> dict[str, _Window]:
    """Return the windows that `policy` sets, by period; `keep_within` has none."""
    if not policy.windows:
        return {}
    newest = counted_from(candidates, now)
    found = {}
    for field, span in policy.windows.items():
        cutoff = EARLIEST if newest is None else as_span(span).before(newest.at, zone)
        name = field.removeprefix("keep_within").removeprefix("_")
        found[name] = _Window(str(span), cutoff, newest.at if newest else now)
    return found


def rules_for_failed(
    policy: Policy, newest_first: Sequence[Candidate], now: datetime, zone: tzinfo
) -> list[KeepRule]:
    """As `rules_for`, for checkpoints saved as failed."""
    if policy.keep_failed is not None:
        return [Newest("keep_failed", policy.keep_failed)]
    return [_OfFailed(rule) for rule in rules_for(policy, newest_first, now, zone)]


class _OfFailed:
    """Marks the reasons of a rule that applies to failed checkpoints."""

    def __init__(self, rule: KeepRule) -> None:
        self._rule = rule

    def keeps(self, item: Item) -> str | None:
        reason = self._rule.keeps(item)
        return None if reason is None else f"of the failed: {reason}"

    def missed(self, item: Item) -> str:
        return f"of the failed: {self._rule.missed(item)}"


class Newest:
    """Keep the N newest."""

    def __init__(self, name: str, count: Count) -> None:
        self._name = name
        self._text = str(count)
        self._count = inf if count == "all" else count
        self._word = "last" if name == "keep_last" else "last failed"

    def keeps(self, item: Item) -> str | None:
        """Return the reason to keep `item`, or None."""
        if item.position <= self._count:
            return f"{self._word} #{item.position}"
        return None

    def missed(self, item: Item) -> str:
        """Return by how little the rule missed `item`."""
        return f"{ordinal(item.position)} newest; {self._name} = {self._text}"


class _Bucket:
    """Keep the newest of each period while slots are left."""

    def __init__(self, name: str, count: Count) -> None:
        self._name = name
        self._period = _PERIODS[name]
        self._key = self._period.key
        self._setting = f"keep_{name} = {count}"
        self._count = inf if count == "all" else count
        self._used = 0
        self._seen: set[object] = set()
        self._is_new = False

    def keeps(self, item: Item) -> str | None:
        key = self._key(item.local)
        self._is_new = key not in self._seen
        if self._is_new:
            self._seen.add(key)
        elif not item.is_oldest:
            return None
        if self._used >= self._count:
            return None
        self._used += 1
        return f"{'' if self._is_new else 'oldest, '}{self._name} #{self._used}"

    def missed(self, item: Item) -> str:
        if not self._is_new:
            return f"{self._period.older(item.local)}; {self._setting}"
        which = ordinal(len(self._seen))
        return f"in the {which} {self._period.word} back; {self._setting}"


class _Window(NamedTuple):
    """The time up to one span before the newest checkpoint."""

    span: str
    cutoff: datetime
    newest: datetime

    def older(self, at: datetime) -> str:
        return f"{how_long(self.newest - at)} older than the newest"


class _Within:
    """Keep everything in a window."""

    def __init__(self, window: _Window) -> None:
        self._window = window
        self._reason = f"within {window.span} of the newest"

    def keeps(self, item: Item) -> str | None:
        return self._reason if item.candidate.at > self._window.cutoff else None

    def missed(self, item: Item) -> str:
        older = self._window.older(item.candidate.at)
        return f"{older}; keep_within = {self._window.span}"


class _BucketWithin:
    """Keep the newest of each period in a window."""

    def __init__(self, name: str, window: _Window) -> None:
        self._period = _PERIODS[name]
        self._window = window
        self._reason = f"{name} within {window.span}"
        self._setting = f"keep_within_{name} = {window.span}"
        self._seen: set[object] = set()

    def keeps(self, item: Item) -> str | None:
        if item.candidate.at <= self._window.cutoff:
            return None
        key = self._period.key(item.local)
        if key not in self._seen:
            self._seen.add(key)
            return self._reason
        return f"oldest, {self._reason}" if item.is_oldest else None

    def missed(self, item: Item) -> str:
        if item.candidate.at > self._window.cutoff:
            return f"{self._period.older(item.local)}; {self._setting}"
        return f"{self._window.older(item.candidate.at)}; {self._setting}"


class _Tagged:
    """Keep checkpoints with all tags of one list; an empty list means no tags."""

    def __init__(self, lists: Iterable[Sequence[str]]) -> None:
        self._lists = [frozenset(tags) for tags in lists]
        self._text = " or ".join(tag_text(tags) for tags in self._lists)

    def keeps(self, item: Item) -> str | None:
        own = item.candidate.tags
        for tags in self._lists:
            if tags.issubset(own) if tags else not own:
                return tag_text(tags)
        return None

    def missed(self, item: Item) -> str:
        own = tag_text(frozenset(item.candidate.tags))
        return f"{own}; keep_tags = {self._text}"


class _Every:
    """Keep every Nth save of the job."""

    def __init__(self, step: int) -> None:
        self._step = step

    def keeps(self, item: Item) -> str | None:
        number = item.candidate.number
        return None if number % self._step else f"save {number}, every {self._step}"

    def missed(self, item: Item) -> str:
        return f"save {item.candidate.number}; keep_every = {self._step}"


class _Best:
    """Keep the N best by a metric; of equals, the newer ranks higher."""

    def __init__(self, best: Best, newest_first: Sequence[Candidate]) -> None:
        self._metric = best.metric
        self._count = best.keep
        sign = 1 if best.mode == "min" else -1
        ranked = sorted(
            (c for c in newest_first if c.metric is not None and isfinite(c.metric)),
            key=lambda c: sign * (c.metric or 0.0),
        )
        self._ranks = {c.seq: rank for rank, c in enumerate(ranked, start=1)}

    def keeps(self, item: Item) -> str | None:
        rank = self._ranks.get(item.candidate.seq)
        if rank is None or rank > self._count:
            return None
        return f"best #{rank} by {self._metric} ({item.candidate.metric:g})"

    def missed(self, item: Item) -> str:
        rank = self._ranks.get(item.candidate.seq)
        if rank is None:
            if (what := item.candidate.not_a_number) is not None:
                return f"{self._metric!r} in its metadata is {what}, not a number"
            return f"has no number {self._metric!r} in its metadata"
        return f"{ordinal(rank)} best by {self._metric}; keep_best = {self._count}"


class _Period(NamedTuple):
    """A kind of period: maps a local time to its period, and names both."""

    word: str
    key: Callable[[datetime], Any]
    label: Callable[[Any], str]

    def older(self, local: datetime) -> str:
        label = self.label(self.key(local))
        return f"not the newest of its {self.word}, {label}"


def _hour(local: datetime) -> tuple[int, int, timedelta | None]:
    # Includes the offset: an hour that a clock repeats in autumn is two hours.
    return local.toordinal(), local.hour, local.utcoffset()


def _week(local: datetime) -> int:
    # Day 1 of the calendar is a Monday, so weeks count from it as in ISO 8601.
    return (local.toordinal() - 1) // 7


def _month(local: datetime) -> int:
    return local.year * 12 + local.month - 1


def _day_label(key: int) -> str:
    return date.fromordinal(key).isoformat()


def _week_label(key: int) -> str:
    year, week, _ = date.fromordinal(key * 7 + 1).isocalendar()
    return f"{year}-W{week:02}"


_PERIODS = {
    "hourly": _Period(
        "hour", _hour, lambda key: f"{_day_label(key[0])} {key[1]:02}:00"
    ),
    "daily": _Period("day", datetime.toordinal, _day_label),
    "weekly": _Period("week", _week, _week_label),
    "monthly": _Period("month", _month, lambda key: f"{key // 12}-{key % 12 + 1:02}"),
    "yearly": _Period("year", lambda local: local.year, str),
}


def tag_text(tags: frozenset[str]) -> str:
    """Return a list of tags as shown in reasons."""
    if not tags:
        return "no tags"
    return f"tag{'s' * (len(tags) > 1)} {', '.join(sorted(tags))}"


def ordinal(number: int) -> str:
    """Return `number` as an ordinal: 1st, 2nd, 3rd, 11th."""
    is_teen = number // 10 % 10 == 1
    suffix = "th" if is_teen else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{suffix}"
