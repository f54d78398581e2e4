"""The public facade: save, list, restore, delete, clean up, query."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from milepost.journal import ids
from milepost.journal.arguments import id_of
from milepost.journal.commands.marks import Protection
from milepost.journal.commands.removal import Removal
from milepost.journal.errors import Conflict, InvalidArgument
from milepost.journal.events.vocabulary import DEFAULT_WORKFLOW_VERSION
from milepost.journal.index.content import Content, fields_of
from milepost.journal.reading.reader import entry_of
from milepost.journal.states import json_states, line_codec
from milepost.journal.states.delta import Link
from milepost.journal.store.batch import Batch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from milepost.journal.events.vocabulary import CheckpointSaved, ForkOrigin
    from milepost.journal.importing.importing import Imported
    from milepost.journal.index.job_view import Entry, JobView
    from milepost.journal.models import CheckpointInfo
    from milepost.journal.repair.steps import Repair
    from milepost.journal.states.packer import Packed
    from milepost.journal.states.state_digest import DecodedState

_MAX_TAGS = 64


class CheckpointManager(Protection, Removal):
    """Manages the checkpoints of jobs; see `Inquiry` for the constructor's arguments.

    Safe for many threads, and for many processes of one machine on one folder.
    Construction creates the folder; nothing else is created before the first call.
    """

    def save(
        self,
        job_id: str,
        step_name: str,
        state: Mapping[str, Any],
        *,
        metadata: Mapping[str, Any] | None = None,
        tags: Sequence[str] = (),
        pinned: bool = False,
        failed: bool = False,
        workflow_name: str | None = None,
        workflow_version: str | None = None,
        actor: str | None = None,
        idempotency_key: str | None = None,
        expected_seq: int | None = None,
    ) -> str:
        """Save `state` as a new checkpoint, make it current, and return its id.

        Returns once the checkpoint is durable.  The first save creates the job.

        Args:
            job_id: 1 to 512 bytes of printable text.
            step_name: 1 to 512 bytes; part of the id, made safe for a URL.
            state: a dict of plain JSON values.
            metadata: a dict of plain JSON values, at most 64 KiB, shown by `list`.
            tags: labels for policies and searches.
            pinned: no policy removes it.
            failed: the step failed; policies treat failed checkpoints separately.
            workflow_name: recorded.
            workflow_version: recorded; ``"1.0"`` by default.
            actor: the actor of this save, instead of the manager's.
            idempotency_key: names this save within its job.  The key refers to its
                checkpoint as long as that is live and is `current` or one of its
                ancestors: until then the same call returns the first id and saves
                nothing, and a call with other content (anything but `actor` and
                `expected_seq`) is refused.  Once the checkpoint is deleted, cleaned up,
                purged or abandoned by a restore, the next call is a new save, which
                takes over the key permanently.  A fork starts without keys.
            expected_seq: refuse if the job is at another seq; 0: the job must be new.

        Raises:
            InvalidArgument: an id, a name or a label is out of bounds.
            InvalidState: the state would not round-trip; names the path.
            Conflict: `expected_seq` is stale, or `idempotency_key` refers to a
                checkpoint with other content.
            NotImported: the job's checkpoints are in plain files; see `import_files`.
            DamagedJournal: the job is quarantined.
            StorageFailed: an I/O error; see its subclasses.
        """
        ids.check_job_id(job_id)
        ids.check_step_name(step_name)
        labels = _labels(tags, workflow_name, workflow_version, idempotency_key)
        raw = json_states.to_json(state, self._reader.limits)
        view = self._reader.existing(self._store.glance(job_id))
        packed = self._packer.pack(view, raw, self._reader.read)
        encoded = line_codec.encode_state(
            raw, metadata, packed.body, key=self._reader.vault.key
        )
        data: dict[str, Any] = {
            "checkpoint_id": "",
            "step_name": step_name,
            "parent": 0,
            "state_digest": encoded.digest,
            "state_bytes": encoded.raw_bytes,
            **labels,
        }
        if pinned:
            data["pinned"] = True
        if failed:
            data["failed"] = True
        if encoded.metadata:
            data["has_metadata"] = True
        who = self._who(actor)
        saved: list[tuple[Link, Packed]] = []
        if expected_seq and (known := self._store.view(job_id)).seq == 0:
            Batch(known, self._clock()).check_seq(
                expected_seq
            )  # a refused save must not create the job

        def request(batch: Batch) -> str:
            if idempotency_key is not None:
                content = Content(fields_of(data), raw, encoded.metadata)
                known = self._answered(batch, idempotency_key, content)
                if known is not None:
                    return known
            batch.check_seq(expected_seq)
            checkpoint_id = self._new_id(batch, step_name)
            data["checkpoint_id"] = checkpoint_id
            data["parent"] = batch.current
            final, stored = packed, encoded
            if not self._packer.is_usable(packed, batch.view):
                # The base was deleted meanwhile, and compaction may drop it.
                final = self._packer.whole(raw)
                stored = encoded.stored_as(final.body)
            batch.current = batch.add("checkpoint.saved", who, data, stored)
            batch.ids.add(checkpoint_id)
            if idempotency_key is not None:
                batch.keys[idempotency_key] = checkpoint_id, content
            saved.append((Link(batch.current, final.body.depth, checkpoint_id), final))
            return checkpoint_id

        checkpoint_id: str = self._store.write(job_id, request, is_shared=True)
        for link, final in saved:
            self._packer.remember(job_id, link, raw, final)
        return checkpoint_id

    def restore(
        self,
        job_id: str,
        checkpoint_id: str | CheckpointInfo,
        *,
        actor: str | None = None,
        expected_seq: int | None = None,
    ) -> dict[str, Any]:
        """Return a checkpoint's state, make it current and record the restore.

        The next save becomes its child; later checkpoints are kept.  `get` returns a
        state without either.  A state of an older workflow version is migrated if
        migrations are registered; the event records both versions.

        Raises:
            UnknownCheckpoint: (a FileNotFoundError) it does not exist, or was deleted.
            UnreadableState: (a ValueError) its bytes differ from what was saved.
            NewerState: (a ValueError) a newer version of its workflow saved it.
            NoMigration: (a ValueError) no migration starts from its version.
            MigrationFailed: (a ValueError) a migration raised or returned an invalid
                state.
            DamagedJournal: (a ValueError) the job is quarantined.
            Conflict: `expected_seq` is stale.
            StorageFailed: the restore could not be recorded.
        """
        checkpoint_id = id_of(checkpoint_id)
        info, opened = self._reader.answer(
            job_id, partial(self._reader.opened, checkpoint_id)
        )
        migrated = self._reader.migrated(info, opened)

        def request(batch: Batch) -> None:
            batch.check_seq(expected_seq)
            entry_of(batch.view, checkpoint_id)
            data = {"checkpoint_id": checkpoint_id}
            if batch.view.current is not None:
                data["previous"] = batch.view.current.checkpoint_id
            if migrated.from_version is not None and migrated.to_version is not None:
                data["migrated_from"] = migrated.from_version
                data["migrated_to"] = migrated.to_version
            batch.add("checkpoint.restored", self._who(actor), data)

        self._store.write(job_id, request)
        return migrated.state

    def fork(
        self,
        job_id: str,
        checkpoint_id: str | CheckpointInfo,
        new_job_id: str,
        *,
        actor: str | None = None,
    ) -> str:
        """Start a new job with a copy of a checkpoint; return the copy's id.

        The source is not changed, and deleting it later does not affect the new job.
        The new job's first event records its origin.

        Raises:
            UnknownCheckpoint, UnreadableState: as `restore`.
            Conflict: `new_job_id` already exists.
            InvalidArgument, DamagedJournal, StorageFailed: as `save`.
        """
        checkpoint_id = id_of(checkpoint_id)
        ids.check_job_id(new_job_id)
        self._reader.existing(self._store.glance(new_job_id))
        entry, event, opened = self._reader.answer(
            job_id, partial(self._source, checkpoint_id)
        )
        raw = json_states.to_json(opened.state, self._reader.limits)
        body = self._packer.whole(raw).body
        encoded = line_codec.encode_state(
            raw, opened.metadata, body, key=self._reader.vault.key
        )
        origin: ForkOrigin = {
            "job": job_id,
            "checkpoint_id": checkpoint_id,
            "seq": entry.seq,
            "hash": event["hash"],
        }
        data: dict[str, Any] = {
            "checkpoint_id": "",
            "step_name": entry.step_name,
            "parent": 0,
            "state_digest": encoded.digest,
            "state_bytes": encoded.raw_bytes,
            **_labels(
                entry.labels.tags,
                entry.labels.workflow_name,
                entry.labels.workflow_version,
                None,
            ),
        }
        if encoded.metadata:
            data["has_metadata"] = True

        def request(batch: Batch) -> str:
            if batch.seen_seq != 0:
                raise Conflict(f"job {new_job_id!r} already exists")
            batch.opening["forked_from"] = origin
            data["checkpoint_id"] = self._new_id(batch, entry.step_name)
            batch.add("checkpoint.saved", self._who(actor), data, encoded)
            return str(data["checkpoint_id"])

        forked: str = self._store.write(new_job_id, request)
        return forked

    def _source(
        self, checkpoint_id: str, view: JobView
    ) -> tuple[Entry, CheckpointSaved, DecodedState]:
        entry = entry_of(view, checkpoint_id)
        return entry, self._reader.event_of(view, entry), self._reader.open(view, entry)

    def import_files(
        self,
        folder: str | Path,
        *,
        dry_run: bool = False,
        actor: str | None = None,
    ) -> Imported:
        """Import a folder with one JSON file per checkpoint; the files are not changed.

        The files are ``<job>/<step>_<unix seconds>_<8 characters>.json``.  Checkpoints
        keep their ids, times, steps, workflow versions and states.  Each follows the
        one before it in time, so the newest of a job becomes current, unless the job's
        current checkpoint is newer.  An import can be repeated: checkpoints that
        already exist, or were deleted since, are not imported again.

        Args:
            folder: the folder of all jobs, or of one; may be the store's own folder.
            dry_run: only report what would be imported.
            actor: the actor of the import, instead of the manager's.

        Raises:
            InvalidArgument: `folder` is not a folder.
            StorageFailed: a write failed; repeat the import, nothing is imported twice.
        """
        from milepost.journal.importing.importing import (
            Importer,  # imported late: rarely needed
        )

        importer = Importer(
            self._store,
            self._packer,
            self._reader.vault,
            self._reader.limits,
            self._reader.is_saved_as,
            self._who(actor),
            dry_run=dry_run,
        )
        return importer.run(Path(folder))

    def complete(
        self,
        job_id: str,
        *,
        failed: bool = False,
        reason: str | None = None,
        actor: str | None = None,
        expected_seq: int | None = None,
    ) -> bool:
        """Mark the job as completed; return False if there is no such job.

        Its policy for completed jobs applies from now on, if it has one.  A later save
        or restore reopens the job.

        Args:
            job_id: the job.
            failed: the job failed.
            reason: recorded.
            actor: the actor of the completion, instead of the manager's.
            expected_seq: refuse if the job is at another seq.

        Raises:
            Conflict: `expected_seq` is stale.
            DamagedJournal, StorageFailed: as `save`.
        """

        def request(batch: Batch) -> bool:
            batch.check_seq(expected_seq)
            data: dict[str, object] = {}
            if failed:
                data["failed"] = True
            if reason is not None:
                data["reason"] = ids.check_label("reason", reason)
            batch.add("job.completed", self._who(actor), data)
            return True

        return self._change(job_id, request)

    def repair(
        self,
        job_id: str,
        *,
        accept_loss: bool = False,
        dry_run: bool = False,
        actor: str | None = None,
    ) -> Repair:
        """Repair a job as far as possible, and journal the repair.

        Without `accept_loss`, no acknowledged event is lost: a torn tail is recovered,
        a head rebuilt, a journal rewritten after a failed sync.  With it, the journal
        is cut back to its last proven write, and the removed bytes are kept in
        ``salvage/``; checkpoints with unreadable states are deleted.

        Args:
            job_id: the job.
            accept_loss: allow the loss of acknowledged events where it is unavoidable.
            dry_run: only report what would be done; see `Repair.steps`.
            actor: the actor who accepts the loss, instead of the manager's.

        Returns:
            The diagnosis and the steps; no steps if the job is sound.

        Raises:
            InvalidArgument: there is no such job, or `job_id` is out of bounds.
            LossNotAccepted: the repair would lose acknowledged events.
            CannotRepair: the journal is another job's, or of a newer version.
            LockTimeout, NoSpace, ReadOnlyStore, StorageFailed: existing data is
                intact; try again.
        """
        from milepost.journal.repair.repair import (
            Repairer,  # imported late: rarely needed
        )

        repairer = Repairer(
            self._store.storage, self._reader.vault, self._clock, self._who(actor)
        )
        ids.check_job_id(job_id)
        return repairer.repair(job_id, accept_loss=accept_loss, dry_run=dry_run)

    def _answered(self, batch: Batch, key: str, content: Content) -> str | None:
        """Return the id of the live checkpoint that `key` refers to, if any."""
        if (pending := batch.keys.get(key)) is not None:
            known, is_same = pending[0], content.equals(pending[1])
        elif (entry := batch.view.keyed(key)) is not None:
            known = entry.checkpoint_id
            is_same = self._reader.is_saved_as(batch.view, entry, content)
        else:
            return None
        if not is_same:
            raise Conflict(
                f"idempotency key {key!r} refers to checkpoint {known!r}, whose "
                "content is different",
                hint="use another key, or delete that checkpoint or restore an earlier "
                "one first",
            )
        return known


def _labels(
    tags: Sequence[str], name: str | None, version: str | None, key: str | None
) -> dict[str, Any]:
    """Return the optional fields of a saved event that are set, checked."""
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
