"""Job ids: any printable text is one file inside the folder, and leads back."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from milepost import CheckpointManager, MemoryStorage
from milepost.journal import ids
from milepost.journal.errors import DamagedJournal, InvalidArgument, StorageFailed
from milepost.journal.storage.files.storage import FileStorage

if TYPE_CHECKING:
    from collections.abc import Callable

    Call = Callable[[CheckpointManager, str], object]

# What `str.isprintable` allows: no controls, no surrogates, no blanks but the space.
PRINTABLE = st.text(
    st.characters(codec="utf-8", exclude_categories=("C", "Z")) | st.just(" "),
    min_size=1,
    max_size=128,  # of at most 4 bytes each
)
ODD = [
    *("..", ".", "../../victim", "/", "//x", "/etc/hostname", "C:\\x", "a/b", "a%2Fb"),
    *("%00", "%2e%2e", "%", "~", "a~b", "-rf", "--", ".hidden", "con", "NUL", "lpt1"),
    *(" outer blanks ", " ", "Job", "job", "JOB", "é", "e\u0301", "Кириллица", "🚀"),
    *('a"b', "a\\b", "$(rm -rf ~)", "*", "store.json", "journals", "x.jsonl", "x.tmp"),
    *("x" * 512, "x" * 511 + "y", "é" * 256, "é" * 255 + "ex"),
]
UNPRINTABLE = {
    "bidi override": "a\u202eb",
    "zero width": "a\u200bb",
    "line separator": "a\u2028b",
    "no-break space": "\xa0a",
    "ideographic space": "a\u3000",
    "unassigned": "a\U000e0fffb",
}
BAD = {
    "empty": "",
    "513 bytes": "x" * 513,
    "600 characters": "x" * 600,
    "257 times two bytes": "é" * 257,
    "nul": "a\0b",
    "newline": "a\nb",
    "newline at the end": "a\n",
    "carriage return": "a\rb",
    "escape": "\x1b[31ma",
    "delete": "\x7f",
    "c1 control": "a\x85b",
    "lone surrogate": "a\ud800",
    "number": 5,
    "none": None,
    "bytes": b"a",
    "list": ["a"],
}
CALLS: dict[str, Call] = {
    "save": lambda m, job: m.save(job, "step", {}),
    "list": lambda m, job: m.list(job),
    "restore": lambda m, job: m.restore(job, "x"),
    "delete": lambda m, job: m.delete(job, "x"),
    "cleanup": lambda m, job: m.cleanup(job),
    "get": lambda m, job: m.get(job, "x"),
    "latest": lambda m, job: m.latest(job),
    "current": lambda m, job: m.current(job),
    "page": lambda m, job: m.page(job, limit=1),
    "job": lambda m, job: m.job(job),
    "history": lambda m, job: m.history(job),
    "state_at": lambda m, job: m.state_at(job, 1),
    "diff": lambda m, job: m.diff(job, "x", "y"),
    "verify": lambda m, job: m.verify(job),
    "seq": lambda m, job: m.seq(job),
    "undelete": lambda m, job: m.undelete(job, "x"),
    "pin": lambda m, job: m.pin(job, "x"),
    "unpin": lambda m, job: m.unpin(job, "x"),
    "fork": lambda m, job: m.fork(job, "x", "new"),
    "fork to": lambda m, job: m.fork("source", m.save("source", "s", {}), job),
}


def inventory(folder: Path) -> dict[str, bytes | None]:
    """Return every name below `folder`, with the bytes of what is a file."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shelf") / "store"


@given(PRINTABLE)
def test_any_printable_id_becomes_one_plain_name_that_leads_back(job_id: str) -> None:
    name = ids.file_name(job_id)
    assert re.fullmatch("[A-Za-z0-9_%~-]{1,200}", name)
    plain = quote(job_id, safe="").replace(".", "%2E").replace("~", "%7E")
    if len(plain) <= 200:
        assert (name, ids.job_of(name)) == (plain, job_id)
    else:
        assert (name[:151], ids.job_of(name)) == (f"{plain[:150]}~", None)


@given(st.sampled_from(["", "x" * 180, "é" * 60]), PRINTABLE, PRINTABLE)
def test_two_ids_never_share_a_name_cut_or_not(start: str, one: str, two: str) -> None:
    assume(one != two)
    assert ids.file_name(start + one) != ids.file_name(start + two)


@given(PRINTABLE)
@settings(max_examples=50, deadline=None)
def test_an_id_comes_back_from_its_file_and_from_its_first_event(
    shelf: Path, job_id: str
) -> None:
    with CheckpointManager(shelf, durability="never") as manager:
        manager.save(job_id, "step", {})
    journal = shelf / "journals" / f"{ids.file_name(job_id)}.jsonl"
    opened = json.loads(journal.read_bytes().partition(b"\n")[0])
    assert opened["data"]["job"] == job_id
    assert job_id in FileStorage(shelf).jobs()


def test_odd_ids_are_jobs_of_their_own_for_every_later_process(tmp_path: Path) -> None:
    with CheckpointManager(tmp_path) as writer:
        for job_id in ODD:
            writer.save(job_id, "step", {"mine": job_id})
    with CheckpointManager(tmp_path) as reader:
        assert [job.job_id for job in reader.jobs()] == sorted(ODD)
        for job_id in ODD:
            (only,) = reader.list(job_id)
            assert reader.restore(job_id, only.checkpoint_id) == {"mine": job_id}


def test_no_id_ever_touches_anything_outside_the_folder(tmp_path: Path) -> None:
    (tmp_path / "victim").write_bytes(b"mine")
    (tmp_path / "victim.jsonl").write_bytes(b"mine")
    before = inventory(tmp_path)
    with CheckpointManager(tmp_path / "in" / "store") as manager:
        for job_id in [*ODD, str(tmp_path / "victim"), "../../victim.jsonl"]:
            gone, _ = (manager.save(job_id, "../../victim", {}) for _ in range(2))
            manager.delete(job_id, gone)
            manager.cleanup(job_id, 1)
    after = inventory(tmp_path)
    assert before == {k: v for k, v in after.items() if not k.startswith("in")}
    tops = {path.partition("/")[0] for path in inventory(tmp_path / "in" / "store")}
    assert tops == {"store.json", "journals", "heads", "records"}


@pytest.mark.parametrize("job_id", [*BAD.values(), *UNPRINTABLE.values()], ids=repr)
def test_a_job_of_a_bad_id_is_refused_in_one_line_and_leaves_no_trace(
    tmp_path: Path, job_id: str
) -> None:
    manager = CheckpointManager(tmp_path / "store")
    with manager, pytest.raises(InvalidArgument, match="job_id") as caught:
        manager.save(job_id, "step", {})
    assert str(caught.value).isprintable()
    assert not inventory(tmp_path / "store")


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("job_id", ["a\nb", "a\0", "x" * 513, "", "\ud800", 5])
def test_every_call_refuses_what_no_version_would_ever_create(
    call: Call, job_id: str
) -> None:
    manager = CheckpointManager(storage=MemoryStorage())
    with pytest.raises(InvalidArgument, match="job_id"):
        call(manager, job_id)


@pytest.mark.parametrize("job_id", UNPRINTABLE.values(), ids=UNPRINTABLE)
def test_what_another_unicode_may_print_can_still_be_asked_for(job_id: str) -> None:
    # "Printable" changes with the Unicode version, so an old job must stay in reach.
    manager = CheckpointManager(storage=MemoryStorage())
    assert manager.list(job_id) == []
    assert manager.job(job_id) is None


@pytest.mark.parametrize("place", ["journals/job.jsonl", "heads/job"])
def test_a_planted_link_is_refused_untouched_and_stops_no_other_job(
    tmp_path: Path, place: str
) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    with CheckpointManager(tmp_path / "store") as manager:
        manager.save("first", "step", {})
        (tmp_path / "store" / place).symlink_to(victim)
        with pytest.raises((StorageFailed, DamagedJournal)):
            manager.save("job", "step", {})
        assert manager.save("other", "step", {})  # I10
    assert victim.read_bytes() == b"mine"


def test_a_link_to_nowhere_creates_nothing_there(tmp_path: Path) -> None:
    with CheckpointManager(tmp_path / "store") as manager:
        manager.save("first", "step", {})
        for place in ("journals/job.jsonl", "heads/job"):
            (tmp_path / "store" / place).symlink_to(tmp_path / "nowhere")
        with pytest.raises((StorageFailed, DamagedJournal)):
            manager.save("job", "step", {})
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("found", [b'"job":"', b'"type":"', b'"seq":', b'{"v"'])
def test_a_flipped_bit_in_the_first_event_hides_no_job_whose_name_was_cut(
    tmp_path: Path, found: bytes
) -> None:
    with CheckpointManager(tmp_path) as manager:
        manager.save("é" * 200, "step", {})
    (journal,) = (tmp_path / "journals").iterdir()
    data = bytearray(journal.read_bytes())
    data[data.index(found) + len(found)] ^= 1
    journal.write_bytes(data)
    with CheckpointManager(tmp_path) as manager:
        assert [job.damage is not None for job in manager.jobs()] == [True]
        assert [report.ok for report in manager.verify()] == [False]


def test_another_jobs_journal_put_in_place_is_not_taken_for_ours(
    tmp_path: Path,
) -> None:
    with CheckpointManager(tmp_path) as manager:
        manager.save("mine", "step", {"whose": "mine"})
        manager.save("theirs", "step", {"whose": "theirs"})
    for folder, ending in (("journals", ".jsonl"), ("heads", "")):
        theirs = tmp_path / folder / f"theirs{ending}"
        (tmp_path / folder / f"mine{ending}").write_bytes(theirs.read_bytes())
    with CheckpointManager(tmp_path) as manager:
        with pytest.raises(DamagedJournal, match="'theirs'"):
            manager.list("mine")
        assert len(manager.list("theirs")) == 1  # I10


@given(st.text(min_size=1, max_size=128))
@example("x" * 512)
@example("../..")
@example("---")
def test_a_checkpoint_id_is_one_safe_segment_whatever_the_step_is_called(
    step_name: str,
) -> None:
    manager = CheckpointManager(storage=MemoryStorage())
    checkpoint_id = manager.save("job", step_name, {})
    assert re.fullmatch(r"[A-Za-z0-9._-]{1,64}_\d+_[0-9a-f]{8}", checkpoint_id)
    assert manager.list("job")[0].step_name == step_name


@pytest.mark.parametrize("step_name", ["", "x" * 513, "\ud800", 5, None])
def test_a_step_name_of_no_or_too_many_bytes_is_refused(step_name: str) -> None:
    manager = CheckpointManager(storage=MemoryStorage())
    with pytest.raises(InvalidArgument, match="step_name"):
        manager.save("job", step_name, {})
    assert manager.seq("job") == 0


FORGED = 'x","hash":"' + "0" * 64 + '"}\n{"v":1,"seq":9}'


def test_text_that_looks_like_the_end_of_a_line_forges_nothing(tmp_path: Path) -> None:
    with CheckpointManager(tmp_path, actor=FORGED) as manager:
        checkpoint_id = manager.save(
            "job",
            FORGED,
            {FORGED: FORGED},
            metadata={FORGED: FORGED},
            tags=[FORGED],
            workflow_name=FORGED,
            idempotency_key=FORGED,
        )
        manager.delete("job", checkpoint_id, reason=FORGED)
    journal = (tmp_path / "journals" / "job.jsonl").read_bytes()
    assert [line[2:3] for line in journal.split(b"\n")] == [b"v", b"s", b"v", b"v", b""]
    with CheckpointManager(tmp_path) as manager:
        assert manager.verify("job", deep=True)[0].ok
        manager.undelete("job", checkpoint_id)
        assert manager.restore("job", checkpoint_id) == {FORGED: FORGED}
