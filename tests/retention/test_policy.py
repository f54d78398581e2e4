"""Policies: what cannot be asked for, how they are told, and which job has which."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from milepost import Best, Match, Policies, Policy, Span
from milepost.journal.errors import InvalidArgument
from milepost.journal.retention.policies import KEEP_ALL, PRESETS, InForce
from milepost.journal.retention.policy import (
    COUNTS,
    WITHINS,
    check_keep_last,
    describe,
    policy_hash,
)
from tests.retention.candidates import POLICIES

OUT_OF_BOUNDS: list[tuple[dict[str, Any], str]] = [
    *(({name: bad}, rf"^{name} must be a whole number of at least 1, got {bad!r}$")
      for name in (*COUNTS, "keep_every", "max_count", "max_bytes", "min_keep")
      for bad in (0, -1, True, 2.5, "3")),
    *(({name: 1 << 63}, f"^{name} must be at most 9223372036854775807, got")
      for name in (*COUNTS, "keep_failed", "keep_every", "max_count", "min_keep")),
    *(({name: "0s"}, f"^{name} = 0s keeps nothing") for name in WITHINS),
    *(({name: "5m"}, f'^{name}: expected "min" or "mo"')
      for name in (*WITHINS, "max_age", "min_age")),
    ({"keep_within": 7}, "^keep_within: expected a duration such as .*, got 7$"),
    ({"min_age": Span(days=-1)}, "^min_age: expected a duration"),
    ({"max_bytes": (1 << 50) + 1}, "^max_bytes must be at most 1125899906842624, got"),
    ({"keep_failed": -1}, "^keep_failed must be a whole number of at least 0, got -1$"),
    ({"keep_tags": "a"}, "^keep_tags must be a list of lists, got 'a'$"),
    ({"keep_tags": ["a"]}, "^keep_tags must be a list of lists of tags, got 'a'$"),
    ({"keep_tags": [[""]]}, "a tag in keep_tags"),
    ({"keep_tags": [[5]]}, "a tag in keep_tags"),
    ({"keep_tags": []}, "^keep_tags must have 1 to 64 lists, got 0"),
    ({"keep_tags": [["a"]] * 65}, "^keep_tags must have 1 to 64 lists, got 65"),
    ({"keep_best": ("loss", "min")}, "^keep_best must be a Best, got"),
    ({"keep_best": Best("", "min")}, "keep_best.metric"),
    ({"keep_best": Best("loss", "least")}, "^keep_best.mode must be 'min' or 'max'"),
    ({"keep_best": Best("loss", "min", 0)}, "^keep_best.keep must be a whole number"),
    *(({"max_remove_fraction": bad}, "^max_remove_fraction must be 0 to 1, got")
      for bad in (-0.1, 1.1, float("nan"), True, "0.5", None)),
    *(({"timezone": bad}, "^timezone must be a name such as 'Europe/Berlin', got")
      for bad in ("Mars/Base", "", "../etc/passwd", "Europe", "a\0b", 5, None)),
    ({"name": ""}, "a policy's name"),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "text"), OUT_OF_BOUNDS, ids=str)
def test_a_value_out_of_bounds_is_refused_by_name(
    rule: dict[str, Any], text: str
) -> None:
    with pytest.raises(InvalidArgument, match=text):
        Policy(**{"keep_last": 1, **rule})


@pytest.mark.parametrize(
    ("rules", "text"),
    [
        ({"keep_tags": [["a"]]}, "^keep_tags may match no checkpoint at all"),
        ({"keep_best": Best("x", "min")}, "^keep_best may match no checkpoint at all"),
        ({"keep_failed": 3}, "^keep_failed may match no checkpoint at all"),
        (
            {"keep_failed": "all", "keep_tags": [[]]},
            "^keep_tags and keep_failed may match no",
        ),
        ({"max_count": 2, "min_keep": 3}, "^max_count = 2 contradicts min_keep = 3"),
        ({"max_count": 2, "keep_last": 3}, "^max_count = 2 contradicts keep_last = 3"),
        (
            {"max_age": "1d", "min_age": "25h"},
            "^max_age = 1d contradicts min_age = 25h",
        ),
        ({"max_age": "0s"}, "^max_age = 0s would remove everything"),
        *(
            ({"max_age": "1mo", name: "5w"}, f"^max_age = 1mo contradicts {name} = 5w")
            for name in WITHINS
        ),
    ],
    ids=str,
)
def test_rules_that_undo_each_other_or_keep_nothing_are_refused(
    rules: dict[str, Any], text: str
) -> None:
    with pytest.raises(InvalidArgument, match=text):
        Policy(**rules)


def test_rules_at_their_bounds_are_fine() -> None:
    largest = (1 << 63) - 1
    assert Policy(keep_last=largest, keep_failed=0, min_keep=largest).rules
    assert Policy(max_count=3, min_keep=3, keep_last=3).caps == {"max_count": 3}
    assert Policy(max_age="1mo", keep_within="1mo", min_age="1mo").removes
    assert Policy(keep_last="all", max_count=1, max_remove_fraction=0).removes
    assert not Policy(min_keep=9, min_age="9d", timezone="Asia/Kathmandu").removes


@pytest.mark.parametrize("keep_last", [0, -1, True, "3", 2.5, None, 1 << 63])
def test_a_callers_own_keep_last_is_checked_too(keep_last: object) -> None:
    with pytest.raises(InvalidArgument, match=r"^keep_last must be "):
        check_keep_last(keep_last)


@given(POLICIES)
def test_a_policy_is_told_in_json_from_which_it_can_be_made_again(
    policy: Policy,
) -> None:
    said = orjson.loads(orjson.dumps(describe(policy)))
    if "keep_best" in said:
        said["keep_best"] = Best(**said["keep_best"])
    assert Policy(**said) == policy
    assert policy_hash(Policy(**said)) == policy_hash(policy)


@given(POLICIES, POLICIES)
def test_two_policies_have_one_hash_only_if_they_are_equal(
    one: Policy, other: Policy
) -> None:
    assert (policy_hash(one) == policy_hash(other)) == (one == other)


def test_only_what_differs_from_no_policy_is_told() -> None:
    # Hashes stand in journals: these must not change.
    assert describe(Policy(name="x")) == {"name": "x"}
    assert policy_hash(Policy(name="x")) == "0229d37e33daae14"
    weekly = Policy(name="x", keep_tags=[["a"]], keep_within="7d", min_keep=2)
    assert describe(weekly) == {
        "name": "x",
        "keep_within": "1w",
        "keep_tags": (("a",),),
        "min_keep": 2,
    }
    assert weekly == Policy(name="x", keep_tags=(("a",),), keep_within="1w", min_keep=2)


def test_the_first_match_decides_and_else_the_default() -> None:
    first, second, default, done = (Policy(name=name) for name in "abcd")
    policies = Policies(
        Match("never asked", default),
        (
            Match("etl-*", first, done),
            Match("etl-night", second),
            Match("[ab]?", second),
        ),
    )
    names = [
        policies.policy_of(job).name for job in ("etl-night", "ax", "ETL-x", "abc")
    ]
    assert names == ["a", "b", "c", "c"]
    assert policies.policy_of("etl-1", is_completed=True) is done
    assert policies.policy_of("ax", is_completed=True) is second


def test_a_policy_in_force_carries_its_rule_and_its_origins() -> None:
    first, done, default = (Policy(name=name) for name in "abc")
    policies = Policies(
        Match("never asked", default, origins={"min_keep": "retention"}),
        (Match("etl-*", first, done, True, {"min_age": "x"}, {"min_age": "y"}),),
    )
    running = InForce("etl-*", first, is_dry=True, origins={"min_age": "x"})
    completed = InForce("etl-*", done, True, True, {"min_age": "y"})
    other = InForce("never asked", default, origins={"min_keep": "retention"})
    assert [*policies.all_in_force()] == [running, completed, other]
    for job, is_completed, expected in (
        ("etl-1", False, running),
        ("etl-1", True, completed),
        ("other", False, other),
        ("other", True, other),
    ):
        assert policies.in_force(job, is_completed=is_completed) == expected


@given(st.text(max_size=20), st.booleans())
def test_without_policies_everything_is_kept(job_id: str, is_completed: bool) -> None:
    policy = Policies().policy_of(job_id, is_completed=is_completed)
    assert policy is KEEP_ALL
    assert not policy.removes


def test_presets_are_policies() -> None:
    assert Policy(**PRESETS["gfs"]).rules == PRESETS["gfs"]
