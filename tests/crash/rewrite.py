"""Functions with one thing changed: how mutants are made."""

from __future__ import annotations
import __future__

import inspect
import sys
import textwrap
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Rewrite(NamedTuple):
    """One function, the text in it that changes, and what to.

    The text must stand in the function exactly once, so that a mutant whose target has
    moved on fails loudly instead of testing nothing.
    """

    function: Callable[..., Any]
    old: str
    new: str


@contextmanager
def rewritten(*rewrites: Rewrite) -> Iterator[None]:
    """Run with functions rewritten; all are put back at the end."""
    undo: list[tuple[object, str, object]] = []
    try:
        for rewrite in rewrites:
            owner, name = _owner(rewrite.function)
            undo.append((owner, name, inspect.getattr_static(owner, name)))
            setattr(owner, name, _compiled(rewrite))
        yield
    finally:
        for owner, name, old in reversed(undo):
            setattr(owner, name, old)


def _owner(function: Callable[..., Any]) -> tuple[object, str]:
    owner: object = sys.modules[function.__module__]
    *path, name = function.__qualname__.split(".")
    for part in path:
        owner = getattr(owner, part)
    return owner, name


def _compiled(rewrite: Rewrite) -> object:
    function = inspect.unwrap(rewrite.function)
    source = textwrap.dedent(inspect.getsource(function))
    if source.count(rewrite.old) != 1:
        msg = f"{function.__qualname__} no longer holds {rewrite.old!r} once"
        raise AssertionError(msg)
    code = compile(
        source.replace(rewrite.old, rewrite.new),
        f"<{function.__qualname__}, rewritten>",
        "exec",
        flags=__future__.annotations.compiler_flag,
        dont_inherit=True,
    )
    names: dict[str, Any] = {}
    exec(code, function.__globals__, names)
    return names[function.__name__]
