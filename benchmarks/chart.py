"""Chosen rows of the table as SVG: peers beside Milepost, on a log scale."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple
from xml.sax.saxutils import escape

from benchmarks.contenders import NAMES, OURS
from benchmarks.report import number, rows

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from benchmarks.report import Row
    from benchmarks.running import Subject

# By subject: the rows of the chart, in the order in which they are drawn.
CHOSEN = {
    "save": ("10 KB, edited", "100 KB, growing"),
    "states": (
        "chat of 200 steps, on the disk",
        "restore the latest of 200, saved here",
    ),
    "read": ("list of 100,000",),
    "open": ("newest state of 100,000",),
    "processes": ("a job each",),
    "steps": ("workflows of durable steps",),
}
_TITLE = "Milepost beside other stores"
_READING = (
    "Bars, on a log scale: how many times Milepost's time, bytes, or time for one of",
    "a rate another system takes. Right of the line: more than Milepost. Left: less.",
)
_WIDTH, _LEFT, _RIGHT = 900, 290, 30
_TOP, _BAR, _HEAD = 82, 16, 26
_STYLE = """
  text { font: 12px sans-serif; fill: #1f2328; }
  .title { font-size: 16px; font-weight: bold; }
  .head { font-weight: bold; }
  .scale { fill: #59636e; }
  line { stroke: #d1d9e0; }
  .ours { stroke: #1f2328; stroke-width: 2; }
  .behind { fill: #0969da; }
  .ahead { fill: #bc4c00; }
  @media (prefers-color-scheme: dark) {
    text { fill: #f0f6fc; }
    .scale { fill: #9198a1; }
    line { stroke: #3d444d; }
    .ours { stroke: #f0f6fc; }
    .behind { fill: #4493f8; }
    .ahead { fill: #db6d28; }
  }
"""


class Bar(NamedTuple):
    """A peer: its figure, and how many times Milepost's it is, 2 being twice as bad."""

    label: str
    factor: float


class Group(NamedTuple):
    """The bars of one row of the table, best first."""

    head: str
    bars: tuple[Bar, ...]


def groups(subjects: Mapping[str, Subject]) -> list[Group]:
    """Return the chosen rows that were measured and have a peer."""
    found = []
    for key, names in CHOSEN.items():
        if key not in subjects:
            continue
        measured = {row.first.name: row for row in rows(subjects[key])}
        found += [
            _group(subjects[key].title, measured[name])
            for name in names
            if name in measured and measured[name].winner is not None
        ]
    return found


def _group(title: str, row: Row) -> Group:
    first = row.first
    bars = [
        Bar(
            f"{name} {number(figure.peer_value)}",
            figure.ratio if first.is_rate else 1 / figure.ratio,
        )
        for name, figure in row.beside.items()
        if name in NAMES and figure.ratio
    ]
    head = f"{title}: {row.name}. {OURS} {number(first.value)}"
    return Group(head, tuple(sorted(bars, key=lambda bar: bar.factor)))


def svg(found: Iterable[Group]) -> str:
    """Return the chart, readable on light and on dark pages."""
    found = list(found)
    factors = [bar.factor for group in found for bar in group.bars]
    low = math.floor(math.log10(min([0.1, *factors])))
    high = math.ceil(math.log10(max([10, *factors])))
    height = _TOP + sum(_HEAD + _BAR * len(group.bars) for group in found) + 30
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}">',
        f"<title>{_TITLE}</title>",
        f"<desc>{' '.join(_READING)}</desc>",
        f"<style>{_STYLE}</style>",
        _text(10, 22, _TITLE, "title"),
        *(_text(10, 42 + 16 * n, text, "scale") for n, text in enumerate(_READING)),
        *_scale(low, high, height),
        *_drawn(found, low, high),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _x(factor: float, low: int, high: int) -> float:
    """Return the place of a factor on the log scale."""
    share = (math.log10(factor) - low) / (high - low)
    return round(_LEFT + share * (_WIDTH - _LEFT - _RIGHT), 1)


def _scale(low: int, high: int, height: int) -> Iterator[str]:
    for power in range(low, high + 1):
        x = _x(10**power, low, high)
        ours = ' class="ours"' if power == 0 else ""
        yield f'<line x1="{x}" y1="{_TOP - 8}" x2="{x}" y2="{height - 22}"{ours}/>'
        yield _text(x, height - 8, f"{10**power:,g} x", "scale", "middle")


def _drawn(found: Iterable[Group], low: int, high: int) -> Iterator[str]:
    y, middle = _TOP, _x(1, low, high)
    for group in found:
        y += _HEAD
        yield _text(10, y - 8, group.head, "head")
        for bar in group.bars:
            x = _x(bar.factor, low, high)
            side = "ahead" if bar.factor < 1 else "behind"
            begin, length = min(x, middle), max(abs(x - middle), 1)
            yield (
                f'<rect class="{side}" x="{begin}" y="{y}" width="{length:.1f}"'
                f' height="{_BAR - 4}"/>'
            )
            yield _text(20, y + _BAR - 6, f"{bar.label} ({bar.factor:.3g} x)", "bar")
            y += _BAR


def _text(x: float, y: float, text: str, kind: str, anchor: str = "start") -> str:
    return (
        f'<text class="{kind}" x="{x}" y="{y}" text-anchor="{anchor}">'
        f"{escape(text)}</text>"
    )
