"""Workflow functions of `[[workflows]]`: each execution runs in a process of its own.

A process is ``milepost run MODULE:NAME``, started and stopped as a configured command.
"""

from __future__ import annotations

import sys
import time
from fnmatch import fnmatchcase
from glob import escape
from typing import TYPE_CHECKING, Any

from milepost.journal.errors import MilepostError
from milepost.journal.workflow.functions import WorkflowFunction
from milepost.worker.executors import PLACEHOLDER, CommandExecutor, load_object

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from milepost.worker.config.workflows import WorkflowRule


class FunctionUnusable(MilepostError, ValueError):
    """A workflow function cannot be imported, or does not fit its rule or the store."""

    code = "function_unusable"


def load_function(spec: str) -> WorkflowFunction:
    """Import and return the workflow named by `spec`, ``package.module:name``.

    Raises:
        FunctionUnusable: it cannot be imported, or is no workflow.
    """
    found = load_object(spec, "function", FunctionUnusable)
    if not isinstance(found, WorkflowFunction):
        raise FunctionUnusable(
            f"function {spec!r} is a {type(found).__name__}, not a workflow",
            hint="decorate it with @manager.workflow(NAME)",
        )
    return found


def check_root(spec: str, function: WorkflowFunction, root: Path | None) -> None:
    """Refuse a workflow of another store.

    Raises:
        FunctionUnusable: its manager has another store than `root`.
    """
    theirs = function.root
    if theirs is None or root is None or theirs.resolve() != root.resolve():
        raise FunctionUnusable(
            f"function {spec!r} belongs to the store {theirs or 'in memory'}, not to "
            f"{root or 'one in memory'}",
            hint=f"decorate it with a CheckpointManager({str(root)!r}), or set the "
            "store: --store, MILEPOST_STORE_ROOT or [store] root",
        )


class Functions:
    """The functions of the rules in force, and the processes that run them.

    Args:
        root: the folder of the store.
        log_dir: for the output of the processes.
        on_ended: called, in another thread, when a process has ended.
    """

    def __init__(
        self, root: Path | None, log_dir: Path, on_ended: Callable[[], object]
    ) -> None:
        self._root = root
        self._log_dir = log_dir
        self._on_ended = on_ended
        self._executors: dict[str, CommandExecutor] = {}
        self._versions: dict[str, str | None] = {}

    def bind(self, rules: Sequence[WorkflowRule]) -> list[WorkflowRule]:
        """Return rules as they apply: those with a function to its workflow only.

        What the function itself says is the default of its rule.

        Raises:
            FunctionUnusable: a function cannot be loaded, is of another store, or its
                name does not match; names the rule.
        """
        return [self._bound(place, rule) for place, rule in enumerate(rules)]

    def _bound(self, place: int, rule: WorkflowRule) -> WorkflowRule:
        if rule.function is None:
            return rule
        try:
            function = load_function(rule.function)
            check_root(rule.function, function, self._root)
        except FunctionUnusable as exc:
            raise FunctionUnusable(f"workflows[{place}]: {exc}", hint=exc.hint) from exc
        options = function.options
        if not fnmatchcase(options.name, rule.match):
            raise FunctionUnusable(
                f"workflows[{place}].match = {rule.match!r} does not match "
                f"{options.name!r}, the workflow of function {rule.function!r}",
                hint=f"set match = {options.name!r}",
            )
        self._versions[rule.function] = options.version
        said: dict[str, Any] = {"on_exhausted": options.on_exhausted}
        if function.max_attempts is not None:
            said["max_attempts"] = function.max_attempts
        kept = {key: said[key] for key in said.keys() - rule.model_fields_set}
        return rule.model_copy(update={**kept, "match": escape(options.name)})

    def executor(self, rule: WorkflowRule) -> CommandExecutor | None:
        """Return what starts the executions of a rule; None if it has no function."""
        spec = rule.function
        if spec is None:
            return None
        found = self._executors.get(spec)
        if found is None:
            words = ("run", spec, f"--job-id={PLACEHOLDER}", "--resume", "--traceback")
            found = self._executors[spec] = CommandExecutor(
                [sys.executable, "-m", "milepost", *words],
                log_dir=self._log_dir,
                on_ended=self._on_ended,
            )
        return found

    def version(self, rule: WorkflowRule) -> str | None:
        """Return the version of a rule's workflow, None if it is not known."""
        return self._versions.get(rule.function or "")

    def stop_all(self, timeout_seconds: float) -> None:
        """End the processes; their executions are interrupted."""
        ends_at = time.monotonic() + timeout_seconds
        executors = [*self._executors.values()]
        for executor in executors:
            executor.ask_to_stop()
        for executor in executors:
            executor.stop_all(max(0.0, ends_at - time.monotonic()))
