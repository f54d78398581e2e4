"""Threads are jobs: shown as plain data, kept by policies, undone, encrypted."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from langchain_core.messages import AIMessage

from milepost import CheckpointManager, Key, KeyRing, Policy, errors
from milepost.langgraph import MilepostSaver
from tests.langgraph.graphs import CONFIG, SCRIPTS, Open
from tests.langgraph.threads import checkpoint_of, config_of, ids, put
from tests.support.cli import call

if TYPE_CHECKING:
    from collections.abc import Iterator

THREAD = CONFIG["configurable"]["thread_id"]
KEEP_ONE = Policy(keep_last=1, max_remove_fraction=1)


@pytest.fixture
def saver(root: Path) -> Iterator[MilepostSaver]:
    with MilepostSaver(root) as made:
        yield made


def test_a_state_is_shown_as_plain_data_and_its_objects_are_named(
    saver: MilepostSaver,
) -> None:
    values = {"messages": [AIMessage("hi", id="m")], "raw": b"\0", "path": Path("/x")}
    saver.put(config_of(), checkpoint_of("1", **values), {"step": 1}, {})
    found = saver.manager.get("t", "1")
    shown = found.state["channel_values"]
    (message,) = shown["messages"]
    assert message["$object"] == "langchain_core.messages.ai.AIMessage"
    assert message["value"]["content"] == "hi"
    assert shown["raw"] == {"$bytes": "AA=="}
    assert shown["path"]["$object"] == f"{type(Path()).__module__}.PosixPath"
    assert found.info.metadata == {"step": 1}


def test_a_process_without_langgraph_shows_a_thread(
    saver: MilepostSaver, root: Path
) -> None:
    saver.put(config_of(), checkpoint_of("1", n=AIMessage("hi")), {}, {})
    program = """
import sys
from milepost import CheckpointManager
state = CheckpointManager(sys.argv[1]).get("t", "1").state
assert state["channel_values"]["n"]["value"]["content"] == "hi"
assert not {"langgraph", "langchain_core"} & {*sys.modules}
"""
    subprocess.run([sys.executable, "-c", program, root], check=True)


def test_the_command_line_shows_a_thread(folder: Path) -> None:
    with MilepostSaver("checkpoints") as saver:
        config = put(saver, "1", step=3)
        saver.put_writes(config, [("a", 1)], "task")
    assert "1" in call("list", "t").out
    assert '"channel_values"' in call("show", "t").out
    assert "writes.saved" in call("log", "t", "--json").out
    assert call("verify", "--deep").code == 0
    refused = call("restore", "t")
    assert refused.code == 5
    assert "holds the checkpoints of a LangGraph thread" in refused.err
    assert "invoke the graph with checkpoint_id" in refused.err
    assert (folder / "checkpoints").is_dir()


def test_states_and_threads_never_share_a_job(saver: MilepostSaver) -> None:
    put(saver, "1")
    with pytest.raises(errors.WrongKind, match="'t' holds the checkpoints of a Lang"):
        saver.manager.save("t", "step", {})
    with pytest.raises(errors.WrongKind):
        saver.manager.restore("t", "1")
    saver.manager.save("etl", "step", {})
    with pytest.raises(errors.WrongKind, match="'etl' holds states"):
        put(saver, "1", thread="etl")
    with pytest.raises(errors.WrongKind):
        saver.put_writes(config_of("etl", checkpoint_id="1"), [("a", 1)], "task")


def test_a_deleted_thread_comes_back_with_its_writes(saver: MilepostSaver) -> None:
    config = put(saver, "1")
    saver.put_writes(config, [("a", 1)], "task")
    before = saver.get_tuple(config_of())
    saver.delete_thread("t")
    assert saver.get_tuple(config_of()) is None
    saver.manager.undelete("t", "1")
    assert saver.get_tuple(config_of()) == before


def test_one_whose_place_is_taken_does_not_come_back(saver: MilepostSaver) -> None:
    put(saver, "1", step=1)
    saver.delete_thread("t")
    put(saver, "1", step=2)
    with pytest.raises(errors.Conflict, match="has taken the place"):
        saver.manager.undelete("t", "1")


def test_a_hold_refuses_every_removal(saver: MilepostSaver) -> None:
    put(saver, "1", run_id="r")
    put(saver, "2")
    saver.manager.hold("t", "1")
    for remove in (
        lambda: saver.delete_thread("t"),
        lambda: saver.prune(["t"]),
        lambda: saver.delete_for_runs(["r"]),
    ):
        with pytest.raises(errors.OnHold):
            remove()
    assert ids(saver.list(None)) == ["2", "1"]


def test_the_bytes_of_a_deleted_thread_leave_the_disk(
    saver: MilepostSaver, root: Path
) -> None:
    config = put(saver, "1")
    saver.put_writes(config, [("a", "x" * 50_000)], "task")
    saver.put_writes(config_of(checkpoint_id="9"), [("a", "y" * 50_000)], "task")
    saver.delete_thread("t")
    saver.manager.trash_seconds = 0
    saver.manager.compact("t")
    lines = (root / "journals" / "t.jsonl").read_bytes().splitlines()
    assert not [line for line in lines if line.startswith(b'{"state"')]
    with MilepostSaver(root) as again:  # and the journal opens
        assert again.get_tuple(config_of()) is None
        assert again.manager.verify("t", deep=True)[0].ok


def test_a_policy_keeps_the_ancestors_that_a_delta_channel_needs(
    saver: MilepostSaver,
) -> None:
    script, build = SCRIPTS["delta channel"]
    run = Open(saver, build)
    for _ in script(run):
        pass
    manager = saver.manager
    plan = manager.plan(THREAD, KEEP_ONE)
    reasons = [text for job in plan.jobs for v in job.keep for text in v.reasons]
    assert any("needed by" in text and "for notes" in text for text in reasons)
    (chosen,) = [
        v.checkpoint_id
        for job in plan.jobs
        for v in job.keep
        if "needed by" in v.reasons[0]
    ][:1]
    with pytest.raises(errors.Protected, match="needed by"):
        manager.delete(THREAD, chosen)
    said = manager.explain(THREAD, chosen, KEEP_ONE)
    assert any("needed by" in ruling.text for ruling in said)


def test_encryption_covers_values_metadata_and_writes(root: Path) -> None:
    with (
        CheckpointManager(root, keys=KeyRing([Key.new("k")])) as manager,
        MilepostSaver(manager) as saver,
    ):
        checkpoint = checkpoint_of("1", secret="hidden value" * 300)
        config = saver.put(config_of(user="hidden user"), checkpoint, {}, {})
        saver.put_writes(config, [("a", "hidden write")], "task")
        found: Any = saver.get_tuple(config_of())
        assert found.checkpoint == checkpoint
        assert found.metadata == {"user": "hidden user"}
        assert found.pending_writes == [("task", "a", "hidden write")]
    stored = b"".join(p.read_bytes() for p in root.rglob("*") if p.is_file())
    assert b"hidden" not in stored


def test_a_snapshot_opens_a_thread_as_its_events_do(root: Path) -> None:
    with MilepostSaver(root) as saver:
        script, build = SCRIPTS["edited delta channel"]
        for _ in script(Open(saver, build)):
            pass
        for number in range(1100):
            config = put(saver, f"{number:05}", run_id="r")
        saver.put_writes(config_of(checkpoint_id="x"), [("a", 1)], "early")
        saver.put_writes(config, [("a", 1)], "task")
        saver.delete_for_runs(["r"])
        saver.manager.undelete("t", "00007")
        before = [*saver.list(None)]
    assert [*(root / "snapshots").iterdir()]
    with MilepostSaver(root) as saver:
        assert [*saver.list(None)] == before
        put(saver, "x")
        (early,) = saver.list(config_of(checkpoint_id="x"))
        assert early.pending_writes == [("early", "a", 1)]


def test_a_pinned_checkpoint_keeps_its_delta_channel_through_a_policy(
    saver: MilepostSaver,
) -> None:
    script, build = SCRIPTS["delta channel"]
    run = Open(saver, build)
    for _ in script(run):
        pass
    manager = saver.manager
    lacking = [ref for ref in manager.threads.refs(THREAD) if ref.lacks]
    pinned = lacking[-2]  # long before the snapshots that the newest one needs
    manager.pin(THREAD, pinned.checkpoint_id)
    config: Any = config_of(THREAD, checkpoint_id=pinned.id)
    before = run.graph.get_state(config).values
    assert before["notes"]
    manager.apply(manager.plan(THREAD, KEEP_ONE))
    manager.trash_seconds = 0
    manager.compact(THREAD)
    assert run.graph.get_state(config).values == before
    assert len(manager.list(THREAD)) < 10


def test_a_copy_has_checkpoint_ids_of_its_own_and_names_its_source(
    saver: MilepostSaver,
) -> None:
    saver.put_writes(config_of(checkpoint_id="1"), [("a", 1)], "task")
    put(saver, "1")
    saver.copy_thread("t", "copy")
    opened = saver.manager.history("copy")[0]["data"]
    assert opened["copied_from"] == {"job": "t", "seq": 3}
    (copied,) = saver.manager.list("copy")
    assert copied.checkpoint_id != "1"
    assert saver.manager.find("1").job_id == "t"
    assert saver.manager.find(copied.checkpoint_id).job_id == "copy"
    found = saver.get_tuple(config_of("copy", checkpoint_id="1"))
    assert found is not None
    assert found.checkpoint["id"] == "1"


def test_erasing_a_thread_erases_writes_whose_checkpoint_never_came(
    saver: MilepostSaver, root: Path
) -> None:
    put(saver, "1")
    saver.put_writes(config_of(checkpoint_id="2"), [("a", "s3cret" * 9)], "task")
    journal = root / "journals" / "t.jsonl"
    assert journal.read_bytes().count(b'{"state":') == 2
    saver.manager.erase("t")
    assert b'{"state":' not in journal.read_bytes()
    assert saver.manager.verify("t", deep=True)[0].ok
