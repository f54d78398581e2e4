"""Durable steps of others: DBOS on SQLite, Absurd on PostgreSQL, where installed."""

from __future__ import annotations

import importlib.util
import logging
import os
from itertools import count, cycle
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from milepost import CheckpointManager

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Where Absurd's own tools look for its database.
ABSURD_URL = "ABSURD_DATABASE_URL"
_STEP = "extract"


class Contender(Protocol):
    """What runs workflows with durable steps."""

    def work(self, steps: int) -> str:
        """Run a workflow of `steps` steps with results of 1 KB; return its id."""

    def size_bytes(self) -> int:
        """Return the length of its files, or the size of its tables."""


@runtime_checkable
class Forking(Contender, Protocol):
    """One that has forks."""

    def fork(self, workflow_id: str, before: int) -> None:
        """Start another workflow with the results before a step, from 1."""


class Milepost:
    """This project: a job for each workflow."""

    def __init__(self, folder: Path, results: list[dict[str, Any]]) -> None:
        self._folder = folder
        self._manager = CheckpointManager(folder)
        self._results = cycle(results)
        self._numbers = count(1)

    def work(self, steps: int) -> str:
        """See `Contender.work`."""
        job = f"job-{next(self._numbers)}"
        with self._manager.execution("work", job_id=job) as run:
            for _ in range(steps):
                run.step(_STEP, next, self._results)
        return run.execution_id

    def fork(self, workflow_id: str, before: int) -> None:
        """See `Forking.fork`."""
        job = f"fork-{next(self._numbers)}"
        key = f"{_STEP}#{before}"
        self._manager.fork_execution(workflow_id, job, before=key)

    def size_bytes(self) -> int:
        """See `Contender.size_bytes`."""
        return _length(self._folder)


class Dbos:
    """DBOS with its system database in SQLite."""

    def __init__(self, folder: Path, results: list[dict[str, Any]]) -> None:
        logging.disable(logging.CRITICAL)
        from dbos import DBOS  # type: ignore[import-not-found, unused-ignore] # optional

        self._folder = folder
        self._forks: list[Any] = []
        source = cycle(results)
        config = {
            "name": "bench",
            "system_database_url": f"sqlite:///{folder}/dbos.sqlite",
            "run_admin_server": False,
        }
        self._dbos = DBOS
        DBOS(config=config)

        @DBOS.step()  # type: ignore[untyped-decorator, unused-ignore] # optional
        def step() -> dict[str, Any]:
            return next(source)

        @DBOS.workflow()  # type: ignore[untyped-decorator, unused-ignore] # optional
        def work(steps: int) -> None:
            for _ in range(steps):
                step()

        self._work = work
        DBOS.launch()

    def work(self, steps: int) -> str:
        """See `Contender.work`."""
        handle = self._dbos.start_workflow(self._work, steps)
        handle.get_result()
        return str(handle.workflow_id)

    def fork(self, workflow_id: str, before: int) -> None:
        """See `Forking.fork`."""
        self._forks.append(self._dbos.fork_workflow(workflow_id, before))

    def size_bytes(self) -> int:
        """See `Contender.size_bytes`."""
        return _length(self._folder)

    def close(self) -> None:
        """Wait for its forks, which run in threads, and stop these."""
        for fork in self._forks:
            fork.get_result()
        self._dbos.destroy()
        logging.disable(logging.NOTSET)


class Absurd:
    """Absurd in the database that its own variable names."""

    def __init__(self, results: list[dict[str, Any]]) -> None:
        import absurd_sdk  # type: ignore[import-not-found, unused-ignore] # optional
        import absurdctl  # type: ignore[import-not-found, unused-ignore] # optional
        import psycopg  # type: ignore[import-not-found, unused-ignore] # optional

        self._db = psycopg.connect(os.environ[ABSURD_URL], autocommit=True)
        found = self._db.execute("select to_regnamespace('absurd')").fetchone()
        if found[0] is None:
            self._db.execute(absurdctl.BUNDLED_SCHEMA_SQL)
        self._app = absurd_sdk.Absurd(self._db)
        self._app.create_queue()
        source = cycle(results)

        @self._app.register_task(name="work")  # type: ignore[untyped-decorator, unused-ignore] # optional
        def work(params: dict[str, int], context: Any) -> None:
            for _ in range(params["steps"]):
                context.step(_STEP, lambda: next(source))

        del work

    def work(self, steps: int) -> str:
        """See `Contender.work`."""
        spawned = self._app.spawn("work", {"steps": steps})
        self._app.work_batch()
        return str(spawned["task_id"])

    def size_bytes(self) -> int:
        """See `Contender.size_bytes`."""
        tables = (f"absurd.{prefix}_default" for prefix in "trce")
        query = "select pg_total_relation_size(%s)"
        return sum(self._db.execute(query, (t,)).fetchone()[0] for t in tables)

    def close(self) -> None:
        """Drop its queue, and close the connection."""
        self._app.drop_queue()
        self._db.close()


def has_dbos() -> bool:
    """Return whether DBOS is installed."""
    return importlib.util.find_spec("dbos") is not None


def has_absurd() -> bool:
    """Return whether Absurd is installed and has a database."""
    return importlib.util.find_spec("absurd_sdk") is not None and (
        ABSURD_URL in os.environ
    )


def _length(folder: Path) -> int:
    return sum(path.stat().st_size for path in _files(folder))


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())
