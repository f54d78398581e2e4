"""The benchmarks run end to end and store what they found; nothing here is timed."""

from __future__ import annotations

import json
import math
import re
import socket
import subprocess
import sys
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import pytest

from benchmarks import chart, report
from benchmarks.contenders import NAMES, OURS, stores_of_states
from benchmarks.peers import Paged, Removing
from benchmarks.running import Figure, Subject, Target
from benchmarks.timing import Times, figures, race, race_from_start

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PROJECT = Path(__file__).resolve().parents[2]
SUBJECTS = {
    "save",
    "group",
    "processes",
    "replay",
    "read",
    "api",
    "notice",
    "open",
    "bytes",
    "states",
    "plan",
    "startup",
    "listings",
    "workflows",
    "steps",
}
UNITS = {"µs", "ms", "saves/s", "steps/s", "events/s", "requests/s", "bytes"}


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
            named = f"- **{figure['name']}, {figure['unit']}**: "
            assert named in " ".join(printed.split())


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
    assert "| event line of a plain save, without its ids, bytes |" in page
    assert set(results(tmp_path)["subjects"]) == {"bytes"}
    ET.parse(tmp_path / "results" / "latest.svg")


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


def cost(
    peer: str, ratio: float, *, name: str = "10 KB, edited", **more: Any
) -> Figure:
    """Milepost takes 300 µs."""
    return Figure(
        name, 300.0, "µs", peer=peer, peer_value=300 / ratio, ratio=ratio, **more
    )


def rate(peer: str, ratio: float) -> Figure:
    found = cost(peer, ratio, name="a job each")
    return found._replace(unit="saves/s")


def subject(*figures: Figure) -> Subject:
    return Subject("Durable save", "How to read it.", figures)


def cells(subjects: list[Subject], name: str) -> dict[str, str]:
    lines = [line.split(" | ") for line in report.table(subjects).splitlines()]
    (found,) = (line for line in lines if line[0] == f"| {name}")
    heads = [cell.strip("| ") for cell in lines[0]]
    return dict(zip(heads, (cell.strip("| ") for cell in found), strict=True))


def test_all_figures_of_one_name_are_one_row_with_a_column_for_each_system() -> None:
    target = Target(1.15, of="ratio")
    found = subject(
        cost("SQLite", 0.5, target=target), cost("LMDB", 2.0), cost("bare append", 3.0)
    )
    assert cells([found], "10 KB, edited, µs") == {
        "": "10 KB, edited, µs",
        "Milepost": "300",
        "SQLite": "600 (0.50 x)",
        "LMDB": "150 (2.00 x)",
        "references": "bare append 100 (3.00 x)",
        "wins": "LMDB",
        "targets": "≤ 1.15 x SQLite: 0.500, met",
    }


@pytest.mark.parametrize(
    ("beside", "winner"),
    [
        ((cost("SQLite", 0.9), cost("LMDB", 0.8)), OURS),
        ((cost("SQLite", 1.1), cost("LMDB", 1.2)), "LMDB"),
        ((rate("SQLite", 1.1), rate("LMDB", 1.2)), OURS),
        ((rate("SQLite", 0.9), rate("LMDB", 0.8)), "LMDB"),
        ((cost("SQLite", 0.9), cost("bare append", 9.0)), OURS),
        ((cost("SQLite", 0.9), cost("Milepost, codec json", 1.5)), OURS),
        ((Figure("memory", 0.0, "bytes", None, "LMDB", 8.0, 0.0),), OURS),
        ((cost("bare append", 0.9),), None),
        ((Figure("memory", 8.0, "bytes"),), None),
    ],
)
def test_the_best_system_wins_a_row_and_a_reference_never_does(
    beside: tuple[Figure, ...], winner: str | None
) -> None:
    (row,) = report.rows(subject(*beside))
    assert row.winner == winner


def test_a_missed_target_stays_in_the_table_with_what_was_measured_about_it() -> None:
    target, why = Target(1.0, of="ratio"), "processor time, µs: 90 of 300"
    missed = cost("SQLite", 1.004, target=target, why=why)
    met = missed._replace(ratio=0.9)
    for figure, verdict in (
        (missed, "≤ 1 x SQLite: 1.004, **missed** (processor time, µs: 90 of 300)"),
        (met, "≤ 1 x SQLite: 0.900, met"),
    ):
        found = subject(figure)
        assert cells([found], "10 KB, edited, µs")["targets"] == verdict
        assert verdict in " ".join(report.section(found).split())


def test_the_text_of_a_row_names_every_figure_and_the_winner() -> None:
    text = report.section(subject(cost("SQLite", 1.5), cost("LMDB", 2.0)))
    item = "300; SQLite 200 (1.50 x); LMDB 150 (2.00 x); wins: LMDB"
    assert f"- **10 KB, edited, µs**: {item}" in " ".join(text.split())


def test_what_is_not_installed_is_named_as_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(report, "installed", lambda one: None if one.package else "")
    for line in report.contenders():
        is_missing = not line.startswith(("- SQLite", "- JSON files"))
        assert line.endswith("left out, not installed (`make peers`)") is is_missing


def drawn() -> tuple[dict[str, Subject], ET.Element]:
    subjects = {
        "save": subject(
            cost("SQLite", 0.5), cost("LMDB", 30.0), cost("bare append", 2.0)
        ),
        "processes": Subject("8 <processes>", "", (rate("SQLite", 20.0),)),
        "plan": subject(cost("SQLite", 1.0, name="not chosen")),
    }
    return subjects, ET.fromstring(chart.svg(chart.groups(subjects)))


def test_the_chart_shows_the_values_of_the_table_for_every_system() -> None:
    subjects, root = drawn()
    texts = [text.text or "" for text in root.iter("{http://www.w3.org/2000/svg}text")]
    shown = [text for text in texts if text.endswith(" x)")]
    assert shown == ["LMDB 10 (0.0333 x)", "SQLite 600 (2 x)", "SQLite 15 (20 x)"]
    assert "Durable save: 10 KB, edited, µs. Milepost 300" in texts
    assert "8 <processes>: a job each, saves/s. Milepost 300" in texts
    table = cells([*subjects.values()], "10 KB, edited, µs")
    assert table["Milepost"] == "300"
    assert table["LMDB"].startswith("10 ")
    assert table["SQLite"].startswith("600 ")


def test_a_bar_begins_at_milepost_and_grows_with_the_logarithm() -> None:
    _, root = drawn()
    bars = [bar.attrib for bar in root.iter("{http://www.w3.org/2000/svg}rect")]
    (ours,) = (
        float(line.attrib["x1"])
        for line in root.iter("{http://www.w3.org/2000/svg}line")
        if line.attrib.get("class") == "ours"
    )
    ahead, behind, far = bars
    assert float(ahead["x"]) + float(ahead["width"]) == pytest.approx(ours, abs=0.2)
    assert float(behind["x"]) == float(far["x"]) == ours
    lengths = [float(bar["width"]) for bar in bars]
    logarithms = [math.log(factor) for factor in (30, 2, 20)]
    assert [length / lengths[1] for length in lengths] == pytest.approx(
        [each / logarithms[1] for each in logarithms], rel=0.01
    )
    assert [bar["class"] for bar in bars] == ["ahead", "behind", "behind"]


def test_every_row_of_the_chart_is_measured_in_a_full_run() -> None:
    page = (PROJECT / "benchmarks/results/latest.md").read_text(encoding="utf-8")
    for names in chart.CHOSEN.values():
        for name in names:
            assert f"\n| {name}, " in page


def test_the_recorded_chart_has_the_values_of_the_recorded_table() -> None:
    results = PROJECT / "benchmarks/results"
    page = (results / "latest.md").read_text(encoding="utf-8")
    root = ET.parse(results / "latest.svg").getroot()
    texts = [text.text or "" for text in root.iter("{http://www.w3.org/2000/svg}text")]
    line = ""
    for text in texts:
        if head := re.fullmatch(r".+?: (.+)\. Milepost (\S+)", text):
            (line,) = (x for x in page.splitlines() if x.startswith(f"| {head[1]} | "))
            assert f"| {head[1]} | {head[2]} " in line
        elif bar := re.fullmatch(rf"({'|'.join(NAMES)}) (\S+) \(\S+ x\)", text):
            assert f"| {bar[2]} " in line


@pytest.mark.parametrize("name", stores_of_states())
def test_every_store_of_states_returns_what_it_was_given(
    tmp_path: Path, name: str
) -> None:
    opening: Callable[..., Any] = stores_of_states()[name]
    saved = [{"done": number, "text": "é" * number} for number in range(1, 8)]
    with closing(opening(tmp_path / name)) as peer:
        for state in saved:
            peer.save(state)
    with closing(opening(tmp_path / name)) as peer:
        if name == OURS:
            peer.look_up()
        assert [peer.load(number) for number in range(1, 8)] == saved
        assert peer.latest() == saved[-1]
        assert len(peer.list()) == 7
        if isinstance(peer, Paged):
            assert [*peer.page(2, 3)] == [*peer.list()][2:5]
        if isinstance(peer, Removing):
            peer.keep_last(3)
            assert len(peer.list()) == 3
            assert peer.latest() == saved[-1]


def test_a_race_has_a_figure_beside_each_other_contender_and_one_for_the_value() -> (
    None
):
    times = {"ours": Times(((2.0,),)), "a": Times(((1.0,),)), "b": Times(((4.0,),))}
    targets = {"ours": Target(3), "b": Target(1, of="ratio")}
    found = figures("row", "ms", "ours", times, targets=targets)
    assert [(f.peer, f.ratio, f.is_met) for f in found] == [
        ("a", 2.0, None),
        ("b", 0.5, True),
        (None, None, False),
    ]


def test_the_first_call_of_what_a_contender_opens_is_timed_and_then_it_is_closed() -> (
    None
):
    happened: list[str] = []

    @contextmanager
    def opening() -> Iterator[Callable[[], None]]:
        happened.append("opened")
        yield lambda: happened.append("called")
        happened.append("closed")

    times = race_from_start({"a": opening}, rounds=2)
    assert happened == ["opened", "called", "closed"] * 2
    assert [len(turn) for turn in times["a"].rounds] == [1, 1]
