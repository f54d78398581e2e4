"""Results as Markdown for people and as JSON for machines."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, NamedTuple, TypedDict

from benchmarks.machine import cautions

if TYPE_CHECKING:
    from benchmarks.machine import Machine
    from benchmarks.running import Figure, Subject, Target

_WIDTH = 100  # of documents
_MET = {True: "yes", False: "NO"}
_EXACT_FROM = 100


class FigureJson(TypedDict):
    """One figure."""

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


def section(subject: Subject) -> str:
    """Return a subject as Markdown, an item for each figure."""
    parts = [f"## {subject.title}", textwrap.fill(subject.note, _WIDTH)]
    if subject.skipped is not None:
        parts.append(textwrap.fill(f"**Skipped:** {subject.skipped}", _WIDTH))
    else:
        parts.append("\n".join(map(_item, subject.figures)))
    return "\n\n".join(parts) + "\n"


def markdown(report: Report) -> str:
    """Return every subject of a run."""
    kind = " (a quick run: rough figures)" if report.is_quick else ""
    facts = ", ".join(f"{k.replace('_', ' ')} {v}" for k, v in report.machine.items())
    texts = [f"{report.at}; {facts}.", *cautions(report.machine)]
    parts = [f"# Measured side by side{kind}"]
    parts += [textwrap.fill(text, _WIDTH) for text in texts]
    parts += map(section, report.subjects.values())
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


def _item(figure: Figure) -> str:
    """Return `name: value (p99); ratio to the peer (its value); target: met`."""
    measured = f"**{figure.name}**: {_number(figure.value)} {figure.unit}"
    if figure.p99 is not None:
        measured += f" (p99 {_number(figure.p99)})"
    parts = [measured]
    if figure.ratio is not None:
        parts.append(
            f"{figure.ratio:.2f} x {figure.peer} ({_number(figure.peer_value)})"
        )
    if figure.is_met is not None:
        target = _target(figure.target, figure.unit)
        parts.append(f"target {target}: {_MET[figure.is_met]}")
    return textwrap.fill(
        "; ".join(parts),
        _WIDTH,
        initial_indent="- ",
        subsequent_indent="  ",
        break_on_hyphens=False,
    )


def _target(target: Target | None, unit: str) -> str:
    if target is None:
        return ""
    sign = "≥" if target.is_floor else "≤"
    return f"{sign} {target.bound:,g} {unit if target.of == 'value' else 'x'}"


def _number(value: float | None) -> str:
    """Return three significant digits, with thousands separators."""
    if value is None:
        return ""
    if abs(value) >= _EXACT_FROM:
        return f"{value:,.0f}"
    return f"{value:.3g}"
