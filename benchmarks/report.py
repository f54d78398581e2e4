"""Results as one table and as text for people, and as JSON for machines."""

from __future__ import annotations

import textwrap
from itertools import compress
from typing import TYPE_CHECKING, NamedTuple, TypedDict

from benchmarks.contenders import CONTENDERS, NAMES, OURS, installed
from benchmarks.machine import cautions

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from benchmarks.machine import Machine
    from benchmarks.running import Figure, Subject, Target

_WIDTH = 100  # of documents, but not of the table
_EXACT_FROM = 100


class FigureJson(TypedDict):
    """One figure."""

    name: str
    value: float
    unit: str
    p99: float | None
    peer: str | None
    peer_value: float | None
    peer_p99: float | None
    ratio: float | None
    target: str | None
    is_met: bool | None
    why: str | None


class SubjectJson(TypedDict):
    """One subject; `skipped` is the reason if it has no figures."""

    title: str
    note: str
    skipped: str | None
    figures: list[FigureJson]


class Report(NamedTuple):
    """A whole run."""

    at: str
    is_quick: bool
    machine: Machine
    subjects: dict[str, Subject]


class Row(NamedTuple):
    """All figures of one name: a line of the table."""

    figures: tuple[Figure, ...]

    @property
    def first(self) -> Figure:
        """The figure that says what Milepost needs."""
        return self.figures[0]

    @property
    def name(self) -> str:
        """What was measured, and its unit."""
        return f"{self.first.name}, {self.first.unit}"

    @property
    def beside(self) -> dict[str, Figure]:
        """The figures beside another contender, by its name."""
        return {f.peer: f for f in self.figures if f.peer is not None}

    @property
    def winner(self) -> str | None:
        """The best of the systems that were measured; None if there is only one.

        Variants of Milepost and references, such as a bare append, are no systems.
        """
        # Milepost's value to theirs is smallest for the best rate or the worst cost.
        found = {OURS: 1.0}
        found |= {
            name: figure.ratio
            for name, figure in self.beside.items()
            if name in NAMES and figure.ratio is not None
        }
        best = min if self.first.is_rate else max
        return best(found, key=lambda n: found[n]) if len(found) > 1 else None

    @property
    def verdicts(self) -> list[str]:
        """Each target, what was found, and if it was missed, what was measured."""
        return [_verdict(f) for f in self.figures if f.is_met is not None]


def rows(subject: Subject) -> list[Row]:
    """Return the rows of a subject, in the order of their first figures."""
    found: dict[str, list[Figure]] = {}
    for figure in subject.figures:
        found.setdefault(figure.name, []).append(figure)
    return [Row(tuple(figures)) for figures in found.values()]


def section(subject: Subject) -> str:
    """Return a subject as text: its note, and an item for each row."""
    parts = [f"## {subject.title}", textwrap.fill(subject.note, _WIDTH)]
    if subject.skipped is not None:
        parts.append(textwrap.fill(f"**Skipped:** {subject.skipped}", _WIDTH))
    else:
        parts.append("\n".join(map(_item, rows(subject))))
    return "\n\n".join(parts) + "\n"


def table(
    subjects: Iterable[Subject], *, ours: str = OURS, names: Iterable[str] = NAMES
) -> str:
    """Return all rows as one table in Markdown, with a column for each system."""
    subjects = list(subjects)
    measured = {f.peer for subject in subjects for f in subject.figures}
    systems = [name for name in names if name in measured]
    heads = ["", ours, *systems, "references", "wins", "targets"]
    cells = [heads, ["---"] * len(heads)]
    for subject in subjects:
        cells.append([f"**{subject.title}**", *[""] * (len(heads) - 1)])
        cells += [[*_cells(row, systems)] for row in rows(subject)]
    used = [any(row[n] for row in cells[2:]) for n in range(len(heads))]
    return "".join(_line(compress(row, used)) + "\n" for row in cells)


def contenders() -> list[str]:
    """Return a line for each other system: how it is set up, and what it lacks."""
    found = []
    for contender in CONTENDERS:
        number = installed(contender)
        if number is None:
            found.append(f"- {contender.name}: left out, not installed (`make peers`)")
            continue
        name = f"{contender.name} {number}".rstrip()
        found.append(f"- {name}: {contender.how}; {contender.lacks}")
    return found


def markdown(report: Report) -> str:
    """Return a run as a page: its table, then how to read each subject."""
    kind = " (a quick run: rough figures)" if report.is_quick else ""
    facts = ", ".join(f"{k.replace('_', ' ')} {v}" for k, v in report.machine.items())
    texts = [f"{report.at}; {facts}.", *cautions(report.machine), _READING]
    parts = [f"# Measured side by side{kind}"]
    parts += [textwrap.fill(text, _WIDTH) for text in texts]
    parts.append("\n".join(map(_wrapped_item, contenders())))
    parts.append(table(report.subjects.values()))
    for subject in report.subjects.values():
        note = (
            subject.note if subject.skipped is None else f"Skipped: {subject.skipped}"
        )
        parts += [f"## {subject.title}", textwrap.fill(note, _WIDTH)]
    return "\n\n".join(part.rstrip() for part in parts) + "\n"


_READING = (
    "A cell has the median, for what waits the 99th percentile after a slash, and in "
    "brackets Milepost's figure as a multiple of it: the median of the rounds' own "
    "ratios.  *References* are variants of Milepost and the least work that could do "
    "the same; they win no row.  A missed target stays in the table, with what was "
    "measured about it."
)


def as_json(report: Report) -> dict[str, object]:
    """Return a run as plain values."""
    return {
        "format": 1,
        "at": report.at,
        "is_quick": report.is_quick,
        "machine": report.machine,
        "subjects": {
            name: _subject_json(subject) for name, subject in report.subjects.items()
        },
    }


def _subject_json(subject: Subject) -> SubjectJson:
    return {
        "title": subject.title,
        "note": subject.note,
        "skipped": subject.skipped,
        "figures": [_figure_json(figure) for figure in subject.figures],
    }


def _figure_json(figure: Figure) -> FigureJson:
    return {
        "name": figure.name,
        "value": figure.value,
        "unit": figure.unit,
        "p99": figure.p99,
        "peer": figure.peer,
        "peer_value": figure.peer_value,
        "peer_p99": figure.peer_p99,
        "ratio": figure.ratio,
        "target": _target(figure.target, figure) or None,
        "is_met": figure.is_met,
        "why": figure.why or None,
    }


def _item(row: Row) -> str:
    """Return `name: what each needs; who wins; the targets`."""
    parts = [f"**{row.name}**: {_values(row.first.value, row.first.p99)}"]
    parts += [f"{name} {_beside(figure)}" for name, figure in row.beside.items()]
    if row.winner is not None:
        parts.append(f"wins: {row.winner}")
    return _wrapped_item(f"- {'; '.join([*parts, *row.verdicts])}")


def _wrapped_item(text: str) -> str:
    return textwrap.fill(text, _WIDTH, subsequent_indent="  ", break_on_hyphens=False)


def _cells(row: Row, systems: Iterable[str]) -> Iterator[str]:
    yield row.name
    yield _values(row.first.value, row.first.p99)
    beside = row.beside
    yield from (_beside(beside[name]) if name in beside else "" for name in systems)
    others = [name for name in beside if name not in (*NAMES, *systems)]
    yield "; ".join(f"{name} {_beside(beside[name])}" for name in others)
    yield row.winner or ""
    yield "; ".join(row.verdicts)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _beside(figure: Figure) -> str:
    """Return what a peer needs, and Milepost's multiple of it."""
    values = _values(figure.peer_value, figure.peer_p99)
    return values if figure.ratio is None else f"{values} ({figure.ratio:.2f} x)"


def _values(value: float | None, p99: float | None) -> str:
    return number(value) if p99 is None else f"{number(value)} / {number(p99)}"


def _verdict(figure: Figure) -> str:
    assert figure.target is not None
    is_value = figure.target.of == "value"
    found = number(figure.value) if is_value else f"{figure.ratio:.3f}"
    text = f"{_target(figure.target, figure)}: {found}"
    if figure.is_met:
        return f"{text}, met"
    return f"{text}, **missed**" + (f" ({figure.why})" if figure.why else "")


def _target(target: Target | None, figure: Figure) -> str:
    if target is None:
        return ""
    sign = "≥" if target.is_floor else "≤"
    of = figure.unit if target.of == "value" else f"x {figure.peer}"
    return f"{sign} {target.bound:,g} {of}"


def number(value: float | None) -> str:
    """Return three significant digits, with thousands separators."""
    if value is None:
        return ""
    if abs(value) >= _EXACT_FROM:
        return f"{value:,.0f}"
    return f"{value:.3g}"
