"""Import of the threads of LangGraph's own savers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, cast

from milepost.journal.errors import MilepostError, StorageFailed
from milepost.langgraph import sources

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from milepost.journal.manager import CheckpointManager
    from milepost.langgraph.sources import Found, Source


class MovedThread(NamedTuple):
    """The result for one thread.

    Attributes:
        imported: number of new checkpoints.
        known: number of those that were imported before, deleted ones included.
        notes: one line for each checkpoint that is not as in the source.
    """

    thread_id: str
    imported: int
    known: int
    notes: tuple[str, ...]


def move(
    manager: CheckpointManager,
    address: str,
    *,
    dry_run: bool = False,
    actor: str | None = None,
    on_begin: Callable[[int], object] = lambda _: None,
) -> Iterator[MovedThread]:
    """Import the threads of a database, which is not changed, one after another.

    Checkpoints keep their ids, parents, metadata and writes.  All of a thread are then
    read back and compared with the source.  An import can be repeated, and adds what is
    new.  What was deleted from the store meanwhile is not imported again.

    Args:
        manager: of the store to import into.
        address: ``sqlite:PATH`` or ``postgresql://…``.
        dry_run: only report what would be imported.
        actor: the actor of the import, instead of the manager's.
        on_begin: called with the number of threads.

    Raises:
        InvalidArgument: the address has no threads of LangGraph.
        StorageFailed: a read or a write failed; repeat the import.
    """
    with sources.opened(address) as source:
        thread_ids = source.thread_ids()
        on_begin(len(thread_ids))
        for thread_id in thread_ids:
            yield _Move(manager, source, thread_id, actor).run(dry_run=dry_run)


class _Move:
    """The import of one thread."""

    def __init__(
        self,
        manager: CheckpointManager,
        source: Source,
        thread_id: str,
        actor: str | None,
    ) -> None:
        self._threads = manager.threads
        self._manager = manager
        self._source = source
        self._thread_id = thread_id
        self._actor = actor

    def run(self, *, dry_run: bool) -> MovedThread:
        imported, known, notes = 0, 0, []
        try:
            before = self._saved_before()
            for found in self._source.checkpoints(self._thread_id):
                if (found.put.ns, found.put.id) in before:
                    known += 1
                else:
                    imported += 1
                    if not dry_run:
                        self._write(found)
            if not dry_run:
                notes = [*self._differences(before)]
        except StorageFailed:
            raise
        except MilepostError as exc:  # must not stop other threads (I10)
            notes = [str(exc)]
        return MovedThread(self._thread_id, imported, known, tuple(notes))

    def _saved_before(self) -> set[tuple[str, str]]:
        """Return the namespaces and ids of all that was ever saved in the thread.

        The writes of one whose import was interrupted are complete: they come first.
        """
        saved = set()
        for event in self._manager.history(self._thread_id, types=["checkpoint.saved"]):
            data = cast("dict[str, Any]", event["data"])
            place = data.get("thread", {})
            checkpoint_id = place.get("id", data["checkpoint_id"])
            saved.add((place.get("ns", ""), checkpoint_id))
        return saved

    def _write(self, found: Found) -> None:
        put = found.put
        for task_id, task_path in dict.fromkeys(w[:2] for w in found.writes):
            self._threads.put_writes(
                *(self._thread_id, put.ns, put.id, task_id, task_path),
                [
                    (write.idx, write.channel, write.value)
                    for write in found.writes
                    if write[:2] == (task_id, task_path)
                ],
                actor=self._actor,
            )
        self._threads.put(self._thread_id, put, actor=self._actor)

    def _differences(self, before: set[tuple[str, str]]) -> Iterator[str]:
        """Compare each checkpoint with what is stored, byte for byte."""
        for put, writes in self._source.checkpoints(self._thread_id):
            ref = self._threads.ref(self._thread_id, put.ns, put.id)
            stored = ref and self._threads.read(ref)
            if ref is None or stored is None:
                if (put.ns, put.id) not in before:
                    yield f"checkpoint {put.id} was removed during the import"
                continue
            pairs: dict[str, tuple[object, object]] = {
                "values": (stored.value, put.value),
                "metadata": (stored.metadata, put.metadata),
            }
            # A run that went on here may have added writes, and a cleanup may have
            # removed the parent, of one that was imported earlier.
            if (put.ns, put.id) not in before:
                pairs["writes"] = (stored.writes, writes)
                pairs["parent"] = (ref.parent_id, self._live(put.ns, put.parent_id))
            wrong = [name for name, (ours, theirs) in pairs.items() if ours != theirs]
            if wrong:
                yield f"checkpoint {put.id} has other {' and '.join(wrong)}"

    def _live(self, ns: str, checkpoint_id: str | None) -> str | None:
        """Return the id of a checkpoint if it is stored."""
        if checkpoint_id is None:
            return None
        ref = self._threads.ref(self._thread_id, ns, checkpoint_id)
        return ref and ref.id
