"""`milepost cat`: print a job as plain JSON, one event per line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from milepost.api.cli.context import Frame, command
from milepost.api.cli.results import Answer, JsonLines
from milepost.api.cli.targets import Target, job_argument, require_job
from milepost.journal.errors import UnknownCheckpoint, UnreadableState

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from milepost.journal.events.vocabulary import Event
    from milepost.journal.manager import CheckpointManager


@command(
    "cat",
    example="milepost cat etl-daily | jq 'select(.state) | .state.rows'\n"
    "milepost cat etl-daily | grep checkpoint.saved",
)
@job_argument
def cat_command(frame: Frame, job: str) -> Answer:
    """Print a job as plain JSON, one event per line, oldest first.

    Each checkpoint.saved has its `state` and `metadata`, decoded from deltas,
    compression and encryption.  If the state is erased or unreadable, `state`
    is null and `state_problem` has the reason.
    """
    manager = frame.open()
    require_job(manager, Target(job, None))
    return Answer(None, JsonLines(_lines(manager, job)))


def _lines(manager: CheckpointManager, job: str) -> Iterator[dict[str, Any]]:
    with manager:
        events = manager.history(job)
        removed = _removals(events)
        for event in events:
            line: dict[str, Any] = {**event}
            if event["type"] == "checkpoint.saved":
                checkpoint_id = event["data"]["checkpoint_id"]
                try:
                    info, state = manager.get(job, checkpoint_id)
                    line |= {"state": state, "metadata": info.metadata}
                except UnknownCheckpoint as exc:
                    why = removed.get(checkpoint_id, str(exc))
                    line |= {"state": None, "state_problem": why}
                except UnreadableState as exc:
                    line |= {"state": None, "state_problem": str(exc)}
            yield line


def _removals(events: Iterable[Event]) -> dict[str, str]:
    """Return for each checkpoint the last event that removed it."""
    removed: dict[str, str] = {}
    saved: list[str] = []
    for event in events:
        data: Any = event["data"]
        match event["type"]:
            case "checkpoint.saved":
                saved.append(data["checkpoint_id"])
                continue
            case "checkpoint.deleted" | "checkpoint.purged":
                gone = [data["checkpoint_id"]]
            case "checkpoints.cleaned":
                gone = [*data["removed"]]
            case "job.erased":
                gone = saved
            case _:
                continue
        said = f"{event['type']} at {event['at']} by {event['actor']}"
        removed |= dict.fromkeys(gone, said)
    return removed
