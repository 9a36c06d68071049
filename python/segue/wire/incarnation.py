"""An agent's incarnation: 61 bits, of which the upper 29 say where it began (section 4).

A *place* is one agent's name on one machine between two of its boots, and at most one process has
it at a time: it is bound to a socket name that the kernel gives back when the last thread of that
process has ended.  So where an incarnation of the same name and place has begun, every earlier one
has ended, and answers nothing any more, whatever its lease says.  A process that finds its place
taken draws one that is nobody's: nothing is known of others then.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import socket

INCARNATION_BITS = 61
_NUMBER_BITS = 32
_PLACE_BITS = INCARNATION_BITS - _NUMBER_BITS
_BOOT_ID = "/proc/sys/kernel/random/boot_id"
_NAMESPACE = "/proc/self/ns/net"


class Place:
    """The place of this process as an agent of that name, kept until the process ends."""

    def __init__(self, name: str, controller: str) -> None:
        with open(_BOOT_ID) as file:
            words = (file.read().strip(), str(os.stat(_NAMESPACE).st_ino), controller, name)
        digest = hashlib.sha256("\0".join(words).encode()).digest()
        taken = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            taken.bind(f"\0segue-agent-{digest.hex()}")
        except OSError:
            taken.close()
            self.is_own = False
            self._bits = secrets.randbits(_PLACE_BITS)
        else:
            taken.detach()  # nothing but the end of the process closes it
            self.is_own = True
            self._bits = int.from_bytes(digest) % (1 << _PLACE_BITS)

    def incarnation(self) -> int:
        """Of a process that begins here."""
        return begun_at(self._bits, secrets.randbits(_NUMBER_BITS))


def begun_at(place: int, number: int) -> int:
    """The incarnation of that place (29 bits) and number (32 bits); never 0."""
    return place << _NUMBER_BITS | number or 1


def same_place(one: int, other: int) -> bool:
    """Whether two incarnations of one name began at the same place, and one has ended therefore."""
    return one >> _NUMBER_BITS == other >> _NUMBER_BITS
