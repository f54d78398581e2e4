"""FORMAT.md's worked example is what the code writes, byte for byte."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from milepost import CheckpointManager

PAGE = Path(__file__).parents[2] / "FORMAT.md"


def example(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Write the example store; return the page's blocks as they must be."""
    starts = itertools.count(step=64)

    def urandom(size: int) -> bytes:
        start = next(starts)
        return bytes(byte % 256 for byte in range(start, start + size))

    monkeypatch.setattr(os, "urandom", urandom)
    clock = datetime(2026, 11, 23, 5, 0, 0, 123456, tzinfo=UTC)
    with CheckpointManager(folder, actor="lib:etl@host", clock=lambda: clock) as m:
        checkpoint_id = m.save("orders", "extract", {"rows": 1200}, metadata={"by": 1})
        m.delete("orders", checkpoint_id, reason="superseded")
    journal = (folder / "journals" / "orders.jsonl").read_text()
    slot = (folder / "heads" / "orders").read_bytes()[512:].decode()
    inode = (folder / "journals" / "orders.jsonl").stat().st_ino
    slot = re.sub(" +,", ",", slot).replace(f'"inode":{inode}', '"inode":4242')
    slot = re.sub('"crc":"[0-9a-f]{8}"', '"crc":"…"', slot)
    return {"journal": journal, "head": slot}


def blocks(page: str) -> dict[str, str]:
    return dict(re.findall(r"```(journal|head)\n(.*?)```", page, re.DOTALL))


def test_the_worked_example_is_what_the_code_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert blocks(PAGE.read_text()) == example(tmp_path / "store", monkeypatch)


def test_the_hash_check_by_hand_gives_the_last_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    example(tmp_path, monkeypatch)
    command = re.search(r"```sh\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert command is not None
    found = subprocess.run(
        ["sh", "-c", command[1]],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    last = (tmp_path / "journals" / "orders.jsonl").read_text().splitlines()[-1]
    assert last.endswith(f'"hash":"{found.stdout.split()[0]}"}}')


# python -m tests.docs.test_format_page FOLDER: write the page's example again.
if __name__ == "__main__":
    with pytest.MonkeyPatch.context() as patch:
        fresh = example(Path(sys.argv[1]), patch)
    text = PAGE.read_text()
    for name, block in blocks(text).items():
        text = text.replace(f"```{name}\n{block}```", f"```{name}\n{fresh[name]}```")
    second = re.findall(r'"hash":"([0-9a-f]{64})"', fresh["journal"])[1]
    text = re.sub(r"HASH2|(?<=printf '%s' )[0-9a-f]{64}", second, text)
    text = re.sub(r"(?<=before it being\n`)[0-9a-f]{64}", second, text)
    PAGE.write_text(text)
