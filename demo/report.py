"""What the demo shows of a job's events: removals, the table, the checks.  Pure."""

from __future__ import annotations

import hashlib
import signal
from typing import Any

COLUMNS = ("#", "when (UTC)", "who", "what", "why")

Event = dict[str, Any]


# Whether it holds, and a line with the promise and the compared values.
Check = tuple[bool, str]


def removals(events: list[Event]) -> list[tuple[list[str], str]]:
    """Return the removed ids and the reason of each run of scheduled retention."""
    found = []
    for event in events:
        if (event["type"], event["actor"]) == ("checkpoints.cleaned", "worker:cleanup"):
            removed = event["data"]["removed"]
            # Each checkpoint has its own reason; the common prefix is left out.
            why = [text.removeprefix("no rule keeps it; ") for text in removed.values()]
            more = " (and so on)" if len({*why}) > 1 else ""
            policy = event["data"]["policy"]["name"]
            found.append(([*removed], f"{policy}: {why[0]}{more}"))
    return found


def saved_ids(events: list[Event]) -> dict[str, int]:
    """Return the id and seq of every checkpoint ever saved, oldest first."""
    saves = [event for event in events if event["type"] == "checkpoint.saved"]
    return {event["data"]["checkpoint_id"]: event["seq"] for event in saves}


def rows(events: list[Event]) -> list[tuple[str, ...]]:
    """Return one row per event, in the order of `COLUMNS`."""
    seqs = saved_ids(events)
    return [
        (
            *(str(event["seq"]), event["at"][11:19], event["actor"]),
            *_what_and_why(event, seqs),
        )
        for event in events
    ]


def _what_and_why(event: Event, seqs: dict[str, int]) -> tuple[str, str]:
    data = event["data"]
    named = f"#{seqs[data['checkpoint_id']]}" if "checkpoint_id" in data else ""
    match event["type"]:
        case "job.opened":
            return "opened the journal", "the job's first save"
        case "checkpoint.saved":
            parent = data["parent"]
            why = f"goes on from #{parent}" if parent else "starts from nothing"
            return f"saved {data['step_name']}", why
        case "checkpoint.restored":
            return f"restored {named}", "to resume the job from there"
        case "checkpoints.cleaned":
            ((ids, why),) = removals([event])
            gone = ", ".join(f"#{seq}" for seq in sorted(seqs[each] for each in ids))
            return f"removed {gone}", why
        case other:
            verb = other.removeprefix("checkpoint.")
            return f"{verb} {named}".rstrip(), data.get("reason", "")


def ending(status: int) -> str:
    """Return the name of the signal that ended a process, or its exit status."""
    return signal.Signals(-status).name if status < 0 else f"status {status}"


def killed_half_way(status: int, done: int, total: int) -> Check:
    """Check that SIGKILL ended the job, with a part of its work saved."""
    holds = f"its last checkpoint holds {done:,} of {total:,} files"
    is_ok = status == -signal.SIGKILL and 0 < done < total
    return is_ok, f"the job was killed half way: {ending(status)}; {holds}"


def only_the_rest(counted: int, left: int) -> Check:
    """Check that no file was counted twice."""
    compared = f"counted {counted:,} files, {left:,} were left"
    return counted == left, f"it did only what was left: {compared}"


def resumed(events: list[Event], restored_id: str, job_status: str) -> Check:
    """Check that the resumed job continued from the restored checkpoint."""
    seq = saved_ids(events)[restored_id]
    (at,) = (e["seq"] for e in events if e["type"] == "checkpoint.restored")
    saves = (e for e in events if e["type"] == "checkpoint.saved" and e["seq"] > at)
    parents = [save["data"]["parent"] for save in saves]
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


def retained(
    events: list[Event], live: list[str], policy: str, keep_last: int
) -> Check:
    """Check that scheduled runs removed exactly what the policy does not keep."""
    saved, runs = [*saved_ids(events)], removals(events)
    removed = [checkpoint_id for ids, _ in runs for checkpoint_id in ids]
    compared = (
        f"{policy} removed {len(removed)} of {len(saved)} checkpoints, "
        f"{len(live)} are left; runs that found some: {len(runs)}"
    )
    is_ok = (
        len(removed) > 0
        and all(why.startswith(f"{policy}: ") for _, why in runs)
        and live == saved[-keep_last:]
        and sorted(removed) == sorted(saved[:-keep_last])
    )
    return is_ok, f"scheduled retention deleted by policy: {compared}"


def verified(status: int, answer: dict[str, Any]) -> Check:
    """Check the result of `milepost verify --deep --json`."""
    jobs = (answer["data"] or {"jobs": []})["jobs"]
    problems = [job["problem"] for job in jobs if not job["ok"]]
    problems += [answer["error"]] if answer["error"] else []
    events = sum(job["events"] for job in jobs)
    found = "; ".join(problem["detail"] for problem in problems)
    sound = f"{events} events chained, every state as it was saved"
    is_ok = status == 0 and len(jobs) > 0 and not problems
    return is_ok, f"milepost verify finds the journal sound: {found or sound}"
