"""The threads of LangGraph in a store: each is a job, its states are opaque bytes."""

from __future__ import annotations

import math
import time
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from milepost.journal import ids
from milepost.journal.commands import threads as commands
from milepost.journal.commands.threads import ANY, threads_of
from milepost.journal.errors import (
    Conflict,
    DamagedJournal,
    MilepostError,
    NestedCall,
    StateTooLarge,
    StorageFailed,
    UnreadableState,
)
from milepost.journal.states import delta_chain, framing, line_codec
from milepost.journal.storage.contract import every_job

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    from milepost.journal.commands.threads import Draft
    from milepost.journal.events.vocabulary import CopyOrigin
    from milepost.journal.index.entries import Entry
    from milepost.journal.index.job_view import JobView
    from milepost.journal.index.threads import Threads as Index
    from milepost.journal.reading.reader import Reader
    from milepost.journal.states.delta import Link
    from milepost.journal.states.line_codec import EncodedState
    from milepost.journal.states.packer import Packer

__all__ = ["ANY", "Blob", "Put", "Ref", "Stored", "Threads", "Written"]

_T = TypeVar("_T")
# A serializer's type, and its bytes.
Blob = tuple[str, bytes]
# How many checkpoints a put looks back for writes to put before its base.
_MAX_BACK = 128
# Asking the storage about 1,000 jobs takes 10 ms.
_LOOK_EVERY_SECONDS = 1.0


class Put(NamedTuple):
    """A checkpoint to store.

    Attributes:
        ns: its namespace.
        id: LangGraph's id.
        parent_id: LangGraph's id of its parent; None: a root.
        source: shown as its step.
        value: the whole checkpoint, serialized.
        metadata: plain JSON of at most 64 KiB, or serialized.
        run_id: of the run that made it.
        root_id: of a call's namespace: the root checkpoint that it started from.
        lacks: the channels whose value is in the writes of its ancestors.
    """

    ns: str
    id: str
    parent_id: str | None
    source: str
    value: Blob
    metadata: dict[str, Any] | Blob
    run_id: str | None
    root_id: str | None
    lacks: tuple[str, ...]


class Written(NamedTuple):
    """One write of a task."""

    task_id: str
    task_path: str
    idx: int
    channel: str
    value: Blob


class Ref(NamedTuple):
    """A live checkpoint of a thread, without its values.

    `id` and `parent_id` are LangGraph's; `parent_id` is None if the parent is not live.
    """

    thread_id: str
    ns: str
    id: str
    checkpoint_id: str
    parent_id: str | None
    seq: int
    run_id: str | None
    source: str
    lacks: tuple[str, ...]


class Stored(NamedTuple):
    """A checkpoint with its values; writes are in LangGraph's order."""

    ref: Ref
    value: Blob
    metadata: dict[str, Any] | Blob
    writes: tuple[Written, ...]


class Threads:
    """The threads of a store.  Safe for threads and processes.

    Args:
        reader: reads the store.
        packer: encodes states.
        who: returns the actor of a call.
        trash_seconds: returns how long a deleted checkpoint can be undeleted.
    """

    def __init__(
        self,
        reader: Reader,
        packer: Packer,
        who: Callable[[str | None], str],
        trash_seconds: Callable[[], float],
    ) -> None:
        self._reader = reader
        self._store = reader.store
        self._packer = packer
        self._who = who
        self._trash_seconds = trash_seconds
        self._looked_at = -math.inf  # when `thread_ids` last looked at every job

    # -- writes ------------------------------------------------------------------------

    def put(
        self,
        thread_id: str,
        put: Put,
        *,
        expected_parent: object = ANY,
        actor: str | None = None,
    ) -> None:
        """Store a checkpoint durably; one of the same namespace and id is replaced.

        Args:
            thread_id: the thread; the first put opens its job.
            put: the checkpoint.
            expected_parent: LangGraph's id that the newest of the namespace must have;
                None: there must be none.
            actor: the actor, instead of the manager's.

        Raises:
            WrongKind: the job holds no thread.
            Conflict: the newest is not `expected_parent`.
            StateTooLarge: it has more than `max_state_bytes`.
            OnHold: the replaced one is held.
            StorageFailed: the write failed.
        """
        self._put(thread_id, put, expected_parent, actor)

    def _put(
        self,
        thread_id: str,
        put: Put,
        expected_parent: object,
        actor: str | None,
        *,
        origin: CopyOrigin | None = None,
    ) -> None:
        draft = self._draft(ids.check_job_id(thread_id), put, origin)
        decide = partial(
            commands.put,
            draft=draft,
            packer=self._packer,
            actor=self._who(actor),
            expected_parent=expected_parent,
        )
        packed, fold, seq, checkpoint_id = self._store.write(thread_id, decide)
        self._packer.remember(packed, fold, seq, checkpoint_id, draft.raw)

    def _draft(self, thread_id: str, put: Put, origin: CopyOrigin | None) -> Draft:
        parts: list[str | bytes] = [*put.value]
        plain = put.metadata if isinstance(put.metadata, dict) else None
        if plain is None:
            parts += put.metadata
        raw = self._bounded(framing.framed(parts))
        view = self._reader.existing(self._store.glance(thread_id))
        known = threads_of(view)
        parent = known.places.get((put.ns, put.parent_id or ""))
        packed = self._packer.pack(
            view,
            raw,
            self._reader.read,
            bases=[*_entries(view, (parent, known.head(put.ns)), put.ns)],
            plus=partial(_writes_after, parent),
            is_json=False,
        )
        encoded = line_codec.encode_state(
            raw, plain, packed.body, key=self._reader.vault.key
        )
        place: dict[str, Any] = {}
        if put.run_id is not None:
            place["run_id"] = put.run_id
        if put.root_id is not None:
            place["root"] = put.root_id
        if put.lacks:
            place["lacks"] = [*put.lacks]
        source = put.source or "checkpoint"
        return commands.Draft(
            *(put.ns, put.id, put.parent_id, source, place, raw, packed, encoded),
            origin,
        )

    def _bounded(self, raw: bytes) -> bytes:
        most = self._reader.limits.max_bytes
        if len(raw) > most:
            raise StateTooLarge(
                "$",
                f"the serialized checkpoint has {len(raw)} bytes, more than {most}",
                hint="keep large data in files, or raise max_state_bytes",
            )
        return raw

    def put_writes(
        self,
        thread_id: str,
        ns: str,
        id: str,  # noqa: A002 - LangGraph's name
        task_id: str,
        task_path: str,
        writes: Sequence[tuple[int, str, Blob]],
        actor: str | None = None,
        origin: CopyOrigin | None = None,
    ) -> None:
        """Store what a task wrote durably, beside a checkpoint that may come later.

        An index of the task that is stored already is ignored, but for negative ones,
        which replace it.

        Args:
            thread_id: the thread; the first write opens its job.
            ns: the namespace of the checkpoint.
            id: LangGraph's id of the checkpoint.
            task_id: the task.
            task_path: orders the writes of parallel tasks.
            writes: index, channel and value of each; an index occurs once.
            actor: the actor, instead of the manager's.
            origin: where a new thread is copied from.

        Raises:
            WrongKind: the job holds no thread.
            StateTooLarge: they have more than `max_state_bytes`.
            StorageFailed: the write failed.
        """
        if not writes:
            return
        ids.check_job_id(thread_id)
        data: dict[str, Any] = {
            "for": id,
            "task_id": task_id,
            "writes": [[index, channel] for index, channel, _ in writes],
        }
        if ns:
            data["ns"] = ns
        if task_path:
            data["task_path"] = task_path
        made: dict[tuple[int, ...], tuple[bytes, Any, EncodedState]] = {}

        def encode(indexes: Collection[int]) -> EncodedState:
            key = (*indexes,)
            if key not in made:
                wanted = [value for index, _, value in writes if index in key]
                raw = self._bounded(framing.framed([p for v in wanted for p in v]))
                packed = self._packer.whole(raw, is_json=False)
                vault = self._reader.vault
                encoded = line_codec.encode_state(raw, None, packed.body, key=vault.key)
                made[key] = raw, packed, encoded
            return made[key][2]

        encode([index for index, _, _ in writes])  # outside the job's lock
        stored: list[tuple[Any, int]] = []

        def decide(batch: Any) -> int:
            seq = commands.put_writes(
                batch, data, encode, actor=self._who(actor), origin=origin
            )
            stored[:] = [(batch.view.fold, seq)]
            return seq

        if self._store.write(thread_id, decide) and len(made) == 1:
            ((raw, packed, _),) = made.values()
            ((fold, seq),) = stored
            self._packer.remember(packed, fold, seq, "", raw)

    # -- reads -------------------------------------------------------------------------

    def ref(self, thread_id: str, ns: str, id: str | None = None) -> Ref | None:  # noqa: A002
        """Return a live checkpoint, by default the one with the greatest id."""
        view = self._reader.view(thread_id)
        known = threads_of(view)
        id_ = known.head(ns) if id is None else id
        checkpoint_id = known.places.get((ns, id_ or ""))
        return None if checkpoint_id is None else _ref(view, checkpoint_id)

    def read(self, ref: Ref) -> Stored | None:
        """Return a checkpoint with its values, None if it was removed meanwhile.

        Raises:
            UnreadableState: its bytes differ from what was put.
        """
        return self._ask(ref.thread_id, partial(self._stored, ref))

    def _ask(self, thread_id: str, ask: Callable[[JobView], _T]) -> _T:
        """Query the view that a ref came from; a fresh one if its journal was moved.

        The ref is a moment old, so it costs no further look at the storage.
        """
        try:
            return ask(self._store.glance(thread_id))
        except (UnreadableState, DamagedJournal, StorageFailed):
            return self._reader.answer(thread_id, ask)

    def _stored(self, ref: Ref, view: JobView) -> Stored | None:
        entry = view.checkpoints.get(ref.checkpoint_id)
        if entry is None or entry.seq != ref.seq:
            return None
        unpacked = self._reader.raw(view, entry)
        value, serialized = _values(unpacked.raw)
        metadata = serialized or delta_chain.metadata_of(unpacked)
        return Stored(ref, value, metadata, self._writes(ref, None, view))

    def metadata(self, ref: Ref) -> dict[str, Any] | Blob:
        """Return the metadata of a checkpoint, empty if it was removed meanwhile."""

        def ask(view: JobView) -> dict[str, Any] | Blob:
            entry = view.checkpoints.get(ref.checkpoint_id)
            if entry is None:
                return {}
            if entry.labels.has_metadata:
                return self._reader.metadata(view, entry)
            return _values(self._reader.raw(view, entry).raw)[1] or {}

        return self._ask(ref.thread_id, ask)

    def writes(
        self, ref: Ref, channels: Collection[str] | None = None
    ) -> tuple[Written, ...]:
        """Return the writes of a checkpoint, to these channels or to all."""
        return self._ask(ref.thread_id, partial(self._writes, ref, channels))

    def _writes(
        self, ref: Ref, channels: Collection[str] | None, view: JobView
    ) -> tuple[Written, ...]:
        found: dict[tuple[str, int], Written] = {}
        for group in threads_of(view).writes.get(ref.checkpoint_id, ()):
            if channels is not None and not any(c in channels for _, c in group.items):
                continue
            raw = self._reader.raw_of(view, group.seq).raw
            for (index, channel), value in zip(group.items, _blobs(raw), strict=True):
                if channels is None or channel in channels:
                    written = Written(
                        group.task_id, group.task_path, index, channel, value
                    )
                    if index < 0:
                        found[group.task_id, index] = written
                    else:  # the writes of a checkpoint that came back were the first
                        found.setdefault((group.task_id, index), written)
        order = attrgetter("task_path", "task_id", "idx")
        return tuple(sorted(found.values(), key=order))

    def refs(
        self,
        thread_id: str | None = None,
        *,
        ns: str | None = None,
        id: str | None = None,  # noqa: A002 - LangGraph's name
        before: str | None = None,
    ) -> Iterator[Ref]:
        """Yield live checkpoints, the greatest ids first, as they are at this moment.

        Nothing is locked while the caller pauses.

        Args:
            thread_id: the thread; None: all of them.
            ns: the namespace; None: all of them.
            id: LangGraph's id; None: all of them.
            before: only ids that are less.
        """
        views = (
            [self._reader.view(thread_id)] if thread_id is not None else self._views()
        )
        found = [
            (at[1], view.checkpoints[checkpoint_id].seq, view, checkpoint_id)
            for view in views
            for at, checkpoint_id in [*threads_of(view).places.items()]
            if ns in (None, at[0])
            and id in (None, at[1])
            and (before is None or at[1] < before)
        ]
        found.sort(key=lambda each: each[:2], reverse=True)
        for _, _, view, checkpoint_id in found:
            if checkpoint_id in view.checkpoints:
                yield _ref(view, checkpoint_id)

    def _views(self) -> list[JobView]:
        """Return the views of all jobs that hold a thread, but for damaged ones."""
        found = []
        for job_id in self._reader.job_ids():
            try:
                view = self._reader.view(job_id)
            except NestedCall:
                raise  # not caused by the job
            except MilepostError:
                continue  # the damage of one job must not hide others (I10)
            if view.kind == "thread":
                found.append(view)
        return found

    def thread_ids(self) -> list[str]:
        """Return the ids of threads with checkpoints, the latest write first.

        What this process has written is always in it; what others have written is,
        within a second.
        """
        now = time.monotonic()
        if now - self._looked_at >= _LOOK_EVERY_SECONDS:
            self._look()
            self._looked_at = now
        found = [
            (view.last_at or "", view.job_id)
            for view in self._store.known()
            if view.threads is not None and view.threads.places
        ]
        return [job_id for _, job_id in sorted(found, reverse=True)]

    def _look(self) -> None:
        """Read the latest writes of other processes, and jobs that are not known."""
        self._store.refresh()
        for job_id in every_job(self._store.storage):
            if not self._store.knows(job_id):
                try:
                    self._store.view(job_id)
                except NestedCall:
                    raise  # not caused by the job
                except MilepostError:
                    continue  # the damage of one job must not hide others (I10)

    # -- removals ----------------------------------------------------------------------

    def delete(self, thread_id: str, *, actor: str | None = None) -> None:
        """Delete all checkpoints and writes of a thread.

        Raises:
            OnHold: one of them is held; nothing is removed.
            StorageFailed: the write failed.
        """
        self._clean(
            thread_id,
            lambda known: dict.fromkeys(known.live(), "the thread is deleted"),
            {"name": "delete_thread"},
            actor,
            is_whole=True,
        )

    def delete_runs(self, run_ids: Collection[str], actor: str | None = None) -> None:
        """Delete the checkpoints of runs in all threads; what others need stays."""
        wanted = {*run_ids}
        if not wanted:
            return

        def chosen(known: Index) -> dict[str, str]:
            gone = {
                checkpoint_id: f"run {known.facts[checkpoint_id].run_id}"
                for checkpoint_id in known.live()
                if known.facts[checkpoint_id].run_id in wanted
            }
            return _spared(known, gone)

        for view in self._views():
            if chosen(threads_of(view)):
                policy = {"name": "delete_for_runs", "run_ids": sorted(wanted)}
                self._clean(view.job_id, chosen, policy, actor)

    def prune(
        self, thread_ids: Collection[str], strategy: str, actor: str | None = None
    ) -> None:
        """Remove all checkpoints, or with ``keep_latest`` all but what heads need."""

        def chosen(known: Index) -> dict[str, str]:
            heads = {known.places[ns, ids_[-1]] for ns, ids_ in known.order.items()}
            why = "not the newest of its namespace"
            gone = {each: why for each in known.live() if each not in heads}
            return _spared(known, gone)

        for thread_id in thread_ids:
            if strategy == "delete":
                self.delete(thread_id, actor=actor)
            else:
                policy = {"name": "prune", "strategy": strategy}
                self._clean(thread_id, chosen, policy, actor)

    def _clean(
        self,
        thread_id: str,
        chosen: Callable[[Index], Mapping[str, str]],
        policy: Mapping[str, Any],
        actor: str | None,
        *,
        is_whole: bool = False,
    ) -> None:
        known = threads_of(self._reader.view(thread_id))
        if not (chosen(known) or (is_whole and known.waiting)):
            return  # no event, and no file of an unknown thread
        decide = partial(
            commands.clean,
            chosen=chosen,
            policy=policy,
            actor=self._who(actor),
            trash_seconds=self._trash_seconds(),
            is_whole=is_whole,
        )
        self._store.write(thread_id, decide)

    def copy(self, source: str, target: str, *, actor: str | None = None) -> None:
        """Copy all checkpoints and writes of a thread; the copy is independent.

        Its first event records the source and its seq.  An interrupted copy goes on
        when it is repeated.

        Raises:
            Conflict: the target has checkpoints that the source has not.
            WrongKind: the target holds no thread.
        """
        refs = [*self.refs(source)][::-1]
        places = {(ref.ns, ref.id) for ref in refs}
        there = {(ref.ns, ref.id) for ref in self.refs(target)}
        if there - places:
            raise Conflict(
                f"thread {target!r} has checkpoints of its own",
                hint="copy to a new thread, or delete that one first",
            )
        view = self._reader.view(source)
        origin: CopyOrigin = {"job": source, "seq": view.seq}
        parents = threads_of(view).facts
        for ref in refs:
            if (ref.ns, ref.id) in there or (stored := self.read(ref)) is None:
                continue
            tasks = dict.fromkeys(write[:2] for write in stored.writes)
            for task_id, task_path in tasks:
                wanted = [w[2:] for w in stored.writes if w[:2] == (task_id, task_path)]
                self.put_writes(
                    *(target, ref.ns, ref.id, task_id, task_path),
                    wanted,
                    actor,
                    origin,
                )
            fact = parents[ref.checkpoint_id]
            put = Put(
                ns=ref.ns,
                id=ref.id,
                parent_id=fact.parent_id,
                source=ref.source,
                value=stored.value,
                metadata=stored.metadata,
                run_id=fact.run_id,
                root_id=fact.root_id,
                lacks=fact.lacks,
            )
            self._put(target, put, ANY, actor, origin=origin)


def _spared(known: Index, gone: dict[str, str]) -> dict[str, str]:
    """Return what may go: not what the others need to rebuild a channel."""
    needs = known.needs([each for each in known.live() if each not in gone])
    return {each: why for each, why in gone.items() if each not in needs}


def _entries(
    view: JobView, candidates: tuple[str | None, str | None], ns: str
) -> Iterator[Entry]:
    """Yield the parent of a put, and the newest of its namespace if that is another."""
    parent, head = candidates
    newest = threads_of(view).places.get((ns, head or ""))
    for checkpoint_id in dict.fromkeys((parent, newest)):
        entry = view.checkpoints.get(checkpoint_id)
        if entry is not None:
            yield entry


def _writes_after(parent: str | None, view: JobView, base: Link) -> list[int]:
    """Return the events of writes from a base up to a parent, if that descends of it.

    They are attached to live checkpoints, so that no compaction drops them.
    """
    known, seqs = threads_of(view), []
    at = parent
    for _ in range(_MAX_BACK):
        if at is None or at not in known.facts or at not in view.checkpoints:
            return []
        seqs += [group.seq for group in known.writes.get(at, ())]
        if at == base.checkpoint_id:
            return sorted(seq for seq in seqs if seq > base.seq)
        at = known.parent_of(at)
    return []


def _ref(view: JobView, checkpoint_id: str) -> Ref:
    known = threads_of(view)
    fact, entry = known.facts[checkpoint_id], view.checkpoints[checkpoint_id]
    is_there = (fact.ns, fact.parent_id) in known.places
    return Ref(
        view.job_id,
        fact.ns,
        fact.id,
        checkpoint_id,
        fact.parent_id if is_there else None,
        entry.seq,
        fact.run_id,
        entry.step_name,
        fact.lacks,
    )


def _blobs(raw: bytes) -> list[Blob]:
    parts = framing.parts_of(raw)
    return [
        (kind.decode(), data)
        for kind, data in zip(parts[::2], parts[1::2], strict=True)
    ]


def _values(raw: bytes) -> tuple[Blob, Blob | None]:
    """Return a checkpoint, and its metadata if that is no plain JSON."""
    value, *metadata = _blobs(raw)
    return value, metadata[0] if metadata else None
