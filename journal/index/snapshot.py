"""A snapshot of a view: a cache of the fold that opens without its events.  Pure.

Live checkpoints, their sizes and places are columns, which open without an object for
each of them.  All else is one JSON object.
"""

from __future__ import annotations

import zlib
from array import array
from binascii import a2b_base64, b2a_base64
from datetime import datetime
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any, TypeVar

import orjson

from milepost.journal.events.codec import STATE_MISSING
from milepost.journal.events.vocabulary import EVENT_TYPES, SCHEMA_VERSION
from milepost.journal.index import entries
from milepost.journal.index.answers import Answered
from milepost.journal.index.checkpoints import Checkpoints, Packed
from milepost.journal.index.durable import Child, Durable, Recorded
from milepost.journal.index.entries import Entry
from milepost.journal.index.entry_keys import EntryKeys
from milepost.journal.index.executions import Approval, Execution, Step, Vote, Workflows
from milepost.journal.index.job_view import (
    MALFORMED,
    Completion,
    JobView,
    LegalHold,
    Trashed,
)
from milepost.journal.index.lineage import Lineage
from milepost.journal.index.threads import Fact, Group, Threads, of_rows, to_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

_T = TypeVar("_T")

# Count it up when the same events fold to another view, or the parts change; or when a
# view gives another summary of its job (`reading/summaries.py`).
_FORMAT = 4
_CLASSES: tuple[Any, ...] = (
    JobView,
    Entry,
    Trashed,
    Execution,
    Step,
    Approval,
    Vote,
    Durable,
    Threads,
    Fact,
    Group,
)
# A view is only as good as the fold that made it: a version that knows other events or
# keeps other fields of them folds from the start.
FOLD = zlib.crc32(
    orjson.dumps(
        [
            [_FORMAT, SCHEMA_VERSION, sorted(EVENT_TYPES)],
            [getattr(c, "_fields", None) or c.__slots__ for c in _CLASSES],
        ]
    )
)
# Attributes of a view that are plain JSON.
_PLAIN = (
    *("job_id", "store_id", "origin", "kind", "seq", "hash", "last_at", "created_at"),
    *("stored_bytes", "saved", "deleted", "restored", "keys", "salvage_files"),
)


def encode(view: JobView) -> list[bytes] | None:
    """Return a view as parts; None if it has damage or newer events.

    Nothing of it may change meanwhile.
    """
    is_whole = all(fault == STATE_MISSING for fault in view.faults.values())
    if (
        view.newer_seq
        or not is_whole
        or any(map(view.checkpoints.saved_as, view.faults))
    ):
        return None
    packed = view.checkpoints.packed()
    trash, known = view.trash.values(), view.workflows
    values: dict[str, Any] = {name: getattr(view, name) for name in _PLAIN}
    values |= {
        "fold": FOLD,
        "size": packed.size,
        "blocks": [[number, len(data)] for number, data in packed.blocks.items()],
        "trash": entries.to_columns(trashed.entry for trashed in trash),
        "trashed": [trashed[1:] for trashed in trash],
        "current": view.current and view.current.checkpoint_id,
        "chosen": view.chosen and view.chosen.checkpoint_id,
        "confirmed": sorted(view.confirmed),
        "pinned": sorted(view.pinned),
        "held": view.held,
        "answered": view.answered,
        "lineage": [view.lineage.tip, view.lineage.branches()],
        "missing": [*view.faults],
        "losses": view.losses,
        "completion": view.completion,
        "executions": [*known.executions.values()],
        "live": [*known.live],
        "approvals": [*known.approvals.values()],
        "erased_seq": known.erased_seq,
        "entry_keys": view.entry_keys
        and b2a_base64(view.entry_keys.packed(), newline=False).decode(),
        "threads": to_rows(view.threads),
    }
    return [
        orjson.dumps(values, default=_row),
        b"".join(packed.blocks.values()),
        array("Q", packed.crcs).tobytes(),
        *(column.tobytes() for column in view.sizes.columns),
    ]


def _row(value: Any) -> list[Any]:
    """Return the fields of a value that is no plain JSON, in order."""
    if isinstance(value, tuple):
        return [*value]
    return [getattr(value, name) for name in value.__slots__]


def decode(parts: Sequence[bytes], job_id: str, store_id: str | None) -> JobView | None:
    """Return the view that `encode` got, None if this version cannot use it."""
    try:
        return _decoded(parts, job_id, store_id)
    except MALFORMED:
        return None


def _decoded(
    parts: Sequence[bytes], job_id: str, store_id: str | None
) -> JobView | None:
    plain, blocks, index, *sizes = parts
    values = orjson.loads(plain)
    if values["fold"] != FOLD or values["job_id"] != job_id:
        return None
    if store_id not in (None, values["store_id"]):
        return None
    view = JobView(job_id, store_id)
    for name in _PLAIN:
        setattr(view, name, values[name])
    view.checkpoints = _checkpoints(values, blocks, index, view.shared)
    for column, data in zip(view.sizes.columns, sizes, strict=True):
        column.frombytes(data)
    trash = entries.of_columns(values["trash"], view.shared)
    for entry, row in zip(trash, values["trashed"], strict=True):
        view.trash[entry.checkpoint_id] = Trashed(entry, *row)
    view.latest = next(view.checkpoints.newest_first(), None)
    view.current = view.checkpoints.get(values["current"])
    chosen = values["chosen"]
    view.chosen = (
        view.trash[chosen].entry
        if chosen in view.trash
        else view.checkpoints.get(chosen)
    )
    view.confirmed = frozenset(values["confirmed"])
    view.pinned = {*values["pinned"]}
    view.held = {name: LegalHold(*row) for name, row in values["held"].items()}
    for key, (digest, first, last, at) in values["answered"].items():
        moment = datetime.fromisoformat(at)
        view.answered[key] = Answered(digest, first, last, moment)
    view.lineage = _lineage(*values["lineage"])
    view.faults = dict.fromkeys(values["missing"], STATE_MISSING)
    view.losses = [(seq, lost) for seq, lost in values["losses"]]
    if (row := values["completion"]) is not None:
        view.completion = Completion(*row)
    view.workflows = _workflows(values)
    if (keys := values["entry_keys"]) is not None:
        view.entry_keys = EntryKeys(a2b_base64(keys))
    view.threads = of_rows(values["threads"], view.trash)
    return view


def _checkpoints(
    values: dict[str, Any], blocks: bytes, index: bytes, shared: dict[Any, Any]
) -> Checkpoints:
    numbers, lengths = [*zip(*values["blocks"], strict=True)] or ((), ())
    places = pairwise(accumulate(lengths, initial=0))
    data = {
        n: blocks[start:end] for n, (start, end) in zip(numbers, places, strict=True)
    }
    return Checkpoints(Packed(values["size"], data, array("Q", index)), shared)


def _lineage(tip: int, branches: list[list[int]]) -> Lineage:
    lineage = Lineage()
    for seq, parent in branches:
        lineage.branch(seq, parent)
    lineage.tip = tip
    return lineage


def _workflows(values: dict[str, Any]) -> Workflows:
    known = Workflows()
    known.erased_seq = values["erased_seq"]
    for row in values["executions"]:
        made = _filled(Execution, row)
        made.steps = [_filled(Step, step) for step in made.steps]
        made.signals = [(seq, name) for seq, name in made.signals]
        made.durable = durable = _filled(Durable, made.durable)
        durable.recorded = {k: Recorded(*v) for k, v in durable.recorded.items()}
        durable.children = {k: Child(*v) for k, v in durable.children.items()}
        known.executions[made.execution_id] = made
    steps = (step for each in known.executions.values() for step in each.steps)
    known.steps = {step.checkpoint_id: step for step in steps}
    known.live = {name: known.executions[name] for name in values["live"]}
    for row in values["approvals"]:
        approval = _filled(Approval, row)
        approval.approvers = tuple(approval.approvers)
        approval.votes = [Vote(*vote) for vote in approval.votes]
        approval.ended = approval.ended and Vote(*approval.ended)
        known.approvals[approval.approval_id] = approval
    return known


def _filled(kind: type[_T], row: Any) -> _T:
    made = kind.__new__(kind)
    for name, value in zip(kind.__slots__, row, strict=True):  # type: ignore[attr-defined]
        setattr(made, name, value)
    return made
