"""Policies in config.toml: how they are laid over each other, and what is refused."""

from __future__ import annotations

import tomllib
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import ValidationError

from milepost import Best, Policy, Span
from milepost.journal.errors import InvalidArgument
from milepost.journal.retention.policy import COUNTS
from milepost.worker.config.policy_file import read_trial
from milepost.worker.config.settings import (
    ConfigError,
    RetentionSettings,
    Rule,
    Settings,
    load,
    open_manager,
)
from tests.support.cli import call

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MOST = (1 << 63) - 1

LAYERED = """
[retention]
min_keep = 4
min_age = "0s"
[retention.default]
preset = "gfs"
keep_daily = 30
keep_last = 9
[retention.default.completed]
keep_last = 1
[[retention.rule]]
match = "etl-a*"
keep_last = 3
inherit = true
min_keep = 2
dry_run = true
[retention.rule.completed]
inherit = true
keep_weekly = 2
[[retention.rule]]
match = "etl-*"
preset = "gfs"
keep_yearly = "all"
"""


@pytest.fixture
def loaded(tmp_path: Path) -> Callable[..., Settings]:
    def write_and_load(text: str, **environ: str) -> Settings:
        path = tmp_path / "config.toml"
        path.write_text(text)
        return load(path, environ=environ)

    return write_and_load


# -- layers -------------------------------------------------------------------------


def test_own_words_stand_above_the_preset(loaded: Callable[..., Settings]) -> None:
    policy = loaded(LAYERED).retention.effective("other").policy

    assert policy.rules == {
        "keep_last": 9,
        "keep_daily": 30,
        "keep_weekly": 4,
        "keep_monthly": 12,
        "keep_yearly": 3,
    }
    assert (policy.name, policy.min_keep) == ("default", 4)


def test_a_rule_that_inherits_stands_above_the_default(
    loaded: Callable[..., Settings],
) -> None:
    found = loaded(LAYERED).retention.effective("etl-abc")

    assert found.policy.rules == {
        "keep_last": 3,
        "keep_daily": 30,
        "keep_weekly": 4,
        "keep_monthly": 12,
        "keep_yearly": 3,
    }
    assert (found.policy.min_keep, found.is_dry) == (2, True)


def test_a_rule_that_does_not_inherit_starts_from_nothing(
    loaded: Callable[..., Settings],
) -> None:
    found = loaded(LAYERED).retention.effective("etl-b")

    assert found.policy.rules == {
        "keep_daily": 7,
        "keep_weekly": 4,
        "keep_monthly": 12,
        "keep_yearly": "all",
    }
    assert (found.policy.min_keep, found.is_dry) == (4, False)


def test_completed_jobs_take_from_the_table_above_only_if_it_says_so(
    loaded: Callable[..., Settings],
) -> None:
    retention = loaded(LAYERED).retention
    default, abc, b = (
        retention.effective(job, is_completed=True) for job in ("x", "etl-a", "etl-b")
    )

    assert default.policy.rules == {"keep_last": 1}
    assert abc.policy.rules["keep_weekly"] == 2
    assert (abc.policy.rules["keep_last"], abc.policy.min_keep) == (3, 2)
    assert (abc.is_dry, abc.policy.name) == (True, "rule:etl-a*:completed")
    assert b == retention.effective("etl-b")


def test_every_value_of_a_policy_tells_where_it_came_from(
    loaded: Callable[..., Settings],
) -> None:
    found = loaded(LAYERED).retention.effective("etl-abc")

    assert found.origins == {
        "timezone": "default",
        "max_remove_fraction": "default",
        "min_age": "retention",
        "min_keep": "rule:etl-a*",
        "keep_last": "rule:etl-a*",
        "keep_daily": "retention.default",
        "keep_weekly": "preset gfs",
        "keep_monthly": "preset gfs",
        "keep_yearly": "preset gfs",
    }


def test_the_manager_and_the_settings_choose_the_same_policies(
    loaded: Callable[..., Settings],
) -> None:
    settings = loaded(LAYERED)
    with open_manager(settings) as manager:
        for job in ("x", "etl-a", "etl-b", "ETL-a"):
            for is_completed in (False, True):
                effective = settings.retention.effective(job, is_completed=is_completed)
                chosen = manager.policies.policy_of(job, is_completed=is_completed)
                assert chosen == effective.policy


def test_variables_reach_nested_keys_as_what_they_are(
    loaded: Callable[..., Settings],
) -> None:
    settings = loaded(
        "[retention.default]\nkeep_last = 3",
        MILEPOST_RETENTION_DEFAULT_KEEP_LAST="all",
        MILEPOST_RETENTION_DEFAULT_KEEP_TAGS="release prod,eu",
        MILEPOST_RETENTION_DEFAULT_MAX_AGE="1y6mo",
        MILEPOST_RETENTION_DEFAULT_MAX_REMOVE_FRACTION="0.25",
        MILEPOST_RETENTION_DEFAULT_KEEP_BEST_METRIC="loss",
        MILEPOST_RETENTION_DEFAULT_KEEP_BEST_MODE="min",
        MILEPOST_RETENTION_DEFAULT_COMPLETED_KEEP_LAST="2",
    )
    policy = settings.retention.effective("x").policy

    assert (policy.keep_last, str(policy.max_age)) == ("all", "1y6mo")
    assert policy.keep_tags == (("release",), ("prod", "eu"))
    assert policy.keep_best == Best("loss", "min")
    assert policy.max_remove_fraction == 0.25
    done = settings.retention.effective("x", is_completed=True)
    assert done.policy.keep_last == 2
    variable = "MILEPOST_RETENTION_DEFAULT_KEEP_LAST"
    assert settings.source_of("retention.default", "keep_last") == variable


# -- what is refused ------------------------------------------------------------------

REFUSED = {
    'keep_within = "5m"': (
        'retention.default.keep_within = "5m": expected "min" or "mo" for the unit: "m"'
        " could be minutes or months, got '5m'"
    ),
    "keep_within = 200": (
        "retention.default.keep_within = 200: expected a duration such as"
    ),
    "keep_last = 0": (
        "retention.default.keep_last = 0: expected a whole number of at least 1, or"
        ' "all"'
    ),
    'keep_last = "3"': (
        'retention.default.keep_last = "3": expected a whole number of at least 1, or'
    ),
    "keep_last = -1": "retention.default.keep_last = -1: expected a whole number",
    "keep_last = 2.5": "retention.default.keep_last = 2.5: expected a whole number",
    "keep_last = true": "retention.default.keep_last = true: expected a whole number",
    "keep_failed = -1": "retention.default.keep_failed = -1: expected a whole number",
    "keep_every = 0": "retention.default.keep_every = 0: expected greater than",
    "max_count = 5\nkeep_last = 6": (
        "retention: policy 'default': max_count = 5 contradicts keep_last = 6; set"
        " max_count to at least 6, or lower keep_last"
    ),
    "max_count = 2": (
        "retention: policy 'default': max_count = 2 contradicts min_keep = 3; set"
        " max_count"
    ),
    'max_age = "1d"\nkeep_within = "2d"': (
        "retention: policy 'default': max_age = 1d contradicts keep_within = 2d; set"
        " max_age"
    ),
    'keep_tags = ["release"]': (
        "retention: policy 'default': keep_tags may match no checkpoint at all, and"
        " then everything but the newest would be removed; add keep_last or keep_within"
    ),
    "keep_failed = 3": "keep_failed may match no checkpoint at all",
    'keep_tags = "release"': (
        'retention.default.keep_tags = "release": expected a list of tags, such as'
    ),
    'preset = "gsf"': "retention.default.preset = \"gsf\": expected 'gfs'",
    'keep_best = {metric = "loss", mode = "low"}': (
        "retention.default.keep_best.mode = \"low\": expected 'min' or 'max'"
    ),
    'keep_best = {metric = "loss"}': "retention.default.keep_best.mode is missing",
    "max_bytes = 100": "retention.default.max_bytes = 100: expected a size such as",
    'timezone = "Mars"': (
        'retention.default.timezone = "Mars": expected a time zone such as'
    ),
    "max_remove_fraction = 1.5": (
        "retention.default.max_remove_fraction = 1.5: expected less than or equal to 1"
    ),
    "keep_lats = 1": (
        "unknown key retention.default.keep_lats; did you mean"
        " retention.default.keep_last?"
    ),
    "[retention.default.completed]\nkeep_dayly = 1": (
        "unknown key retention.default.completed.keep_dayly; did you mean"
        " retention.default.completed.keep_daily?"
    ),
    '[[retention.rule]]\nmatch = "a"\n[retention.rule.completed]\nmax_cout = 1': (
        "unknown key retention.rule[0].completed.max_cout; did you mean"
        " retention.rule[0].completed.max_count?"
    ),
    '[[retention.rule]]\nmatch = ""': (
        'retention.rule[0].match = "": expected at least 1 character'
    ),
    '[[retention.rule]]\nmatch = "a*"\nmax_count = 1': (
        "retention: policy 'rule:a*': max_count = 1 contradicts min_keep = 3"
    ),
    '[retention.default.completed]\nmax_age = "1min"': (
        "retention: policy 'default:completed': max_age = 1min contradicts min_age = 1h"
    ),
}


@pytest.mark.parametrize("text", REFUSED)
def test_a_wrong_policy_is_refused_with_its_place_its_value_and_what_to_do(
    text: str, folder: Path
) -> None:
    (folder / "config.toml").write_text(f"[retention.default]\n{text}\n")

    done = call("config", "check")

    assert done.code == 1
    assert done.err.startswith("milepost: config.toml: ")
    assert REFUSED[text] in done.err


def test_a_policy_that_keeps_less_than_a_confirmation_may_take_is_refused(
    loaded: Callable[..., Settings],
) -> None:
    text = '[retention]\nconfirm_deadline = "{}"\n[retention.default]\nmax_age = "3d"'
    assert loaded(text.format("3d")).retention.confirm_deadline.days == 3

    with pytest.raises(ConfigError, match="before confirm_deadline"):
        loaded(text.format("4d"))


@pytest.mark.parametrize(
    ("rules", "is_safe"),
    [
        ("", True),
        ("keep_last = 3", False),
        ("keep_daily = 30", False),
        ("max_count = 100", False),
        ('max_bytes = "1GiB"', False),
        ('max_age = "30d"', True),
        ('max_age = "30d"\nmax_count = 9', False),
        ('max_age = "3d"', False),
        ('keep_last = "all"', True),
        ('keep_within = "4d"', True),
        ('keep_within = "3d"', False),
        ('keep_within = "4d"\nkeep_last = 3', True),
        ('keep_within = "4d"\nkeep_failed = 2', False),
        ('keep_within = "4d"\nkeep_failed = "all"', True),
        ('keep_within = "4d"\nmax_count = 9', False),
        ('keep_last = 3\nmin_age = "4d"', True),
        ('keep_last = 3\nmin_age = "95h"', False),
        ('max_count = 9\nmin_age = "4d"\nkeep_failed = 0\nkeep_last = 3', True),
    ],
)
def test_whatever_could_remove_before_a_confirmation_is_due_is_refused(
    loaded: Callable[..., Settings], rules: str, is_safe: bool
) -> None:
    for table in ("[retention.default]", '[[retention.rule]]\nmatch = "a*"'):
        text = f'[retention]\nconfirm_deadline = "4d"\n{table}\n{rules}'
        if is_safe:
            loaded(text)
        else:
            with pytest.raises(ConfigError, match="before confirm_deadline"):
                loaded(text)


def test_a_budget_for_the_store_is_compared_with_the_deadline_too(
    loaded: Callable[..., Settings],
) -> None:
    text = '[retention]\nconfirm_deadline = "4d"\nmax_store_bytes = "1GiB"\n'

    with pytest.raises(ConfigError, match="max_store_bytes = 1073741824 with min_age"):
        loaded(text)
    loaded(text + 'min_age = "4d"\n')


def written(key: str, value: Any) -> dict[str, Any]:
    """Return one key of a policy as config.toml has it."""
    best = {"metric": "loss", "mode": "min"}
    return {key: {**best, "keep": value} if key == "keep_best" else value}


def own(key: str, value: Any) -> dict[str, Any]:
    """Return one argument of `Policy`."""
    return {key: Best("loss", "min", value) if key == "keep_best" else value}


@pytest.mark.parametrize(
    ("key", "least", "most", "beyond"),
    [
        *((name, 1, MOST, MOST + 1) for name in (*COUNTS, "keep_every", "keep_best")),
        *((name, 1, MOST, MOST + 1) for name in ("max_count", "min_keep")),
        ("keep_failed", 0, MOST, MOST + 1),
        ("max_bytes", 1, 1 << 50, (1 << 50) + 1),
        ("max_remove_fraction", 0.0, 1.0, 1.1),
    ],
)
def test_config_toml_and_python_accept_the_same_values(
    key: str, least: float, most: float, beyond: float
) -> None:
    floors = {"min_keep": 1, "min_age": Span(), "keep_within": Span(days=1)}
    for value in (least, most):
        rule = Rule(**{**floors, **written(key, value)})
        found = RetentionSettings(default=rule).policies.default.policy
        assert found == Policy(**{**floors, **own(key, value), "name": "default"})
    for value in (least - 1, beyond):
        with pytest.raises(ValidationError):
            Rule(**written(key, value))
        with pytest.raises(InvalidArgument):
            Policy(**own(key, value))


def test_config_toml_has_a_key_for_every_field_of_a_policy() -> None:
    names = {field.name for field in fields(Policy)} - {"name"}
    more = {"preset", "inherit", "dry_run", "completed"}
    assert {*Rule.model_fields} == names | more


# -- as text once more ----------------------------------------------------------------


def test_config_show_prints_policies_as_config_toml_would_hold_them(
    folder: Path,
) -> None:
    written = {
        "retention.min_age": '"2h"',
        "retention.max_store_bytes": '"10GiB"',
        "retention.default.keep_last": '"all"',
        "retention.default.keep_within": '"1y6mo"',
        "retention.default.keep_tags": '["release", "prod,eu", ""]',
        "retention.default.keep_best.metric": '"loss"',
        "retention.default.keep_best.mode": '"min"',
        "retention.default.max_age": '"2y"',
        "retention.default.max_bytes": '"3MiB"',
        "retention.default.completed.keep_within": '"90min"',
    }
    text = "\n".join(f"{key} = {value}" for key, value in written.items())
    (folder / "config.toml").write_text(text)
    before = load(environ={}).retention

    shown = call("config", "show").rows
    lines = [f"{key} = {value}" for key, value in shown if value]
    (folder / "config.toml").write_text("\n".join(lines))

    assert written.items() <= {(key, value) for key, value in shown}
    after = load(environ={}).retention
    assert (after.model_dump(), after.policies) == (
        before.model_dump(),
        before.policies,
    )


def test_config_show_prints_rules_as_config_toml_would_hold_them(folder: Path) -> None:
    (folder / "config.toml").write_text(
        '[[retention.rule]]\nmatch = "a"\nkeep_tags = ["x,y"]\nkeep_within = "3mo"\n'
        'max_bytes = "1MiB"\nkeep_best = {metric = "m", mode = "max"}\n'
        "[retention.rule.completed]\nkeep_last = 1\n"
    )
    shown = {row[0]: row[1] for row in call("config", "show").rows}
    as_json = call("config", "show", "--json").json["data"]["retention.rule"]["value"]

    assert as_json == [
        {
            "match": "a",
            "keep_tags": ["x,y"],
            "keep_within": "3mo",
            "max_bytes": "1MiB",
            "keep_best": {"metric": "m", "mode": "max", "keep": 1},
            "completed": {"keep_last": 1, "inherit": False},
            "inherit": False,
        }
    ]
    assert tomllib.loads(f"rule = {shown['retention.rule']}")["rule"] == as_json


# -- a policy to try ------------------------------------------------------------------


def test_a_trial_takes_the_keys_of_a_rule(loaded: Callable[..., Settings]) -> None:
    retention = loaded(LAYERED).retention
    alone = read_trial(b'preset = "gfs"\nkeep_daily = 3', retention, "stdin")
    heir = read_trial(b"inherit = true\nkeep_last = 2", retention, "stdin")

    assert (alone.name, alone.keep_daily, alone.keep_weekly) == ("trial", 3, 4)
    assert (alone.keep_last, alone.min_keep) == (None, 4)
    assert (heir.keep_last, heir.keep_daily) == (2, 30)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("keep_lst = 1", "stdin: unknown key keep_lst; did you mean keep_last?"),
        ("keep_last = 0", "stdin: keep_last = 0: expected a whole number"),
        ("keep_last =", "stdin: "),
        ('keep_tags = ["a"]', "keep_tags may match no checkpoint"),
        ("dry_run = true", "stdin: unknown key dry_run"),
        ("keep_last = \udcff", "stdin: not UTF-8"),
        ("x = " + "[" * 100_000, "stdin: "),
    ],
    ids=lambda text: ascii(text[:20]),
)
def test_a_trial_is_refused_as_config_toml_is(
    text: str, said: str, loaded: Callable[..., Settings]
) -> None:
    raw = text.encode("utf-8", "surrogateescape")
    with pytest.raises(InvalidArgument) as caught:
        read_trial(raw, loaded("").retention, "stdin")
    assert said in str(caught.value)
