"""Content that verifies and is absurd: each job reports its own, and all go on."""

from __future__ import annotations

import binascii
import resource
import zlib
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from milepost import CheckpointManager, MemoryStorage
from milepost.journal.errors import MilepostError, UnreadableState
from milepost.journal.states import zstd
from milepost.journal.states.state_digest import digest
from milepost.journal.storage.files.recovery.head import Extent
from tests.support.faults import (
    forged,
    head_of,
    journal_of,
    last_hash,
    put,
    read_head,
    write_head,
)

if TYPE_CHECKING:
    from pathlib import Path

JOB = "etl"
SALT = bytes(16)
BOMB = 1 << 30


def forge(root: Path, event: dict[str, Any], state: bytes | None) -> None:
    """Let a job's third event be a save that says `event`, above it `state`."""
    journal = journal_of(root, JOB)
    data = journal.read_bytes()
    if state is not None:
        data += state + b',"crc":"%08x"}\n' % zlib.crc32(state)
    said: dict[str, Any] = {
        "checkpoint_id": "forged_1_00000000",
        "step_name": "s",
        "parent": 2,
        "state_digest": "0" * 64,
        "state_bytes": 2,
        **event,
    }
    prev = last_hash(journal.read_bytes())
    data += forged(prev, seq=3, type="checkpoint.saved", data=said)
    put(journal, data)
    head, at = read_head(root, JOB), Extent(3, last_hash(data), len(data))
    write_head(root, JOB, head._replace(writing=9, shown=at, synced=at))


def line(codec: str, body: bytes, more: bytes = b"", seq: bytes = b"3") -> bytes:
    form = b'{"state":%b,"codec":"%b"%b,"salt":"%b","body":%b'
    return form % (seq, codec.encode(), more, SALT.hex().encode(), body)


def framed(raw: bytes, base: bytes = b"") -> bytes:
    return b'"%b"' % binascii.b2a_base64(zstd.compress(raw, base), newline=False)


def proves(raw: bytes) -> dict[str, Any]:
    return {"state_bytes": len(raw), "state_digest": digest(SALT, b"", raw)}


DEEP = b'{"x":' + b"[" * 5000 + b"]" * 5000 + b"}"
HUGE = b"9" * 6000


def prefixed(seqs: bytes, base: int = 2) -> tuple[dict[str, Any], bytes]:
    """Return a delta with these states before its base."""
    more = b',"base":%d,"depth":1,"plus":[%b]' % (base, seqs)
    return proves(b"{}"), line("zstd-delta", framed(b"{}"), more)


CASES: dict[str, tuple[dict[str, Any], bytes | None]] = {
    "a size that is text": ({"state_bytes": "2"}, line("json", b"{}")),
    "a size below zero": ({"state_bytes": -2}, line("zstd", framed(b"{}"))),
    "a size that is true": ({"state_bytes": True}, line("json", b"1")),
    "a size beyond all bounds": ({"state_bytes": 1 << 63}, line("json", b"{}")),
    "a size with a fraction": ({"state_bytes": 2.0}, line("json", b"{}")),
    "a digest that is a list": ({"state_digest": []}, line("json", b"{}")),
    "a type that is a number": ({"state_type": 7}, line("json", b"{}")),
    "tags that are a number": ({"tags": 7}, line("json", b"{}")),
    "an id that is a list": ({"checkpoint_id": ["x"]}, line("json", b"{}")),
    "a parent that is text": ({"parent": "x"}, line("json", b"{}")),
    "no JSON": (proves(b"{]"), line("json", b"{]")),
    "no object": (proves(b"[1]"), line("json", b"[1]")),
    "deep nesting": (proves(DEEP), line("json", DEEP)),
    "a number of 6,000 digits": (proves(HUGE), line("json", HUGE)),
    "a seq of 6,000 digits": ({}, line("json", b"{}", seq=HUGE)),
    "a base of 6,000 digits": (
        {},
        line("zstd-delta", framed(b"{}"), b',"base":%b,"depth":1' % HUGE),
    ),
    "metadata of 6,000 digits": ({}, line("json", b"{}", b',"metadata_bytes":' + HUGE)),
    "a base that is itself": (
        {},
        line("zstd-delta", framed(b"{}"), b',"base":3,"depth":1'),
    ),
    "a base that comes later": (
        {},
        line("zstd-delta", framed(b"{}"), b',"base":9,"depth":1'),
    ),
    "a base that is no save": (
        {},
        line("zstd-delta", framed(b"{}"), b',"base":1,"depth":1'),
    ),
    "a prefix with itself": prefixed(b"3"),
    "a prefix with a later state": prefixed(b"9"),
    "a prefix with an event without a state": prefixed(b"1"),
    "a prefix with a seq of 6,000 digits": prefixed(HUGE),
    "a prefix without a base": prefixed(b"9", base=0),
    "a prefix of too many states": prefixed(b",".join([b"2"] * 65)),
    "a frame that is none": ({}, line("zstd", b'"%b"' % (b"AAAA" * 9))),
    "text that is no base64": ({}, line("zstd", b'"~~~~"')),
    "no state line": ({}, None),
    "metadata that is no JSON": (
        {"has_metadata": True},
        b'{"state":3,"codec":"json","salt":"%b","metadata_bytes":2,"metadata":{],'
        b'"body":{}' % SALT.hex().encode(),
    ),
}


@pytest.fixture
def store(root: Path) -> Path:
    with CheckpointManager(root) as manager:
        manager.save(JOB, "s", {"n": 1})
        manager.save("other", "s", {"n": 1})
    return root


def ask(manager: CheckpointManager) -> None:
    """Ask at every door: what is refused is refused by name."""
    for question in (
        lambda: manager.list(JOB),
        lambda: manager.latest(JOB),
        lambda: manager.restore(JOB, "forged_1_00000000"),
        lambda: manager.diff(JOB, "forged_1_00000000", "forged_1_00000000"),
        lambda: manager.history(JOB),
        lambda: manager.compact(JOB),
        lambda: manager.save(JOB, "next", {}),
        lambda: manager.repair(JOB, dry_run=True),
    ):
        with suppress(MilepostError):
            question()


@pytest.mark.parametrize("name", CASES)
def test_absurd_content_is_told_of_its_job_and_the_others_go_on(
    store: Path, name: str
) -> None:
    event, state = CASES[name]
    forge(store, event, state)
    with CheckpointManager(store) as manager:
        reports = {each.job_id: each for each in manager.verify(deep=True)}
        found = {each.job_id: each for each in manager.diagnose(deep=True)}
        assert reports["other"].ok
        assert found["other"].ok
        assert reports[JOB].ok == found[JOB].ok
        ask(manager)
        assert manager.get("other", manager.list("other")[0].checkpoint_id).state


def grown(action: Any) -> int:
    """Return by how many KiB the process grew at its peak."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    action()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before


@pytest.fixture(scope="module")
def bomb() -> bytes:
    return framed(bytes(BOMB))


@pytest.mark.parametrize("size", [2, BOMB, BOMB - 1, -2])
@pytest.mark.parametrize("codec", ["zstd", "zstd-delta"])
def test_a_bomb_is_refused_before_it_takes_memory(
    store: Path, bomb: bytes, size: int, codec: str
) -> None:
    more = b',"base":2,"depth":1' if codec == "zstd-delta" else b""
    forge(store, {"state_bytes": size}, line(codec, bomb, more))

    def look() -> None:
        with CheckpointManager(store) as manager:
            with pytest.raises(UnreadableState):
                manager.restore(JOB, "forged_1_00000000")
            manager.verify(deep=True)
            manager.diagnose(deep=True)
            ask(manager)

    assert grown(look) < 128 * 1024


def test_a_state_above_the_bound_is_refused_by_name_and_is_no_damage(
    root: Path,
) -> None:
    with CheckpointManager(root, max_state_bytes=1 << 20) as large:
        first = large.save(JOB, "s", {"text": "x" * 100_000})
        second = large.save(JOB, "s", {"n": 1})
    with CheckpointManager(root, max_state_bytes=50_000) as small:
        with pytest.raises(UnreadableState, match="100,011 bytes") as caught:
            small.restore(JOB, first)
        assert "max_state" in str(caught.value.hint)
        assert small.restore(JOB, second) == {"n": 1}
        (report,) = small.verify(JOB, deep=True)
        assert report.ok
        assert (
            "1 state not checked: too large, raise max_state_bytes" in report.notes[0]
        )
        assert small.diagnose(JOB, deep=True)[0].ok
        assert small.repair(JOB, accept_loss=True).steps == ()
        small.save(JOB, "next", {"text": "y" * 10_000})
    with CheckpointManager(root) as again:
        assert again.get(JOB, first).state == {"text": "x" * 100_000}
        assert again.verify(JOB, deep=True)[0].notes == ()


def test_the_bound_is_the_same_in_memory() -> None:
    storage = MemoryStorage()
    with CheckpointManager(storage=storage) as large:
        first = large.save(JOB, "s", {"text": "x" * 1000})
    small = CheckpointManager(storage=storage, max_state_bytes=500)
    with pytest.raises(UnreadableState, match="more than the 500"):
        small.get(JOB, first)


def test_a_line_without_an_end_is_not_put_together(store: Path) -> None:
    with journal_of(store, JOB).open("ab") as file:
        file.write(b'{"v":1,"seq":3,' + b"0" * (16 << 20))
    with CheckpointManager(store) as manager:
        assert manager.diagnose(JOB)[0].row == "R14"
        assert len(manager.list(JOB)) == 1
    head = orjson.loads(head_of(store, JOB).read_bytes()[512:].split(b"\n")[0])
    assert head["seq"] >= 2
