"""Requests made up from the OpenAPI document: all are answered as it says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from milepost import CheckpointManager
from milepost.api import create_app
from milepost.journal.storage.files.storage import FileStorage
from tests.support.client import saved
from tests.support.faults import FaultyDisk

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fastapi import FastAPI

    from tests.support.tally import Tally

JOB = "etl"
EXAMPLES = 250
OPERATIONS = [
    f"{method.upper()} {path}"
    for path, methods in create_app().openapi()["paths"].items()
    for method in methods
]

# Schemathesis takes seconds to import, so only the tests that use it import it.


def operation_of(app: FastAPI, label: str) -> Any:
    """Return one operation of the application's document."""
    import schemathesis

    schema = schemathesis.openapi.from_dict(app.openapi())
    schema.app = app
    found = [result.ok() for result in schema.get_all_operations()]
    return next(operation for operation in found if operation.label == label)


def about(case: Any, checkpoint_id: str | None) -> Any:
    """Let a request be about what is there, not only about what is made up."""
    known = {"checkpoint_id": checkpoint_id, "job_id": JOB}
    for place in (case.path_parameters, case.query, case.body):
        if isinstance(place, dict) and checkpoint_id is not None:
            place.update((key, known[key]) for key in place.keys() & known.keys())
    return case


def made_up(operation: Any, ids: list[str]) -> st.SearchStrategy[Any]:
    """Return requests that obey the document, and such that break it in one place."""
    from schemathesis import GenerationMode

    obedient = operation.as_strategy(generation_mode=GenerationMode.POSITIVE)
    broken = operation.as_strategy(generation_mode=GenerationMode.NEGATIVE)
    return st.builds(about, obedient, st.none() | st.sampled_from(ids)) | broken


@pytest.fixture
def manager(root: Path) -> Iterator[CheckpointManager]:
    disk = FaultyDisk(root, syncs=False)
    with CheckpointManager(storage=FileStorage(root, disk=disk)) as made:
        yield made


@pytest.mark.slow
@pytest.mark.parametrize("label", OPERATIONS)
def test_whatever_is_asked_is_answered_as_the_document_says_and_never_with_a_500(
    manager: CheckpointManager, label: str, tally: Tally
) -> None:
    from schemathesis.specs.openapi.checks import positive_data_acceptance

    # A JSON schema cannot say which texts are printable, nor what a cursor looks like.
    excluded = [positive_data_acceptance]
    operation = operation_of(create_app(manager), label)
    requests, asked = made_up(operation, saved(manager, 3, JOB)), 0

    @settings(
        deadline=None, max_examples=EXAMPLES, suppress_health_check=list(HealthCheck)
    )
    @given(requests)
    def ask(case: Any) -> None:
        nonlocal asked
        asked += 1
        answer = case.call(base_url="http://127.0.0.1:8080")
        case.validate_response(answer, excluded_checks=excluded)

    ask()
    tally("requests made up from the API's document", asked)
