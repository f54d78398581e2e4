"""Results as a table for people and as JSON for machines."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypedDict

from benchmarks.machine import cautions

if TYPE_CHECKING:
    from benchmarks.machine import Machine
    from benchmarks.running import Figure, Subject, Target

_COLUMNS = ("figure", "measured", "p99", "peer", "its figure", "ratio", "target", "met")
_MET = {True: "yes", False: "NO", None: ""}
_EXACT_FROM = 100


class FigureJson(TypedDict):
    """One row."""

    name: str
    value: float
    unit: str
    p99: float | None
    peer: str | None
    peer_value: float | None
    ratio: float | None
    target: str | None
    is_met: bool | None


class SubjectJson(TypedDict):
    """One table; `skipped` says why it has no rows."""

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


def table(subject: Subject) -> str:
    """Return a subject as Markdown that reads well on a terminal too."""
    parts = [f"## {subject.title}", subject.note]
    if subject.skipped is not None:
        parts.append(f"**Skipped:** {subject.skipped}")
    else:
        parts.append(_grid([_COLUMNS, *map(_row, subject.figures)]))
    return "\n\n".join(parts) + "\n"


def markdown(report: Report) -> str:
    """Return every table of a run."""
    kind = " (a quick run: rough figures)" if report.is_quick else ""
    facts = ", ".join(f"{k.replace('_', ' ')} {v}" for k, v in report.machine.items())
    parts = [f"# Measured side by side{kind}", f"{report.at}; {facts}."]
    parts += [*cautions(report.machine), *map(table, report.subjects.values())]
    return "\n\n".join(part.rstrip() for part in parts) + "\n"


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
        "ratio": figure.ratio,
        "target": _target(figure.target, figure.unit) or None,
        "is_met": figure.is_met,
    }


def _row(figure: Figure) -> tuple[str, ...]:
    ratio = figure.ratio
    return (
        figure.name,
        f"{_number(figure.value)} {figure.unit}",
        _number(figure.p99),
        figure.peer or "",
        _number(figure.peer_value),
        "" if ratio is None else f"{ratio:.2f}",
        _target(figure.target, figure.unit),
        _MET[figure.is_met],
    )


def _target(target: Target | None, unit: str) -> str:
    if target is None:
        return ""
    sign = "≥" if target.is_floor else "≤"
    return f"{sign} {target.bound:,g} {unit if target.of == 'value' else 'x'}"


def _number(value: float | None) -> str:
    """Return three digits that count, thousands apart."""
    if value is None:
        return ""
    if abs(value) >= _EXACT_FROM:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _grid(rows: list[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)
