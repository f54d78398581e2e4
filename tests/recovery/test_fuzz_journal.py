"""Hypothesis against the store: random histories, and bytes that nobody wrote."""

from __future__ import annotations

import shutil
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from milepost import CheckpointManager
from milepost.journal.errors import DamagedJournal, MilepostError
from milepost.journal.storage.files.recovery import head as head_codec
from milepost.journal.storage.files.recovery.head import Extent, Head
from milepost.journal.storage.files.storage import FileStorage
from tests.support.clock import Clock
from tests.support.faults import FaultyDisk, forged, head_of, journal_of, last_hash, put
from tests.support.states import VALUES

if TYPE_CHECKING:
    from tests.support.tally import Tally

JOB = "etl"
QUICK = settings(
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


def unsynced(root: Path, clock: Clock) -> CheckpointManager:
    disk = FaultyDisk(root, syncs=False)
    return CheckpointManager(storage=FileStorage(root, disk=disk), clock=clock)


# -- bytes that nobody wrote -----------------------------------------------------------


class Real(NamedTuple):
    """A real store to spoil, and what it knew."""

    root: Path
    journal: bytes
    head: bytes
    states: dict[str, dict[str, Any]]

    def spoil(self, journal: bytes | None, head: bytes | None) -> CheckpointManager:
        """Put these bytes in the files' places; None: no file."""
        shutil.rmtree(self.root / "salvage", ignore_errors=True)
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


EXAMPLES = pytest.mark.parametrize(
    "examples", [20, pytest.param(400, marks=pytest.mark.slow)]
)


@EXAMPLES
def test_spoiled_files_are_refused_or_true(
    real: Real, examples: int, tally: Tally
) -> None:
    @settings(QUICK, max_examples=examples)
    @given(
        journal=st.none() | st.just(real.journal) | edits(real.journal),
        head=st.none() | st.just(real.head) | edits(real.head),
    )
    def spoil(journal: bytes | None, head: bytes | None) -> None:
        ask_everything(real, real.spoil(journal, head))

    spoil()
    tally("spoiled stores", examples)


@EXAMPLES
def test_arbitrary_bytes_are_refused(real: Real, examples: int, tally: Tally) -> None:
    @settings(QUICK, max_examples=examples)
    @given(journal=st.binary(max_size=2000), head=st.none() | st.binary(max_size=1100))
    def spoil(journal: bytes, head: bytes | None) -> None:
        ask_everything(real, real.spoil(journal, head))

    spoil()
    tally("spoiled stores", examples)


@EXAMPLES
def test_arbitrary_bytes_behind_the_head_are_cut_and_kept(
    real: Real, examples: int, tally: Tally
) -> None:
    @settings(QUICK, max_examples=examples)
    @given(st.binary(max_size=600))
    def spoil(more: bytes) -> None:
        manager = real.spoil(real.journal + more, real.head)
        # The inode that the head knows is gone with the file, as after a copy.
        try:
            found = [info.checkpoint_id for info in manager.list(JOB)]
        except DamagedJournal:
            return  # it looks like rot
        assert found == [*real.states]  # I1
        salvage = real.root / "salvage"
        paths = salvage.iterdir() if salvage.exists() else []
        assert b"".join(path.read_bytes() for path in paths) == more  # I7

    spoil()
    tally("spoiled stores", examples)


NUMBERS = st.integers(-1, 2**63) | st.floats() | st.none() | st.text(max_size=3)
NAMES = ["checkpoint_id", "step_name", "parent", "state_digest", "state_bytes"]
TYPES = [
    *("job.opened", "job.repaired", "checkpoint.saved", "checkpoint.restored"),
    *("checkpoint.deleted", "checkpoint.undeleted", "checkpoint.pinned"),
    *("checkpoint.unpinned", "checkpoints.cleaned", "something.else", ""),
]
DATA = (
    VALUES
    | st.dictionaries(
        st.sampled_from([*NAMES, "tags", "salvage_file", "removed"]), VALUES
    )
    | st.fixed_dictionaries({"removed": VALUES, "salvage_file": VALUES, "tags": VALUES})
)


# A last event whose hash is right, whatever it says.
SENSELESS = st.fixed_dictionaries(
    {
        "v": st.sampled_from([1, 1, 1, 2, "1", None]),
        "at": st.sampled_from(["2026-11-23T05:00:00Z", "yesterday", 5, None]),
        "seq": st.just(5),
        "type": st.sampled_from(TYPES),
        "data": DATA,
    },
    optional={"span": st.lists(st.integers(0, 9), max_size=3) | NUMBERS},
)


@EXAMPLES
def test_an_event_that_verifies_but_makes_no_sense_stops_nobody_else(
    real: Real, examples: int, tally: Tally
) -> None:
    @settings(QUICK, max_examples=examples)
    @given(event=SENSELESS, is_acknowledged=st.booleans())
    def spoil(event: dict[str, Any], *, is_acknowledged: bool) -> None:
        line = forged(last_hash(real.journal), **event)
        manager = real.spoil(real.journal + line, real.head)
        if is_acknowledged:
            journal = journal_of(real.root, JOB)
            extent = Extent(5, last_hash(line), journal.stat().st_size)
            head = Head(9, extent, journal.stat().st_ino, synced=extent)
            put(head_of(real.root, JOB), bytes(512) + head_codec.encode(head))
        ask_everything(real, manager)

    spoil()
    tally("spoiled stores", examples)


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
