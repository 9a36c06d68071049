"""Damage in SQLite's write-ahead log that SQLite itself takes for its end.

SQLite reads a WAL up to the first frame whose checksum fails and drops the rest without a word:
right after a power loss, wrong after a flipped bit, since committed transactions vanish (promise
P7).  The two can be told apart: with ``synchronous=FULL`` a transaction's frames are written only
after the transaction before was synced.  So a bad frame is damage if a frame of a *later*
transaction of the same WAL exists.  Not seen here: damage within the last transaction, which looks
like its tear; an older table is what that leaves, and the stamps of containers tell.

That holds as long as nothing but the last transaction's frames lies behind the ones committed.
`cut_unfinished` takes away what a transaction has left that found no room: behind a shorter one
that is torn later, its frames would pass for damage.

Format: https://www.sqlite.org/fileformat2.html, section 4.
"""

from __future__ import annotations

import os
import struct
import sys
from array import array
from pathlib import Path
from typing import NamedTuple

_HEADER = struct.Struct(">8I")
_FRAME = struct.Struct(">6I")
_SALTS_AT = 16
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


def cut_unfinished(path: str) -> None:
    """Cut off what an unfinished transaction has left behind the last commit of the WAL at `path`.

    For the process that has the store to itself, between two transactions: all commits in it are
    whole then, and SQLite, which keeps their end in memory, goes on there.  Blocking; `OSError`.
    """
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        end = _end_of_commits(fd)
        header = os.pread(fd, _FRAME.size, end)
        salts = os.pread(fd, 8, _SALTS_AT)
        # Whatever else lies there is of an earlier round, and known as such by its salts.
        if end and header[8:16] == salts:
            os.ftruncate(fd, end)
            os.fsync(fd)
    finally:
        os.close(fd)


def _end_of_commits(fd: int) -> int:
    """Where the last whole commit ends; 0 where there is no header."""
    header = os.pread(fd, _HEADER.size, 0)
    if len(header) < _HEADER.size:
        return 0
    magic, _, page_bytes, _, *salts, sum_1, sum_2 = _HEADER.unpack(header)
    step: int = _FRAME.size + page_bytes
    sums = [(sum_1, sum_2)]
    commits = []
    for number in range((os.fstat(fd).st_size - _HEADER.size) // step):
        at = _HEADER.size + number * step
        _, after, salt_1, salt_2, *own = _FRAME.unpack(os.pread(fd, _FRAME.size, at))
        if [salt_1, salt_2] != salts:
            break
        if after:
            commits.append(number)
        sums.append((own[0], own[1]))
    # The last one may be what found no room: its header is there, the page is not.
    for number in reversed(commits):
        at = _HEADER.size + number * step
        data = os.pread(fd, step, at)
        running = _sum(data[:8], bool(magic & 1), sums[number])
        if _sum(data[_FRAME.size :], bool(magic & 1), running) == sums[number + 1]:
            return at + step
    return _HEADER.size


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
