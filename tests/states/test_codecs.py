"""Growth: history costs what changed, and every state still comes back."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from benchmarks.states import chat, edits, text
from milepost import CheckpointManager
from milepost.journal.errors import UnreadableState
from milepost.journal.states import zstd
from milepost.journal.storage.files.storage import FileStorage
from tests.support.faults import FaultyDisk, journal_of

if TYPE_CHECKING:
    from pathlib import Path

JOB = "chat"


def save_all(root: Path, states: list[dict[str, Any]], **options: Any) -> list[str]:
    with CheckpointManager(root, durability="never", **options) as manager:
        return [manager.save(JOB, "turn", state) for state in states]


@pytest.mark.parametrize(
    ("constant_bytes", "limit_bytes"), [(0, 600_000), (50_000, 700_000)]
)
def test_a_growing_chat_costs_what_was_said_and_not_steps_times_state(
    root: Path, constant_bytes: int, limit_bytes: int
) -> None:
    states = chat(200, constant_bytes)
    ids = save_all(root, states)
    raw = sum(len(orjson.dumps(state)) for state in states)
    assert raw > 20_000_000
    assert journal_of(root, JOB).stat().st_size < limit_bytes
    with CheckpointManager(root) as fresh:
        for checkpoint_id, state in zip(ids, states, strict=True):
            assert fresh.get(JOB, checkpoint_id).state == state  # I5


@pytest.mark.parametrize("size_bytes", [1500, 10_000, 100_000])
def test_states_without_any_pattern_cost_little_more_than_they_are(
    root: Path, size_bytes: int
) -> None:
    rng = random.Random(1)
    states = [{"noise": rng.randbytes(size_bytes // 2).hex()} for _ in range(20)]
    save_all(root, states)
    raw = sum(len(orjson.dumps(state)) for state in states)
    assert journal_of(root, JOB).stat().st_size < 1.4 * raw


def test_a_job_that_alternates_between_two_shapes_still_pays_for_changes_only(
    root: Path,
) -> None:
    rng = random.Random(3)
    shapes = [text(rng, 40_000), text(rng, 40_000)]
    states = [{"n": n, "plan": shapes[n % 2]} for n in range(40)]
    save_all(root, states)
    assert journal_of(root, JOB).stat().st_size < 150_000


@pytest.mark.parametrize("shapes", [3, 4])
def test_a_job_of_several_shapes_is_not_taken_for_one_without(
    root: Path, shapes: int
) -> None:
    rng = random.Random(3)
    plans = [text(rng, 40_000) for _ in range(shapes)]
    save_all(root, [{"n": n, "plan": plans[n % shapes]} for n in range(60)])
    assert journal_of(root, JOB).stat().st_size < 400_000


def test_a_frame_does_not_depend_on_those_before_it() -> None:
    rng = random.Random(6)
    sizes = [rng.choice([0, 20, 800, 5000, 16_384, 16_385, 50_000]) for _ in range(60)]
    states = [text(rng, size_bytes).encode() for size_bytes in sizes]
    for state in states:
        with ThreadPoolExecutor() as pool:  # a thread that has compressed nothing
            fresh = pool.submit(zstd.compress, state).result()
        assert zstd.compress(state) == fresh
        assert zstd.decompress(fresh, len(state)) == state


def test_a_job_that_jumps_back_pays_for_changes_only(root: Path) -> None:
    rng = random.Random(4)
    with CheckpointManager(root, durability="never") as manager:
        first = {"doc": text(rng, 60_000)}
        start = manager.save(JOB, "start", first)
        for _ in range(6):  # others in between, so that the newest few are no help
            manager.save(JOB, "other", {"doc": text(rng, 60_000)})
        before = journal_of(root, JOB).stat().st_size
        manager.restore(JOB, start)
        manager.save(JOB, "again", {**first, "note": "once more"})
    assert journal_of(root, JOB).stat().st_size - before < 2000


def test_compressing_begins_at_2_kib(root: Path) -> None:
    states = [{"x": "a" * (size - len('{"x":""}'))} for size in (2047, 2048)]
    save_all(root, states)
    kept = [
        orjson.loads(line) for line in journal_of(root, JOB).read_bytes().splitlines()
    ]
    assert [line["codec"] for line in kept if "state" in line] == [
        "json",
        "zstd-delta",
    ]


def test_a_small_state_stays_readable_json(root: Path) -> None:
    save_all(root, [{"rows": 1200}] * 3)
    lines = journal_of(root, JOB).read_bytes().splitlines()
    assert orjson.loads(lines[-2])["body"] == {"rows": 1200}


@pytest.mark.parametrize("codec", ["json", "zstd"])
def test_the_other_codecs_need_no_other_state(root: Path, codec: Any) -> None:
    states = chat(5, 5000)
    ids = save_all(root, states, codec=codec)
    assert f'"codec":"{codec}"'.encode() in journal_of(root, JOB).read_bytes()
    assert b'"base"' not in journal_of(root, JOB).read_bytes()
    with CheckpointManager(root) as fresh:
        assert fresh.get(JOB, ids[-1]).state == states[-1]


def test_a_state_whose_base_rotted_is_refused_and_so_are_those_that_need_it(
    root: Path,
) -> None:
    states = chat(4, 5000)
    ids = save_all(root, states)
    data = bytearray(journal_of(root, JOB).read_bytes())
    at = data.index(b'"body":"') + 40  # in the first state, which the others need
    data[at] ^= 1
    journal_of(root, JOB).write_bytes(data)
    with CheckpointManager(root) as manager:
        for checkpoint_id in ids:
            with pytest.raises(UnreadableState, match=r"checksum|state line"):
                manager.get(JOB, checkpoint_id)
        assert not manager.verify(JOB, deep=True)[0].ok


def test_a_fresh_process_goes_on_with_deltas(root: Path) -> None:
    states = chat(30, 20_000)
    for state in states:
        save_all(root, [state])
    data = journal_of(root, JOB).read_bytes()
    assert data.count(b'"codec":"zstd-delta"') == 29


def read_shares(root: Path, states: list[dict[str, Any]]) -> list[float]:
    """Return what a first restore of each newest state reads, of what it may."""
    shares = []
    with CheckpointManager(root) as manager:
        infos = manager.list(JOB)
    disk = FaultyDisk(root)
    for info, state in zip(infos, states[-len(infos) :], strict=True):
        with CheckpointManager(storage=FileStorage(root, disk=disk)) as manager:
            manager.list(JOB)
            before = disk.read_bytes
            assert manager.get(JOB, info.checkpoint_id).state == state
        most = max(4 * len(orjson.dumps(state)), 64 * 1024)
        # Event lines besides.
        shares.append((disk.read_bytes - before) / (most + 32 * 1024))
    assert min(shares) > 0
    return shares


def churn(count: int) -> list[dict[str, Any]]:
    """States of 100 KB, of which about half is different noise at each step."""
    rng = random.Random(2)
    pages = [rng.randbytes(500).hex() for _ in range(100)]
    found = []
    for _ in range(count):
        for _ in range(80):
            pages[rng.randrange(100)] = rng.randbytes(500).hex()
        found.append({"pages": list(pages)})
    return found


@pytest.mark.parametrize("states", [chat(200), churn(90)], ids=["chat", "churn"])
def test_a_restore_reads_a_bounded_multiple_of_its_state(
    root: Path, states: list[dict[str, Any]]
) -> None:
    save_all(root, states)
    assert max(read_shares(root, states)) <= 1


def test_chains_stay_bounded_while_states_in_between_go(root: Path) -> None:
    states = chat(150, 5000)
    with CheckpointManager(root, durability="never", trash_seconds=0) as manager:
        for n, state in enumerate(states):
            manager.save(JOB, "turn", state)
            if n % 7 == 0:
                manager.cleanup(JOB, keep_last=8)
            if n % 21 == 0:
                manager.compact(JOB)
        size = journal_of(root, JOB).stat().st_size
        assert manager.verify(JOB, deep=True)[0].ok
    assert max(read_shares(root, states)) <= 1
    assert size < 600_000


@pytest.mark.parametrize("size_bytes", [300_000, 3_000_000, 12_000_000])
def test_a_few_edits_of_a_large_state_cost_a_few_edits(
    root: Path, size_bytes: int
) -> None:
    states = edits(size_bytes, count=3)
    save_all(root, states[:1])
    first = journal_of(root, JOB).stat().st_size
    ids = save_all(root, states[1:])
    assert journal_of(root, JOB).stat().st_size - first < 10_000 + size_bytes / 500
    with CheckpointManager(root) as fresh:
        assert fresh.get(JOB, ids[-1]).state == states[-1]
