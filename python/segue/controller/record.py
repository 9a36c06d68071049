"""Locations, and the record of an incomplete extent (design, sections 2 and 3).

A record says, block by block, whether a block reads from the extent's own location or from its
*source*.  A source is a word: 0 for zeroes, a location (it has the VALID bit), or, with deltas, the
number of another extent: then the chain goes on there, `MAX_CHAIN` records deep at the most.

Nothing here does I/O or decides: the table applies commits to records, procedures read them.
"""

from __future__ import annotations

from dataclasses import dataclass

from segue import _native

VALID: int = _native.ENTRY_VALID
NO_WRITE: int = _native.ENTRY_NO_WRITE
CONTAINER_SHIFT: int = _native.ENTRY_CONTAINER_SHIFT
SEGMENT_MASK: int = _native.ENTRY_SEGMENT_MASK
ZEROES = 0
"""The source of what was never written."""
MAX_CHAIN = 4
"""Sources in a row at the most; beyond it the oldest record must end first (section 2)."""


def location_of(container: int, segment: int) -> int:
    """The word of a location: VALID, container, segment; also the entry of state "none"."""
    return VALID | container << CONTAINER_SHIFT | segment


def container_of(location: int) -> int:
    """The container a location word names."""
    return location >> CONTAINER_SHIFT & 0xFFFF


def segment_of(location: int) -> int:
    """The segment number within its container that a location word names."""
    return location & SEGMENT_MASK


def is_location(source: int) -> bool:
    """Whether a record's source is a location."""
    return bool(source & VALID)


def run_bits(first_block: int, count_blocks: int) -> int:
    """A bitmap with that run set."""
    return ((1 << count_blocks) - 1) << first_block


@dataclass(slots=True)
class Record:
    """What is known of an incomplete extent; bitmaps are ints, bit n = block n.

    `source` is a word (see the module).  `disk` and `segment` say where the extent is mapped:
    derived, as every extent has one entry so far.  `job` is what the record is for: the number of
    the job that moves it, 0 for a first write.
    """

    source: int
    disk: int
    segment: int
    blocks: int
    written: int = 0
    copied: int = 0
    job: int = 0
    fresh: int = 0
    """Copied or zeroed by this term's copier and not yet flushed: decides reads, stored nowhere."""
    hinted: int = 0
    """Fresh ones whose copied bits are being committed: a crash may find them durable."""
    doubted: int = 0
    """Copied blocks that a `do_write` may have gone over without its bit: in this term, or, for all
    that anybody knows, in an older one.  They are read at the extent's own location from then on,
    whatever is there: what was seen once is not unseen (rule 1)."""
    closed: bool = False
    """Every agent was made invalid in this term: the source is not to be granted any more."""

    @property
    def here(self) -> int:
        """Bitmap of the blocks that read from the extent's own location."""
        return self.written | self.copied | self.fresh

    @property
    def all(self) -> int:
        """Bitmap of all blocks."""
        return run_bits(0, self.blocks)

    def resize(self, blocks: int) -> None:
        """The segment is shorter, or longer by blocks that are durably zero at its location.

        At a source that is a location there may be anything: they count as written.
        """
        if blocks > self.blocks:
            gained = run_bits(self.blocks, blocks - self.blocks)
            if is_location(self.source):
                self.written |= gained
            else:
                self.copied |= gained
        self.blocks = blocks
        self.written &= self.all
        self.copied &= self.all
        self.fresh &= self.all
        self.doubted &= self.all

    @property
    def word(self) -> int:
        """The most that the durable record lets an agent hold: its source read-only, or invalid.

        While no host has written a block, all of them still read right at the old location.
        """
        return 0 if self.written or not is_location(self.source) else self.source | NO_WRITE

    @property
    def granted(self) -> int:
        """The most that may be granted now; see `closed` and `doubted`."""
        return 0 if self.closed or self.doubted else self.word

    @property
    def is_open(self) -> bool:
        """Whether an agent may hold the source: it must be closed before a host's write."""
        return not self.closed and self.word != 0

    def reads_from(self, block: int, location: int) -> int:
        """Where a block reads from, given the extent's own location; 0: zeroes."""
        return location if self.here >> block & 1 else self.source
