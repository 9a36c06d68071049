"""Checksums of what is not a page: log records, the head and the checkpoint.

Records are chained: each one's sum covers the sum before it, the first one's that of the
checkpoint.  The head holds the newest record's number and sum.  So a record that is missing,
changed, out of its place, or from another history is found, the last one too.
"""

from __future__ import annotations

import struct
import zlib
from typing import NamedTuple

_RECORD = struct.Struct("<4sQQI")
_HEAD = struct.Struct("<4sQQI")
_CHECKPOINT = struct.Struct("<4sQIQ")
_DOOM = struct.Struct("<4sQ")


class Head(NamedTuple):
    """The newest term, the newest commit's number, and its sum."""

    term: int
    number: int
    chain: int

    def crc(self) -> int:
        """What stands beside it in the store."""
        return zlib.crc32(_HEAD.pack(b"head", *self))


class Checkpoint(NamedTuple):
    """The newest commit it includes, that one's sum, how many pages it has, its root."""

    number: int
    chain: int
    pages: int
    root: bytes

    def crc(self) -> int:
        """What stands beside it in the store."""
        fixed = _CHECKPOINT.pack(b"chkp", self.number, self.chain, self.pages)
        return zlib.crc32(self.root, zlib.crc32(fixed))


def chain(previous: int, term: int, number: int, body: bytes) -> int:
    """The sum of a record that follows one with the sum `previous`."""
    return zlib.crc32(body, zlib.crc32(_RECORD.pack(b"recd", term, number, previous)))


def doom(page_id: int) -> int:
    """The sum of a doomed page's id: nothing is deleted on the word of a flipped bit."""
    return zlib.crc32(_DOOM.pack(b"doom", page_id))
