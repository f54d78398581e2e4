"""What a store's keys allow: which states are read, and what new ones are written with.

A store without keys has a vault too; it opens what is not encrypted.
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
    from milepost.journal.events.vocabulary import StatefulData
    from milepost.journal.states.line_codec import Header, Parts


_TEXTS = ("checkpoint_id", "state_digest", "state_type")


class Vault(NamedTuple):
    """The keys at hand, and whether states that are not encrypted are believed.

    Whoever may write to the folder can put a plain state there, and an event that fits.
    So with keys, only what they authenticate is read, unless `allow_plaintext`.  What
    they say of a state's size is believed up to `max_state_bytes`.
    """

    keys: KeyRing | None = None
    allow_plaintext: bool = False
    max_state_bytes: int = Limits().max_bytes

    @property
    def key(self) -> Key | None:
        """What new states are encrypted with, None if they are not."""
        return None if self.keys is None else self.keys.current

    @property
    def key_id(self) -> str:
        """The id of `key`, empty if there is none: as `Parts.key_id`."""
        return "" if self.keys is None else self.keys.current.key_id

    def check(self, data: StatefulData, seq: int) -> None:
        """Refuse an event that says of its state what cannot be, or too much.

        Raises:
            UnreadableState: it does.
            StateOverBound: the state has more than `max_state_bytes`.
        """
        fields: object = data  # as they stand in the journal, whoever wrote it
        if not isinstance(fields, dict):
            fields = {}
        size, texts = fields.get("state_bytes"), [fields.get(n, "") for n in _TEXTS]
        is_text = all(isinstance(text, str) for text in texts)
        if type(size) is not int or size < 0 or not is_text:
            raise UnreadableState(f"event {seq} does not say what its state is")
        if size > self.max_state_bytes:
            most = f"{self.max_state_bytes:,}"
            raise StateOverBound(
                f"state {seq} has {size:,} bytes, more than the {most} that may be read"
            )

    def opened(self, parts: Parts, address: StateAddress, raw_bytes: int) -> Parts:
        """Return the parts of a state line in the clear.

        Args:
            parts: as `state_codec.read_line` gives them.
            address: whose it is.
            raw_bytes: of the state, as its event says.

        Raises:
            MissingKey: encrypted with a key that is not at hand.
            PlaintextRefused: not encrypted, and it had to be.
            UnreadableState: it is not what was written there.
        """
        key = self._key_of(parts.key_id, address.seq)
        if key is None:
            return parts
        return line_codec.decrypted(parts, key, address, raw_bytes)

    def metadata(self, header: Header, text: bytes, address: StateAddress) -> bytes:
        """Return in the clear what stands on a state line as its metadata.

        Raises:
            MissingKey, PlaintextRefused, UnreadableState: as `opened`.
        """
        key = self._key_of(header.key_id, address.seq)
        if key is None:
            return text
        return line_codec.metadata_of(header, text, key, address)

    def rewrap(self, line: bytes, address: StateAddress) -> bytes:
        """Return a state line under the current key; its ciphertext stays as it is.

        A line that is there already, or is not encrypted, or whose key is not at hand,
        is returned as it is: it can be copied, and no more.

        Args:
            line: without its newline.
            address: whose it is.

        Raises:
            UnreadableState, NewerFormat: it is not what was written there.
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
                held = "there are no keys" if self.keys is None else "it is not there"
                raise MissingKey(
                    f"state {seq} is encrypted with key {key_id!r}, and {held}", key_id
                )
            return key
        if self.keys is not None and not self.allow_plaintext:
            raise PlaintextRefused(f"state {seq} is not encrypted")
        return None
