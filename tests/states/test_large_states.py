"""Large states and small bodies that claim to be large: memory is bounded."""

from __future__ import annotations

import binascii
import random
import sys
import tracemalloc
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from benchmarks.states import text
from milepost import CheckpointManager, Key, KeyRing
from milepost.journal.errors import StateTooLarge, UnreadableState
from milepost.journal.states import zstd
from tests.support.faults import in_child, journal_of, replace

if TYPE_CHECKING or sys.version_info < (3, 14):
    from backports.zstd import CompressionParameter, ZstdCompressor
else:
    from compression.zstd import CompressionParameter, ZstdCompressor

JOB = "etl"
MB = 1_000_000
KEYS = KeyRing([Key.new("k")])


def bomb(size_bytes: int, base: bytes = b"") -> bytes:
    return zstd.compress(b'{"a":"' + b"x" * size_bytes + b'"}', base)


def wide(raw: bytes) -> bytes:
    """Return a frame that wants a window of 128 MiB, whatever it holds."""
    options: dict[int, int] = {CompressionParameter.window_log: 27}
    compressor = ZstdCompressor(options=options)
    return compressor.compress(raw[:5], ZstdCompressor.FLUSH_BLOCK) + (
        compressor.compress(raw[5:], ZstdCompressor.FLUSH_FRAME)
    )


# -- bodies that lie -------------------------------------------------------------------


@pytest.mark.parametrize("base", [b"", b"x" * 500], ids=["whole", "delta"])
def test_a_frame_makes_no_more_than_its_event_says(base: bytes) -> None:
    frame = bomb(5 * MB, base)
    assert len(frame) < 2000
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="another size than 2000 bytes"):
            zstd.decompress(frame, 2000, base)
        assert tracemalloc.get_traced_memory()[1] < MB
    finally:
        tracemalloc.stop()


def test_a_frame_gets_no_window_that_its_size_does_not_need() -> None:
    raw = b'{"rows":1200}' * 200
    frame = wide(raw)
    with pytest.raises(ValueError, match="memory"):
        zstd.decompress(frame, len(raw))


@pytest.mark.parametrize("frame", [bomb(5 * MB), wide(b"{}" * 2000)], ids=len)
def test_a_body_that_claims_too_much_is_refused_by_name(
    root: Path, frame: bytes
) -> None:
    with CheckpointManager(root) as manager:
        checkpoint_id = manager.save(JOB, "s", {"t": "word " * 1000})
    journal = journal_of(root, JOB)
    first, line, event, _ = journal.read_bytes().split(b"\n")
    head = line[: line.index(b'"body":')]
    body = b'%b"body":"%b"' % (head, binascii.b2a_base64(frame, newline=False))
    forged = b'%b,"crc":"%08x"}' % (body, zlib.crc32(body))
    replace(journal, b"\n".join((first, forged, event, b"")))
    with (
        CheckpointManager(root) as manager,
        pytest.raises(UnreadableState, match="state 2"),
    ):
        manager.get(JOB, checkpoint_id)


# -- states that are large -------------------------------------------------------------


def resident_mb(field: str) -> float:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition(f"{field}:")[2].split()[0]) / 1000


def extra_mb(work: Any) -> float:
    """Return how much more memory than before `work` takes at its peak."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # resets the peak
    before = resident_mb("VmRSS")
    work()
    return resident_mb("VmHWM") - before


def save_and_get(root: Path, size_mb: int, **options: Any) -> list[float]:
    """Return what saving a state, and restoring it, take besides the state itself."""
    words = text(random.Random(1), 10_000)
    state = {"pages": [f"{n} {words}" for n in range(size_mb * 100)]}
    with CheckpointManager(root, max_state_bytes=1 << 30, **options) as manager:
        saved: list[str] = []
        saving = extra_mb(lambda: saved.append(manager.save(JOB, "s", state)))
        getting = extra_mb(lambda: manager.get(JOB, saved[0]))
    return [saving, getting]


@pytest.mark.slow
@pytest.mark.parametrize("keys", [None, KEYS], ids=["plain", "encrypted"])
@pytest.mark.parametrize("codec", ["auto", "json"])
def test_200_megabytes_take_a_small_multiple_of_themselves(
    root: Path, codec: str, keys: KeyRing | None
) -> None:
    found = in_child(lambda: save_and_get(root, 200, codec=codec, keys=keys))
    assert max(found) < 6 * 200


def test_a_state_above_the_setting_is_refused_before_it_is_copied(root: Path) -> None:
    def refuse() -> float:
        state = {"page": "x" * (20 * MB)}
        with CheckpointManager(root) as manager:

            def save() -> None:
                with pytest.raises(StateTooLarge, match="more than 16777216"):
                    manager.save(JOB, "s", state)

            return extra_mb(save)

    assert in_child(refuse) < 1.5 * 20
    assert not journal_of(root, JOB).exists()


# -- what is kept in memory ------------------------------------------------------------


def grown_mb(root: Path, states: int, **options: Any) -> float:
    """Return how much saving one state in each of `states` jobs adds to the process."""
    words = text(random.Random(1), 2200)
    with CheckpointManager(root, durability="never", **options) as manager:
        manager.save("first", "s", {"text": words})
        before = resident_mb("VmRSS")
        for n in range(states):
            manager.save(f"job-{n}", "s", {"n": n, "text": words})
        return resident_mb("VmRSS") - before


@pytest.mark.slow
def test_cached_states_take_the_memory_that_the_bound_counts(root: Path) -> None:
    plain = in_child(lambda: grown_mb(root / "json", 2000, codec="json"))
    cached = in_child(lambda: grown_mb(root / "auto", 2000, codec="auto"))
    assert cached - plain < 1.5 * 2000 * (2200 + 1024) / MB
