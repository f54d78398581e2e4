"""Threads keep checkpoints and writes through removals, erasures and reopening."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from milepost import CheckpointManager
from milepost.journal.store import job as replica
from milepost.journal.threads import Blob, Put, Threads
from tests.support.faults import journal_of

if TYPE_CHECKING:
    from pathlib import Path

THREAD = "t"
KIND = "msgpack"
_WRITES = {"a": (0, "c"), "b": (1, "d"), "error": (-1, "__error__")}


def place(id: str, value: bytes, ns: str = "", parent: str | None = None) -> Put:  # noqa: A002
    return Put(ns, id, parent, "loop", (KIND, value), {"step": 1}, None, None, ())


def write(
    threads: Threads,
    id: str,  # noqa: A002
    value: bytes,
    task: str = "task",
    name: str = "a",
    ns: str = "",
) -> None:
    index, channel = _WRITES[name]
    threads.put_writes(THREAD, ns, id, task, "", [(index, channel, (KIND, value))])


def written(threads: Threads, id: str | None = None) -> list[bytes]:  # noqa: A002
    ref = threads.ref(THREAD, "", id)
    assert ref is not None
    return [each.value[1] for each in threads.writes(ref)]


def test_writes_that_came_during_a_deletion_belong_to_the_undeleted_checkpoint(
    root: Path,
) -> None:
    with CheckpointManager(root) as manager:
        threads = manager.threads
        threads.put(THREAD, place("1", b"value"))
        write(threads, "1", b"before")
        manager.delete(THREAD, "1")
        write(threads, "1", b"during", task="other")
        manager.undelete(THREAD, "1")
        assert written(threads) == [b"during", b"before"]  # sorted by task


def test_the_first_write_of_an_index_stays_through_a_deletion(root: Path) -> None:
    with CheckpointManager(root) as manager:
        threads = manager.threads
        threads.put(THREAD, place("1", b"value"))
        write(threads, "1", b"first")
        write(threads, "1", b"first error", name="error")
        manager.delete(THREAD, "1")
        write(threads, "1", b"second")
        write(threads, "1", b"second error", name="error")
        manager.undelete(THREAD, "1")
        assert written(threads) == [b"second error", b"first"]


@pytest.mark.parametrize("is_deleted", [False, True], ids=["live", "deleted"])
def test_an_erasure_takes_writes_whose_checkpoint_never_came(
    root: Path, *, is_deleted: bool
) -> None:
    with CheckpointManager(root) as manager:
        threads = manager.threads
        threads.put(THREAD, place("1", b"value"))
        write(threads, "2", b"nobody may read this")
        if is_deleted:
            threads.delete(THREAD)
        manager.erase(THREAD)
        manager.compact(THREAD)
        assert b'{"state":' not in journal_of(root, THREAD).read_bytes()
        assert manager.verify(THREAD, deep=True)[0].ok
        threads.put(THREAD, place("2", b"new"))
        assert written(threads) == []


Place = tuple[str, str]


class History:
    """A random history of a thread, and the values and writes that it must hold."""

    def __init__(self, root: Path, seed: int) -> None:
        self.manager = CheckpointManager(root)
        self._root = root
        self._chance = random.Random(seed)
        self._live: dict[Place, str] = {}
        self._values: dict[str, bytes] = {}
        self._writes: dict[str, dict[tuple[str, int], bytes]] = {}
        self._waiting: dict[Place, dict[tuple[str, int], bytes]] = {}
        self._trash: list[tuple[Place, str]] = []

    def step(self) -> None:
        """Do one thing."""
        many = [self.put] * 2 + [self.write] * 4 + [self.delete] * 2
        rare = [self.compact, self.reopen, self.delete_all]
        self._chance.choice(many * 2 + [self.undelete] * 6 + rare)()

    def put(self) -> None:
        at, value = self._place(), self._chance.randbytes(40)
        self.manager.threads.put(THREAD, place(at[1], value, at[0]))
        ref = self.manager.threads.ref(THREAD, *at)
        assert ref is not None
        self._values[ref.checkpoint_id] = value
        before = self._live.get(at)
        if before is not None:  # its writes belong to the place
            self._waiting[at] = self._writes.pop(before)
            self._trash.append((at, before))
        self._come(at, ref.checkpoint_id)

    def write(self) -> None:
        at, value = self._place(), self._chance.randbytes(40)
        task, name = self._chance.choice("xy"), self._chance.choice([*_WRITES])
        write(self.manager.threads, at[1], value, task, name, at[0])
        if at in self._live:
            known = self._writes[self._live[at]]
        else:
            known = self._waiting.setdefault(at, {})
        _add(known, {(task, _WRITES[name][0]): value})

    def delete(self) -> None:
        at = self._place()
        if at in self._live:
            self.manager.delete(THREAD, self._live[at], force=True)
            self._trash.append((at, self._live.pop(at)))

    def delete_all(self) -> None:
        self.manager.threads.delete(THREAD)
        self._trash += self._live.items()
        self._live.clear()
        self._waiting.clear()

    def undelete(self) -> None:
        free = [each for each in self._trash if each[0] not in self._live]
        if free:
            at, checkpoint_id = self._chance.choice(free)
            self.manager.undelete(THREAD, checkpoint_id)
            self._trash.remove((at, checkpoint_id))
            self._come(at, checkpoint_id)

    def compact(self) -> None:
        if self._values:
            self.manager.compact(THREAD)

    def reopen(self) -> None:
        self.manager.close()
        self.manager = CheckpointManager(self._root)

    def wanted(self) -> dict[Place, tuple[Blob, list[bytes]]]:
        """Return the values and writes of live checkpoints."""
        return {
            at: ((KIND, self._values[name]), _sorted(self._writes[name]))
            for at, name in self._live.items()
        }

    def _place(self) -> Place:
        return self._chance.choice(["", "sub"]), str(self._chance.randrange(4))

    def _come(self, at: Place, checkpoint_id: str) -> None:
        self._live[at] = checkpoint_id
        known = self._writes.setdefault(checkpoint_id, {})
        _add(known, self._waiting.pop(at, {}))


def _add(
    known: dict[tuple[str, int], bytes], more: dict[tuple[str, int], bytes]
) -> None:
    for key, value in more.items():
        if key[1] < 0 or key not in known:
            known[key] = value


def _sorted(writes: dict[tuple[str, int], bytes]) -> list[bytes]:
    return [value for _, value in sorted(writes.items())]


def content(threads: Threads) -> dict[Place, tuple[Blob, list[bytes]]]:
    found = {}
    for ref in threads.refs(THREAD):
        stored = threads.read(ref)
        assert stored is not None
        found[ref.ns, ref.id] = stored.value, [w.value[1] for w in stored.writes]
    return found


@pytest.mark.parametrize("seed", range(12))
def test_a_random_history_of_a_thread_is_as_its_model(
    root: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(replica, "_SNAPSHOT_EVENTS", 1)
    history = History(root, seed)
    history.put()
    for _ in range(80):
        history.step()
        assert content(history.manager.threads) == history.wanted()
    assert history.manager.verify(THREAD, deep=True)[0].ok
    history.manager.close()
