"""`verify`, and what the other verbs say about a damaged job."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.cli import JOB, call, damage


@pytest.mark.usefixtures("store")
def test_verify_finds_a_sound_store_sound() -> None:
    done = call("verify", "--deep")

    assert done.code == 0
    assert [row[:4] for row in done.rows] == [[JOB, "yes", "4", "3"]]


def test_verify_names_the_place_of_the_damage_and_goes_on(store: Path) -> None:
    call("fork", JOB, "other")
    damage(store)

    done = call("verify")

    assert done.code == 7
    assert [(row[0], row[1]) for row in done.rows] == [(JOB, "no"), ("other", "yes")]
    assert f"job '{JOB}' is damaged at line" in done.err


def test_verify_of_chosen_jobs_leaves_the_others_out(store: Path) -> None:
    call("fork", JOB, "other")
    damage(store)

    assert call("verify", "other").code == 0
    assert call("verify", "other", JOB).code == 7
    assert call("verify", "other", "nope").code == 4


def test_a_damaged_job_refuses_every_verb_with_the_same_code(store: Path) -> None:
    damage(store)

    for words in (
        ("list", JOB),
        ("show", JOB),
        ("log", JOB),
        ("save", JOB, "--step", "s"),
        ("restore", JOB),
        ("delete", f"{JOB}@3"),
        ("cleanup", JOB),
    ):
        assert call(*words, stdin="{}").code == 7, words
