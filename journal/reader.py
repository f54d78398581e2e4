"""The reading half of the public face: it asks, and never writes to a journal."""

from __future__ import annotations

import fnmatch
import socket
import sys
import threading
from collections import Counter
from datetime import datetime
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeVar

import orjson

from journal import (
    chain,
    collector,
    examination,
    ids,
    planner,
    retention,
    state_codec,
    state_json,
)
from journal import diff as state_diff
from journal.clock import utc_now
from journal.errors import (
    DamagedJournal,
    InvalidArgument,
    MilepostError,
    MissingKey,
    NewerFormat,
    PlaintextRefused,
    StorageFailed,
    UnknownCheckpoint,
    UnreadableState,
)
from journal.event_codec import STATE_MISSING, peek
from journal.info import Checkpoint, CheckpointInfo, Hold, JobInfo, JobReport
from journal.migrations import Migrated, Migrations
from journal.packer import Codec, Packer
from journal.planner import moment
from journal.plans import plan_of
from journal.policies import Policies
from journal.repair import counted
from journal.state_codec import Header
from journal.state_json import Limits
from journal.state_proof import Opened
from journal.storage_file import FileStorage
from journal.store import Store
from journal.vault import Vault

if TYPE_CHECKING:
    import builtins
    from collections.abc import Callable, Collection, Iterable, Sequence

    from journal.chain import Member
    from journal.diagnosis import Diagnosis
    from journal.diff import Change
    from journal.events import CheckpointSaved, Event
    from journal.index import Entry, JobView
    from journal.journal_file import Durability
    from journal.keep_rules import Candidate
    from journal.keys import KeyRing
    from journal.migrations import Migrate
    from journal.plans import Plan
    from journal.policy import Policy
    from journal.retention import Decision, Ruling
    from journal.storage import Storage
    from journal.store import OnPiece


_T = TypeVar("_T")


def _quietly(done: int, total: int) -> None:
    """Tell nobody about progress."""


class _Decided(NamedTuple):
    """What is to become of one job, and what was looked at."""

    view: JobView
    decision: Decision
    policy: Policy


class CheckpointReader:
    """Answers questions about jobs in a folder, or in any other `Storage`.

    Safe for many threads, and for many processes of one machine on one folder.
    Nothing is read or made before the first call.

    Args:
        root: the folder.  `storage_dir` and `storage_path` mean the same.
        storage: instead of a folder.
        durability: ``always``: what was answered survives a power cut.  ``interval``:
            it does after `interval_seconds`.  ``never``: the operating system decides.
        interval_seconds: see `durability`.
        max_state_bytes: of a state's JSON.
        max_depth: levels of nesting in a state, at most 250.
        lock_timeout_seconds: how long to wait while another process writes to a job.
        trash_seconds: how long a deleted checkpoint can be undeleted.
        policies: which job has which retention policy; nothing is removed by them but
            through `plan` and `apply`.  By default everything is kept.
        codec: how new states are stored.  ``auto``: as what differs from an earlier
            one where that is shorter; ``zstd``: compressed, each on its own; ``json``:
            as they are.  All are read, whatever this says.
        keys: encrypt states and metadata with the current one; read with any.
        allow_plaintext: with `keys`, also read states that are not encrypted.
        actor: who this is, in the journal; ``lib:<program>@<host>`` unless given.
        clock: gives the time.

    Raises:
        InvalidArgument: no folder or more than one, or a number out of bounds.
    """

    def __init__(
        self,
        root: str | Path | None = None,
        *,
        storage_dir: str | Path | None = None,
        storage_path: str | Path | None = None,
        storage: Storage | None = None,
        durability: Durability = "always",
        interval_seconds: float = 0.2,
        max_state_bytes: int = 16 * 1024 * 1024,
        max_depth: int = 200,
        lock_timeout_seconds: float = 30.0,
        trash_seconds: float = 7 * 86400.0,
        policies: Policies = Policies(),  # noqa: B008 - immutable
        codec: Codec = "auto",
        keys: KeyRing | None = None,
        allow_plaintext: bool = False,
        actor: str | None = None,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        given = [p for p in (root, storage_dir, storage_path) if p is not None]
        if len(given) + (storage is not None) != 1:
            raise InvalidArgument("give one folder, or one storage")
        if durability not in ("always", "interval", "never"):
            raise InvalidArgument(
                f"durability must be always, interval or never, got {durability!r}"
            )
        if codec not in ("auto", "json", "zstd"):
            raise InvalidArgument(f"codec must be auto, json or zstd, got {codec!r}")
        if not 1 <= max_depth <= state_json.DEPTH_LIMIT:
            raise InvalidArgument(
                f"max_depth must be 1 to {state_json.DEPTH_LIMIT}, got {max_depth!r}"
            )
        self.root = Path(given[0]) if given else None
        self.trash_seconds = trash_seconds
        self.policies = policies
        self._limits = Limits(max_state_bytes, max_depth)
        self._actor = _default_actor() if actor is None else actor
        ids.check_label("actor", self._actor)
        self._clock = clock
        if storage is None:
            assert self.root is not None
            storage = FileStorage(
                self.root,
                durability=durability,
                interval_seconds=interval_seconds,
                lock_timeout_seconds=lock_timeout_seconds,
            )
        self._store = Store(storage, clock)
        self._vault = Vault(keys, allow_plaintext)
        self._packer = Packer(codec, self._vault.key_id)
        self._migrations = Migrations()
        self._registering = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Sync what is not synced yet and let go of every file.  Idempotent."""
        self._store.close()
        self._packer.forget()

    def list(self, job_id: str) -> list[CheckpointInfo]:
        """Return the job's checkpoints, oldest first; none for an unknown job.

        Raises:
            InvalidArgument: `job_id` is out of bounds.
            DamagedJournal: the job is quarantined.
        """
        return self._answer(job_id, lambda v: self._infos(v, self._store.live(v)))

    def get(self, job_id: str, checkpoint_id: str) -> Checkpoint:
        """Return a checkpoint with its state, without moving current.

        The state is migrated to the newest version of its workflow, if migrations are
        registered; what is told of the checkpoint is what is stored.

        Raises:
            UnknownCheckpoint, UnreadableState, DamagedJournal: as `restore`.
            NewerState, NoMigration, MigrationFailed: as `restore`.
        """
        info, opened = self._answer(job_id, partial(self._opened, checkpoint_id))
        return Checkpoint(info, self._migrated(info, opened).state)

    def register_migration(
        self, workflow_name: str, from_version: str, to_version: str, migrate: Migrate
    ) -> None:
        """Have `restore` and `get` bring older states of a workflow up to date.

        Migrations follow on each other, from the ``workflow_version`` that a state was
        saved with to the one that none leads on from.  What is stored stays as it is,
        and a workflow without migrations is restored as it was saved.

        Args:
            workflow_name: as it was saved.
            from_version: of the states that `migrate` takes.
            to_version: of those that it returns.
            migrate: takes a state and returns the new one; its answer must depend on
                nothing else.

        Raises:
            InvalidArgument: a second one from `from_version`, a cycle, or two versions
                that none leads on from.
        """
        with self._registering:
            self._migrations.add(workflow_name, from_version, to_version, migrate)

    def find(self, checkpoint_id: str) -> CheckpointInfo:
        """Return the checkpoint of that id, in whichever job it is.

        Raises:
            UnknownCheckpoint: in none; says when and by whom if it was deleted.
        """
        deleted: UnknownCheckpoint | None = None
        for job_id in self._store.known_then_all():
            try:
                view = self._store.readable(job_id)
            except MilepostError:
                continue  # one job's damage is not this checkpoint's
            if checkpoint_id in view.checkpoints:
                return self._answer(job_id, partial(self._one, checkpoint_id))
            if checkpoint_id in view.trash:
                deleted = _unknown(view, checkpoint_id)
        raise deleted or UnknownCheckpoint(checkpoint_id)

    def latest(self, job_id: str) -> CheckpointInfo | None:
        """Return the newest checkpoint, None if there is none.

        Raises:
            DamagedJournal: the job is quarantined; never an older one instead.
        """
        return self._answer(job_id, lambda view: self._info_of(view, view.latest))

    def current(self, job_id: str) -> CheckpointInfo | None:
        """Return the checkpoint that a resumed job continues from.

        A save moves it forward, a restore moves it back.

        Raises:
            DamagedJournal: the job is quarantined.
        """
        return self._answer(job_id, lambda view: self._info_of(view, view.current))

    def page(
        self, job_id: str, *, limit: int, after_seq: int = 0
    ) -> builtins.list[CheckpointInfo]:
        """Return up to `limit` checkpoints saved after event `after_seq`.

        Raises:
            InvalidArgument, DamagedJournal: as `list`.
        """
        _check_limit(limit)

        def ask(view: JobView) -> builtins.list[CheckpointInfo]:
            later = (e for e in self._store.live(view) if e.seq > after_seq)
            return self._infos(view, [*islice(later, limit)])

        return self._answer(job_id, ask)

    def seq(self, job_id: str) -> int:
        """Return the number of the job's last event, 0 for an unknown job.

        Raises:
            InvalidArgument, DamagedJournal: as `list`.
        """
        return self._store.view(ids.check_job_id(job_id)).seq

    def job_ids(self) -> builtins.list[str]:
        """Return the ids of all jobs, sorted; `jobs` reads their journals besides."""
        return self._store.storage.job_ids()

    def jobs(
        self,
        *,
        match: str | None = None,
        limit: int | None = None,
        after: str | None = None,
    ) -> builtins.list[JobInfo]:
        """Return the jobs, sorted by id, damaged ones included.

        Args:
            match: a glob pattern for ids, upper and lower case told apart.
            limit: at most so many.
            after: only ids that sort behind this one.
        """
        found: builtins.list[JobInfo] = []
        with collector.at_rest():
            for job_id in self._store.storage.job_ids():
                if after is not None and job_id <= after:
                    continue
                if match is not None and not fnmatch.fnmatchcase(job_id, match):
                    continue
                if limit is not None and len(found) >= limit:
                    break
                info = self.job(job_id)
                if info is not None:
                    found.append(info)
        return found

    def job(self, job_id: str) -> JobInfo | None:
        """Return what is known of one job, None if it does not exist.

        Raises:
            InvalidArgument: `job_id` is out of bounds.
        """
        ids.check_job_id(job_id)
        try:
            view = self._store.readable(job_id)
            return None if view.seq == 0 else _job_info(view)
        except MilepostError as exc:
            return JobInfo(job_id, damage=exc)

    def history(
        self,
        job_id: str,
        *,
        after_seq: int = 0,
        types: Collection[str] | None = None,
        limit: int | None = None,
        reverse: bool = False,
    ) -> builtins.list[Event]:
        """Return the job's events, verified, oldest first or newest first.

        Args:
            job_id: an unknown job has none.
            after_seq: only events behind this one.
            types: only events of these types.
            limit: at most so many.
            reverse: newest first.

        Raises:
            DamagedJournal: the job is quarantined.
        """
        _check_limit(limit)
        ids.check_job_id(job_id)
        read = self._store.newest_first if reverse else self._store.history

        def ask(view: JobView) -> builtins.list[Event]:
            events = read(view, after_seq)
            wanted = (e for e in events if types is None or e["type"] in types)
            return [*islice(wanted, limit)]

        return self._answer(job_id, ask, self._store.view)

    def state_at(self, job_id: str, seq: int) -> dict[str, Any] | None:
        """Return the state that was current right after event `seq`, if there was one.

        As it was then: it is not migrated.

        Raises:
            InvalidArgument: there is no such event.
            UnreadableState: its bytes are gone or not what was saved.
            DamagedJournal: the job is quarantined.
        """
        known = self._view(job_id)
        if not 1 <= seq <= known.seq:
            raise InvalidArgument(f"job {job_id!r} has events 1 to {known.seq}: {seq}")

        def ask(_: JobView) -> dict[str, Any] | None:
            view = self._store.replay(job_id, until_seq=seq)
            if view.current is None:
                return None
            return self._open(view, view.current).state

        return self._answer(job_id, ask)

    def diff(self, job_id: str, a: str, b: str) -> builtins.list[Change]:
        """Return the changes that lead from checkpoint `a`'s state to `b`'s.

        Both as `get` returns them.

        Raises:
            UnknownCheckpoint, UnreadableState, DamagedJournal: as `restore`.
        """
        return state_diff.diff(self.get(job_id, a).state, self.get(job_id, b).state)

    def verify(
        self,
        job_id: str | None = None,
        *,
        deep: bool = False,
        on_piece: OnPiece | None = None,
    ) -> builtins.list[JobReport]:
        """Check one job, or all, from the first byte; damage is reported, not raised.

        Args:
            job_id: which; every job if not given.  No report of an unknown one.
            deep: check the digest of every live state as well; a note says how many
                could not be, because their key is not at hand.
            on_piece: called between pieces of a journal with the bytes that were read
                since; what it raises ends the verification.
        """
        if job_id is not None:
            report = self._verify(ids.check_job_id(job_id), deep, on_piece)
            return [report] if report.events or not report.ok else []
        jobs = self._store.storage.job_ids()
        return [self._verify(job, deep, on_piece) for job in jobs]

    def _verify(self, job_id: str, deep: bool, on_piece: OnPiece | None) -> JobReport:
        def ask(known: JobView) -> tuple[JobView, Counter[str]]:
            view = self._store.replay(job_id, until_seq=known.seq, on_piece=on_piece)
            if view.newer_seq:
                self._store.readable(job_id)
            return view, self._check_states(view, deep, on_piece)

        try:
            view, locked = self._answer(job_id, ask, self._store.view)
        except MilepostError as exc:
            return JobReport(job_id, False, 0, 0, None, exc, ())
        notes: builtins.list[str] = []
        notes += (
            f"a repair gave up {counted(lost, 'event')}, as event {seq} says"
            for seq, lost in view.losses
        )
        if view.side_files:
            kept = counted(len(view.side_files), "run")
            notes.append(f"{kept} of bytes that were cut are in side/")
        notes += (
            f"{count} states were not checked: their key {key_id!r} is not at hand"
            for key_id, count in locked.items()
        )
        live = len(view.checkpoints)
        return JobReport(job_id, True, view.seq, live, view.hash, None, tuple(notes))

    def _check_states(
        self, view: JobView, deep: bool, on_piece: OnPiece | None
    ) -> Counter[str]:
        """Check live states; return how many could not be, by the key they need."""
        locked: Counter[str] = Counter()
        for entry in view.checkpoints.values():
            if deep or entry.seq in view.faults:
                try:
                    self._open(view, entry)
                except MissingKey as exc:
                    locked[exc.key_id] += 1
                if on_piece is not None:
                    on_piece(view.places[entry.seq].size)
        return locked

    def diagnose(
        self, job_id: str | None = None, *, deep: bool = False
    ) -> builtins.list[Diagnosis]:
        """Say what is wrong with one job, or all, how much is safe, and what to do.

        Reads every event and changes nothing: not even a torn tail is settled.
        Whatever is wrong is reported, not raised.

        Args:
            job_id: which; every job if not given.  None of an unknown one.
            deep: read every live state as well, not only its checksum.

        Raises:
            InvalidArgument: `job_id` is out of bounds.
            StorageFailed: the jobs cannot be listed.
        """
        storage = self._store.storage
        jobs = storage.job_ids() if job_id is None else [ids.check_job_id(job_id)]
        found = (
            examination.diagnose(storage, job, self._vault, deep=deep) for job in jobs
        )
        return [each for each in found if each.exists]

    def keys_in_use(self, job_id: str | None = None) -> dict[str, int]:
        """Return how many states are under each key, by its id.

        Those of deleted checkpoints count as long as they are there.  What is not
        encrypted counts under an empty id.

        Args:
            job_id: which job's; those of every job if not given.

        Raises:
            DamagedJournal: a job's states cannot be counted.
            UnreadableState, NewerFormat: one of them cannot be told.
        """
        counts: Counter[str] = Counter()
        jobs = self._store.storage.job_ids() if job_id is None else [job_id]
        for job in jobs:
            counts += self._answer(job, self._count_keys)
        return dict(counts)

    def _count_keys(self, view: JobView) -> Counter[str]:
        trashed = [trashed.entry for trashed in [*view.trash.values()]]
        return Counter(
            self._header(view, entry)[0].key_id
            for entry in (*self._store.live(view), *trashed)
            if view.faults.get(entry.seq) != STATE_MISSING
        )

    def plan(
        self,
        jobs: str,
        policy: Policy | None = None,
        *,
        now: datetime | None = None,
        limit: int | None = None,
        max_bytes: int | None = None,
        on_progress: Callable[[int, int], None] = _quietly,
    ) -> Plan:
        """Return what policies would keep and let go, with reasons; change nothing.

        Args:
            jobs: a job's id, or else a glob such as ``"etl-*"``.  Of one job the plan
                has all that stays; of many, only the jobs that lose something.  What
                nothing fits has an empty plan.
            policy: for all of them; if not given, each job's own of `policies`.
            now: what ages are counted from; the manager's clock if not given.
            limit: let at most so many go, of each job the oldest.
            max_bytes: what all these jobs may take together, but those that could not
                be planned.
            on_progress: told how many jobs were looked at, of how many.

        Raises:
            InvalidArgument: `jobs` is neither a job id nor a glob, or a number is
                negative.
            DamagedJournal: the one job is quarantined; of many, the plan says which.
        """
        _check_limit(limit)
        if max_bytes is not None and max_bytes < 0:
            raise InvalidArgument(f"max_bytes must not be negative, got {max_bytes}")
        now = now or self._clock()
        problems: builtins.list[tuple[str, MilepostError]] = []
        with collector.at_rest():
            if self._view(jobs).seq:
                found = [(jobs, self._decided(jobs, policy, now))]
            else:
                found, problems = self._decide_all(
                    jobs, policy, now, on_progress, wants_all=max_bytes is not None
                )
        if max_bytes is not None:
            shrunk = retention.shrink(
                {job: decided.decision for job, decided in found}, max_bytes
            )
            found = [(job, d._replace(decision=shrunk[job])) for job, d in found]
        planned = []
        for job, (view, decision, own) in found:
            plan = planner.job_plan(
                view,
                decision,
                own,
                limit,
                is_approved=self._store.is_approved,
            )
            if plan.remove or job == jobs:
                planned.append(plan)
                limit = None if limit is None else limit - len(plan.remove)
        return plan_of(planned, problems)

    def _decide_all(
        self,
        glob: str,
        policy: Policy | None,
        now: datetime,
        on_progress: Callable[[int, int], None],
        *,
        wants_all: bool,
    ) -> tuple[
        builtins.list[tuple[str, _Decided]], builtins.list[tuple[str, MilepostError]]
    ]:
        """Decide about all jobs that fit `glob`; return what could not be, too.

        Args:
            glob: which.
            policy: for all of them, or None for each its own.
            now: what ages are counted from.
            on_progress: told how many of all jobs were looked at.
            wants_all: also return those that lose nothing.
        """
        found, problems = [], []
        jobs = self._store.storage.job_ids()
        for number, job in enumerate(jobs, start=1):
            on_progress(number, len(jobs))
            if not fnmatch.fnmatchcase(job, glob):
                continue
            try:
                view = self._view(job)
                own = policy or self._policy_of(view)
                if wants_all or retention.may_let_go(own, len(view.checkpoints)):
                    decided = self._decided(job, own, now)
                    if wants_all or decided.decision.remove:
                        found.append((job, decided))
            except MilepostError as exc:
                problems.append((job, exc))
        return found, problems

    def _decided(self, job_id: str, policy: Policy | None, now: datetime) -> _Decided:
        view = self._view(job_id)
        policy = policy or self._policy_of(view)
        decision = retention.decide(self._candidates(view, policy), policy, now)
        return _Decided(view, decision, policy)

    def _policy_of(self, view: JobView) -> Policy:
        is_completed = view.completed_at is not None
        return self.policies.policy_of(view.job_id, is_completed=is_completed)

    def _candidates(self, view: JobView, policy: Policy) -> builtins.list[Candidate]:
        live = self._store.live(view)
        return planner.candidates(view, live, policy, self._metadata)

    def explain(
        self,
        job_id: str,
        checkpoint_id: str,
        policy: Policy | None = None,
        *,
        now: datetime | None = None,
    ) -> tuple[Ruling, ...]:
        """Return what every single rule says about one checkpoint.

        Args:
            job_id: whose.
            checkpoint_id: which.
            policy: if not given, the job's own of `policies`.
            now: what ages are counted from; the manager's clock if not given.

        Raises:
            UnknownCheckpoint: not there, or deleted.
            DamagedJournal: the job is quarantined.
        """
        view = self._view(job_id)
        self._entry(view, checkpoint_id)
        policy = policy or self._policy_of(view)
        return retention.explain(
            self._candidates(view, policy),
            policy,
            now or self._clock(),
            checkpoint_id,
        )

    def refresh(self, job_ids: Iterable[str] | None = None) -> set[str]:
        """Catch up with what other processes wrote; return the jobs that moved.

        Answers never need this, they look by themselves; it makes them prompt.
        """
        moved = set()
        for job_id in self._store.storage.job_ids() if job_ids is None else job_ids:
            before = self._store.folded_seq(job_id)
            try:
                after = self._store.view(job_id).seq
            except MilepostError:
                continue  # its readers are told
            if after != before:
                moved.add(job_id)
        return moved

    # -- inside ----------------------------------------------------------------

    def _view(self, job_id: str) -> JobView:
        return self._store.readable(ids.check_job_id(job_id))

    def _answer(
        self,
        job_id: str,
        ask: Callable[[JobView], _T],
        look: Callable[[str], JobView] | None = None,
    ) -> _T:
        """Ask a job's view; ask again if its journal was compacted meanwhile.

        Then the places that the view knows are those of a file that is gone.
        """
        look = look or self._view
        view = look(job_id)
        while True:
            try:
                return ask(view)
            except (UnreadableState, DamagedJournal, StorageFailed):
                fresh = look(job_id)
                if fresh is view:
                    raise
                view = fresh

    def _one(self, checkpoint_id: str, view: JobView) -> CheckpointInfo:
        return self._infos(view, [self._entry(view, checkpoint_id)])[0]

    def _info_of(self, view: JobView, entry: Entry | None) -> CheckpointInfo | None:
        return None if entry is None else self._infos(view, [entry])[0]

    @staticmethod
    def _entry(view: JobView, checkpoint_id: str) -> Entry:
        entry = view.checkpoints.get(checkpoint_id)
        if entry is None:
            raise _unknown(view, checkpoint_id)
        return entry

    def _event_of(self, view: JobView, entry: Entry) -> CheckpointSaved:
        _, line = self._store.read_pair(view, entry.seq)
        event = peek(line)
        if (
            event is None
            or event["seq"] != entry.seq
            or event["type"] != "checkpoint.saved"
        ):
            raise UnreadableState(
                f"checkpoint {entry.checkpoint_id!r} of job {view.job_id!r}: its event "
                f"at byte {view.places[entry.seq].offset} is not there any more"
            )
        return event

    def _open(self, view: JobView, entry: Entry) -> Opened:
        """Read a state and prove that it is what was saved."""
        if (fault := view.faults.get(entry.seq)) is None:
            try:
                return chain.open_state(entry.seq, partial(self._read, view))
            except UnreadableState as exc:
                raise self._unreadable(view, entry, exc) from exc
        raise self._unreadable(view, entry, UnreadableState(fault))

    def _read(self, view: JobView, seq: int) -> Member:
        """Return save `seq` taken apart and decrypted; see `chain.member`."""
        lines = self._store.read_pair(view, seq)
        return chain.member(lines, view.site(seq), self._vault)

    def _opened(
        self, checkpoint_id: str, view: JobView
    ) -> tuple[CheckpointInfo, Opened]:
        entry = self._entry(view, checkpoint_id)
        opened = self._open(view, entry)
        return _info(view, entry, opened.metadata), opened

    def _migrated(self, info: CheckpointInfo, opened: Opened) -> Migrated:
        return self._migrations.apply(
            opened.state,
            workflow=info.workflow_name,
            version=info.workflow_version,
            checkpoint_id=info.checkpoint_id,
        )

    @staticmethod
    def _unreadable(
        view: JobView, entry: Entry, fault: UnreadableState
    ) -> UnreadableState:
        text = (
            f"checkpoint {entry.checkpoint_id!r} of job {view.job_id!r} cannot be "
            f"read, at byte {view.places[entry.seq].offset}: {fault}"
        )
        match fault:
            case MissingKey():
                return MissingKey(text, fault.key_id)
            case PlaintextRefused():
                return PlaintextRefused(text)
        hint = "no older checkpoint is given instead; choose one yourself"
        return UnreadableState(text, hint=hint)

    def _infos(
        self, view: JobView, entries: Sequence[Entry]
    ) -> builtins.list[CheckpointInfo]:
        return [self._info(view, entry) for entry in entries]

    def _info(self, view: JobView, entry: Entry) -> CheckpointInfo:
        try:
            return _info(view, entry, self._metadata(view, entry))
        except (MissingKey, PlaintextRefused) as exc:
            return _info(view, entry, {})._replace(metadata_problem=exc)

    def _metadata(self, view: JobView, entry: Entry) -> dict[str, Any]:
        if not entry.labels.has_metadata:
            return {}
        if (fault := view.faults.get(entry.seq)) is not None:
            raise self._unreadable(view, entry, UnreadableState(fault))
        try:
            header, raw = self._header(view, entry)
        except NewerFormat:
            return {}  # restoring it will say so
        if header.end > len(raw):
            offset, _ = view.places[entry.seq]
            raw = self._store.storage.read(view.job_id, offset, header.end)
        text = raw[header.start : header.end]
        try:
            text = self._vault.metadata(header, text, view.site(entry.seq))
        except UnreadableState as exc:
            raise self._unreadable(view, entry, exc) from exc
        metadata: dict[str, Any] = orjson.loads(text)
        return metadata

    def _header(self, view: JobView, entry: Entry) -> tuple[Header, bytes]:
        """Return the beginning of a state line, and what it says."""
        offset, size = view.places[entry.seq]
        want = min(size, 2 * state_codec.HEADER_BYTES)
        raw = self._store.storage.read(view.job_id, offset, want)
        return state_codec.read_header(raw, seq=entry.seq), raw


def _default_actor() -> str:
    program = Path(sys.argv[0]).stem if sys.argv and sys.argv[0] else "python"
    return f"lib:{program}@{socket.gethostname()}"


def _info(view: JobView, entry: Entry, metadata: dict[str, Any]) -> CheckpointInfo:
    labels = entry.labels
    return CheckpointInfo(
        entry.checkpoint_id,
        view.job_id,
        entry.step_name,
        moment(entry.at),
        labels.workflow_version,
        labels.workflow_name,
        metadata,
        entry.seq,
        entry.parent_id,
        labels.tags,
        entry.checkpoint_id in view.pinned,
        view.places[entry.seq].size,
        _hold(view, entry),
        failed=labels.is_failed,
    )


def _hold(view: JobView, entry: Entry) -> Hold | None:
    held = view.held.get(entry.checkpoint_id)
    return held and Hold(held.actor, moment(held.at), held.reason)


def _unknown(view: JobView, checkpoint_id: str) -> UnknownCheckpoint:
    trashed = view.trash.get(checkpoint_id)
    if trashed is None:
        return UnknownCheckpoint(checkpoint_id, job_id=view.job_id)
    return UnknownCheckpoint(
        checkpoint_id,
        job_id=view.job_id,
        deleted_at=trashed.at,
        deleted_by=trashed.actor,
    )


def _moment_if(at: str | None) -> datetime | None:
    return None if at is None else moment(at)


def _check_limit(limit: int | None) -> None:
    if limit is not None and limit < 0:
        raise InvalidArgument(f"limit must not be negative, got {limit}")


def _job_info(view: JobView) -> JobInfo:
    return JobInfo(
        view.job_id,
        view.seq,
        len(view.checkpoints),
        view.saved,
        view.deleted,
        view.restored,
        _moment_if(view.created_at),
        _moment_if(view.last_at),
        None if view.current is None else view.current.checkpoint_id,
        None if view.latest is None else view.latest.checkpoint_id,
        view.end,
        completed_at=_moment_if(view.completed_at),
    )
