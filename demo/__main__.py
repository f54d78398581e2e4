"""`make demo`: a job is killed half way, resumed from its checkpoint, and compared.

On a terminal the server keeps running at the end until Ctrl-C; otherwise the demo
exits.  The exit code is 0 only if every check passed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from httpx import HTTPError
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from demo import report
from demo.job import WORK, connect, find_files, result_bytes
from demo.processes import DemoFailed, Folder, Stopped

JOB_ID = "stdlib-census"
KEEP_LAST = 3
MILEPOST = Path(sys.executable).with_name("milepost")
_PATIENCE_SECONDS = 120.0

_CONFIG = """\
store.root = "store"
executor.command = %s
# A state contains the results of all files so far.
api.max_body = "16MiB"
# A short interval, to watch retention at work.
worker.cleanup = "every 2s"

[retention]
min_age = "0s"
# Disables confirmation: a fast job may save a dozen checkpoints before the first run.
max_remove_fraction = 1.0
rule = [{match = "stdlib-*", keep_last = %d}]
"""


class Story:
    """One run: the server, the job, and what happened so far."""

    def __init__(self, asked: argparse.Namespace, folder: Folder) -> None:
        self._started_at = time.monotonic()
        self._folder = folder
        width = None if sys.stdout.isatty() else 120
        self._console = Console(highlight=False, width=width)
        self._events: list[report.Event] = []
        self._files = len(find_files(asked.library, asked.limit))
        self._say("library", f"{self._files:,} Python files in {asked.library}")
        found, needed = self._files // asked.every + 1, KEEP_LAST + 2
        if found < needed:  # retention has nothing to remove, or nothing can be killed
            work = f"{self._files} files with a checkpoint every {asked.every}"
            msg = f"{work} make {found} checkpoints; the demo needs {needed}"
            raise DemoFailed(msg)
        job, library = Path(__file__).with_name("job.py"), asked.library.absolute()
        self._job = [sys.executable, str(job), f"--library={library}"]
        self._job += [f"--every={asked.every}", f"--limit={self._files}"]
        self._start_server()

    def _say(self, label: str, text: str, style: str = "") -> None:
        # A long line is not broken: it may be a command to copy.
        line = Text.assemble((f"{label:<10}", style), " ", text)
        self._console.print(line, soft_wrap=True)

    def _start_server(self) -> None:
        root = self._folder.root
        # The port is known only once the server runs: the job reads it from a file.
        more = ["--job={job_id}", f"--out={root / 'result.json'}", f"@{root}/url.args"]
        # A JSON string without surrogate escapes is a TOML string.
        command = json.dumps([*self._job, *more], ensure_ascii=False)
        (root / "config.toml").write_text(_CONFIG % (command, KEEP_LAST), "utf-8")
        options = ("serve", "--port=0", "--config=config.toml")
        self._server = self._folder.start("server", MILEPOST, *options)
        log = root / "server.log"
        while not (found := re.search(r"serving (\S+) from", log.read_text())):
            if self._server.poll() is not None:
                raise DemoFailed(f"the server ended at once; see {log}")
            self._folder.pause()
        self._url = found[1]
        self._api = connect(self._url)
        (root / "url.args").write_text(f"--url={self._url}\n")
        self._say("server", f"{self._url}, API and worker in one process")

    def tell(self) -> bool:
        """Run the story; return whether every check passed."""
        root = self._folder.root
        reference = self._folder.start("reference", *self._job, "--out=reference.json")
        killed = self._run_and_kill()
        last = self._look()[-1]
        restored_id, done = last["checkpoint_id"], last["metadata"]["files"]
        saved_at = f"{restored_id} of {last['timestamp'][11:19]} UTC"
        holds = f"holds {done:,} of {self._files:,} files"
        self._say("last", f"checkpoint {saved_at} {holds}")
        path = f"/api/checkpoints/{restored_id}/restore"
        restored = self._api.post(path, json={"resume": True}).json()
        self._say("restored", restored["message"], "bold green")
        if restored["job_status"] != "resumed":
            raise DemoFailed("the job was not resumed")
        final = self._until("resumed", lambda done: "is_final" in done)
        if self._folder.wait(reference):
            raise DemoFailed(f"the uninterrupted run failed; see {root}/reference.log")
        whole = (root / "reference.json").read_bytes()
        got = (root / "result.json").read_bytes()
        answer = self._api.get(f"/api/checkpoints/{final['checkpoint_id']}").json()
        state = result_bytes(answer["state_snapshot"])
        ends_at = time.monotonic() + _PATIENCE_SECONDS
        while len(live := self._look()) > KEEP_LAST and time.monotonic() < ends_at:
            self._folder.pause()
        if whole == got == state:
            # The history then shows who pinned it and why.
            target = f"{JOB_ID}@{final['checkpoint_id']}"
            self._milepost("pin", target, "--reason=equals the uninterrupted run")
        self._look()
        live_ids = [each["checkpoint_id"] for each in live]
        checks = [
            report.killed_half_way(killed, done, self._files),
            report.resumed(self._events, restored_id, restored["job_status"]),
            report.only_the_rest(final["metadata"]["counted"], self._files - done),
            report.same("its result equals that of the uninterrupted run", got, whole),
            report.same("the state of its last checkpoint equals it too", state, whole),
            report.retained(self._events, live_ids, "rule:stdlib-*", KEEP_LAST),
            report.verified(*self._milepost("verify", "--deep")),
        ]
        self._show(checks)
        return all(is_ok for is_ok, _ in checks)

    def _run_and_kill(self) -> int:
        """Run the job until half of its work is saved, kill it, return its status."""
        options = (f"--job={JOB_ID}", f"--url={self._url}")
        job = self._folder.start("job", *self._job, *options)
        process, half = f"process {job.pid}", self._files / 2
        self._say("job", f"{process}, and in parallel an uninterrupted run to compare")
        self._until("job", lambda done: done["files"] >= half or job.poll() is not None)
        if job.poll() is not None:
            raise DemoFailed(f"the job ended early; see {self._folder.root}/job.log")
        job.kill()
        self._say("killed", f"{process} ended by SIGKILL", "bold red")
        return job.wait()

    def _until(self, label: str, is_there: Callable[[Any], bool]) -> Any:
        """Show progress; return the newest checkpoint once its metadata `is_there`."""
        seen, ends_at = 0, time.monotonic() + _PATIENCE_SECONDS
        while time.monotonic() < ends_at:
            newest = [{"metadata": {"files": 0}}, *self._look()][-1]
            if (files := newest["metadata"]["files"]) > seen:
                self._say(label, f"{files:,} of {self._files:,} files")
                seen, ends_at = files, time.monotonic() + _PATIENCE_SECONDS
            if is_there(newest["metadata"]):
                return newest
            self._folder.pause()
        raise DemoFailed(
            f"no progress; see *.log and store/logs in {self._folder.root}"
        )

    def _look(self) -> list[Any]:
        """Fetch new events, print the removals among them; return live checkpoints."""
        after = self._events[-1]["seq"] if self._events else 0
        about: dict[str, Any] = {"job_id": JOB_ID, "after_seq": after, "limit": 500}
        new = self._api.get("/api/events", params=about).json()["events"]
        self._events += new
        for ids, why in report.removals(new):
            self._say("retention", f"{len(ids)} removed by {why}", "yellow")
        answer = self._api.get("/api/checkpoints", params={"job_id": JOB_ID}).json()
        return list(answer["checkpoints"])

    def _milepost(self, verb: str, *options: str) -> tuple[int, dict[str, Any]]:
        """Run a command; return its exit status and its answer as JSON."""
        more = (*options, "--json", "--config=config.toml")
        status = self._folder.wait(self._folder.start(verb, MILEPOST, verb, *more))
        lines = (self._folder.root / f"{verb}.log").read_text().splitlines()
        return status, json.loads(lines[-1])

    def _show(self, checks: list[report.Check]) -> None:
        """Show the end; on a terminal, keep the server up until a signal."""
        self._say("history", f"of {JOB_ID}, all that ever happened to it")
        names = ("#", "when (UTC)", "who", "what", "why")
        table = Table(*names, box=box.SIMPLE_HEAD, pad_edge=False)
        seqs = report.saved_ids(self._events)
        for event in self._events:
            table.add_row(*map(Text, report.row(event, seqs)))
        self._console.print(table)
        for is_ok, text in checks:
            label, style = ("ok", "green") if is_ok else ("FAILED", "bold red")
            self._say(label, text, style)
        command = shlex.quote(os.path.relpath(MILEPOST))
        store = f"--store {shlex.quote(str(self._folder.root / 'store'))}"
        self._say("next", f"{command} show {JOB_ID} --raw {store} | jq .totals")
        self._say("", f"{command} log {JOB_ID} --reverse {store}")
        took = f"{time.monotonic() - self._started_at:.0f} s"
        self._say("took", f"{took}; all of it is kept in {self._folder.root}")
        if self._console.is_terminal:
            self._say("", f"curl '{self._url}/api/checkpoints?job_id={JOB_ID}'")
            self._say("up at", f"{self._url} until Ctrl-C", "bold")
            with suppress(Stopped):
                self._folder.wait(self._server)


def main() -> int:
    """Run the demo and return its exit code."""
    name = "python -m demo"
    parser = argparse.ArgumentParser(name, description=__doc__, parents=[WORK])
    place = "where to put store, logs and results (%(default)s); replaces the last demo"
    parser.add_argument("--folder", type=Path, default=Path("demo-data"), help=place)
    asked = parser.parse_args()
    try:
        with Folder(asked.folder) as folder:
            is_kept = Story(asked, folder).tell()
    except Stopped as stopped:
        (number,) = stopped.args
        print(f"demo: stopped by {number.name}, nothing runs any more", file=sys.stderr)
        return 128 + int(number)
    except (DemoFailed, HTTPError, OSError) as exc:
        sys.exit(f"demo: {exc}")
    return 0 if is_kept else 1


if __name__ == "__main__":
    sys.exit(main())
