"""Access to states by key: which may be read, and which key encrypts new ones.

A store without keys has a vault too; it reads unencrypted states.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from milepost.journal.errors import (
    MissingKey,
    PlaintextRefused,
    StateOverBound,
    UnreadableState,
)
from milepost.journal.states import line_codec
from milepost.journal.states.json_states import Limits

if TYPE_CHECKING:
    from milepost.journal.crypto.envelope import StateAddress
    from milepost.journal.crypto.keys import Key, KeyRing
    from milepost.journal.events.envelope import StatefulData
    from milepost.journal.states.line_codec import Header, Parts


_TEXTS = ("checkpoint_id", "state_digest", "state_type")


class Vault(NamedTuple):
    """The keys of a process, and whether it trusts unencrypted states.

    Anyone who can write to the folder can forge a plain state and its event.  So with
    keys, only states that they authenticate are read, unless `allow_plaintext` is set.
    An event's size of a state is trusted up to `max_state_bytes`.
    """

    keys: KeyRing | None = None
    allow_plaintext: bool = False
    max_state_bytes: int = Limits().max_bytes

    @property
    def key(self) -> Key | None:
        """The key that encrypts new states, None if there is none."""
        return None if self.keys is None else self.keys.current

    @property
    def key_id(self) -> str:
        """The id of `key`, empty if there is none; see `Parts.key_id`."""
        return "" if self.keys is None else self.keys.current.key_id

    def check(self, data: StatefulData, seq: int) -> None:
        """Refuse an event whose description of its state is malformed or too large.

        Raises:
            UnreadableState: a field is missing or has the wrong type.
            StateOverBound: the state has more than `max_state_bytes`.
        """
        fields: object = data  # unvalidated: any program may have written the journal
        if not isinstance(fields, dict):
            fields = {}
        size, texts = fields.get("state_bytes"), [fields.get(n, "") for n in _TEXTS]
        is_text = all(isinstance(text, str) for text in texts)
        if type(size) is not int or size < 0 or not is_text:
            raise UnreadableState(f"event {seq} does not describe its state")
        if size > self.max_state_bytes:
            most = f"{self.max_state_bytes:,}"
            raise StateOverBound(
                f"state {seq} has {size:,} bytes, more than the {most} that may be read"
            )

    def opened(self, parts: Parts, address: StateAddress, raw_bytes: int) -> Parts:
        """Return the parts of a state line, decrypted.

        Args:
            parts: as `line_codec.read_line` returns them.
            address: the address of the state.
            raw_bytes: size of the state, from its event.

        Raises:
            MissingKey: the state is encrypted with a key that is not in the ring.
            PlaintextRefused: the state is not encrypted, but must be.
            UnreadableState: the line does not decrypt.
        """
        key = self._key_of(parts.key_id, address.seq)
        if key is None:
            return parts
        return line_codec.decrypted(parts, key, address, raw_bytes)

    def metadata(self, header: Header, text: bytes, address: StateAddress) -> bytes:
        """Return the metadata of a state line, decrypted.

        Raises:
            MissingKey, PlaintextRefused, UnreadableState: as `opened`.
        """
        key = self._key_of(header.key_id, address.seq)
        if key is None:
            return text
        return line_codec.metadata_of(header, text, key, address)

    def rewrap(self, line: bytes, address: StateAddress) -> bytes:
        """Return a state line with its data key wrapped by the current key.

        The ciphertext stays the same.  A line that is under the current key already, is
        not encrypted, or has a key that is not in the ring is returned unchanged.

        Args:
            line: without its newline.
            address: the address of the state.

        Raises:
            UnreadableState, NewerFormat: the line is damaged or of a newer version.
        """
        key_id = line_codec.read_header(line, seq=address.seq).key_id
        old = None if self.keys is None else self.keys.get(key_id)
        if self.keys is None or old is None or old is self.keys.current:
            return line
        return line_codec.rewrapped(line, old, self.keys.current, address)

    def _key_of(self, key_id: str, seq: int) -> Key | None:
        if key_id:
            key = None if self.keys is None else self.keys.get(key_id)
            if key is None:
                why = (
                    "no keys are set" if self.keys is None else "it is not in the ring"
                )
                raise MissingKey(
                    f"state {seq} is encrypted with key {key_id!r}, and {why}", key_id
                )
            return key
        if self.keys is not None and not self.allow_plaintext:
            raise PlaintextRefused(f"state {seq} is not encrypted")
        return None
