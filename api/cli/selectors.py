"""Selectors: the part of `JOB@SELECTOR` that picks a checkpoint.

`JOB` alone means `JOB@current` in commands that read a checkpoint or continue from it.
Commands that remove or protect a checkpoint need a selector.

| selector | checkpoint |
|---|---|
| `latest` | the newest |
| `first` | the oldest live one |
| `current` | what a resumed job continues from |
| `12` | the one that event 12 of its job saved |
| `-1`, `-2` … | counted from the newest |
| `tag:prod` | the newest with that tag |
| `2026-11-20T10:00` | the newest at that time (UTC if no offset is given) |
| anything else | the checkpoint with that id |
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

from milepost.api.cli.exits import Failure
from milepost.api.cli.targets import Target, require_job

if TYPE_CHECKING:
    from collections.abc import Sequence

    from milepost.journal.manager import CheckpointManager
    from milepost.journal.models import CheckpointInfo

_NUMBER = re.compile(r"-?[0-9]{1,18}")
_INSTANT = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}([T ].*)?")
_TAG = "tag:"


class Word(Enum):
    """The selectors without a parameter."""

    LATEST = "latest"
    FIRST = "first"
    CURRENT = "current"


class AtSeq(NamedTuple):
    """`@12`."""

    seq: int


class FromEnd(NamedTuple):
    """`@-2`: 1 is the newest."""

    position: int


class Tagged(NamedTuple):
    """`@tag:prod`."""

    tag: str


class AsOf(NamedTuple):
    """`@2026-11-20T10:00`."""

    instant: datetime


class WithId(NamedTuple):
    """`@load_1795416000_1a2b3c4d`."""

    checkpoint_id: str


Selector = Word | AtSeq | FromEnd | Tagged | AsOf | WithId

_WORDS = {word.value: word for word in Word}


def parse_selector(text: str) -> Selector:
    """Parse one selector.

    Raises:
        Failure: usage, for an invalid instant or position.
    """
    if text in _WORDS:
        return _WORDS[text]
    if text.startswith(_TAG):
        return Tagged(text.removeprefix(_TAG))
    if _NUMBER.fullmatch(text):
        number = int(text)
        if number == 0:
            raise Failure("usage", "@0 is invalid: seqs start at 1, @-1 is the newest")
        return AtSeq(number) if number > 0 else FromEnd(-number)
    if _INSTANT.fullmatch(text):
        return AsOf(parse_instant(text))
    return WithId(text)


def parse_instant(text: str) -> datetime:
    """Parse an ISO 8601 instant.  Without an offset it is UTC.

    Raises:
        Failure: usage, if it is invalid.
    """
    try:
        instant = datetime.fromisoformat(text)
    except ValueError as exc:
        msg = f"{text!r} is not a date or time: {exc}"
        raise Failure("usage", msg, "write 2026-11-20 or 2026-11-20T10:00Z") from exc
    return instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant


def resolve(manager: CheckpointManager, target: Target) -> CheckpointInfo:
    """Return the live checkpoint that `target` selects, by default the current one.

    Raises:
        Failure: not_found (unknown job or checkpoint), or usage.
        MilepostError: the job's journal can't be read.
    """
    # Not the newest: a restore may have abandoned it.
    text = Word.CURRENT.value if target.selector is None else target.selector
    selector = parse_selector(text)
    require_job(manager, target)
    found = _pick(manager, target.job_id, selector)
    if found is None:
        msg = f"job {target.job_id!r} has no checkpoint '@{text}'"
        hint = "`milepost list` shows those it has; -- before an id that begins with -"
        raise Failure("not_found", msg, hint.partition(";")[0])
    return found


def _pick(
    manager: CheckpointManager, job_id: str, selector: Selector
) -> CheckpointInfo | None:
    match selector:
        case Word.LATEST:
            return manager.latest(job_id)
        case Word.CURRENT:
            return manager.current(job_id)
        case WithId(checkpoint_id):
            # `get` reads the state too, but its error says when and by whom a
            # checkpoint was deleted.
            return manager.get(job_id, checkpoint_id).info
        case _:
            return _among(manager.list(job_id), selector)


def _among(
    checkpoints: Sequence[CheckpointInfo], selector: Selector
) -> CheckpointInfo | None:
    """Choose from the live checkpoints, which are sorted from old to new."""
    match selector:
        case Word.FIRST:
            return next(iter(checkpoints), None)
        case FromEnd(position):
            return checkpoints[-position] if position <= len(checkpoints) else None
        case AtSeq(seq):
            return next((c for c in checkpoints if c.seq == seq), None)
        case Tagged(tag):
            return next((c for c in reversed(checkpoints) if tag in c.tags), None)
        case AsOf(instant):
            early = (c for c in reversed(checkpoints) if c.saved_at <= instant)
            return next(early, None)
        case _:
            raise AssertionError(selector)
