"""How a word on the command line becomes a checkpoint."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from milepost.api.cli.exits import Exit, Failure
from milepost.api.cli.selectors import (
    AsOf,
    AtSeq,
    FromEnd,
    Tagged,
    WithId,
    Word,
    parse_selector,
)
from milepost.api.cli.targets import Target, parse_target


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("etl", Target("etl", None)),
        ("etl@latest", Target("etl", "latest")),
        ("me@example.com@-1", Target("me@example.com", "-1")),
        ("a/b c🚀@tag:x", Target("a/b c🚀", "tag:x")),
    ],
)
def test_the_last_at_splits_a_job_from_its_selector(text: str, target: Target) -> None:
    assert parse_target(text) == target


@pytest.mark.parametrize("text", ["etl@", "@latest", "@"])
def test_an_at_with_nothing_beside_it_is_a_usage_error(text: str) -> None:
    with pytest.raises(Failure) as caught:
        parse_target(text)

    assert caught.value.problem.exit is Exit.USAGE


@pytest.mark.parametrize(
    ("text", "kind", "selector"),
    [
        ("latest", Word, Word.LATEST),
        ("first", Word, Word.FIRST),
        ("current", Word, Word.CURRENT),
        ("12", AtSeq, AtSeq(12)),
        ("-1", FromEnd, FromEnd(1)),
        ("tag:prod", Tagged, Tagged("prod")),
        ("tag:latest", Tagged, Tagged("latest")),
        ("load_1795416000_1a2b3c4d", WithId, WithId("load_1795416000_1a2b3c4d")),
        ("latest_1795416000_1a2b3c4d", WithId, WithId("latest_1795416000_1a2b3c4d")),
        ("2026_1795416000_1a2b3c4d", WithId, WithId("2026_1795416000_1a2b3c4d")),
        ("2026-11-20", AsOf, AsOf(datetime(2026, 11, 20, tzinfo=UTC))),
        ("2026-11-20T10:00", AsOf, AsOf(datetime(2026, 11, 20, 10, tzinfo=UTC))),
        ("2026-11-20T10:00Z", AsOf, AsOf(datetime(2026, 11, 20, 10, tzinfo=UTC))),
        (
            "2026-11-20T10:00+02:00",
            AsOf,
            AsOf(datetime(2026, 11, 20, 10, tzinfo=timezone(timedelta(hours=2)))),
        ),
        ("20261120", AtSeq, AtSeq(20261120)),
    ],
)
def test_every_kind_of_selector_is_told_from_the_others(
    text: str, kind: type, selector: object
) -> None:
    parsed = parse_selector(text)

    assert type(parsed) is kind
    assert parsed == selector


@pytest.mark.parametrize("text", ["0", "-0", "2026-13-01", "2026-11-20T25:00"])
def test_a_position_or_instant_that_cannot_be_is_a_usage_error(text: str) -> None:
    with pytest.raises(Failure) as caught:
        parse_selector(text)

    assert caught.value.problem.exit is Exit.USAGE
