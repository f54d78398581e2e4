"""The demo's story: run, kill, restore, resume, compare.

It uses only the `milepost` command and the HTTP API.  Every step can raise `DemoFailed`
or `JobFailed` if the story cannot continue, and `Stopped` after a signal.
"""

from __future__ import annotations

import json
import os
import secrets
import shlex
import signal
import sys
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from demo import checks, history
from demo.children import DemoFailed
from demo.job import Api, Refused, find_files, path_of, result_bytes
from demo.server import Retention, milepost, start_server
from demo.watch import Watch

if TYPE_CHECKING:
    from demo.checks import Check
    from demo.children import Child, Children, StopFlag
    from demo.folder import Folder
    from demo.screen import Screen
    from demo.watch import Standing

JOB_ID = "stdlib-census"
RETENTION = Retention(match="stdlib-*", keep_last=3, cleanup="every 2s")
# With fewer, retention has nothing to remove, or the job cannot be killed half way.
CHECKPOINTS_MIN = RETENTION.keep_last + 2
_JOB = Path(__file__).with_name("job.py")
_COMMAND_SECONDS = 120.0
_REFERENCE_SECONDS = 600.0
_RETENTION_SECONDS = 30.0
_RESTORE_TRIES = 20


class Work(NamedTuple):
    """The files to count: the job's options."""

    sources: Path
    every: int
    limit: int | None

    def command(self, *more: str) -> list[str]:
        """Return the command line of the job."""
        limit = [] if self.limit is None else [f"--limit={self.limit}"]
        options = [f"--library={self.sources}", f"--every={self.every}", *limit]
        return [sys.executable, str(_JOB), *options, *more]

    def count_files(self) -> int:
        """Return the number of files.

        Raises:
            DemoFailed: there are too few files for the demo.
        """
        files = len(find_files(self.sources, self.limit))
        checkpoints = files // self.every + 1
        if checkpoints < CHECKPOINTS_MIN:
            raise DemoFailed(
                f"{files} files with a checkpoint every {self.every} make "
                f"{checkpoints} checkpoints; the demo needs {CHECKPOINTS_MIN}"
            )
        return files


class Stage(NamedTuple):
    """The resources of a story."""

    folder: Folder
    children: Children
    screen: Screen
    flag: StopFlag


class Restored(NamedTuple):
    """The restored checkpoint, and the server's answer."""

    checkpoint_id: str
    files: int
    job_status: str


class Story:
    """One run of the story, with its own server."""

    def __init__(self, work: Work, stage: Stage) -> None:
        self._work = work
        self._folder, self._children, self._screen, flag = stage
        self._files = work.count_files()
        self._say("library", f"{self._files:,} Python files in {work.sources}")
        self.server = start_server(
            self._children,
            self._folder,
            flag,
            retention=RETENTION,
            job_command=work.command(
                "--job={job_id}", "--url={url}", f"--out={self._folder.result}"
            ),
        )
        self._say("server", f"{self.server.url}, API and worker in one process")
        self._api = Api(self.server.url)
        self._watch = Watch(self._api, JOB_ID, self.server.child, self._screen, flag)

    def tell(self) -> bool:
        """Run the story; return whether every check passed."""
        reference = self._children.start(
            "the uninterrupted run",
            self._work.command(f"--out={self._folder.reference}"),
            self._folder.log("reference"),
        )
        status = self._run_and_kill()
        restored = self._restore()
        final = self._watch.until(
            lambda standing: standing.is_final,
            label="resumed",
            files_total=self._files,
            job_log=self._folder.store / "logs" / f"{JOB_ID}.log",
        )
        self._screen.end_progress()
        counted = final.newest["metadata"]["counted"]
        equal = self._compare(final, reference)
        kept = self._watch.until_removed(RETENTION.keep_last, _RETENTION_SECONDS)
        if all(check.is_ok for check in equal):
            self._pin(final)
        verified = self._verify()
        events = self._watch.events()
        found = [
            checks.killed_half_way(status, restored.files, self._files),
            checks.resumed(restored.checkpoint_id, restored.job_status, events),
            checks.only_the_rest(counted, restored.files, self._files),
            *equal,
            checks.retained(
                events,
                kept.live_ids,
                policy=RETENTION.policy,
                keep_last=RETENTION.keep_last,
            ),
            verified,
        ]
        self._screen.blank()
        self._say("history", f"of {JOB_ID}, all that ever happened to it")
        self._screen.table(history.COLUMNS, history.rows(events))
        for check in found:
            label, style = ("ok", "green") if check.is_ok else ("FAILED", "bold red")
            self._say(label, f"{check.promise}: {check.compared}", style)
        return all(check.is_ok for check in found)

    def tell_what_next(self) -> None:
        """Print commands to try next."""
        store = f"--store {shlex.quote(_shown(self._folder.store))}"
        command = shlex.quote(_shown(Path(milepost())))
        tries = [
            f"{command} log {JOB_ID} --reverse {store}",
            f"{command} show {JOB_ID} --raw {store} | jq .totals",
            f"{command} diff {JOB_ID}@-2 {JOB_ID}@-1 {store}",
            f"{command} verify --deep {store}",
        ]
        if self._screen.is_terminal:
            url = self.server.url
            kind = "-H 'Content-Type: application/json'"
            body = """-d '{"job_id": "mine", "step_name": "one", "state": {"n": 1}}'"""
            tries += [
                f"curl '{url}/api/checkpoints?job_id={JOB_ID}'",
                f"curl '{url}/api/events?job_id={JOB_ID}&limit=3'",
                f"curl {url}/api/checkpoints {kind} {body}",
            ]
        self._screen.blank()
        self._say("next", "what you can try now")
        for line in tries:
            self._say("", line)

    def _run_and_kill(self) -> int:
        """Run the job until half of its work is saved, then kill it."""
        command = self._work.command(f"--job={JOB_ID}", f"--url={self.server.url}")
        job = self._children.start("the job", command, self._folder.log("job"))
        self._say(
            "job",
            f"process {job.process.pid}, a checkpoint every {self._work.every} files; "
            "in parallel the uninterrupted run to compare with",
        )
        self._watch.until(
            lambda standing: standing.files * 2 >= self._files,
            label="job",
            files_total=self._files,
            job=job,
            job_log=job.log,
        )
        job.process.kill()
        status = job.process.wait()
        how = signal.Signals(-status).name if status < 0 else f"status {status}"
        self._say("killed", f"process {job.process.pid} ended by {how}", "bold red")
        return status

    def _restore(self) -> Restored:
        """Restore the job's last checkpoint and resume the job."""
        for _ in range(_RESTORE_TRIES):
            standing = self._watch.standing()
            last = standing.newest
            checkpoint_id = last["checkpoint_id"]
            try:
                answer = self._api.post(
                    f"{path_of(checkpoint_id)}/restore",
                    {"resume": True},
                    key=secrets.token_hex(8),
                    if_match=standing.etag,
                ).body
            except Refused as exc:
                # A retention run or the killed job's last request changed the job.
                if exc.status != HTTPStatus.PRECONDITION_FAILED:
                    raise
                continue
            self._say(
                "last",
                f"checkpoint {checkpoint_id} of {last['timestamp'][11:19]} UTC "
                f"holds {standing.files:,} of {self._files:,} files",
            )
            self._say("restored", answer["message"], "bold green")
            if answer["job_status"] != "resumed":
                raise DemoFailed(f"the job was not resumed: {answer['message']}")
            return Restored(checkpoint_id, standing.files, answer["job_status"])
        raise DemoFailed(f"job {JOB_ID} changes although its process is dead")

    def _compare(self, final: Standing, reference: Child) -> list[Check]:
        """Compare the results of the interrupted job and the uninterrupted run."""
        self._say("compare", "waiting for the uninterrupted run to end")
        status = self._children.wait(reference, _REFERENCE_SECONDS)
        if status != 0:
            raise DemoFailed(f"{reference.name} failed: {reference.last_line()}")
        expected = self._folder.reference.read_bytes()
        newest = self._api.get(path_of(final.newest["checkpoint_id"])).body
        return [
            checks.same_bytes(
                "its result equals that of the uninterrupted run",
                self._folder.result.read_bytes(),
                expected,
            ),
            checks.same_bytes(
                "the state of its last checkpoint equals it too",
                result_bytes(newest["state_snapshot"]),
                expected,
            ),
        ]

    def _pin(self, final: Standing) -> None:
        """Pin the result; the history then shows who pinned it and why."""
        target = f"{JOB_ID}@{final.newest['checkpoint_id']}"
        self._milepost("pin", target, "--reason=equals the uninterrupted run")

    def _verify(self) -> Check:
        """Run `milepost verify` and check its result."""
        status, report = self._milepost("verify", "--deep")
        return checks.verified(status, report)

    def _milepost(self, command: str, *options: str) -> tuple[int, dict[str, Any]]:
        answer = self._folder.root / f"{command}.json"
        config = f"--config={self._folder.config}"
        child = self._children.start(
            f"milepost {command}",
            [milepost(), command, *options, "--json", config],
            self._folder.log(command),
            answer=answer,
        )
        status = self._children.wait(child, _COMMAND_SECONDS)
        try:
            report: dict[str, Any] = json.loads(answer.read_bytes())
        except ValueError as exc:
            raise DemoFailed(f"{child.name}: {child.last_line()}") from exc
        return status, report

    def _say(self, label: str, text: str, style: str = "") -> None:
        self._screen.say(label, text, style)


def _shown(path: Path) -> str:
    """Return `path` relative to the current folder if it is inside."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative
