"""A job's history as a table for people: when, who, what, why.  Pure functions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

COLUMNS = ("#", "when (UTC)", "who", "what", "why")
RETENTION_ACTOR = "worker:cleanup"
_GONE = "no rule keeps it; "

Event = dict[str, Any]


class Removal(NamedTuple):
    """One retention run that removed something."""

    ids: tuple[str, ...]
    policy: str
    reason: str

    @property
    def line(self) -> str:
        """The removal in one line."""
        return f"{len(self.ids)} removed by {self.policy}: {self.reason}"


def removals(events: Sequence[Event]) -> list[Removal]:
    """Return the removals of scheduled retention, one per run."""
    return [
        _removal(event)
        for event in events
        if event["type"] == "checkpoints.cleaned" and event["actor"] == RETENTION_ACTOR
    ]


def saved_ids(events: Sequence[Event]) -> dict[str, int]:
    """Return the id and seq of every checkpoint ever saved, oldest first."""
    return {
        event["data"]["checkpoint_id"]: event["seq"]
        for event in events
        if event["type"] == "checkpoint.saved"
    }


def rows(events: Sequence[Event]) -> list[tuple[str, ...]]:
    """Return one row per event, in the order of `COLUMNS`."""
    seqs = saved_ids(events)
    return [
        (
            str(event["seq"]),
            event["at"][11:19],
            event["actor"],
            *_what_and_why(event, seqs),
        )
        for event in events
    ]


def _what_and_why(event: Event, seqs: dict[str, int]) -> tuple[str, str]:
    data = event["data"]
    match event["type"]:
        case "job.opened":
            return "opened the journal", "the job's first save"
        case "checkpoint.saved":
            parent = data["parent"]
            why = f"goes on from #{parent}" if parent else "starts from nothing"
            return f"saved {data['step_name']}", why
        case "checkpoint.restored":
            return f"restored {_name(data, seqs)}", "to resume the job from there"
        case "checkpoints.cleaned":
            removal = _removal(event)
            gone = ", ".join(f"#{seq}" for seq in sorted(seqs[i] for i in removal.ids))
            return f"removed {gone}", f"{removal.policy}: {removal.reason}"
        case other:
            verb = other.removeprefix("checkpoint.")
            what = f"{verb} {_name(data, seqs)}" if "checkpoint_id" in data else verb
            return what, data.get("reason", "")


def _name(data: dict[str, Any], seqs: dict[str, int]) -> str:
    return f"#{seqs[data['checkpoint_id']]}"


def _removal(event: Event) -> Removal:
    data = event["data"]
    # Each checkpoint has its own reason; the common prefix is left out.
    reasons = [text.removeprefix(_GONE) for text in data["removed"].values()]
    more = " (and so on)" if len({*reasons}) > 1 else ""
    return Removal(tuple(data["removed"]), data["policy"]["name"], reasons[0] + more)
