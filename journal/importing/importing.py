"""Import a folder with one JSON file per checkpoint."""

from __future__ import annotations

from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple

from milepost.journal.errors import InvalidArgument, MilepostError, StorageFailed
from milepost.journal.events.vocabulary import DEFAULT_WORKFLOW_VERSION
from milepost.journal.importing import checkpoint_folder
from milepost.journal.importing.checkpoint_folder import Unusable
from milepost.journal.index.content import Content, fields_of
from milepost.journal.states import json_states, line_codec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from milepost.journal.batch import Batch
    from milepost.journal.importing.checkpoint_folder import CheckpointFile, Folder
    from milepost.journal.index.entries import Entry
    from milepost.journal.index.job_view import JobView
    from milepost.journal.states.access import Vault
    from milepost.journal.states.json_states import Limits
    from milepost.journal.states.line_codec import EncodedState
    from milepost.journal.states.packer import Packer
    from milepost.journal.store.store import Store

    IsSavedAs = Callable[[JobView, Entry, Content], bool]

_MAX_BATCH = 256
_MAX_BATCH_BYTES = 4 * 1024 * 1024


class FileNote(NamedTuple):
    """A note about a file or a folder."""

    path: str
    text: str


class ImportedJob(NamedTuple):
    """The result for one job.

    `imported` counts new checkpoints; `known` those that already exist or were deleted.
    """

    job_id: str
    imported: int
    known: int


class Imported(NamedTuple):
    """The result of an import, or of its dry run.

    Attributes:
        jobs: in the order of their folders.
        skipped: files that were not imported, with reasons.
        remarks: files that were imported with differences.
    """

    jobs: tuple[ImportedJob, ...]
    skipped: tuple[FileNote, ...]
    remarks: tuple[FileNote, ...]

    @property
    def imported(self) -> int:
        """Number of imported checkpoints."""
        return sum(job.imported for job in self.jobs)


class _Dated(NamedTuple):
    """A file that can be imported, sorted by its time."""

    job_id: str
    saved_at: str
    checkpoint_id: str
    name: str


class _Ready(NamedTuple):
    """A checkpoint ready to be encoded; `data` lacks the fields of its state."""

    saved_at: str
    data: dict[str, Any]
    raw: bytes
    metadata: dict[str, Any]


class Importer:
    """One import of one folder."""

    def __init__(
        self,
        store: Store,
        packer: Packer,
        vault: Vault,
        limits: Limits,
        is_saved_as: IsSavedAs,
        actor: str,
        *,
        dry_run: bool,
    ) -> None:
        self._store = store
        self._packer = packer
        self._vault = vault
        self._limits = limits
        self._is_saved_as = is_saved_as
        self._actor = actor
        self._dry_run = dry_run
        self._jobs: list[ImportedJob] = []
        self._skipped: list[FileNote] = []
        self._remarks: list[FileNote] = []

    def run(self, root: Path) -> Imported:
        """Import everything below `root`, one job after another.

        Raises:
            InvalidArgument: `root` is not a folder.
            StorageFailed: a write failed; earlier writes are kept.
        """
        if not root.is_dir():
            raise InvalidArgument(f"{root} is not a folder")
        for folder in checkpoint_folder.folders(root):
            for name, why in folder.others:
                self._skipped.append(FileNote(str(folder.path / name), why))
            for job_id, dated in groupby(self._dated(folder), attrgetter("job_id")):
                self._take_job(folder, job_id, [*dated])
        return Imported((*self._jobs,), (*self._skipped,), (*self._remarks,))

    def _dated(self, folder: Folder) -> list[_Dated]:
        """Return a folder's files by job and time, without their content."""
        found = []
        for name in folder.files:
            if (file := self._read(folder, name)) is not None:
                found.append(_Dated(file.job_id, file.saved_at, file[0], name))
                if file.remark:
                    self._remarks.append(FileNote(str(folder.path / name), file.remark))
        return sorted(found)

    def _read(self, folder: Folder, name: str) -> CheckpointFile | None:
        try:
            return checkpoint_folder.read(folder, name)
        except Unusable as exc:
            self._skip(folder, name, exc)
            return None

    def _skip(self, folder: Folder, name: str, why: object) -> None:
        self._skipped.append(FileNote(str(folder.path / name), str(why)))

    def _take_job(self, folder: Folder, job_id: str, dated: list[_Dated]) -> None:
        imported, known = 0, 0
        try:
            view = self._store.readable(job_id)
            gone = self._gone(view, dated)
            known = len(gone)
            known += sum(self._is_known(folder, view, each) for each in dated)
            new = [
                each.name
                for each in dated
                if each.checkpoint_id not in gone
                and each.checkpoint_id not in view.checkpoints
            ]
            for batch in _batches(self._ready(folder, name) for name in new):
                imported += len(batch) if self._dry_run else self._write(job_id, batch)
        except StorageFailed:
            raise
        except MilepostError as exc:  # must not stop other jobs (I10)
            self._skipped.append(FileNote(str(folder.path), str(exc)))
        self._jobs.append(ImportedJob(job_id, imported, known))

    def _gone(self, view: JobView, dated: list[_Dated]) -> set[str]:
        """Return the ids that were saved before and are not live any more."""
        ids = (each.checkpoint_id for each in dated)
        asked = {each for each in ids if each not in view.checkpoints}
        if view.seq == 0 or not asked:
            return set()
        saved = (
            event["data"]["checkpoint_id"]
            for event in self._store.history(view, 0)
            if event["type"] == "checkpoint.saved"
        )
        return asked.intersection(saved)

    def _is_known(self, folder: Folder, view: JobView, dated: _Dated) -> bool:
        """Return whether a checkpoint is already live with the same content."""
        entry = view.checkpoints.get(dated.checkpoint_id)
        if entry is None or (ready := self._ready(folder, dated.name)) is None:
            return False
        metadata = json_states.metadata_json(ready.metadata)
        content = Content(fields_of(ready.data), ready.raw, metadata)
        if self._is_saved_as(view, entry, content):
            return True
        why = f"job {view.job_id!r} has a checkpoint of this id with other content"
        self._skip(folder, dated.name, why)
        return False

    def _ready(self, folder: Folder, name: str) -> _Ready | None:
        """Read a file again; return None if it is skipped."""
        if (file := self._read(folder, name)) is None:
            return None
        try:
            raw = json_states.to_json(file.state, self._limits)
            json_states.metadata_json(file.metadata)
        except MilepostError as exc:
            self._skip(folder, name, f"{exc} ({exc.hint})" if exc.hint else exc)
            return None
        data: dict[str, Any] = {
            "checkpoint_id": file.checkpoint_id,
            "step_name": file.step_name,
            "workflow_version": file.workflow_version or DEFAULT_WORKFLOW_VERSION,
            "saved_at": file.saved_at,
        }
        if file.workflow_name is not None:
            data["workflow_name"] = file.workflow_name
        return _Ready(file.saved_at, data, raw, file.metadata)

    def _write(self, job_id: str, ready: list[_Ready]) -> int:
        """Save checkpoints in one atomic write."""
        encoded = [self._encoded(each) for each in ready]

        def request(batch: Batch) -> int:
            batch.claim()
            view, written = batch.view, 0
            current = view.current
            for each, state in zip(ready, encoded, strict=True):
                checkpoint_id = each.data["checkpoint_id"]
                if checkpoint_id in view.checkpoints or checkpoint_id in view.trash:
                    continue  # another process imports the same folder
                data = each.data | {
                    "parent": batch.current,
                    "state_digest": state.digest,
                    "state_bytes": state.raw_bytes,
                }
                if state.metadata:
                    data["has_metadata"] = True
                batch.current = batch.add("checkpoint.saved", self._actor, data, state)
                written += 1
            # The job's current checkpoint is never replaced by an older one.
            if written and current is not None and current.at > ready[-1].saved_at:
                last = ready[-1].data["checkpoint_id"]
                data = {"checkpoint_id": current.checkpoint_id, "previous": last}
                batch.add("checkpoint.restored", self._actor, data)
            return written

        written: int = self._store.write(job_id, request)
        return written

    def _encoded(self, ready: _Ready) -> EncodedState:
        body = self._packer.whole(ready.raw).body
        return line_codec.encode_state(
            ready.raw, ready.metadata, body, key=self._vault.key
        )


def _batches(ready: Iterable[_Ready | None]) -> Iterator[list[_Ready]]:
    """Group checkpoints into writes of bounded size."""
    batch: list[_Ready] = []
    size_bytes = 0
    for each in ready:
        if each is None:
            continue
        batch.append(each)
        size_bytes += len(each.raw)
        if len(batch) >= _MAX_BATCH or size_bytes >= _MAX_BATCH_BYTES:
            yield batch
            batch, size_bytes = [], 0
    if batch:
        yield batch
