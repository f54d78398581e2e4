"""The words that the product does not use, and the width of its documents."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

TOP = Path(__file__).parents[2]
COLUMNS = 100
# One table with a column for each system, written by the benchmarks.
MEASURED = "benchmarks/results/latest.md"
# docs/glossary.md has the term of the field for each of them.
WORDS = (
    r"let(?:s|ting)? go",
    r"told",
    r"foretell(?:s|ing)?",
    r"foretold",
    r"whoever",
    r"somebody",
    r"nobody",
    r"he|his|him|himself",
    r"so many|so-manieth",
    r"anew",
    r"at hand",
    r"(?:stands?|standing|stood) beside",
    r"unwell",
    r"mend(?:s|ed|ing)?",
)
# `_` ends a word, so that names are read too; a line may break inside a phrase.
FORBIDDEN = re.compile(
    r"(?<![^\W_])(?:" + "|".join(WORDS).replace(" ", r"\s+(?:#\s*)?") + r")(?![^\W_])",
    re.IGNORECASE,
)
# A line of the worked example in FORMAT.md, and a long address: neither can be broken.
UNBREAKABLE = re.compile(r'\{"(?:v|state|head)":\d.*\}|.*https?://\S{60,}')


def tracked(*patterns: str) -> list[str]:
    """Return the paths of the tracked files that match, but not of CHANGELOG.md."""
    listed = subprocess.check_output(
        ["git", "ls-files", "-z", "--", *patterns], cwd=TOP, text=True
    )
    return [name for name in listed.split("\0")[:-1] if name != "CHANGELOG.md"]


DOCUMENTS = tracked("*.md")
CODE = tracked(
    *(f"{folder}/*.py" for folder in ("journal", "worker", "api", "milepost")),
    *("demo/*.py", "examples/*.py", "benchmarks/*.py", "config.toml"),
)


def forbidden(text: str) -> list[str]:
    """Return the forbidden words of a text, each with its line."""
    lines = [
        (text[: found.start()].count("\n") + 1, " ".join(found[0].split()))
        for found in FORBIDDEN.finditer(text)
    ]
    return [f"{line}: {word}" for line, word in lines]


def too_wide(text: str) -> list[str]:
    """Return the lines of a document over the limit, each with its number."""
    return [
        f"{number}: {len(line)} columns: {line[:40]}"
        for number, line in enumerate(text.splitlines(), start=1)
        if len(line) > COLUMNS and not UNBREAKABLE.fullmatch(line)
    ]


def reported(names: list[str], look: Callable[[str], list[str]]) -> list[str]:
    """Return what `look` finds in these files, as `file:line: finding`."""
    return [
        f"{name}:{found}"
        for name in names
        for found in look((TOP / name).read_text("utf-8"))
    ]


def test_no_document_and_no_code_has_a_forbidden_word() -> None:
    assert {"README.md", "docs/glossary.md"} <= {*DOCUMENTS}
    assert {"config.toml", "journal/errors.py"} <= {*CODE}
    found = reported([*DOCUMENTS, *CODE], forbidden)
    assert not found, "\n".join(found)


def test_no_line_of_a_document_is_over_100_columns() -> None:
    found = reported([name for name in DOCUMENTS if name != MEASURED], too_wide)
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "text",
    [
        *("Let go of it.", "a rule lets go", "was told", "_told = 1", "NOBODY"),
        *("so many", "so\nmany", "# so\n# many", "anew,", "stands beside", "his own"),
    ],
)
def test_a_forbidden_word_is_found_in_any_form(text: str) -> None:
    assert forbidden(f"One line.\n{text}\n")


@pytest.mark.parametrize("text", ["recommended", "the", "history", "amend", "handle"])
def test_a_word_that_only_contains_a_forbidden_one_is_allowed(text: str) -> None:
    assert not forbidden(text)


def test_a_wide_line_is_found_in_prose_and_in_a_table() -> None:
    assert too_wide("a" * 101) == [f"1: 101 columns: {'a' * 40}"]
    assert too_wide(f"| {'a' * 100} |")
    assert not too_wide("a" * 100)


def test_the_glossary_has_each_term_once_in_order_and_on_one_line() -> None:
    lines = (TOP / "docs" / "glossary.md").read_text("utf-8").splitlines()[4:]
    terms = [re.fullmatch(r"- \*\*(.+?)\*\*.*: .+\.", line) for line in lines]
    assert all(terms), [line for line in lines if not line.startswith("- **")]
    names = [term[1].lower() for term in terms if term]
    assert names == sorted(set(names))
