"""The benchmarks run end to end and store what they found; nothing here is timed."""

from __future__ import annotations

import json
import math
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.running import Figure, Target
from benchmarks.timing import Times, race

PROJECT = Path(__file__).resolve().parents[2]
SUBJECTS = {
    "save",
    "group",
    "replay",
    "read",
    "api",
    "notice",
    "memory",
    "bytes",
    "states",
    "plan",
    "startup",
    "workflows",
    "steps",
}
UNITS = {"µs", "ms", "saves/s", "steps/s", "events/s", "bytes"}


def bench(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    where = ["--folder", str(folder / "work"), "--results", str(folder / "results")]
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *where, *arguments],
        cwd=PROJECT,
        check=False,
        capture_output=True,
        text=True,
    )


def results(folder: Path) -> dict[str, Any]:
    (path,) = (folder / "results").glob("local-*.json")
    found: dict[str, Any] = json.loads(path.read_bytes())
    return found


@pytest.fixture(scope="module")
def quick_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quick")
    ran = bench(folder, "--quick")
    assert ran.returncode == 0, ran.stderr
    (folder / "printed").write_text(ran.stdout, encoding="utf-8")
    return folder


@pytest.mark.slow
def test_a_quick_run_measures_every_subject(quick_run: Path) -> None:
    subjects = results(quick_run)["subjects"]
    assert set(subjects) == SUBJECTS
    for subject in subjects.values():
        assert subject["skipped"] is None
        assert subject["figures"]


@pytest.mark.slow
def test_every_stored_figure_is_a_number_with_a_unit(quick_run: Path) -> None:
    subjects = results(quick_run)["subjects"].values()
    figures = [figure for subject in subjects for figure in subject["figures"]]
    for figure in figures:
        assert math.isfinite(figure["value"])
        assert figure["unit"] in UNITS
        assert (figure["target"] is None) == (figure["is_met"] is None)
        assert (figure["peer"] is None) == (figure["ratio"] is None)
    assert sum(figure["target"] is not None for figure in figures) >= 10


@pytest.mark.slow
def test_every_figure_of_every_subject_is_printed(quick_run: Path) -> None:
    printed = (quick_run / "printed").read_text(encoding="utf-8")
    for subject in results(quick_run)["subjects"].values():
        assert f"## {subject['title']}\n" in printed
        for figure in subject["figures"]:
            assert f"- **{figure['name']}**: " in " ".join(printed.split())


@pytest.mark.slow
def test_results_name_neither_the_machine_nor_its_folders(quick_run: Path) -> None:
    found = results(quick_run)
    text = json.dumps(found, ensure_ascii=False)
    assert socket.gethostname() not in re.split(r"[^\w.-]+", text)
    for private in (quick_run, PROJECT, Path.home()):
        assert f"{private}/" not in text
    known = {"system", "cores", "python", "orjson", "sqlite", "file_system", "load"}
    assert set(found["machine"]) == known


@pytest.mark.slow
def test_nothing_is_left_where_it_was_measured(quick_run: Path) -> None:
    assert list((quick_run / "work").iterdir()) == []


def test_rough_figures_are_never_recorded(tmp_path: Path) -> None:
    ran = bench(tmp_path, "--quick", "--record")
    assert ran.returncode == 2
    assert "--record" in ran.stderr
    assert list(tmp_path.iterdir()) == []


def test_recording_writes_the_page_next_to_the_results(tmp_path: Path) -> None:
    ran = bench(tmp_path, "--only", "bytes", "--record")
    assert ran.returncode == 0, ran.stderr
    page = (tmp_path / "results" / "latest.md").read_text(encoding="utf-8")
    assert "## Bytes\n" in page
    assert "event line of a plain save" in page
    assert set(results(tmp_path)["subjects"]) == {"bytes"}


def test_a_disk_that_changes_its_pace_does_not_change_the_ratio() -> None:
    bare = Times(((1.0,), (1.0,), (100.0, 100.0, 900.0, 100.0)))
    ours = Times(((2.0, 2.0, 2.0), (2.0,), (200.0,)))
    assert ours.ratio_to(bare) == pytest.approx(2)


def test_in_a_race_a_turn_begins_with_a_call_that_does_not_count() -> None:
    called: list[str] = []
    times = race(
        {"a": lambda: called.append("a"), "b": lambda: called.append("b")},
        rounds=3,
        calls=2,
    )
    assert [len(turn) for turn in times["a"].rounds] == [2, 2, 2]
    assert called.count("a") == called.count("b") == 9


@pytest.mark.parametrize(
    ("value", "ratio", "target", "is_met"),
    [
        (3.0, None, Target(3), True),
        (3.1, None, Target(3), False),
        (9.0, 1.4, Target(1.5, of="ratio"), True),
        (1.0, 1.6, Target(1.5, of="ratio"), False),
        (5.0, None, Target(5, is_floor=True), True),
        (4.9, None, Target(5, is_floor=True), False),
        (4.9, 9.0, None, None),
    ],
)
def test_a_target_is_for_the_value_or_the_ratio_at_most_or_at_least(
    value: float, ratio: float | None, target: Target | None, is_met: bool | None
) -> None:
    figure = Figure("a save", value, "ms", ratio=ratio, target=target)
    assert figure.is_met is is_met
