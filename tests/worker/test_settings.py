"""Settings: what may be written, where it is found, and what a mistake is answered."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pydantic import ValidationError

from milepost import Span
from milepost.journal import quantities
from milepost.worker.config import files, merge
from milepost.worker.config.settings import (
    ConfigError,
    MatchRule,
    RetentionSettings,
    Rule,
    Settings,
    StoreSettings,
    load,
)

if TYPE_CHECKING:
    from collections.abc import Callable

SHIPPED = Path(__file__).parents[2] / "config.toml"


@pytest.fixture
def written(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        path = tmp_path / "config.toml"
        path.write_text(text)
        return path

    return write


@pytest.fixture(autouse=True)
def _nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the config files of whoever runs the tests out of them."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    monkeypatch.setenv("HOME", str(elsewhere))


def refusal(path: Path | None, environ: dict[str, str] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load(path, environ=environ or {})
    text = str(caught.value)
    assert "\n" not in text
    assert caught.value.code == "config"
    return text.replace(str(path), "FILE")


# -- the shipped file ------------------------------------------------------------------


def test_the_shipped_config_file_sets_every_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(SHIPPED.parent)
    assert load(Path("config.toml"), environ={}).model_dump() == Settings().model_dump()


def uncommented() -> str:
    return re.sub(r"(?m)^# (?=\w+ = |\[)", "", SHIPPED.read_text())


def test_the_shipped_config_file_mentions_every_key() -> None:
    document = tomllib.loads(uncommented())
    for key in merge.keys(Settings):
        if key.dotted.startswith("retention.default.completed."):
            continue  # the same keys once more
        found = document
        for part in key.dotted.split("."):
            found = found[part]
        item = merge.table_of(key.field)
        if item is not None:
            names = {each.dotted for each in merge.keys(item)}
            assert {name for table in found for name in table} <= names


def test_every_commented_setting_of_the_shipped_file_is_valid(
    written: Callable[[str], Path],
) -> None:
    text = uncommented().replace('python = "package', '# python = "package')
    settings = load(written(text), environ={})
    assert settings.retention.rule[0].match == "etl-*"
    assert settings.api.tokens[0].name == "deploy"
    unset = {key for key, origin in settings.origins.items() if origin == "default"}
    again = {key for key in unset if key.startswith("retention.default.completed.")}
    assert unset - again == {"executor.python"}


# -- where settings come from ----------------------------------------------------------


def test_a_named_file_beats_the_variable_beats_the_folder_beats_the_home(
    tmp_path: Path,
) -> None:
    home = tmp_path / "home/milepost"
    home.mkdir(parents=True)
    places = {
        "named": tmp_path / "named.toml",
        "variable": tmp_path / "variable.toml",
        "folder": Path("config.toml"),
        "home": home / "config.toml",
    }
    for name, path in places.items():
        path.write_text(f'[store]\nroot = "{name}"\n')
    environ = {
        "MILEPOST_CONFIG": str(places["variable"]),
        "XDG_CONFIG_HOME": str(home.parent),
    }
    found = [load(places["named"], environ=environ).store.root.name]
    found.append(load(environ=environ).store.root.name)
    del environ["MILEPOST_CONFIG"]
    found.append(load(environ=environ).store.root.name)
    places["folder"].unlink()
    found.append(load(environ=environ).store.root.name)
    assert found == list(places)


def test_without_any_file_the_defaults_hold(tmp_path: Path) -> None:
    settings = load(environ={"XDG_CONFIG_HOME": str(tmp_path)})
    assert settings.store == StoreSettings()
    assert settings.file is None
    assert set(settings.origins.values()) == {"default"}


def test_a_named_file_that_is_absent_is_an_error(tmp_path: Path) -> None:
    assert "no such config file" in refusal(tmp_path / "none.toml")
    text = refusal(None, {"MILEPOST_CONFIG": "none.toml"})
    assert text == "none.toml: no such config file, named by MILEPOST_CONFIG"


def test_every_value_tells_its_origin(written: Callable[[str], Path]) -> None:
    path = written(
        '[store]\nroot = "here"\nmax_depth = 7\n[[retention.rule]]\nmatch="a"'
    )
    settings = load(path, environ={"MILEPOST_STORE_MAX_DEPTH": "9"})
    assert settings.store.max_depth == 9
    assert settings.origins["store.max_depth"] == "MILEPOST_STORE_MAX_DEPTH"
    assert settings.origins["store.root"] == str(path)
    assert settings.origins["retention.rule"] == str(path)
    assert settings.origins["store.interval"] == "default"
    assert set(settings.origins) == {key.dotted for key in merge.keys(Settings)}


def test_a_path_counts_from_its_file_or_from_the_current_folder(
    written: Callable[[str], Path],
) -> None:
    path = written('[store]\nroot = "data"\n[executor]\nlog_dir = "/var/log/x"\n')
    assert load(path, environ={}).store.root == path.parent / "data"
    assert load(path, environ={}).log_dir == Path("/var/log/x")
    environ = {"MILEPOST_STORE_ROOT": "mine"}
    assert load(path, environ=environ).store.root == Path("mine")
    assert load(environ=environ).log_dir == Path("mine/logs")


def test_variables_are_read_as_the_type_of_their_setting() -> None:
    environ = {
        "MILEPOST_API_PORT": "99",
        "MILEPOST_API_ALLOWED_HOSTS": "a.example b.example",
        "MILEPOST_EXECUTOR_COMMAND": "python 'my job.py' --job {job_id}",
        "MILEPOST_WORKER_ENABLED": "False",
        "MILEPOST_WORKER_SWEEP": "90s",
        "MILEPOST_RETENTION_DEFAULT_KEEP_LAST": "4",
        "MILEPOST_STORE_ROOT": "",
        "MILEPOST_TOKEN": "not a setting",
        "OTHER": "no matter",
    }
    settings = load(environ=environ)
    assert settings.api.port == 99
    assert settings.api.allowed_hosts == ["a.example", "b.example"]
    assert settings.executor.command == ["python", "my job.py", "--job", "{job_id}"]
    assert settings.worker.enabled is False
    assert settings.worker.sweep_seconds == 90
    assert settings.retention.default.keep_last == 4
    assert settings.store.root == Path("checkpoints")


def test_no_two_settings_share_a_variable() -> None:
    names = [files.variable_of(key.dotted) for key in merge.keys(Settings)]
    assert len(set(names)) == len(names)


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError):
        Settings().store.max_depth = 3


# -- mistakes --------------------------------------------------------------------------

MISTAKES = {
    '[store]\nrooot = "x"': "FILE: unknown key store.rooot; did you mean store.root?",
    "[stor]": "FILE: unknown key stor; did you mean store?",
    "[store]\nsweep = '1s'": (
        "FILE: unknown key store.sweep; did you mean worker.sweep?"
    ),
    "[worker]\nsweep_seconds = 1": (
        "FILE: unknown key worker.sweep_seconds; did you mean worker.sweep?"
    ),
    "[[retention.rule]]\nmach = 'x'": (
        "FILE: retention.rule[0].match is missing (and 1 more)"
    ),
    "[[retention.rule]]\nmatch = 'x'\nkeep_lst = 1": (
        "FILE: unknown key retention.rule[0].keep_lst;"
        " did you mean retention.rule[0].keep_last?"
    ),
    '"a\\nb" = 1': 'FILE: unknown key "a\\nb"',
    "store = 3": "FILE: store = 3: expected a table",
    "[store]\nmax_depth = '9'": (
        'FILE: store.max_depth = "9": expected a valid integer'
    ),
    "[store]\nmax_depth = 0": (
        "FILE: store.max_depth = 0: expected greater than or equal to 1"
    ),
    "[store]\ndurability = 'alwys'": (
        "FILE: store.durability = \"alwys\": expected 'always', 'interval' or 'never'"
    ),
    "[store]\nroot = ''": 'FILE: store.root = "": expected the name of a folder',
    "[worker]\nsweep = '5m'": (
        'FILE: worker.sweep = "5m": expected "min" or "mo" for the unit:'
        " \"m\" could be minutes or months, got '5m'"
    ),
    "[worker]\nsweep = 5": (
        'FILE: worker.sweep = 5: expected a duration such as "200ms", "90min", "12h",'
        ' "7d", "6w" or "1y6mo" (units: ms s min h d w mo y), got \'5\''
    ),
    "[worker]\nsweep = '1ms'": 'FILE: worker.sweep = "1ms": expected 50ms to 1h',
    "[worker]\ntimezone = 'Mars'": (
        'FILE: worker.timezone = "Mars": expected a time zone such as "Europe/Berlin"'
    ),
    "[store]\nmax_state = '16MB'": (
        'FILE: store.max_state = "16MB": expected a size such as "64KiB" or "16MiB"'
        ' (units: B KiB MiB GiB): "MB" may mean a factor of 1000 or 1024'
    ),
    "[executor]\ncommand = ['x']\npython = 'a:b'": (
        'FILE: executor: expected "command" or "python", not both'
    ),
    "[store\n": (
        "FILE: line 1, column 7: Expected ']' at the end of a table declaration"
    ),
    "[store]\nroot = 'a": 'FILE: line 2, column 10: Expected "\'"',
    "x = " + "[" * 100_000: "FILE: values are nested too deeply",
}


@pytest.mark.parametrize("text", MISTAKES, ids=lambda text: text[:30])
def test_a_mistake_in_the_file_is_one_line(
    text: str, written: Callable[[str], Path]
) -> None:
    assert refusal(written(text)) == MISTAKES[text]


BAD_VARIABLES = {
    ("MILEPOST_STORE_RUT", "x"): (
        "unknown variable MILEPOST_STORE_RUT; did you mean MILEPOST_STORE_ROOT?"
    ),
    ("MILEPOST_TOKE", "x"): (
        "unknown variable MILEPOST_TOKE; did you mean MILEPOST_TOKEN?"
    ),
    ("MILEPOST_API_PORT", "x80"): 'MILEPOST_API_PORT = "x80": expected a valid integer',
    ("MILEPOST_API_ALLOWED_HOSTS", "a,b"): (
        'MILEPOST_API_ALLOWED_HOSTS = "a,b": expected text of the form ^[^\\s,/]+$'
    ),
    ("MILEPOST_API_TOKENS", "x"): (
        "MILEPOST_API_TOKENS cannot be used: api.tokens is a list of tables;"
        " set it in config.toml"
    ),
}


@pytest.mark.parametrize("variable", BAD_VARIABLES)
def test_a_mistake_in_a_variable_is_one_line(variable: tuple[str, str]) -> None:
    name, value = variable
    assert refusal(None, {name: value}) == f"environment: {BAD_VARIABLES[variable]}"


def test_a_token_pasted_for_its_hash_is_not_repeated(
    written: Callable[[str], Path],
) -> None:
    path = written(
        "[[api.tokens]]\nname = 'a'\nsha256 = 'hunter2'\nscopes = ['read']\n"
    )
    text = refusal(path)
    assert text.startswith("FILE: api.tokens[0].sha256: expected")
    with pytest.raises(ConfigError) as caught:
        load(path, environ={})
    assert "hunter2" not in f"{caught.value} {caught.value.__cause__}"


def test_two_tokens_of_one_name_are_refused(written: Callable[[str], Path]) -> None:
    token = f"[[api.tokens]]\nname = 'a'\nsha256 = '{'0' * 64}'\nscopes = ['read']\n"
    assert load(written(token), environ={}).api.tokens[0].name == "a"
    assert "'a' is used twice" in refusal(written(token + token))


def test_a_file_that_is_no_text_or_too_large_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(b"[store]\nroot = '\xff'\n")
    assert refusal(path) == "FILE: line 2: not UTF-8"
    path.write_bytes(b"#" * (files.MAX_CONFIG_BYTES + 1))
    assert "larger than" in refusal(path)
    path.unlink()
    path.mkdir()
    assert "cannot be read" in refusal(path)


# -- units -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("200ms", 0.2),
        ("1.5s", 1.5),
        ("90min", 5400),
        ("12 h", 43_200),
        ("7d", 604_800),
        ("2w", 1_209_600),
        ("1mo", 2_592_000),
        ("1y", 31_536_000),
        ("1h30min", 5400),
        ("1y6mo", 47_088_000),
    ],
)
def test_durations_are_seconds(text: str, seconds: float) -> None:
    assert quantities.seconds(text) == pytest.approx(seconds, abs=1e-9)


@pytest.mark.parametrize(
    "text", ["", "5", "m", "5m", "-5s", "5 sec", "1.5d", "1001y", "NaNs", "٣s"]
)
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        quantities.seconds(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [("7B", 7), ("1KiB", 1024), ("1.5MiB", 1_572_864), ("2GiB", 2**31)],
)
def test_sizes_are_bytes(text: str, size: int) -> None:
    assert quantities.size_bytes(text) == size


@pytest.mark.parametrize("text", ["", "5", "5KB", "5M", "0.5B", "-1B", "2000000GiB"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        quantities.size_bytes(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (0.2, "200ms"), (90, "90s"), (5400, "90min"), (604_800, "7d")],
)
def test_seconds_are_written_as_they_are_read(seconds: float, text: str) -> None:
    assert quantities.seconds_text(seconds) == text
    assert quantities.seconds(text) == seconds


@pytest.mark.parametrize(
    ("size", "exact", "rounded"),
    [
        (0, "0B", "0 B"),
        (1023, "1023B", "1023 B"),
        (1024, "1KiB", "1.0 KiB"),
        (1_572_864, "1536KiB", "1.5 MiB"),
        (5 << 30, "5GiB", "5.0 GiB"),
        (1 << 50, "1048576GiB", "1048576.0 GiB"),
    ],
)
def test_sizes_are_written_exactly_or_rounded(
    size: int, exact: str, rounded: str
) -> None:
    assert quantities.size_in_units(size) == exact
    assert quantities.size_bytes(exact) == size
    assert quantities.size_text(size) == rounded


# -- schedules -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cron", "reason"),
    [
        ("0 4 * * 0", "expected names for the day of week"),
        ("0 4 * * 1-5", "expected names for the day of week"),
        ("0 4 * * */2", "expected names for the day of week"),
        ("0 4 1 * mon", "cron runs if either matches"),
        ("0 0 31 2 *", "this one never does"),
        ("0 0 30 feb *", "this one never does"),
        ("@daily", "expected five fields"),
        ("0 3 * *", "expected five fields"),
        ("61 3 * * *", "higher than the maximum"),
        ("0 3 * jan/2 *", "expected a month"),
        ("0 3 * * mon;tue", "expected a day of week"),
        ("0 3 * * xyz", "Invalid weekday name"),
        ("every 5m", '"m" could be minutes or months'),
        ("every 10ms", "expected every 1s to every 1y"),
        ("", "expected five fields"),
    ],
)
def test_a_schedule_that_would_surprise_is_refused(
    cron: str, reason: str, written: Callable[[str], Path]
) -> None:
    text = refusal(written(f'[worker]\ncleanup = "{cron}"\n'))
    assert text.startswith(f'FILE: worker.cleanup = "{cron}": ')
    assert reason in text


@pytest.mark.parametrize(
    "cron",
    [
        "*/15 8-18/2 * * mon-fri",
        "0 0 29 2 *",
        "0 0 last * *",
        "0 3 * JAN,jun-aug *",
        "0 3 * * sat,sun",
        "every 2s",
    ],
)
def test_a_schedule_that_fires_is_accepted(
    cron: str, written: Callable[[str], Path]
) -> None:
    path = written(f'[worker]\ncleanup = "{cron}"\n')
    assert load(path, environ={}).worker.cleanup == cron


def test_the_default_schedule_needs_no_check() -> None:
    from milepost.worker.config.settings import DEFAULT_CLEANUP
    from milepost.worker.schedule.scheduler import read_schedule

    assert read_schedule(DEFAULT_CLEANUP)


# -- retention rules -------------------------------------------------------------------


def test_the_first_rule_that_matches_decides() -> None:
    rules = [MatchRule(match="etl-a*", keep_last=1), MatchRule(match="etl-*")]
    retention = RetentionSettings(default=Rule(keep_last=9), rule=rules)
    policies = retention.policies
    names = {
        job: (retention.effective(job).policy.name, policies.policy_of(job).keep_last)
        for job in ("etl-abc", "etl-b", "ETL-a", "other")
    }
    assert names == {
        "etl-abc": ("rule:etl-a*", 1),
        "etl-b": ("rule:etl-*", None),
        "ETL-a": ("default", 9),
        "other": ("default", 9),
    }


def test_a_rule_inherits_only_when_it_says_so() -> None:
    default = Rule(keep_last=9, keep_within="60s")
    rules = [
        MatchRule(match="a", keep_last=2, inherit=True),
        MatchRule(match="b", keep_last=2),
    ]
    retention = RetentionSettings(default=default, rule=rules, min_keep=5)
    inheriting, alone = (retention.effective(job).policy for job in "ab")
    assert (inheriting.keep_last, inheriting.keep_within) == (2, Span(seconds=60))
    assert (alone.keep_last, alone.keep_within) == (2, None)
    assert (alone.min_keep, alone.min_age) == (5, Span(seconds=3600))


# -- the short way to the store --------------------------------------------------------


def test_the_short_way_finds_the_same_store(written: Callable[[str], Path]) -> None:
    path = written('[store]\nroot = "data"\ndurability = "never"\n')
    for environ in ({}, {"MILEPOST_STORE_ROOT": "mine"}):
        root = files.store_root(path, environ=environ)
        assert root == load(path, environ=environ).store.root
    assert files.store_root(environ={}) == StoreSettings().root


@pytest.mark.parametrize(
    "text", ["[stor]", "[store]\nrooot = 'x'", "[store]\nroot = 3", "store = 1"]
)
def test_the_short_way_refuses_what_the_long_way_refuses(
    text: str, written: Callable[[str], Path]
) -> None:
    path = written(text)
    with pytest.raises(ConfigError) as caught:
        files.store_root(path, environ={})
    assert str(caught.value).replace(str(path), "FILE") == refusal(path)


def test_the_short_way_knows_the_tables_and_keys_of_the_models() -> None:
    assert set(Settings.model_fields) == files.TABLES
    assert {key.dotted for key in merge.keys(StoreSettings)} == files.STORE_KEYS


def test_the_short_way_imports_no_pydantic() -> None:
    code = (
        "import sys; from milepost.worker.config.files import store_root;"
        "store_root(environ={});"
        "print({'pydantic', 'apscheduler', 'watchdog'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", code]
    env = {"PYTHONPATH": str(SHIPPED.parent)}
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=True)
    assert done.stdout == "set()\n"
