"""The live checkpoints of a job, beside a plain sorted list of them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milepost.journal.index.checkpoints import NO_CHECKPOINTS, Checkpoints
from milepost.journal.index.entries import Entry, Labels
from tests.support.interruptions import Injector

if TYPE_CHECKING:
    from collections.abc import Callable

LABELS = Labels()


def entry_of(seq: int, made: type[Entry] = Entry) -> Entry:
    return made(f"s_{seq}", "s", seq, None, "2026-11-23T05:00:00+00:00", LABELS)


def filled(seqs: range, made: type[Entry] = Entry) -> Checkpoints:
    checkpoints = Checkpoints(NO_CHECKPOINTS, {})
    for seq in seqs:
        checkpoints.add(entry_of(seq, made))
    return checkpoints


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["save", "remove", "put back", "pack"]), st.integers(0, 2000)
    ),
    max_size=80,
)


@settings(deadline=None, max_examples=200, database=None)
@given(steps=STEPS, first=st.integers(0, 700), gap=st.integers(1, 300))
def test_any_order_of_changes_leaves_the_order_of_the_saves(
    steps: list[tuple[str, int]], first: int, gap: int
) -> None:
    checkpoints, seq = Checkpoints(NO_CHECKPOINTS, {}), first
    live: dict[int, Entry] = {}
    gone: dict[int, Entry] = {}
    for verb, number in steps:
        if verb == "pack":
            checkpoints = Checkpoints(checkpoints.packed(), {})
        elif verb == "save" or not (live if verb == "remove" else gone):
            seq += 1 + number % gap
            live[seq] = entry_of(seq)
            checkpoints.add(live[seq])
        elif verb == "remove":
            chosen = [*live][number % len(live)]
            del live[chosen]
            gone[chosen] = checkpoints.remove(f"s_{chosen}")
        else:
            chosen = [*gone][number % len(gone)]
            live[chosen] = gone.pop(chosen)
            checkpoints.put_back(live[chosen])
        if number % 3:  # some blocks stay packed
            check(checkpoints, live, gone, number)


def check(
    checkpoints: Checkpoints, live: dict[int, Any], gone: dict[int, Any], start: int
) -> None:
    seqs = sorted(live)
    assert len(checkpoints) == len(seqs)
    assert [*checkpoints] == [f"s_{seq}" for seq in seqs]
    assert [e.seq for e in checkpoints.newest_first()] == seqs[::-1]
    for after in (start, *seqs[start % 3 :: 3]):
        later = [seq for seq in seqs if seq > after]
        assert [entry.seq for entry in checkpoints.after(after)] == later
    for seq in seqs:
        name = f"s_{seq}"
        assert name in checkpoints
        entry = checkpoints.saved_as(seq)
        assert checkpoints[name] is checkpoints.get(name) is entry
        assert fields(entry) == fields(live[seq])
    for seq in gone:
        assert f"s_{seq}" not in checkpoints
        assert checkpoints.get(f"s_{seq}") is checkpoints.saved_as(seq) is None


def fields(entry: Entry | None) -> list[Any]:
    return [getattr(entry, name) for name in Entry.__slots__]


def test_a_read_that_is_interrupted_anywhere_leaves_each_checkpoint_once() -> None:
    seqs = range(0, 600, 50)  # two or three in a block
    packed = filled(seqs).packed()
    reads: list[Callable[[Checkpoints], object]] = [
        lambda c: c.get("s_150"),
        lambda c: [*c.after(140)],
        lambda c: next(c.newest_first()),
    ]
    for read in reads:
        for nth in count(1):
            checkpoints = Checkpoints(packed, {})
            injector = Injector(nth, opcodes=True)
            injector.run(partial(read, checkpoints))
            first = [checkpoints[f"s_{seq}"] for seq in seqs]
            assert [*checkpoints.after(-1)] == first
            assert checkpoints.remove("s_150") is first[3]
            assert "s_150" not in checkpoints
            if not injector.place:
                break


@pytest.mark.parametrize("checkpoint_id", [None, "", "s_1", "s_\ud800", 7])
def test_an_id_that_no_checkpoint_has_is_not_found(checkpoint_id: Any) -> None:
    checkpoints = Checkpoints(filled(range(0, 600, 50)).packed(), {})
    assert checkpoints.get(checkpoint_id) is None
    assert checkpoint_id not in checkpoints


def test_readers_that_unpack_at_once_get_the_same_objects() -> None:
    packed = filled(range(5_000)).packed()
    for _ in range(20):
        checkpoints = Checkpoints(packed, {})
        with ThreadPoolExecutor(4) as pool:
            found = pool.map(lambda _, c=checkpoints: [*c.after(-1)], range(4))
            first, *others = [[*map(id, entries)] for entries in found]
        assert len(first) == 5_000
        assert all(other == first for other in others)


class Counted(Entry):
    """An entry that counts how often its seq is read, of all entries."""

    __slots__ = ("number",)
    reads = 0

    @property  # type: ignore[override]
    def seq(self) -> int:
        Counted.reads += 1
        return self.number

    @seq.setter
    def seq(self, seq: int) -> None:
        self.number = seq


def first_page(checkpoints: Checkpoints, seq: int) -> object:
    return [next(checkpoints.after(seq)) for _ in range(3)]


def undelete(checkpoints: Checkpoints, seq: int) -> object:
    return checkpoints.put_back(checkpoints.remove(f"s_{seq}"))


@pytest.mark.parametrize("act", [first_page, undelete, Checkpoints.saved_as])
def test_no_change_and_no_page_looks_at_more_entries_of_a_longer_job(act: Any) -> None:
    counts = []
    for length in (2_000, 20_000):
        checkpoints = filled(range(length), Counted)
        Counted.reads = 0
        act(checkpoints, length // 2)
        counts.append(Counted.reads)
    assert counts[0] == counts[1] < 40
