"""A thread: each message is a state of its own, and then a part of the next state."""

from __future__ import annotations

import random
import string
from functools import partial
from typing import TYPE_CHECKING, Any

import orjson

from milepost.journal.commands import saving
from milepost.journal.commands.saving import Draft
from milepost.journal.states import line_codec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from milepost import CheckpointManager
    from milepost.journal.index.job_view import JobView
    from milepost.journal.states.delta import Link
    from milepost.journal.states.packer import Packed

JOB = "thread"
TYPE = {"state_type": "msgpack"}
# As text, a compressed message is longer than a plain one.
_LETTERS = string.ascii_letters + string.digits + "!#$%&()*+,-./:;<=>?@[]^_{|}~"


def messages_since(view: JobView, base: Link) -> Sequence[int]:
    """Return the messages after a state."""
    return [e.seq for e in view.checkpoints.after(base.seq) if e.labels.is_aside]


class Thread:
    """The writer of a thread.  Its messages are checkpoints aside.

    Args:
        manager: the store.
        job_id: the job that has the thread.
        typed: `TYPE` for states that no reader takes for JSON.
        window: how many of the last messages a state has; all by default.
        seed: of the messages.

    Attributes:
        states: by checkpoint.
    """

    def __init__(
        self,
        manager: CheckpointManager,
        job_id: str = JOB,
        typed: dict[str, str] | None = None,
        window: int = 0,
        seed: int = 3,
    ) -> None:
        self.manager = manager
        self.states: dict[str, dict[str, Any]] = {}
        self._job_id = job_id
        self._window = window
        self._typed = {} if typed is None else typed
        self._messages: list[str] = []
        self._random = random.Random(seed)

    def say(self, size_bytes: int = 700) -> str:
        """Append a message of random letters."""
        text = "".join(self._random.choices(_LETTERS, k=size_bytes))
        self._messages.append(text)
        state = {"message": text}
        packer = self.manager._packer
        packed = packer.whole(orjson.dumps(state), is_json=not self._typed)
        return self.save(state, packed, aside=True)

    def put(self) -> str:
        """Append the state that has the messages."""
        return self.save(*self.packed())

    def packed(self) -> tuple[dict[str, Any], Packed]:
        """Return the state that has the messages, and the form to store it in."""
        state = {"messages": self._messages[-self._window :]}
        reader = self.manager._reader
        view = reader.view(self._job_id)
        states = [e for e in view.checkpoints.after(0) if not e.labels.is_aside]
        packed = self.manager._packer.pack(
            view,
            orjson.dumps(state),
            reader.read,
            bases=states[-1:],
            plus=messages_since,
            is_json=not self._typed,
        )
        return state, packed

    def save(self, state: dict[str, Any], packed: Packed, **data: Any) -> str:
        """Append a state in a form."""
        raw = orjson.dumps(state)
        reader, packer = self.manager._reader, self.manager._packer
        key = reader.vault.key
        encoded = line_codec.encode_state(raw, None, packed.body, key=key)
        data |= {"checkpoint_id": "", "step_name": "s", **self._typed}
        data |= {"state_digest": encoded.digest, "state_bytes": len(raw)}
        draft = Draft(data, raw, packed, encoded)
        save = partial(saving.save, draft=draft, packer=packer, expected_seq=None)
        request = partial(save, is_saved_as=reader.is_saved_as, actor="test")
        saved = self.manager._store.write(self._job_id, request)
        self.states[saved.checkpoint_id] = state
        return saving.remember(packer, draft, saved)
