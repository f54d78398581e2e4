"""Decisions under a job's lock, each from a view and a batch alone, without a disk."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from milepost.journal.batch import Batch
from milepost.journal.commands import completion, erasure, marks, removal, saving
from milepost.journal.errors import (
    Conflict,
    InvalidArgument,
    MilepostError,
    OnHold,
    Protected,
    UnknownCheckpoint,
    UnreadableState,
)
from milepost.journal.index import job_view
from milepost.journal.index.job_view import JobView
from milepost.journal.states import json_states, line_codec
from milepost.journal.states.packer import Packer
from tests.support.clock import NOW

if TYPE_CHECKING:
    from collections.abc import Callable

    from milepost.journal.commands.marks import Verb

ACTOR = "ann"
TRASH_SECONDS = 3600.0


class Job:
    """A job in memory: decisions are folded as a write would be."""

    def __init__(self) -> None:
        self.view = JobView("job", None)
        self.now = NOW

    def do(self, decide: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Take a decision, fold its events and return its answer."""
        batch = Batch(self.view, self.now)
        if self.view.seq == 0:
            batch.open("store")
        batch.begin()
        answer = decide(batch, *args, actor=ACTOR, **kwargs)
        if len(batch):
            for located in batch.encode().events:
                job_view.apply(self.view, *located)
        return answer

    def save(self, key: str | None = None, **state: Any) -> str:
        """Save a state and return its checkpoint's id."""
        packer, raw = Packer("json"), json_states.to_json(state, LIMITS)
        packed = packer.whole(raw)
        encoded = line_codec.encode_state(raw, None, packed.body)
        data = {
            "checkpoint_id": "",
            "step_name": "s",
            "parent": 0,
            "state_digest": encoded.digest,
            "state_bytes": encoded.raw_bytes,
        }
        if key is not None:
            data["idempotency_key"] = key
        draft = saving.Draft(data, raw, packed, encoded)
        saved = self.do(
            saving.save, draft, packer, lambda *_: key == "same", expected_seq=None
        )
        return str(saved.checkpoint_id)

    def mark(self, verb: Verb, checkpoint_id: str, **extra: Any) -> bool:
        """Pin, unpin, hold or release."""
        extra = {"reason": None, "expected_seq": None} | extra
        return bool(self.do(marks.mark, verb, checkpoint_id, **extra))

    def delete(self, checkpoint_id: str, **extra: Any) -> bool:
        """Delete or purge."""
        flags = {"force": False, "purge": False}
        extra = {"reason": None, "expected_seq": None} | flags | extra
        return bool(self.do(removal.delete, checkpoint_id, **extra))

    def undelete(
        self, checkpoint_id: str, problem: MilepostError | None = None
    ) -> bool:
        """Undelete a checkpoint whose stored state has this problem."""
        undeleted = self.do(
            removal.undelete,
            checkpoint_id,
            trash_seconds=TRASH_SECONDS,
            expected_seq=None,
            problem_of=lambda *_: problem,
        )
        return bool(undeleted)


LIMITS = json_states.Limits(1024, 10)


@pytest.fixture
def job() -> Job:
    return Job()


@pytest.mark.parametrize(
    ("verb", "marked", "undo"),
    [("pin", "pinned", "unpin"), ("hold", "held", "release")],
)
def test_a_mark_is_set_once_and_removed_once(
    job: Job, verb: Verb, marked: str, undo: Verb
) -> None:
    first = job.save()
    assert [job.mark(undo, first), job.mark(verb, first)] == [False, True]
    assert first in getattr(job.view, marked)
    assert [job.mark(verb, first), job.mark(undo, first)] == [False, True]
    assert first not in getattr(job.view, marked)
    assert not job.mark(undo, first)


@pytest.mark.parametrize("verb", ["pin", "unpin", "hold", "release"])
def test_a_mark_needs_a_live_checkpoint_a_valid_reason_and_the_expected_seq(
    job: Job, verb: Verb
) -> None:
    first, seq = job.save(), job.view.seq
    with pytest.raises(UnknownCheckpoint):
        job.mark(verb, "none")
    with pytest.raises(Conflict):
        job.mark(verb, first, expected_seq=seq - 1)
    if verb in ("pin", "hold"):
        with pytest.raises(InvalidArgument, match=r"^reason"):
            job.mark(verb, first, reason="")
    assert job.view.seq == seq


def test_a_held_checkpoint_is_not_deleted_even_by_force(job: Job) -> None:
    first = job.save()
    job.mark("hold", first, reason="audit")
    with pytest.raises(OnHold, match="audit"):
        job.delete(first, force=True)
    with pytest.raises(OnHold):
        job.do(erasure.erase, reason=None)
    assert first in job.view.checkpoints


def test_a_pinned_checkpoint_is_deleted_by_force_alone(job: Job) -> None:
    first = job.save()
    job.mark("pin", first)
    with pytest.raises(Protected):
        job.delete(first)
    assert job.delete(first, force=True)
    assert not job.delete(first)
    assert job.delete(first, purge=True)


def test_a_deletion_moves_current_to_the_nearest_remaining_ancestor(job: Job) -> None:
    first, second = job.save(), job.save()
    assert job.delete(second)
    assert job.view.current is not None
    assert job.view.current.checkpoint_id == first


def test_a_checkpoint_is_undeleted_within_its_trash_period_alone(job: Job) -> None:
    first = job.save()
    job.delete(first)
    job.now += timedelta(seconds=TRASH_SECONDS)
    with pytest.raises(Conflict, match="trash period ended"):
        job.undelete(first)
    job.now -= timedelta(seconds=1)
    with pytest.raises(UnreadableState, match="rotten"):
        job.undelete(first, UnreadableState("rotten"))
    assert [job.undelete(first), job.undelete(first)] == [True, False]
    job.delete(first, purge=True)
    with pytest.raises(Conflict, match="was purged"):
        job.undelete(first)


def test_a_completion_is_recorded_and_a_save_reopens_the_job(job: Job) -> None:
    def complete(**extra: Any) -> None:
        job.do(completion.complete, **{"expected_seq": None, **extra})

    job.save()
    with pytest.raises(Conflict):
        complete(failed=True, reason=None, expected_seq=1)
    assert job.view.completion is None
    complete(failed=True, reason="out of memory")
    end = job.view.completion
    assert end is not None
    assert (end.failed, end.reason) == (True, "out of memory")
    job.save()
    assert job.view.completion is None


def test_a_key_refers_to_its_save_and_to_no_other_content(job: Job) -> None:
    first = job.save("same", n=1)
    assert job.save("same", n=1) == first
    job.save("other", n=1)
    with pytest.raises(Conflict, match="'other' refers to"):
        job.save("other", n=2)
