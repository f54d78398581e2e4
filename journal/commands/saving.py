"""Save a state as a new checkpoint, in its job or as the first of another job."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from milepost.journal import ids
from milepost.journal.commands.requests import KeyInUse
from milepost.journal.errors import Conflict, InvalidArgument, WrongKind
from milepost.journal.events.vocabulary import DEFAULT_WORKFLOW_VERSION
from milepost.journal.index.content import Content, fields_of
from milepost.journal.reading.reader import entry_of
from milepost.journal.states import json_states, line_codec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from milepost.journal.batch import Batch
    from milepost.journal.events.vocabulary import CheckpointSaved, ForkOrigin
    from milepost.journal.index.entries import Entry
    from milepost.journal.index.job_view import Fold, JobView
    from milepost.journal.reading.reader import Reader
    from milepost.journal.states.line_codec import EncodedState
    from milepost.journal.states.packer import Packed, Packer
    from milepost.journal.states.state_digest import DecodedState
    from milepost.journal.states.types import Types

    IsSavedAs = Callable[[JobView, Entry, Content], bool]

_MAX_TAGS = 64


class Fields(NamedTuple):
    """The caller's description of a checkpoint."""

    step_name: str
    tags: Sequence[str] = ()
    workflow_name: str | None = None
    workflow_version: str | None = None
    idempotency_key: str | None = None
    pinned: bool = False
    failed: bool = False


class Draft(NamedTuple):
    """A checkpoint encoded outside the job's lock.

    Attributes:
        data: of its event; lacks `parent`, and `checkpoint_id` unless it is known.
        raw: the state's JSON.
        packed: the state in the form that it is stored in.
        encoded: the same, with its digest and its metadata.
    """

    data: dict[str, Any]
    raw: bytes
    packed: Packed
    encoded: EncodedState


class Saved(NamedTuple):
    """The answer to a save.

    `stored` says how it was stored, in which fold and as which event; None if the
    checkpoint already existed.
    """

    checkpoint_id: str
    stored: tuple[Packed, Fold, int] | None = None


def save(
    batch: Batch,
    draft: Draft,
    packer: Packer,
    is_saved_as: IsSavedAs,
    *,
    actor: str,
    expected_seq: int | None,
    kind: str = "",
) -> Saved:
    """Add a checkpoint, unless its idempotency key is in use.

    It becomes current, unless the draft says that it is aside.  `kind`: of the job.

    Raises:
        WrongKind: the job is of another kind.
        Conflict: `expected_seq` is stale, or the key refers to other content.
        KeyNeeded, DroppedKey: no state may be written with the configured key.
    """
    batch.claim(kind)
    key, content = draft.data.get("idempotency_key"), None
    if "request_digest" in draft.data:
        key = None  # of a request, which the caller answers
    if key is not None:
        content = Content(fields_of(draft.data), draft.raw, draft.encoded.metadata)
        known = _known(batch, key, content, is_saved_as)
        if known is not None:
            return Saved(known)
    batch.check_seq(expected_seq)
    packed, encoded = draft.packed, draft.encoded
    if not packer.is_usable(packed, batch.view):
        # The base was deleted meanwhile, and compaction may drop it.
        packed = packer.whole(draft.raw, is_json="state_type" not in draft.data)
        encoded = encoded.stored_as(packed.body)
    checkpoint_id = draft.data["checkpoint_id"] or new_id(
        batch, draft.data["step_name"]
    )
    data = draft.data | {"checkpoint_id": checkpoint_id, "parent": batch.current}
    seq = batch.add("checkpoint.saved", actor, data, encoded)
    if not data.get("aside"):
        batch.current = seq
    batch.ids.add(checkpoint_id)
    if key is not None and content is not None:
        batch.keys[key] = checkpoint_id, content
    return Saved(checkpoint_id, (packed, batch.view.fold, seq))


def fork(batch: Batch, draft: Draft, origin: ForkOrigin, *, actor: str) -> str:
    """Start a job with a checkpoint of another job; return the new id.

    Raises:
        Conflict: the job already exists.
    """
    if batch.seen_seq != 0:
        raise Conflict(f"job {batch.view.job_id!r} already exists")
    batch.claim()
    batch.opening["forked_from"] = origin
    checkpoint_id = new_id(batch, draft.data["step_name"])
    data = draft.data | {"checkpoint_id": checkpoint_id}
    batch.add("checkpoint.saved", actor, data, draft.encoded)
    return checkpoint_id


def _known(
    batch: Batch, key: str, content: Content, is_saved_as: IsSavedAs
) -> str | None:
    """Return the id of the live checkpoint that `key` refers to, if any."""
    if (pending := batch.keys.get(key)) is not None:
        known, is_same = pending[0], content.equals(pending[1])
    elif (entry := batch.view.keyed(key)) is not None:
        known = entry.checkpoint_id
        is_same = is_saved_as(batch.view, entry, content)
    else:
        return None
    if not is_same:
        raise KeyInUse(
            f"idempotency key {key!r} refers to checkpoint {known!r}, whose "
            "content is different",
            hint="use another key, or delete that checkpoint or restore an earlier "
            "one first",
        )
    return known


def new_id(batch: Batch, step_name: str) -> str:
    """Return a new checkpoint id for a step."""
    view = batch.view
    while True:
        new = ids.new_checkpoint_id(step_name, batch.now)
        if not (new in view.checkpoints or new in view.trash or new in batch.ids):
            return new


def draft_of(
    reader: Reader,
    packer: Packer,
    job_id: str,
    fields: Fields,
    state: Mapping[str, Any],
    metadata: Mapping[str, Any] | None,
    types: Types | None = None,
    *,
    has_base: bool = True,
) -> Draft:
    """Check and encode a checkpoint, outside the job's lock.

    `types`: the types that the state may have, by default those of the reader.
    `has_base`: it may be stored as a delta.

    Raises:
        InvalidArgument: an id, a name or a label is out of bounds.
        InvalidState: the state would not round-trip.
        NotImported: the job's checkpoints are in plain files.
    """
    ids.check_job_id(job_id)
    ids.check_step_name(fields.step_name)
    labels = _labels(fields)
    raw = json_states.to_json(state, reader.limits, types=types or reader.types)
    view = reader.existing(reader.store.glance(job_id))
    packed = packer.pack(view, raw, reader.read) if has_base else packer.whole(raw)
    return _draft(reader, fields, labels, raw, metadata, packed)


def copy_of(
    reader: Reader, packer: Packer, job_id: str, checkpoint_id: str
) -> tuple[Draft, ForkOrigin]:
    """Return a checkpoint as the first of another job, and where it comes from.

    Raises:
        UnknownCheckpoint: it does not exist, or was deleted.
        UnreadableState: its bytes differ from what was saved.
        WrongKind: the job holds no states.
    """
    source = partial(_source, reader, checkpoint_id)
    entry, event, opened = reader.answer(job_id, source)
    origin: ForkOrigin = {
        "job": job_id,
        "checkpoint_id": checkpoint_id,
        "seq": entry.seq,
        "hash": event["hash"],
    }
    known = entry.labels
    fields = Fields(
        entry.step_name, known.tags, known.workflow_name, known.workflow_version
    )
    raw = json_states.to_json(opened.state, reader.limits)
    packed = packer.whole(raw)
    labels = _labels(fields)
    return _draft(reader, fields, labels, raw, opened.metadata, packed), origin


def _source(
    reader: Reader, checkpoint_id: str, view: JobView
) -> tuple[Entry, CheckpointSaved, DecodedState]:
    if view.kind:
        raise WrongKind(view.job_id, view.kind, "")
    entry = entry_of(view, checkpoint_id)
    return entry, reader.event_of(view, entry), reader.open(view, entry)


def _draft(
    reader: Reader,
    fields: Fields,
    labels: dict[str, Any],
    raw: bytes,
    metadata: Mapping[str, Any] | None,
    packed: Packed,
) -> Draft:
    encoded = line_codec.encode_state(raw, metadata, packed.body, key=reader.vault.key)
    data: dict[str, Any] = {
        "checkpoint_id": "",
        "step_name": fields.step_name,
        "parent": 0,
        "state_digest": encoded.digest,
        "state_bytes": encoded.raw_bytes,
        **labels,
    }
    if fields.pinned:
        data["pinned"] = True
    if fields.failed:
        data["failed"] = True
    if encoded.metadata:
        data["has_metadata"] = True
    return Draft(data, raw, packed, encoded)


def _labels(fields: Fields) -> dict[str, Any]:
    """Return the optional fields of a saved event that are set, checked."""
    _, tags, name, version, key, *_ = fields
    labels: dict[str, Any] = {}
    if name is not None:
        labels["workflow_name"] = ids.check_label("workflow_name", name)
    if version is None:
        version = DEFAULT_WORKFLOW_VERSION
    labels["workflow_version"] = ids.check_label("workflow_version", version)
    if key is not None:
        labels["idempotency_key"] = ids.check_label("idempotency_key", key)
    if len(tags) > _MAX_TAGS:
        raise InvalidArgument(f"at most {_MAX_TAGS} tags, got {len(tags)}")
    if tags:
        labels["tags"] = [ids.check_label("a tag", tag) for tag in tags]
    return labels


def remember(packer: Packer, draft: Draft, saved: Saved) -> str:
    """Keep a state that was just saved as a base for later ones; return its id."""
    checkpoint_id, stored = saved
    if stored is not None:
        packer.remember(*stored, checkpoint_id, draft.raw)
    return checkpoint_id
