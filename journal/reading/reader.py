"""Reads of one store: views of jobs, checkpoints, their states and metadata."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from milepost.journal import ids
from milepost.journal.clock import moment, stamped
from milepost.journal.errors import (
    DamagedJournal,
    InvalidArgument,
    MilepostError,
    MissingKey,
    NewerFormat,
    NotImported,
    PlaintextRefused,
    StateOverBound,
    StorageFailed,
    UnknownCheckpoint,
    UnreadableState,
)
from milepost.journal.events.codec import peek
from milepost.journal.importing import checkpoint_folder
from milepost.journal.index import job_view
from milepost.journal.index.content import Content, fields_of
from milepost.journal.models import CheckpointInfo, ErrorInfo, Hold
from milepost.journal.states import delta_chain, line_codec, state_digest
from milepost.journal.states.migrations import Migrated, Migrations
from milepost.journal.states.recent_states import Known, RecentStates
from milepost.journal.storage.contract import every_job

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from datetime import datetime
    from pathlib import Path

    from milepost.journal.events.vocabulary import CheckpointSaved
    from milepost.journal.index.entries import Entry
    from milepost.journal.index.job_view import JobView, LegalHold
    from milepost.journal.states.access import Vault
    from milepost.journal.states.delta_chain import Member, Unpacked
    from milepost.journal.states.json_states import Limits
    from milepost.journal.states.line_codec import Header
    from milepost.journal.states.state_digest import DecodedState
    from milepost.journal.states.types import Types
    from milepost.journal.storage.contract import JobStorage
    from milepost.journal.store.store import Store

_T = TypeVar("_T")
# The metadata of a checkpoint, and why it is not shown if it is not.
_Metadata = tuple[dict[str, Any], ErrorInfo | None]


class Reader:
    """Reads the jobs of one store.

    Args:
        store: the open store.
        vault: decrypts its states.
        limits: the bounds of a state.
        root: its folder, which may hold checkpoints in plain files; None if there is
            no folder.
        types: the types that states may have besides plain JSON; None: none.

    Attributes:
        recent: the states that were saved or read last, under the current key.
        migrations: what `migrated` applies.
    """

    def __init__(
        self,
        store: Store,
        vault: Vault,
        limits: Limits,
        root: Path | None,
        types: Types | None = None,
    ) -> None:
        self.recent = RecentStates()
        self.store = store
        self.vault = vault
        self.limits = limits
        self.root = root
        self.types = types
        self.migrations = Migrations()

    def job_ids(self) -> list[str]:
        """Return the ids of all jobs, sorted; faster than `jobs`, which reads journals.

        Includes jobs whose checkpoints are in plain files and not imported yet.
        """
        stored = [*every_job(self.store.storage)]
        return sorted([*stored, *self._beside(stored)])

    def not_imported(self) -> list[str]:
        """Return the jobs whose checkpoints are in plain files beside the store."""
        return self._beside(every_job(self.store.storage))

    def _beside(self, stored: Iterable[str]) -> list[str]:
        if self.root is None:
            return []
        return checkpoint_folder.jobs_beside(self.root, stored)

    def stored(self, view: JobView) -> JobStorage:
        """Return the job of `view` in the storage."""
        return self.store.stored(view.job_id)

    def view(self, job_id: str) -> JobView:
        """Return a job's view, of which every event is known."""
        return self.existing(self.store.readable(ids.check_job_id(job_id)))

    def any_view(self, job_id: str) -> JobView:
        """Return a job's view, even if only its history is readable."""
        return self.existing(self.store.view(ids.check_job_id(job_id)))

    def existing(self, view: JobView) -> JobView:
        """Return `view`; refuse an unknown job that has to be imported.

        Raises:
            NotImported: its checkpoints are in plain files.
        """
        root = self.root
        if view.seq or root is None or not checkpoint_folder.has_job(root, view.job_id):
            return view
        raise NotImported([view.job_id], root)

    def answer(
        self,
        job_id: str,
        ask: Callable[[JobView], _T],
        look: Callable[[str], JobView] | None = None,
    ) -> _T:
        """Query a job's view; retry if its journal was compacted meanwhile.

        After a compaction the byte ranges of the view belong to a removed file.
        """
        look = look or self.view
        view = look(job_id)
        while True:
            try:
                return ask(view)
            except (UnreadableState, DamagedJournal, StorageFailed):
                fresh = look(job_id)
                if fresh is view:
                    raise
                view = fresh

    def one(self, checkpoint_id: str, view: JobView) -> CheckpointInfo:
        """Return the checkpoint with this id."""
        return self.infos(view, [entry_of(view, checkpoint_id)])[0]

    def info_of(self, view: JobView, entry: Entry | None) -> CheckpointInfo | None:
        """Return what is known of `entry`; None without one."""
        return None if entry is None else self.infos(view, [entry])[0]

    def event_of(self, view: JobView, entry: Entry) -> CheckpointSaved:
        """Return the event that saved `entry`, from the journal."""
        _, line = self.stored(view).lines(entry.seq)
        event = peek(line)
        if (
            event is None
            or event["seq"] != entry.seq
            or event["type"] != "checkpoint.saved"
        ):
            raise UnreadableState(
                f"checkpoint {entry.checkpoint_id!r} of job {view.job_id!r}: its event "
                f"{entry.seq} does not exist any more"
            )
        return event

    def open(
        self, view: JobView, entry: Entry, *, from_disk: bool = False
    ) -> DecodedState:
        """Read a state and verify its digest.

        Args:
            view: of its job.
            entry: its checkpoint.
            from_disk: read its bases too, instead of decoding it with a cached one.
        """
        try:
            return delta_chain.decoded(
                self.raw_of(view, entry.seq, from_disk=from_disk)
            )
        except UnreadableState as exc:
            raise unreadable(view, entry, exc) from exc

    def raw(self, view: JobView, entry: Entry) -> Unpacked:
        """Return the verified bytes of a checkpoint's state."""
        try:
            return self.raw_of(view, entry.seq)
        except UnreadableState as exc:
            raise unreadable(view, entry, exc) from exc

    def raw_of(self, view: JobView, seq: int, *, from_disk: bool = False) -> Unpacked:
        """Return the verified bytes of the state of any event; as `open`."""
        refuse_fault(view, seq)
        recall = None if from_disk else partial(self.recent.get, view.fold)
        unpacked = delta_chain.prove(seq, partial(self.read, view), recall)
        if not unpacked.is_cached:
            self._remember(view, unpacked)
        return unpacked

    def _remember(self, view: JobView, unpacked: Unpacked) -> None:
        """Keep a state that is not stored as it is, and its chain, under one key."""
        codec = unpacked.members[0].parts.codec
        if codec != "json" and unpacked.key_ids == {self.vault.key_id}:
            known = Known(unpacked.raw, unpacked.links, unpacked.stored_bytes)
            self.recent.put(view.fold, known)

    def problem_of(self, view: JobView, entry: Entry) -> UnreadableState | None:
        """Return why a checkpoint's stored state is unreadable, None if it is not."""
        if (fault := view.faults.get(entry.seq)) is not None:
            return unreadable(view, entry, UnreadableState(fault))
        problem = delta_chain.problem_of(entry.seq, partial(self.read, view))
        return problem and unreadable(view, entry, problem)

    def event_times(self) -> Iterator[datetime]:
        """Yield the time of each job's last write, from its journal."""
        for job_id in every_job(self.store.storage):
            with suppress(MilepostError):
                if (at := self.view(job_id).last_at) is not None:
                    yield moment(at)

    def read(self, view: JobView, seq: int) -> Member:
        """Return the decrypted state of event `seq`; see `delta_chain.member`."""
        lines = self.stored(view).lines(seq)
        return delta_chain.member(lines, view.address_of(seq), self.vault)

    def is_saved_as(self, view: JobView, entry: Entry, content: Content) -> bool:
        """Return whether a live checkpoint was saved with `content`."""
        parts, data, _ = self.read(view, entry.seq)
        fields = fields_of(data)
        if fields != content.fields:
            return False
        # A retry usually has the same bytes; then no stored state is read.
        expected = data["state_digest"]
        if state_digest.same_state(parts, expected, content.raw, content.metadata):
            return True
        raw = delta_chain.unpack(entry.seq, partial(self.read, view)).raw
        return content.equals(Content(fields, raw, parts.metadata))

    def opened(
        self, checkpoint_id: str, view: JobView
    ) -> tuple[CheckpointInfo, DecodedState]:
        """Return a checkpoint and its state, both from one view."""
        entry = entry_of(view, checkpoint_id)
        opened = self.open(view, entry)
        return self.described(view, entry, opened), opened

    @staticmethod
    def described(view: JobView, entry: Entry, opened: DecodedState) -> CheckpointInfo:
        """Return what is known of `entry`, whose state was read."""
        (info,) = _infos(view, [entry], lambda _: (opened.metadata, None))
        return info

    def opened_if_live(self, checkpoint_id: str, view: JobView) -> DecodedState | None:
        """Return a state; None if its checkpoint is not live."""
        entry = view.checkpoints.get(checkpoint_id)
        return None if entry is None else self.open(view, entry)

    def migrated(self, info: CheckpointInfo, opened: DecodedState) -> Migrated:
        """Return a state, migrated to the newest version of its workflow."""
        return self.migrations.apply(
            opened.state,
            workflow=info.workflow_name,
            version=info.workflow_version,
            checkpoint_id=info.checkpoint_id,
        )

    def decoded(
        self, state: dict[str, Any], types: Types | None, whose: str
    ) -> dict[str, Any]:
        """Return a stored state as it was saved with `types`, or those of the reader.

        Raises:
            UnreadableState: it cannot be decoded; names `whose` it is, and the path.
        """
        if (types := types or self.types) is None:
            return state
        try:
            decoded: dict[str, Any] = types.decode(state)
        except UnreadableState as exc:
            raise UnreadableState(f"{whose}: {exc}", hint=exc.hint) from exc
        return decoded

    def infos(self, view: JobView, entries: Sequence[Entry]) -> list[CheckpointInfo]:
        """Return checkpoints, in order of seq, as callers see them, with metadata."""
        return _infos(view, entries, partial(self._metadata_or_problem, view))

    def _metadata_or_problem(self, view: JobView, entry: Entry) -> _Metadata:
        try:
            return self.metadata(view, entry), None
        except (MissingKey, PlaintextRefused) as exc:
            return {}, ErrorInfo.of(exc)

    def metadata(self, view: JobView, entry: Entry) -> dict[str, Any]:
        """Return the metadata of a checkpoint."""
        if not entry.labels.has_metadata:
            return {}
        if (fault := view.faults.get(entry.seq)) is not None:
            raise unreadable(view, entry, UnreadableState(fault))
        try:
            header, raw = self.header(view, entry.seq)
        except NewerFormat:
            return {}  # a restore reports the problem
        if header.end > len(raw):
            raw = self.stored(view).first_bytes(entry.seq, header.end)
        text = raw[header.start : header.end]
        try:
            text = self.vault.metadata(header, text, view.address_of(entry.seq))
        except UnreadableState as exc:
            raise unreadable(view, entry, exc) from exc
        try:
            return state_digest.json_object(text, entry.seq, "metadata")
        except UnreadableState as exc:
            raise unreadable(view, entry, exc) from exc

    def header(self, view: JobView, seq: int) -> tuple[Header, bytes]:
        """Return the header of a state line, and its bytes."""
        raw = self.stored(view).first_bytes(seq, 2 * line_codec.HEADER_BYTES)
        return line_codec.read_header(raw, seq=seq), raw


def _infos(
    view: JobView, entries: Sequence[Entry], read: Callable[[Entry], _Metadata]
) -> list[CheckpointInfo]:
    """Return checkpoints in order of seq; `read` returns the metadata of those with it.

    One loop without a call per checkpoint, because lists are long.
    """
    job_id, trash, pinned, held = view.job_id, view.trash, view.pinned, view.held
    found = []
    for entry, size in zip(entries, view.sizes.of(entries), strict=True):
        workflow, version, tags, has_metadata, is_failed, _, _ = entry.labels
        checkpoint_id, parent_id = entry.checkpoint_id, entry.parent_id
        metadata, problem = read(entry) if has_metadata else ({}, None)
        fields = (
            checkpoint_id,
            job_id,
            entry.step_name,
            stamped(entry.at),
            version,
            workflow,
            metadata,
            entry.seq,
            job_view.parent_of(view, entry) if parent_id in trash else parent_id,
            tags,
            checkpoint_id in pinned,
            size,
            _hold(held[checkpoint_id]) if checkpoint_id in held else None,
            problem,
            is_failed,
        )
        found.append(CheckpointInfo._make(fields))
    return found


def _hold(held: LegalHold) -> Hold:
    return Hold(held.actor, stamped(held.at), held.reason)


def entry_of(view: JobView, checkpoint_id: str) -> Entry:
    """Return a live checkpoint.

    Raises:
        UnknownCheckpoint: it does not exist, or was deleted.
    """
    entry = view.checkpoints.get(checkpoint_id)
    if entry is None:
        raise unknown(view, checkpoint_id)
    return entry


def unknown(view: JobView, checkpoint_id: str) -> UnknownCheckpoint:
    """Return the error for a checkpoint that does not exist or was deleted."""
    trashed = view.trash.get(checkpoint_id)
    if trashed is None:
        return UnknownCheckpoint(checkpoint_id, job_id=view.job_id)
    return UnknownCheckpoint(
        checkpoint_id,
        job_id=view.job_id,
        deleted_at=stamped(trashed.at),
        deleted_by=trashed.actor,
    )


def refuse_fault(view: JobView, seq: int) -> None:
    """Refuse an event whose stored state is known to be damaged or missing.

    Raises:
        UnreadableState: it is.
    """
    if (fault := view.faults.get(seq)) is not None:
        raise UnreadableState(fault)


def unreadable(view: JobView, entry: Entry, fault: UnreadableState) -> UnreadableState:
    """Return the error for a checkpoint whose state cannot be read."""
    text = (
        f"checkpoint {entry.checkpoint_id!r} of job {view.job_id!r} cannot be "
        f"read, event {entry.seq}: {fault}"
    )
    match fault:
        case MissingKey():
            return MissingKey(text, fault.key_id)
        case PlaintextRefused():
            return PlaintextRefused(text)
        case StateOverBound():
            return StateOverBound(text)
    hint = "no older checkpoint is returned instead; choose one explicitly"
    return UnreadableState(text, hint=hint)


def check_limit(limit: int | None) -> None:
    """Refuse a negative limit.

    Raises:
        InvalidArgument: it is negative.
    """
    if limit is not None and limit < 0:
        raise InvalidArgument(f"limit must not be negative, got {limit}")
