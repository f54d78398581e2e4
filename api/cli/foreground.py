"""Running a workflow function in this process, for `milepost run MODULE:NAME`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from milepost.api.cli.exits import Problem
from milepost.api.cli.results import Answer, json_cell
from milepost.api.cli.waiting import until_stopped
from milepost.api.cli.workflows import waits_for
from milepost.journal.workflow.retries import OVER

if TYPE_CHECKING:
    from collections.abc import Mapping

    from milepost.api.cli.context import Frame
    from milepost.journal.workflow.course import Course
    from milepost.journal.workflow.functions import WorkflowFunction


def run_function(
    frame: Frame,
    spec: str,
    job_id: str,
    given: Mapping[str, Any] | None,
    *,
    is_resumed: bool,
) -> Answer:
    """Run a workflow function in a job as far as it goes.

    Args:
        frame: the shared options.
        spec: the function, as ``package.module:name``.
        job_id: the job.
        given: the initial data of a new execution.
        is_resumed: start none.

    Raises:
        FunctionUnusable: it cannot be used, or belongs to another store.
        LeaseLive: another process runs the execution.
        UnknownExecution: there is none, and none is started.
    """
    course = None
    with until_stopped(is_success=False) as stop:
        function = _function(frame, spec)
        course = function.begin(job_id, None if is_resumed else given or {})
        return _ran(frame, function, course)
    status = None if course is None else _status(course)
    return Answer(status, None, (), stop.problem)


def _function(frame: Frame, spec: str) -> WorkflowFunction:
    """Import a workflow function; refuse another store than a configured one."""
    from milepost.api.cli.stores import configured_root
    from milepost.worker.functions import check_root, load_function

    function = load_function(spec)
    root = configured_root(frame.config, frame.store)
    if root is not None:
        check_root(spec, function, root)
    return function


def _ran(frame: Frame, function: WorkflowFunction, course: Course) -> Answer:
    try:
        outcome = function.go_on(course)
    except OVER:
        raise
    except Exception as exc:  # noqa: BLE001 - whatever the program raises
        if frame.with_traceback:
            import traceback

            traceback.print_exception(exc)
        return _failed(course, exc)
    status = _status(course)
    status["result"] = course.around.types.encode(outcome.result)
    return Answer(status, _line(course, status))


def _line(course: Course, status: Mapping[str, Any]) -> str:
    """Return how far an execution came, in one line."""
    name = f"execution {status['execution_id']} of job {course.job_id}"
    match status["status"]:
        case "completed":
            return f"{name} completed: {json_cell(status['result'])}"
        case "waiting":
            found = course.around.calls.asked("pending", course.job_id, None, 100, None)
            what = waits_for(status, {each.approval_id: each for each in found})
            return f"{name} waits for {what}, since {status['changed_at']}"
    return f"{name} is {status['status']}"


def _failed(course: Course, error: Exception) -> Answer:
    status = _status(course)
    name, text = status["execution_id"], str(error) or "no message"
    what = f"execution {name} of job {course.job_id} is {status['status']}"
    problem = Problem(
        "execution_failed",
        f"{what}: {type(error).__name__}: {text}",
        f"milepost execution retry {name}" if status["status"] == "failed" else None,
    )
    return Answer(status, None, (), problem)


def _status(course: Course) -> dict[str, Any]:
    found = course.around.calls.status(course.execution_id)
    assert found is not None, "it was begun"
    return found
