"""Job ids, step names, checkpoint ids, and the file names of jobs."""

from __future__ import annotations

import functools
import hashlib
import os
import re
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

from milepost.journal.errors import InvalidArgument

if TYPE_CHECKING:
    from datetime import datetime

MAX_ID_BYTES = 512
MAX_NAME_BYTES = 200
_CUT_NAME_BYTES = 150
_SAFE = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-")
_IS_NAME = re.compile(rf"[A-Za-z0-9_-]{{1,{MAX_NAME_BYTES}}}")
_NOT_SLUG = re.compile(r"[^A-Za-z0-9._-]+")
_MAX_SLUG = 64
_RANDOM = re.compile(r"[0-9a-f]{20}")
EXECUTION, APPROVAL = "exec_", "appr_"
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def _check_text(what: str, value: object) -> str:
    if not isinstance(value, str):
        raise InvalidArgument(
            f"{what} must be a string, got {type(value).__name__} {value!r:.60}"
        )
    _check_size(what, value)
    return value


@functools.lru_cache(maxsize=1024)  # a job uses few step names
def _check_size(what: str, value: str) -> None:
    try:
        size = len(value.encode())
    except UnicodeEncodeError as exc:
        raise InvalidArgument(
            f"{what} {value!r:.60} has a lone surrogate, which has no UTF-8 form"
        ) from exc
    if not 1 <= size <= MAX_ID_BYTES:
        raise InvalidArgument(
            f"{what} must have 1 to {MAX_ID_BYTES} bytes, got {size}: {value!r:.60}"
        )


def check_job_id(job_id: object) -> str:
    """Return `job_id` if it is a valid job id.

    Raises:
        InvalidArgument: not a string of 1 to 512 UTF-8 bytes without control
            characters.
    """
    text = _check_text("job_id", job_id)
    if _CONTROL.search(text):
        raise InvalidArgument(f"job_id {text!r:.60} has a control character")
    return text


def check_new_job_id(job_id: object) -> str:
    """Return `job_id` if a job with this id may be created.

    Stricter than `check_job_id`, because "printable" depends on the Unicode version
    of the running Python: existing jobs stay reachable under an older one.

    Raises:
        InvalidArgument: as `check_job_id`, or a character is not printable (bidi
            overrides, zero-width characters, unusual blanks).
    """
    text = check_job_id(job_id)
    if not text.isprintable():
        bad = next(c for c in text if not c.isprintable())
        raise InvalidArgument(
            f"job_id {text!r:.60} has U+{ord(bad):04X}, which cannot be printed"
        )
    return text


def check_step_name(step_name: object) -> str:
    """Return `step_name` if it is a valid step name.

    Raises:
        InvalidArgument: not a string of 1 to 512 UTF-8 bytes.
    """
    return _check_text("step_name", step_name)


def check_label(what: str, value: object) -> str:
    """Return `value` if it is a valid tag, actor, key, name or version.

    Raises:
        InvalidArgument: not a string of 1 to 512 UTF-8 bytes.
    """
    return _check_text(what, value)


def file_name(job_id: str) -> str:
    """Return the base name of the files of `job_id`.

    Every byte outside ``[A-Za-z0-9_-]`` is percent-encoded, so no id can name a path
    outside the folder.  A name over 200 bytes is cut and gets ``~`` and a hash; other
    names have no ``~``, so the two forms cannot collide.
    """
    if _IS_NAME.fullmatch(job_id):
        return job_id
    raw = job_id.encode()
    name = "".join(chr(b) if b in _SAFE else f"%{b:02X}" for b in raw)
    if len(name) > MAX_NAME_BYTES:
        return f"{name[:_CUT_NAME_BYTES]}~{hashlib.sha256(raw).hexdigest()[:32]}"
    return name


def job_of(name: str) -> str | None:
    """Return the job id whose `file_name` is `name`; None if it was cut."""
    if _IS_NAME.fullmatch(name):
        return name
    if "~" in name:
        return None
    try:
        job_id = check_job_id(unquote_to_bytes(name).decode())
    except (UnicodeError, InvalidArgument):  # a foreign file
        return None
    return job_id if file_name(job_id) == name else None


def new_checkpoint_id(step_name: str, now: datetime) -> str:
    """Return ``<step>_<unix seconds>_<8 hex>``, which is safe in a URL path."""
    return f"{_slug(step_name)}_{int(now.timestamp())}_{os.urandom(4).hex()}"


@functools.lru_cache(maxsize=1024)
def _slug(step_name: str) -> str:
    return _NOT_SLUG.sub("-", step_name)[:_MAX_SLUG].strip("-") or "step"


def new_nonce() -> str:
    """Return 32 random hex digits, for a store id or the start of a hash chain."""
    return os.urandom(16).hex()


def new_execution_id() -> str:
    """Return ``exec_<20 hex>``."""
    return f"{EXECUTION}{os.urandom(10).hex()}"


def new_approval_id() -> str:
    """Return ``appr_<20 hex>``."""
    return f"{APPROVAL}{os.urandom(10).hex()}"


def is_new_form(prefix: str, id_: str) -> bool:
    """Return whether `id_` has the form that is given to executions or approvals."""
    return id_.startswith(prefix) and _RANDOM.fullmatch(id_[len(prefix) :]) is not None
