"""One checkpoint in the index of a job.  Pure."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from milepost.journal.events.vocabulary import DEFAULT_WORKFLOW_VERSION

if TYPE_CHECKING:
    from collections.abc import Iterable


class Labels(NamedTuple):
    """Fields that many checkpoints of a workflow share; one object for all of them."""

    workflow_name: str | None = None
    workflow_version: str = DEFAULT_WORKFLOW_VERSION
    tags: tuple[str, ...] = ()
    has_metadata: bool = False
    is_failed: bool = False
    trigger: str | None = None  # saved it
    is_aside: bool = False  # saving it did not make it current


class Entry:
    """One checkpoint, with the fields that lists and policies need.

    Slots and shared values keep it under 400 bytes, its place in `Checkpoints` too.
    """

    __slots__ = ("at", "checkpoint_id", "labels", "parent_id", "seq", "step_name")

    def __init__(
        self,
        checkpoint_id: str,
        step_name: str,
        seq: int,
        parent_id: str | None,
        at: str,
        labels: Labels,
    ) -> None:
        self.checkpoint_id = checkpoint_id
        self.step_name = step_name
        self.seq = seq
        self.parent_id = parent_id
        self.at = at
        self.labels = labels


# Higher ones take longer and save little.
_LEVEL = 1
# Stands for the entry before it in the same columns: the usual parent.
_BEFORE = 0


def to_columns(entries: Iterable[Entry]) -> list[list[Any]]:
    """Return entries as columns of plain JSON; `of_columns` is the inverse."""
    steps: dict[str, int] = {}
    labels: dict[Labels, int] = {}
    rows = []
    before: str | None = ""
    for entry in entries:
        parent_id = entry.parent_id
        rows.append(
            (
                entry.checkpoint_id,
                steps.setdefault(entry.step_name, len(steps)),
                entry.seq,
                _BEFORE if parent_id == before else parent_id,
                entry.at,
                labels.setdefault(entry.labels, len(labels)),
            )
        )
        before = entry.checkpoint_id
    columns = [*map(list, zip(*rows, strict=True))]
    return [[*steps], [[*found] for found in labels], *columns]


def of_columns(columns: list[list[Any]], shared: dict[Any, Any]) -> list[Entry]:
    """Return entries from `to_columns`.

    Args:
        columns: from `to_columns`.
        shared: the job's step names and labels, each of them once; may be extended.
    """
    steps = [shared.setdefault(step, step) for step in columns[0]]
    labels = []
    for workflow, version, tags, *flags in columns[1]:
        made = Labels(workflow, version, tuple(tags), *flags)
        labels.append(shared.setdefault(made, made))
    entries = []
    before = None
    for checkpoint_id, step, seq, parent_id, at, label in zip(
        *columns[2:], strict=True
    ):
        if parent_id == _BEFORE:
            parent_id = before  # noqa: PLW2901 - the same string, not an equal one
        entries.append(
            Entry(checkpoint_id, steps[step], seq, parent_id, at, labels[label])
        )
        before = checkpoint_id
    return entries


def pack(entries: Iterable[Entry]) -> bytes:
    """Return entries as compressed columns; `unpack` is the inverse."""
    return zlib.compress(orjson.dumps(to_columns(entries)), _LEVEL)


def unpack(packed: bytes, shared: dict[Any, Any]) -> list[Entry]:
    """Return entries from `pack`; see `of_columns`."""
    return of_columns(orjson.loads(zlib.decompress(packed)), shared)
