"""Hypothesis against the store: random histories, and bytes that nobody wrote."""

from __future__ import annotations

import shutil
import tempfile
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import pytest
from conftest import Clock
from faults import FaultyDisk, forged, head_of, journal_of, last_hash, put
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from journal import CheckpointManager
from journal import head as head_codec
from journal.errors import (
    Conflict,
    DamagedJournal,
    MilepostError,
    Protected,
    UnknownCheckpoint,
)
from journal.head import Extent, Head
from journal.storage_file import FileStorage

JOB = "etl"
QUICK = settings(
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8"), max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=4), inner)
    ),
    max_leaves=6,
)
STATES = st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=4), VALUES)


def unsynced(root: Path, clock: Clock) -> CheckpointManager:
    disk = FaultyDisk(root, syncs=False)
    return CheckpointManager(storage=FileStorage(root, disk=disk), clock=clock)


class Saved(NamedTuple):
    """What the model knows of a checkpoint."""

    state: dict[str, Any]
    parent: str | None
    tags: tuple[str, ...]


class Histories(RuleBasedStateMachine):
    """A store behind two handles, against a plain dict."""

    known = Bundle("known")

    @initialize()
    def begin(self) -> None:
        self.root = Path(tempfile.mkdtemp()) / "store"
        self.clock = Clock()
        self.handles = [unsynced(self.root, self.clock) for _ in range(2)]
        self.live: dict[str, Saved] = {}
        self.gone: dict[str, Saved] = {}
        self.order: list[str] = []  # every id ever saved, oldest first
        self.pinned: set[str] = set()
        self.gone_pinned: set[str] = set()
        self.held: set[str] = set()
        self.chosen: str | None = None  # last saved or restored
        self.keys: dict[str, tuple[str, dict[str, Any]]] = {}
        self.current: str | None = None
        self.events = 0

    def teardown(self) -> None:
        if hasattr(self, "root"):
            shutil.rmtree(self.root.parent)

    def count(self, events: int = 1) -> None:
        self.events += events + (self.events == 0)  # the first is job.opened

    @rule(
        target=known,
        by=st.integers(0, 1),
        state=STATES,
        tags=st.lists(st.sampled_from(["a", "b"]), max_size=2, unique=True),
        is_pinned=st.booleans(),
        key=st.none() | st.sampled_from(["k1", "k2"]),
        is_expected=st.booleans(),
        seconds=st.integers(-50, 50),
    )
    def save(
        self,
        by: int,
        state: dict[str, Any],
        tags: list[str],
        is_pinned: bool,
        key: str | None,
        is_expected: bool,
        seconds: int,
    ) -> str:
        self.clock.turn(seconds=seconds)  # time is informative, never an order
        expected_seq = self.events if is_expected else None
        known = self.keys.get(key) if key else None
        try:
            new = self.handles[by].save(
                *(JOB, "step", state),
                tags=tags,
                pinned=is_pinned,
                idempotency_key=key,
                expected_seq=expected_seq,
            )
        except Conflict:
            assert known is not None
            assert same(known[1], state) is False
            return known[0]
        if known is not None:
            assert known[0] == new
            assert same(known[1], state)
            return new
        self.live[new] = Saved(state, self.current, tuple(tags))
        self.order.append(new)
        self.chosen = self.current = new
        if is_pinned:
            self.pinned.add(new)
        if key is not None:
            self.keys[key] = (new, state)
        self.count()
        return new

    @rule(by=st.integers(0, 1), id_=known)
    def restore(self, by: int, id_: str) -> None:
        try:
            state = self.handles[by].restore(JOB, id_)
        except UnknownCheckpoint:
            assert id_ not in self.live
        else:
            assert same(state, self.live[id_].state)
            self.chosen = self.current = id_
            self.count()

    @rule(by=st.integers(0, 1), id_=known, force=st.booleans())
    def delete(self, by: int, id_: str, force: bool) -> None:
        try:
            deleted = self.handles[by].delete(JOB, id_, force=force)
        except Protected:
            assert id_ in self.held or (id_ in self.pinned and not force)
            return
        assert deleted == (id_ in self.live)
        if deleted:
            assert force or id_ not in self.pinned
            assert id_ not in self.held
            self.remove([id_])

    def remove(self, ids: list[str]) -> None:
        for id_ in ids:
            self.gone[id_] = self.live.pop(id_)
            if id_ in self.pinned:
                self.pinned.remove(id_)
                self.gone_pinned.add(id_)
        self.settle()
        self.count()

    def settle(self) -> None:
        """The chosen one is current, or its closest ancestor left, or the newest."""
        found = self.chosen
        while found in self.gone:
            found = self.gone[found].parent
        newest = [i for i in self.order if i in self.live]
        self.current = found or (newest[-1] if newest else None)

    @rule(by=st.integers(0, 1), keep_last=st.integers(1, 4))
    def cleanup(self, by: int, keep_last: int) -> None:
        kept = [i for i in self.order if i in self.live][-keep_last:]
        shielded = {*kept, *self.pinned, *self.held, self.current}
        doomed = [i for i in self.order if i in self.live and i not in shielded]
        assert self.handles[by].cleanup(JOB, keep_last) == len(doomed)  # I6
        if doomed:
            self.remove(doomed)

    @rule(by=st.integers(0, 1), id_=known)
    def undelete(self, by: int, id_: str) -> None:
        came_back = self.handles[by].undelete(JOB, id_)
        assert came_back == (id_ in self.gone)
        if came_back:
            self.live[id_] = self.gone.pop(id_)
            if id_ in self.gone_pinned:
                self.gone_pinned.remove(id_)
                self.pinned.add(id_)
            self.settle()
            self.count()

    @rule(by=st.integers(0, 1), id_=known, is_pin=st.booleans())
    def pin(self, by: int, id_: str, is_pin: bool) -> None:
        manager = self.handles[by]
        try:
            changed = (manager.pin if is_pin else manager.unpin)(JOB, id_)
        except UnknownCheckpoint:
            assert id_ not in self.live
            return
        assert changed == ((id_ in self.pinned) != is_pin)
        (self.pinned.add if is_pin else self.pinned.discard)(id_)
        self.count(int(changed))

    @rule(by=st.integers(0, 1), id_=known, is_hold=st.booleans())
    def hold(self, by: int, id_: str, is_hold: bool) -> None:
        manager = self.handles[by]
        try:
            changed = (manager.hold if is_hold else manager.release)(JOB, id_)
        except UnknownCheckpoint:
            assert id_ not in self.live
            return
        assert changed == ((id_ in self.held) != is_hold)
        (self.held.add if is_hold else self.held.discard)(id_)
        self.count(int(changed))

    @rule(by=st.integers(0, 1), is_closed=st.booleans())
    def open_again(self, by: int, is_closed: bool) -> None:
        """Take a new handle; the old one is closed, or dropped as if it had died."""
        if is_closed:
            self.handles[by].close()
        self.handles[by] = unsynced(self.root, self.clock)

    @precondition(lambda self: self.events > 0)
    @rule(by=st.integers(0, 1), junk=st.binary(min_size=1, max_size=40))
    def tear(self, by: int, junk: bytes) -> None:
        """A writer dies in the middle: half a line that was never acknowledged."""
        with journal_of(self.root, JOB).open("ab") as file:
            file.write(b'{"v":1,' + junk.replace(b"\n", b""))
        self.handles[by].list(JOB)
        self.count()  # job.repaired

    @invariant()
    def both_handles_answer_what_the_model_says(self) -> None:
        for manager in getattr(self, "handles", []):
            infos = manager.list(JOB)
            expected = [i for i in self.order if i in self.live]
            assert [i.checkpoint_id for i in infos] == expected  # I2
            assert [i.tags for i in infos] == [self.live[i].tags for i in expected]
            assert [i.parent_id for i in infos] == [
                self.live[i].parent for i in expected
            ]
            assert {i.checkpoint_id for i in infos if i.pinned} == self.pinned
            assert {i.checkpoint_id for i in infos if i.held} == self.held
            current = manager.current(JOB)
            assert (current and current.checkpoint_id) == self.current
            assert manager.seq(JOB) == self.events  # I3
            if expected:
                state = manager.get(JOB, expected[0]).state
                assert same(state, self.live[expected[0]].state)  # I5


def same(a: object, b: object) -> bool:
    """Tell whether two states are equal in kind as well: 1 is not 1.0 nor True."""
    return orjson.dumps(a, option=orjson.OPT_SORT_KEYS) == orjson.dumps(
        b, option=orjson.OPT_SORT_KEYS
    )


@pytest.mark.parametrize("examples", [25, pytest.param(1000, marks=pytest.mark.slow)])
def test_a_store_behind_two_handles_answers_like_a_dict(examples: int) -> None:
    run_state_machine_as_test(
        Histories,
        settings=settings(
            deadline=None,
            max_examples=examples,
            stateful_step_count=30,
            suppress_health_check=list(HealthCheck),
        ),
    )


# -- bytes that nobody wrote -----------------------------------------------------------


class Real(NamedTuple):
    """A real store to spoil, and what it knew."""

    root: Path
    journal: bytes
    head: bytes
    states: dict[str, dict[str, Any]]

    def spoil(self, journal: bytes | None, head: bytes | None) -> CheckpointManager:
        """Put these bytes in the files' places; None: no file."""
        shutil.rmtree(self.root / "side", ignore_errors=True)
        for path, data in (
            (journal_of(self.root, JOB), journal),
            (head_of(self.root, JOB), head),
        ):
            path.unlink(missing_ok=True)
            if data is not None:
                path.write_bytes(data)
        return unsynced(self.root, Clock())


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Real:
    root = tmp_path_factory.mktemp("fuzz") / "store"
    with CheckpointManager(root) as manager:
        states = {}
        for number in range(3):
            state = {"n": number, "text": "é" * number}
            states[manager.save(JOB, "step", state, metadata={"m": number})] = state
        manager.save("other", "one", {})
    return Real(
        root,
        journal_of(root, JOB).read_bytes(),
        head_of(root, JOB).read_bytes(),
        states,
    )


def ask_everything(real: Real, manager: CheckpointManager) -> None:
    """Nothing crashes, nothing hangs, and no event appears that was never written."""
    try:
        for info in manager.list(JOB):
            assert info.checkpoint_id in real.states  # I2
            found = manager.get(JOB, info.checkpoint_id)
            assert found.state == real.states[info.checkpoint_id]
        manager.history(JOB)
        manager.save(JOB, "after", {})
        assert manager.list(JOB)[-1].step_name == "after"
    except MilepostError:
        pass  # refused aloud
    manager.verify(deep=True)
    assert [i.job_id for i in manager.jobs() if i.damage is None][-1:] == ["other"]
    manager.close()


def edits(original: bytes) -> st.SearchStrategy[bytes]:
    """Return real bytes with a few places overwritten, inserted, cut or doubled."""
    place = st.integers(0, len(original))
    junk = st.binary(max_size=30) | st.sampled_from([b"\n", b"\0" * 600, b'"', b"}\n"])
    edit = st.tuples(place, place, junk)

    def apply(spoiled: list[tuple[int, int, bytes]]) -> bytes:
        data = original
        for a, b, new in spoiled:
            data = data[: min(a, b)] + new + data[max(a, b) :]
        return data

    copies = st.tuples(place, place, place).map(
        lambda at: original[: at[0]] + original[min(at[1:]) : max(at[1:])]
    )
    return st.lists(edit, min_size=1, max_size=3).map(apply) | copies


@QUICK
@given(data=st.data())
def test_spoiled_files_are_refused_or_true(real: Real, data: st.DataObject) -> None:
    journal = data.draw(st.none() | st.just(real.journal) | edits(real.journal))
    head = data.draw(st.none() | st.just(real.head) | edits(real.head))
    ask_everything(real, real.spoil(journal, head))


@QUICK
@given(journal=st.binary(max_size=2000), head=st.none() | st.binary(max_size=1100))
def test_arbitrary_bytes_are_refused(
    real: Real, journal: bytes, head: bytes | None
) -> None:
    ask_everything(real, real.spoil(journal, head))


@QUICK
@given(journal=st.binary(max_size=600))
def test_arbitrary_bytes_behind_the_head_are_cut_and_kept(
    real: Real, journal: bytes
) -> None:
    manager = real.spoil(real.journal + journal, real.head)
    # The inode that the head knows is gone with the file, as after a copy.
    try:
        found = [info.checkpoint_id for info in manager.list(JOB)]
    except DamagedJournal:
        return  # it looks like rot
    assert found == [*real.states]  # I1
    side = real.root / "side"
    kept = b"".join(p.read_bytes() for p in side.iterdir()) if side.exists() else b""
    assert kept == journal  # I7


NUMBERS = st.integers(-1, 2**63) | st.floats() | st.none() | st.text(max_size=3)
NAMES = ["checkpoint_id", "step_name", "parent", "state_sha256", "state_bytes"]
TYPES = [
    *("job.opened", "job.repaired", "checkpoint.saved", "checkpoint.restored"),
    *("checkpoint.deleted", "checkpoint.undeleted", "checkpoint.pinned"),
    *("checkpoint.unpinned", "checkpoints.cleaned", "something.else", ""),
]
DATA = (
    VALUES
    | st.dictionaries(st.sampled_from([*NAMES, "tags", "side_file", "removed"]), VALUES)
    | st.fixed_dictionaries({"removed": VALUES, "side_file": VALUES, "tags": VALUES})
)


@settings(QUICK, max_examples=200)
@given(
    type_=st.sampled_from(TYPES),
    contents=DATA,
    at=st.sampled_from(["2026-11-23T05:00:00Z", "yesterday", 5, None]),
    version=st.sampled_from([1, 1, 1, 2, "1", None]),
    span=st.none() | st.lists(st.integers(0, 9), max_size=3) | NUMBERS,
    is_acknowledged=st.booleans(),
)
def test_an_event_that_verifies_but_makes_no_sense_stops_nobody_else(
    real: Real,
    type_: str,
    contents: Any,
    at: Any,
    version: Any,
    span: Any,
    is_acknowledged: bool,
) -> None:
    about = {"span": span} if span is not None else {}
    line = forged(
        last_hash(real.journal),
        **{"v": version, "at": at, "seq": 5, "type": type_, "data": contents, **about},
    )
    manager = real.spoil(real.journal + line, real.head)
    if is_acknowledged:
        journal = journal_of(real.root, JOB)
        extent = Extent(5, last_hash(line), journal.stat().st_size)
        head = Head(9, extent, journal.stat().st_ino, synced=extent)
        put(head_of(real.root, JOB), bytes(512) + head_codec.encode(head))
    ask_everything(real, manager)


@QUICK
@given(
    fields=st.dictionaries(
        st.sampled_from(["n", "seq", "hash", "bytes", "inode", "mode", "poisoned"]),
        VALUES,
    )
)
def test_a_head_whose_checksum_is_right_and_whose_text_is_not_stops_nobody_else(
    real: Real, fields: dict[str, Any]
) -> None:
    text = {**orjson.loads(real.head[512:]), **fields}
    text.pop("crc")
    body = orjson.dumps(text)[:-1][:480].ljust(493)
    slot = b'%b,"crc":"%08x"}\n' % (body, zlib.crc32(body))
    ask_everything(real, real.spoil(real.journal, bytes(512) + slot))
