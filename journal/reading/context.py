"""Shared state and read helpers of CheckpointManager."""

from __future__ import annotations

import os
import sys
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from milepost.journal import ids
from milepost.journal.arguments import check_methods, checked
from milepost.journal.clock import stamped, utc_now
from milepost.journal.errors import (
    DamagedJournal,
    InvalidArgument,
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
from milepost.journal.process.mutex import Mutex
from milepost.journal.states import delta_chain, json_states, line_codec, state_digest
from milepost.journal.states.access import Vault
from milepost.journal.states.json_states import Limits
from milepost.journal.states.line_codec import Header
from milepost.journal.states.migrations import Migrated, Migrations
from milepost.journal.states.packer import Codec, Packer
from milepost.journal.states.state_digest import DecodedState
from milepost.journal.storage.files.storage import FileStorage
from milepost.journal.store.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from milepost.journal.crypto.keys import KeyRing
    from milepost.journal.events.vocabulary import CheckpointSaved
    from milepost.journal.index.job_view import Entry, JobView
    from milepost.journal.retention.policies import Policies
    from milepost.journal.states.delta_chain import Member
    from milepost.journal.storage.contract import Storage
    from milepost.journal.storage.files.reading import Durability
    from milepost.journal.storage.files.storage import Sharing
    from milepost.journal.store.clock_guard import ClockGuard

_T = TypeVar("_T")
DEFAULT_FOLDER = "checkpoints"

# How far the clock may be ahead of the expected time, and how long the machine may have
# been off, before removals by age stop; see `clock_guard`.
MAX_CLOCK_JUMP_SECONDS = 3600.0
MAX_DOWNTIME_SECONDS = 30 * 86_400.0


class Inquiry:
    """Reads jobs from a folder, or from any other `Storage`.

    Safe for many threads, and for many processes of one machine on one folder.
    Construction creates the folder if possible; otherwise the first write reports why
    not.  Nothing else is read or created before the first call.

    Args:
        root: the folder, ``./checkpoints`` by default.  `storage_dir` and
            `storage_path` are synonyms; the latter wins if both are given.
        storage: used instead of a folder.
        durability: ``always``: acknowledged writes survive a power cut.  ``interval``:
            they do after `interval_seconds`.  ``never``: the operating system decides.
        interval_seconds: see `durability`.
        max_state_bytes: limit of a state's JSON, for saves and reads.
        max_depth: levels of nesting in a state, at most 250.
        lock_timeout_seconds: how long to wait for another process that writes to a job.
        trash_seconds: how long a deleted checkpoint can be undeleted.
        policies: the retention policies of jobs, applied only by `plan` and `apply`.
            By default everything is kept.
        codec: how new states are stored.  ``auto``: as a delta to an earlier state if
            that is shorter; ``zstd``: compressed, each on its own; ``json``: verbatim.
            States of every codec are readable.
        keys: encrypt states and metadata with the current key; read with any.
        allow_plaintext: with `keys`, also read states that are not encrypted.
        shared: who may use a folder that is created here: ``private``: its owner;
            ``group``: also the folder's group, as far as the umask allows.
        actor: the actor in the journal; ``lib:<program>@<host>`` by default.
        clock: returns the current time.

    Raises:
        InvalidArgument: an argument has the wrong type or is out of bounds, or two
            arguments exclude each other.
    """

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        check_methods(cls)

    @checked
    def __init__(
        self,
        root: str | Path | None = None,
        *,
        storage_dir: str | Path | None = None,
        storage_path: str | Path | None = None,
        storage: Storage | None = None,
        durability: Durability = "always",
        interval_seconds: float = 0.2,
        max_state_bytes: int = 16 * 1024 * 1024,
        max_depth: int = 200,
        lock_timeout_seconds: float = 30.0,
        trash_seconds: float = 7 * 86400.0,
        policies: Policies | None = None,
        codec: Codec = "auto",
        keys: KeyRing | None = None,
        allow_plaintext: bool = False,
        shared: Sharing = "private",
        actor: str | None = None,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        folder = _folder(root, storage_dir, storage_path, storage)
        if durability not in ("always", "interval", "never"):
            raise InvalidArgument(
                f"durability must be always, interval or never, got {durability!r}"
            )
        if shared not in ("private", "group"):
            raise InvalidArgument(f"shared must be private or group, got {shared!r}")
        if codec not in ("auto", "json", "zstd"):
            raise InvalidArgument(f"codec must be auto, json or zstd, got {codec!r}")
        if not 1 <= max_depth <= json_states.DEPTH_LIMIT:
            raise InvalidArgument(
                f"max_depth must be 1 to {json_states.DEPTH_LIMIT}, got {max_depth!r}"
            )
        self.root = self.storage_dir = self.storage_path = folder
        self.trash_seconds = trash_seconds
        self.max_clock_jump_seconds = MAX_CLOCK_JUMP_SECONDS
        self.max_downtime_seconds = MAX_DOWNTIME_SECONDS
        self._clock_guard: ClockGuard | None = None
        self._policies = policies
        self._limits = Limits(max_state_bytes, max_depth)
        self._actor = _default_actor() if actor is None else actor
        ids.check_label("actor", self._actor)
        self._clock = clock
        if storage is None:
            assert folder is not None
            storage = FileStorage(
                folder,
                durability=durability,
                interval_seconds=interval_seconds,
                lock_timeout_seconds=lock_timeout_seconds,
                shared=shared,
            )
            storage.make_root()
        self._store = Store(storage, clock)
        self._vault = Vault(keys, allow_plaintext, max_state_bytes)
        self._store.key_id = self._vault.key_id
        self._packer = Packer(codec, self._vault.key_id)
        self._migrations = Migrations()
        self._registering = Mutex()

    @property
    def policies(self) -> Policies:
        """The retention policies of jobs."""
        if self._policies is None:
            from milepost.journal.retention.policies import (
                Policies,  # imported late: rarely needed
            )

            self._policies = Policies()
        return self._policies

    @policies.setter
    def policies(self, policies: Policies) -> None:
        self._policies = policies

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Sync pending writes and close every file.  Idempotent."""
        self._store.close()
        self._packer.forget()

    def job_ids(self) -> list[str]:
        """Return the ids of all jobs, sorted; faster than `jobs`, which reads journals.

        Includes jobs whose checkpoints are in plain files and not imported yet.
        """
        return sorted([*self._store.storage.job_ids(), *self._not_imported()])

    def _not_imported(self) -> list[str]:
        if self.root is None:
            return []
        known = {*self._store.storage.job_ids()}
        return checkpoint_folder.jobs_beside(self.root, known)

    def _view(self, job_id: str) -> JobView:
        return self._existing(self._store.readable(ids.check_job_id(job_id)))

    def _any_view(self, job_id: str) -> JobView:
        """Return a job's view, even if only its history is readable."""
        return self._existing(self._store.view(ids.check_job_id(job_id)))

    def _existing(self, view: JobView) -> JobView:
        """Return `view`; refuse an unknown job that has to be imported.

        Raises:
            NotImported: its checkpoints are in plain files.
        """
        root = self.root
        if view.seq or root is None or not checkpoint_folder.has_job(root, view.job_id):
            return view
        raise NotImported([view.job_id], root)

    def _answer(
        self,
        job_id: str,
        ask: Callable[[JobView], _T],
        look: Callable[[str], JobView] | None = None,
    ) -> _T:
        """Query a job's view; retry if its journal was compacted meanwhile.

        After a compaction the byte ranges of the view belong to a removed file.
        """
        look = look or self._view
        view = look(job_id)
        while True:
            try:
                return ask(view)
            except (UnreadableState, DamagedJournal, StorageFailed):
                fresh = look(job_id)
                if fresh is view:
                    raise
                view = fresh

    def _one(self, checkpoint_id: str, view: JobView) -> CheckpointInfo:
        return self._infos(view, [self._entry(view, checkpoint_id)])[0]

    def _info_of(self, view: JobView, entry: Entry | None) -> CheckpointInfo | None:
        return None if entry is None else self._infos(view, [entry])[0]

    @staticmethod
    def _entry(view: JobView, checkpoint_id: str) -> Entry:
        entry = view.checkpoints.get(checkpoint_id)
        if entry is None:
            raise unknown(view, checkpoint_id)
        return entry

    def _event_of(self, view: JobView, entry: Entry) -> CheckpointSaved:
        _, line = self._store.read_pair(view, entry.seq)
        event = peek(line)
        if (
            event is None
            or event["seq"] != entry.seq
            or event["type"] != "checkpoint.saved"
        ):
            raise UnreadableState(
                f"checkpoint {entry.checkpoint_id!r} of job {view.job_id!r}: its event "
                f"at byte {view.places[entry.seq].offset} does not exist any more"
            )
        return event

    def _open(self, view: JobView, entry: Entry) -> DecodedState:
        """Read a state and verify its digest."""
        if (fault := view.faults.get(entry.seq)) is None:
            try:
                return delta_chain.open_state(entry.seq, partial(self._read, view))
            except UnreadableState as exc:
                raise self._unreadable(view, entry, exc) from exc
        raise self._unreadable(view, entry, UnreadableState(fault))

    def _read(self, view: JobView, seq: int) -> Member:
        """Return the decrypted state of event `seq`; see `delta_chain.member`."""
        lines = self._store.read_pair(view, seq)
        return delta_chain.member(lines, view.address_of(seq), self._vault)

    def _is_saved_as(self, view: JobView, entry: Entry, content: Content) -> bool:
        """Return whether a live checkpoint was saved with `content`."""
        parts, data, _ = self._read(view, entry.seq)
        fields = fields_of(data)
        if fields != content.fields:
            return False
        # A retry usually has the same bytes; then no stored state is read.
        expected = data["state_digest"]
        if state_digest.same_state(parts, expected, content.raw, content.metadata):
            return True
        raw = delta_chain.unpack(entry.seq, partial(self._read, view)).raw
        return content.equals(Content(fields, raw, parts.metadata))

    def _opened(
        self, checkpoint_id: str, view: JobView
    ) -> tuple[CheckpointInfo, DecodedState]:
        entry = self._entry(view, checkpoint_id)
        opened = self._open(view, entry)
        return _info(view, entry, opened.metadata), opened

    def _migrated(self, info: CheckpointInfo, opened: DecodedState) -> Migrated:
        return self._migrations.apply(
            opened.state,
            workflow=info.workflow_name,
            version=info.workflow_version,
            checkpoint_id=info.checkpoint_id,
        )

    @staticmethod
    def _unreadable(
        view: JobView, entry: Entry, fault: UnreadableState
    ) -> UnreadableState:
        text = (
            f"checkpoint {entry.checkpoint_id!r} of job {view.job_id!r} cannot be "
            f"read, at byte {view.places[entry.seq].offset}: {fault}"
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

    def _infos(self, view: JobView, entries: Sequence[Entry]) -> list[CheckpointInfo]:
        return [self._info(view, entry) for entry in entries]

    def _info(self, view: JobView, entry: Entry) -> CheckpointInfo:
        try:
            return _info(view, entry, self._metadata(view, entry))
        except (MissingKey, PlaintextRefused) as exc:
            return _info(view, entry, {})._replace(metadata_problem=ErrorInfo.of(exc))

    def _metadata(self, view: JobView, entry: Entry) -> dict[str, Any]:
        if not entry.labels.has_metadata:
            return {}
        if (fault := view.faults.get(entry.seq)) is not None:
            raise self._unreadable(view, entry, UnreadableState(fault))
        try:
            header, raw = self._header(view, entry.seq)
        except NewerFormat:
            return {}  # a restore reports the problem
        if header.end > len(raw):
            offset, _ = view.places[entry.seq]
            raw = self._store.storage.read(view.job_id, offset, header.end)
        text = raw[header.start : header.end]
        try:
            text = self._vault.metadata(header, text, view.address_of(entry.seq))
        except UnreadableState as exc:
            raise self._unreadable(view, entry, exc) from exc
        try:
            return state_digest.json_object(text, entry.seq, "metadata")
        except UnreadableState as exc:
            raise self._unreadable(view, entry, exc) from exc

    def _header(self, view: JobView, seq: int) -> tuple[Header, bytes]:
        """Return the header of a state line, and its bytes."""
        offset, size = view.places[seq]
        want = min(size, 2 * line_codec.HEADER_BYTES)
        raw = self._store.storage.read(view.job_id, offset, want)
        return line_codec.read_header(raw, seq=seq), raw


def _folder(
    root: str | Path | None,
    storage_dir: str | Path | None,
    storage_path: str | Path | None,
    storage: Storage | None,
) -> Path | None:
    """Return the store's folder; None if a `storage` replaces it.

    Raises:
        InvalidArgument: a path has the wrong type, or the arguments exclude each other.
    """
    given = [p for p in (storage_path, storage_dir, root) if p is not None]
    if storage is not None:
        if given:
            raise InvalidArgument("give a folder or a storage, not both")
        return None
    if root is not None and storage_dir is not None:
        raise InvalidArgument(
            f"give one folder, got root {root!r:.60} and storage_dir "
            f"{storage_dir!r:.60}"
        )
    return Path(given[0] if given else DEFAULT_FOLDER)


def _default_actor() -> str:
    program = Path(sys.argv[0]).stem if sys.argv and sys.argv[0] else "python"
    return f"lib:{program}@{os.uname().nodename}"


def _info(view: JobView, entry: Entry, metadata: dict[str, Any]) -> CheckpointInfo:
    labels = entry.labels
    return CheckpointInfo(
        entry.checkpoint_id,
        view.job_id,
        entry.step_name,
        stamped(entry.at),
        labels.workflow_version,
        labels.workflow_name,
        metadata,
        entry.seq,
        job_view.parent_of(view, entry),
        labels.tags,
        entry.checkpoint_id in view.pinned,
        view.places[entry.seq].size,
        _hold(view, entry),
        failed=labels.is_failed,
    )


def _hold(view: JobView, entry: Entry) -> Hold | None:
    held = view.held.get(entry.checkpoint_id)
    return held and Hold(held.actor, stamped(held.at), held.reason)


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


def check_limit(limit: int | None) -> None:
    """Refuse a negative limit.

    Raises:
        InvalidArgument: it is negative.
    """
    if limit is not None and limit < 0:
        raise InvalidArgument(f"limit must not be negative, got {limit}")
