"""How one page of a `PageTree` lies in bytes.

A page is a 24-byte header and a body, little-endian::

    0   4  magic "SgPg"
    4   2  version
    6   1  kind: 1 leaf, 2 directory
    7   1  level: 0 for leaves, 1 for directories of leaves, and so on
    8   8  page id
    16  4  crc32 of everything but these four bytes
    20  4  zero
    24     leaf: 512 words of 8 bytes; directory: 256 child ids of 8 bytes, 256 child crcs of 4

The crc stands in the page and again in its parent's slot (the root's, for the topmost page): the
first finds a damaged page by itself, the second a whole page that is not the one meant, an older
one say.  A page cannot hold id 0; a child id of 0 is a hole: all words below it are 0.

crc32 is zlib's: as strong as crc32c, 2 us a page, and `segue check` needs nothing native.
"""

from __future__ import annotations

import struct
import sys
import zlib
from array import array
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .contract import StoreCorrupt, StoreTooNew

PAGE_VERSION = 1
LEAF_WORDS = 512
FAN_OUT = 256
KIND_LEAF = 1
KIND_DIRECTORY = 2
MAGIC = b"SgPg"
HEADER = struct.Struct("<4sHBBQII")
LEAF_BYTES = HEADER.size + LEAF_WORDS * 8
DIRECTORY_BYTES = HEADER.size + FAN_OUT * 12
_CRC_AT = 16
_HEAD_WORDS = HEADER.size // 8
_LEAF_HEAD = int.from_bytes(struct.pack("<4sHBB", MAGIC, PAGE_VERSION, KIND_LEAF, 0), "little")
Words = npt.NDArray[np.uint64]


class PageHeader(NamedTuple):
    """What a page says of itself."""

    kind: int
    level: int
    page_id: int
    crc: int


def _little(words: array[int]) -> bytes:
    if sys.byteorder == "big":
        words = words[:]
        words.byteswap()
    return words.tobytes()


def _native(typecode: str, data: memoryview) -> array[int]:
    words = array(typecode)
    words.frombytes(data)
    if sys.byteorder == "big":
        words.byteswap()
    return words


def _seal(kind: int, level: int, page_id: int, body: bytes) -> tuple[bytes, int]:
    head = HEADER.pack(MAGIC, PAGE_VERSION, kind, level, page_id, 0, 0)
    crc = zlib.crc32(body, zlib.crc32(head[_CRC_AT + 4 :], zlib.crc32(head[:_CRC_AT])))
    return HEADER.pack(MAGIC, PAGE_VERSION, kind, level, page_id, crc, 0) + body, crc


def encode_leaf(page_id: int, words: array[int]) -> tuple[bytes, int]:
    """Bytes and crc of a leaf of 512 words."""
    return _seal(KIND_LEAF, 0, page_id, _little(words))


def encode_directory(
    page_id: int, level: int, ids: array[int], crcs: array[int]
) -> tuple[bytes, int]:
    """Bytes and crc of a directory: `ids` ('Q') and `crcs` ('I'), 256 of each, 0 for a hole."""
    return _seal(KIND_DIRECTORY, level, page_id, _little(ids) + _little(crcs))


def decode_header(page_id: int, data: bytes) -> PageHeader:
    """Verify a page by itself.

    `StoreCorrupt` names it by `page_id`; `StoreTooNew` for a version that is not known here.
    """
    name = f"page {page_id}"
    if len(data) < HEADER.size:
        raise StoreCorrupt(f"{name}: {len(data)} bytes, too short")
    magic, version, kind, level, own_id, crc, _zero = HEADER.unpack_from(data)
    view = memoryview(data)
    real = zlib.crc32(view[_CRC_AT + 4 :], zlib.crc32(view[:_CRC_AT]))
    if crc != real:
        raise StoreCorrupt(f"{name}: crc {real:08x}, should be {crc:08x}")
    if magic != MAGIC:
        raise StoreCorrupt(f"{name}: not a page")
    if version != PAGE_VERSION:
        raise StoreTooNew(f"{name} has version {version}, this Segue knows {PAGE_VERSION}")
    if own_id != page_id:
        raise StoreCorrupt(f"{name}: holds page {own_id}")
    size = {KIND_LEAF: LEAF_BYTES, KIND_DIRECTORY: DIRECTORY_BYTES}.get(kind)
    if size is None or len(data) != size or (kind == KIND_LEAF) != (level == 0):
        raise StoreCorrupt(f"{name}: kind {kind}, level {level}, {len(data)} bytes")
    return PageHeader(kind, level, own_id, crc)


def decode_leaf(data: bytes) -> array[int]:
    """The words of a verified leaf."""
    return _native("Q", memoryview(data)[HEADER.size :])


def decode_leaves(ids: Sequence[int], crcs: Sequence[int], pages: Sequence[bytes]) -> Words | None:
    """The words of many leaves, one row each, verified in bulk.

    None where one of them is not plainly what its parent says: `decode_header` tells what it is.
    """
    for crc, page in zip(crcs, pages, strict=True):
        if len(page) != LEAF_BYTES or crc != zlib.crc32(
            page[_CRC_AT + 4 :], zlib.crc32(page[:_CRC_AT])
        ):
            return None
    rows = np.frombuffer(b"".join(pages), "<u8").reshape(len(pages), -1)
    heads = np.column_stack([np.full(len(ids), _LEAF_HEAD), ids, crcs]).astype("<u8")
    if not np.array_equal(rows[:, :_HEAD_WORDS], heads):
        return None
    return rows[:, _HEAD_WORDS:].astype(np.uint64)


def decode_directory(data: bytes) -> tuple[array[int], array[int]]:
    """Child ids and child crcs of a verified directory."""
    body = memoryview(data)[HEADER.size :]
    return _native("Q", body[: FAN_OUT * 8]), _native("I", body[FAN_OUT * 8 :])
