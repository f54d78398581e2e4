"""Many states of one job in order: few reads, and each delta chain decoded once."""

from __future__ import annotations

from functools import partial
from itertools import count, islice
from typing import TYPE_CHECKING, Any

from milepost.journal.errors import UnreadableState, WrongKind
from milepost.journal.reading import queries
from milepost.journal.reading.reader import check_limit, refuse_fault, unreadable
from milepost.journal.states import delta_chain
from milepost.journal.states.recent_states import Known, RecentStates

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from milepost.journal.index.entries import Entry
    from milepost.journal.index.job_view import JobView
    from milepost.journal.models import Checkpoint, CheckpointInfo
    from milepost.journal.reading.reader import Reader
    from milepost.journal.states.delta_chain import Member
    from milepost.journal.states.state_digest import DecodedState
    from milepost.journal.states.types import Types

KIND = "log"
# Of one read of the storage, and of the states that an iterator has ahead of its user.
_READ_BYTES = 1024 * 1024
_PAGE_STATES = 64


def states(
    reader: Reader, job_id: str, types: Types | None = None
) -> Iterator[Checkpoint]:
    """Yield the job's checkpoints with their states, oldest first.

    A state of a page that changed meanwhile is read again; none is yielded twice.
    """
    after, recent = 0, RecentStates()
    while True:
        ask = partial(_page, reader, after, recent)
        page = reader.answer(job_id, ask)
        if not page:
            return
        for info, opened in page:
            after = info.seq
            yield queries.checkpoint(reader, types, info, opened)


def _page(
    reader: Reader, after_seq: int, recent: RecentStates, view: JobView
) -> list[tuple[CheckpointInfo, DecodedState]]:
    found = reader.store.live(view, after_seq, _PAGE_STATES)
    page, size = [], 0
    for entry, opened in opened_in_order(reader, view, found, recent):
        page.append((reader.described(view, entry, opened), opened))
        size += view.sizes[entry.seq]
        if size > _READ_BYTES:
            break
    return page


def opened_in_order(
    reader: Reader,
    view: JobView,
    wanted: Sequence[Entry],
    recent: RecentStates,
) -> Iterator[tuple[Entry, DecodedState]]:
    """Yield checkpoints with their states, verified.

    Args:
        reader: reads the job.
        view: of the job.
        wanted: the checkpoints, in order of seq.
        recent: keeps the bases of the states that follow.

    Raises:
        UnreadableState: the bytes of a state differ from what was saved.
    """
    stored, run = reader.stored(view), dict[int, tuple[bytes, bytes]]()

    def read(seq: int) -> Member:
        lines = run.get(seq) or stored.lines(seq)
        return delta_chain.member(lines, view.address_of(seq), reader.vault)

    for entry in wanted:
        try:
            refuse_fault(view, entry.seq)
            if entry.seq not in run:
                lines = stored.run(entry.seq, wanted[-1].seq, _READ_BYTES)
                run = dict(zip(count(entry.seq), lines))
            recall = partial(recent.get, view.fold)
            unpacked = delta_chain.prove(entry.seq, read, recall)
            if unpacked.members[0].parts.codec != "json":
                known = Known(unpacked.raw, unpacked.links, unpacked.stored_bytes)
                recent.put(view.fold, known)
            yield entry, delta_chain.decoded(unpacked)
        except UnreadableState as exc:
            raise unreadable(view, entry, exc) from exc


# -- logs ------------------------------------------------------------------------------


def entries(reader: Reader, job_id: str, last: int | None) -> list[dict[str, Any]]:
    """Return the entries of a log, oldest first; the `last` ones, or all.

    Raises:
        WrongKind: the job holds something else.
        InvalidArgument: `last` is negative.
    """
    check_limit(last)

    def ask(view: JobView) -> list[dict[str, Any]]:
        check_kind(view)
        pages = [*_pages(reader, view, last)]
        found = [entry for page in reversed(pages) for entry in page]
        return found if last is None else found[max(0, len(found) - last) :]

    whose = f"an entry of log {job_id!r}"
    return [reader.decoded(e, None, whose) for e in reader.answer(job_id, ask)]


def _pages(
    reader: Reader, view: JobView, last: int | None
) -> Iterator[list[dict[str, Any]]]:
    """Yield the entries of the log in pages, the last page first, until `last`."""
    appends = reader.store.still(view, lambda: [*islice(on_line(view), last)])
    size = len(appends) if last is None else _PAGE_STATES
    left = last
    while appends and left != 0:
        page, appends = appends[:size], appends[size:]
        found = opened_in_order(reader, view, page[::-1], RecentStates())
        got = [entry for _, opened in found for entry in opened.state["entries"]]
        yield got
        left = None if left is None else max(0, left - len(got))


def on_line(view: JobView) -> Iterator[Entry]:
    """Yield the live appends from the current one back to the first one."""
    if (current := view.current) is None:
        return
    leads = view.lineage.leads
    for entry in view.checkpoints.newest_first():
        if entry.seq <= current.seq and leads(entry.seq, current.seq):
            yield entry


def check_kind(view: JobView) -> None:
    """Refuse a job that is no log; an unknown job is an empty one.

    Raises:
        WrongKind: it holds something else.
    """
    if view.seq and view.kind != KIND:
        raise WrongKind(view.job_id, view.kind, KIND)
