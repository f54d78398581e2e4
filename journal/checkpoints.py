"""The public face: save, list, restore, delete, clean up, and ask."""

from __future__ import annotations

import time
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from journal import (
    compaction,
    ids,
    planner,
    plans,
    retention,
    state_codec,
    state_json,
    state_proof,
)
from journal.batch import Batch
from journal.clock import stamp
from journal.compaction import Compaction, Threshold
from journal.delta import Link
from journal.errors import (
    ApprovalNeeded,
    Conflict,
    InvalidArgument,
    OnHold,
    Protected,
    StalePlan,
)
from journal.mending import Mender
from journal.policy import Policy, check_keep_last, describe, policy_hash
from journal.reader import CheckpointReader
from journal.storage import Busy

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from journal.events import CheckpointSaved, ForkOrigin
    from journal.index import Entry, JobView
    from journal.packer import Packed
    from journal.plans import JobPlan, Plan
    from journal.repair import Repair
    from journal.retention import Verdict
    from journal.state_proof import Opened
    from journal.store import OnPiece

# An event line is for ever, so that one of many removals stays readable.
_MAX_REMOVED_PER_EVENT = 10_000
_MAX_TAGS = 64
_PINS = frozenset({"checkpoint.pinned", "checkpoint.unpinned"})
_ALWAYS = Threshold()
# How long an erasure waits, time after time, for a compaction that is on its way.
_PAUSES_SECONDS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, *(1.0 for _ in range(30)))
_PROTECTS = frozenset({"checkpoint.pinned", "checkpoint.held"})


class CheckpointManager(CheckpointReader):
    """Keeps the checkpoints of jobs; see `Inquiry` for its arguments.

    Safe for many threads, and for many processes of one machine on one folder.
    Nothing is read or made before the first call.
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

        Returns once it is durable.  The first save creates the job.

        Args:
            job_id: 1 to 512 bytes of printable text.
            step_name: 1 to 512 bytes; part of the id, made safe for a URL.
            state: a dict of plain JSON values.
            metadata: a dict of plain JSON values, at most 64 KiB, shown by `list`.
            tags: labels for policies and searches.
            pinned: no policy removes it.
            failed: the step did not end well; policies judge it apart.
            workflow_name: recorded.
            workflow_version: recorded.
            actor: who saves, if not the manager's.
            idempotency_key: a repeat with the same key returns the first id.
            expected_seq: refuse if the job has moved on since; 0: it must be new.

        Raises:
            InvalidArgument: an id, a name or a label is out of bounds.
            InvalidState: the state would not come back equal; names the path.
            Conflict: `expected_seq` is stale, or the key was used for another state.
            DamagedJournal: the job is quarantined.
            StorageFailed: the disk said no; its subclasses say what that means.
        """
        ids.check_job_id(job_id)
        ids.check_step_name(step_name)
        labels = _labels(tags, workflow_name, workflow_version, idempotency_key)
        raw = state_json.to_json(state, self._limits)
        view = self._store.glance(job_id)
        packed = self._packer.pack(view, raw, self._read)
        sealed = state_codec.seal(raw, metadata, packed.body, key=self._vault.key)
        data: dict[str, Any] = {
            "checkpoint_id": "",
            "step_name": step_name,
            "parent": 0,
            "state_sha256": sealed.sha256,
            "state_bytes": sealed.raw_bytes,
            **labels,
        }
        if pinned:
            data["pinned"] = True
        if failed:
            data["failed"] = True
        if sealed.metadata:
            data["has_metadata"] = True
        who = self._who(actor)
        saved: list[tuple[Link, Packed]] = []
        if expected_seq and (known := self._store.view(job_id)).seq == 0:
            Batch(known, self._clock()).check_seq(
                expected_seq
            )  # refused before the job is made

        def request(batch: Batch) -> str:
            if idempotency_key is not None:
                content = _Content(step_name, raw, sealed.metadata)
                known = self._answered(batch, idempotency_key, content)
                if known is not None:
                    return known
            batch.check_seq(expected_seq)
            checkpoint_id = self._new_id(batch, step_name)
            data["checkpoint_id"] = checkpoint_id
            data["parent"] = batch.current
            final, stored = packed, sealed
            if not self._packer.is_usable(packed, batch.view):
                # The base was deleted meanwhile, and a compaction may take it.
                final = self._packer.whole(raw)
                stored = sealed.stored_as(final.body)
            batch.current = batch.add("checkpoint.saved", who, data, stored)
            batch.ids.add(checkpoint_id)
            if idempotency_key is not None:
                batch.keys[idempotency_key] = checkpoint_id, content
            saved.append((Link(batch.current, final.body.step, checkpoint_id), final))
            return checkpoint_id

        checkpoint_id: str = self._store.write(job_id, request, is_shared=True)
        for link, final in saved:
            self._packer.remember(job_id, link, raw, final)
        return checkpoint_id

    def restore(
        self,
        job_id: str,
        checkpoint_id: str,
        *,
        actor: str | None = None,
        expected_seq: int | None = None,
    ) -> dict[str, Any]:
        """Return a checkpoint's state and make it current, on the record.

        The next save becomes its child; nothing that was saved since is lost.  `get`
        reads without either.  A state of an older workflow version is migrated, if
        migrations are registered, and the record says from which version to which.

        Raises:
            UnknownCheckpoint: (a FileNotFoundError) not there, or deleted.
            UnreadableState: (a ValueError) its bytes are not what was saved.
            NewerState: (a ValueError) a newer version of its workflow saved it.
            NoMigration: (a ValueError) no migration leads from its version on.
            MigrationFailed: (a ValueError) one raised, or returned no valid state.
            DamagedJournal: (a ValueError) the job is quarantined.
            Conflict: `expected_seq` is stale.
            StorageFailed: it could not be recorded.
        """
        info, opened = self._answer(job_id, partial(self._opened, checkpoint_id))
        migrated = self._migrated(info, opened)

        def request(batch: Batch) -> None:
            batch.check_seq(expected_seq)
            self._entry(batch.view, checkpoint_id)
            data = {"checkpoint_id": checkpoint_id}
            if batch.view.current is not None:
                data["was"] = batch.view.current.checkpoint_id
            if migrated.from_version is not None and migrated.to_version is not None:
                data["migrated_from"] = migrated.from_version
                data["migrated_to"] = migrated.to_version
            batch.add("checkpoint.restored", self._who(actor), data)

        self._store.write(job_id, request)
        return migrated.state

    def delete(
        self,
        job_id: str,
        checkpoint_id: str,
        *,
        actor: str | None = None,
        reason: str | None = None,
        force: bool = False,
        purge: bool = False,
        expected_seq: int | None = None,
    ) -> bool:
        """Delete a checkpoint; return False if there is none.

        It leaves the lists at once and can be undeleted until the trash period ends.
        The record that it existed stays.

        Args:
            job_id: whose.
            checkpoint_id: which.
            actor: who deletes it, if not the manager's.
            reason: recorded.
            force: though it is pinned.
            purge: erase its state at once and for good, also if it was deleted before.
            expected_seq: refuse if the job has moved on since.

        Raises:
            OnHold: (a Protected) it is held; `force` changes nothing about that.
            Protected: it is pinned, and `force` was not given.
            Conflict: `expected_seq` is stale; or, with `purge`, another compaction took
                too long: the checkpoint is gone, its state goes with the next one.
            DamagedJournal, StorageFailed: as `save`.
        """

        def request(batch: Batch) -> bool:
            view = batch.view
            in_trash = purge and checkpoint_id in view.trash
            if checkpoint_id not in view.checkpoints and not in_trash:
                return False
            batch.check_seq(expected_seq)
            _refuse_held(view, checkpoint_id)
            if checkpoint_id in view.pinned and not force:
                raise Protected(
                    f"checkpoint {checkpoint_id!r} is pinned",
                    hint="unpin it, or delete it with force",
                )
            data = {"checkpoint_id": checkpoint_id}
            if reason is not None:
                data["reason"] = ids.check_label("reason", reason)
            type_ = "checkpoint.purged" if purge else "checkpoint.deleted"
            batch.add(type_, self._who(actor), data)
            return True

        is_done = self._change(job_id, request)
        if is_done and purge:
            self._erase(job_id, actor)
        return is_done

    def cleanup(
        self,
        job_id: str,
        keep_last: int = 10,
        *,
        actor: str | None = None,
        expected_seq: int | None = None,
    ) -> int:
        """Delete all but the newest `keep_last`; return how many were deleted.

        Held and pinned checkpoints and the current one stay besides.  Those saved as
        failed are counted apart, so that they take no place of the others.

        Raises:
            InvalidArgument: `keep_last` is not a whole number of at least 1.
            Conflict: `expected_seq` is stale.
            DamagedJournal, StorageFailed: as `save`.
        """
        policy = Policy(name="cleanup", keep_last=check_keep_last(keep_last))

        def request(batch: Batch) -> int:
            batch.check_seq(expected_seq)
            found = self._candidates(batch.view, policy)
            decision = retention.decide(found, policy, batch.now)
            plan = planner.job_plan(batch.view, decision, policy)._replace(waits=())
            self._add_cleaned(batch, plan, self._who(actor), plan_id=None)
            return len(plan.remove)

        if self._view(job_id).seq == 0:
            return 0
        removed: int = self._store.write(job_id, request)
        return removed

    def undelete(
        self,
        job_id: str,
        checkpoint_id: str,
        *,
        actor: str | None = None,
        expected_seq: int | None = None,
    ) -> bool:
        """Bring a deleted checkpoint back; return False if it was not deleted.

        Raises:
            Conflict: its trash period has ended, or `expected_seq` is stale.
            DamagedJournal, StorageFailed: as `save`.
        """

        def request(batch: Batch) -> bool:
            trashed = batch.view.trash.get(checkpoint_id)
            if trashed is None:
                return False
            batch.check_seq(expected_seq)
            if trashed.is_purged:
                raise Conflict(f"checkpoint {checkpoint_id!r} was purged; it is gone")
            end = datetime.fromisoformat(trashed.at) + timedelta(
                seconds=self.trash_seconds
            )
            if batch.now >= end:
                raise Conflict(
                    f"checkpoint {checkpoint_id!r} was deleted at {trashed.at}; its "
                    f"trash period ended at {stamp(end)}"
                )
            data = {"checkpoint_id": checkpoint_id}
            batch.add("checkpoint.undeleted", self._who(actor), data)
            return True

        return self._change(job_id, request)

    def pin(
        self,
        job_id: str,
        checkpoint_id: str,
        *,
        actor: str | None = None,
        reason: str | None = None,
        expected_seq: int | None = None,
    ) -> bool:
        """Shield a checkpoint from every policy; False if it already was.

        Raises:
            UnknownCheckpoint: not there, or deleted.
            Conflict: `expected_seq` is stale.
            DamagedJournal, StorageFailed: as `save`.
        """
        return self._mark(
            job_id, checkpoint_id, "checkpoint.pinned", actor, reason, expected_seq
        )

    def unpin(
        self,
        job_id: str,
        checkpoint_id: str,
        *,
        actor: str | None = None,
        reason: str | None = None,
        expected_seq: int | None = None,
    ) -> bool:
        """Take the shield away; False if there was none.

        Raises:
            UnknownCheckpoint: not there, or deleted.
            Conflict: `expected_seq` is stale.
            DamagedJournal, StorageFailed: as `save`.
        """
        return self._mark(
            job_id, checkpoint_id, "checkpoint.unpinned", actor, reason, expected_seq
        )

    def hold(
        self,
        job_id: str,
        checkpoint_id: str,
        *,
        reason: str | None = None,
        actor: str | None = None,
        expected_seq: int | None = None,
    ) -> bool:
        """Keep a checkpoint from being removed by anything; False if it already was.

        No policy and no `cleanup`, `delete` or `forget` removes it until `release`, not
        even with force.  The journal says who holds it, since when and why; a second
        hold changes nothing about that.

        Raises:
            UnknownCheckpoint: not there, or deleted.
            Conflict: `expected_seq` is stale.
            DamagedJournal, StorageFailed: as `save`.
        """
        return self._mark(
            job_id, checkpoint_id, "checkpoint.held", actor, reason, expected_seq
        )

    def release(
        self,
        job_id: str,
        checkpoint_id: str,
        *,
        reason: str | None = None,
        actor: str | None = None,
        expected_seq: int | None = None,
    ) -> bool:
        """End a hold, whoever began it; False if there was none.

        Raises:
            UnknownCheckpoint: not there, or deleted.
            Conflict: `expected_seq` is stale.
            DamagedJournal, StorageFailed: as `save`.
        """
        return self._mark(
            job_id, checkpoint_id, "checkpoint.released", actor, reason, expected_seq
        )

    def _mark(
        self,
        job_id: str,
        checkpoint_id: str,
        type_: str,
        actor: str | None,
        reason: str | None,
        expected_seq: int | None,
    ) -> bool:
        """Pin, unpin, hold or release; False if that changes nothing."""
        self._markable(self._view(job_id), checkpoint_id, type_)

        def request(batch: Batch) -> bool:
            view = batch.view
            self._markable(view, checkpoint_id, type_)
            batch.check_seq(expected_seq)
            marked = view.pinned if type_ in _PINS else view.held
            if (checkpoint_id in marked) == (type_ in _PROTECTS):
                return False
            data = {"checkpoint_id": checkpoint_id}
            if reason is not None:
                data["reason"] = ids.check_label("reason", reason)
            batch.add(type_, self._who(actor), data)
            return True

        return self._change(job_id, request)

    def _markable(self, view: JobView, checkpoint_id: str, type_: str) -> None:
        # Deleted by a version that knows no holds, it can be released all the same.
        if type_ != "checkpoint.released" or checkpoint_id not in view.held:
            self._entry(view, checkpoint_id)

    def fork(
        self,
        job_id: str,
        checkpoint_id: str,
        new_job_id: str,
        *,
        actor: str | None = None,
    ) -> str:
        """Begin a new job with a copy of a checkpoint; return the copy's id.

        The source is untouched, and deleting it later does not touch the new job.  Its
        first event says where it came from.

        Raises:
            UnknownCheckpoint, UnreadableState: as `restore`.
            Conflict: `new_job_id` already exists.
            InvalidArgument, DamagedJournal, StorageFailed: as `save`.
        """
        ids.check_job_id(new_job_id)
        entry, event, opened = self._answer(
            job_id, partial(self._source, checkpoint_id)
        )
        raw = state_json.to_json(opened.state, self._limits)
        body = self._packer.whole(raw).body
        sealed = state_codec.seal(raw, opened.metadata, body, key=self._vault.key)
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
            "state_sha256": sealed.sha256,
            "state_bytes": sealed.raw_bytes,
            **_labels(
                entry.labels.tags,
                entry.labels.workflow_name,
                entry.labels.workflow_version,
                None,
            ),
        }
        if sealed.metadata:
            data["has_metadata"] = True

        def request(batch: Batch) -> str:
            if batch.seen_seq != 0:
                raise Conflict(f"job {new_job_id!r} already exists")
            batch.opening["forked_from"] = origin
            data["checkpoint_id"] = self._new_id(batch, entry.step_name)
            batch.add("checkpoint.saved", self._who(actor), data, sealed)
            return str(data["checkpoint_id"])

        forked: str = self._store.write(new_job_id, request)
        return forked

    def _source(
        self, checkpoint_id: str, view: JobView
    ) -> tuple[Entry, CheckpointSaved, Opened]:
        entry = self._entry(view, checkpoint_id)
        return entry, self._event_of(view, entry), self._open(view, entry)

    def compact(
        self,
        job_id: str,
        *,
        actor: str | None = None,
        threshold: Threshold = _ALWAYS,
        rewrap: bool = False,
        on_piece: OnPiece | None = None,
    ) -> Compaction | None:
        """Rewrite the job's journal without the states that have to go.

        These are the states of deleted checkpoints whose trash period has ended, or
        that were purged; and bytes that a recovery kept aside, after the same period.
        No event goes: the record stays, the disk space is free, nobody is kept
        waiting but for a moment.

        Args:
            job_id: which.
            actor: who asks for it, if not the manager.
            threshold: what makes it worth while; by default, any state that is due.
            rewrap: do it in any case, so that the current key wraps all that stays.
            on_piece: called between pieces of the journal with the bytes that were read
                since; what it raises ends the compaction, and nothing was changed.

        Returns:
            What was done, None if there was nothing to do.

        Raises:
            Conflict: another compaction of the job is on its way.
            UnreadableState: a live state is not what was saved.
            DamagedJournal, StorageFailed: as `save`.
        """
        now = self._clock()
        latest = stamp(now - timedelta(seconds=self.trash_seconds))

        def expired(view: JobView) -> list[str]:
            return sorted(n for n, at in view.side_files.items() if at <= latest)

        def is_worth(view: JobView, drop: frozenset[int]) -> bool:
            return rewrap or threshold.is_met(view, drop, now, self.trash_seconds)

        if self._view(job_id).seq == 0:
            return None
        try:
            return self._store.compact(
                job_id,
                partial(compaction.due, now=now, trash_seconds=self.trash_seconds),
                expired,
                is_worth,
                self._who(actor),
                self._vault,
                on_piece,
            )
        except Busy:
            raise Conflict(
                f"job {job_id!r} is being compacted by somebody else",
                hint="try again",
            ) from None

    def repair(
        self,
        job_id: str,
        *,
        accept_loss: bool = False,
        dry_run: bool = False,
        actor: str | None = None,
    ) -> Repair:
        """Mend a job as far as that can be done, and journal it.

        Without consent, only what gives up nothing that was acknowledged: a tail is
        settled, a head made anew, a journal rewritten after a failed sync.  With it,
        the journal is cut back to its last proven write and what was behind is kept in
        ``side/``; checkpoints whose states cannot be read are deleted.

        Args:
            job_id: which job.
            accept_loss: acknowledged events may be given up, if it takes that.
            dry_run: only say what would be done; see `Repair.steps`.
            actor: who gives them up, if not the manager's.

        Returns:
            What was wrong and what was done; without steps if nothing is wrong.

        Raises:
            InvalidArgument: there is no such job, or `job_id` is out of bounds.
            LossNotAccepted: it takes a loss.
            CannotRepair: another job's journal, or a newer version's.
            LockTimeout, NoSpace, ReadOnlyStore, StorageFailed: what was there is
                still there; do it again.
        """
        mender = Mender(self._store.storage, self._vault, self._clock, self._who(actor))
        ids.check_job_id(job_id)
        return mender.repair(job_id, accept_loss=accept_loss, dry_run=dry_run)

    def forget(
        self, job_id: str, *, actor: str | None = None, reason: str | None = None
    ) -> Compaction | None:
        """Erase every state of a job, at once and for good; its record stays.

        Returns:
            What the compaction did, None for an unknown job.

        Raises:
            OnHold: a checkpoint of it is held; nothing was erased.
            Conflict: another compaction took too long: the checkpoints are gone, their
                states go with the next one.
            DamagedJournal, StorageFailed: as `save`.
        """

        def request(batch: Batch) -> bool:
            for checkpoint_id in batch.view.held:
                _refuse_held(batch.view, checkpoint_id)
            data = {}
            if reason is not None:
                data["reason"] = ids.check_label("reason", reason)
            batch.add("job.forgotten", self._who(actor), data)
            return True

        if not self._change(job_id, request):
            return None
        if (done := self._erase(job_id, actor)) is not None:
            return done
        size = self._view(job_id).end  # there was nothing, or the worker was quicker
        return Compaction(job_id, 0, 0, size, size)

    def _erase(self, job_id: str, actor: str | None) -> Compaction | None:
        """Compact, after whoever is at it, so that what was purged leaves the disk.

        Raises:
            Conflict: he took too long.
        """
        for pause in _PAUSES_SECONDS:
            with suppress(Conflict):
                return self.compact(job_id, actor=actor)
            time.sleep(pause)  # his began before ours was due
        raise Conflict(
            f"job {job_id!r}: the checkpoints are gone, but their states are still on "
            "the disk, since somebody else has been compacting it all the time",
            hint="they go with the next one: `milepost compact`, or the worker's",
        )

    def apply(
        self, plan: Plan, *, actor: str | None = None, approve: bool = False
    ) -> int:
        """Carry out exactly `plan`; return how many checkpoints were removed.

        Each job's part lands whole or not at all.  If a job moves on just then, the
        jobs before it have been cleaned; the error says how many checkpoints went.

        Args:
            plan: as `plan` made it.
            actor: who carries it out, if not the manager's.
            approve: though it removes so much that it waits for somebody's approval.
                From then on plans of the same policy, of any job, do not wait.

        Raises:
            StalePlan: a job moved on since.
            ApprovalNeeded: it waits for approval; nothing was removed.
            OnHold: it would remove what is held; nothing was removed.
            InvalidArgument: this is no plan that `plan` made.
            DamagedJournal, StorageFailed: as `save`.
        """
        if plan.plan_id != plans.plan_id(plan.jobs):
            raise InvalidArgument(
                f"plan {plan.plan_id} is not what it was when it was made",
                hint="plan again",
            )
        if plan.waits and not approve:
            raise ApprovalNeeded(
                f"plan {plan.plan_id} waits for approval: {plan.waits[0]}",
                hint="look at what would go, then approve it",
            )
        losing = [job for job in plan.jobs if job.remove]
        for job in losing:
            _refuse_stale(self._view(job.job_id), job, plan.plan_id)
        removed = 0
        for job in losing:
            try:
                removed += self._store.write(
                    job.job_id,
                    partial(self._apply, job, plan.plan_id, self._who(actor)),
                )
            except StalePlan as exc:
                raise exc.after_removing(removed) from exc
        return removed

    def _apply(self, job: JobPlan, plan_id: str, actor: str, batch: Batch) -> int:
        _refuse_stale(batch.view, job, plan_id)
        self._refuse_shielded(batch.view, job, plan_id)
        self._add_cleaned(batch, job, actor, plan_id=plan_id)
        return len(job.remove)

    @staticmethod
    def _refuse_shielded(view: JobView, plan: JobPlan, plan_id: str) -> None:
        """No policy removes these, whoever made the plan (I6)."""
        shielded = {*view.pinned}
        for entry in (view.current, view.latest):
            if entry is not None:
                shielded.add(entry.checkpoint_id)
        for verdict in plan.remove:
            if verdict.checkpoint_id not in view.checkpoints:
                raise InvalidArgument(
                    f"plan {plan_id} names {verdict.checkpoint_id!r}, "
                    "which is not there"
                )
            _refuse_held(view, verdict.checkpoint_id)
            if verdict.checkpoint_id in shielded:
                raise InvalidArgument(
                    f"plan {plan_id} would remove {verdict.checkpoint_id!r}, "
                    "which is pinned, current or the newest"
                )

    def _add_cleaned(
        self, batch: Batch, plan: JobPlan, actor: str, *, plan_id: str | None
    ) -> None:
        until = stamp(batch.now + timedelta(seconds=self.trash_seconds))
        policy = describe(plan.policy) | {"hash": policy_hash(plan.policy)}
        for first in range(0, len(plan.remove), _MAX_REMOVED_PER_EVENT):
            part = plan.remove[first : first + _MAX_REMOVED_PER_EVENT]
            data: dict[str, object] = {
                "removed": {v.checkpoint_id: _text(v) for v in part},
                "kept": len(plan.keep),
                "policy": policy,
                "trash_until": until,
            }
            if plan_id is not None:
                data["plan_id"] = plan_id
            if plan.waits:
                data["approved"] = True
            batch.add("checkpoints.cleaned", actor, data)

    def complete(
        self,
        job_id: str,
        *,
        failed: bool = False,
        reason: str | None = None,
        actor: str | None = None,
        expected_seq: int | None = None,
    ) -> bool:
        """Say that the job has come to its end; False if there is no such job.

        From then on its policy for completed jobs is in force, if it has one.  A save
        or a restore begins the job again.

        Args:
            job_id: which.
            failed: it did not end well.
            reason: recorded.
            actor: who says so, if not the manager's.
            expected_seq: refuse if the job has moved on since.

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

    # -- inside ----------------------------------------------------------------

    def _who(self, actor: str | None) -> str:
        return self._actor if actor is None else ids.check_label("actor", actor)

    def _new_id(self, batch: Batch, step_name: str) -> str:
        view = batch.view
        while True:
            new = ids.new_checkpoint_id(step_name, batch.now)
            if not (new in view.checkpoints or new in view.trash or new in batch.ids):
                return new

    def _change(self, job_id: str, request: Callable[[Batch], bool]) -> bool:
        """Write to a job that must exist; False if it does not."""
        if self._view(job_id).seq == 0:
            return False
        changed: bool = self._store.write(job_id, request)
        return changed

    def _answered(self, batch: Batch, key: str, content: _Content) -> str | None:
        """Return the id that this idempotency key was answered with, if it was."""
        view = batch.view
        if (pending := batch.keys.get(key)) is not None:
            known, is_same = pending[0], pending[1] == content
        elif (known := view.keys.get(key, "")) != "":
            trashed = view.trash.get(known)
            entry = view.checkpoints.get(known) if trashed is None else trashed.entry
            # What is gone for good can't be compared; the key says that it was it.
            is_same = entry is None or self._holds(view, entry, content)
        else:
            return None
        if not is_same:
            raise Conflict(
                f"idempotency key {key!r} was used for {known!r}, which is another "
                "save",
                hint="a key stands for one save; take a new one",
            )
        return known

    def _holds(self, view: JobView, entry: Entry, content: _Content) -> bool:
        line, _ = self._store.read_pair(view, entry.seq)
        if not line:
            return True
        found = self._read(view, entry.seq)
        return entry.step_name == content.step_name and state_proof.same_state(
            found.parts, found.data["state_sha256"], content.raw, content.metadata
        )


def _refuse_stale(view: JobView, job: JobPlan, plan_id: str) -> None:
    if (view.seq, view.hash or "") != (job.head_seq, job.head_hash):
        raise StalePlan(
            f"plan {plan_id} was made at event {job.head_seq} of job {job.job_id!r}, "
            f"which is at {view.seq} now"
        )


def _refuse_held(view: JobView, checkpoint_id: str) -> None:
    if (held := view.held.get(checkpoint_id)) is not None:
        raise OnHold(
            checkpoint_id, held_by=held.actor, held_since=held.at, reason=held.reason
        )


class _Content(NamedTuple):
    """What tells one save from another."""

    step_name: str
    raw: bytes
    metadata: bytes


def _labels(
    tags: Sequence[str], name: str | None, version: str | None, key: str | None
) -> dict[str, Any]:
    """Return the optional fields of a saved event, checked; only those that are set."""
    if isinstance(tags, str):
        raise InvalidArgument(f"tags must be a list of strings, got {tags!r:.60}")
    labels: dict[str, Any] = {}
    if name is not None:
        labels["workflow_name"] = ids.check_label("workflow_name", name)
    if version is not None:
        labels["workflow_version"] = ids.check_label("workflow_version", version)
    if key is not None:
        labels["key"] = ids.check_label("key", key)
    if len(tags) > _MAX_TAGS:
        raise InvalidArgument(f"at most {_MAX_TAGS} tags, got {len(tags)}")
    if tags:
        labels["tags"] = [ids.check_label("a tag", tag) for tag in tags]
    return labels


def _text(verdict: Verdict) -> str:
    return "; ".join(verdict.reasons)
