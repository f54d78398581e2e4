"""`milepost doctor`: diagnose a store and advise on repairs."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from typing import TYPE_CHECKING, Any

import click

from milepost.api.cli import environment_check
from milepost.api.cli.context import Frame, command
from milepost.api.cli.exits import Failure, Problem
from milepost.api.cli.results import Answer, Report
from milepost.api.cli.targets import complete_job
from milepost.journal.reading import store_check
from milepost.journal.recovery.steps import checkpoints_of, lost_events_of
from milepost.journal.wording import counted

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from milepost.journal.manager import CheckpointManager
    from milepost.journal.reading.store_check import Finding
    from milepost.journal.recovery.diagnosis import Diagnosis

_MAX_SHOWN = 50
_LONG_HEX = re.compile(r"\b[0-9a-f]{32,}\b")


@command("doctor", example="milepost doctor\nmilepost doctor etl-daily --deep")
@click.argument("jobs", nargs=-1, metavar="[JOB]...", shell_complete=complete_job)
@click.option("--all", "is_all", is_flag=True, help="List sound jobs too.")
@click.option("--deep", is_flag=True, help="Read every state, not only events.")
def doctor_command(
    frame: Frame, jobs: tuple[str, ...], *, is_all: bool, deep: bool
) -> Answer:
    """Diagnose a store: problems, intact data and what to do.

    Checks each JOB, or every job.  Reads everything and changes nothing; exit 7 if
    there is a problem.
    """
    around = environment_check.Surroundings(frame)
    root = around.root
    names = ("journals", "heads", "store.json")
    is_store = any((root / name).exists() for name in names)
    if not is_store and not store_check.jobs_to_import(root):
        hint = "set --store DIR or MILEPOST_STORE_ROOT; `milepost save` creates a store"
        raise Failure("no_store", f"no store in {root}", hint)
    with around.open() as manager:
        found = _diagnoses(manager, jobs, deep=deep)
        orphans = [*environment_check.orphaned_executions(manager, found)]
    findings = {
        "store": store_check.inspect(root),
        "worker": [*around.worker(), *orphans],
        "settings": [*around.settings_findings(), *around.keys(found)],
    }
    wrong = [f for part in findings.values() for f in part if not f.ok]
    ill = [each for each in found if not each.ok]
    shown = [d for d in found if is_all or d.verdict.value != "sound" or d.notes]
    answer = Answer(
        {
            "root": str(root),
            **{part: [f._asdict() for f in each] for part, each in findings.items()},
            "jobs": [fields_of(each) for each in shown],
            "total": len(found),
            "verdicts": Counter(each.verdict.value for each in found),
        },
        Report(tuple(_lines(root, findings, found, shown, is_all=is_all))),
    )
    if not wrong and not ill:
        return answer
    return answer._replace(problem=_problem(wrong, ill, len(found)))


def _diagnoses(
    manager: CheckpointManager, jobs: tuple[str, ...], *, deep: bool
) -> list[Diagnosis]:
    if not jobs:
        return manager.diagnose(deep=deep)
    found = []
    for job in jobs:
        diagnoses = manager.diagnose(job, deep=deep)
        if not diagnoses:
            hint = "`milepost doctor` checks all jobs"
            raise Failure("not_found", f"no job {job!r} in {manager.root}", hint)
        found += diagnoses
    return found


def fields_of(found: Diagnosis) -> dict[str, Any]:
    """Return the fields of a diagnosis for `--json`."""
    return {
        **found._asdict(),
        "verdict": found.verdict.value,
        "ok": found.ok,
        "keys": dict(found.keys),
        "remedy": found.treatment.remedy.value,
        "is_lossy": found.treatment.is_lossy,
        "command": None if found.ok else command_for(found),
    }


def command_for(found: Diagnosis) -> str | None:
    """Return the command that helps, or None if no command does."""
    match found.treatment.remedy.value:
        case "settle" | "cut" | "restart" | "drop_states":
            dashes = "-- " if found.job_id.startswith("-") else ""
            words = f"{dashes}{shlex.quote(found.job_id)}"
            return f"milepost repair --dry-run {words}"
    return None


def _problem(wrong: list[Finding], ill: list[Diagnosis], total: int) -> Problem:
    needs = f"need{'s' if len(ill) == 1 else ''} repair"
    about_jobs = f"{len(ill)} of {counted(total, 'job')} {needs}" if ill else ""
    around = f"{counted(len(wrong), 'problem')} with the store" if wrong else ""
    return Problem("needs_repair", "; ".join(filter(None, (about_jobs, around))))


def _lines(
    root: Path,
    findings: dict[str, list[Finding]],
    found: list[Diagnosis],
    shown: list[Diagnosis],
    *,
    is_all: bool,
) -> Iterator[str]:
    yield f"store {root}"
    yield from _finding_lines(findings["store"])
    yield ""
    yield f"jobs {_summary(found)}"
    bounded = shown if is_all else shown[:_MAX_SHOWN]
    for each in bounded:
        yield from job_lines(each)
    if len(shown) > len(bounded):
        yield f"  … and {len(shown) - len(bounded)} more; --all lists them"
    for part in ("worker", "settings"):
        yield ""
        yield part
        yield from _finding_lines(findings[part])


def _summary(found: list[Diagnosis]) -> str:
    if not found:
        return "none"
    counts = Counter(each.verdict.value for each in found)
    each = ", ".join(f"{n} {verdict}" for verdict, n in counts.most_common())
    return f"{len(found)}: {each}"


def _finding_lines(findings: Iterable[Finding]) -> Iterator[str]:
    for finding in findings:
        mark = "ok   " if finding.ok else "WRONG"
        hint = f" ({finding.hint})" if finding.hint else ""
        yield f"  {mark}  {finding.message}{hint}"


def job_lines(found: Diagnosis, *, with_advice: bool = True) -> Iterator[str]:
    """Yield the lines of a report on one job."""
    mark = "ok   " if found.ok else "WRONG"
    row = f" ({found.row})" if found.row and found.verdict.value != "sound" else ""
    yield f"  {mark}  {found.job_id}: {found.verdict.value}, {found.message}{row}"
    if found.line:
        yield f"         where  line {found.line}, byte {found.offset}"
        yield f"                expected {_short(found.expected)}"
        yield f"                found {_short(found.found)}"
    if not found.ok:
        yield f"         safe   {_safe(found)}"
    if found.unreadable:
        yield f"         gone   {checkpoints_of(found.unreadable)}"
    if found.lost_events or found.lost_checkpoints:
        yield f"         lost   {lost_events_of(found)}"
        if found.lost_checkpoints:
            yield f"                {checkpoints_of(found.lost_checkpoints)}"
    if found.verdict.value == "unsettled":
        yield "         do     nothing: the next read or write recovers it"
    elif with_advice and not found.ok:
        yield f"         do     {_advice(found)}"
    for note in found.notes:
        yield f"         note   {note}"


def _safe(found: Diagnosis) -> str:
    if not found.proven_seq:
        return "no event is proven"
    events = counted(found.proven_seq, "event")
    restorable = counted(found.checkpoints, "checkpoint")
    newest = f", the newest is {found.newest}" if found.newest else ""
    return f"{events} proven; {restorable} restorable{newest}"


def _advice(found: Diagnosis) -> str:
    command = command_for(found)
    if command is None:
        return {
            "by_hand": "restore its files in journals/ and heads/ from a backup, or "
            "move them away",
            "upgrade": "use the version of Milepost that wrote it, or a newer one",
        }.get(found.treatment.remedy.value, "run doctor again")
    if found.treatment.is_lossy:
        return f"restore it from a backup, or: {command}"
    return f"{command} (loses nothing)"


def _short(text: str) -> str:
    """Return a message with long hashes shortened."""
    return _LONG_HEX.sub(lambda match: f"{match[0][:12]}…", text)
