"""Append entries to a log, and remove them: the last one, or all."""

from __future__ import annotations

from binascii import b2a_base64
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from milepost.journal.commands import saving
from milepost.journal.commands.cleanup import add_cleaned
from milepost.journal.commands.marks import refuse_held
from milepost.journal.commands.reason import with_reason
from milepost.journal.commands.removal import refuse_protected
from milepost.journal.index.entry_keys import digest_of
from milepost.journal.reading.passes import KIND, check_kind

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from milepost.journal.batch import Batch
    from milepost.journal.commands.saving import Draft
    from milepost.journal.events.codec import Mark
    from milepost.journal.index.entries import Entry
    from milepost.journal.index.job_view import JobView
    from milepost.journal.reading.reader import Reader
    from milepost.journal.states.packer import Packer

    Entries = Sequence[Mapping[str, Any]]


class Appended(NamedTuple):
    """The answer to an append.

    Attributes:
        checkpoint_id: of the append; None if all its entries were there.
        seq: of its event; None if there is none.
        added: how many entries were added.
    """

    checkpoint_id: str | None = None
    seq: int | None = None
    added: int = 0


class Log:
    """One log, for its writers.

    Args:
        reader: reads the store.
        packer: encodes states.
        job_id: the log.
        actor: who writes.
    """

    def __init__(self, reader: Reader, packer: Packer, job_id: str, actor: str) -> None:
        self._reader = reader
        self._packer = packer
        self._job_id = job_id
        self._actor = actor

    def append(
        self,
        entries: Entries,
        key: str | None,
        fields: saving.Fields,
        metadata: Mapping[str, Any] | None,
        expected_seq: int | None,
    ) -> Appended:
        """Add entries, without those whose key is there, in one write.

        Raises:
            WrongKind: the job holds something else.
            Conflict: `expected_seq` is stale.
        """
        while True:
            view = self._reader.view(self._job_id)
            seen = view.mark
            check_kind(view)
            fresh = self._fresh(view, entries, key)
            if not fresh:
                return Appended()
            draft = self._draft(fresh, key, fields, metadata)

            def decide(
                batch: Batch,
                seen: Mark = seen,
                fresh: Entries = fresh,
                draft: Draft = draft,
            ) -> Appended | None:
                # Another writer may have added or removed some of them.
                is_other = key is not None and batch.view.mark != seen
                if is_other and self._fresh(batch.view, entries, key) != fresh:
                    return None
                saved = self._save(batch, draft, expected_seq)
                return Appended(saved.checkpoint_id, batch.seq, len(fresh))

            # With keys, neighbours in the same write could not be seen.
            write = self._reader.store.write
            done = write(self._job_id, decide, is_shared=key is None)
            if done is not None:
                answer: Appended = done
                return answer

    def pop(self, expected_seq: int | None) -> dict[str, Any] | None:
        """Remove the last entry, in one write, and return it; None without any.

        Raises:
            WrongKind, Conflict: as `append`.
            OnHold, Protected: its append is held or pinned.
        """
        while True:
            view = self._reader.view(self._job_id)
            check_kind(view)
            if (last := view.current) is None:
                return None
            opened = self._reader.answer(
                self._job_id, partial(self._reader.opened_if_live, last.checkpoint_id)
            )
            if opened is None:
                continue  # removed meanwhile
            *rest, popped = opened.state["entries"]
            draft = None
            if rest:
                fields, metadata = _fields_of(last), opened.metadata or None
                key = opened.state.get("key")
                draft = self._draft(rest, key, fields, metadata)
            decide = partial(self._pop, last, draft, expected_seq)
            if self._reader.store.write(self._job_id, decide):
                whose = f"an entry of log {self._job_id!r}"
                return self._reader.decoded(popped, None, whose)

    def _pop(
        self, last: Entry, draft: Draft | None, expected_seq: int | None, batch: Batch
    ) -> bool:
        batch.check_seq(expected_seq)
        view = batch.view
        if view.current is None or view.current.checkpoint_id != last.checkpoint_id:
            return False
        refuse_held(view, last.checkpoint_id)
        refuse_protected(view, last.checkpoint_id)
        if draft is not None:
            # A sibling of the popped append, not its child: to undelete and restore
            # that one returns the log to what it was.
            batch.current = _seq_before(view, last)
            self._save(batch, draft, None)
        data = with_reason({"checkpoint_id": last.checkpoint_id}, "popped")
        removed = [last.checkpoint_id]
        batch.remove("checkpoint.deleted", self._actor, data, removed)
        return True

    def clear(
        self,
        batch: Batch,
        reason: str | None,
        trash_seconds: float,
        expected_seq: int | None,
    ) -> int:
        """Remove all entries; return how many appends they were.

        Raises:
            WrongKind, Conflict: as `append`.
            OnHold, Protected: an append is held or pinned; nothing is removed.
        """
        view = batch.view
        check_kind(view)
        batch.check_seq(expected_seq)
        removed = dict.fromkeys(view.checkpoints, reason or "cleared")
        for checkpoint_id in removed:
            refuse_held(view, checkpoint_id)
            refuse_protected(view, checkpoint_id)
        if removed:
            add_cleaned(
                batch,
                removed,
                {"call": "clear"},
                actor=self._actor,
                trash_seconds=trash_seconds,
                kept=0,
                more={},
            )
        return len(removed)

    def _draft(
        self,
        entries: Entries,
        key: str | None,
        fields: saving.Fields,
        metadata: Mapping[str, Any] | None,
    ) -> Draft:
        state: dict[str, Any] = {"entries": [*entries]}
        keys = [each[key] for each in entries if _key_of(each, key)] if key else []
        if keys:
            state["key"] = key
        draft = saving.draft_of(
            self._reader,
            self._packer,
            self._job_id,
            fields,
            state,
            metadata,
            has_base=False,
        )
        if keys:
            packed = b2a_base64(b"".join(map(digest_of, keys)), newline=False)
            draft.data["entry_keys"] = packed.decode()
        return draft

    def _save(
        self, batch: Batch, draft: Draft, expected_seq: int | None
    ) -> saving.Saved:
        return saving.save(
            batch,
            draft,
            self._packer,
            self._reader.is_saved_as,
            actor=self._actor,
            expected_seq=expected_seq,
            kind=KIND,
        )

    def _fresh(self, view: JobView, entries: Entries, key: str | None) -> Entries:
        """Return the entries without those whose key is there already, or repeated."""
        if key is None:
            return entries
        seen, known = set[str](), dict[int, set[str]]()
        fresh = []
        for each in entries:
            name = _key_of(each, key)
            if name is not None:
                if name in seen or self._has(view, name, known):
                    continue
                seen.add(name)
            fresh.append(each)
        return fresh

    def _has(self, view: JobView, name: str, known: dict[int, set[str]]) -> bool:
        """Return whether the log has an entry with this key.

        Args:
            view: of the log.
            name: the key.
            known: the keys of appends that were read, by seq; extended.
        """
        keys = view.entry_keys
        for seq in () if keys is None else keys.appends_with(name):
            entry, current = view.checkpoints.saved_as(seq), view.current
            if entry is None or current is None:
                continue
            if not view.lineage.leads(seq, current.seq):
                continue
            if seq not in known:
                state = self._reader.open(view, entry).state
                found = (_key_of(e, state.get("key")) for e in state["entries"])
                known[seq] = {each for each in found if each is not None}
            if name in known[seq]:
                return True
        return False


def _key_of(entry: Mapping[str, Any], key: str | None) -> str | None:
    """Return the key of an entry; None if it has none, or none that is text."""
    found = None if key is None else entry.get(key)
    return found if isinstance(found, str) else None


def _fields_of(entry: Entry) -> saving.Fields:
    known = entry.labels
    return saving.Fields(
        entry.step_name, known.tags, known.workflow_name, known.workflow_version
    )


def _seq_before(view: JobView, entry: Entry) -> int:
    """Return the seq of the append that `entry` continues, 0 if there is none."""
    before = entry.parent_id
    if (live := view.checkpoints.get(before)) is not None:
        return live.seq
    trashed = view.trash.get(before or "")
    return 0 if trashed is None else trashed.entry.seq
