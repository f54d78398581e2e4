"""The common part of approve and reject: a decision is on the subject that was shown.

| called with | what happens |
|---|---|
| `--digest DIGEST` | the decision on that digest is recorded, or `stale_subject` |
| a terminal | the subject is shown, then the question, then its digest is sent |
| neither | the subject is printed; nothing is decided (exit 6) |
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Literal

import click
import orjson

from milepost.api.cli import output
from milepost.api.cli.exits import Problem
from milepost.api.cli.results import Answer, Document, Report
from milepost.api.cli.workflows import approval_of, votes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from milepost.api.cli.context import Frame
    from milepost.journal.execution_models import ApprovalInfo

Decision = Literal["approve", "reject"]

_MAX_LINES = 200
_MAX_LINE = 500
_NOTHING = "nothing was decided"


def decided(
    frame: Frame,
    approval_id: str,
    decision: Decision,
    *,
    digest: str | None,
    comment: str | None,
) -> Answer:
    """Decide on an approval, after asking on a terminal, else with its digest."""
    with frame.open_to_write() as manager:
        found = approval_of(manager, approval_id)
        if digest is None and found.status == "pending":
            refusal = _unconfirmed(frame, found, decision)
            if refusal is not None:
                return refusal
        if digest is None:
            digest = found.subject_digest
        made = manager.decide(
            approval_id, decision, subject_digest=digest, comment=comment
        )
        status = manager.get_execution_status(made.execution_id)
    notes = [f"approval {made.approval_id} is {made.status} ({votes(made)})"]
    if status is not None:
        notes.append(f"execution {made.execution_id} is {status['status']}")
    return Answer(fields_of(made), None, tuple(notes))


def fields_of(approval: ApprovalInfo) -> dict[str, object]:
    """Return an approval for `--json`."""
    return approval._asdict()


def _unconfirmed(
    frame: Frame, found: ApprovalInfo, decision: Decision
) -> Answer | None:
    """Show the subject and ask; return an answer unless a person said yes."""
    words = f"milepost {decision} {found.approval_id}"
    if frame.as_json or not (_is_terminal_read() and output.is_terminal()):
        hint = f"{words} --digest {found.subject_digest}"
        problem = Problem(
            "confirmation_required",
            f"{_NOTHING}: without a terminal, repeat the digest of what you read",
            hint,
        )
        terms = tuple(f"{name}: {value}" for name, value in _terms(found))
        shown = Document(found.subject, is_exact=True)
        return Answer(fields_of(found), shown, terms, problem)
    output.report(Answer(None, Report((*_lines(found),))), as_json=False)
    if click.confirm(f"{decision} it?", err=True):
        return None
    problem = Problem("confirmation_required", _NOTHING)
    return Answer(fields_of(found), None, (), problem)


def _is_terminal_read() -> bool:
    return sys.stdin is not None and sys.stdin.isatty()


def _terms(found: ApprovalInfo) -> Iterator[tuple[str, str]]:
    step = f", step {found.step_name}" if found.step_name else ""
    yield "approval", found.approval_id
    yield "of", f"job {found.job_id}, workflow {found.workflow_name}{step}"
    yield "requested", f"by {found.requested_by} at {found.requested_at}"
    if found.deadline:
        yield "deadline", found.deadline
    yield "approvers", ", ".join(found.approvers) or "anybody"
    given = f" by {', '.join(found.votes)}" if found.votes else ""
    yield "approved", f"{votes(found)}{given}"
    yield "digest", found.subject_digest


def _lines(found: ApprovalInfo) -> Iterator[str]:
    """Yield what is decided on: the terms, then the subject as far as it fits."""
    for name, value in _terms(found):
        yield f"{name:<10} {value}"
    text = orjson.dumps(found.subject, option=orjson.OPT_INDENT_2).decode()
    lines = output.visible_json(text).split("\n")
    shown = [_cut(line) for line in lines[:_MAX_LINES]]
    yield "subject"
    yield from shown
    if shown != lines:
        yield (
            f"NOT ALL OF IT IS SHOWN: {len(shown)} of {len(lines)} lines, each up to "
            f"{_MAX_LINE} characters"
        )
        yield f"all of it: milepost approve {found.approval_id} --json"


def _cut(line: str) -> str:
    return line if len(line) <= _MAX_LINE else f"{line[:_MAX_LINE]}…"
