"""Real graphs give the same answers whatever happens to the store in between."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver

from milepost import Policy
from milepost.langgraph import MilepostSaver
from tests.langgraph.graphs import CONFIG, SCRIPTS, Open

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

THREAD = CONFIG["configurable"]["thread_id"]


def driven(name: str, saver: Any, between: Callable[[Open], None]) -> list[Any]:
    script, build = SCRIPTS[name]
    run = Open(saver, build)
    seen = []
    for each in script(run):
        seen.append(each)
        between(run)
    return seen


def nothing(run: Open) -> None:
    """Leave the store alone."""


def reopen(run: Open) -> None:
    """Use another manager, as another process would."""
    root = run.saver.manager.root
    run.saver.close()
    run.reopened(MilepostSaver(root))


def prune(run: Open) -> None:
    """Keep the newest of each namespace, and forget the rest at once."""
    run.saver.prune([THREAD])
    run.saver.manager.trash_seconds = 0
    run.saver.manager.compact(THREAD)


def retain(run: Open) -> None:
    """Apply a policy that keeps one checkpoint, and forget the rest at once."""
    manager = run.saver.manager
    policy = Policy(keep_last=1, max_remove_fraction=1)
    manager.apply(manager.plan(THREAD, policy))
    manager.trash_seconds = 0
    manager.compact(THREAD)


@pytest.mark.parametrize("between", [nothing, reopen, prune, retain])
@pytest.mark.parametrize("name", SCRIPTS)
def test_a_graph_answers_as_over_langgraphs_own_saver(
    name: str, between: Callable[[Open], None], tmp_path: Path
) -> None:
    expected = driven(name, InMemorySaver(), nothing)
    assert driven(name, MilepostSaver(tmp_path), between) == expected


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_references_agree(name: str) -> None:
    with SqliteSaver.from_conn_string(":memory:") as saver:
        assert driven(name, saver, nothing) == driven(name, InMemorySaver(), nothing)


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_fenced_saver_never_refuses_what_one_run_does(
    name: str, tmp_path: Path
) -> None:
    expected = driven(name, InMemorySaver(), nothing)
    assert driven(name, MilepostSaver(tmp_path, fenced=True), nothing) == expected
