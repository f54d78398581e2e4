"""Write the golden store of the current schema, which every later version must read.

    python -m tests.golden.make             # writes v<SCHEMA_VERSION>/ and its .json
    python -m tests.golden.make --describe  # only the .json files, from the bytes

A store is written once, with the first release of its schema, and committed as bytes:
from then on `v1/` stays as it is.  Until that release a new type of event belongs into
it: let `write` bring it about, remove `v1/` and `v1.json`, run the script.  Raising
`SCHEMA_VERSION` asks for a store of its own and for lines in
`journal/events/upcasts.py`.

What a store amounts to (`v1.json`) may be told in more words later, say by a new field
of `CheckpointInfo`: then `--describe`, and read the difference before you commit it.
Clock and randomness are fixed, so a run today shows whether today's code still writes
the same.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import shutil
import sys
import tempfile
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

from milepost import CheckpointManager, CheckpointTrigger, Policy, Retry
from milepost.journal.events.vocabulary import SCHEMA_VERSION
from milepost.journal.threads import Put
from tests.support.clock import Clock

if TYPE_CHECKING:
    from collections.abc import Iterator

    from milepost import Outcome, Run
LONG = "long/" + "é" * 120


@contextlib.contextmanager
def fixed_randomness() -> Iterator[None]:
    """Replace `os.urandom` by a sequence that is the same in every run."""
    counter = itertools.count()

    def urandom(size: int) -> bytes:
        return hashlib.shake_128(str(next(counter)).encode()).digest(size)

    with mock.patch("os.urandom", urandom):
        yield


def write(folder: Path) -> None:
    """Write a store that holds every type of event, and ids that make odd names."""
    clock = Clock()
    manager = CheckpointManager(folder, actor="lib:golden@host", clock=clock)
    with fixed_randomness(), manager:
        first = _save_everything(manager)
        clock.turn(minutes=1)
        _change_everything(manager, first, clock)
        manager.fork("orders", first, "orders/fork ñ")
        manager.save(LONG, "../step\nwith a line", {"text": 'a","hash":"b'})
        _tear(folder / "journals" / "torn.jsonl", manager)
        _grow(manager)
        _erase(manager)
        _work(manager, clock)
        _thread(manager)


def _save_everything(manager: CheckpointManager) -> str:
    return manager.save(
        "orders",
        "extract",
        {"rows": 1200, "at": 0.1, "big": 2**64 - 1, "ø": [None, True, -0.0, ""]},
        metadata={"body": ',"body":{}', "metadata": {"by": 1}},
        tags=("nightly", "ünïcode"),
        pinned=True,
        workflow_name="etl",
        workflow_version="1.4",
        idempotency_key="extract-1",
    )


def _change_everything(manager: CheckpointManager, first: str, clock: Clock) -> None:
    second = manager.save("orders", "transform", {"rows": 1100})
    manager.register_migration("etl", "1.4", "1.5", dict)
    manager.restore("orders", first, actor="token:ops")
    clock.turn(minutes=1)
    manager.save("orders", "transform", {"rows": 1150})
    manager.delete("orders", second, reason="wrong branch")
    manager.undelete("orders", second)
    manager.pin("orders", second, reason="for the audit")
    manager.unpin("orders", second)
    manager.hold("orders", second, reason="case 4711", actor="token:legal")
    manager.hold("orders", first)
    manager.release("orders", first, reason="case closed")
    for rows in range(4):
        clock.turn(minutes=1)
        manager.save("orders", "load", {"rows": rows})
    manager.save("orders", "publish", {"tried": 3}, failed=True)
    manager.complete("orders", failed=True, reason="no publisher")
    manager.cleanup("orders", 4)
    manager.apply(manager.plan("orders", Policy(name="nightly", keep_last=2)))


def _tear(journal: Path, manager: CheckpointManager) -> None:
    """Leave a torn tail, as a crash would, and have it repaired."""
    manager.save("torn", "only", {"kept": True})
    with journal.open("ab") as file:
        file.write(b'{"state":3,"codec":"json","sal')
    manager.list("torn")


def _grow(manager: CheckpointManager) -> None:
    """Save states that differ a little from each other, and let some of them go."""
    text = " ".join(hashlib.sha256(str(n).encode()).hexdigest() for n in range(40))
    ids = [
        manager.save("growing", "turn", {"n": n, "text": text, "said": ["…"] * n})
        for n in range(8)
    ]
    manager.delete("growing", ids[1])
    manager.delete("growing", ids[-1])  # the current one
    manager.delete("growing", ids[2], purge=True, reason="asked to")


def _erase(manager: CheckpointManager) -> None:
    for n in range(2):
        manager.save("erased", "step", {"secret": n})
    manager.erase("erased", reason="customer left")
    manager.save("erased", "step", {"n": 3})


def _work(manager: CheckpointManager, clock: Clock) -> None:
    """Run a workflow through every event that it can have."""
    run = manager.start_workflow_execution("wf", "ingest", {"url": "https://x.org"})
    name = run.execution_id
    manager.create_checkpoint(name, "download", "fetcher", {"rows": None})
    manager.complete_checkpoint(name, "download", {"rows": 7})
    manager.create_checkpoint(name, "clean", "cleaner", {"rows": 7})
    failed = {"error": "no rule"}
    manager.complete_checkpoint(name, "clean", failed, False, on_step_failure="keep")
    manager.signal(name, "payment", {"paid": 3})
    manager.consume_signal(name, "payment")
    asked = manager.request_approval(
        name,
        {"rows": 7},
        approvers=["token:ann", "token:bob"],
        required=2,
        deadline=clock.now + timedelta(hours=2),
        remind_at=clock.now + timedelta(hours=1),
        on_reject="continue",
    )
    clock.turn(hours=1)
    manager.workflows.remind(asked.approval_id, actor="worker")
    for actor in ("token:ann", "token:bob"):
        decide = partial(manager.decide, subject_digest=asked.subject_digest)
        decide(asked.approval_id, "approve", comment="ok", actor=actor)
    manager.create_checkpoint(name, "publish", "writer", {"rows": 7}, True)
    manager.approve_checkpoint(name, "publish", False, actor="token:ann")
    manager.resume_execution(name)
    late = manager.request_approval(name, {}, deadline=clock.now + timedelta(hours=1))
    clock.turn(hours=1)
    manager.workflows.expire_approval(late.approval_id, actor="worker")
    manager.resume_execution(name)
    manager.create_checkpoint(name, "upload", "writer", {})
    expire = partial(manager.workflows.expire, actor="worker", reason="it ended")
    expire(name, manager.list_executions()[0]["attempt"])
    manager.fail_execution(name, "no space")
    manager.resume_execution(name, retry=True, reason="space was freed")
    manager.acquire_lease(name)
    manager.request_approval(name, {"sure": False})
    manager.cancel_execution(name, reason="not needed")
    again = manager.start_workflow_execution("wf", "ingest", workflow_version="2")
    manager.complete_execution(again.execution_id, {"ok": True})
    _steps(manager, clock)
    _trigger(manager)


def _thread(manager: CheckpointManager) -> None:
    """Put checkpoints and writes of a LangGraph thread, and remove some."""
    value = ("bytes", b"\0" + bytes(range(256)) * 16)
    threads = manager.threads
    threads.put_writes("thread", "", "1", "task", "", [(0, "a", value)])
    root = Put("", "1", None, "input", value, {"step": -1}, "run", None, ())
    threads.put("thread", root)
    threads.put("thread", root._replace(metadata=("bytes", b"m"), run_id=None))
    threads.put_writes(
        "thread", "", "1", "task", "~1", [(0, "a", value), (-3, "__interrupt__", value)]
    )
    child = root._replace(id="2/odd", parent_id="1", source="loop", lacks=("a",))
    threads.put("thread", child)
    call = root._replace(ns="node:1", parent_id="elsewhere", root_id="2/odd")
    threads.put("thread", call)
    threads.prune(["thread"], "keep_latest")
    threads.put_writes("gone", "", "1", "task", "", [(0, "a", value)])
    threads.put("gone", root._replace(id="0"))
    threads.delete("gone")


def _trigger(manager: CheckpointManager) -> None:
    """Let triggers save, remove, and fail."""
    manager.add_trigger(CheckpointTrigger(on=["execution.started"], keep_last=1))
    impossible = CheckpointTrigger(
        on=["execution.completed"], state=lambda _: {"not": {1}}
    )
    manager.add_trigger(impossible)
    for _ in range(2):
        run = manager.start_workflow_execution("wf", "ingest", {"url": "https://x.org"})
        manager.complete_execution(run.execution_id)


def _steps(manager: CheckpointManager, clock: Clock) -> None:
    """Run durable steps of every kind, with waits, and fork the execution."""
    tried: list[int] = []

    def flaky() -> int:
        tried.append(1)
        if len(tried) == 1:
            raise OSError("busy")
        return len(tried)

    @manager.workflow("region")
    def region(run: Run) -> str:
        run.sleep("settle", days=1)
        return "eu"

    @manager.workflow("durable", version="2")
    def durable(run: Run, day: int) -> None:
        if not tried:
            run.step("old", lambda: f"day {day}, unused later")
        run.step("charge", lambda: {7}, once=True)
        run.step("flaky", flaky, retry=Retry(2, delay=60, jitter=0))
        run.signal("paid", timeout=timedelta(hours=1))
        run.child("eu", region, job_id="durable/eu")
        run.approval("publish", {"rows": 7})

    def go_on() -> Outcome:
        return manager.run(durable, job_id="durable", day=3)

    name = go_on().execution_id  # until the next try of `flaky`
    clock.turn(minutes=2)
    go_on()  # until the signal
    manager.signal(name, "paid", {"by": "card"})
    go_on()  # until the child has ended
    clock.turn(days=2)
    manager.run(region, job_id="durable/eu")
    go_on()  # until the approval
    (asked,) = manager.approvals(job_id="durable")
    digest = asked.subject_digest
    manager.decide(
        asked.approval_id, "approve", subject_digest=digest, actor="token:ann"
    )
    go_on()
    fork = partial(manager.fork_execution, name, "durable/fork")
    fork(before="eu", changes={"flaky": 9})


def describe(folder: Path) -> dict[str, Any]:
    """Return all that the store in `folder` amounts to, as JSON values."""
    with CheckpointManager(folder) as manager:
        jobs = {job.job_id: job._asdict() for job in manager.jobs()}
        for job_id, job in jobs.items():
            infos = manager.list(job_id)
            job["infos"] = [info._asdict() for info in infos]
            for info in job["infos"]:
                assert info.pop("metadata_problem") is None
            job["states"] = [manager.get(job_id, i.checkpoint_id).state for i in infos]
            job["history"] = manager.history(job_id)
            job["executions"] = manager.list_executions(job_id=job_id)
            job["steps"] = [
                manager.get_checkpoint_history(execution["execution_id"])
                for execution in job["executions"]
            ]
            asked = manager.approvals("all", job_id=job_id)
            job["approvals"] = [
                manager.get_approval(item.approval_id)._asdict() for item in asked
            ]
        described: dict[str, Any] = json.loads(json.dumps(jobs, default=str))
        return described


def record(store: Path) -> None:
    """Write down what the store amounts to, beside it; the store is only read."""
    with tempfile.TemporaryDirectory() as folder:
        copied = shutil.copytree(store, Path(folder) / store.name)
        text = json.dumps(describe(copied), indent=1, ensure_ascii=False)
    store.with_name(f"{store.name}.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    target = Path(__file__).parent
    newest = target / f"v{SCHEMA_VERSION}"
    if sys.argv[1:] != ["--describe"]:
        if newest.exists():
            sys.exit(f"{newest} is there: golden files are written once")
        write(newest)
    for found in target.glob("v*[0-9]"):
        record(found)
