"""Type checks of the arguments of public methods, keyed by argument name.

A key with a method's name is for that method alone.

Bounds are checked where a value is used.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from datetime import datetime
from functools import wraps
from importlib import import_module
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from milepost.journal.errors import InvalidArgument
from milepost.journal.models import Checkpoint, CheckpointInfo

_P = ParamSpec("_P")
_T = TypeVar("_T")
_Check = Callable[[object], bool]


def id_of(checkpoint: str | CheckpointInfo | Checkpoint) -> str:
    """Return the id of a checkpoint given as an id, an info or a whole checkpoint."""
    if isinstance(checkpoint, Checkpoint):
        checkpoint = checkpoint.info
    return checkpoint if isinstance(checkpoint, str) else checkpoint.checkpoint_id


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_real(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_time(value: object) -> bool:
    return isinstance(value, datetime) and value.tzinfo is not None


def _is_texts(value: object) -> bool:
    is_plain = isinstance(value, str | bytes | Mapping)
    return isinstance(value, Collection) and not is_plain and all(map(_is_text, value))


def _is_dicts(value: object) -> bool:
    is_plain = isinstance(value, Mapping)
    are_dicts = isinstance(value, Collection) and all(
        isinstance(each, dict) for each in value
    )
    return are_dicts and not is_plain


def _instance_of(home: str, name: str) -> _Check:
    def check(value: object) -> bool:
        # Compare by name first, so that a class that is never passed is not imported.
        return type(value).__name__ == name or isinstance(
            value, getattr(import_module(home), name)
        )

    return check


_TEXT = ("a string", _is_text)
_FLAG = ("True or False", lambda value: isinstance(value, bool))
_WHOLE = ("a whole number", _is_whole)
_REAL = ("a number", _is_real)
_CALLABLE = ("a function", callable)
_CHECKPOINT = (
    "a string or a CheckpointInfo",
    lambda value: isinstance(value, str | CheckpointInfo | Checkpoint),
)
_PATH = ("a string or a Path", lambda value: isinstance(value, str | Path))
_TEXTS = ("a list of strings", _is_texts)
_CHECKS: dict[str, tuple[str, _Check]] = {
    **dict.fromkeys(("root", "storage_dir", "storage_path", "folder"), _PATH),
    **dict.fromkeys(
        (
            *("job_id", "new_job_id", "jobs", "step_name", "actor", "reason"),
            *("workflow_name", "workflow_version", "from_version", "to_version"),
            *(
                "idempotency_key",
                "key",
                "key_id",
                "plan_id",
                "match",
                "after",
                "before",
            ),
            *("durability", "codec", "correlation_id", "execution_id", "agent_id"),
            *("checkpoint_name", "approval_id", "subject_digest", "comment", "error"),
            *("worker", "status", "approver", "decision", "on_timeout", "on_reject"),
            *("on_step_failure", "state_filter", "name", "version", "on_exhausted"),
        ),
        _TEXT,
    ),
    **dict.fromkeys(("checkpoint_id", "a", "b"), _CHECKPOINT),
    **dict.fromkeys(("tags", "job_ids", "approvers", "on", "history.types"), _TEXTS),
    **dict.fromkeys(
        (
            *("pinned", "failed", "force", "purge", "deep", "reverse", "dry_run"),
            *("accept_loss", "confirm", "trust_clock", "rewrap", "with_state"),
            *("allow_plaintext", "approval_required", "auto_start", "success"),
            *("approved", "pending", "retry", "allow_self", "strict", "auto_renew"),
            "strict_order",
        ),
        _FLAG,
    ),
    **dict.fromkeys(
        (
            *(
                "limit",
                "last",
                "seq",
                "after_seq",
                "expected_seq",
                "keep_last",
                "max_bytes",
            ),
            *("max_state_bytes", "max_depth", "required", "attempt", "max_attempts"),
        ),
        _WHOLE,
    ),
    **dict.fromkeys(
        (
            *("interval_seconds", "lock_timeout_seconds", "trash_seconds"),
            *("max_age_days", "ttl", "grace_seconds"),
        ),
        _REAL,
    ),
    **dict.fromkeys(
        ("migrate", "on_progress", "on_piece", "on_restored", "clock", "callback"),
        _CALLABLE,
    ),
    **dict.fromkeys(
        ("now", "as_of", "deadline", "remind_at"),
        ("a datetime with a time zone", _is_time),
    ),
    **dict.fromkeys(
        ("input", "changes"), ("a dict", lambda value: isinstance(value, Mapping))
    ),
    "entries": ("a list of dicts", _is_dicts),
    "approval": ("Terms", _instance_of("milepost.journal.commands.approvals", "Terms")),
    "lease": (
        "a LeaseInfo",
        _instance_of("milepost.journal.execution_models", "LeaseInfo"),
    ),
    "policy": ("a Policy", _instance_of("milepost.journal.retention.policy", "Policy")),
    "trigger": (
        "a CheckpointTrigger",
        _instance_of("milepost.journal.workflow.triggers", "CheckpointTrigger"),
    ),
    "workflow": (
        "a WorkflowFunction",
        _instance_of("milepost.journal.workflow.functions", "WorkflowFunction"),
    ),
    "plan": ("a Plan", _instance_of("milepost.journal.retention.plans", "Plan")),
    "threshold": (
        "a Threshold",
        _instance_of("milepost.journal.store.compaction", "Threshold"),
    ),
    "policies": (
        "Policies",
        _instance_of("milepost.journal.retention.policies", "Policies"),
    ),
    "types": ("Types", _instance_of("milepost.journal.states.types", "Types")),
    "keys": ("a KeyRing", _instance_of("milepost.journal.crypto.keys", "KeyRing")),
}


def checked(method: Callable[_P, _T]) -> Callable[_P, _T]:
    """Return `method` with its arguments checked by type.

    None is accepted where it is the default.

    Raises:
        InvalidArgument: raised by the method before it does anything; names the
            argument.
    """
    code: Any = method.__code__
    count = code.co_argcount
    names = code.co_varnames[: count + code.co_kwonlyargcount]
    defaults = method.__defaults__ or ()
    optional = dict(zip(names[count - len(defaults) : count], defaults, strict=True))
    optional |= method.__kwdefaults__ or {}
    may_be_none = {name for name, default in optional.items() if default is None}
    own = {name: f"{method.__name__}.{name}" for name in names}
    keys = {name: own[name] if own[name] in _CHECKS else name for name in names}
    checks = {name: _CHECKS[key] for name, key in keys.items() if key in _CHECKS}

    @wraps(method)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        for given in (zip(names, args, strict=False), kwargs.items()):
            for name, value in given:
                check = checks.get(name)
                if check is None or (value is None and name in may_be_none):
                    continue
                if not check[1](value):
                    raise InvalidArgument(
                        f"{name} must be {check[0]}, got {type(value).__name__} "
                        f"{value!r:.60}"
                    )
        return method(*args, **kwargs)

    return call


def check_methods(cls: type[_T]) -> type[_T]:
    """Wrap every public method that `cls` itself defines with `checked`."""
    for name, member in [*vars(cls).items()]:
        if not name.startswith("_") and type(member) is type(check_methods):
            setattr(cls, name, checked(member))
    return cls
