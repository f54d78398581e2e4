"""Random workflows, and what each must return: a plain model."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from random import Random

JOB, KID = "job", "kid"
SIGNAL = "sig"  # each wait of a job gets the next one
TRIES = 2  # of a step that always fails
_MOST, _MOST_INSIDE = 4, 3

_ANYWHERE = (
    *("step", "step", "again", "once", "reconciled", "burnt", "flaky"),
    *("later", "nap", "sleep"),
    *("signal", "timeout", "approval", "save", "map", "scope", "pause"),
)
_INSIDE = _ANYWHERE[:7]
_AT_THE_TOP = ("child", "dropped")
_BY_OPTION = {"fail": "failing", "pause": "stubborn"}


class Op(NamedTuple):
    """One call of a program.

    Attributes:
        kind: what is called.
        name: of the step.
        key: what its result is recorded by, with its job.
        way: how it goes: approved, rejected, early, late, racing …
        count: items of a map, or the number of a signal.
        body: of a scope or a child.
    """

    kind: str
    name: str
    key: tuple[str, str]
    way: str = ""
    count: int = 0
    body: tuple[Op, ...] = ()


class Program(NamedTuple):
    """A workflow."""

    ops: tuple[Op, ...]
    on_exhausted: Any

    def each(self) -> Iterator[Op]:
        """Yield every call, those inside others too."""
        yield from _each(self.ops)

    @property
    def early(self) -> dict[str, int]:
        """How many signals come before the program asks for one, by job."""
        found: Counter[str] = Counter()
        for op in self.each():
            if op.kind == "signal" and op.way == "early":
                found[op.key[0]] = max(found[op.key[0]], op.count + 1)
        return found


def _each(ops: tuple[Op, ...]) -> Iterator[Op]:
    for op in ops:
        yield op
        yield from _each(op.body)


class _Maker:
    """Makes a program of a seed."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._numbers: Counter[object] = Counter()
        self._on_exhausted = random.choice([*_BY_OPTION])

    def program(self) -> Program:
        kinds = (*_ANYWHERE, *_AT_THE_TOP, _BY_OPTION[self._on_exhausted])
        ops = self._ops(JOB, "", kinds, self._random.randint(2, _MOST))
        return Program(ops, self._on_exhausted)

    def _ops(
        self, job: str, scope: str, kinds: tuple[str, ...], count: int
    ) -> tuple[Op, ...]:
        return tuple(
            self._op(job, scope, self._random.choice(kinds)) for _ in range(count)
        )

    def _op(self, job: str, scope: str, kind: str) -> Op:
        if kind == "child" and self._numbers[kind]:
            kind = "step"  # one is enough
        self._numbers[kind] += 1
        name = f"{kind}{self._numbers[kind]}"
        if kind in ("again", "signal"):
            name = SIGNAL if kind == "signal" else kind
        self._numbers[job, scope, name] += 1
        number = self._numbers[job, scope, name]
        key = job, scope + (name if number == 1 else f"{name}#{number}")
        made = Op(kind, name, key)
        one = self._random.choice
        match kind:
            case "signal":
                self._numbers[job, SIGNAL] += 1
                count = self._numbers[job, SIGNAL] - 1
                return made._replace(way=one(["early", "late", "racing"]), count=count)
            case "approval":
                return made._replace(way=one(["approved", "rejected", "told"]))
            case "map":
                way = one(["", "workers", "inner"])
                return made._replace(way=way, count=self._random.randint(1, 3))
            case "scope":
                inside = self._ops(job, f"{key[1]}>", _INSIDE, 2)
                return made._replace(body=inside)
            case "child":
                kinds = tuple(k for k in _ANYWHERE if k not in ("pause", "scope"))
                count = self._random.randint(1, _MOST_INSIDE)
                way = one(["", "", "fails"])
                return made._replace(body=self._ops(KID, "", kinds, count), way=way)
        return made


def make(random: Random) -> Program:
    """Return a random program."""
    return _Maker(random).program()


def value_of(key: tuple[str, str]) -> Any:
    """Return the result of a step: a value that plain JSON cannot hold."""
    return ("result of", key[1])


def expected(ops: tuple[Op, ...], may_be_uncertain: Callable[[Op], bool]) -> list[Any]:
    """Return what a program returns, however often it was killed.

    A call whose result depends on the kills is None.
    """
    return [
        None if op.kind == "dropped" else _expected(op, may_be_uncertain) for op in ops
    ]


def _expected(op: Op, may_be_uncertain: Callable[[Op], bool]) -> Any:  # noqa: PLR0911 - a table
    match op.kind:
        case "once" if may_be_uncertain(op):
            return None
        case "sleep" | "nap" | "save":
            return "over"
        case "signal":
            return {"n": op.count}
        case "timeout":
            return "nothing came"
        case "approval":
            return "rejected" if op.way == "rejected" else "approved"
        case "failing" | "burnt":
            return "failed"
        case "map":
            return [value_of(item) for item in items_of(op)]
        case "child" if op.way == "fails":
            return "failed"
        case "scope" | "child":
            return expected(op.body, may_be_uncertain)
    return value_of(op.key)


def items_of(op: Op) -> list[tuple[str, str]]:
    """Return the keys of the items of a map."""
    job, key = op.key
    return [(job, f"{key}[{n}]") for n in range(op.count)]
