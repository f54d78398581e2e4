"""What every test may use: a clock that is turned by hand, and a store of its own."""

from __future__ import annotations

import gc
import os
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from milepost import CheckpointManager
from tests.support.cli import JOB, START
from tests.support.clock import Clock

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from tests.support.tally import Tally


# Each of them runs in an environment of its own (`make adapters`).
collect_ignore = ["adapters"]

# How long an example takes depends on what else the machine does.
settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def entered_by_all() -> Iterator[Path]:
    """A folder that every user may enter, unlike pytest's, which are their owner's."""
    with tempfile.TemporaryDirectory(prefix="milepost-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The folder of a store that does not exist yet."""
    return tmp_path / "store"


@pytest.fixture
def manager(root: Path, clock: Clock) -> Iterator[CheckpointManager]:
    with CheckpointManager(root, clock=clock) as made:
        yield made


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, with nothing set in the environment."""
    for name in os.environ:
        if name.startswith("MILEPOST_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", "/nonexistent")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def store(folder: Path) -> Path:
    """`checkpoints`: three checkpoints of one job, a minute apart, seqs 2, 3 and 4."""
    clock = Clock(START)
    with CheckpointManager("checkpoints", clock=clock) as manager:
        manager.save(JOB, "extract", {"rows": 0, "files": ["a"]})
        clock.turn(minutes=1)
        manager.save(JOB, "load", {"rows": 120, "files": ["a", "b"]}, tags=["prod"])
        clock.turn(minutes=1)
        manager.save(JOB, "report", {"rows": 120, "total": {"a": 1.5}}, pinned=True)
    return folder / "checkpoints"


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Keep what is collected, a quarter of a million objects, from the collector.

    It lives until the end; a `gc.collect()` of a test would visit all of it.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark the rows of a sampled test as slow, except each of `every`."""
    mark = item.get_closest_marker("sampled")
    if mark is None:
        return
    seen = item.session.stash.setdefault(_ROWS, Counter())
    name = item.nodeid.partition("[")[0]
    if seen[name] % mark.kwargs["every"]:
        item.add_marker("slow")
    seen[name] += 1


_ROWS = pytest.StashKey[Counter[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("crash states")
    group.addoption(
        "--crash-states",
        type=int,
        default=500,
        help="how many states at most to visit in each workload (slow: 20 times)",
    )
    group.addoption("--crash-seed", type=int, default=1, help="which, and their ids")


# Of a slow test, on a machine that has much else to do.
_SLOW_SECONDS = 2400


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(_SLOW_SECONDS))


_TRIED = "tried: "


@pytest.fixture
def tally(record_property: Callable[[str, object], None]) -> Tally:
    """Return what notes how much was tried; the sums stand at the end of a run."""

    def tally(what: str, count: int) -> None:
        record_property(f"{_TRIED}{what}", count)

    return tally


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    tried = Counter[str]()
    for report in terminalreporter.getreports("passed"):
        for name, count in report.user_properties:
            if name.startswith(_TRIED) and isinstance(count, int):
                tried[name.removeprefix(_TRIED)] += count
    for what, count in sorted(tried.items()):
        terminalreporter.write_line(f"{_TRIED}{count:,} {what}")
    if tried["crash states"]:
        seed = config.getoption("--crash-seed")
        terminalreporter.write_line(f"again with: --crash-seed {seed}")


# What a test may be skipped for even in CI: nobody can install another kernel, and a
# container's forbids some things.  Each skip is listed at the end of a run.
_BEYOND_US = "this kernel "


def _complain_in_ci(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Where everything must run, a test that could not is a test that failed."""
    if os.environ.get("CI") != "true" or not report.skipped:
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else ""
    reason = reason.removeprefix("Skipped: ")
    if not reason.startswith(_BEYOND_US):
        report.outcome = "failed"
        report.longrepr = f"skipped in CI, where it has to run: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[
    None, pytest.TestReport, pytest.TestReport
]:
    report = yield
    _complain_in_ci(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[
    None, pytest.CollectReport, pytest.CollectReport
]:
    report = yield
    _complain_in_ci(report)
    return report
