"""What the demo shows of a job's events: removals, the table, the checks.  Pure."""

from __future__ import annotations

import hashlib
import signal
from typing import Any

Event = dict[str, Any]
# Whether it holds, and a line with the promise and the compared values.
Check = tuple[bool, str]


def removals(events: list[Event]) -> list[tuple[list[str], str]]:
    """Return the removed ids and the reason of each run of scheduled retention."""
    found = []
    for event in events:
        if (event["type"], event["actor"]) == ("checkpoints.cleaned", "worker:cleanup"):
            ids, whys = zip(*event["data"]["removed"].items(), strict=True)
            why = whys[0].removeprefix("no rule keeps it; ")
            more = " (and so on)" if len({*whys}) > 1 else ""
            found.append(([*ids], f"{event['data']['policy']['name']}: {why}{more}"))
    return found


def saved_ids(events: list[Event]) -> dict[str, int]:
    """Return the id and seq of every checkpoint ever saved, oldest first."""
    saves = [event for event in events if event["type"] == "checkpoint.saved"]
    return {event["data"]["checkpoint_id"]: event["seq"] for event in saves}


def row(event: Event, seqs: dict[str, int]) -> tuple[str, ...]:
    """Return the seq, time and actor of an event, and what it did and why."""
    data = event["data"]
    named = f"#{seqs[data['checkpoint_id']]}" if "checkpoint_id" in data else ""
    match event["type"]:
        case "checkpoint.saved":
            parent = data["parent"]
            what = f"saved {data['step_name']}"
            why = f"goes on from #{parent}" if parent else "starts from nothing"
        case "checkpoint.restored":
            what, why = f"restored {named}", "to resume the job from there"
        case "checkpoints.cleaned":
            ((ids, why),) = removals([event])
            gone = sorted(seqs[each] for each in ids)
            what = f"removed {', '.join(f'#{seq}' for seq in gone)}"
        case other:
            what = f"{other.removeprefix('checkpoint.')} {named}".rstrip()
            why = data.get("reason", "")
    return str(event["seq"]), event["at"][11:19], event["actor"], what, why


def killed_half_way(status: int, done: int, total: int) -> Check:
    """Check that SIGKILL ended the job, with a part of its work saved."""
    holds = f"its last checkpoint holds {done:,} of {total:,} files"
    how = "SIGKILL" if status == -signal.SIGKILL else f"status {status}"
    is_ok = how == "SIGKILL" and 0 < done < total
    return is_ok, f"the job was killed half way: {how}; {holds}"


def only_the_rest(counted: int, left: int) -> Check:
    """Check that no file was counted twice."""
    compared = f"counted {counted:,} files, {left:,} were left"
    return counted == left, f"it did only what was left: {compared}"


def resumed(events: list[Event], restored_id: str, job_status: str) -> Check:
    """Check that the resumed job continued from the restored checkpoint."""
    seq = saved_ids(events)[restored_id]
    types = [event["type"] for event in events]
    after = events[types.index("checkpoint.restored") :]
    parents = [e["data"]["parent"] for e in after if e["type"] == "checkpoint.saved"]
    child = f"goes on from #{parents[0]}" if parents else "does not exist"
    compared = f"restored #{seq}, answer {job_status!r}; the next checkpoint {child}"
    promise = "the executor started it again from the restored checkpoint"
    is_ok = job_status == "resumed" and parents[:1] == [seq]
    return is_ok, f"{promise}: {compared}"


def same(what: str, got: bytes, expected: bytes) -> Check:
    """Check that two results are byte-identical."""
    if got == expected:
        digest = hashlib.sha256(got).hexdigest()
        return True, f"{what}: {len(got):,} bytes, sha256 {digest[:16]}…"
    pairs = enumerate(zip(got, expected, strict=False))
    at = next((n for n, (a, b) in pairs if a != b), min(len(got), len(expected)))
    sizes = f"{len(got):,} and {len(expected):,} bytes"
    return False, f"{what}: {sizes}, different from byte {at:,} on"


def retained(events: list[Event], live: list[str], policy: str, keep: int) -> Check:
    """Check that scheduled runs removed exactly what the policy does not keep."""
    saved, runs = [*saved_ids(events)], removals(events)
    removed = [checkpoint_id for ids, _ in runs for checkpoint_id in ids]
    is_ok = (
        all(why.startswith(f"{policy}: ") for _, why in runs)
        and sorted(removed) == sorted(saved[:-keep]) != []
        and live == saved[-keep:]
    )
    gone = f"{policy} removed {len(removed)} of {len(saved)} checkpoints"
    left = f"{len(live)} are left; runs that found some: {len(runs)}"
    return is_ok, f"scheduled retention deleted by policy: {gone}, {left}"


def verified(status: int, answer: dict[str, Any]) -> Check:
    """Check the result of `milepost verify --deep --json`."""
    jobs = answer["data"]["jobs"] if answer["data"] else []
    problems = [job["problem"] for job in jobs if not job["ok"]] or answer["error"]
    events = sum(job["events"] for job in jobs)
    is_ok = status == 0 and len(jobs) > 0 and not problems
    sound = f"{events} events chained, every state as it was saved"
    found = sound if is_ok else f"status {status}, {problems}"
    return is_ok, f"milepost verify finds the journal sound: {found}"
