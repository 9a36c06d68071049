"""Page trees: persistent, copy-on-write maps from u64 to u64, kept in checksummed pages.

A disk's segment -> extent map is one `PageTree`, a copy of the disk its `clone()`: both share every
page until one of them changes it (design, section 3, "Central store").

Legend of a page in memory:

* ``page_id`` 0: *dirty*, it differs from every durable page; its ancestors are dirty too, so
  `flush` finds all dirty pages without looking at clean ones.
* ``page_id`` not 0: *clean*, written (or being written) under that id.  Changing it gives the
  id back to the space and makes it dirty: a durable page is never written over.
* ``holders``: how many directories and trees refer to it.  A tree changes a page in place only
  where every page on the path from its root has one holder, else it copies the path first.

A checkpoint may flush a clone in steps while the original goes on changing::

    frozen = tree.clone()
    steps = frozen.flush_steps(out)          # yields now and then, returns the root's bytes
    ...                                      # the root now knows every page in `out`
    freed = space.take_freed()               # no await between the last step and this
    await store.checkpoint(term, number, root, out, freed)
    frozen.drop()                            # what only the clone still held is freed, next time

Nothing here does I/O; one thread at a time.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Generator, Iterator, MutableMapping, Sequence

import numpy as np

from .contract import ReadPages, StoreCorrupt, StoreTooNew
from .page_format import (
    FAN_OUT,
    LEAF_WORDS,
    Words,
    decode_directory,
    decode_header,
    decode_leaf,
    decode_leaves,
    encode_directory,
    encode_leaf,
)

ROOT_VERSION = 1
_ROOT = struct.Struct("<BBHIQ")  # version, height, zero, crc of the top page, its id (0: empty)
ROOT_BYTES = _ROOT.size
MAX_HEIGHT = 6
_LEAF_BITS = 9
_FAN_BITS = 8
_LEAF_MASK = LEAF_WORDS - 1
_FAN_MASK = FAN_OUT - 1
_ZERO_LEAF = bytes(LEAF_WORDS * 8)


class Page:
    """One page in memory: a leaf has `words`, a directory `children`; the other one is empty."""

    __slots__ = ("children", "crc", "holders", "nonzero", "page_id", "words")

    def __init__(self, words: array[int], children: list[Page | None]) -> None:
        self.words = words
        self.children = children
        self.holders = 1
        self.page_id = 0
        self.crc = 0
        self.nonzero = 0
        """Words below that are not 0; kept for clean pages only."""


def _new_leaf() -> Page:
    return Page(array("Q", _ZERO_LEAF), [])


def _new_directory() -> Page:
    return Page(array("Q"), [None] * FAN_OUT)


class PageSpace:
    """Page ids of one store: handed out once, in order, never used again.

    `next_id` belongs into the checkpoint's root; pages of a checkpoint that was not finished have
    ids from there on, and the store has forgotten them.
    """

    def __init__(self, next_id: int = 1) -> None:
        self.next_id = next_id
        self.clean: dict[int, Page] = {}
        self._freed: list[int] = []

    def adopt(self, page: Page, page_id: int) -> None:
        """Give a page its id; it is clean from now on."""
        page.page_id = page_id
        self.clean[page_id] = page

    def allocate(self) -> int:
        """A page id never used before."""
        page_id = self.next_id
        self.next_id += 1
        return page_id

    def free(self, page: Page) -> None:
        """The page under this id is no longer referred to by any tree, or has changed."""
        del self.clean[page.page_id]
        self._freed.append(page.page_id)
        page.page_id = 0

    def take_freed(self) -> list[int]:
        """Ids freed since the last call, for the checkpoint whose roots were flushed just now."""
        freed, self._freed = self._freed, []
        return freed

    def release(self, page: Page) -> None:
        """One holder less; the last one frees the page and lets go of its children."""
        page.holders -= 1
        if page.holders:
            return
        if page.page_id:
            self.free(page)
        for child in page.children:
            if child is not None:
                self.release(child)

    def own(self, page: Page) -> Page:
        """The page to change in place of `page`: itself if it has one holder, else a copy."""
        if page.holders == 1:
            if page.page_id:
                self.free(page)
            return page
        page.holders -= 1
        for child in page.children:
            if child is not None:
                child.holders += 1
        return Page(page.words[:], page.children[:])


class PageTree:
    """A copy-on-write map from u64 to u64; 0 is "absent".

    `count` is how many words are not 0.  Indexes are 0 <= i < 2^57, values 0 <= v < 2^64
    (`IndexError`, `OverflowError` otherwise).
    """

    __slots__ = ("_capacity", "_height", "_root", "_shifts", "count", "space")

    def __init__(self, space: PageSpace) -> None:
        self.space = space
        self.count = 0
        self._root: Page | None = None
        self._set_height(0)

    def _set_height(self, height: int) -> None:
        self._height = height
        self._capacity = LEAF_WORDS << _FAN_BITS * height
        self._shifts = tuple(_LEAF_BITS + _FAN_BITS * i for i in reversed(range(height)))

    # Words ---------------------------------------------------------------------------------

    def get(self, index: int) -> int:
        """The word at `index`."""
        if not 0 <= index < self._capacity:
            if index < 0:
                raise IndexError(index)
            return 0
        page = self._root
        if page is None:
            return 0
        for shift in self._shifts:
            page = page.children[index >> shift & _FAN_MASK]
            if page is None:
                return 0
        return page.words[index & _LEAF_MASK]

    def set(self, index: int, value: int) -> None:
        """Replace the word at `index`."""
        page = self._root
        if 0 <= index < self._capacity and page is not None:
            for shift in self._shifts:
                if page.holders != 1:
                    break
                page = page.children[index >> shift & _FAN_MASK]
                if page is None:
                    break
            else:
                # A dirty leaf has dirty ancestors: the leaf alone need be looked at.
                if page.holders == 1 and not page.page_id:
                    words, slot = page.words, index & _LEAF_MASK
                    old = words[slot]
                    words[slot] = value
                    self.count += (value != 0) - (old != 0)
                    return
        if value or self.get(index):
            words, slot = self._owned_leaf(index).words, index & _LEAF_MASK
            old = words[slot]
            words[slot] = value
            self.count += (value != 0) - (old != 0)

    def _owned_leaf(self, index: int) -> Page:
        """The leaf of `index`, made if need be, with the path to it dirty and not shared."""
        if index < 0:
            raise IndexError(index)
        self._grow(index)
        space = self.space
        if self._root is None:
            page = _new_directory() if self._height else _new_leaf()
        else:
            page = space.own(self._root)
        self._root = page
        for shift in self._shifts:
            slot = index >> shift & _FAN_MASK
            child = page.children[slot]
            if child is None:
                child = _new_leaf() if shift == _LEAF_BITS else _new_directory()
            else:
                child = space.own(child)
            page.children[slot] = child
            page = child
        return page

    def _grow(self, index: int) -> None:
        while index >= self._capacity:
            if self._height == MAX_HEIGHT:
                raise IndexError(index)
            if self._root is not None:
                top = _new_directory()
                top.children[0] = self._root
                self._root = top
            self._set_height(self._height + 1)

    def slice(self, first: int, count: int) -> array[int]:
        """A copy of `count` words from `first` on (an ``array('Q')``; numpy takes it as it is)."""
        out = array("Q")
        while count > 0:
            at = first & _LEAF_MASK
            run = min(LEAF_WORDS - at, count)
            leaf = self._leaf(first)
            out.extend(leaf.words[at : at + run] if leaf else array("Q", bytes(8 * run)))
            first, count = first + run, count - run
        return out

    def _leaf(self, index: int) -> Page | None:
        if index < 0:
            raise IndexError(index)
        page = self._root if index < self._capacity else None
        for shift in self._shifts:
            if page is None:
                return None
            page = page.children[index >> shift & _FAN_MASK]
        return page

    def clear(self, first: int, count: int) -> None:
        """Make `count` words from `first` on 0; costs pages, not words."""
        if first < 0:
            raise IndexError(first)
        end = min(first + count, self._capacity)
        if self._root is not None and first < end:
            self._root = self._clear(self._root, self._height, first, end)

    def _clear(self, page: Page, level: int, first: int, end: int) -> Page | None:
        """Clear [first, end), counted from the page's own first word; None if all of it went."""
        reach = LEAF_WORDS << _FAN_BITS * level
        if first == 0 and end == reach:
            together = _leaves_together(page, level, 0)
            self.count -= sum(_nonzero(leaf.words) for leaves in together for _, leaf in leaves)
            self.space.release(page)
            return None
        page = self.space.own(page)
        if level == 0:
            run = page.words[first:end]
            self.count -= _nonzero(run)
            page.words[first:end] = array("Q", bytes(8 * len(run)))
            return page
        below = reach >> _FAN_BITS
        for slot in range(first // below, (end - 1) // below + 1):
            child = page.children[slot]
            if child is not None:
                low, high = slot * below, (slot + 1) * below
                run_first, run_end = max(first, low) - low, min(end, high) - low
                page.children[slot] = self._clear(child, level - 1, run_first, run_end)
        return page

    def take(self, indexes: Words) -> Words:
        """The words at these indexes, which are 0 from now on; costs leaves, not words.

        No index twice; each below some word that is not 0.
        """
        order = np.argsort(indexes)
        ascending = indexes[order]
        leaves = ascending >> np.uint64(_LEAF_BITS)
        ends = [*(np.flatnonzero(leaves[1:] != leaves[:-1]) + 1).tolist(), len(indexes)]
        taken = np.zeros(len(indexes), np.uint64)
        begin = 0
        for end in ends if len(indexes) else []:
            words = np.frombuffer(self._owned_leaf(int(ascending[begin])).words, np.uint64)
            slots = ascending[begin:end] & np.uint64(_LEAF_MASK)
            taken[order[begin:end]] = words[slots]
            words[slots] = 0
            begin = end
        self.count -= int(np.count_nonzero(taken))
        return taken

    def leaves(self) -> Iterator[tuple[int, array[int]]]:
        """(index of its first word, words) of each leaf, ascending: to look at, not to change."""
        for leaves in self._leaves_together():
            for first, page in leaves:
                yield first, page.words

    def items(self) -> Iterator[tuple[int, int]]:
        """(index, word) of every word that is not 0, ascending."""
        for first, words in self.leaves():
            for slot in np.flatnonzero(np.frombuffer(words, np.uint64)).tolist():
                yield first + slot, words[slot]

    def arrays(self) -> Iterator[tuple[Words, Words]]:
        """(indexes, words) of the words that are not 0, ascending, some ten thousands at a time."""
        slots = np.arange(LEAF_WORDS, dtype=np.uint64)
        for leaves in self._leaves_together():
            words = np.concatenate([np.frombuffer(leaf.words, np.uint64) for _, leaf in leaves])
            firsts = np.array([first for first, _ in leaves], np.uint64)
            indexes = (firsts[:, np.newaxis] + slots).ravel()
            at = np.flatnonzero(words)
            if len(at) < len(words):
                indexes, words = indexes[at], words[at]
            if len(at):
                yield indexes, words

    def flat(self) -> Words:
        """All words from 0 to the last leaf's end: as large as the highest index."""
        leaves = [leaf for together in self._leaves_together() for leaf in together]
        words = np.zeros(leaves[-1][0] + LEAF_WORDS if leaves else 0, np.uint64)
        for first, leaf in leaves:
            words[first : first + LEAF_WORDS] = np.frombuffer(leaf.words, np.uint64)
        return words

    def _leaves_together(self) -> Iterator[list[tuple[int, Page]]]:
        if self._root is not None:
            yield from _leaves_together(self._root, self._height, 0)

    # Trees ---------------------------------------------------------------------------------

    def clone(self) -> PageTree:
        """A tree with the same words that shares all pages; O(1)."""
        copy = PageTree(self.space)
        copy._set_height(self._height)
        copy._root, copy.count = self._root, self.count
        if self._root is not None:
            self._root.holders += 1
        return copy

    def drop(self) -> None:
        """Let go of all pages; the tree is empty afterwards."""
        if self._root is not None:
            self.space.release(self._root)
        self._root, self.count = None, 0
        self._set_height(0)

    def flush(self, out: MutableMapping[int, bytes]) -> bytes:
        """Put every dirty page into `out` under a new id; the root's bytes (16 of them)."""
        steps = self.flush_steps(out)
        while True:
            try:
                next(steps)
            except StopIteration as stop:
                return bytes(stop.value)

    def flush_steps(
        self, out: MutableMapping[int, bytes], pages_per_step: int = 64
    ) -> Generator[None, None, bytes]:
        """`flush` in steps of so many pages (about 5 us each).

        Between steps *this* tree must not change: flush a clone, whose original may.
        """
        if self._root is not None and not self._root.page_id:
            order: list[tuple[Page, int, Page | None, int]] = []
            _dirty(self._root, self._height, None, 0, order)
            for done, (page, level, parent, slot) in enumerate(order, start=1):
                if self._is_empty(page):
                    self._prune(page, parent, slot)
                else:
                    self._write(page, level, out)
                if done % pages_per_step == 0:
                    yield
        if self._root is None:
            return _ROOT.pack(ROOT_VERSION, 0, 0, 0, 0)
        return _ROOT.pack(ROOT_VERSION, self._height, 0, self._root.crc, self._root.page_id)

    @staticmethod
    def _is_empty(page: Page) -> bool:
        if page.children:
            return not any(page.children)
        return page.words.tobytes() == _ZERO_LEAF

    def _prune(self, page: Page, parent: Page | None, slot: int) -> None:
        if parent is None:
            self._root = None
            self._set_height(0)
        else:
            parent.children[slot] = None
        self.space.release(page)

    def _write(self, page: Page, level: int, out: MutableMapping[int, bytes]) -> None:
        page_id = self.space.allocate()
        if level:
            below = page.children
            ids = array("Q", [c.page_id if c else 0 for c in below])
            crcs = array("I", [c.crc if c else 0 for c in below])
            data, crc = encode_directory(page_id, level, ids, crcs)
            page.nonzero = sum(c.nonzero for c in below if c)
        else:
            data, crc = encode_leaf(page_id, page.words)
            page.nonzero = _nonzero(page.words)
        page.crc = crc
        self.space.adopt(page, page_id)
        out[page_id] = data

    @classmethod
    def load(cls, space: PageSpace, root: bytes, read_pages: ReadPages) -> PageTree:
        """The tree that `flush` described by `root`, all of it, verified page by page.

        Pages that a tree loaded before already holds are shared with it.  Raises `StoreCorrupt`
        (naming the page) or `StoreTooNew`; the space is of no use after that.
        """
        height, crc, page_id = decode_root(root)
        tree = cls(space)
        tree._set_height(height)
        if page_id:
            [tree._root] = _load(space, [page_id], [crc], height, read_pages)
            tree.count = tree._root.nonzero
        return tree


def decode_root(root: bytes) -> tuple[int, int, int]:
    """Height, crc of the top page and its id, of a tree's root; `StoreCorrupt`, `StoreTooNew`."""
    if len(root) != ROOT_BYTES:
        raise StoreCorrupt(f"root of a page tree: {len(root)} bytes, should be {ROOT_BYTES}")
    version, height, zero, crc, page_id = _ROOT.unpack(root)
    if version != ROOT_VERSION:
        raise StoreTooNew(f"root of a page tree has version {version}")
    if height > MAX_HEIGHT or zero or (not page_id and (height or crc)):
        raise StoreCorrupt(f"root of a page tree: {root.hex()}")
    return height, crc, page_id


def _nonzero(words: array[int]) -> int:
    return int(np.count_nonzero(np.frombuffer(words, dtype=np.uint64)))


def _leaves_together(page: Page, level: int, first: int) -> Iterator[list[tuple[int, Page]]]:
    """(index of its first word, leaf) of the leaves of each directory, ascending."""
    below = LEAF_WORDS << _FAN_BITS * max(level - 1, 0)
    children = [(first + slot * below, c) for slot, c in enumerate(page.children) if c is not None]
    if level <= 1:
        yield children if level else [(first, page)]
        return
    for at, child in children:
        yield from _leaves_together(child, level - 1, at)


def _dirty(
    page: Page,
    level: int,
    parent: Page | None,
    slot: int,
    order: list[tuple[Page, int, Page | None, int]],
) -> None:
    """Every dirty page below and including `page`, children before their parents."""
    for at, child in enumerate(page.children):
        if child is not None and not child.page_id:
            _dirty(child, level - 1, page, at, order)
    order.append((page, level, parent, slot))


def _load(
    space: PageSpace, ids: list[int], crcs: list[int], level: int, read_pages: ReadPages
) -> list[Page]:
    """The pages of these ids, of one directory, with all that is below them, verified."""
    new = [i for i, page_id in enumerate(ids) if page_id not in space.clean]
    new_ids, new_crcs = [ids[i] for i in new], [crcs[i] for i in new]
    if new:
        data = read_pages(new_ids)
        if level or not _load_leaves(space, new_ids, new_crcs, data):
            for page_id, crc, page_data in zip(new_ids, new_crcs, data, strict=True):
                _load_page(space, page_id, crc, level, page_data, read_pages)
    pages = [space.clean[page_id] for page_id in ids]
    for page, crc in zip(pages, crcs, strict=True):
        if page.crc != crc or bool(page.children) != bool(level):
            raise StoreCorrupt(f"page {page.page_id}: two parents disagree about it")
        page.holders += 1
    return pages


def _load_leaves(space: PageSpace, ids: list[int], crcs: list[int], data: Sequence[bytes]) -> bool:
    """Takes in leaves that are plainly sound; else False, and nothing was taken in."""
    rows = decode_leaves(ids, crcs, data)
    if rows is None:
        return False
    counts = np.count_nonzero(rows, axis=1).tolist()
    for page_id, crc, row, count in zip(ids, crcs, rows, counts, strict=True):
        page = Page(array("Q", row.tobytes()), [])
        page.crc, page.nonzero, page.holders = crc, count, 0
        space.adopt(page, page_id)
    return True


def _load_page(
    space: PageSpace, page_id: int, crc: int, level: int, data: bytes, read_pages: ReadPages
) -> None:
    if page_id in space.clean:
        return  # twice in one directory
    header = decode_header(page_id, data)
    if header.crc != crc:
        raise StoreCorrupt(f"page {page_id}: crc {header.crc:08x}, its parent says {crc:08x}")
    if header.level != level:
        raise StoreCorrupt(f"page {page_id}: level {header.level}, should be {level}")
    if level:
        ids, below_crcs = decode_directory(data)
        slots = [slot for slot, child in enumerate(ids) if child]
        below = [ids[slot] for slot in slots]
        children: list[Page | None] = [None] * FAN_OUT
        loaded = _load(space, below, [below_crcs[s] for s in slots], level - 1, read_pages)
        for slot, child in zip(slots, loaded, strict=True):
            children[slot] = child
        page = Page(array("Q"), children)
        page.nonzero = sum(child.nonzero for child in loaded)
    else:
        page = Page(decode_leaf(data), [])
        page.nonzero = _nonzero(page.words)
    page.crc, page.holders = crc, 0
    space.adopt(page, page_id)
