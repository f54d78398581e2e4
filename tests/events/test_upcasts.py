"""Events of older schemas are told as the current one tells them; bytes stay."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import pytest

from milepost import CheckpointManager
from milepost.journal import errors
from milepost.journal.events import codec, upcasts
from milepost.journal.events.upcasts import Fact, unchanged
from milepost.journal.events.vocabulary import EVENT_TYPES, SCHEMA_VERSION
from milepost.journal.storage.files.recovery import head as head_codec
from milepost.journal.storage.files.recovery.head import Extent, Head
from tests.support.faults import journal_of
from tests.support.lines import SUFFIX_BYTES, Draft, append_as_newer, chain, genesis

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tests.support.clock import Clock

# Schema 0 never was.  It called a save "checkpoint.stored" and some fields otherwise.
FIELDS = {
    "job.opened": {"job": "name", "store": "owner"},
    "checkpoint.saved": {"checkpoint_id": "id", "state_digest": "digest"},
    "checkpoint.deleted": {"checkpoint_id": "id"},
}


def as_schema_0(event: dict[str, Any]) -> dict[str, Any]:
    """Return an event of schema 1 as schema 0 would have had it."""
    names = FIELDS.get(event["type"], {})
    data = {names.get(name, name): value for name, value in event["data"].items()}
    type_ = event["type"].replace("checkpoint.saved", "checkpoint.stored")
    return {**event, "v": 0, "type": type_, "data": data}


def from_schema_0(type_: str, data: Mapping[str, Any]) -> Fact:
    type_ = type_.replace("checkpoint.stored", "checkpoint.saved")
    names = {old: new for new, old in FIELDS[type_].items()}
    missing = names.keys() - data.keys()
    if missing:
        raise KeyError(*missing)
    return Fact(type_, {names.get(name, name): data[name] for name in data})


@pytest.fixture
def schema_0(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have this version know schema 0."""
    for type_ in EVENT_TYPES - FIELDS.keys():
        monkeypatch.setitem(upcasts.UPCASTS, (type_, 0), unchanged)
    for type_ in ("job.opened", "checkpoint.stored", "checkpoint.deleted"):
        monkeypatch.setitem(upcasts.UPCASTS, (type_, 0), from_schema_0)


def age(root: Path, count: int, *, is_acknowledged: bool = True) -> bytes:
    """Rewrite the first `count` events as schema 0 would have had them."""
    journal, hashes, lines = journal_of(root, "job"), list[str](), list[bytes]()
    for line in journal.read_bytes().splitlines():
        if line.startswith(b'{"state":'):
            lines.append(line)
            continue
        event = json.loads(line)
        before = hashes[-1] if hashes else genesis(event["data"])
        if len(hashes) < count:
            event = as_schema_0(event)
        del event["hash"]
        body = json.dumps(event, separators=(",", ":"), ensure_ascii=False).encode()
        hashes.append(hashlib.sha256(before.encode() + body[:-1]).hexdigest())
        lines.append(body[:-1] + b',"hash":"%b"}' % hashes[-1].encode())
    raw = b"\n".join(lines) + b"\n"
    journal.write_bytes(raw)
    if is_acknowledged:
        shown = Extent(len(hashes), hashes[-1], len(raw))
        head = Head(1000, shown, journal.stat().st_ino, "always", shown)
        (root / "heads" / "job").write_bytes(head_codec.encode(head) + bytes(512))
    return raw


@pytest.fixture
def old(root: Path, clock: Clock) -> Path:
    """A store whose job has eight events: six of schema 0, two of schema 1."""
    with CheckpointManager(root, clock=clock) as manager:
        ids = [manager.save("job", step, {"step": step}) for step in "abc"]
        manager.delete("job", ids[0], reason="wrong")
        manager.restore("job", ids[1])
        manager.pin("job", ids[1])
        manager.save("job", "d", {"step": "d"}, metadata={"m": 1})
    age(root, 6)
    return root


@pytest.mark.usefixtures("schema_0")
def test_a_journal_of_an_older_schema_answers_as_one_of_ours(
    old: Path, clock: Clock
) -> None:
    before = journal_of(old, "job").read_bytes()
    assert before.count(b'{"v":0,') == 6
    with CheckpointManager(old, clock=clock) as manager:
        infos = manager.list("job")
        assert [info.step_name for info in infos] == ["b", "c", "d"]
        assert [info.pinned for info in infos] == [True, False, False]
        assert infos[2].parent_id == infos[0].checkpoint_id
        for info in infos:
            state = manager.get("job", info.checkpoint_id).state
            assert state == {"step": info.step_name}
        assert manager.state_at("job", 4) == {"step": "c"}
        (report,) = manager.verify("job", deep=True)
        assert (report.ok, report.events) == (True, 8)
    assert journal_of(old, "job").read_bytes() == before  # I4


@pytest.mark.usefixtures("schema_0")
def test_history_tells_older_events_in_the_words_of_today(
    root: Path, clock: Clock, old: Path
) -> None:
    hashes = chain_of_both(journal_of(old, "job").read_bytes())
    with CheckpointManager(root, clock=clock) as manager:
        events = manager.history("job")
        assert manager.history("job", reverse=True) == events[::-1]
        assert manager.history("job", types={"checkpoint.saved"})[0] == events[1]
    assert {event["v"] for event in events} == {SCHEMA_VERSION}
    assert [event["hash"] for event in events] == hashes
    assert events[0]["data"].keys() == {"job", "store", "nonce"}
    assert events[4]["type"] == "checkpoint.deleted"
    assert events[4]["data"].keys() == {"checkpoint_id", "reason"}
    assert events[0]["span"] == [1, 2]


def chain_of_both(journal: bytes) -> list[str]:
    """Check a chain whose first event is of schema 0, without our code."""
    lines = [x for x in journal.splitlines() if not x.startswith(b'{"state":')]
    opened = json.loads(lines[0])["data"]
    names = {"job": opened["name"], "store": opened["owner"], "nonce": opened["nonce"]}
    hashes = [genesis(names)]
    for line in lines:
        body = hashes[-1].encode() + line[:-SUFFIX_BYTES]
        hashes.append(hashlib.sha256(body).hexdigest())
        assert json.loads(line)["hash"] == hashes[-1]
    return hashes[1:]


@pytest.mark.usefixtures("schema_0")
def test_new_events_go_behind_the_old_ones(old: Path, clock: Clock) -> None:
    before = journal_of(old, "job").read_bytes()
    with CheckpointManager(old, clock=clock) as manager:
        first = manager.list("job")[0].checkpoint_id
        assert manager.restore("job", first) == {"step": "b"}
        assert manager.cleanup("job", 1) == 1
        manager.save("job", "e", {"step": "e"})
    after = journal_of(old, "job").read_bytes()
    assert after.startswith(before)  # I4
    assert after[len(before) :].count(b'\n{"v":1,') == 2
    with CheckpointManager(old, clock=clock) as fresh:
        assert fresh.verify("job", deep=True)[0].ok


@pytest.mark.usefixtures("schema_0")
def test_a_compaction_copies_old_event_lines_as_they_are(
    old: Path, clock: Clock
) -> None:
    before = chain_of_both(journal_of(old, "job").read_bytes())
    clock.turn(days=8)
    with CheckpointManager(old, clock=clock) as manager:
        done = manager.compact("job")
        assert done is not None
        assert done.dropped == 1  # I9
    assert chain_of_both(journal_of(old, "job").read_bytes())[:-1] == before  # I4
    with CheckpointManager(old, clock=clock) as fresh:
        assert [info.step_name for info in fresh.list("job")] == ["b", "c", "d"]
        assert fresh.verify("job", deep=True)[0].ok


@pytest.mark.usefixtures("schema_0")
def test_what_an_older_version_wrote_and_did_not_acknowledge_is_settled(
    root: Path, clock: Clock
) -> None:
    with CheckpointManager(root, clock=clock) as manager:
        manager.save("job", "a", {"x": 1})
    raw = age(root, 2, is_acknowledged=False)
    (root / "heads" / "job").write_bytes(bytes(1024))
    with CheckpointManager(root, clock=clock) as manager:
        assert manager.get("job", manager.list("job")[0].checkpoint_id).state == {
            "x": 1
        }
    assert journal_of(root, "job").read_bytes().startswith(raw)  # I7


@pytest.mark.usefixtures("schema_0")
def test_an_old_event_that_is_not_what_its_schema_says_is_damage(
    root: Path, clock: Clock
) -> None:
    with CheckpointManager(root, clock=clock) as manager:
        manager.save("job", "a", {"x": 1})
    append_as_newer(root, Draft("checkpoint.deleted", v=0, data={"who": "x"}))
    with CheckpointManager(root, clock=clock) as manager:
        with pytest.raises(errors.DamagedJournal, match="an event of schema 0") as it:
            manager.list("job")
        assert (it.value.line, "KeyError" in it.value.found) == (4, True)


@pytest.mark.usefixtures("schema_0")
def test_where_a_malformed_old_event_stands_is_still_told() -> None:
    """Behind damage it proves a later write, whatever is in it: never cut it."""
    line = b'{"v":0,"seq":7,"type":"checkpoint.deleted","data":[],"hash":"%b"}'
    event = codec.peek(line % (b"0" * 64))
    assert event is not None
    assert event["seq"] == 7


@pytest.mark.usefixtures("schema_0")
def test_an_old_event_of_a_type_that_was_never_known_is_ignored(
    root: Path, clock: Clock
) -> None:
    with CheckpointManager(root, clock=clock) as manager:
        manager.save("job", "a", {"x": 1})
    append_as_newer(root, Draft("task.done", v=0, data={"n": 1}))
    with CheckpointManager(root, clock=clock) as manager:
        assert [info.step_name for info in manager.list("job")] == ["a"]
        assert manager.history("job")[-1]["data"] == {"n": 1}
        assert manager.save("job", "b", {})


@pytest.mark.parametrize("is_erased", [True, False], ids=["erased", "unknown"])
def test_what_no_upcast_lifts_leaves_its_job_only_a_history(
    root: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, is_erased: bool
) -> None:
    if is_erased:  # the schema is known, but this type has no line in the table
        monkeypatch.setitem(upcasts.UPCASTS, ("checkpoint.pinned", 0), unchanged)
    with CheckpointManager(root, clock=clock) as manager:
        manager.save("job", "a", {"x": 1})
    append_as_newer(root, Draft("checkpoint.deleted", v=0, data={"id": "x"}))
    with CheckpointManager(root, clock=clock) as manager:
        with pytest.raises(errors.NewerFormat):
            manager.list("job")
        assert manager.history("job")[-1]["v"] == 0


def test_an_event_two_schemas_behind_is_lifted_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(upcasts, "SCHEMA_VERSION", 2)
    table = {
        ("a", 0): lambda _, data: Fact("b", {**data, "one": 1}),
        ("b", 1): lambda type_, data: Fact(type_, {**data, "two": data["one"] + 1}),
    }
    monkeypatch.setattr(upcasts, "UPCASTS", table)
    event = {"v": 0, "seq": 3, "type": "a", "data": {}, "span": [3, 4], "hash": "h"}
    before = json.dumps(event)
    assert upcasts.lift(event) == {
        **event,
        "v": 2,
        "type": "b",
        "data": {"one": 1, "two": 2},
    }
    assert json.dumps(event) == before


def test_every_schema_before_this_one_is_lifted_whole() -> None:
    """Whoever raises `SCHEMA_VERSION` says what became of each type."""
    known = {version for _, version in upcasts.UPCASTS}
    assert known == set(range(1, SCHEMA_VERSION))


def test_the_current_schema_costs_no_look_into_the_table(
    root: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    with CheckpointManager(root, clock=clock) as manager:
        manager.save("job", "a", {"x": 1})
    asked: list[object] = []
    monkeypatch.setattr(upcasts, "lift", asked.append)
    with CheckpointManager(root, clock=clock) as manager:
        assert manager.seq("job") == 2
        assert len(chain(journal_of(root, "job").read_bytes())) == 2
        assert manager.verify("job")[0].ok
    assert asked == []
