"""Forks: executions that begin with results of another one."""

from __future__ import annotations

from functools import partial
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from milepost.journal.commands import durable
from milepost.journal.commands.executions import Workflow, execution_of
from milepost.journal.errors import InvalidArgument
from milepost.journal.events.workflow_events import BranchOrigin

if TYPE_CHECKING:
    from collections.abc import Mapping

    from milepost.journal.index.durable import Recorded
    from milepost.journal.index.executions import Execution
    from milepost.journal.states.types import Types
    from milepost.journal.workflow.engine import Engine


def fork(
    engine: Engine,
    execution_id: str,
    job_id: str,
    before: str | None,
    changes: Mapping[str, Any],
    data: Mapping[str, Any] | None,
    *,
    types: Types,
    actor: str,
) -> str:
    """Start an execution; see `CheckpointManager.fork_execution`."""
    source, execution_id = engine.directory.execution(execution_id)
    view = engine.reader.view(source)
    execution = execution_of(view, execution_id)
    kept = _before(execution, before)
    if unknown := sorted(changes.keys() - kept):
        raise InvalidArgument(
            f"changes name {unknown[0]!r:.80}, which is no step that is kept; "
            f"kept are: {', '.join(kept) or 'none'}"
        )
    copies = []
    for key, (seq, kind) in kept.items():
        if key not in changes:
            state = engine.stored(source, seq)
        elif kind == "signal":
            state = types.encode(changes[key])
        else:
            state = {"value": types.encode(changes[key])}
        copies.append(durable.Copy(key, kind, engine.payload(state)))
    origin = BranchOrigin(job_id=source, execution_id=execution_id)
    if before is not None:
        origin["before"] = before
    name, version = execution.workflow_name, execution.workflow_version
    if data is None:
        given = engine.stored(source, execution.seq)
    else:
        given = types.encode(dict(data))
    decide = partial(
        durable.fork,
        workflow=Workflow(name, version, branched_from=origin),
        payload=engine.payload(given),
        copies=copies,
        actor=actor,
    )
    return engine.start(job_id, decide, actor=actor, is_leased=False)


def _before(execution: Execution, before: str | None) -> dict[str, Recorded]:
    """Return the results that were recorded before that of a step; None: all.

    Raises:
        InvalidArgument: there is no such step.
    """
    recorded = execution.durable.recorded
    if before is None:
        return dict(recorded)
    if before not in recorded:
        raise InvalidArgument(
            f"execution {execution.execution_id} has no result of step "
            f"{before!r:.80}; it has: {', '.join(recorded) or 'none'}"
        )
    return dict(takewhile(lambda item: item[0] != before, recorded.items()))
