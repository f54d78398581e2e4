"""One checkpoint in the index of a job.  Pure."""

from __future__ import annotations

from typing import NamedTuple

from milepost.journal.events.vocabulary import DEFAULT_WORKFLOW_VERSION


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
