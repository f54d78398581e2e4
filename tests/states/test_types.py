"""Values that are not plain JSON come back equal, or are refused with their path."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import uuid
from collections import Counter, OrderedDict, defaultdict
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from enum import IntEnum, StrEnum
from fractions import Fraction
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milepost import AS_STORED, CheckpointManager, MemoryStorage, Types
from milepost.journal.errors import (
    InvalidArgument,
    InvalidState,
    StateTooLarge,
    UnreadableState,
)
from tests.support.values import is_alike

if TYPE_CHECKING:
    from collections.abc import Callable

BERLIN = ZoneInfo("Europe/Berlin")
NOW = datetime(2026, 11, 23, 5, 0, 0, 1, tzinfo=UTC)
NAMED = timezone(timedelta(hours=1), "CET")
TWICE = datetime(2026, 10, 25, 2, 30)  # noqa: DTZ001 - of a day with two such times
VALUES: list[Any] = [
    *(None, True, False, 0, -1, 2**63, 2**64 - 1, 1.5, -0.0, "ø", "", [], {}),
    {"a": [1, {"b": None}], "": [[[]]]},
    *(2**64, -(2**63) - 1, 10**5000, math.inf, -math.inf, math.nan),
    *(TWICE, TWICE.replace(fold=1), TWICE.replace(year=1), NOW, NOW.astimezone(NAMED)),
    *(TWICE.replace(tzinfo=BERLIN), TWICE.replace(tzinfo=BERLIN, fold=1)),
    NOW.astimezone(timezone(-timedelta(hours=7, seconds=1, microseconds=2))),
    *(time(1, 2, 3), time(1, fold=1), time(1, tzinfo=UTC), time(1, tzinfo=BERLIN)),
    *(date(1, 1, 2), timedelta.min, timedelta(microseconds=5), UTC, NAMED, BERLIN),
    *(uuid.UUID(int=7), Fraction(1, 3), Fraction(10**5000, 3)),
    *(complex(-0.0, math.nan), 1 + 2j),
    *map(Decimal, ("1.10", "-0.00", "1E+999999", "NaN12", "-sNaN", "Infinity")),
    *(Path("a/b"), Path(), PurePosixPath("//a"), PureWindowsPath("c:\\x\\y")),
    *(b"", b"\x00\xff", bytearray(b"ab"), (), (1, (2, [3])), [(), ([],)]),
    *(set(), {1, 2}, frozenset({"a"}), {frozenset({1, "a"}), frozenset(), (1, 2)}),
    {1: "a", (1, 2): {3}, None: 0, 1.5: 1, "1": 2, b"": {True: {NOW: NOW}}},
    *({"$milepost": "datetime", "value": "x"}, {"$milepost": 5}, {"value": 1}),
    {"$milepost": {"$milepost": {"$milepost": [{"$milepost": None}]}}},
]


@pytest.fixture
def store() -> CheckpointManager:
    return CheckpointManager(storage=MemoryStorage())


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_a_value_comes_back_equal_and_of_its_type(
    manager: CheckpointManager, value: Any
) -> None:
    types = Types()
    saved = manager.save("job", "step", {"a": value}, types=types)
    back = manager.restore("job", saved, types=types)
    assert is_alike(back, {"a": value})


def test_plain_json_is_stored_as_it_is_without_a_copy() -> None:
    plain = {"a": [1, 2.5, "x", None, True, {"b": {}}], "value": -(2**63)}
    assert Types().encode(plain) is plain
    mixed = {"at": NOW, "plain": plain}
    assert Types().encode(mixed)["plain"] is plain


def test_tags_are_as_in_the_format_page(store: CheckpointManager) -> None:
    state = {"at": NOW, "ids": {"b", "a"}, "by": {1: 2}, "n": 2**64}
    saved = store.save("job", "step", state, types=Types())
    assert store.get("job", saved).state == {
        "at": {"$milepost": "datetime", "value": "2026-11-23T05:00:00.000001+00:00"},
        "ids": {"$milepost": "set", "value": ["a", "b"]},
        "by": {"$milepost": "dict", "value": [[1, 2]]},
        "n": {"$milepost": "int", "value": "0x10000000000000000"},
    }


plain = st.none() | st.booleans() | st.integers() | st.text(max_size=5)
zones = st.none() | st.timezones() | st.just(UTC) | st.just(NAMED)
hashable = st.recursive(
    plain
    | st.binary(max_size=5)
    | st.datetimes(timezones=zones, allow_imaginary=False)
    | st.times(timezones=zones)
    | st.dates()
    | st.timedeltas()
    | st.uuids()
    | st.fractions()
    | st.floats(allow_nan=False)
    | st.decimals(allow_nan=False)
    | st.builds(PurePosixPath, st.text("a/.", max_size=4)),
    lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3),
    max_leaves=4,
)
keys = st.text(max_size=4) | st.sampled_from(["$milepost", "value"])
nested = st.recursive(
    plain
    | hashable
    | st.floats()
    | st.decimals()
    | st.complex_numbers()
    | st.sets(hashable, max_size=3)
    | st.builds(bytearray, st.binary(max_size=3)),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(keys, inner, max_size=3)
        | st.dictionaries(hashable, inner, max_size=2)
        | st.tuples(inner, inner)
    ),
    max_leaves=10,
)


@settings(max_examples=150)
@given(nested)
def test_any_nesting_comes_back_equal_and_of_its_types(value: Any) -> None:
    with CheckpointManager(storage=MemoryStorage(), types=Types()) as manager:
        saved = manager.save("job", "step", {"value": value})
        assert is_alike(manager.restore("job", saved), {"value": value})


# -- what is refused -------------------------------------------------------------------


class Odd:
    """A type that nobody registered, whose values are equal only to themselves."""


class Text(str):
    __slots__ = ()


class Whole(int):
    pass


class Moment(datetime):
    pass


class Level(IntEnum):
    LOW = 1


class Word(StrEnum):
    YES = "yes"


class Zone(tzinfo):
    def utcoffset(self, _: datetime | None) -> timedelta:
        return timedelta(0)


itself: list[Any] = []
itself.append(itself)
deep: Any = ()
for _ in range(200):
    deep = (deep,)

REFUSED: list[tuple[Any, str]] = [
    ({"a": [1, Odd()]}, "$.a[1]"),
    ({"a": (1, Odd())}, "$.a[1]"),
    ({"a": {1: {"b": Odd()}}}, "$.a[1].b"),
    ({"a": {(1, "x"): Odd()}}, "$.a.(1, 'x')"),
    ({Odd: 1}, "$.<class 'tests.states.test_types.Odd'>"),
    ({"a\n": Odd()}, "$.'a\\n'"),
    *[({"a": [value]}, "$.a[0]") for value in (Text("x"), Whole(1), Level.LOW)],
    *[({"a": [value]}, "$.a[0]") for value in (Word.YES, Moment(2026, 1, 1))],
    *[({"a": value}, "$.a") for value in (OrderedDict(), defaultdict(int), Counter())],
    ({"a": [OrderedDict(b=1)]}, "$.a[0]"),
    ({"a": {Text("x"): 1}}, "$.a.x"),
    ({"a": NOW.replace(tzinfo=Zone())}, "$.a[2]"),
    ({"a": NOW.astimezone(ZoneInfo.no_cache("Asia/Tokyo"))}, "$.a[2]"),
    *[({"a": [value]}, "$.a[0]") for value in (range(3), memoryview(b"a"), Odd, len)],
]


# Without addresses: all processes of a run must collect the same names.
def named(value: object) -> str:
    return f"{value!r:.40}".partition(" at 0x")[0]


@pytest.mark.parametrize(("value", "path"), REFUSED, ids=named)
def test_a_value_of_another_type_is_refused_with_its_path(
    store: CheckpointManager, value: Any, path: str
) -> None:
    with pytest.raises(InvalidState) as refused:
        store.save("job", "step", value, types=Types())
    assert refused.value.path == path
    assert store.seq("job") == 0


@pytest.mark.parametrize(("value", "path"), [(itself, "$.a[0][0]"), (deep, "$.a")])
def test_a_value_that_nests_without_end_is_too_large(
    store: CheckpointManager, value: Any, path: str
) -> None:
    with pytest.raises(StateTooLarge, match="nests deeper than") as refused:
        store.save("job", "step", {"a": value}, types=Types())
    assert refused.value.path.startswith(path)


@pytest.mark.parametrize("value", ["\ud800", {"\ud800"}, Path("\udcff"), {"\ud800": 1}])
def test_text_that_is_no_unicode_is_refused(
    store: CheckpointManager, value: Any
) -> None:
    with pytest.raises(InvalidState, match=r"^\$\.a\b.*lone surrogate"):
        store.save("job", "step", {"a": [value, NOW]}, types=Types())


def test_a_state_is_a_dict_with_types_too(store: CheckpointManager) -> None:
    for state in ([1], NOW, OrderedDict(a=1)):
        with pytest.raises(InvalidState, match=r"^\$: "):
            store.save("job", "step", state, types=Types())  # type: ignore[arg-type] # no dict


@pytest.mark.parametrize(
    ("stored", "path"),
    [
        ({"$milepost": "os.system", "value": "x"}, "$.a[0]"),
        ({"$milepost": 5, "value": "x"}, "$.a[0]"),
        ({"$milepost": ["set"], "value": []}, "$.a[0]"),
        ({"$milepost": "datetime"}, "$.a[0]"),
        ({"$milepost": "datetime", "value": NOW.isoformat(), "more": 1}, "$.a[0]"),
        ({"$milepost": "datetime", "value": "yesterday"}, "$.a[0]"),
        ({"$milepost": "bytes", "value": "a"}, "$.a[0]"),
        ({"$milepost": "bytes", "value": "YQ==!"}, "$.a[0]"),
        ({"$milepost": "zoneinfo", "value": "Nowhere/City"}, "$.a[0]"),
        ({"$milepost": "set", "value": [[]]}, "$.a[0]"),
        (
            {"$milepost": "tuple", "value": [1, {"$milepost": "q", "value": 1}]},
            "$.a[0][1]",
        ),
        ({"x": {"$milepost": "numpy.ndarray", "value": 1}}, "$.a[0].x"),
    ],
    ids=str,
)
def test_what_cannot_be_rebuilt_is_unreadable_with_its_path(
    store: CheckpointManager, stored: Any, path: str
) -> None:
    saved = store.save("job", "step", {"a": [stored]})
    with pytest.raises(UnreadableState) as refused:
        store.restore("job", saved, types=Types())
    assert f"checkpoint {saved!r} of job 'job': {path}: " in str(refused.value)
    assert store.seq("job") == 2  # no restore was recorded
    assert store.restore("job", saved) == {"a": [stored]}


def test_nothing_is_imported_that_a_state_names() -> None:
    code = (
        "import sys; from milepost import Types\n"
        "for name in ('wave.Error', 'numpy.float64', 'wave'):\n"
        "    try: Types().decode({'$milepost': name, 'value': 1})\n"
        "    except ValueError: pass\n"
        "print({'wave', 'numpy'} & {*sys.modules})"
    )
    assert _run(code, hash_seed=0) == "set()\n"


# -- the same bytes in every process ---------------------------------------------------

SETS = """
from milepost import Types
words = {f"word {n}" for n in range(50)}
groups = {frozenset({word, len(word), None}) for word in words}
print(Types().encode([words, groups, {(1, frozenset(words))}, frozenset(groups)]))
"""


def test_sets_have_one_order_in_all_processes() -> None:
    assert _run(SETS, hash_seed=1) == _run(SETS, hash_seed=2)


def test_a_repeated_save_with_a_set_is_the_same_save(store: CheckpointManager) -> None:
    words = [f"word {n}" for n in range(50)]
    ids = {
        store.save("job", "step", {"s": {*order}}, types=Types(), idempotency_key="k")
        for order in (words, words[::-1])
    }
    assert len(ids) == 1


def _run(code: str, *, hash_seed: int) -> str:
    env = {**os.environ, "PYTHONHASHSEED": str(hash_seed)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=env,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


# -- where types are used --------------------------------------------------------------

STATE: dict[str, Any] = {"at": NOW, "seen": {1, 2}}
STORED = {
    "at": {"$milepost": "datetime", "value": NOW.isoformat()},
    "seen": {"$milepost": "set", "value": [1, 2]},
}
READS: dict[str, Callable[..., Any]] = {
    "get": lambda m, saved, **how: m.get("job", saved, **how).state,
    "restore": lambda m, saved, **how: m.restore("job", saved, **how),
    "resume_from": lambda m, saved, **how: m.resume_from("job", saved, **how).state,
    "load": lambda m, _, **how: m.load("job", **how),
    "load or default": lambda m, _, **how: m.load("job", None, **how),
    "latest": lambda m, _, **how: m.latest("job", with_state=True, **how).state,
    "state_at": lambda m, _, **how: m.state_at("job", 2, **how),
}


@pytest.mark.parametrize("name", READS)
def test_every_read_of_a_state_decodes_it_when_asked(root: Path, name: str) -> None:
    read = READS[name]
    with CheckpointManager(root) as manager:
        saved = manager.save("job", "step", STATE, types=Types())
        assert read(manager, saved, types=Types()) == STATE
        assert read(manager, saved) == STORED
    with CheckpointManager(root, types=Types()) as typed:
        assert read(typed, saved) == STATE
        assert read(typed, saved, types=AS_STORED) == STORED


def test_the_types_of_a_manager_are_for_all_its_saves() -> None:
    manager = CheckpointManager(storage=MemoryStorage(), types=Types())
    manager.save("job", "step", STATE)
    run = manager.start_workflow_execution("job", "flow")
    manager.create_checkpoint(run.execution_id, "work", "agent", {})
    manager.complete_checkpoint(run.execution_id, "work", STATE)
    assert [manager.get("job", info).state for info in manager.list("job")] == [
        STATE
    ] * 2
    assert manager.load("job", types=AS_STORED) == STORED


def test_durable_steps_have_the_built_in_types_in_any_case(
    store: CheckpointManager,
) -> None:
    with store.execution("flow", job_id="job", input=STATE) as run:
        assert run.input == STATE
        assert run.step("make", lambda: STATE) == STATE
        run.save("mark", STATE)
        run.result = STATE
    assert store.execution_outcome(run.execution_id).result == STATE
    assert store.load("job") == STORED
    assert store.load("job", types=Types()) == STATE


def test_changes_are_those_of_the_stored_form() -> None:
    manager = CheckpointManager(storage=MemoryStorage(), types=Types())
    a = manager.save("job", "step", {"seen": {1}})
    b = manager.save("job", "step", {"seen": {1, 2}})
    assert manager.diff("job", a, b) == [("add", "$.seen.value[1]", None, 2)]


def test_a_migration_changes_the_stored_form_before_it_is_decoded() -> None:
    manager = CheckpointManager(storage=MemoryStorage(), types=Types())
    old = {"at": {"$milepost": "old_name", "value": NOW.isoformat()}}
    saved = manager.save("job", "step", old, workflow_name="w", types=AS_STORED)
    manager.register_migration(
        "w", "1.0", "2.0", lambda s: {"at": s["at"] | {"$milepost": "datetime"}}
    )
    assert manager.restore("job", saved) == {"at": NOW}


def test_a_fork_has_the_same_values() -> None:
    manager = CheckpointManager(storage=MemoryStorage(), types=Types())
    saved = manager.save("job", "step", STATE)
    manager.fork("job", saved, "fork")
    assert manager.load("fork") == STATE


@pytest.mark.parametrize("types", [5, {}, ["set"]])
def test_types_are_checked_before_anything_is_done(
    store: CheckpointManager, types: Any
) -> None:
    with pytest.raises(InvalidArgument, match="types must be Types"):
        store.save("job", "step", {}, types=types)
    with pytest.raises(InvalidArgument, match="types must be a list of strings"):
        store.history("job", types=Types())  # type: ignore[arg-type] # what it is not


def test_an_encoded_value_is_json_that_orjson_reads_back() -> None:
    encoded = Types().encode(VALUES)
    assert is_alike(Types().decode(orjson.loads(orjson.dumps(encoded))), VALUES)
