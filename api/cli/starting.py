"""Handing a pending execution to the worker or to the configured executor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from milepost.api.cli.exits import Problem

if TYPE_CHECKING:
    from collections.abc import Mapping

    from milepost.journal.manager import CheckpointManager
    from milepost.worker.config.settings import Settings
    from milepost.worker.executors import Executor

_WAITS = "it waits for a process that takes its lease"


class Handed(NamedTuple):
    """Who starts the job of a pending execution.

    Attributes:
        note: who does, for people.
        executor: it has started the job; else None.
        problem: the executor failed; the execution stays pending.
    """

    note: str
    executor: Executor | None = None
    problem: Problem | None = None


def hand_over(
    manager: CheckpointManager, settings: Settings | None, status: Mapping[str, Any]
) -> Handed:
    """Start the job of a pending execution, unless the worker does.

    Raises:
        ExecutorUnusable: the configured executor cannot be loaded.
    """
    from milepost.worker.config.settings import open_executor
    from milepost.worker.executors import JobStillRunning, start

    job_id = status["correlation_id"]
    if (elsewhere := _elsewhere(manager, settings, status)) is not None:
        return Handed(elsewhere)
    executor = None if settings is None else open_executor(settings)
    if executor is None or settings is None:
        return Handed(f"{_WAITS}: no executor is configured")
    try:
        start(executor, job_id)
    except JobStillRunning:
        return Handed(f"{_WAITS}: its job still runs", executor)
    except Exception as exc:  # noqa: BLE001 - a user's executor may raise anything
        what = f"the executor failed: {type(exc).__name__}: {exc}"
        problem = Problem("executor_failed", f"job {job_id!r} was not started: {what}")
        return Handed(_WAITS, None, problem)
    if settings.executor.command is None:
        return Handed(f"job {job_id} started", executor)
    from milepost.journal.ids import file_name

    log = settings.log_dir / f"{file_name(job_id)}.log"
    return Handed(f"job {job_id} started; its output is in {log}", executor)


def _elsewhere(
    manager: CheckpointManager, settings: Settings | None, status: Mapping[str, Any]
) -> str | None:
    """Return what starts the job instead of this process, None if nothing does."""
    name, job_id = status["workflow_name"], status["correlation_id"]
    if (pid := starting_worker(manager, settings, name)) is not None:
        return f"process {pid}, the worker, starts its job"
    if (function := _function(settings, name)) is not None:
        here = f"milepost run {function} --job-id {job_id}"
        return f"it waits for a worker, or for: {here}"
    return None


def starting_worker(
    manager: CheckpointManager, settings: Settings | None, workflow_name: str
) -> int | None:
    """Return the worker's process id if it starts pending executions of a workflow."""
    from milepost.worker.config.workflows import rule_of
    from milepost.worker.status import LEASE, leader_pid

    if settings is None or not rule_of(settings.workflows, workflow_name).auto_resume:
        return None
    has_executor = settings.executor.command or settings.executor.python
    if not has_executor and _function(settings, workflow_name) is None:
        return None
    return leader_pid(manager.storage.lease(LEASE))


def _function(settings: Settings | None, workflow_name: str) -> str | None:
    """Return the function that the rule of a workflow names, if it does.

    It is not imported: a glob may match other workflows than the function's own.
    """
    from milepost.worker.config.workflows import rule_of

    if settings is None:
        return None
    return rule_of(settings.workflows, workflow_name).function
