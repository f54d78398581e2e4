"""Functions with one thing changed: how mutants are made."""

from __future__ import annotations
import __future__

import inspect
import sys
import textwrap
from collections import defaultdict
from collections.abc import Callable
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator


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
    begun: list[Rewrite] = []
    try:
        for rewrite in rewrites:
            begun.append(rewrite)
            new = _compiled(rewrite)
            for owner, name in _holders(rewrite.function):
                undo.append((owner, name, inspect.getattr_static(owner, name)))
                setattr(owner, name, new)
        yield
    finally:
        for owner, name, old in reversed(undo):
            setattr(owner, name, old)
        for rewrite in begun:
            del _sources[rewrite.function][-1:]


def _holders(function: Callable[..., Any]) -> list[tuple[object, str]]:
    """Return every place that the package calls the function by."""
    owner: object = sys.modules[function.__module__]
    *path, name = function.__qualname__.split(".")
    if path:
        for part in path:
            owner = getattr(owner, part)
        return [(owner, name)]
    now = getattr(owner, name)
    return [
        (module, name)
        for module_name, module in list(sys.modules.items())
        if module_name.startswith("milepost.journal.")
        and getattr(module, name, None) is now
    ]


# The texts that each function has by now, the newest last: rewrites add up.
_sources: defaultdict[Callable[..., Any], list[str]] = defaultdict(list)


def _compiled(rewrite: Rewrite) -> object:
    function = inspect.unwrap(rewrite.function)
    texts = _sources[rewrite.function]
    source = texts[-1] if texts else textwrap.dedent(inspect.getsource(function))
    texts.append(source.replace(rewrite.old, rewrite.new))
    if source.count(rewrite.old) != 1:
        msg = f"{function.__qualname__} no longer holds {rewrite.old!r} once"
        raise AssertionError(msg)
    code = compile(
        texts[-1],
        f"<{function.__qualname__}, rewritten>",
        "exec",
        flags=__future__.annotations.compiler_flag,
        dont_inherit=True,
    )
    names: dict[str, Any] = {}
    exec(code, function.__globals__, names)
    return names[function.__name__]
