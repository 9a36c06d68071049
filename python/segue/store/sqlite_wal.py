"""Damage in SQLite's write-ahead log that SQLite itself takes for its end.

SQLite reads a WAL up to the first frame whose checksum fails and drops the rest without a word:
right after a power loss, wrong after a flipped bit, since committed transactions vanish (promise
P7).  The two can be told apart: with ``synchronous=FULL`` a transaction's frames are written only
after the transaction before was synced.  So a bad frame is damage if a frame of a *later*
transaction of the same WAL exists.  Not seen here: damage within the last transaction, which looks
like its tear; an older table is what that leaves, and the stamps of containers tell.

Format: https://www.sqlite.org/fileformat2.html, section 4.
"""

from __future__ import annotations

import struct
import sys
from array import array
from pathlib import Path
from typing import NamedTuple

_HEADER = struct.Struct(">8I")
_FRAME = struct.Struct(">6I")
_MAGIC = 0x377F0682  # the lowest bit says that checksums are over big-endian words


class _Frame(NamedTuple):
    page: int
    pages_after: int  # not 0: the last frame of a transaction
    salts: tuple[int, int]
    sums: tuple[int, int]


def _sum(data: bytes, big_endian: bool, start: tuple[int, int]) -> tuple[int, int]:
    words = array("I", data)
    if big_endian != (sys.byteorder == "big"):
        words.byteswap()
    first, second = start
    for i in range(0, len(words), 2):
        first = (first + words[i] + second) & 0xFFFFFFFF
        second = (second + words[i + 1] + first) & 0xFFFFFFFF
    return first, second


def wal_damage(path: str) -> str | None:
    """What is wrong with the WAL at `path`, or None; nobody may have it open for writing."""
    try:
        return damage_in(path, Path(path).read_bytes())
    except FileNotFoundError:
        return None


def damage_in(path: str, data: bytes) -> str | None:
    """What is wrong with `data`, the bytes of the WAL at `path`, or None."""
    if len(data) <= _HEADER.size:
        return None
    magic, _, page_bytes, _, salt_1, salt_2, *sums = _HEADER.unpack_from(data)
    big_endian = bool(magic & 1)
    running = _sum(data[:24], big_endian, (0, 0))
    # The header is synced before the first frame is written.
    if magic & ~1 != _MAGIC or running != tuple(sums):
        return f"{path}: header is damaged"
    frames = _frames(data, page_bytes)
    for number, frame in enumerate(frames):
        at = _HEADER.size + number * (_FRAME.size + page_bytes)
        running = _sum(data[at : at + 8], big_endian, running)
        running = _sum(data[at + _FRAME.size :][:page_bytes], big_endian, running)
        if frame.salts != (salt_1, salt_2) or frame.sums != running:
            if _later_transaction(frames, number, (salt_1, salt_2)):
                return f"{path}: frame {number + 1} (database page {frame.page}) is damaged"
            return None
    return None


def _frames(data: bytes, page_bytes: int) -> list[_Frame]:
    step = _FRAME.size + page_bytes
    found = []
    for at in range(_HEADER.size, len(data) - step + 1, step):
        page, after, salt_1, salt_2, sum_1, sum_2 = _FRAME.unpack_from(data, at)
        found.append(_Frame(page, after, (salt_1, salt_2), (sum_1, sum_2)))
    return found


def _later_transaction(frames: list[_Frame], bad: int, salts: tuple[int, int]) -> bool:
    """Whether a frame of this WAL follows the end of the transaction that `bad` belongs to."""
    ended = False
    for frame in frames[bad:]:
        # What an earlier round of the WAL left has neither salt; a flipped bit leaves one.
        ours = frame.salts[0] == salts[0] or frame.salts[1] == salts[1]
        if ours and ended:
            return True
        ended = ours and (ended or frame.pages_after != 0)
    return False
