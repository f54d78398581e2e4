"""What is restored equals what was saved, or the save is refused and says where."""

from __future__ import annotations

import contextlib
import enum
import gc
import re
import sys
import threading
import uuid
import zlib
from collections import Counter, OrderedDict, defaultdict, namedtuple
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milepost import CheckpointManager, MemoryStorage
from milepost.journal.errors import (
    InvalidArgument,
    InvalidState,
    StateTooLarge,
    UnreadableState,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LETTERS = st.text("abcdefgh", min_size=1, max_size=4)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)
JSON = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4)
    ),
    max_leaves=12,
)
STATES = st.dictionaries(st.text(), JSON, max_size=4)


class Colour(enum.Enum):
    RED = "red"


class Size(enum.StrEnum):
    LARGE = "large"


class Level(enum.IntEnum):
    HIGH = 3


class Metres(float):
    pass


class Name(str):
    __slots__ = ()


Point = namedtuple("Point", "x y")  # noqa: PYI024 - the untyped kind is tested


@dataclass
class Order:
    rows: int = 1


REFUSED = {
    "nan": float("nan"),
    "infinity": float("inf"),
    "minus infinity": -float("inf"),
    "2**64": 2**64,
    "-2**63-1": -(2**63) - 1,
    "datetime": datetime(2026, 1, 1, tzinfo=UTC),
    "naive datetime": datetime(2026, 1, 1),  # noqa: DTZ001 - it is the input
    "date": date(2026, 1, 1),
    "time": time(1),
    "timedelta": timedelta(1),
    "bytes": b"x",
    "bytearray": bytearray(b"x"),
    "memoryview": memoryview(b"x"),
    "tuple": (1, 2),
    "empty tuple": (),
    "named tuple": Point(1, 2),
    "set": {1},
    "frozenset": frozenset({1}),
    "Decimal": Decimal(1),
    "UUID": uuid.UUID(int=0),
    "enum": Colour.RED,
    "dataclass": Order(),
    "complex": 1j,
    "object": object(),
    "class": Order,
    "function": len,
    "generator": iter([1]),
    "dict view": {}.keys(),
    "path": Path("x"),
    "float subclass": Metres(1.5),
    "lone surrogate": "a\ud800",
}
KEYS = {
    "int": 1,
    "none": None,
    "bool": True,
    "float": 1.5,
    "tuple": (1,),
    "bytes": b"x",
    "UUID": uuid.UUID(int=0),
    "date": date(2026, 1, 1),
    "enum": Colour.RED,
    "str enum": Size.LARGE,
    "str subclass": Name("x"),
    "lone surrogate": "\ud800",
}


@pytest.fixture
def manager() -> CheckpointManager:
    return CheckpointManager(storage=MemoryStorage())


def there_and_back(state: dict[str, Any], **extras: Any) -> dict[str, Any]:
    manager = CheckpointManager(storage=MemoryStorage())
    checkpoint_id = manager.save("job", "step", state, **extras)
    return manager.restore("job", checkpoint_id)


def refusal(manager: CheckpointManager, state: Any, **extras: Any) -> InvalidState:
    """Return why `state` is refused; it must be, with nothing written."""
    before = manager.seq("job")
    with pytest.raises(InvalidState) as caught:
        manager.save("job", "step", state, **extras)
    assert manager.seq("job") == before
    return caught.value


# -- equal, or refused with the path ------------------------------------------------


@given(STATES)
def test_all_that_json_can_hold_comes_back_equal_in_value_type_and_order(
    state: dict[str, Any],
) -> None:
    assert repr(there_and_back(state)) == repr(state)


@given(
    st.dictionaries(
        st.text(st.characters()) | st.integers() | st.none(),
        st.recursive(
            SCALARS
            | st.floats()
            | st.integers()
            | st.text(st.characters())
            | st.sampled_from(list(REFUSED.values())),
            lambda inner: st.lists(inner) | st.tuples(inner),
        ),
        max_size=3,
    )
)
def test_a_save_that_succeeds_always_restores_what_equals_it(
    state: dict[str, Any],
) -> None:
    with contextlib.suppress(InvalidState):
        assert there_and_back(state) == state


@given(
    LETTERS,
    st.lists(LETTERS | st.integers(0, 3), max_size=6),
    st.sampled_from([float("nan"), 2**64, b"x", {1}, (1,), date.min, "\ud800"]),
)
def test_a_refusal_names_the_path_of_the_value_wherever_it_is(
    first: str, steps: list[str | int], bad: object
) -> None:
    value, path = bad, ""
    for step in reversed([first, *steps]):
        if isinstance(step, int):
            value, path = [*([0] * step), value, {"z": []}], f"[{step}]{path}"
        else:
            value, path = {"A": 1, step: value, "Z": [None]}, f".{step}{path}"
    error = refusal(CheckpointManager(storage=MemoryStorage()), value)
    assert error.path == f"${path}"
    assert str(error).startswith(f"${path}: ")


@pytest.mark.parametrize("value", REFUSED.values(), ids=REFUSED)
def test_what_json_would_change_is_refused_with_its_path_and_a_way_out(
    manager: CheckpointManager, value: object
) -> None:
    error = refusal(manager, {"fine": [1], "plan": {"deadline": [None, value]}})
    assert error.path == "$.plan.deadline[1]"
    assert error.hint
    assert error.code == "invalid_state"
    assert isinstance(error, ValueError)


@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS)
def test_a_key_that_is_not_plain_text_is_refused_with_its_path(
    manager: CheckpointManager, key: object
) -> None:
    error = refusal(manager, {"fine": 1, "plan": [{key: 1}]})
    assert error.path == f"$.plan[0].{key!r}"
    assert error.hint


@pytest.mark.parametrize("state", [None, [1], "x", 1, (), Order()], ids=repr)
def test_a_state_that_is_no_dict_is_refused(
    manager: CheckpointManager, state: object
) -> None:
    assert refusal(manager, state).path == "$"


@pytest.mark.parametrize(
    "number", [2**64 - 1, -(2**63), 0, -1, -0.0, 1.0, 5e-324, 1.7976931348623157e308]
)
def test_numbers_at_the_bounds_come_back_as_they_were(number: float) -> None:
    restored = there_and_back({"number": number})["number"]
    assert repr(restored) == repr(number)


@pytest.mark.parametrize(
    "value",
    [
        OrderedDict(b=1, a=2),
        defaultdict(int, a=1),
        Counter("aab"),
        Size.LARGE,
        Level.HIGH,
        Name("x"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_subclass_that_equals_plain_json_comes_back_as_plain_json(
    value: object,
) -> None:
    restored = there_and_back({"value": value})["value"]
    assert restored == value
    assert type(restored) in {dict, str, int}


@pytest.mark.parametrize("key", ["a\nb", "\x1b[31mred", "a\u2028b", "\u202ea", "\x85"])
def test_a_refusal_stays_one_printable_line_whatever_the_keys_hold(
    manager: CheckpointManager, key: str
) -> None:
    assert str(refusal(manager, {key: {"x": float("nan")}})).isprintable()
    assert str(refusal(manager, {"x": {key: float("nan")}})).isprintable()


# -- bounds -------------------------------------------------------------------------


def nested(levels: int, wrap: Callable[[Any], Any]) -> dict[str, Any]:
    """Return a state of so many levels, its outermost dict counted."""
    value: Any = 1
    for _ in range(levels - 1):
        value = wrap(value)
    return {"in": value}


WRAPS: dict[str, Callable[[Any], Any]] = {
    "lists": lambda inner: [inner],
    "dicts": lambda inner: {"in": inner},
    "with siblings": lambda inner: [inner, []] if isinstance(inner, list) else [inner],
}


@pytest.mark.parametrize("wrap", WRAPS.values(), ids=WRAPS)
@pytest.mark.parametrize("max_depth", [1, 2, 200, 250])
def test_a_state_as_deep_as_allowed_is_saved_and_one_level_more_refused(
    wrap: Callable[[Any], Any], max_depth: int
) -> None:
    manager = CheckpointManager(storage=MemoryStorage(), max_depth=max_depth)
    deepest = nested(max_depth, wrap)
    assert manager.restore("job", manager.save("job", "step", deepest)) == deepest
    error = refusal(manager, nested(max_depth + 1, wrap))
    assert type(error) is StateTooLarge
    assert f"deeper than {max_depth} levels" in str(error)


@pytest.mark.parametrize("wrap", WRAPS.values(), ids=WRAPS)
def test_ten_thousand_levels_are_refused_in_one_short_line(
    manager: CheckpointManager, wrap: Callable[[Any], Any]
) -> None:
    error = refusal(manager, nested(10_000, wrap))
    assert type(error) is StateTooLarge
    assert error.path.startswith("$.in")
    assert error.code == "state_too_large"
    assert len(str(error)) < 200


def test_a_state_that_holds_itself_is_refused(manager: CheckpointManager) -> None:
    loop: dict[str, Any] = {"a": 1}
    loop["me"] = loop
    ring: list[Any] = []
    ring.append(ring)
    assert type(refusal(manager, loop)) is StateTooLarge
    assert type(refusal(manager, {"ring": ring})) is StateTooLarge


@pytest.mark.parametrize("max_depth", [0, -1, 251])
def test_a_depth_that_could_not_be_kept_is_refused_at_once(max_depth: int) -> None:
    with pytest.raises(InvalidArgument, match="max_depth"):
        CheckpointManager(storage=MemoryStorage(), max_depth=max_depth)


def test_a_state_as_large_as_allowed_is_saved_and_one_byte_more_refused() -> None:
    manager = CheckpointManager(storage=MemoryStorage(), max_state_bytes=100)
    fits = {"a": "x" * (100 - len('{"a":""}'))}
    assert manager.restore("job", manager.save("job", "step", fits)) == fits
    error = refusal(manager, {"a": fits["a"] + "x"})
    assert type(error) is StateTooLarge
    assert "101 bytes" in str(error)


def test_a_state_of_100_megabytes_is_refused_in_one_line(
    manager: CheckpointManager,
) -> None:
    error = refusal(manager, {"a": "x" * 100_000_000})
    assert type(error) is StateTooLarge
    assert error.code == "state_too_large"
    assert len(str(error)) < 200


# -- the state changes hands --------------------------------------------------------


class Spoiling(int):
    """A number that changes the state it is in when it is compared, so many times."""

    state: dict[str, Any]
    left: int

    def __eq__(self, other: object) -> bool:
        if self.left > 0:
            self.left -= 1
            self.state["z"] = self.left
        return int(self) == other

    __hash__ = int.__hash__


@pytest.mark.parametrize("changes", [1, 2])
def test_a_state_that_changes_while_it_is_checked_is_saved_as_it_is_in_the_end(
    manager: CheckpointManager, changes: int
) -> None:
    number = Spoiling(1)
    number.state, number.left = {"a": number, "z": "before"}, changes
    checkpoint_id = manager.save("job", "step", number.state)
    assert manager.get("job", checkpoint_id).state == {"a": 1, "z": 0}


def test_a_state_that_changes_whenever_it_is_checked_is_refused(
    manager: CheckpointManager,
) -> None:
    number = Spoiling(1)
    number.state, number.left = {"a": number, "z": "before"}, 100
    assert "changed while it was being saved" in str(refusal(manager, number.state))


CHANGES: dict[str, Callable[[dict[str, Any], int], object]] = {
    "a value": lambda state, n: state.update(tokens=n),
    "a key comes and goes": lambda state, n: (
        state.pop("key") if "key" in state else state.update(key=n)
    ),
    "a list grows and shrinks": lambda state, n: (
        state["turns"].append(n) if n % 2 else state["turns"].pop()
    ),
    "a nested dict is replaced": lambda state, n: state.update(plan={str(n): [n]}),
    "depth": lambda state, n: state.update(deep=nested(100 + n % 90, lambda x: [x])),
}


@contextlib.contextmanager
def changing(change: Callable[[int], object]) -> Iterator[threading.Event]:
    """Have another thread call `change` as often as it gets a turn, at any bytecode."""
    is_done, has_changed = threading.Event(), threading.Event()

    def go_on() -> None:
        for n in count():
            change(n)
            has_changed.set()
            if is_done.is_set():
                return

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    other = threading.Thread(target=go_on)
    other.start()
    try:
        yield has_changed
    finally:
        is_done.set()
        other.join()
        sys.setswitchinterval(interval)


@pytest.fixture
def watched() -> Iterator[None]:
    """Have the garbage collector call Python code, as tools that watch it do."""

    def watch(_phase: str, _info: dict[str, int]) -> None:
        for _ in range(200):  # in each turn of which another thread may come
            pass

    gc.callbacks.append(watch)
    yield
    gc.callbacks.remove(watch)


@pytest.mark.usefixtures("watched")
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("kind", [dict, OrderedDict])
def test_a_state_that_another_thread_changes_is_saved_as_it_is_at_one_moment(
    manager: CheckpointManager,
    change: Callable[[dict[str, Any], int], object],
    kind: type[dict[str, Any]],
) -> None:
    state = kind({"turns": [{"n": n} for n in range(1000)], "tokens": 0})
    with changing(partial(change, state)) as has_changed:
        for _ in range(15):
            assert has_changed.wait(30)
            has_changed.clear()
            restored = manager.get("job", manager.save("job", "step", state)).state
            assert len(restored["turns"]) >= 999


def test_what_another_thread_makes_invalid_is_refused_or_not_in_what_is_saved(
    manager: CheckpointManager,
) -> None:
    state = {"turns": [{"n": n} for n in range(500)], "plan": {"deadline": 0.0}}

    def spoil(n: int) -> None:
        state["plan"] = {"deadline": n / 0.5 if n % 2 else float("nan")}

    with changing(spoil):
        for _ in range(50):
            try:
                saved = manager.save("job", "step", state)
            except InvalidState as exc:
                assert exc.path in {"$.plan.deadline", "$"}  # noqa: PT017 - it may pass
            else:
                plan = manager.get("job", saved).state["plan"]
                assert plan["deadline"] >= 0


def test_what_changes_after_the_call_began_to_write_is_not_in_it() -> None:
    state = {"rows": [1]}

    def clock() -> datetime:  # asked when the event is made
        state["rows"].append(2)
        return datetime(2026, 1, 1, tzinfo=UTC)

    manager = CheckpointManager(storage=MemoryStorage(), clock=clock)
    checkpoint_id = manager.save("job", "step", state)
    assert len(state["rows"]) > 1
    assert manager.get("job", checkpoint_id).state == {"rows": [1]}


def test_nobody_shares_a_restored_state_with_anybody(
    manager: CheckpointManager,
) -> None:
    mine = {"rows": [1]}
    checkpoint_id = manager.save("job", "step", mine, metadata={"tags": []})
    mine["rows"].append(2)
    manager.restore("job", checkpoint_id)["rows"].append(3)
    manager.get("job", checkpoint_id).info.metadata["tags"].append(4)
    found = manager.get("job", checkpoint_id)
    assert (found.state, found.info.metadata) == ({"rows": [1]}, {"tags": []})


# -- metadata -----------------------------------------------------------------------

TRICKY = st.sampled_from(["body", "metadata", ',"body":{}', '"crc":"', "\n", "}\n{"])


@given(STATES, st.dictionaries(st.text() | TRICKY, JSON | TRICKY, max_size=4))
def test_metadata_comes_back_equal_and_never_mixes_with_the_state(
    state: dict[str, Any], metadata: dict[str, Any]
) -> None:
    manager = CheckpointManager(storage=MemoryStorage())
    checkpoint_id = manager.save("job", "step", state, metadata=metadata)
    found = manager.get("job", checkpoint_id)
    assert repr(found.state) == repr(state)
    assert repr(found.info.metadata) == repr(metadata)
    assert manager.list("job") == [found.info]


def test_metadata_keys_named_like_our_own_fields_are_only_keys(
    manager: CheckpointManager,
) -> None:
    metadata = {"body": {"body": 1}, "metadata": ',"body":{"x":1}', "crc": "0"}
    checkpoint_id = manager.save("job", "step", {"body": 2}, metadata=metadata)
    found = manager.get("job", checkpoint_id)
    assert (found.info.metadata, found.state) == (metadata, {"body": 2})


def test_metadata_is_bounded(manager: CheckpointManager) -> None:
    fits = {"a": "x" * (64 * 1024 - len('{"a":""}'))}
    manager.save("job", "step", {}, metadata=fits)
    error = refusal(manager, {}, metadata={"a": fits["a"] + "x"})
    assert type(error) is StateTooLarge
    assert "metadata" in str(error)


@pytest.mark.parametrize("value", REFUSED.values(), ids=REFUSED)
def test_metadata_keeps_the_same_promise_as_a_state(
    manager: CheckpointManager, value: object
) -> None:
    error = refusal(manager, {}, metadata={"by": [value]})
    assert error.path.endswith(".by[0]")


def test_a_refusal_of_metadata_is_not_mistaken_for_one_of_the_state(
    manager: CheckpointManager,
) -> None:
    assert "metadata" in str(refusal(manager, {}, metadata={"by": b"x"}))


@pytest.mark.parametrize("metadata", ["text", 5, [1], (1, 2)], ids=repr)
def test_metadata_that_is_no_dict_is_refused_like_a_state_that_is_none(
    manager: CheckpointManager, metadata: object
) -> None:
    assert refusal(manager, {}, metadata=metadata).path.endswith("$")


# -- digests ------------------------------------------------------------------------


def test_equal_states_have_digests_that_do_not_show_it(
    manager: CheckpointManager,
) -> None:
    for job_id in ("job", "job", "other"):
        manager.save(job_id, "step", {"password": "secret"})
    events = [*manager.history("job"), *manager.history("other")]
    saved = [e["data"] for e in events if e["type"] == "checkpoint.saved"]
    assert len({data["state_digest"] for data in saved}) == 3


def reseal(line: bytes) -> bytes:
    """Return a changed state line with the checksum that fits it again."""
    body = line[: line.rindex(b',"crc":"')]
    return b'%b,"crc":"%08x"}' % (body, zlib.crc32(body))


@pytest.fixture
def saved(tmp_path: Path) -> tuple[CheckpointManager, str, str, Path]:
    """Return a manager, the ids of two checkpoints, and their journal."""
    manager = CheckpointManager(tmp_path)
    one, two = (
        manager.save("job", "step", {"rows": n}, metadata={"by": n}) for n in (1, 2)
    )
    return manager, one, two, tmp_path / "journals" / "job.jsonl"


CHANGES: dict[str, Callable[[bytes], bytes]] = {
    "a flipped body": lambda line: line.replace(b'"rows":1', b'"rows":7'),
    "a forged body": lambda line: reseal(line.replace(b'"rows":1', b'"rows":7')),
    "forged metadata": lambda line: reseal(line.replace(b'"by":1', b'"by":7')),
    "a moved border": lambda line: reseal(line.replace(b'_bytes":8', b'_bytes":9')),
    "a wrong checksum": lambda line: line[:-3] + bytes([line[-3] ^ 1]) + line[-2:],
    "another salt": lambda line: reseal(re.sub(b'(?<="salt":").{4}', b"beef", line)),
    "another number": lambda line: reseal(line.replace(b'{"state":2', b'{"state":9')),
}


@pytest.mark.parametrize("is_open", [True, False], ids=["open", "opened anew"])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_no_changed_state_is_ever_restored(
    saved: tuple[CheckpointManager, str, str, Path],
    change: Callable[[bytes], bytes],
    is_open: bool,
) -> None:
    manager, one, two, journal = saved
    lines = journal.read_bytes().split(b"\n")
    lines[1] = change(lines[1])
    with journal.open("r+b") as file:
        file.write(b"\n".join(lines))
    if not is_open:
        manager = CheckpointManager(journal.parents[1])
    with pytest.raises(ValueError, match="state") as caught:
        manager.restore("job", one)
    assert manager.get("job", two).state == {"rows": 2}
    assert caught.value.code in {"unreadable", "newer_format"}  # type: ignore[attr-defined]  # ours
    manager.close()


def test_a_state_swapped_for_another_of_its_job_is_not_restored(
    saved: tuple[CheckpointManager, str, str, Path],
) -> None:
    manager, one, two, journal = saved
    lines = journal.read_bytes().split(b"\n")
    first, second = lines[1], lines[3]
    lines[1] = reseal(second.replace(b'{"state":3', b'{"state":2'))
    lines[3] = reseal(first.replace(b'{"state":2', b'{"state":3'))
    with journal.open("r+b") as file:
        file.write(b"\n".join(lines))
    for checkpoint_id in (one, two):
        with pytest.raises(UnreadableState, match=checkpoint_id):
            manager.restore("job", checkpoint_id)
    assert [report.ok for report in manager.verify("job", deep=True)] == [False]
    manager.close()
