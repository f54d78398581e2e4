"""Make cases.json: small histories, and what restic's ``forget`` keeps of each.

    python -m tests.retention.restic_cases.make

Needs a restic binary on the PATH.  What it cannot say (before 0.16 the oldest has no
rule of its own, and nothing is unlimited) is taken from the oracle, and marked so.
Wherever both can speak they have to agree.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from tests.retention import restic

HERE = Path(__file__).resolve().parent

# Between all pasts and all futures in the cases; so is the day on which this is run.
NOW = datetime(2050, 1, 1, tzinfo=UTC)


class Case(NamedTuple):
    """A history, oldest first in the local time of its zone, and what to keep of it."""

    name: str
    keep: str
    items: tuple[str, ...]
    zone: str = "UTC"


def days(first: str, count: int, hours: float = 24) -> tuple[str, ...]:
    """Return local times from `first` on, so many hours apart."""
    start = datetime.fromisoformat(first)
    return tuple(
        (start + timedelta(hours=hours * n)).isoformat(" ") for n in range(count)
    )


NEW_YEAR = days("2020-12-26 12:00:00", 14)
SPRING = (*days("2026-03-26 01:30:00", 3), *days("2026-03-29 00:30:00", 2, 1))
SPRING += ("2026-03-29 03:30:00", "2026-03-29 04:30:00", "2026-03-30 01:30:00")
AUTUMN = ("2026-10-23 23:30:00", "2026-10-24 00:30:00", "2026-10-24 23:30:00")
AUTUMN += ("2026-10-25 00:30:00", "2026-10-25 04:30:00", "2026-10-25 23:30:00")
TAGGED = ("2026-01-01 00:00:00", "2026-01-02 00:00:00 a", "2026-01-03 00:00:00 b")
TAGGED += ("2026-01-04 00:00:00 a,b", "2026-01-05 00:00:00 c", "2026-01-06 00:00:00")
FUTURE = (*days("2026-01-01 10:00:00", 3, 5), *days("2150-01-01 10:00:00", 2, 1))

CASES = (
    Case("the last three", "--keep-last 3", days("2026-01-01 00:00:00", 5)),
    Case(
        "the newest of an hour", "--keep-hourly 9", days("2026-01-01 00:05:00", 9, 0.4)
    ),
    Case("the newest of a day", "--keep-daily 9", days("2026-01-01 03:00:00", 9, 10)),
    Case("ISO weeks at new year", "--keep-weekly 2", NEW_YEAR),
    Case("years at new year", "--keep-yearly 2", NEW_YEAR),
    Case(
        "ISO week 53 is not week 1", "--keep-weekly 9", days("2026-12-20 12:00:00", 20)
    ),
    Case(
        "empty periods cost nothing",
        "--keep-daily 3",
        (
            "2019-01-01 00:00:00",
            "2021-06-01 00:00:00",
            "2024-02-29 00:00:00",
            "2024-02-29 01:00:00",
            "2026-01-01 00:00:00",
        ),
    ),
    Case("slots exactly used", "--keep-daily 4", days("2026-01-01 06:00:00", 8, 12)),
    Case("one slot less", "--keep-daily 3", days("2026-01-01 06:00:00", 8, 12)),
    Case(
        "the oldest while a slot is left",
        "--keep-daily 5",
        days("2026-01-01 06:00:00", 8, 12),
    ),
    Case(
        "the oldest takes the last slot",
        "--keep-monthly 2",
        days("2026-01-01 06:00:00", 4),
    ),
    Case(
        "one item in many buckets",
        "--keep-last 1 --keep-daily 1 --keep-weekly 2",
        days("2026-01-05 00:00:00", 9),
    ),
    Case(
        "buckets of all kinds",
        "--keep-last 2 --keep-hourly 3 --keep-daily 3 "
        "--keep-weekly 2 --keep-monthly 3 --keep-yearly 2",
        days("2025-11-20 00:00:00", 30, 61),
    ),
    Case("all dailies", "--keep-daily -1", days("2026-01-01 06:00:00", 8, 12)),
    Case("future items take slots", "--keep-last 3", FUTURE),
    Case(
        "within counts from the newest that is not in the future",
        "--keep-within 6h",
        FUTURE,
    ),
    Case("buckets within, futures before them", "--keep-within-daily 1d", FUTURE),
    Case(
        "everything lies in the future",
        "--keep-within 1h",
        days("2150-01-01 10:00:00", 3),
    ),
    Case(
        "exactly at the cutoff is too old",
        "--keep-within 2d",
        days("2026-01-01 00:00:00", 4),
    ),
    Case(
        "a month before 31 March",
        "--keep-within 1m",
        (
            "2026-02-28 12:00:00",
            "2026-03-01 12:00:00",
            "2026-03-03 12:00:00",
            "2026-03-03 12:00:01",
            "2026-03-31 12:00:00",
        ),
    ),
    Case(
        "a month before 31 March in a leap year",
        "--keep-within 1m",
        (
            "2024-02-29 12:00:00",
            "2024-03-02 12:00:00",
            "2024-03-02 12:00:01",
            "2024-03-31 12:00:00",
        ),
    ),
    Case(
        "a year before 29 February",
        "--keep-within 1y",
        (
            "2023-02-28 12:00:00",
            "2023-03-01 12:00:00",
            "2023-03-01 12:00:01",
            "2024-02-29 12:00:00",
        ),
    ),
    Case(
        "years, months, days and hours together",
        "--keep-within 1y2m3d3h",
        (
            "2024-10-27 08:59:59",
            "2024-10-27 09:00:00",
            "2024-10-27 09:00:01",
            "2025-12-30 12:00:00",
        ),
    ),
    Case(
        "hours, days and weeks within",
        "--keep-within-hourly 1d --keep-within-daily 7d --keep-within-weekly 1m",
        days("2026-01-01 00:00:00", 40, 17),
    ),
    Case(
        "the oldest within", "--keep-within-yearly 9y", days("2026-01-01 00:00:00", 4)
    ),
    Case("all tags of a list", "--keep-last 1 --keep-tag a,b", TAGGED),
    Case("any list of tags", "--keep-last 1 --keep-tag a --keep-tag b", TAGGED),
    Case("no tags at all", "--keep-last 1 --keep-tag ''", TAGGED),
    Case("tags use no slot", "--keep-tag a --keep-last 2", TAGGED),
    Case(
        "days on both sides of the change in spring",
        "--keep-daily 3",
        SPRING,
        "Europe/Berlin",
    ),
    Case(
        "hours on both sides of the skipped one",
        "--keep-hourly 4",
        SPRING,
        "Europe/Berlin",
    ),
    Case(
        "a day before the change in spring", "--keep-within 1d", SPRING, "Europe/Berlin"
    ),
    Case(
        "days on both sides of the change in autumn",
        "--keep-daily 3",
        AUTUMN,
        "Europe/Berlin",
    ),
    Case(
        "a day before the change in autumn", "--keep-within 1d", AUTUMN, "Europe/Berlin"
    ),
    Case(
        "weeks of New York are not those of UTC",
        "--keep-weekly 2",
        days("2026-03-01 20:30:00", 16),
        "America/New_York",
    ),
)


class Binary:
    """A restic binary with a repository that is thrown away."""

    def __init__(self, folder: str) -> None:
        self._env = os.environ | {"RESTIC_REPOSITORY": folder, "RESTIC_PASSWORD": "x"}
        self.name = " ".join(self._run("version", "UTC").split()[:2])
        version = tuple(map(int, re.findall(r"\d+", self.name)[:2]))
        self.knows_the_oldest = version >= (0, 16)
        self._run("init", "UTC")

    def kept(self, case: Case, keep: str) -> list[list[str]]:
        """Return restic's reasons, in the order of the case's items."""
        host = case.name
        for item in case.items:
            at, tags = item[:19], item[20:]
            options = ["--host", host, "--time", at, *(["--tag", tags] if tags else [])]
            self._run("backup", case.zone, "--stdin", *options)
        answer = self._run(
            "forget", case.zone, "--dry-run", "--json", "--host", host,
            "--group-by", "host", *restic.words_of(keep),
        )  # fmt: skip
        (group,) = json.loads(answer.splitlines()[0])
        reasons: dict[datetime, list[str]] = {}
        for said in group["reasons"] or []:
            at = datetime.fromisoformat(said["snapshot"]["time"])
            reasons[at.astimezone(UTC)] = [_reason(text) for text in said["matches"]]
        return [sorted(set(reasons.get(item.at, []))) for item in items_of(case)]

    def _run(self, verb: str, zone: str, *options: str) -> str:
        done = subprocess.run(
            ["restic", verb, "--quiet", "--no-cache", *options],
            env=self._env | {"TZ": zone},
            input="x",
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout


def items_of(case: Case) -> list[restic.Item]:
    """Return a case's history with its moments in UTC."""
    zone = ZoneInfo(case.zone)
    return [
        restic.Item(
            datetime.fromisoformat(item[:19]).replace(tzinfo=zone).astimezone(UTC),
            tuple(filter(None, item[20:].split(","))),
        )
        for item in case.items
    ]


def _reason(text: str) -> str:
    if text.startswith("has tags"):
        return "tags"
    return re.sub(r"within .*", "within", text.replace(" snapshot", ""))


def _case(case: Case, binary: Binary) -> dict[str, Any]:
    items, options = items_of(case), restic.options_of(case.keep)
    oracle = restic.forget(items, options, NOW, ZoneInfo(case.zone))
    expected = [sorted(reasons) for reasons in oracle]
    needs_the_newer = any("oldest" in r for reasons in expected for r in reasons)
    needs_the_newer |= "-1" in case.keep
    if needs_the_newer and not binary.knows_the_oldest:
        made_by = "oracle"
    else:
        made_by, said = binary.name, binary.kept(case, case.keep)
        if said != expected:
            sys.exit(f"{case.name}: {binary.name} says {said}, the oracle {expected}")
    return {
        "name": case.name,
        "keep": case.keep,
        "zone": case.zone,
        "made_by": made_by,
        "items": [
            [item.at.isoformat(), list(item.tags), reasons]
            for item, reasons in zip(items, expected, strict=True)
        ],
    }


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        binary = Binary(folder)
        made = [_case(case, binary) for case in CASES]
    lines = ",\n".join(json.dumps(case) for case in made)
    (HERE / "cases.json").write_text(f"[\n{lines}\n]\n")
