"""Events on disk: what format 1 said is still read, and what is newer is left alone."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import sys
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from pydantic import TypeAdapter, ValidationError

from milepost import CheckpointManager, Event
from milepost.journal import errors
from milepost.journal.events.vocabulary import EVENT_TYPES, SCHEMA_VERSION
from tests.golden import make
from tests.support.lines import Draft, append_as_newer, chain

if sys.version_info >= (3, 14):
    from compression.zstd import ZstdDict, decompress
else:
    from backports.zstd import ZstdDict, decompress

if TYPE_CHECKING:
    from collections.abc import Callable

GOLDEN = Path(__file__).parents[1] / "golden"
# One golden store per shipped schema, committed as bytes: each must open for ever.
VERSIONS = [f"v{version}" for version in range(1, SCHEMA_VERSION + 1)]
NEWEST = VERSIONS[-1]


def recorded(version: str) -> dict[str, Any]:
    """Return what a golden store amounts to; nothing if nobody has made it."""
    path = GOLDEN / f"{version}.json"
    found: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.exists() else {}
    return found


RECORDED = recorded(NEWEST)
ADAPTER: TypeAdapter[Event] = TypeAdapter(Event)
EVENTS = [event for job in RECORDED.values() for event in job["history"]]
JOURNALS = sorted(GOLDEN.glob(f"{NEWEST}/journals/*.jsonl"))


@pytest.fixture(params=VERSIONS)
def golden(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """Return a copy of each golden store; a backup looks the same."""
    return Path(shutil.copytree(GOLDEN / request.param, tmp_path / request.param))


def events_in(journal: bytes) -> list[bytes]:
    return [x for x in journal.splitlines() if not x.startswith(b'{"state":')]


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


# -- a verifier from FORMAT.md alone ------------------------------------------------


class StateLine(NamedTuple):
    """A state line taken apart as FORMAT.md says, without our code."""

    salt: bytes
    metadata: bytes
    raw: bytes

    @classmethod
    def parse(cls, line: bytes, raw_of: dict[int, bytes]) -> StateLine:
        checked, _, suffix = line.rpartition(b',"crc":"')
        assert suffix == b'%08x"}' % zlib.crc32(checked)
        fields = json.loads(line)
        size = fields.get("metadata_bytes", 0)
        start = checked.index(b'"metadata":') + len('"metadata":') if size else 0
        raw = checked[start + size :].split(b'"body":', 1)[1]
        if fields["codec"] != "json":
            base = ZstdDict(raw_of.get(fields.get("base"), b"-" * 8), is_raw=True)
            known = base.as_prefix if "base" in fields else None
            raw = decompress(base64.b64decode(fields["body"]), known)
        raw_of[fields["state"]] = raw
        salt = bytes.fromhex(fields["salt"])
        return cls(salt, checked[start : start + size], raw)

    @property
    def digest(self) -> str:
        size = len(self.metadata).to_bytes(8, "big")
        return hashlib.sha256(self.salt + size + self.metadata + self.raw).hexdigest()


@pytest.mark.parametrize("journal", JOURNALS, ids=lambda path: path.name[:12])
def test_the_chain_of_every_golden_journal_holds_by_the_text_of_the_format(
    journal: Path,
) -> None:
    hashes = chain(journal.read_bytes())
    events = next(
        job["history"]
        for job in RECORDED.values()
        if job["history"][-1]["hash"] == hashes[-1]
    )
    assert hashes == [event["hash"] for event in events]
    assert [event["seq"] for event in events] == [*range(1, len(hashes) + 1)]  # I3


def test_any_flipped_byte_of_an_event_line_breaks_the_chain() -> None:
    journal = (GOLDEN / NEWEST / "journals" / "torn.jsonl").read_bytes()
    states = [n for n in range(len(journal)) if journal[:n].count(b"\n") == 1]
    assert chain(journal)
    for position in set(range(len(journal))) - set(states):
        flipped = bytearray(journal)
        flipped[position] ^= 1
        with pytest.raises((AssertionError, ValueError, KeyError)):
            assert len(chain(bytes(flipped))) == 3


@pytest.mark.parametrize("every", [8, pytest.param(1, marks=pytest.mark.slow)])
def test_any_flipped_byte_of_an_event_line_is_found_by_verify(
    golden: Path, every: int
) -> None:
    journal = golden / "journals" / "torn.jsonl"
    whole, unseen = journal.read_bytes(), []
    first = whole.index(b"\n") + 1
    last = whole.index(b"\n", first) + 1  # the one state line lies between
    for position in (*range(first), *range(last, len(whole)))[::every]:
        flipped = bytearray(whole)
        flipped[position] ^= 1
        journal.write_bytes(flipped)
        with CheckpointManager(golden) as manager:
            unseen += [position] * manager.verify("torn")[0].ok
    assert not unseen


@pytest.mark.parametrize("journal", JOURNALS, ids=lambda path: path.name[:12])
def test_every_golden_state_is_bound_by_its_salted_digest(journal: Path) -> None:
    lines = journal.read_bytes().split(b"\n")
    states = [n for n, line in enumerate(lines) if line.startswith(b'{"state":')]
    assert states
    raw_of: dict[int, bytes] = {}
    for number in states:
        state = StateLine.parse(lines[number], raw_of)
        event = json.loads(lines[number + 1])
        assert json.loads(lines[number])["state"] == event["seq"]
        assert event["data"]["state_digest"] == state.digest
        assert event["data"]["state_bytes"] == len(state.raw)
        assert bool(state.metadata) == event["data"].get("has_metadata", False)


# -- the golden store ---------------------------------------------------------------


def test_the_golden_store_still_means_exactly_what_it_meant(golden: Path) -> None:
    assert make.describe(golden) == recorded(golden.name)


def test_reading_the_golden_store_changes_none_of_its_bytes(golden: Path) -> None:
    make.describe(golden)
    with CheckpointManager(golden) as manager:
        reports = manager.verify(deep=True)
    assert [report.ok for report in reports] == [True] * len(recorded(golden.name))
    assert contents(golden) == contents(GOLDEN / golden.name)


def test_verify_gives_the_last_hash_that_the_format_gives(golden: Path) -> None:
    with CheckpointManager(golden) as manager:
        found = {r.job_id: (r.head_hash, r.events) for r in manager.verify()}
    assert found == {
        name: (job["history"][-1]["hash"], len(job["history"]))
        for name, job in recorded(golden.name).items()
    }


def test_every_schema_has_a_golden_store_and_its_lines_are_of_that_schema() -> None:
    assert sorted(path.name for path in GOLDEN.glob("v*[0-9]")) == sorted(VERSIONS)
    assert sorted(path.stem for path in GOLDEN.glob("v*.json")) == sorted(VERSIONS)
    for version in VERSIONS:
        lines = b"".join(p.read_bytes() for p in GOLDEN.glob(f"{version}/journals/*"))
        assert set(re.findall(rb'^{"v":(\d+),', lines, re.MULTILINE)) == {
            version.removeprefix("v").encode()
        }


def test_the_newest_golden_store_holds_every_type_of_event() -> None:
    assert {event["type"] for event in EVENTS} == EVENT_TYPES


def test_every_event_of_a_longer_write_says_which_events_the_write_spans() -> None:
    for job in RECORDED.values():
        by_seq = {event["seq"]: event for event in job["history"]}
        assert by_seq[1]["span"][0] == 1  # opened and saved, or started, in one write
        for event in job["history"]:
            first, last = event.get("span") or (event["seq"], event["seq"])
            assert {
                tuple(by_seq[seq].get("span") or (seq, seq))
                for seq in range(first, last + 1)
            } == {(first, last)}


def test_new_events_go_behind_the_golden_ones_and_change_none(golden: Path) -> None:
    with CheckpointManager(golden) as manager:
        manager.save("orders", "more", {"rows": 9})
        manager.cleanup("orders", 1)
        manager.save("torn", "more", {})
    for name, before in contents(GOLDEN / golden.name).items():
        after = (golden / name).read_bytes()
        assert after.startswith(before) or name.startswith("heads")  # I4
    journal = (golden / "journals" / "orders.jsonl").read_bytes()
    before = recorded(golden.name)["orders"]["history"]
    assert len(events_in(journal)) == len(before) + 2


def test_the_script_that_made_it_still_writes_the_same_states_and_events(
    tmp_path: Path,
) -> None:
    make.write(tmp_path / "new")
    written = make.describe(tmp_path / "new")
    for name, job in RECORDED.items():
        assert written[name]["states"] == job["states"]
        shapes = [(e["type"], e.get("span")) for e in job["history"]]
        assert [(e["type"], e.get("span")) for e in written[name]["history"]] == shapes


# -- events are what their types say ------------------------------------------------


def validated(event: object) -> object:
    """Return `event` as its `TypedDict` sees it: fields it does not name are gone."""
    return ADAPTER.validate_python(event, strict=True)


@pytest.mark.parametrize("type_", sorted(EVENT_TYPES))
def test_events_on_disk_are_exactly_what_their_typed_dicts_say(type_: str) -> None:
    events = [event for event in EVENTS if event["type"] == type_]
    assert events
    for event in events:
        assert validated(event) == event


@pytest.mark.parametrize(
    "change",
    [{"seq": "1"}, {"type": "job.closed"}, {"data": {}}, {"at": None}, {"hash": 5}],
    ids=str,
)
def test_what_is_not_an_event_is_told_from_one(change: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        validated({**EVENTS[0], **change})


# -- written by a newer Milepost ----------------------------------------------------


FUTURE_STATE = b'"codec":"brotli","salt":"00112233445566778899aabbccddeeff","body":"KL"'
FUTURE_DATA = {"state_digest": "0" * 64, "state_bytes": 5, "n": 1}
SAVED_DATA = {
    "checkpoint_id": "b_1_00000000",
    "step_name": "b",
    "parent": 2,
    "state_digest": "0" * 64,
    "state_bytes": 5,
}
UNKNOWN_TYPES = {
    "without a state": [Draft("task.done", data={"n": 1})],
    "with a state": [Draft("task.done", data=FUTURE_DATA, state=FUTURE_STATE)],
    "with a state that it does not bind": [Draft("task.done", state=FUTURE_STATE)],
    "two of them": [
        Draft("lease.taken"),
        Draft("task.done", data=FUTURE_DATA, state=FUTURE_STATE),
    ],
}
NEWER = {
    "a known type": [Draft("checkpoint.deleted", 2, {"ids": ["x"]})],
    "an unknown type": [Draft("task.done", 2)],
    "data of another shape": [Draft("checkpoint.pinned", 2, [1])],
    "a save": [Draft("checkpoint.saved", 2, {"id": "b"}, FUTURE_STATE)],
    "a save without its state": [Draft("checkpoint.saved", 2, {"id": "b"})],
    "an unknown type with a state": [Draft("task.done", 2, state=FUTURE_STATE)],
    "a known type with a state": [Draft("checkpoint.pinned", 2, [1], FUTURE_STATE)],
    "what an event of our version builds on": [
        Draft("checkpoint.saved", 2, SAVED_DATA, FUTURE_STATE),
        Draft("checkpoint.restored", 1, {"checkpoint_id": "b_1_00000000"}),
    ],
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a store with one checkpoint in "job" and one in "other"."""
    with CheckpointManager(tmp_path / "store") as manager:
        manager.save("job", "a", {"x": 1})
        manager.save("other", "a", {"x": 1})
    return tmp_path / "store"


@pytest.mark.parametrize("drafts", UNKNOWN_TYPES.values(), ids=UNKNOWN_TYPES)
def test_an_event_of_an_unknown_type_is_kept_chained_and_ignored(
    root: Path, drafts: list[Draft]
) -> None:
    append_as_newer(root, *drafts)
    before = (root / "journals" / "job.jsonl").read_bytes()
    with CheckpointManager(root) as manager:
        assert [info.step_name for info in manager.list("job")] == ["a"]
        assert manager.history("job")[-1]["type"] == drafts[-1].type
        second = manager.save("job", "b", {"x": 2})
        assert manager.restore("job", second) == {"x": 2}
        assert manager.verify("job", deep=True)[0].ok
    after = (root / "journals" / "job.jsonl").read_bytes()
    assert after.startswith(before)  # I4
    assert len(chain(after)) == 4 + len(drafts)


def test_a_field_that_a_newer_version_added_is_ignored(root: Path) -> None:
    with CheckpointManager(root) as manager:
        (first,) = manager.list("job")
    data = {"checkpoint_id": first.checkpoint_id, "asked_by": "ops"}
    append_as_newer(root, Draft("checkpoint.pinned", data=data))
    with CheckpointManager(root) as manager:
        assert manager.list("job")[0].pinned is True
        assert manager.history("job")[-1]["data"] == data


REFUSED_CALLS: dict[str, Callable[[CheckpointManager], object]] = {
    "list": lambda m: m.list("job"),
    "latest": lambda m: m.latest("job"),
    "current": lambda m: m.current("job"),
    "restore": lambda m: m.restore("job", "x"),
    "get": lambda m: m.get("job", "x"),
    "save": lambda m: m.save("job", "b", {}),
    "delete": lambda m: m.delete("job", "x"),
    "cleanup": lambda m: m.cleanup("job", 1),
}


@pytest.mark.parametrize("is_acknowledged", [True, False], ids=["acked", "crashed"])
@pytest.mark.parametrize("drafts", NEWER.values(), ids=NEWER)
def test_a_newer_event_leaves_its_job_only_a_history_and_every_byte(
    root: Path, drafts: list[Draft], is_acknowledged: bool
) -> None:
    append_as_newer(root, *drafts, is_acknowledged=is_acknowledged)
    before = (root / "journals" / "job.jsonl").read_bytes()
    with CheckpointManager(root) as manager:
        for name, call in REFUSED_CALLS.items():
            with pytest.raises(errors.NewerFormat, match="newer Milepost"):
                pytest.fail(f"{name} answered {call(manager)}")
        types = [event["type"] for event in manager.history("job", after_seq=2)]
        assert types == [draft.type for draft in drafts]
    assert (root / "journals" / "job.jsonl").read_bytes() == before  # I7


def test_a_newer_event_in_one_job_stops_no_other(root: Path) -> None:
    append_as_newer(root, *NEWER["a known type"])
    with CheckpointManager(root) as manager:
        job, other = manager.jobs()
        assert job.damage is not None
        assert (job.damage.code, other.damage) == ("newer_format", None)
        assert [report.ok for report in manager.verify()] == [False, True]
        assert manager.save("other", "b", {})  # I10


def test_a_state_in_an_unknown_codec_refuses_its_restore_and_nothing_else(
    root: Path,
) -> None:
    state = FUTURE_STATE.replace(
        b',"body"', b',"metadata_bytes":2,"metadata":{},"body"'
    )
    data = {**SAVED_DATA, "has_metadata": True}
    append_as_newer(root, Draft("checkpoint.saved", data=data, state=state))
    with CheckpointManager(root) as manager:
        assert [info.step_name for info in manager.list("job")] == ["a", "b"]
        first, second = (info.checkpoint_id for info in manager.list("job"))
        with pytest.raises(errors.NewerFormat):
            manager.restore("job", second)
        assert manager.restore("job", first) == {"x": 1}
        assert manager.save("job", "c", {})


def test_a_store_of_a_newer_format_is_refused_and_left_alone(root: Path) -> None:
    store = json.loads((root / "store.json").read_bytes())
    (root / "store.json").write_text(json.dumps({**store, "format": 2}))
    before = contents(root)
    with CheckpointManager(root) as manager:
        for call in REFUSED_CALLS.values():
            with pytest.raises(errors.NewerFormat, match="format 2"):
                call(manager)
    assert contents(root) == before
