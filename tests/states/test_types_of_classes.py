"""The program's own classes in states: they come back equal, or are refused."""

from __future__ import annotations

import enum
import math
import threading
from dataclasses import InitVar, dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pytest
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    Json,
    PrivateAttr,
    RootModel,
    computed_field,
)

from milepost import CheckpointManager, MemoryStorage, Types
from milepost.journal.errors import InvalidArgument, InvalidState, UnreadableState

NOW = datetime(2026, 11, 23, 5, tzinfo=UTC)


@dataclass
class Point:
    x: float
    when: datetime | None = None
    tags: list[str] = field(default_factory=list)
    hidden: int = field(default=0, compare=False)
    later: int = field(init=False, default=3)


@dataclass(frozen=True, slots=True)
class Frozen:
    x: Any
    _: InitVar[int] = 0


@dataclass(slots=True, kw_only=True)
class Slotted:
    x: int
    y: int = field(init=False)


@dataclass
class Scaled:
    x: int
    scale: InitVar[int] = 2

    def __post_init__(self, scale: int) -> None:
        self.total = self.x * scale


@dataclass
class Positive:
    value: int

    def __post_init__(self) -> None:
        self.value = abs(self.value)


@dataclass
class Floating:
    value: float

    def __post_init__(self) -> None:
        self.value = float(self.value)


@dataclass
class Growing:
    items: list[int]

    def __post_init__(self) -> None:
        self.items.append(len(self.items))


@dataclass
class Cached:
    x: int

    @cached_property
    def lock(self) -> object:
        return threading.Lock()


@dataclass
class Needy:
    x: InitVar[int]


@dataclass
class Node:
    value: Any
    next: Any = None


class Pair(NamedTuple):
    left: int
    right: Any = None


class Colour(enum.Enum):
    RED = ("red", NOW)
    CRIMSON = RED


class Level(enum.IntEnum):
    LOW = 1


class Access(enum.Flag):
    READ = 1
    WRITE = 2


class Inner(BaseModel):
    number: int = Field(alias="No.")


class Loss(BaseModel):
    value: float


class Model(BaseModel):
    model_config = ConfigDict(extra="allow", arbitrary_types_allowed=True)

    inner: Inner
    more: list[Inner] = []
    at: datetime = NOW
    loss: float = math.nan
    ids: set[int] = set()
    pair: tuple[int, ...] = ()
    losses: list[Loss] = []
    weights: Any = None
    _secret: int = PrivateAttr(default=0)

    @computed_field  # type: ignore[prop-decorator] # pydantic supports properties
    @property
    def double(self) -> int:
        return 2 * self.inner.number


class Sub(Inner):
    z: int = 1


class Listed(RootModel[list[int]]):
    pass


class Parsed(BaseModel):
    parsed: Json[Any]


class Excluded(BaseModel):
    x: int = Field(default=1, exclude=True)


CLASSES = (Point, Frozen, Slotted, Scaled, Positive, Growing, Cached, Needy, Node)
MORE = (Floating, Pair, Colour, Level, Access, Model, Listed, Parsed, Excluded)


@pytest.fixture
def types() -> Types:
    made = Types()
    made.add(*CLASSES, *MORE)
    return made


def changed(value: Any, /, **attributes: Any) -> Any:
    for name, item in attributes.items():
        object.__setattr__(value, name, item)
    return value


def inner(number: int) -> Inner:
    return Inner.model_validate({"No.": number})


def model(**more: Any) -> Model:
    return Model(**{"inner": inner(1), "more": [inner(2)], "loss": 1.0} | more)


def secretive(secret: int) -> Model:
    made = model()
    made._secret = secret
    return made


chain: Any = None
for n in range(40):
    chain = Node(n, chain)
KEPT: list[Any] = [
    *(Point(1, NOW, ["a"]), changed(Point(-0.0), hidden=5, later=9)),
    *(Frozen({Frozen((1, 2))}), changed(Slotted(x=1), y=4), Scaled(3)),
    *(Positive(-3), Node({"a": [Node(1)]}), chain, Pair(1, {Pair(2)})),
    *(Colour.RED, Colour.CRIMSON, Level.LOW, Access.READ | Access.WRITE, Access(0)),
    *({Colour.RED: Level.LOW}, {Level.LOW}, (Point(1), [Pair(1)])),
    *(model(), model(ids={1}, pair=(1, 2), extra={NOW}), changed(model(), at=NOW)),
    *(Listed([1, 2]), Parsed(parsed='{"a": 1}'), Excluded()),
]


@pytest.mark.parametrize("value", KEPT, ids=lambda value: f"{value!r:.40}")
def test_a_value_of_a_registered_class_comes_back_equal(
    types: Types, value: Any
) -> None:
    with CheckpointManager(storage=MemoryStorage(), types=types) as manager:
        saved = manager.save("job", "step", {"a": [value]})
        (back,) = manager.restore("job", saved)["a"]
    assert type(back) is type(value)
    assert back == value
    assert repr(back) == repr(value)
    assert getattr(back, "hidden", None) == getattr(value, "hidden", None)


@pytest.mark.parametrize(
    "of", [Node, Frozen, lambda x: Pair(0, x), lambda x: model(weights=x)]
)
def test_a_value_that_is_equal_to_nothing_comes_back_inside_a_class(
    types: Types, of: Any
) -> None:
    back = types.decode(types.encode(of([math.nan, np.array([1.0, math.nan])])))
    (found, array) = getattr(
        back, next(n for n in ("value", "x", "right", "weights") if hasattr(back, n))
    )
    assert math.isnan(found)
    assert array.tobytes() == np.array([1.0, math.nan]).tobytes()


def test_a_model_inside_a_model_may_have_a_value_that_is_equal_to_nothing(
    types: Types,
) -> None:
    back = types.decode(types.encode(model(losses=[Loss(value=math.nan)])))
    assert type(back.losses[0]) is Loss
    assert math.isnan(back.losses[0].value)


def test_a_cached_property_is_not_stored(types: Types) -> None:
    value = Cached(1)
    assert value.lock
    assert types.decode(types.encode(value)) == value


REFUSED: dict[str, tuple[Any, str]] = {
    "what init alone knows": (Scaled(3, 5), ""),
    "another attribute": (changed(Point(1), extra=1), ""),
    "an argument that is not kept": (Needy(1), ""),
    "a value that post-init changes": (changed(Positive(1), value=-1), ""),
    "a type that post-init changes": (changed(Floating(1), value=1), ""),
    "a list that post-init changes": (Growing([]), ""),
    "a nested one": (Node([Growing([])]), ".value[0]"),
    "one in a dict": (Node({(1,): Growing([])}), ".value.(1,)"),
    "a private attribute": (secretive(4), ""),
    "a model that no field has": (model(extra=inner(1)), ""),
    "an instance of a subclass": (
        model(inner=Sub.model_validate({"No.": 1, "z": 2})),
        "",
    ),
    "a field that is not dumped": (Excluded(x=2), ""),
    "an invalid value": (changed(model(), at="never"), ""),
    "a class that is not registered": (Node(inner(1)), ".value"),
    "a value of no stored type": (Node(Node(object())), ".value.value"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_would_not_come_back_equal_is_refused_with_its_path(
    types: Types, what: str
) -> None:
    value, path = REFUSED[what]
    before = repr(value)
    with pytest.raises(InvalidState) as refused:
        types.encode({"a": [value]})
    assert refused.value.path == f"$.a[0]{path}"
    assert repr(value) == before


class Odd:
    """A class with functions of its own."""

    def __init__(self, x: Any) -> None:
        self.x = x


class Mean:
    def __eq__(self, other: object) -> bool:
        raise ZeroDivisionError("compared")

    __hash__ = None  # type: ignore[assignment] # as Python sets it


def fail(_: object) -> Any:
    raise KeyError("no")


def test_a_class_is_stored_by_functions_of_its_own() -> None:
    types = Types()
    types.register(
        Odd, "odd", lambda o: {"x": o.x}, lambda p: Odd(**p), lambda a, b: a.x == b.x
    )
    back = types.decode(types.encode([Odd({NOW})]))
    assert back[0].x == {NOW}


class Bag(set[int]):
    """A set that is stored by functions of its own."""


def test_a_subclass_of_a_built_in_type_is_stored_as_it_says() -> None:
    types = Types()
    types.register(
        Bag, "bag", lambda b: {"items": sorted(b)}, lambda p: Bag(p["items"])
    )
    back = types.decode(types.encode([Bag({3, 1})]))[0]
    assert (type(back), back) == (Bag, {1, 3})


@pytest.mark.parametrize(
    ("kind", "how"),
    [
        (Odd, (lambda o: o.x, Odd)),  # equal only to itself
        (Odd, (lambda _: 1, Odd, lambda a, b: a.x == b.x)),
        (Odd, (fail, Odd)),
        (Odd, (lambda o: o.x, fail)),
        (Odd, (lambda o: o.x, lambda x: x, lambda _a, _b: True)),
        (Odd, (lambda o: o.x, Odd, fail)),
        (Odd, (lambda o: o, Odd)),
        (Mean, (lambda _: 1, lambda _: Mean())),
    ],
)
def test_functions_that_fail_or_lose_something_are_refused(kind: Any, how: Any) -> None:
    types = Types()
    types.register(kind, "the odd", *how)
    value = kind(7) if kind is Odd else kind()
    with pytest.raises(InvalidState, match=r"^\$\.a\[1\].*(the odd|deeper)"):
        types.encode({"a": [0, value]})


def test_a_class_that_refuses_its_stored_value_makes_the_state_unreadable() -> None:
    types, later = Types(), Types()
    types.register(Odd, "odd", lambda o: o.x, Odd, lambda a, b: a.x == b.x)
    later.register(Odd, "odd", lambda o: o.x, fail)
    with pytest.raises(UnreadableState, match=r"^\$\.a: .*'odd' .*KeyError: 'no'"):
        later.decode(types.encode({"a": Odd(1)}))


def test_a_new_field_with_a_default_and_an_old_name_are_read() -> None:
    types = Types()
    types.add(Point, name="app.OldPoint")
    stored = {"$milepost": "app.OldPoint", "value": {"x": 1}}
    assert types.decode(stored) == Point(1)
    with pytest.raises(UnreadableState, match=r"OldPoint.*rebuilt: TypeError: .*gone"):
        types.decode({"$milepost": "app.OldPoint", "value": {"x": 1, "gone": 2}})


class DictPoint(dict[str, int]):
    pass


def test_a_type_is_registered_once_and_by_what_it_is() -> None:
    types = Types()
    types.add(Point, name="point")
    for kind, name in [(Point, "b"), (Odd, "point"), (datetime, "b"), (Odd, "set")]:
        with pytest.raises(InvalidArgument, match="is registered already"):
            types.register(kind, name, str, str)
    for kind in (str, list, dict, int, type(None)):
        with pytest.raises(InvalidArgument, match="is registered already"):
            types.register(kind, "b", str, str)
    for kind in (Odd, dataclass(DictPoint), int):
        with pytest.raises(InvalidArgument, match="is no dataclass"):
            types.add(kind)
    for wrong in (5, list[int], None):
        with pytest.raises(InvalidArgument, match="a class is needed"):
            types.add(wrong)  # type: ignore[arg-type] # what it is not
    with pytest.raises(InvalidArgument, match="name must be a string"):
        types.register(Odd, 5, str, str)  # type: ignore[arg-type] # what it is not
    with pytest.raises(InvalidArgument, match="one class can be named"):
        types.add(Pair, Node, name="b")


def test_registries_are_independent() -> None:
    Types().add(Point)
    with pytest.raises(InvalidState):
        Types().encode(Point(1))


def test_text_that_is_no_unicode_is_refused_as_such_inside_a_class(
    types: Types,
) -> None:
    manager = CheckpointManager(storage=MemoryStorage(), types=types)
    with pytest.raises(InvalidState, match="lone surrogate"):
        manager.save("job", "step", {"a": Node(["\ud800", NOW])})


def test_durable_steps_use_the_types_of_their_manager(types: Types) -> None:
    storage = MemoryStorage()
    results: list[Any] = []

    def attempt(manager: CheckpointManager) -> None:
        with manager.execution("w", job_id="job", input={"p": Pair(1)}) as run:
            found = run.step("make", lambda: Point(len(results), NOW))
            results.append((run.input, found))
            run.save("mark", {"point": found})
            raise KeyboardInterrupt

    for _ in range(2):
        manager = CheckpointManager(storage=storage, types=types)
        with manager, pytest.raises(KeyboardInterrupt):
            attempt(manager)
    assert results == [({"p": Pair(1)}, Point(0, NOW))] * 2
    with CheckpointManager(storage=storage, types=types) as manager:
        assert manager.load("job") == {"point": Point(0, NOW)}
