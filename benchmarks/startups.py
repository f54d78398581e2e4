"""The start-up time of the command line, beyond Python itself."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from typing import TYPE_CHECKING

from benchmarks import stores
from benchmarks.running import PROJECT, Figure, Subject, Target
from benchmarks.timing import race

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from benchmarks.running import Run

_TITLE = "Start-up of the command"
_NOTE = (
    "`milepost list` of a job with three checkpoints, in pairs with "
    "`python -c pass`; the target is for the difference."
)
_IMPORTS = (
    "import milepost.api.cli.main, milepost.api.cli.commands.list;"
    " from milepost import CheckpointManager"
)
_COMMAND = "import sys; from milepost.api.cli.main import main; sys.exit(main())"


def measure(run: Run) -> Subject:
    """Start both in turns and compare."""
    folder = run.new_folder("startup")
    store = folder / "store"
    stores.fill(store, ({"done": number} for number in range(3)))
    tried = command(folder, store, "list", stores.JOB, may_fail=True)
    if tried.returncode:
        reason = (tried.stderr or b"no message").decode().splitlines()[-1]
        return Subject(_TITLE, _NOTE, skipped=f"`milepost list` fails: {reason}")
    contenders: dict[str, Callable[[], object]] = {
        "bare": lambda: _python(folder, ["-c", "pass"]),
        "imports": lambda: _python(folder, ["-c", _IMPORTS]),
        "listing": lambda: command(folder, store, "list", stores.JOB),
    }
    times = race(contenders, rounds=run.pick(25, 4))
    bare, ours = times["bare"], times["listing"]
    pairs = zip(ours.seconds, bare.seconds, strict=True)
    more = statistics.median(a - b for a, b in pairs)
    figures = (
        ours.figure("milepost list", "ms", beside=("python -c pass", bare)),
        Figure(
            "milepost list, beyond Python",
            more * 1e3,
            "ms",
            target=Target(100),
            why=f"Python and the imports take {times['imports'].p50 * 1e3:.0f} ms",
        ),
    )
    return Subject(_TITLE, _NOTE, figures)


def command(
    folder: Path, store: Path, *words: str, may_fail: bool = False
) -> subprocess.CompletedProcess[bytes]:
    """Run `milepost` in a folder, on a store."""
    started = ["-c", _COMMAND, "--store", str(store), *words]
    return _python(folder, started, may_fail=may_fail)


def _python(
    folder: Path, arguments: list[str], *, may_fail: bool = False
) -> subprocess.CompletedProcess[bytes]:
    """Run Python where no config.toml and no setting of the caller interferes.

    With bytecode from the run before, as an installed package has it.
    """
    ours = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("MILEPOST_", "PYTHON"))
    }
    more = {"PYTHONPATH": str(PROJECT), "PYTHONPYCACHEPREFIX": str(folder / "cache")}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**ours, **more},
        check=not may_fail,
        capture_output=True,
    )
