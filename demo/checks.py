"""The demo's checks: pure functions from observed facts to results."""

from __future__ import annotations

import hashlib
import signal
from typing import TYPE_CHECKING, Any, NamedTuple

from demo.history import removals, saved_ids

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from demo.history import Event


class Check(NamedTuple):
    """The result of one check: the promise, and the compared values."""

    is_ok: bool
    promise: str
    compared: str


def killed_half_way(status: int, files_done: int, files_total: int) -> Check:
    """Check that SIGKILL ended the job, with a part of its work saved."""
    name = signal.Signals(-status).name if status < 0 else f"status {status}"
    return Check(
        status == -signal.SIGKILL and 0 < files_done < files_total,
        "the job was killed half way",
        f"{name}; its last checkpoint holds {files_done:,} of {files_total:,} files",
    )


def resumed(restored_id: str, job_status: str, events: Sequence[Event]) -> Check:
    """Check that the resumed job continued from the restored checkpoint."""
    seq = saved_ids(events)[restored_id]
    restores = [e["seq"] for e in events if e["type"] == "checkpoint.restored"]
    after = [
        e["data"]["parent"]
        for e in events
        if e["type"] == "checkpoint.saved" and restores and e["seq"] > restores[-1]
    ]
    child = (
        f"the next checkpoint goes on from #{after[0]}" if after else "none followed"
    )
    return Check(
        job_status == "resumed" and after[:1] == [seq],
        "the executor started it again from the restored checkpoint",
        f"restored #{seq}, answer {job_status!r}; {child}",
    )


def only_the_rest(counted: int, files_done: int, files_total: int) -> Check:
    """Check that no file was counted twice."""
    rest = files_total - files_done
    return Check(
        counted == rest,
        "it did only what was left",
        f"counted {counted:,} files, {rest:,} were left",
    )


def same_bytes(promise: str, got: bytes, expected: bytes) -> Check:
    """Check that two results are byte-identical."""
    if got == expected:
        digest = hashlib.sha256(got).hexdigest()
        return Check(True, promise, f"{len(got):,} bytes, sha256 {digest[:16]}…")
    pairs = enumerate(zip(got, expected, strict=False))
    shorter = min(len(got), len(expected))
    at = next((i for i, (a, b) in pairs if a != b), shorter)
    sizes = f"{len(got):,} and {len(expected):,} bytes"
    return Check(False, promise, f"{sizes}, different from byte {at:,} on")


def retained(
    events: Sequence[Event], live_ids: Collection[str], *, policy: str, keep_last: int
) -> Check:
    """Check that scheduled runs removed exactly what the policy does not keep."""
    saved, runs = list(saved_ids(events)), removals(events)
    removed = [checkpoint_id for run in runs for checkpoint_id in run.ids]
    return Check(
        len(removed) > 0
        and all(run.policy == policy for run in runs)
        and list(live_ids) == saved[-keep_last:]
        and sorted(removed) == sorted(saved[:-keep_last]),
        "scheduled retention deleted by policy",
        f"{policy} removed {len(removed)} of {len(saved)} checkpoints, "
        f"{len(live_ids)} are left; runs that found some: {len(runs)}",
    )


def verified(status: int, report: dict[str, Any]) -> Check:
    """Check the result of `milepost verify --deep --json`."""
    jobs = (report.get("data") or {}).get("jobs", [])
    problems = [job["problem"]["detail"] for job in jobs if not job["ok"]]
    if report.get("error") and not problems:
        problems.append(report["error"]["detail"])
    events = sum(job["events"] for job in jobs)
    return Check(
        status == 0 and bool(jobs) and not problems,
        "milepost verify finds the journal sound",
        "; ".join(problems) or f"{events} events chained, every state as it was saved",
    )
