"""Arguments of a wrong type are named, in every public method, whichever it is."""

from __future__ import annotations

import copy
import inspect
import pickle
import traceback
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from milepost import CheckpointManager, CheckpointTrigger, MemoryStorage
from milepost.journal import errors
from milepost.journal.execution_models import LeaseInfo
from tests.support.clock import NOW

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

METHODS = [
    name
    for name, member in inspect.getmembers(CheckpointManager, inspect.isfunction)
    if not name.startswith("_")
]
PARAMETERS = [
    (method, name)
    for method in METHODS
    for name, parameter in inspect.signature(
        getattr(CheckpointManager, method)
    ).parameters.items()
    if name != "self" and parameter.kind is not parameter.VAR_KEYWORD
]
# States are checked by what they hold, and whatever is a default can be one.
ELSEWHERE = {
    *(("save", "state"), ("save", "metadata"), ("load", "default")),
    ("append", "metadata"),
    *(("start_workflow_execution", "initial_data"), ("signal", "payload")),
    *(("create_checkpoint", "input_data"), ("complete_checkpoint", "output_data")),
    *(("complete_execution", "result"), ("request_approval", "subject")),
}
WRONG = [None, 5, 1.5, b"x", Path("x"), object(), [5], {}, True, "3", NOW]
RIGHT: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "str | CheckpointInfo": (str,),
    "bool": (bool,),
    "int": (int,),
    "float": (int, float),
    "str | Path": (str, Path),
    "datetime": (datetime,),
    "str | CheckpointState": (str,),
    "Mapping[str, Any]": (dict,),
    "Exhausted": (str,),
}


def manager_with(method: str) -> tuple[CheckpointManager, dict[str, Any]]:
    """Return a manager and arguments with which each method would work."""
    manager = CheckpointManager(storage=MemoryStorage(), clock=lambda: NOW)
    first, second = (manager.save("job", "s", {}) for _ in range(2))
    if method == "undelete":
        manager.delete("job", first)
    return manager, {
        "job_id": "log" if method == "append" else "job",
        "checkpoint_id": first,
        "a": first,
        "b": second,
        "step_name": "s",
        "state": {},
        "entries": [{}],
        "new_job_id": "new",
        "jobs": "job",
        "seq": 2,
        "limit": 3,
        "workflow_name": "w",
        "from_version": "1",
        "to_version": "2",
        "migrate": dict,
        "folder": Path("none"),
        "key_id": "k",
        "plan": manager.plan("job"),
        **dict.fromkeys(("execution_id", "approval_id", "correlation_id"), "job"),
        **dict.fromkeys(("checkpoint_name", "agent_id", "name", "error"), "n"),
        **{name: {} for name in ("input_data", "output_data", "subject")},
        **dict.fromkeys(("subject_digest", "decision"), "d"),
        "approved": True,
        "callback": print,
        "lease": LeaseInfo("exec_1", 1, 30.0),
        "trigger": CheckpointTrigger(["step.completed"]),
        "workflow": manager.workflow("w")(print),
    }


def is_needed(parameter: inspect.Parameter) -> bool:
    is_required = parameter.default is parameter.empty
    return is_required and parameter.kind is not parameter.VAR_KEYWORD


def prepared(method: str) -> Callable[[str, object], object]:
    """Return what calls `method`, with one of its arguments replaced."""
    manager, known = manager_with(method)
    found = inspect.signature(getattr(manager, method)).parameters
    needed = {n: known[n] for n, p in found.items() if is_needed(p)}
    return lambda parameter, value: getattr(manager, method)(
        **{**needed, parameter: value}
    )


def call(method: str, parameter: str, value: object) -> object:
    return prepared(method)(parameter, value)


def is_right(parameter: inspect.Parameter, value: object) -> bool:
    if value is None:
        return parameter.default is None
    annotation = str(parameter.annotation).removesuffix(" | None")
    kinds = (str,) if annotation.startswith("Literal") else RIGHT.get(annotation, ())
    return isinstance(value, kinds) and not (
        isinstance(value, bool) and bool not in kinds
    )


@pytest.mark.parametrize(("method", "parameter"), PARAMETERS, ids=str)
def test_a_wrong_type_is_named_by_every_public_method(
    method: str, parameter: str
) -> None:
    if (method, parameter) in ELSEWHERE:
        return
    signature = inspect.signature(getattr(CheckpointManager, method))
    refused = prepared(method)
    for value in WRONG:
        if is_right(signature.parameters[parameter], value):
            continue
        with pytest.raises(errors.InvalidArgument) as caught:
            refused(parameter, value)
        assert str(caught.value).startswith(f"{parameter} must be "), value
        assert f"got {type(value).__name__} " in str(caught.value)


@pytest.mark.parametrize(
    "arguments",
    [
        *({name: value} for name in ("root", "storage_dir") for value in (5, b"x", [])),
        *({name: "3"} for name in ("interval_seconds", "max_depth", "trash_seconds")),
        *({name: 1} for name in ("allow_plaintext", "policies", "keys", "clock")),
        *({name: 1} for name in ("durability", "codec", "actor")),
        {"lock_timeout_seconds": True},
    ],
    ids=str,
)
def test_a_wrong_type_is_named_at_construction(arguments: dict[str, Any]) -> None:
    (name,) = arguments
    with pytest.raises(errors.InvalidArgument, match=f"^{name} must be "):
        CheckpointManager(**({"storage": MemoryStorage()} | arguments))


def test_texts_are_no_lists_of_texts() -> None:
    for method, parameter in (("save", "tags"), ("history", "types")):
        for value in ("nightly", b"nightly", ["a", 5], None):
            if value is None and method == "history":
                continue
            with pytest.raises(errors.InvalidArgument, match=f"{parameter} must be"):
                call(method, parameter, value)
    naive = datetime(2026, 11, 23, tzinfo=UTC).replace(tzinfo=None)
    with pytest.raises(errors.InvalidArgument, match="now must be a datetime with a"):
        call("plan", "now", naive)


TAKES_AN_ID = [m for m, p in PARAMETERS if p in {"checkpoint_id", "a"}]


@pytest.mark.parametrize("method", TAKES_AN_ID)
def test_what_a_list_returns_is_taken_where_an_id_is(method: str) -> None:
    answers = []
    for as_info in (False, True):
        manager, known = manager_with("")
        first, second = manager.list("job")
        if method == "undelete":
            manager.delete("job", first)
        known |= {"checkpoint_id": first, "a": first, "b": second}
        if not as_info:
            known = {n: getattr(v, "checkpoint_id", v) for n, v in known.items()}
        found = inspect.signature(getattr(manager, method)).parameters
        needed = {n: known[n] for n, p in found.items() if is_needed(p)}
        answer = getattr(manager, method)(**needed)
        events = [e["type"] for e in manager.history("job")]
        answers.append((type(answer), events))
    assert answers[0] == answers[1]


# -- hints -----------------------------------------------------------------------------


def raised() -> Iterator[errors.MilepostError]:
    """Yield an error of every class, made as its own `__init__` wants it."""
    about: dict[str, Any] = {
        "path": "$.a",
        "problem": "is bad",
        "hint": "do this",
        "message": "it fails",
        "checkpoint_id": "c",
        "job_id": "j",
        "held_by": "me",
        "held_since": "then",
        "reason": None,
        "line": 1,
        "offset": 2,
        "expected": "x",
        "found": "y",
        "key_id": "k",
        "workflow": "w",
        "from_version": "1",
        "to_version": "2",
        "version": "1",
        "known": ("2",),
        "job_ids": ["j"],
        "root": Path("x"),
        "execution_id": "exec_1",
        "approval_id": "appr_1",
        "owner": "somebody",
        "deadline": None,
        "attempt": 1,
        "key": "charge",
        "now": "it ended",
        "kind": "log",
        "asked": "",
    }
    for name, kind in vars(errors).items():
        if isinstance(kind, type) and issubclass(kind, errors.MilepostError):
            wanted = [*inspect.signature(kind.__init__).parameters.values()][1:]
            known = {p.name: about[p.name] for p in wanted if p.name in about}
            missing = [p.name for p in wanted if p.default is p.empty]
            assert known.keys() >= set(missing), name
            yield kind(**known)


@pytest.mark.parametrize("error", [*raised()], ids=lambda e: type(e).__name__)
@pytest.mark.parametrize(
    "through", [lambda e: e, copy.copy, copy.deepcopy, lambda e: again(again(e))]
)
def test_a_hint_stands_in_the_traceback_once(
    error: errors.MilepostError,
    through: Callable[[errors.MilepostError], errors.MilepostError],
) -> None:
    kept = through(error)
    assert type(kept) is type(error)
    assert str(kept) == str(error)
    assert {**vars(kept)} == {**vars(error)}
    assert kept.details == error.details
    shown = "".join(traceback.format_exception(kept))
    assert shown.count("hint: ") == (error.hint is not None)
    assert error.hint is None or shown.count(error.hint) == 1


def again(error: errors.MilepostError) -> errors.MilepostError:
    found: errors.MilepostError = pickle.loads(pickle.dumps(error))
    return found


def test_the_hint_of_a_refused_state_is_what_a_person_sees() -> None:
    manager = CheckpointManager(storage=MemoryStorage())
    for state in ({"plan": {"deadline": NOW}}, {"t": (1, 2)}, {"k": {1: 2}}):
        with pytest.raises(errors.InvalidState) as caught:
            manager.save("orders", "s", state)
        assert caught.value.hint
        last = traceback.format_exception_only(caught.value)[-1]
        assert caught.value.hint in last
