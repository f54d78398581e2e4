"""The vocabulary: every fact that a journal can hold.

Events are `TypedDict`s, that is, exactly what `orjson.loads` returns: replay builds no
object per event (docs/adr/0003), type checkers see every field, and pydantic validates
the same definitions wherever data crosses a boundary.
"""

from __future__ import annotations

import sys
from typing import Any, Literal, NotRequired

if sys.version_info >= (3, 12):
    from typing import TypedDict
else:  # pydantic cannot look into the standard library's before 3.12
    from typing_extensions import TypedDict

SCHEMA_VERSION = 1
# Recorded by `save` unless told otherwise, and meant by an event without a version.
DEFAULT_WORKFLOW_VERSION = "1.0"


class Envelope(TypedDict):
    """What every event has in common.

    `seq` is 1..n without gaps per job; `at` is informative, never an order; `span` is
    the first and last seq of the write that carried this event, if it carried more.
    """

    v: int
    seq: int
    at: str
    actor: str
    span: NotRequired[list[int]]
    hash: str


class ForkOrigin(TypedDict):
    """Where a forked job came from."""

    job: str
    checkpoint_id: str
    seq: int
    hash: str


class JobOpenedData(TypedDict):
    """The true id of the job, and what binds its chain to this store."""

    job: str
    store: str
    nonce: str
    forked_from: NotRequired[ForkOrigin]


class JobRepairedData(TypedDict):
    """What a recovery did: why, which bytes it cut and where they are kept.

    `lost_hash` is that of the last acknowledged event, if that is among the lost.
    """

    reason: Literal[
        "torn_tail", "head_missing", "sync_failed", "damaged", "journal_missing"
    ]
    offset: NotRequired[int]
    cut_bytes: NotRequired[int]
    salvage_file: NotRequired[str]
    lost_events: NotRequired[int]
    lost_hash: NotRequired[str]


class StatefulData(TypedDict):
    """What the data of any event with a state has, whatever its type.

    `state_digest` is the salted digest of metadata and state, `state_bytes` the length
    of the state (FORMAT.md).  `state_type` is there if the state is no JSON; this
    version writes none such, and reads none.
    """

    state_digest: str
    state_bytes: int
    state_type: NotRequired[str]


class CheckpointSavedData(StatefulData):
    """A new checkpoint; the state line right above this event holds its state.

    `parent` is the seq of the checkpoint that was current, 0 for a root.
    `saved_at` is there if the checkpoint was imported: when it was saved, where `at` is
    when it was imported.
    """

    checkpoint_id: str
    step_name: str
    parent: int
    workflow_name: NotRequired[str]
    workflow_version: NotRequired[str]
    tags: NotRequired[list[str]]
    pinned: NotRequired[bool]
    idempotency_key: NotRequired[str]
    has_metadata: NotRequired[bool]
    failed: NotRequired[bool]
    saved_at: NotRequired[str]


class CheckpointRestoredData(TypedDict):
    """`checkpoint_id` became current; `previous` was, if there was one.

    `migrated_from` and `migrated_to` are workflow versions: the state was handed out as
    the second has it.  What is stored is still of the first.
    """

    checkpoint_id: str
    previous: NotRequired[str]
    migrated_from: NotRequired[str]
    migrated_to: NotRequired[str]


class CheckpointChangedData(TypedDict):
    """One checkpoint was pinned, unpinned, held or released."""

    checkpoint_id: str
    reason: NotRequired[str]


class CheckpointRemovedData(TypedDict):
    """One checkpoint was deleted, undeleted or purged.

    `current` is there if another checkpoint became current by that: its id, or null if
    none is left.
    """

    checkpoint_id: str
    reason: NotRequired[str]
    current: NotRequired[str | None]


class CheckpointsCleanedData(TypedDict):
    """A policy, or a caller's cleanup, removed checkpoints: a reason for each.

    `confirmed`: the plan required confirmation, and the actor gave it.  `current` is
    there if the current checkpoint is among the removed: the id of the new one, or null
    if none is left.
    """

    removed: dict[str, str]
    kept: int
    policy: dict[str, Any]
    plan_id: NotRequired[str]
    confirmed: NotRequired[bool]
    trash_until: str
    current: NotRequired[str | None]


class JobCompletedData(TypedDict):
    """How the job ended; saving or restoring begins it again."""

    failed: NotRequired[bool]
    reason: NotRequired[str]


class JobErasedData(TypedDict):
    """All states of the job go; the record stays."""

    reason: NotRequired[str]


class JobCompactedData(TypedDict):
    """The journal was rewritten without the states that had to go.

    Bytes are those of the journal, before and after, without this event.  `erased` are
    runs of events, first and last: the checkpoints saved in them that are deleted by
    now have no state any more, and cannot come back.
    """

    dropped: int
    reencoded: int
    bytes_before: int
    bytes_after: int
    erased: NotRequired[list[list[int]]]
    salvage_files: NotRequired[list[str]]


class JobOpened(Envelope):
    """The first event of every journal."""

    type: Literal["job.opened"]
    data: JobOpenedData


class JobRepaired(Envelope):
    """A recovery changed the file; nothing acknowledged was lost unless it says so."""

    type: Literal["job.repaired"]
    data: JobRepairedData


class CheckpointSaved(Envelope):
    """A checkpoint was saved and is current."""

    type: Literal["checkpoint.saved"]
    data: CheckpointSavedData


class CheckpointRestored(Envelope):
    """A checkpoint was restored and is current."""

    type: Literal["checkpoint.restored"]
    data: CheckpointRestoredData


class CheckpointDeleted(Envelope):
    """A checkpoint left the lists; its state follows after the trash period."""

    type: Literal["checkpoint.deleted"]
    data: CheckpointRemovedData


class CheckpointUndeleted(Envelope):
    """A deleted checkpoint came back."""

    type: Literal["checkpoint.undeleted"]
    data: CheckpointRemovedData


class CheckpointPinned(Envelope):
    """No policy removes it, and deleting it needs force."""

    type: Literal["checkpoint.pinned"]
    data: CheckpointChangedData


class CheckpointUnpinned(Envelope):
    """The pin is gone."""

    type: Literal["checkpoint.unpinned"]
    data: CheckpointChangedData


class CheckpointHeld(Envelope):
    """Nothing removes it, no policy and nobody, until it is released."""

    type: Literal["checkpoint.held"]
    data: CheckpointChangedData


class CheckpointReleased(Envelope):
    """The hold is gone."""

    type: Literal["checkpoint.released"]
    data: CheckpointChangedData


class CheckpointPurged(Envelope):
    """Its state goes at the next compaction, trash period or not."""

    type: Literal["checkpoint.purged"]
    data: CheckpointRemovedData


class JobCompleted(Envelope):
    """The job has come to its end, well or not."""

    type: Literal["job.completed"]
    data: JobCompletedData


class JobErased(Envelope):
    """Every state that the job had by then is purged."""

    type: Literal["job.erased"]
    data: JobErasedData


class JobCompacted(Envelope):
    """States that had to go are gone from the journal; no event is."""

    type: Literal["job.compacted"]
    data: JobCompactedData


class CheckpointsCleaned(Envelope):
    """Many checkpoints left the lists at once."""

    type: Literal["checkpoints.cleaned"]
    data: CheckpointsCleanedData


Event = (
    CheckpointSaved
    | CheckpointRestored
    | CheckpointDeleted
    | CheckpointsCleaned
    | CheckpointUndeleted
    | CheckpointPinned
    | CheckpointUnpinned
    | CheckpointHeld
    | CheckpointReleased
    | CheckpointPurged
    | JobOpened
    | JobRepaired
    | JobCompleted
    | JobErased
    | JobCompacted
)
EVENT_TYPES: frozenset[str] = frozenset(
    {
        "checkpoint.saved",
        "checkpoint.restored",
        "checkpoint.deleted",
        "checkpoints.cleaned",
        "checkpoint.undeleted",
        "checkpoint.pinned",
        "checkpoint.unpinned",
        "checkpoint.held",
        "checkpoint.released",
        "checkpoint.purged",
        "job.opened",
        "job.repaired",
        "job.completed",
        "job.erased",
        "job.compacted",
    }
)
