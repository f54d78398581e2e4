"""How far a long pass is: for a person at a terminal, and for nobody else."""

from __future__ import annotations

import io
import os
import pty
import subprocess
from typing import TYPE_CHECKING

import pytest

from milepost.api.cli import progress
from milepost.api.cli.progress import Progress
from tests.support.cli import BIN, clean_environ, run

if TYPE_CHECKING:
    from pathlib import Path


class Screen(io.StringIO):
    """What a stream that is a terminal was told."""

    def __init__(self, *, is_terminal: bool = True) -> None:
        super().__init__()
        self._is_terminal = is_terminal

    def isatty(self) -> bool:
        return self._is_terminal


class Watched:
    """A progress on a screen, and a clock that is turned by hand."""

    def __init__(self, screen: Screen) -> None:
        self.screen = screen
        self.seconds = 0.0
        self.progress = Progress(screen, steady=lambda: self.seconds)
        self.progress.begin("verifying", 4)

    def job_after(self, seconds: float) -> str:
        """Be done with a job of a MiB and a half; return what is new on the screen."""
        before = len(self.screen.getvalue())
        self.seconds += seconds
        self.progress.piece(3 << 19)
        self.progress.job()
        return self.screen.getvalue()[before:]


def test_whoever_counts_himself_is_believed() -> None:
    seen = Watched(Screen())
    seen.progress.begin("simulating", unit="run")
    seen.seconds = 1.0
    seen.progress.reach(3, 12)
    assert seen.screen.getvalue().endswith("simulating: 3 of 12 runs (25%)\r")


def test_what_takes_longer_than_half_a_second_is_told_and_wiped_away() -> None:
    seen = Watched(Screen())
    with seen.progress:
        assert seen.job_after(0.4) == ""
        text = seen.job_after(0.2)
        assert text == "\r\x1b[Kverifying: 1 of 4 jobs (25%), 3.0 MiB read\r"
        assert seen.job_after(0.01) == ""
        assert "3 of 4 jobs (75%), 6.0 MiB read" in seen.job_after(0.2)
    assert seen.screen.getvalue().endswith("\r\x1b[K")


def test_what_is_over_soon_is_not_told() -> None:
    seen = Watched(Screen())
    with seen.progress:
        seen.job_after(0.4)
    assert seen.screen.getvalue() == ""


def test_a_file_is_told_nothing_however_long_it_takes() -> None:
    seen = Watched(Screen(is_terminal=False))
    with seen.progress:
        seen.job_after(60)
    assert seen.screen.getvalue() == ""


def test_a_terminal_that_goes_away_ends_no_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def gone(_: str) -> int:
        raise OSError(5, "Input/output error")

    seen = Watched(Screen())
    monkeypatch.setattr(seen.screen, "write", gone)
    with seen.progress:
        for _ in range(3):
            seen.job_after(1)


@pytest.mark.parametrize(
    "words", [("verify",), ("compact",), ("worker", "task", "verify")], ids=str
)
def test_at_a_terminal_the_pass_is_seen_and_the_answer_is_the_same(
    words: tuple[str, ...], store: Path
) -> None:
    plain = run(*words, "--json")
    assert "jobs (" not in plain.err
    at_once = (
        "from milepost.api.cli import progress; progress.SHOW_AFTER_SECONDS = 0.0; "
    )
    code = f"{at_once}import sys; sys.argv[0] = 'milepost'; "
    code += "from milepost.api.cli.main import main; main()"
    ours, theirs = pty.openpty()
    done = subprocess.run(
        [BIN / "python", "-c", code, *words],
        stdout=subprocess.PIPE,
        stderr=theirs,
        env=clean_environ(),
        timeout=30,
        check=True,
    )
    os.close(theirs)
    seen = os.read(ours, 65536).decode()
    os.close(ours)
    assert " of 1 job (" in seen
    assert done.stdout
    assert store.is_dir()
    assert progress.SHOW_AFTER_SECONDS == 0.5
