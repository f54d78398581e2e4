"""What the tests of the command line share: a store with a history, and two ways in."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from click.testing import CliRunner

from milepost import CheckpointManager
from milepost.api.cli.group import milepost
from milepost.journal.ids import file_name
from tests.support.eventually import DEADLINE_SECONDS

BIN = Path(sys.executable).parent
START = datetime(2026, 11, 20, 10, tzinfo=UTC)
JOB = "etl-daily"


class Done(NamedTuple):
    """What a run of the command line came to."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self.out)
        return answer

    @property
    def rows(self) -> list[list[str]]:
        return [line.split("\t") for line in self.out.splitlines()[1:]]


def clean_environ(**more: str) -> dict[str, str]:
    """Return an environment in which nothing of the person's own is set."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("MILEPOST_")}
    path = f"{BIN}{os.pathsep}{kept.get('PATH', '')}"
    return {**kept, "XDG_CONFIG_HOME": "/nonexistent", "PATH": path, **more}


def run(*words: str, stdin: bytes = b"", **environ: str) -> Done:
    """Run the real `milepost` in a process of its own."""
    done = subprocess.run(
        [BIN / "milepost", *words],
        input=stdin,
        capture_output=True,
        env=clean_environ(**environ),
        timeout=DEADLINE_SECONDS,
        check=False,
    )
    return Done(done.returncode, done.stdout.decode(), done.stderr.decode())


def call(*words: str, stdin: bytes | str = "") -> Done:
    """Run `milepost` in this process: the same code, a tenth of the time."""
    done = CliRunner().invoke(milepost, words, input=stdin)
    return Done(done.exit_code, done.stdout, done.stderr)


def reader(store: Path) -> CheckpointManager:
    """Open the store as another process would see it."""
    return CheckpointManager(store)


def ids_of(store: Path, job: str = JOB) -> list[str]:
    with reader(store) as manager:
        return [info.checkpoint_id for info in manager.list(job)]


def types_of(store: Path, job: str = JOB) -> list[str]:
    with reader(store) as manager:
        return [event["type"] for event in manager.history(job)]


def damage(store: Path, job: str = JOB) -> None:
    """Flip one byte of an event in the middle of a job's journal."""
    journal = store / "journals" / f"{file_name(job)}.jsonl"
    raw = journal.read_bytes()
    journal.write_bytes(raw.replace(b'"step_name":"load"', b'"step_name":"loaD"'))
