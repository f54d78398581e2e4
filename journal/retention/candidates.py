"""Candidates and plans: the input and output of `decisions`, from a job's view."""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Any

from milepost.journal.clock import moment
from milepost.journal.errors import UnreadableState
from milepost.journal.retention import decisions
from milepost.journal.retention.keep_rules import CURRENT, Candidate
from milepost.journal.retention.plans import JobPlan
from milepost.journal.retention.policy import policy_hash

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from milepost.journal.index.entries import Entry
    from milepost.journal.index.job_view import JobView
    from milepost.journal.retention.decisions import Decision
    from milepost.journal.retention.policy import Policy

    ReadMetadata = Callable[[JobView, Entry], dict[str, Any]]

_WORD_FOR = {str: "text", bool: "true or false", list: "a list", dict: "an object"}
OVER_LIMIT = ("over the limit of one run",)


def candidates(
    view: JobView, entries: Iterable[Entry], policy: Policy, read: ReadMetadata
) -> list[Candidate]:
    """Return the input of the rules: live `entries`, with their shields.

    Args:
        view: the job's view.
        entries: all live checkpoints.
        policy: metadata is read only if it ranks by a metric.
        read: returns a checkpoint's metadata.
    """
    entries = [*entries]
    current, held, pinned = view.current, view.held, view.pinned
    needed = view.needed()
    best = policy.keep_best
    found = []
    for entry, size in zip(entries, view.sizes.of(entries), strict=True):
        shields = []
        if entry.checkpoint_id in held:
            shields.append("held")
        if entry.checkpoint_id in pinned:
            shields.append("pinned")
        if (why := needed.get(entry.checkpoint_id)) is not None:
            shields.append(why)
        if entry is current:
            shields.append(CURRENT)
        metric = not_a_number = None
        if best is not None:
            try:
                metric, not_a_number = _number_at(read(view, entry), best.metric)
            except UnreadableState:
                shields.append(f"its {best.metric!r} cannot be read")
        found.append(
            Candidate(
                entry.checkpoint_id,
                entry.seq,
                moment(entry.at),
                tuple(shields),
                view.sizes.number_of(entry.seq),
                entry.labels.tags,
                size,
                entry.labels.is_failed,
                metric,
                not_a_number,
            )
        )
    return found


def with_needed(view: JobView, decision: Decision) -> Decision:
    """Return a decision that also keeps what kept checkpoints of a thread need."""
    if view.threads is None or not decision.remove:
        return decision
    needs = view.threads.needs([verdict.checkpoint_id for verdict in decision.keep])
    saved = [v for v in decision.remove if v.checkpoint_id in needs]
    if not saved:
        return decision
    keep = [
        *decision.keep,
        *(v._replace(reasons=(needs[v.checkpoint_id],), is_firm=True) for v in saved),
    ]
    keep.sort(key=attrgetter("seq"), reverse=True)
    remove = tuple(v for v in decision.remove if v.checkpoint_id not in needs)
    return decisions.Decision(tuple(keep), remove)


def job_plan(
    view: JobView,
    decision: Decision,
    policy: Policy,
    limit: int | None = None,
    *,
    is_confirmed: Callable[[str], bool] = lambda _: False,
) -> JobPlan:
    """Return the plan that carries out `decision`.

    Args:
        view: the view that the decision is based on.
        decision: the checkpoints to keep and to remove.
        policy: the policy of the decision.
        limit: remove at most this many, the oldest; the rest waits for the next run.
        is_confirmed: whether a plan of the policy with this hash was confirmed before.
    """
    keep, remove = decision
    waits = decisions.guard(decision, policy)
    if waits and is_confirmed(policy_hash(policy)):
        waits = ()
    if limit is not None and len(remove) > limit:
        spared = len(remove) - limit
        later = (v._replace(reasons=OVER_LIMIT) for v in remove[:spared])
        keep = tuple(sorted((*keep, *later), key=attrgetter("seq"), reverse=True))
        remove = remove[spared:]
    keep, remove = with_needed(view, decisions.Decision(keep, remove))
    if not remove:
        waits = ()
    return JobPlan(view.job_id, policy, view.seq, view.hash or "", keep, remove, waits)


def _number_at(metadata: dict[str, Any], path: str) -> tuple[float | None, str | None]:
    """Return the number at a dotted path, or else the type found there."""
    found: Any = metadata.get(path)
    if found is None:
        found = metadata
        for part in path.split("."):
            found = found.get(part) if isinstance(found, dict) else None
    if isinstance(found, (int, float)) and not isinstance(found, bool):
        return float(found), None
    return None, None if found is None else _WORD_FOR[type(found)]
