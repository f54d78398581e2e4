"""The verbs about settings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.cli import call

if TYPE_CHECKING:
    from pathlib import Path


def test_config_show_says_every_value_and_where_it_comes_from(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "config.toml").write_text('[store]\ninterval = "500ms"\n')
    monkeypatch.setenv("MILEPOST_API_PORT", "9000")

    rows = {row[0]: row[1:] for row in call("config", "show", "--origin").rows}

    assert rows["store.interval"] == ['"500ms"', "config.toml"]
    assert rows["api.port"] == ["9000", "MILEPOST_API_PORT"]
    assert rows["retention.trash_period"] == ['"7d"', "default"]
    assert rows["store.max_state"] == ['"16MiB"', "default"]
    assert len(call("config", "show").rows[0]) == 2


def test_what_config_show_prints_could_stand_in_the_file(folder: Path) -> None:
    rows = call("config", "show").rows
    lines = [f"{key} = {value}" for key, value in rows if value]
    (folder / "config.toml").write_text("\n".join(lines))

    assert call("config", "check").code == 0
    assert call("config", "show").rows == rows


def test_config_show_hides_the_hashes_of_tokens(folder: Path) -> None:
    secret = "ab" * 32
    token = f'[[api.tokens]]\nname = "ci"\nsha256 = "{secret}"\nscopes = ["read"]\n'
    (folder / "config.toml").write_text(token)

    for words in (("config", "show"), ("config", "show", "--json")):
        done = call(*words)
        assert "ci" in done.out
        assert secret not in done.out


def test_config_check_and_path_say_what_is_in_force(folder: Path) -> None:
    assert call("config", "check").code == 0
    assert call("config", "path").code == 4
    (folder / "config.toml").write_text("[store]\n")
    assert call("config", "path").out == "config.toml\n"
    (folder / "config.toml").write_text("[worker]\nclenaup = 1\n")
    assert call("config", "check").code == 1
    assert call("config", "path").code == 0


@pytest.mark.parametrize("length", [10, 58, 59, 60, 5000])
def test_a_long_value_is_cut_where_it_is_refused(folder: Path, length: int) -> None:
    value = "x" * length
    (folder / "config.toml").write_text(f'[store]\ndurability = "{value}"\n')

    said = call("config", "check").err

    shown = f'"{value}"' if length <= 58 else f'"{value[:59]}…'
    assert f"store.durability = {shown}: expected" in said
    assert said.count("\n") == 1
