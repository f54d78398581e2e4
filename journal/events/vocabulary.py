"""The vocabulary: the event types of a journal and their data.

Events are `TypedDict`s, exactly as `orjson.loads` returns them: replay builds no object
per event (docs/adr/0003), type checkers see every field, and pydantic validates the
same definitions where data crosses a boundary.
"""

from __future__ import annotations

import sys
from typing import Any, Literal, NotRequired

from milepost.journal.events.envelope import Envelope, RequestData, StatefulData
from milepost.journal.events.workflow_events import (
    WORKFLOW_EVENT_TYPES,
    WorkflowEvent,
)

if sys.version_info >= (3, 12):
    from typing import TypedDict
else:  # pydantic rejects the standard library's TypedDict before 3.12
    from typing_extensions import TypedDict

SCHEMA_VERSION = 1
# The default of `save`, and the version of an event that records none.
DEFAULT_WORKFLOW_VERSION = "1.0"


class ForkOrigin(TypedDict):
    """The checkpoint that a forked job begins with."""

    job: str
    checkpoint_id: str
    seq: int
    hash: str


class CopyOrigin(TypedDict):
    """The thread that a thread was copied from, and its last event then."""

    job: str
    seq: int


class JobOpenedData(TypedDict):
    """The id of the job, and the values that bind its hash chain to this store.

    `kind`: what the job holds if its checkpoints are no states: `log`, `thread`.
    """

    job: str
    store: str
    nonce: str
    kind: NotRequired[str]
    forked_from: NotRequired[ForkOrigin]
    copied_from: NotRequired[CopyOrigin]


class JobRepairedData(TypedDict):
    """A recovery: its reason, the bytes that it cut and the file that keeps them.

    `lost_hash` is the hash of the last acknowledged event, if that event is lost.
    """

    reason: Literal[
        "torn_tail", "head_missing", "sync_failed", "damaged", "journal_missing"
    ]
    offset: NotRequired[int]
    cut_bytes: NotRequired[int]
    salvage_file: NotRequired[str]
    lost_events: NotRequired[int]
    lost_hash: NotRequired[str]


class ThreadPlace(TypedDict):
    """What a checkpoint is in a LangGraph thread.

    `ns`: its namespace, if not empty.  `id`: LangGraph's id, if it is not that of the
    checkpoint.  `parent`: LangGraph's id of its parent, if that is not the checkpoint
    of the event's `parent`.  `root`: the root checkpoint that the call of its namespace
    started from.  `lacks`: channels whose value is in the writes of its ancestors.
    """

    ns: NotRequired[str]
    id: NotRequired[str]
    parent: NotRequired[str]
    run_id: NotRequired[str]
    root: NotRequired[str]
    lacks: NotRequired[list[str]]


# Its field `for` has the name of a keyword.
_WritesFor = TypedDict("_WritesFor", {"for": str})


class WritesSavedData(StatefulData, _WritesFor):
    """What a task of a thread wrote; the state line above has the values.

    `for`: LangGraph's id of the checkpoint that the writes belong to, which may come
    later.  `writes`: index and channel of each.
    """

    task_id: str
    writes: list[list[Any]]
    ns: NotRequired[str]
    task_path: NotRequired[str]


class CheckpointSavedData(StatefulData):
    """A new checkpoint; the state line directly above this event holds its state.

    `parent` is the seq of the checkpoint that was current, 0 for a root.  `saved_at` is
    the original time of an imported checkpoint, whose `at` is the time of the import.
    `execution_id` and `attempt` are set if it completes a step of an execution; with a
    `request_digest`, its key is that of a request, else of a save.  `trigger`: that one
    saved it.  `aside`: it does not become current.  `entry_keys`: of an append to a
    log, see `index/entry_keys.py`.
    """

    checkpoint_id: str
    step_name: str
    parent: int
    workflow_name: NotRequired[str]
    workflow_version: NotRequired[str]
    tags: NotRequired[list[str]]
    pinned: NotRequired[bool]
    idempotency_key: NotRequired[str]
    request_digest: NotRequired[str]
    has_metadata: NotRequired[bool]
    failed: NotRequired[bool]
    saved_at: NotRequired[str]
    execution_id: NotRequired[str]
    attempt: NotRequired[int]
    trigger: NotRequired[str]
    aside: NotRequired[bool]
    entry_keys: NotRequired[str]
    thread: NotRequired[ThreadPlace]


class CheckpointRestoredData(RequestData):
    """`checkpoint_id` became current; `previous` was current before, if any was.

    `migrated_from` and `migrated_to` are workflow versions: the returned state was
    migrated from the first to the second.  The stored state is unchanged.
    `not_resumed`: why the execution did not go on, if that was asked for.
    """

    checkpoint_id: str
    previous: NotRequired[str]
    migrated_from: NotRequired[str]
    migrated_to: NotRequired[str]
    not_resumed: NotRequired[str]


class CheckpointChangedData(RequestData):
    """One checkpoint was pinned, unpinned, held or released."""

    checkpoint_id: str
    reason: NotRequired[str]


class CheckpointRemovedData(RequestData):
    """One checkpoint was deleted, undeleted or purged.

    `current` is set if that changed which checkpoint is current: the id of the new one,
    or null if none is left.
    """

    checkpoint_id: str
    reason: NotRequired[str]
    current: NotRequired[str | None]


class CheckpointsCleanedData(RequestData):
    """A policy, or a caller's cleanup, removed checkpoints, each with a reason.

    `confirmed`: the plan required confirmation, which the actor gave.  `current` is set
    if the current checkpoint was removed: the id of the new one, or null if none is
    left.  `executions`: finished executions that leave the lists with them.
    `waiting`: writes of the thread without a checkpoint go too.
    """

    removed: dict[str, str]
    kept: int
    policy: dict[str, Any]
    plan_id: NotRequired[str]
    executions: NotRequired[list[str]]
    waiting: NotRequired[bool]
    confirmed: NotRequired[bool]
    trash_until: str
    current: NotRequired[str | None]


class JobCompletedData(RequestData):
    """The outcome of the job; a save or a restore reopens it."""

    failed: NotRequired[bool]
    reason: NotRequired[str]


class JobErasedData(RequestData):
    """All states of the job are purged; its events stay."""

    reason: NotRequired[str]


class JobCompactedData(TypedDict):
    """The journal was rewritten without the states that were due for removal.

    Bytes are the size of the journal before and after, without this event.  `erased`
    lists ranges of seqs, first and last: deleted checkpoints saved in them have lost
    their state and cannot be undeleted (docs/adr/0021).
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
    """A recovery changed the file; acknowledged events are lost only if it says so."""

    type: Literal["job.repaired"]
    data: JobRepairedData


class CheckpointSaved(Envelope):
    """A checkpoint was saved, and is current unless it is aside."""

    type: Literal["checkpoint.saved"]
    data: CheckpointSavedData


class WritesSaved(Envelope):
    """A task of a LangGraph thread wrote to channels."""

    type: Literal["writes.saved"]
    data: WritesSavedData


class CheckpointRestored(Envelope):
    """A checkpoint was restored and is current."""

    type: Literal["checkpoint.restored"]
    data: CheckpointRestoredData


class CheckpointDeleted(Envelope):
    """A checkpoint was deleted; its state is removed after the trash period."""

    type: Literal["checkpoint.deleted"]
    data: CheckpointRemovedData


class CheckpointUndeleted(Envelope):
    """A deleted checkpoint was restored to the lists."""

    type: Literal["checkpoint.undeleted"]
    data: CheckpointRemovedData


class CheckpointPinned(Envelope):
    """A checkpoint was pinned: no policy removes it, and deleting it needs force."""

    type: Literal["checkpoint.pinned"]
    data: CheckpointChangedData


class CheckpointUnpinned(Envelope):
    """A checkpoint was unpinned."""

    type: Literal["checkpoint.unpinned"]
    data: CheckpointChangedData


class CheckpointHeld(Envelope):
    """A checkpoint was put on legal hold: nothing removes it until its release."""

    type: Literal["checkpoint.held"]
    data: CheckpointChangedData


class CheckpointReleased(Envelope):
    """A checkpoint was released from its legal hold."""

    type: Literal["checkpoint.released"]
    data: CheckpointChangedData


class CheckpointPurged(Envelope):
    """A checkpoint was purged: the next compaction removes its state."""

    type: Literal["checkpoint.purged"]
    data: CheckpointRemovedData


class JobCompleted(Envelope):
    """The job has ended, successfully or not."""

    type: Literal["job.completed"]
    data: JobCompletedData


class JobErased(Envelope):
    """All states that the job had at this point are purged."""

    type: Literal["job.erased"]
    data: JobErasedData


class JobCompacted(Envelope):
    """States were removed from the journal; all events were kept."""

    type: Literal["job.compacted"]
    data: JobCompactedData


class CheckpointsCleaned(Envelope):
    """Several checkpoints were deleted at once."""

    type: Literal["checkpoints.cleaned"]
    data: CheckpointsCleanedData


Event = (
    WorkflowEvent
    | CheckpointSaved
    | WritesSaved
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
EVENT_TYPES: frozenset[str] = WORKFLOW_EVENT_TYPES | frozenset(
    {
        "checkpoint.saved",
        "writes.saved",
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
