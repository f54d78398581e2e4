"""Random bytes that are drawn a page at a time: never the same ones twice."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import orjson

from milepost import CheckpointManager
from milepost.journal.process import random_bytes

if TYPE_CHECKING:
    from pathlib import Path


def test_threads_that_draw_at_once_never_get_the_same_bytes() -> None:
    with ThreadPoolExecutor(8) as pool:
        drawn = [*pool.map(lambda _: random_bytes.draw(16), range(20_000))]
    assert {len(bits) for bits in drawn} == {16}
    assert len(set(drawn)) == len(drawn)


def _save(folder: Path, job_id: str) -> None:
    with CheckpointManager(folder) as manager:
        manager.save(job_id, "step", {"secret": "guess me"})


def test_a_forked_child_salts_its_states_with_bytes_of_its_own(tmp_path: Path) -> None:
    _save(tmp_path, "before")  # from here on, a page is at hand
    fork = multiprocessing.get_context("fork")
    children = [
        fork.Process(target=_save, args=(tmp_path, f"child-{number}"))
        for number in range(4)
    ]
    for child in children:
        child.start()
    _save(tmp_path, "parent")
    for child in children:
        child.join(60)
        assert child.exitcode == 0
    salts = [
        orjson.loads(line)["salt"]
        for journal in (tmp_path / "journals").glob("*.jsonl")
        for line in journal.read_bytes().splitlines()
        if line.startswith(b'{"state"')
    ]
    assert len(salts) == 6
    assert len(set(salts)) == 6
