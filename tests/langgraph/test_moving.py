"""`milepost import langgraph` from a database of LangGraph's own saver."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Any

import pytest
from langgraph.checkpoint.sqlite import SqliteSaver

from milepost.langgraph import MilepostSaver
from tests.langgraph.graphs import CONFIG, SCRIPTS, Open
from tests.langgraph.threads import config_of, put
from tests.support.cli import call

if TYPE_CHECKING:
    from pathlib import Path

THREAD = CONFIG["configurable"]["thread_id"]
IMPORT = ("import", "langgraph", "sqlite:old.db", "--store", "new")


@pytest.fixture
def old(folder: Path) -> Path:
    """`old.db`: three threads of graphs, each after half of its script."""
    with SqliteSaver.from_conn_string("old.db") as saver:
        for name in ("interrupts of several tools", "subgraph", "edited delta channel"):
            script, build = SCRIPTS[name]
            steps = script(Open(saver, build))
            next(steps)
            next(steps)
            saver.conn.execute(
                "UPDATE checkpoints SET thread_id = ? WHERE thread_id = ?",
                (name, THREAD),
            )
            saver.conn.execute(
                "UPDATE writes SET thread_id = ? WHERE thread_id = ?", (name, THREAD)
            )
            saver.conn.commit()
    return folder / "old.db"


def tuples(saver: Any) -> list[Any]:
    found = [*saver.list(None)]
    assert len(found) > 8
    return sorted(found, key=lambda each: sorted(each.config["configurable"].items()))


@pytest.mark.usefixtures("old")
def test_every_tuple_reads_as_from_the_database() -> None:
    done = call(*IMPORT)
    assert done.code == 0, done.err
    assert "of 3 threads" in done.out
    with SqliteSaver.from_conn_string("old.db") as old, MilepostSaver("new") as new:
        assert tuples(new) == tuples(old)


@pytest.mark.usefixtures("old")
def test_a_second_import_adds_nothing() -> None:
    dry = call(*IMPORT, "--dry-run")
    assert "would import" in dry.out
    call(*IMPORT)
    with MilepostSaver("new") as saver:
        seqs = {name: saver.manager.seq(name) for name in saver.thread_ids()}
        assert len(seqs) == 3
    again = call(*IMPORT)
    assert again.code == 0, again.err
    assert again.out.endswith("nothing to import\n")
    with MilepostSaver("new") as saver:
        assert {name: saver.manager.seq(name) for name in saver.thread_ids()} == seqs


@pytest.mark.usefixtures("old")
def test_what_was_pruned_since_is_not_imported_again() -> None:
    call(*IMPORT)
    with MilepostSaver("new") as saver:
        saver.prune(["subgraph"])
        left = [*saver.list(config_of("subgraph", ns=None))]
    with SqliteSaver.from_conn_string("old.db") as source:
        put(source, "9", thread="subgraph")
    again = call(*IMPORT)
    assert "subgraph: imported 1 checkpoint, " in again.out
    with MilepostSaver("new") as saver:
        assert len([*saver.list(config_of("subgraph", ns=None))]) == len(left) + 1


@pytest.mark.usefixtures("old")
def test_the_source_is_read_without_a_change(old: Path) -> None:
    before = old.read_bytes()
    call(*IMPORT)
    assert old.read_bytes() == before


@pytest.mark.usefixtures("old")
def test_a_database_without_paths_of_tasks_is_read(folder: Path) -> None:
    with sqlite3.connect("old.db") as connection:
        connection.execute("ALTER TABLE writes DROP COLUMN task_path")
    connection.close()
    done = call(*IMPORT)
    assert done.code == 0, done.err
    assert (folder / "new").is_dir()


@pytest.mark.usefixtures("old")
def test_a_checkpoint_that_is_other_than_in_the_source_is_named() -> None:
    call(*IMPORT)
    with sqlite3.connect("old.db") as connection:
        connection.execute(
            "UPDATE checkpoints SET checkpoint = ? WHERE rowid ="
            " (SELECT max(rowid) FROM checkpoints)",
            (b"\x80",),
        )
    connection.close()
    again = call(*IMPORT)
    assert again.code == 3
    assert "has other values" in again.out


@pytest.mark.usefixtures("old")
def test_a_job_of_the_same_id_that_holds_no_thread_stops_only_its_thread() -> None:
    with MilepostSaver("new") as saver:
        saver.manager.save("subgraph", "step", {})
    done = call(*IMPORT)
    assert done.code == 3
    assert "'subgraph'" in done.out
    with MilepostSaver("new") as saver:
        assert len(saver.thread_ids()) == 2


WRONG = {
    "sqlite:none.db": "none.db is not a file",
    "sqlite:text": "text has no threads of LangGraph: file is not a database",
    "sqlite:other.db": "other.db has no threads of LangGraph: no such table",
    "mysql://x": "'mysql://x' is neither sqlite:PATH nor postgresql://…",
}


@pytest.mark.parametrize("source", WRONG)
def test_a_wrong_source_is_one_line(folder: Path, source: str) -> None:
    (folder / "text").write_text("this is no database at all\n" * 100)
    sqlite3.connect("other.db").execute("CREATE TABLE t (x)").connection.close()
    done = call("import", "langgraph", source)
    assert done.code == 2
    first, *_ = done.err.splitlines()
    assert WRONG[source] in first
