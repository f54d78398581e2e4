"""The watcher: what it notices, how soon, and what can't end it."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from watchdog.observers.inotify_c import InotifyFD

from milepost.journal.ids import file_name
from milepost.worker import watcher
from milepost.worker.config import files
from milepost.worker.watcher import MAX_HINTS, ConfigWatch, Watcher, WatchTiming
from tests.support.eventually import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from milepost.worker.config.files import Signature
    from milepost.worker.watcher import Mode

NEVER = 3600.0


class Watched:
    """A watcher on a folder, and all that it said."""

    def __init__(
        self,
        folder: Path,
        *,
        mode: Mode = "auto",
        sweep_seconds: float = NEVER,
        debounce_seconds: float = 0.01,
        config: Path | None = None,
        signature: Signature | None = None,
    ) -> None:
        self.journals = folder / "journals"
        self.journals.mkdir(exist_ok=True)
        self.hinted: list[set[str]] = []
        self.sweeps = 0
        self.touched_at = -1
        self.times: list[float] = []
        self.look_seconds = 0.0
        self.edits = 0
        self.raising: Exception | None = None
        self.next_pace: WatchTiming | None = None
        watch = None
        if config:
            read = signature or files.signature(config)
            watch = ConfigWatch(config, read, self._edited)
        pace = WatchTiming(mode, sweep_seconds, debounce_seconds)
        self.watcher = Watcher(self.journals, self._told, config=watch, pace=pace)

    def _told(self, jobs: set[str] | None) -> None:
        if jobs is None:
            self.times.append(time.monotonic())
            self.sweeps += 1
            threading.Event().wait(self.look_seconds)
        else:
            self.hinted.append(jobs)
        if self.raising:
            raise self.raising

    def _edited(self) -> None:
        self.edits += 1
        if self.next_pace:
            self.watcher.set_pace(self.next_pace)

    @property
    def jobs(self) -> set[str]:
        return set().union(*self.hinted)

    def touch(self, job_id: str) -> Path:
        path = self.journals / f"{file_name(job_id)}.jsonl"
        with path.open("a") as file:
            file.write("x\n")
        return path

    def is_told_of(self, job_id: str) -> bool:
        """Touch a job once more after each sweep; return whether it was hinted at.

        A touch may come before its folder is watched, or fall together with a sweep:
        so sweeps must leave room between them, on a busy machine too.
        """
        if self.sweeps != self.touched_at:
            self.touched_at = self.sweeps
            self.touch(job_id)
        return job_id in self.jobs

    def start(self) -> None:
        """Start, and return once the folders are watched."""
        self.watcher.start()
        eventually(lambda: self.sweeps)


@pytest.fixture
def watch(tmp_path: Path) -> Iterator[Callable[..., Watched]]:
    made: list[Watched] = []

    def make(**options: Any) -> Watched:
        watched = Watched(tmp_path, **options)
        made.append(watched)
        return watched

    yield make
    for each in made:
        assert each.watcher.stop(10)


@pytest.mark.parametrize("mode", ["inotify", "poll"])
def test_a_write_is_noticed_without_any_sweep(
    mode: str, watch: Callable[..., Watched]
) -> None:
    seen = watch(mode=mode)
    seen.start()
    seen.touch("a/b")
    eventually(lambda: seen.jobs == {"a/b"})
    assert seen.watcher.kind == mode
    assert seen.sweeps == 1


def test_the_sweep_comes_also_when_nothing_is_reported(
    watch: Callable[..., Watched],
) -> None:
    seen = watch(mode="off", sweep_seconds=0.05)
    seen.start()
    eventually(lambda: seen.sweeps > 3)
    assert seen.watcher.kind == "off"
    assert seen.hinted == []


def test_hints_do_not_put_the_sweep_off(watch: Callable[..., Watched]) -> None:
    seen = watch(sweep_seconds=0.1)
    seen.start()

    def keeps_coming() -> bool:
        seen.touch("a")
        return seen.sweeps > 3

    eventually(keeps_coming)


def test_more_hints_than_are_kept_become_a_look_at_all(
    watch: Callable[..., Watched],
) -> None:
    seen = watch()
    seen.start()
    names = {f"job-{number}" for number in range(2 * MAX_HINTS)}
    for name in names:
        seen.touch(name)
    eventually(lambda: seen.sweeps > 1 or seen.jobs >= names)


def test_a_name_that_cannot_be_read_back_is_a_look_at_all(
    watch: Callable[..., Watched],
) -> None:
    seen = watch()
    seen.start()
    seen.touch("ü" * 200)
    eventually(lambda: seen.sweeps == 2)
    (seen.journals / os.fsdecode(b"\xff.jsonl")).touch()
    eventually(lambda: seen.sweeps == 3)
    seen.touch("after")
    eventually(lambda: "after" in seen.jobs)


def test_a_renamed_journal_is_noticed_and_other_files_are_not(
    watch: Callable[..., Watched],
) -> None:
    seen = watch()
    aside = seen.journals / "a.jsonl.new"
    seen.start()
    aside.write_text("x")
    aside.rename(seen.journals / "a.jsonl")
    eventually(lambda: seen.jobs == {"a"})


@pytest.mark.parametrize("how", ["removed", "renamed"])
def test_a_folder_that_was_made_anew_is_watched_anew(
    how: str, watch: Callable[..., Watched]
) -> None:
    seen = watch(sweep_seconds=0.5)
    seen.start()
    seen.touch("before")
    eventually(lambda: "before" in seen.jobs)
    if how == "removed":
        (seen.journals / "before.jsonl").unlink()
        seen.journals.rmdir()
    else:
        seen.journals.rename(seen.journals.with_name("old"))
    seen.journals.mkdir()
    eventually(lambda: seen.is_told_of("after"))


def test_a_folder_that_is_not_there_yet_is_watched_once_it_is(
    watch: Callable[..., Watched],
) -> None:
    seen = watch(sweep_seconds=0.5)
    seen.journals.rmdir()
    seen.start()
    seen.journals.mkdir()
    eventually(lambda: seen.is_told_of("a"))


def test_a_folder_that_vanishes_while_it_is_being_watched_is_no_reason_to_poll(
    watch: Callable[..., Watched], monkeypatch: pytest.MonkeyPatch
) -> None:
    add = InotifyFD._get_or_create_watch
    refusals = [FileNotFoundError()]

    def refuse_once(*arguments: Any) -> Any:
        if refusals:
            raise refusals.pop()
        return add(*arguments)

    monkeypatch.setattr(InotifyFD, "_get_or_create_watch", refuse_once)
    seen = watch(sweep_seconds=0.5)
    seen.start()
    eventually(lambda: seen.is_told_of("a"))
    assert seen.watcher.kind == "inotify"


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        ("_create_inotify_fd", errno.EMFILE),
        ("_get_or_create_watch", errno.ENOSPC),
    ],
)
def test_without_room_for_inotify_it_polls(
    step: str,
    reason: int,
    watch: Callable[..., Watched],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(reason, "inotify has no room")

    monkeypatch.setattr(InotifyFD, step, refuse)
    seen = watch()
    seen.start()
    assert seen.watcher.kind == "poll"
    seen.touch("a")
    eventually(lambda: seen.jobs == {"a"})


OVERFLOWN = """
import pathlib, sys, time
from milepost.worker.watcher import WatchTiming, Watcher
looks = 0
def told(jobs):
    global looks
    looks += jobs is None
    print("all" if jobs is None else " ".join(jobs), flush=True)
timing = WatchTiming("inotify", 2.0, 0.01)
watcher = Watcher(pathlib.Path(sys.argv[1]), told, pace=timing)
watcher.start()
sys.stdin.read()
"""


def test_it_survives_a_queue_of_events_that_ran_over(tmp_path: Path) -> None:
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    child = subprocess.Popen(
        [sys.executable, "-c", OVERFLOWN, tmp_path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == "all\n"
        child.send_signal(signal.SIGSTOP)
        os.waitpid(child.pid, os.WUNTRACED)  # until it has stopped
        # In turns, for the kernel tells of two events alike in a row only once.
        files = [(tmp_path / f"{name}.jsonl").open("ab", 0) for name in "ab"]
        for number in range(limit + 2000):
            files[number % 2].write(b"x")
        (tmp_path / "lost.jsonl").touch()
        child.send_signal(signal.SIGCONT)
        hinted = [*iter(child.stdout.readline, "all\n")]
        assert "lost" not in "".join(hinted), "nothing ran over"
        for file in files:
            file.close()
        # A touch that falls together with a sweep is told by the sweep: touch again.
        # What was queued behind the overflow may be hinted at first.
        hint = ""
        while "later" not in hint.split():
            with (tmp_path / "later.jsonl").open("ab", 0) as later:
                later.write(b"x")
            hint = child.stdout.readline()


def test_hints_do_not_wait_for_the_rest_after_a_sweep(
    watch: Callable[..., Watched], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watcher, "REST_FACTOR", NEVER / 0.1)
    monkeypatch.setattr(watcher, "MAX_REST_SECONDS", NEVER)
    seen = watch()
    seen.look_seconds = 0.1
    seen.start()
    seen.touch("a")
    eventually(lambda: seen.jobs == {"a"})


def test_in_a_store_that_is_never_quiet_a_hint_waits_no_longer(
    watch: Callable[..., Watched],
) -> None:
    seen = watch(debounce_seconds=0.05)
    seen.start()
    stop = threading.Event()

    def burst() -> None:
        while not stop.wait(0.02):
            seen.touch("other")

    writer = threading.Thread(target=burst)
    writer.start()
    try:
        eventually(lambda: len(seen.hinted) >= 5)
    finally:
        stop.set()
        writer.join()


def test_a_look_that_takes_long_is_followed_by_a_longer_rest(
    watch: Callable[..., Watched],
) -> None:
    seen = watch(mode="off", sweep_seconds=0.05)
    seen.look_seconds = 0.1
    seen.watcher.start()
    eventually(lambda: seen.sweeps == 3)
    first, second, third = seen.times[:3]
    assert min(second - first, third - second) >= 1.0


def test_a_callback_that_raises_does_not_end_it(
    watch: Callable[..., Watched], caplog: pytest.LogCaptureFixture
) -> None:
    seen = watch(sweep_seconds=0.5)
    seen.raising = RuntimeError("a bug")
    seen.start()
    eventually(lambda: seen.sweeps > 2)
    assert "a bug" in caplog.text


@pytest.mark.parametrize("mode", ["inotify", "poll", "off"])
def test_stopping_ends_every_thread(mode: str, watch: Callable[..., Watched]) -> None:
    before = set(threading.enumerate())
    seen = watch(mode=mode)
    seen.start()
    assert set(threading.enumerate()) > before
    assert seen.watcher.stop(10)
    assert set(threading.enumerate()) == before


# -- the config file -------------------------------------------------------------------


def rewrite(path: Path) -> None:
    path.write_text("new = 1\n")


def rename_over(path: Path) -> None:
    aside = path.with_name(".config.toml.swp")
    aside.write_text("new = 1\n")
    aside.rename(path)


def swap_link(path: Path) -> None:
    (path.parent / "v2").write_text("new = 1\n")
    aside = path.with_name("link")
    aside.symlink_to("v2")
    aside.rename(path.parent / "current")


def remove(path: Path) -> None:
    path.unlink()


EDITS = [rewrite, rename_over, swap_link, remove]


@pytest.mark.parametrize("mode", ["auto", "off"])
@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.__name__)
def test_an_edit_of_the_config_file_is_told_once(
    edit: Callable[[Path], None],
    mode: str,
    tmp_path: Path,
    watch: Callable[..., Watched],
) -> None:
    folder = tmp_path / "etc"
    folder.mkdir()
    (folder / "v1").write_text("old = 1\n")
    (folder / "current").symlink_to("v1")
    config = folder / "config.toml"
    if edit is swap_link:
        config.symlink_to("current")
    else:
        config.write_text("old = 1\n")
    sweep = 0.05 if mode == "off" else NEVER
    seen = watch(mode=mode, sweep_seconds=sweep, config=config)
    seen.start()
    edit(config)
    eventually(lambda: seen.edits)
    looks = seen.sweeps
    seen.touch("later")
    eventually(lambda: seen.sweeps > looks + 3 or "later" in seen.jobs)
    assert seen.edits == 1


def test_an_edit_after_the_file_was_read_and_before_the_start_is_told(
    tmp_path: Path, watch: Callable[..., Watched]
) -> None:
    config = tmp_path / "config.toml"
    config.write_text("old = 1\n")
    as_read = files.signature(config)
    rename_over(config)
    seen = watch(config=config, signature=as_read)
    seen.start()
    eventually(lambda: seen.edits == 1)


def test_a_file_that_is_being_written_is_told_when_it_is_whole(
    tmp_path: Path, watch: Callable[..., Watched]
) -> None:
    config = tmp_path / "config.toml"
    config.write_text("old = 1\n")
    seen = watch(config=config, debounce_seconds=1.0)
    seen.start()
    before = seen.watcher._seen
    config.write_text("ne")
    eventually(lambda: seen.watcher._seen != before)
    assert seen.edits == 0
    config.write_text("new = 1\n")
    eventually(lambda: seen.edits)
    assert seen.watcher._applied == files.signature(config)


def test_other_files_beside_the_config_file_are_no_edits(
    tmp_path: Path, watch: Callable[..., Watched]
) -> None:
    config = tmp_path / "config.toml"
    config.write_text("old = 1\n")
    seen = watch(config=config, sweep_seconds=0.05)
    seen.start()
    (tmp_path / "other.toml").write_text("x")
    looks = seen.sweeps
    eventually(lambda: seen.sweeps > looks + 3)
    assert seen.edits == 0


def test_the_way_of_watching_can_change_while_it_runs(
    tmp_path: Path, watch: Callable[..., Watched]
) -> None:
    config = tmp_path / "config.toml"
    config.write_text("old = 1\n")
    seen = watch(config=config, mode="inotify")
    seen.next_pace = WatchTiming("poll", 3.0, 0.01)
    seen.start()
    rewrite(config)
    eventually(lambda: seen.watcher.kind == "poll")
    eventually(lambda: seen.is_told_of("a"))
