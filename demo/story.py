"""The demo's story: run, kill, restore, resume, compare.

It uses only the `milepost` command and the HTTP API.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from demo import report
from demo.job import connect, find_files, result_bytes
from demo.processes import Child, DemoFailed, Folder

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

JOB_ID = "stdlib-census"
KEEP_LAST = 3
MILEPOST = Path(sys.executable).with_name("milepost")
_STALL_SECONDS = 120.0
_RETENTION_SECONDS = 30.0

_CONFIG = """\
# Written by `make demo`.  The config.toml of the project explains every setting.
store.root = "store"
# A state contains the results of all files so far.
api.max_body = "16MiB"
# A short interval, to watch retention at work.
worker.cleanup = "every 2s"

[retention]
min_age = "0s"
min_keep = 1
# Disables confirmation: a fast job may save a dozen checkpoints before the first run.
max_remove_fraction = 1.0
rule = [{match = "stdlib-*", keep_last = %d}]

[executor]
command = %s
"""


class Story:
    """One run of the story, with its own server."""

    def __init__(self, asked: argparse.Namespace, folder: Folder) -> None:
        self._folder, self._every = folder, asked.every
        self.is_terminal = sys.stdout.isatty()
        width = None if self.is_terminal else 120
        self._console = Console(highlight=False, width=width)
        self._files = len(find_files(asked.library, asked.limit))
        found, needed = self._files // asked.every + 1, KEEP_LAST + 2
        if found < needed:  # retention has nothing to remove, or nothing can be killed
            raise DemoFailed(
                f"{self._files} files with a checkpoint every {asked.every} make "
                f"{found} checkpoints; the demo needs {needed}"
            )
        work = [f"--library={asked.library.absolute()}", f"--every={asked.every}"]
        work += [f"--limit={asked.limit}"] if asked.limit else []
        self._job = [sys.executable, str(Path(__file__).with_name("job.py")), *work]
        self._events: list[report.Event] = []
        self._seen = 0  # files in the newest checkpoint
        self.say("library", f"{self._files:,} Python files in {asked.library}")
        self.server = self._start_server()
        self.say("server", f"{self.url}, API and worker in one process")

    def say(self, label: str = "", text: str = "", style: str = "") -> None:
        """Print one line of the story; a long command to copy is not broken."""
        line = Text.assemble((f"{label:<10}", style), " ", text) if text else Text()
        self._console.print(line, soft_wrap=True)

    def _start_server(self) -> Child:
        root = self._folder.root
        # The port is known only once the server runs: the job reads it from a file.
        more = ["--job={job_id}", f"--out={root / 'result.json'}", f"@{root}/url.args"]
        # A JSON string without surrogate escapes is a TOML string.
        command = json.dumps([*self._job, *more], ensure_ascii=False)
        (root / "config.toml").write_text(_CONFIG % (KEEP_LAST, command), "utf-8")
        options = ("serve", "--port=0", "--config=config.toml")
        server = self._folder.start("server", MILEPOST, *options)
        while not (found := re.search(r"serving (\S+) from", server.log.read_text())):
            server.check_alive()
            self._folder.pause()
        self.url = found[1]
        self._api = connect(self.url)
        (root / "url.args").write_text(f"--url={self.url}\n")
        return server

    def tell(self) -> bool:
        """Run the story; return whether every check passed."""
        reference = self._folder.start("reference", *self._job, "--out=reference.json")
        killed = self._run_and_kill()
        last = self._look()[-1]
        restored_id, done = last["checkpoint_id"], last["metadata"]["files"]
        at = f"{last['timestamp'][11:19]} UTC"
        holds = f"holds {done:,} of {self._files:,} files"
        self.say("last", f"checkpoint {restored_id} of {at} {holds}")
        path = f"/api/checkpoints/{restored_id}/restore"
        answer = self._api.post(path, json={"resume": True}).json()
        self.say("restored", answer["message"], "bold green")
        if answer["job_status"] != "resumed":
            raise DemoFailed(f"the job was not resumed: {answer['message']}")
        final = self._until("resumed", lambda newest: "is_final" in newest["metadata"])
        counts = final["metadata"]["counted"], self._files - done
        equal = self._compare(final["checkpoint_id"], reference)
        ends_at = time.monotonic() + _RETENTION_SECONDS
        while len(live := self._look()) > KEEP_LAST and time.monotonic() < ends_at:
            self._folder.pause()
        live_ids = [each["checkpoint_id"] for each in live]
        if all(is_ok for is_ok, _ in equal):
            # The history then shows who pinned it and why.
            target = f"{JOB_ID}@{final['checkpoint_id']}"
            self._milepost("pin", target, "--reason=equals the uninterrupted run")
        verified = report.verified(*self._milepost("verify", "--deep"))
        self._look()
        checks = [
            report.killed_half_way(killed, done, self._files),
            report.resumed(self._events, restored_id, answer["job_status"]),
            report.only_the_rest(*counts),
            *equal,
            report.retained(self._events, live_ids, "rule:stdlib-*", KEEP_LAST),
            verified,
        ]
        self._show(checks)
        return all(is_ok for is_ok, _ in checks)

    def _run_and_kill(self) -> int:
        """Run the job until half of its work is saved, kill it, return its status."""
        options = (f"--job={JOB_ID}", f"--url={self.url}")
        job = self._folder.start("job", *self._job, *options)
        process = f"process {job.process.pid}"
        every = f"a checkpoint every {self._every} files"
        compare = "in parallel the uninterrupted run to compare with"
        self.say("job", f"{process}, {every}; {compare}")
        half = self._files / 2
        self._until("job", lambda newest: newest["metadata"]["files"] >= half, job)
        job.process.kill()
        status = job.process.wait()
        self.say("killed", f"{process} ended by {report.ending(status)}", "bold red")
        return status

    def _compare(self, checkpoint_id: str, reference: Child) -> list[report.Check]:
        """Compare the results of the interrupted job and the uninterrupted run."""
        self.say("compare", "waiting for the uninterrupted run to end")
        if self._folder.wait(reference):
            raise reference.failure("failed")
        expected = (self._folder.root / "reference.json").read_bytes()
        result = (self._folder.root / "result.json").read_bytes()
        answer = self._api.get(f"/api/checkpoints/{checkpoint_id}").json()
        first = "its result equals that of the uninterrupted run"
        second = "the state of its last checkpoint equals it too"
        return [
            report.same(first, result, expected),
            report.same(second, result_bytes(answer["state_snapshot"]), expected),
        ]

    def _look(self) -> list[dict[str, Any]]:
        """Fetch new events, print the removals among them; return live checkpoints."""
        after = self._events[-1]["seq"] if self._events else 0
        about: dict[str, Any] = {"job_id": JOB_ID, "after_seq": after, "limit": 500}
        new = self._api.get("/api/events", params=about).json()["events"]
        self._events += new
        for ids, why in report.removals(new):
            self.say("retention", f"{len(ids)} removed by {why}", "yellow")
        answer = self._api.get("/api/checkpoints", params={"job_id": JOB_ID})
        found: list[dict[str, Any]] = answer.json()["checkpoints"]
        return found

    def _until(
        self, label: str, is_there: Callable[[dict[str, Any]], bool], *alive: Child
    ) -> dict[str, Any]:
        """Show progress until the newest checkpoint `is_there`, and return it.

        A job that the server started shows that it runs by new checkpoints only.
        """
        ends_at = time.monotonic() + _STALL_SECONDS
        while True:
            found = self._look()
            files = found[-1]["metadata"]["files"] if found else 0
            if files > self._seen:
                if files * 10 // self._files > self._seen * 10 // self._files:
                    self.say(label, f"{files:,} of {self._files:,} files")
                self._seen, ends_at = files, time.monotonic() + _STALL_SECONDS
            if found and is_there(found[-1]):
                return found[-1]
            for child in (self.server, *alive):
                child.check_alive()
            if time.monotonic() > ends_at:
                logs = f"the logs in {self._folder.root} and in its store"
                raise DemoFailed(f"no progress for {_STALL_SECONDS:g} s; see {logs}")
            self._folder.pause()

    def _milepost(self, verb: str, *options: str) -> tuple[int, dict[str, Any]]:
        """Run a command; return its exit status and its answer as JSON."""
        more = (*options, "--json", "--config=config.toml")
        child = self._folder.start(verb, MILEPOST, verb, *more)
        status = self._folder.wait(child)
        for line in child.log.read_text().splitlines():
            if line.startswith("{"):
                answer: dict[str, Any] = json.loads(line)
                return status, answer
        raise child.failure("failed")

    def _show(self, checks: list[report.Check]) -> None:
        self.say()
        self.say("history", f"of {JOB_ID}, all that ever happened to it")
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for column in report.COLUMNS:
            table.add_column(column, overflow="fold")
        for row in report.rows(self._events):
            table.add_row(*map(Text, row))
        self._console.print(table)
        for is_ok, text in checks:
            label, style = ("ok", "green") if is_ok else ("FAILED", "bold red")
            self.say(label, text, style)

    def tell_what_next(self) -> None:
        """Print commands to try next."""
        store = f"--store {shlex.quote(str(self._folder.root / 'store'))}"
        command = shlex.quote(os.path.relpath(MILEPOST))
        tries = [
            f"{command} log {JOB_ID} --reverse {store}",
            f"{command} show {JOB_ID} --raw {store} | jq .totals",
            f"{command} diff {JOB_ID}@-2 {JOB_ID}@-1 {store}",
            f"{command} verify --deep {store}",
        ]
        if self.is_terminal:  # the server stays up
            kind = "-H 'Content-Type: application/json'"
            body = """-d '{"job_id": "mine", "step_name": "one", "state": {"n": 1}}'"""
            tries += [
                f"curl '{self.url}/api/checkpoints?job_id={JOB_ID}'",
                f"curl '{self.url}/api/events?job_id={JOB_ID}&limit=3'",
                f"curl {self.url}/api/checkpoints {kind} {body}",
            ]
        self.say()
        self.say("next", "what you can try now")
        for line in tries:
            self.say("", line)
