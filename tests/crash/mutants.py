"""Milepost with one rule of durability broken, and where that must show."""

from __future__ import annotations

from typing import NamedTuple

from milepost.journal.batch import Batch
from milepost.journal.commands import approvals, durable, steps
from milepost.journal.commands import executions as commands
from milepost.journal.disk import whole_file
from milepost.journal.disk.copy_file import JournalCopy
from milepost.journal.events import codec
from milepost.journal.index import executions, job_view
from milepost.journal.index.durable import Durable
from milepost.journal.reading import queries
from milepost.journal.storage.files import recovering
from milepost.journal.storage.files.file_job import FileJob
from milepost.journal.storage.files.head_file import HeadFile
from milepost.journal.storage.files.held_job import HeldFileJob
from milepost.journal.storage.files.job_files import JobFiles
from milepost.journal.storage.files.recovery import facts, head
from milepost.journal.storage.files.recovery.salvage import SalvageFiles
from milepost.journal.storage.files.repair.repair import FileRepairer
from milepost.journal.storage.files.storage import FileStorage
from milepost.journal.store import compaction
from milepost.journal.store.compaction import Compactor
from milepost.journal.store.job import Job
from milepost.journal.store.store import Store
from milepost.journal.workflow.calls import Calls
from milepost.journal.workflow.course import Course
from milepost.journal.workflow.engine import Engine
from milepost.journal.workflow.keys import Keys
from tests.crash import histories
from tests.crash.explore import Budget, Explorer
from tests.crash.ledger import Violation
from tests.crash.rewrite import Rewrite, rewritten
from tests.crash.session import seeded
from tests.crash.workloads import record

_BOUND = 16_000
_HISTORIES = 5_000
HISTORIES = "histories of workflows"  # not one workload, but random ones


class Mutant(NamedTuple):
    """A broken rule.

    Attributes:
        rewrites: what breaks it.
        workload: where it must show.
        is_rot: it takes rotten bytes, not a crash, to show.
    """

    rewrites: tuple[Rewrite, ...]
    workload: str
    is_rot: bool = False


class Verdict(NamedTuple):
    """How a mutant ended: states until a promise broke, and which; None: it lives."""

    states: int
    violation: str | None


def hunt(mutant: Mutant, *, seed: int, bound: int = _BOUND) -> Verdict:
    """Explore `mutant` until a promise breaks or `bound` states were visited."""
    if mutant.workload == HISTORIES:
        return _hunt_histories(mutant, seed)
    explorer = Explorer(states=bound, seed=seed)
    with seeded(seed), rewritten(*mutant.rewrites):
        try:
            recording = record(mutant.workload)
            if mutant.is_rot:
                explorer.rot(recording)
            else:
                explorer.hunt(recording)
                explorer.deepen()
        except Violation as exc:
            return Verdict(explorer.count, str(exc))
        except Budget:
            pass
        except Exception as exc:  # noqa: BLE001 - the workload itself was refused
            return Verdict(explorer.count, f"{type(exc).__name__}: {exc}")
    return Verdict(explorer.count, None)


def _hunt_histories(mutant: Mutant, seed: int) -> Verdict:
    explorer = histories.Explorer(seed)
    try:
        with seeded(seed), rewritten(*mutant.rewrites):
            explorer.explore(_HISTORIES)
    except Violation as exc:
        return Verdict(explorer.count, str(exc))
    return Verdict(explorer.count, None)


_NOTHING = "pass"

# Not broken: each event that is new to a process makes a snapshot due.
_KEEPS = (
    Rewrite(Job._snapshot, "max(_SNAPSHOT_EVENTS, changes // _SNAPSHOT_SHARE)", "1"),
    Rewrite(Job.refreshed, "_changes(view) - before >= _SNAPSHOT_EVENTS", "True"),
    Rewrite(Job._kept, "at.last.seq < _SNAPSHOT_EVENTS", "False"),
)

MUTANTS: dict[str, Mutant] = {
    # -- snapshots
    "a snapshot has events that are not synced": Mutant(
        (
            *_KEEPS,
            Rewrite(FileJob._place, " and head.synced.seq >= last.seq", ""),
        ),
        "interval",
    ),
    "nothing removes what a crash left of a snapshot": Mutant(
        (
            *_KEEPS,
            Rewrite(recovering._remove_leftovers, "files.snapshot.sweep()", _NOTHING),
        ),
        "interval",
    ),
    # -- sync
    "no fdatasync": Mutant(
        (Rewrite(HeldFileJob._sync, "file.sync(metadata=is_first)", _NOTHING),), "save"
    ),
    "no folder sync": Mutant(
        (
            Rewrite(
                HeldFileJob._sync,
                "self._files.disk.sync_folder(self._files.folders.journals)",
                _NOTHING,
            ),
        ),
        "create",
    ),
    "no sync of the store's folder": Mutant(
        (Rewrite(FileStorage.create, "self._disk.sync_folder(folder)", _NOTHING),),
        "create",
    ),
    "heads are kept in a folder whose name is not synced": Mutant(
        (
            Rewrite(
                FileStorage.create,
                "make_folder_like(self._disk, self._folders.heads, "
                "self._folders.journals)",
                _NOTHING,
            ),
        ),
        "create",
    ),
    "sync retried": Mutant(
        (
            Rewrite(
                HeldFileJob._sync,
                'raise self._poison(exc, "cannot sync") from exc',
                "file.sync(metadata=is_first)",
            ),
        ),
        "failed sync, nothing arrived",
    ),
    "head moved before the sync": Mutant(
        (
            Rewrite(
                HeldFileJob.append,
                "self._sync(file, is_first=is_first)",
                "files.head.put(head, slot); self._sync(file, is_first=is_first)",
            ),
        ),
        "save",
    ),
    "takeover without sync": Mutant(
        (Rewrite(recovering._carry_out, "file.sync(metadata=True)", _NOTHING),),
        "take over",
    ),
    "poison known to one process only": Mutant(
        (Rewrite(HeldFileJob._poison, "files.head.write(head)", _NOTHING),),
        "failed sync, the cache sticks",
    ),
    "prefix taken from the page cache": Mutant(
        (Rewrite(recovering._carry_out, "file.drop_cache()", _NOTHING),),
        "failed sync, nothing arrived",
    ),
    # -- write
    "short count ignored": Mutant(
        (Rewrite(HeldFileJob.append, "if taken != len(data):", "if False:"),),
        "short write",
    ),
    "rollback skipped": Mutant(
        (Rewrite(HeldFileJob._roll_back, "file.truncate(size)", _NOTHING),),
        "short write, all but the newline",
    ),
    "write span ignored": Mutant(
        (
            Rewrite(
                facts._Writes._ends_write,
                "span_of(event)",
                '(event["seq"], event["seq"])',
            ),
        ),
        "group commit",
    ),
    # -- files with other names
    "a shared journal is written in place": Mutant(
        (Rewrite(recovering.private_journal, "if not memory.is_shared:", "if True:"),),
        "hard linked",
    ),
    "a shared head is written in place": Mutant(
        (Rewrite(HeadFile.lock, "found.links > 1", "False"),),
        "hard linked",
    ),
    "a private journal not synced": Mutant(
        (Rewrite(whole_file.write_draft, "file.sync(metadata=True)", _NOTHING),),
        "hard linked",
    ),
    "a private journal's folder not synced": Mutant(
        (Rewrite(whole_file.place, "disk.sync_folder(path.parent)", _NOTHING),),
        "hard linked",
    ),
    "another's rename not synced": Mutant(
        (
            Rewrite(
                recovering._settle_as,
                "if head.inode != files.inode or (",
                "if not memory.is_settled and (",
            ),
        ),
        "take over a rewrite",
    ),
    # -- recovery
    "no salvage file": Mutant(
        (
            Rewrite(
                SalvageFiles.keep,
                "whole_file.replace("
                "self._disk, self.temporary, self._folder / name, pieces)",
                _NOTHING,
            ),
        ),
        "save",
    ),
    "salvage file not synced": Mutant(
        (Rewrite(whole_file.write_draft, "file.sync(metadata=True)", _NOTHING),),
        "repair",
    ),
    "salvage file's folder not synced": Mutant(
        (Rewrite(whole_file.place, "disk.sync_folder(path.parent)", _NOTHING),),
        "repair",
    ),
    "cut before the salvage file": Mutant(
        (
            Rewrite(
                recovering._carry_out,
                "_keep_aside(files, memory, keep.size, facts)",
                "rest = file.read(keep.size, facts.size); "
                "file.truncate(keep.size); file.sync(); "
                "files.salvage_files.keep(rest, keep.size, facts.lost_events)",
            ),
        ),
        "repair",
    ),
    "unterminated line not finished": Mutant(
        (Rewrite(recovering._carry_out, r'file.append(b"\n")', _NOTHING),), "save"
    ),
    "it parses, so the event is valid": Mutant(
        (
            Rewrite(
                codec.scan,
                'event["hash"] == digest and event["seq"] == seq + 1',
                'event["seq"] == seq + 1',
            ),
        ),
        "save a long event line",
    ),
    "it parses, so the state is valid": Mutant(
        (
            Rewrite(codec.scan, "if crc != found:", "if False:"),
            Rewrite(
                facts.check_pair,
                "if not has_state(event):",
                "if True:",
            ),
        ),
        "save a large state",
    ),
    "shows before it syncs": Mutant(
        (
            Rewrite(
                Job._append,
                "    view = self.view\n",
                "    view = self.view\n"
                "    mark = view.mark\n"
                "    for stored in written.events:\n"
                "        job_view.apply(view, *stored)\n",
            ),
            Rewrite(Job._append, "held.append(view.mark,", "held.append(mark,"),
        ),
        "save",
    ),
    "event accepted without its state line": Mutant(
        (
            Rewrite(
                facts.check_pair,
                "if fault is not None:",
                "if fault is not None:\n        return\n    if False:",
            ),
        ),
        "save a large state",
    ),
    "bad middle line skipped": Mutant(
        (
            Rewrite(
                codec.scan,
                "            if not is_next:\n",
                "            is_last = data.find(b'\\n', end + 1) < 0\n"
                "            if not (is_next or is_last or 'skipped' in locals()):\n"
                "                seq, position, start, skipped = seq + 1, end + 1, -1, 1\n"  # noqa: E501
                "                continue\n"
                "            if 'skipped' in locals():\n"
                "                digest = event['hash']\n"
                "            elif not is_next:\n",
            ),
            Rewrite(job_view.apply, "if seq != view.seq + 1:", "if False:"),
        ),
        "save",
        is_rot=True,
    ),
    "older checkpoint returned for an unreadable newer one": Mutant(
        (
            Rewrite(
                queries.latest,
                "reader.info_of(view, view.latest)",
                "reader.infos(view, [e for e in view.checkpoints.after(0)"
                " if e.seq not in view.faults][-1:])[0]",
            ),
        ),
        "save",
        is_rot=True,
    ),
    "repair event missing after a nested cut": Mutant(
        (
            Rewrite(
                recovering.Memory.forget,
                "self.may_owe_repairs = True",
                "self.may_owe_repairs = False",
            ),
            Rewrite(recovering.settle, "memory.may_owe_repairs = True", _NOTHING),
        ),
        "repair",
    ),
    # -- head and readers
    "head ignored": Mutant(
        (
            Rewrite(
                facts.look,
                'head = head_codec.decode(raw or b"")',
                "head = Head()",
            ),
            Rewrite(
                FileJob.extent,
                "head = head_codec.decode(raw)",
                "head = None",
            ),
        ),
        "save",
        is_rot=True,
    ),
    "slot without checksum": Mutant(
        (
            Rewrite(
                head._decode_slot,
                'if suffix != b\',"crc":"%08x"}\\n\' % zlib.crc32(body):',
                'if not suffix.startswith(b\',"crc":"\'):',
            ),
        ),
        "save",
    ),
    "watermark compared by bytes": Mutant(
        (
            Rewrite(
                FileJob._current_extent,
                "found is not None and head.inode == found.inode",
                "found is not None",
            ),
            Rewrite(
                recovering._trusted,
                "found is not None and head.inode == found.inode",
                "found is not None",
            ),
        ),
        "rewritten",
    ),
    "head's folder not synced": Mutant(
        (
            Rewrite(
                JobFiles.create_journal,
                "self.disk.sync_folder(self.folders.heads)",
                _NOTHING,
            ),
        ),
        "create",
    ),
    "reader shows beyond the head": Mutant(
        (
            Rewrite(
                Job.catch_up,
                "        self._fold_to(at)\n",
                "        self._fold_to(at)\n"
                "        if before is not None:\n"
                "            known = self.stored._known\n"
                "            known.shown = type(known.shown)(10**9, '', before.size)\n"
                "            self.fold(self.view, 10**9)\n",
            ),
        ),
        "save",
    ),
    # -- compaction
    "a compaction without file sync": Mutant(
        (Rewrite(JournalCopy.place, "self.file.sync(metadata=True)", _NOTHING),),
        "compact",
    ),
    "a compaction without folder sync": Mutant(
        (
            Rewrite(
                HeldFileJob.replace_by,
                "files.disk.sync_folder(files.folders.journals)",
                _NOTHING,
            ),
        ),
        "compact",
    ),
    "a compaction drops an event line": Mutant(
        (
            Rewrite(
                Compactor._new_lines,
                "        self.dropped += 1\n        return event_line\n",
                "        self.dropped += 1\n        return b''\n",
            ),
        ),
        "compact",
    ),
    "a compaction drops a live delta's base": Mutant(
        (
            Rewrite(
                Compactor._has_prefix,
                "0 < len(self._chain(parts.base)) < delta.MAX_LINKS",
                "len(self._chain(parts.base)) < delta.MAX_LINKS",
            ),
        ),
        "compact",
    ),
    "a compaction drops a message of a live delta's prefix": Mutant(
        (
            Rewrite(
                Compactor._has_prefix, "all(map(self._copied.get, parts.plus))", "True"
            ),
        ),
        "compact a thread",
    ),
    "a compaction drops what is live": Mutant(
        (
            Rewrite(
                Compactor._new_lines, "if seq in self._drop:", "if seq in self._live:"
            ),
        ),
        "compact",
    ),
    "a compaction drops the states of other events": Mutant(
        (
            Rewrite(
                Compactor._new_lines,
                "if seq in self._drop:",
                "if seq not in self._live:",
            ),
        ),
        "compact states of other events",
    ),
    "the states of other events are not proved": Mutant(
        (
            Rewrite(
                facts.check_pair,
                "if fault is not None:",
                'if event["type"] != "checkpoint.saved":\n'
                "        return\n"
                "    if fault is not None:",
            ),
        ),
        "states of other events",
    ),
    "what has no state now is taken for erased before": Mutant(
        (
            Rewrite(
                job_view._erase,
                "if trashed.entry.seq <= "
                "lasts[bisect_right(firsts, trashed.entry.seq)]",
                "if view.faults.get(trashed.entry.seq) == STATE_MISSING",
            ),
        ),
        "come and go",
    ),
    "what comes back is forgotten with what its compaction dropped": Mutant(
        (
            Rewrite(
                job_view.erased_runs,
                "    is_run = False\n    for seq",
                "    gone = [t.entry.seq for t in view.trash.values()]\n"
                "    is_run = False\n    for seq",
            ),
        ),
        "come and go",
    ),
    "a compaction drops what came back meanwhile": Mutant(
        (
            Rewrite(
                Store.compact,
                "if job.view is not view or not drop <= due(view):",
                "if job.view is not view:",
            ),
        ),
        "come back during a compaction",
    ),
    "a compaction that died leaves its file": Mutant(
        (
            Rewrite(
                recovering._remove_leftovers,
                "copy_file.remove_leftover(files.disk, files.copy_path)",
                _NOTHING,
            ),
        ),
        "compact",
    ),
    # -- names and marks that come back
    "a poison mark that came back cuts what followed": Mutant(
        (
            Rewrite(
                recovering._heal,
                "if facts.head.inode == files.inode:",
                "if True:",
            ),
        ),
        "failed sync, nothing arrived",
    ),
    "the name of salvage/ is never synced": Mutant(
        (
            Rewrite(
                SalvageFiles.keep,
                "self._disk.sync_folder(self._folder.parent)",
                _NOTHING,
            ),
        ),
        "repair",
    ),
    "a store that was found is taken for durable": Mutant(
        (
            Rewrite(FileStorage.create, "self._disk.sync_folder(folder)", _NOTHING),
            Rewrite(recovering._sync_names, "files.disk.sync_folder(folder)", _NOTHING),
        ),
        "take over a creation",
    ),
    "stale head answered with an older checkpoint": Mutant(
        (
            Rewrite(
                Job.catch_up,
                "if self._has_rotted(known) or not at.is_settled:",
                "if self._has_rotted(known):",
            ),
        ),
        "save",
    ),
    # -- a repair that gives up what was acknowledged
    "a repair cuts before the salvage file": Mutant(
        (
            Rewrite(FileRepairer._rebuild, "if found.cut_bytes:", "if False:"),
            Rewrite(
                FileRepairer._rebuild,
                "held.replace_by(copy, last)",
                "held.replace_by(copy, last); "
                "rest = text.read(found.proven_bytes, found.cut_bytes); "
                "held.keep_aside(rest, found.proven_bytes, found.lost_events)",
            ),
        ),
        "damaged, then repaired",
    ),
    "a repair keeps nothing": Mutant(
        (Rewrite(FileRepairer._rebuild, "if found.cut_bytes:", "if False:"),),
        "damaged, then repaired",
    ),
    "a repair that is not journaled": Mutant(
        (Rewrite(FileRepairer._rebuild, "if found.is_journaled:", "if False:"),),
        "damaged, then repaired",
    ),
    "a repaired journal is not synced": Mutant(
        (Rewrite(JournalCopy.place, "self.file.sync(metadata=True)", _NOTHING),),
        "damaged, then repaired",
    ),
    "a repair is shown before its name is durable": Mutant(
        (
            Rewrite(
                FileJob._current_extent,
                "if facts.shown is None or facts.is_foreign or facts.is_altered:",
                "facts = facts._replace(shown=facts.shown or facts.base)\n"
                "    if facts.shown is None:",
            ),
        ),
        "damaged, then repaired",
    ),
    "a slot is overwritten that may be the only durable one": Mutant(
        (Rewrite(recovering.settle, "files.head.secure()", _NOTHING),),
        "damaged, then repaired",
    ),
    "a head that moves on to a repair is not synced": Mutant(
        (
            Rewrite(
                recovering._carry_out,
                "if facts.head is None or facts.is_given_up:",
                "if facts.head is None:",
            ),
        ),
        "damaged, then repaired",
    ),
    "a head older than a repair looks like damage": Mutant(
        (
            Rewrite(
                facts._Writes._take,
                "if gives_up(event, self._shown.hash):",
                "if False:",
            ),
        ),
        "damaged, then repaired",
    ),
    # -- removals
    "a removed journal is not gone for good": Mutant(
        (
            Rewrite(
                recovering.remove,
                "files.disk.sync_folder(files.folders.journals)",
                _NOTHING,
            ),
        ),
        "remove",
    ),
    "a removal leaves the head as it was": Mutant(
        (Rewrite(recovering.remove, "files.head.clear()", _NOTHING),), "remove"
    ),
    "a removal leaves one slot of the head": Mutant(
        (
            Rewrite(
                HeadFile.clear,
                "for _ in range(head_codec.SLOTS):",
                "for _ in range(1):",
            ),
        ),
        "remove",
    ),
    "a removal leaves no tombstone": Mutant(
        (Rewrite(HeldFileJob.remove, "recovering.bury(files, removal)", _NOTHING),),
        "remove",
    ),
    "a tombstone is not durable before the head is cleared": Mutant(
        (
            Rewrite(
                HeldFileJob.remove,
                "recovering.bury(files, removal)\n"
                "        recovering.remove(files, self._memory)",
                "bury = recovering.origin_of_journal(files.read)\n"
                "        recovering.remove(files, self._memory)\n"
                "        recovering.removals.bury(files.store, bury, removal)",
            ),
        ),
        "take over a removal",
    ),
    "nobody looks for a tombstone": Mutant(
        (Rewrite(Job._is_removed, "if view.origin == self._origin:", "if True:"),),
        "remove",
    ),
    "a removal that was begun is not completed": Mutant(
        (Rewrite(recovering._settle_as, "if facts.is_removed:", "if False:"),),
        "take over a removal",
    ),
    # -- executions
    "a stale attempt writes": Mutant(
        (
            Rewrite(
                commands.leased,
                "raise lost(execution, attempt)",
                "return execution",
            ),
        ),
        "take over an execution",
    ),
    "an attempt begins before its lease is taken": Mutant(
        (
            Rewrite(
                Engine.as_attempt,
                "lease = self.attempts.take(execution_id, actor, tenure.ttl_seconds)",
                "lease = self._store.storage.lease(execution_id, tenure.ttl_seconds)",
            ),
            Rewrite(
                Engine.as_attempt,
                "self.attempts.keep(execution_id, mine)",
                "lease.acquire('a'); self.attempts.keep(execution_id, mine)",
            ),
        ),
        "execute",
    ),
    "a lease is given up before the journal says so": Mutant(
        (
            Rewrite(
                Engine.change,
                "return self._write(job_id, decide)",
                "[self.attempts.drop(name) for name in self.attempts.known()]; "
                "return self._write(job_id, decide)",
            ),
        ),
        "end executions",
    ),
    "a batch forgets what its own events moved": Mutant(
        (
            Rewrite(
                Batch.add,
                "job_view.check(self.view, type_, data, self._moved)",
                "job_view.check(self.view, type_, data)",
            ),
        ),
        "execute",
    ),
    "a decision does not see what its own events moved": Mutant(
        (
            Rewrite(
                Batch.state_of,
                ".state(machine, id_, self._moved)",
                ".state(machine, id_, {})",
            ),
        ),
        "end executions",
    ),
    "a gate does not wait": Mutant(
        (
            Rewrite(
                approvals.ask,
                'batch.add("execution.waiting", actor, waiting)',
                _NOTHING,
            ),
        ),
        "execute",
    ),
    "a dead attempt leaves its steps open": Mutant(
        (Rewrite(commands.expire, "abandon(batch, execution, actor)", _NOTHING),),
        "take over an execution",
    ),
    "an ended execution leaves its approval open": Mutant(
        (
            Rewrite(
                commands.end, "withdraw(batch, execution, actor, how.event)", _NOTHING
            ),
        ),
        "end executions",
    ),
    "a compaction keeps the payloads of removed executions": Mutant(
        (Rewrite(compaction.due, "payloads | (seqs - missing)", "seqs - missing"),),
        "clear executions",
    ),
    "a compaction drops the payloads of live executions": Mutant(
        (
            Rewrite(
                compaction._payloads,
                "execution.removed_at is not None\n"
                "                and datetime.fromisoformat(execution.removed_at) <= "
                "latest",
                "True",
            ),
        ),
        "clear executions",
    ),
    "a cleanup removes what an execution needs": Mutant(
        (Rewrite(executions.Workflows.needed, "if found is not None:", "if False:"),),
        "clear executions",
    ),
    # -- durable steps
    "a result is recorded before the function runs": Mutant(
        (
            Rewrite(
                Course.step,
                'value = yield Act("program", call, key)',
                'value = ("result of", key); yield _journal(self._record, key, value); '
                'yield Act("program", call, key); return value',
            ),
        ),
        HISTORIES,
    ),
    "a recorded result is not looked up": Mutant(
        (Rewrite(Course.step, "if key in execution.durable.recorded:", "if False:"),),
        HISTORIES,
    ),
    "a step runs once without a record of its start": Mutant(
        (
            Rewrite(
                Course.step,
                "yield _journal(self._write, durable.begin, key)",
                _NOTHING,
            ),
        ),
        HISTORIES,
    ),
    "a last failure is taken for no effect": Mutant(
        (Rewrite(Durable.apply, 'if "retry_at" in data:', "if True:"),), HISTORIES
    ),
    "tries are not kept": Mutant(
        (Rewrite(Durable.apply, 'self.tries[key] = data["tries"]', _NOTHING),),
        HISTORIES,
    ),
    "a timer begins anew": Mutant(
        (
            Rewrite(
                Durable.wait,
                'self.timers.setdefault(data["key"], data["until"])',
                _NOTHING,
            ),
        ),
        HISTORIES,
    ),
    "a wait ends before its time": Mutant(
        (Rewrite(durable.wake, "batch.now < moment(due)", "False"),), HISTORIES
    ),
    "a wait keeps the lease": Mutant(
        (Rewrite(durable.wait, "release(batch, execution, mine.actor)", _NOTHING),),
        HISTORIES,
    ),
    "a signal is consumed without its key": Mutant(
        (Rewrite(steps.consume, "if key is not None:", "if False:"),), HISTORIES
    ),
    "a signal is consumed and waited for in two decisions": Mutant(
        (
            Rewrite(
                durable.receive,
                "if seq is None and (until is None or batch.now < until):",
                "if False:",
            ),
            Rewrite(
                Course.signal,
                "yield from self._turn(wait)",
                "yield _journal(self._write, durable.wait, key, at, name); "
                "yield from self._turn(wait)",
            ),
        ),
        HISTORIES,
    ),
    "an approval is asked for again": Mutant(
        (
            Rewrite(
                Course.approval,
                "if key not in execution.durable.asked:",
                "if key not in execution.durable.asked or self.attempt:",
            ),
        ),
        HISTORIES,
    ),
    "a child is started again": Mutant(
        (Rewrite(Calls.child, "if e.parent == parent", "if False"),), HISTORIES
    ),
    "an attempt that is over records a result": Mutant(
        (
            Rewrite(
                durable.complete,
                'leased(batch, mine.execution_id, mine.attempt, "run a step of")',
                _NOTHING,
            ),
        ),
        HISTORIES,
    ),
    "an attempt that is over saves": Mutant(
        (
            Rewrite(
                durable.save,
                "leased(batch, mine.execution_id, mine.attempt, "
                '"save a checkpoint of")',
                _NOTHING,
            ),
        ),
        HISTORIES,
    ),
    "a paused step loses its result": Mutant(
        (
            Rewrite(
                durable.complete,
                'is_idle = execution.is_paused or execution.status == "pending"',
                "is_idle = False",
            ),
        ),
        HISTORIES,
    ),
    "steps inside a recorded one are unused": Mutant(
        (Rewrite(Keys.unused, " and not is_inside(k)", ""),), HISTORIES
    ),
}
