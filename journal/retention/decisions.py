"""Decide which checkpoints a policy keeps and removes, with reasons.  Pure.

| part | effect |
|---|---|
| shields | held, pinned, current, newest, `min_age`, `min_keep`, start of windows |
| keep rules | independent and ORed (`keep_rules`); with none, everything is kept |
| caps | remove the oldest kept by rules; never a shielded one |
| guard | a plan that removes much of a job requires confirmation |

Shields only add reasons: a shielded checkpoint takes part in the rules and may use a
slot.  Checkpoints are ordered by seq, since a clock may jump.
"""

from __future__ import annotations

from heapq import nlargest
from itertools import chain
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple

from milepost.journal.retention.duration import as_span, how_long
from milepost.journal.retention.keep_rules import (
    CURRENT,
    Candidate,
    Item,
    KeepRule,
    Newest,
    counted_from,
    rules_for,
    rules_for_failed,
    zone_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import datetime, tzinfo

    from milepost.journal.retention.policy import Policy

# The guard ignores smaller jobs: a few removals are a large fraction of them.
GUARD_FROM = 11
NO_RULE = "no keep rule"
_by_seq = attrgetter("seq")


class Verdict(NamedTuple):
    """The decision about one checkpoint.

    Attributes:
        reasons: if kept, all of them, shields first; if removed, the rule that removes
            it and the first keep rule that it missed.
        is_firm: no cap removes it.
    """

    checkpoint_id: str
    seq: int
    reasons: tuple[str, ...]
    at: datetime
    stored_bytes: int = 0
    is_firm: bool = False


class Decision(NamedTuple):
    """The checkpoints to keep and to remove, both newest first."""

    keep: tuple[Verdict, ...] = ()
    remove: tuple[Verdict, ...] = ()


class Ruling(NamedTuple):
    """The result of one rule for one checkpoint.

    Attributes:
        keeps: whether the rule keeps it.
        is_cap: the rule is a cap, and removes what other rules keep.
    """

    keeps: bool
    text: str
    is_cap: bool = False


def decide(candidates: Sequence[Candidate], policy: Policy, now: datetime) -> Decision:
    """Return which candidates `policy` keeps and removes, each with its reasons.

    The order of the input does not matter; the input is not changed.
    """
    if not candidates:
        return Decision()
    groups = _groups(candidates)
    shields = _shields(groups, policy, now)
    has_rules = bool(policy.rules)
    kept: list[Verdict] = []
    gone: list[Verdict] = []
    for item, rules, reasons in _judge(groups, policy, now):
        firm = shields.get(item.candidate.seq, [])
        why = (*firm, *reasons) if has_rules else (*firm, NO_RULE)
        if why:
            kept.append(_verdict(item.candidate, why, is_firm=bool(firm)))
        else:
            why = ("no rule keeps it", rules[0].missed(item))
            gone.append(_verdict(item.candidate, why))
    kept.sort(key=_by_seq, reverse=True)
    kept, capped = _cap(kept, policy, now)
    gone = sorted([*gone, *capped], key=_by_seq, reverse=True)
    return Decision(tuple(kept), tuple(gone))


def newest(candidates: Sequence[Candidate], keep_last: int) -> Decision:
    """Return the decision of a caller's cleanup: keep the N newest unprotected ones.

    Protected ones are kept in addition.  The current, the newest and failed checkpoints
    have no special treatment.
    """
    rule = Newest("keep_last", keep_last)
    kept: list[Verdict] = []
    gone: list[Verdict] = []
    position = 0
    for candidate in sorted(candidates, key=_by_seq, reverse=True):
        protected = tuple(s for s in candidate.shields if s != CURRENT)
        if protected:
            kept.append(_verdict(candidate, protected, is_firm=True))
            continue
        position += 1
        item = Item(candidate, position, is_oldest=False, local=candidate.at)
        if (reason := rule.keeps(item)) is not None:
            kept.append(_verdict(candidate, (reason,)))
        else:
            gone.append(_verdict(candidate, (rule.missed(item),)))
    return Decision(tuple(kept), tuple(gone))


def explain(
    candidates: Sequence[Candidate], policy: Policy, now: datetime, checkpoint_id: str
) -> tuple[Ruling, ...]:
    """Return the result of every rule for one checkpoint, shields first.

    Includes the cap that removes it, if there is one.  Empty if the checkpoint is not
    among the candidates.
    """
    groups = _groups(candidates)
    for item, rules, _ in _judge(groups, policy, now, only=checkpoint_id):
        firm = _shields(groups, policy, now).get(item.candidate.seq, [])
        why = firm if policy.rules else [*firm, NO_RULE]
        said = [Ruling(keeps=True, text=reason) for reason in why]
        for rule in rules:
            reason = rule.keeps(item)
            text = rule.missed(item) if reason is None else reason
            said.append(Ruling(reason is not None, text))
        if policy.caps and any(ruling.keeps for ruling in said):
            gone = decide(candidates, policy, now).remove
            caps = [v.reasons[0] for v in gone if v.checkpoint_id == checkpoint_id]
            said += [Ruling(keeps=False, text=why, is_cap=True) for why in caps]
        return tuple(said)
    return ()


def may_let_go(policy: Policy, count: int) -> bool:
    """Cheap upper bound: False if `policy` cannot remove any of `count` checkpoints.

    True if only `decide` can show it.
    """
    caps = policy.caps
    if caps.keys() - {"max_count"} or count > caps.get("max_count", count):
        return count > policy.min_keep
    if not policy.rules or count <= policy.min_keep:
        return False
    last = policy.keep_last
    keeps_all = last is not None and (last == "all" or last >= count)
    return not keeps_all or policy.keep_failed is not None


def guard(decision: Decision, policy: Policy) -> tuple[str, ...]:
    """Return why a decision requires confirmation; empty if it does not."""
    going, total = len(decision.remove), len(decision.keep) + len(decision.remove)
    fraction = policy.max_remove_fraction
    if total < GUARD_FROM or going / total <= fraction:
        return ()
    return (
        f"{going} of {total} checkpoints would go; max_remove_fraction = {fraction:g}",
    )


def shrink(decisions: Mapping[str, Decision], max_bytes: int) -> dict[str, Decision]:
    """Return the decisions of all jobs, with the oldest removed to fit a budget.

    Args:
        decisions: by job id.
        max_bytes: bound on the total size of the kept checkpoints.  Shields and floors
            take precedence.
    """
    kept = [(v, job) for job, found in decisions.items() for v in found.keep]
    left = sum(verdict.stored_bytes for verdict, _ in kept)
    gone: dict[str, dict[int, Verdict]] = {}
    for verdict, job in sorted(kept, key=lambda k: (k[0].at, k[1], k[0].seq)):
        if left <= max_bytes:
            break
        if not verdict.is_firm:
            left -= verdict.stored_bytes
            why = f"max_store_bytes = {max_bytes}"
            gone.setdefault(job, {})[verdict.seq] = _removed_by(verdict, why)
    return {job: _without(found, gone.get(job, {})) for job, found in decisions.items()}


def _judge(
    groups: Sequence[Sequence[Candidate]],
    policy: Policy,
    now: datetime,
    only: str | None = None,
) -> Iterator[tuple[Item, list[KeepRule], list[str]]]:
    """Apply the keep rules to each group, from the newest to the oldest.

    With `only`, yield just that candidate, before the rules see it.
    """
    zone = zone_of(policy)
    for group in groups:
        prepare = rules_for_failed if group[0].is_failed else rules_for
        rules = prepare(policy, group, now, zone)
        oldest = len(group)
        for position, candidate in enumerate(group, start=1):
            local = _local(candidate.at, zone)
            item = Item(candidate, position, position == oldest, local)
            if candidate.checkpoint_id == only:
                yield item, rules, []
                return
            reasons = [r for rule in rules if (r := rule.keeps(item)) is not None]
            if only is None:
                yield item, rules, reasons


def _local(at: datetime, zone: tzinfo) -> datetime:
    try:
        return at.astimezone(zone)
    except OverflowError:  # on the calendar's first or last day
        return at


def _groups(candidates: Sequence[Candidate]) -> list[list[Candidate]]:
    """Split into not failed and failed, newest first; empty groups are left out."""
    newest_first = sorted(candidates, key=_by_seq, reverse=True)
    good = [c for c in newest_first if not c.is_failed]
    if len(good) == len(newest_first):
        return [good] if good else []
    failed = [c for c in newest_first if c.is_failed]
    return [group for group in (good, failed) if group]


def _shields(
    groups: Sequence[Sequence[Candidate]], policy: Policy, now: datetime
) -> dict[int, list[str]]:
    """Return the reasons of shielded candidates by seq; no rule or cap removes them."""
    candidates = [*chain.from_iterable(groups)]
    found = {c.seq: [*c.shields] for c in candidates if c.shields}
    newest = max((group[0] for group in groups), key=_by_seq)
    found.setdefault(newest.seq, []).append("newest")
    if newest.is_failed and not groups[0][0].is_failed:
        found.setdefault(groups[0][0].seq, []).append("newest that did not fail")
    for group in groups if policy.windows else ():
        # They differ if a clock jumped.  If a cap removed either of them, the windows
        # would move, and the next run would remove more.
        start = counted_from(group, now)
        if start is not None and start is not group[0]:
            found.setdefault(group[0].seq, ["newest of its kind"])
            found.setdefault(start.seq, []).append("windows count from it")
    min_age = as_span(policy.min_age)
    if any(min_age):
        born = min_age.before(now, zone_of(policy))
        reason = f"younger than min_age = {min_age}"
        for candidate in candidates:
            if candidate.at > born:
                found.setdefault(candidate.seq, []).append(reason)
    if policy.min_keep > 1:
        reason = f"min_keep = {policy.min_keep}"
        for candidate in nlargest(policy.min_keep, candidates, key=_by_seq):
            found.setdefault(candidate.seq, []).append(reason)
    return found


def _cap(
    kept: list[Verdict], policy: Policy, now: datetime
) -> tuple[list[Verdict], list[Verdict]]:
    """Apply the caps to kept candidates, newest first; return the kept and removed."""
    if not policy.caps:
        return kept, []
    gone: dict[int, Verdict] = {}
    if policy.max_age is not None:
        max_age = as_span(policy.max_age)
        born = max_age.before(now, zone_of(policy))
        for verdict in kept:
            if verdict.at <= born and not verdict.is_firm:
                age = how_long(now - verdict.at)
                why = f"{age} old; max_age = {max_age}"
                gone[verdict.seq] = _removed_by(verdict, why)
    left = [v for v in kept if v.seq not in gone]
    count, size = len(left), sum(v.stored_bytes for v in left)
    most, most_bytes = policy.max_count, policy.max_bytes
    for verdict in reversed(left):
        if verdict.is_firm:
            continue
        if most is not None and count > most:
            why = f"{count} were left; max_count = {most}"
        elif most_bytes is not None and size > most_bytes:
            why = f"{size} bytes were left; max_bytes = {most_bytes}"
        else:
            break
        gone[verdict.seq] = _removed_by(verdict, why)
        count, size = count - 1, size - verdict.stored_bytes
    return [v for v in kept if v.seq not in gone], list(gone.values())


def _removed_by(verdict: Verdict, why: str) -> Verdict:
    return verdict._replace(reasons=(why, f"would stay by: {verdict.reasons[0]}"))


def _without(decision: Decision, gone: Mapping[int, Verdict]) -> Decision:
    if not gone:
        return decision
    keep = tuple(v for v in decision.keep if v.seq not in gone)
    remove = sorted([*decision.remove, *gone.values()], key=_by_seq, reverse=True)
    return Decision(keep, tuple(remove))


def _verdict(
    candidate: Candidate, reasons: tuple[str, ...], *, is_firm: bool = False
) -> Verdict:
    return Verdict(
        candidate.checkpoint_id,
        candidate.seq,
        reasons,
        candidate.at,
        candidate.stored_bytes,
        is_firm,
    )
