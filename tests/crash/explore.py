"""Every disk that a crash can leave: recover, check, crash again, go on.

`Explorer.explore` takes a recorded workload.  After each of its disk operations it
visits every legal disk (power cut) and every machine whose processes died (kill -9),
opens it with a fresh process, checks it against the ledger, saves once more, cuts the
power again, and looks.  Lives after a crash are themselves cut after each of their
operations: those that did something new first, the rest as far as the budget goes.
"""

from __future__ import annotations

import gc
from collections import Counter
from random import Random
from typing import TYPE_CHECKING, NamedTuple

from milepost.journal.errors import DamagedJournal, MilepostError, StorageFailed
from milepost.journal.events.codec import peek
from tests.crash.ledger import (
    STORE,
    Ledger,
    Promise,
    Violation,
    events_of,
    journal_path,
    listing_of,
)
from tests.crash.session import Moment, Session
from tests.crash.simdisk import Content, World, Write, forgetful_cut, power_cuts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.crash.workloads import Recording

_POOL = 4_000  # crashed lives per workload that wait to be explored further
_DEEPEST = 2  # crashes in lives after a crash in lives after a crash


class Budget(Exception):
    """As many states as were asked for have been visited."""


class Crash(NamedTuple):
    """A machine to be opened again, and what must be found there."""

    world: World
    ledger: Ledger
    promise: Promise
    depth: int
    story: tuple[str, ...]
    is_power_cut: bool = True


class Explorer:
    """Visits crash states, each once.

    Args:
        states: stop when so many were visited.
        seed: chooses which lives are explored further.

    Attributes:
        count: distinct states so far: a disk, and what must hold on it.
        ways: how often each way of recovering was seen.
    """

    def __init__(self, *, states: int, seed: int = 0) -> None:
        self.states = states
        self.count = 0
        self.ways: Counter[tuple[str, ...]] = Counter()
        self._random = Random(seed)
        self._seen: set[tuple[int, int, int, int]] = set()
        self._pool: list[tuple[Recording, Crash]] = []
        self._novel: list[tuple[Recording, Crash]] = []  # what did something new

    def survey(self, recording: Recording) -> None:
        """Visit a workload's first level, but no more than two thirds of `states`.

        Raises:
            Violation: a promise was broken.
        """
        gc.freeze()
        self.ways.clear()
        bound = self.states * 2 // 3
        for crash in self._in_any_order(recording):
            if self.count >= bound:
                return
            if self._visit(recording, crash, at_once=False):
                self._remember(recording, crash)

    def hunt(self, recording: Recording) -> None:
        """Go deeper wherever something new was done, before the next state.

        Raises:
            Violation: a promise was broken.
            Budget: `states` were visited.
        """
        gc.freeze()
        self.ways.clear()
        for crashes in _first_level(recording):
            for crash in crashes:
                if self._visit(recording, crash, at_once=True):
                    self._remember(recording, crash)

    def _in_any_order(self, recording: Recording) -> Iterator[Crash]:
        """Yield the first level, so that a bound spares no operation."""
        waiting = _first_level(recording)
        while waiting:
            number = self._random.randrange(len(waiting))
            crash = next(waiting[number], None)
            if crash is None:
                del waiting[number]
            else:
                yield crash

    def _remember(self, recording: Recording, crash: Crash) -> None:
        """Keep a life to be explored further, or drop another one at random."""
        if len(self._pool) < _POOL:
            self._pool.append((recording, crash))
        else:
            self._pool[self._random.randrange(_POOL)] = recording, crash

    def deepen(self) -> None:
        """Crash again in lives after a crash, until the budget is used up.

        Raises:
            Violation: a promise was broken.
            Budget: `states` were visited.
        """
        for recording, crash in self._novel:
            session = self._live(recording, crash, is_writer_first=False)
            self._nest(recording, crash, session, is_fine=False)
        self._random.shuffle(self._pool)
        for is_fine in (False, True):
            for recording, crash in self._pool:
                session = self._live(recording, crash, is_writer_first=False)
                self._nest(recording, crash, session, is_fine=is_fine)

    def rot(self, recording: Recording) -> None:
        """Flip every acknowledged byte, cut at every length: refused, or no matter.

        Raises:
            Violation: a wrong answer was given.
            Budget: see `is_hard`.
        """
        moment = recording.trace[-1]
        world = moment.world.copy()
        world.settle()
        (job,) = recording.jobs
        inode = world.find(journal_path(job))
        assert inode is not None
        content = world.files[inode].seen
        for spot in range(len(content)):
            rotten = [content[:spot]]
            for mask in (0x01, 0x20):
                flipped = bytes([content[spot] ^ mask])
                rotten.append(content[:spot] + flipped + content[spot + 1 :])
            for bad in rotten:
                broken = world.copy()
                broken.files[inode] = Content(bad, (), bad)
                story = (f"{recording.name}, at its end: byte {spot} is bad",)
                self._answer_or_refuse(
                    recording, Crash(broken, recording.ledger, moment.promise, 0, story)
                )

    def _answer_or_refuse(self, recording: Recording, crash: Crash) -> None:
        if not self._is_new(crash):
            return
        (job,) = recording.jobs
        session = Session(
            crash.world.copy(),
            Ledger(crash.ledger),
            crash.promise,
            durability=recording.durability,
            is_recovery=True,
        )
        expected = crash.ledger.listings[crash.promise.live[job]]
        assert expected is not None
        try:
            manager = session.open()
            newest = manager.latest(job)
            if newest is None or newest.checkpoint_id != expected.ids[-1]:
                raise Violation(f"the newest is said to be {newest}")  # noqa: TRY301
            if listing_of(manager._store.view(job)) != expected:
                raise Violation("other checkpoints are listed")  # noqa: TRY301
            for checkpoint_id in expected.ids:
                state = manager.get(job, checkpoint_id).state
                if state != crash.ledger.states[checkpoint_id]:
                    raise Violation(f"{checkpoint_id} came back as another state")  # noqa: TRY301
        except MilepostError:
            return  # refused
        except Exception as exc:
            raise self._explained(crash, session, exc) from exc

    def _visit(
        self, recording: Recording, crash: Crash, *, at_once: bool = True
    ) -> bool:
        """Check one state; False if it was visited before.

        Where something new was done, go deeper: `at_once`, or when `deepen` comes.
        """
        if not self._is_new(crash):
            return False
        session = self._live(recording, crash, is_writer_first=False)
        self._look_again(recording, crash, session)
        if self.count % 8 == 0:
            self._live(recording, crash, is_writer_first=True)
            self._read_only(recording, crash)
        way = (
            f"{crash.depth} {crash.is_power_cut}",
            *(m.label.partition(".")[0] for m in session.trace),
        )
        self.ways[way] += 1
        if self.ways[way] == 1 and crash.depth < _DEEPEST:
            if at_once:
                self._nest(recording, crash, session, is_fine=False)
            else:
                self._novel.append((recording, crash))
        return True

    def _is_new(self, crash: Crash) -> bool:
        key = (
            crash.world.fingerprint(),
            0 if crash.is_power_cut else crash.world.dirt(),
            crash.promise.fingerprint(),
            len(crash.ledger.live_cuts),
        )
        if key in self._seen:
            return False
        self._seen.add(key)
        self.count += 1
        if self.count > self.states:
            raise Budget
        if self.count % 20_000 == 0:
            gc.collect()
        return True

    def _live(
        self, recording: Recording, crash: Crash, *, is_writer_first: bool
    ) -> Session:
        """Open what a crash left, read, save, read; return the watched life."""
        session = Session(
            crash.world.copy(),
            Ledger(crash.ledger),
            crash.promise,
            durability=recording.durability,
            is_recovery=True,
        )
        ledger = session.ledger
        try:
            ledger.crashed(session.world, is_power_cut=crash.is_power_cut)
            manager = session.open()
            for job in recording.jobs:
                if recording.is_damaged:
                    session.mend(manager, job)
                if not is_writer_first:
                    session.patiently(session.look, manager, job)
                session.patiently(session.save, manager, job, {"after": "the crash"})
                if recording.then is not None:
                    recording.then(session, manager)
            if recording.durability != "always":
                session.flush(manager)
            ledger.check_salvage_files(session.world)
            ledger.check_leftovers(session.world)
        except Violation as exc:
            raise self._explained(crash, session, exc) from exc
        except Exception as exc:
            raise self._explained(crash, session, exc) from exc
        return session

    def _look_again(self, recording: Recording, crash: Crash, session: Session) -> None:
        """Cut the power once more, losing all that was not synced, and look."""
        again = Crash(
            forgetful_cut(session.world),
            session.ledger,
            session.promise.after_power_cut(),
            crash.depth + 1,
            (*crash.story, "then read, saved, and lost all that was not synced"),
        )
        if not self._is_new(again):
            return
        last = Session(
            again.world.copy(),
            Ledger(again.ledger),
            again.promise,
            durability=recording.durability,
            is_recovery=True,
        )
        try:
            manager = last.open()
            for job in recording.jobs:
                last.patiently(last.glance, manager, job)
        except Exception as exc:
            raise self._explained(again, last, exc) from exc

    def _read_only(self, recording: Recording, crash: Crash) -> None:
        """Read as a process that may not write: older is allowed, wrong is not."""
        ledger = Ledger(crash.ledger)
        world = crash.world.copy()
        session = Session(
            world,
            ledger,
            crash.promise,
            durability=recording.durability,
            is_recovery=True,
        )
        manager = session.open(is_read_only=True)
        for job in recording.jobs:
            try:
                view = manager._store.view(job)
            except StorageFailed:
                continue  # nothing to go by: it says so
            except DamagedJournal as exc:
                if recording.durability == "always" and not recording.is_damaged:
                    raise self._explained(crash, session, exc) from exc
                continue  # docs/recovery.md: it can't settle what a power cut took
            except Exception as exc:
                raise self._explained(crash, session, exc) from exc
            content = events_of(session.content(job)[: view.stored_bytes])
            if view.faults and recording.durability != "always":
                # Likewise: of an event that was shown, the state may be junk.
                lines = [line for line in content.split(b"\n") if peek(line)]
                content = b"".join(line + b"\n" for line in lines)
            if content and content not in ledger.listings:
                problem = Violation(f"read-only: shows {content[-80:]!r}")
                raise self._explained(crash, session, problem)

    def _nest(
        self, recording: Recording, crash: Crash, session: Session, *, is_fine: bool
    ) -> None:
        """Crash again at every operation of a life after a crash."""
        for number, moment in enumerate(session.trace):
            story = (*crash.story, f"operation {number} of recovery: {moment.label}")
            for again in _crashes(
                session.ledger, moment, story, is_fine=is_fine, depth=crash.depth + 1
            ):
                self._visit(recording, again)

    def _explained(
        self, crash: Crash, session: Session, problem: Exception
    ) -> Violation:
        lines = [f"{type(problem).__name__}: {problem}", *crash.story]
        for path, (inode, content) in sorted(crash.world.contents().items()):
            lines.append(f"  {path[len(STORE) :]} #{inode}: {len(content)} bytes")
        lines += [f"  > {moment.label}" for moment in session.trace]
        return Violation("\n".join(lines))


def _first_level(recording: Recording) -> list[Iterator[Crash]]:
    return [
        _crashes(
            recording.ledger,
            moment,
            (f"{recording.name}, operation {number}: {moment.label}",),
            is_fine=True,
        )
        for number, moment in enumerate(recording.trace)
    ]


def _crashes(
    ledger: Ledger,
    moment: Moment,
    story: tuple[str, ...],
    *,
    is_fine: bool,
    depth: int = 0,
) -> Iterator[Crash]:
    """Yield what a crash at this moment can leave."""
    for world in _kills(moment):
        killed = (*story, "every process killed")
        yield Crash(world, ledger, moment.promise, depth, killed, is_power_cut=False)
    promise = moment.promise.after_power_cut()
    for world in power_cuts(moment.world, is_fine=is_fine):
        yield Crash(world, ledger, promise, depth, (*story, "power cut"))


def _kills(moment: Moment) -> Iterator[World]:
    """Yield the machine without its processes; the last write may be a part of one."""
    yield moment.world.copy()
    if not moment.label.startswith("append"):
        return
    inode = moment.world.find(STORE + moment.label.partition(" ")[2])
    if inode is not None:
        file = moment.world.files[inode]
        last = file.changes[-1] if file.changes else None
        if not isinstance(last, Write) or not file.seen.endswith(last.data):
            return
        size = len(last.data)
        for missing in sorted({1, 2, size // 2, size - 1} & set(range(1, size))):
            part = Write(last.offset, last.data[:-missing])
            world = moment.world.copy()
            world.files[inode] = Content(
                file.durable, (*file.changes[:-1], part), file.seen[:-missing]
            )
            yield world
