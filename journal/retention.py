"""Which checkpoints a policy keeps and which it lets go.  Pure: plans, never acts."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, NamedTuple

import orjson

from journal.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime


class Policy(NamedTuple):
    """A retention policy.  Keep rules are independent and ORed; none keeps all.

    Attributes:
        name: how plans and events call it.
        keep_last: keep so many of the newest.
        keep_within_seconds: keep what is at most this much older than the newest, so
            that a job which rests loses nothing to the clock.
        min_age_seconds: shield what is younger than this.
        min_keep: never leave fewer than this.
    """

    name: str = "policy"
    keep_last: int | None = None
    keep_within_seconds: float | None = None
    min_age_seconds: float = 0.0
    min_keep: int = 1

    def check(self) -> None:
        """Check bounds.

        Raises:
            InvalidArgument: a rule is out of bounds; names it.
        """
        if self.keep_last is not None:
            check_keep_last(self.keep_last)
        for name in ("keep_within_seconds", "min_age_seconds", "min_keep"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise InvalidArgument(f"{name} must not be negative, got {value!r}")

    @property
    def has_rules(self) -> bool:
        """Whether anything says what to keep; if nothing does, all is kept."""
        return self.keep_last is not None or self.keep_within_seconds is not None


class Candidate(NamedTuple):
    """What the rules look at; `shields` are reasons that stand above any rule."""

    checkpoint_id: str
    seq: int
    at: datetime
    shields: tuple[str, ...] = ()


class Verdict(NamedTuple):
    """One checkpoint, and all the reasons for what becomes of it."""

    checkpoint_id: str
    seq: int
    reasons: tuple[str, ...]


class Plan(NamedTuple):
    """What a policy would do to one job, as of one event of it.

    Attributes:
        plan_id: hash of policy, head and removals; the same plan has the same id.
        head_seq: the job's last event when it was planned; another one makes it stale.
        head_hash: that event's hash.
    """

    job_id: str
    plan_id: str
    policy: Policy
    head_seq: int
    head_hash: str
    keep: tuple[Verdict, ...]
    remove: tuple[Verdict, ...]


def check_keep_last(keep_last: object) -> int:
    """Return `keep_last` if it is a whole number of at least 1.

    Raises:
        InvalidArgument: it is not.
    """
    if isinstance(keep_last, bool) or not isinstance(keep_last, int) or keep_last < 1:
        raise InvalidArgument(
            f"keep_last must be a whole number of at least 1, got {keep_last!r}"
        )
    return keep_last


def decide(
    candidates: Sequence[Candidate], policy: Policy, now: datetime
) -> tuple[tuple[Verdict, ...], tuple[Verdict, ...]]:
    """Return what `policy` keeps and what it removes, newest first, with reasons.

    Order is that of the events, since a clock may jump; the input's order does not
    matter and it is not changed.  The keep rules are those of restic's ``forget``.

    Raises:
        InvalidArgument: the policy is out of bounds.
    """
    policy.check()
    newest_first = sorted(candidates, key=lambda c: c.seq, reverse=True)
    keep: list[Verdict] = []
    remove: list[Verdict] = []
    for position, candidate in enumerate(newest_first, start=1):
        reasons = [*candidate.shields]
        if position == 1:
            reasons.append("newest")
        reasons += _keep_reasons(candidate, position, newest_first[0], policy, now)
        if reasons:
            keep.append(_verdict(candidate, reasons))
        else:
            remove.append(_verdict(candidate, [_miss(position, policy)]))
    return tuple(keep), tuple(remove)


def _keep_reasons(
    candidate: Candidate,
    position: int,
    newest: Candidate,
    policy: Policy,
    now: datetime,
) -> list[str]:
    reasons: list[str] = []
    if not policy.has_rules:
        return ["no rule"]
    if policy.keep_last is not None and position <= policy.keep_last:
        reasons.append(f"last #{position}")
    within = policy.keep_within_seconds
    if within is not None and (newest.at - candidate.at).total_seconds() < within:
        reasons.append(f"within {within:g} s of the newest")
    if position <= policy.min_keep:
        reasons.append(f"min_keep {policy.min_keep}")
    age_seconds = (now - candidate.at).total_seconds()
    if policy.min_age_seconds and age_seconds < policy.min_age_seconds:
        reasons.append(f"younger than min_age {policy.min_age_seconds:g} s")
    return reasons


def _miss(position: int, policy: Policy) -> str:
    """Say by how little the rules missed it."""
    parts = [f"#{position} by age"]
    if policy.keep_last is not None:
        parts.append(f"keep_last = {policy.keep_last}")
    if policy.keep_within_seconds is not None:
        parts.append(f"keep_within = {policy.keep_within_seconds:g} s")
    return "; ".join(parts)


def _verdict(candidate: Candidate, reasons: list[str]) -> Verdict:
    return Verdict(candidate.checkpoint_id, candidate.seq, tuple(reasons))


def plan_id(
    job_id: str, policy: Policy, head: tuple[int, str], remove: Sequence[Verdict]
) -> str:
    """Return the id of a plan: 16 hex digits that change with anything it rests on."""
    removed = sorted(v.checkpoint_id for v in remove)
    raw = orjson.dumps([job_id, policy._asdict(), head, removed])
    return hashlib.sha256(raw).hexdigest()[:16]


def describe(policy: Policy) -> dict[str, object]:
    """Return the policy as an event holds it: its name and what differs from none."""
    unset = Policy(policy.name)._asdict()
    values = policy._asdict().items()
    return {k: v for k, v in values if k == "name" or v != unset[k]}
