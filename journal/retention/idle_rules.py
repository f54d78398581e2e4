"""Report policy rules that match none of a job's checkpoints, with reasons.  Pure.

Such a rule keeps nothing, and its checkpoints would be removed without notice.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from milepost.journal.retention.keep_rules import tag_text
from milepost.journal.wording import counted

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from milepost.journal.retention.keep_rules import Candidate
    from milepost.journal.retention.policy import Policy


def idle_rules(candidates: Sequence[Candidate], policy: Policy) -> tuple[str, ...]:
    """Return a line for each rule that matches nothing, or less than it may seem to."""
    if not candidates:
        return ()
    return (*_best(candidates, policy), *_tags(candidates, policy))


def _best(candidates: Sequence[Candidate], policy: Policy) -> Iterator[str]:
    if policy.keep_best is None:
        return
    metric, count = policy.keep_best.metric, counted(len(candidates), "checkpoint")
    kinds = Counter(c.not_a_number for c in candidates if c.not_a_number is not None)
    for what, times in kinds.items():
        yield (f"keep_best: {metric} is {what} in {times} of {count}, not a number")
    if not kinds and all(c.metric is None for c in candidates):
        yield f"keep_best: none of {count} has {metric} in its metadata"


def _tags(candidates: Sequence[Candidate], policy: Policy) -> Iterator[str]:
    for tags in map(frozenset, policy.keep_tags or ()):
        if not any(tags.issubset(c.tags) for c in candidates):
            count = counted(len(candidates), "checkpoint")
            yield f"keep_tags: none of {count} has {tag_text(tags)}"
