"""The segments of one container: which are free, which of those are clean, who takes the next.

Derived from the table and rebuilt at every start (design, section 3: nothing is stored twice);
only the clean marks are durable.  A reservation is volatile: it becomes `USED` when the commit
that names the location is applied, or is given back.
"""

from __future__ import annotations

from collections import deque

import numpy as np
import numpy.typing as npt

from segue.store.page_format import Words

Picked = npt.NDArray[np.bool_]
SCAN_SEGMENTS = 1 << 16
FREE, USED, RESERVED, QUARANTINED, CLEANING, SOURCE = range(6)
"""`SOURCE`: the old location of an extent under movement; an extent's own location is `USED`."""


class Space:
    """Segment states of one container.

    `default_clean`: segments without a mark read as zeroes (a file that Segue created); a mark
    says the opposite of the default.
    """

    def __init__(self, segments: int, default_clean: bool) -> None:
        self.segments = segments
        self.default_clean = default_clean
        self._state = bytearray(segments)
        self._marked = bytearray(segments)
        # The same memory: numpy for many segments at once, bytearrays for one.
        self._states = np.frombuffer(self._state, np.uint8)
        self._marks = np.frombuffer(self._marked, np.uint8)
        self._fresh = 0
        """No free segment without a mark lies below this one, but for those in the queues."""
        self._old = 0
        """The same of free segments with a mark: only a load leaves some behind it."""
        self._clean: deque[int] = deque()
        self._unclean: deque[int] = deque()
        self.used = 0
        self.free = segments
        self.free_clean = segments if default_clean else 0

    def state(self, segment: int) -> int:
        """One of FREE, USED, RESERVED, QUARANTINED, CLEANING, SOURCE."""
        return self._state[segment]

    def is_clean(self, segment: int) -> bool:
        """Whether the segment's mark says that it reads as zeroes."""
        return bool(self._marked[segment]) != self.default_clean

    def set_clean(self, segment: int, clean: bool) -> None:
        """Changes the mark (an applied commit did)."""
        if self.is_clean(segment) != clean:
            self._marked[segment] ^= 1
            if self._state[segment] == FREE:
                self.free_clean += 1 if clean else -1

    def take(self, clean: bool) -> tuple[int, bool] | None:
        """Reserves a free segment of that kind: (segment, used before?), or None."""
        queue = self._clean if clean else self._unclean
        while queue:
            segment = queue.popleft()
            if self._state[segment] == FREE and self.is_clean(segment) == clean:
                self.move(segment, RESERVED)
                return segment, True
        marked = clean != self.default_clean
        segment = self._next(self._old if marked else self._fresh, marked)
        if marked:
            self._old = segment + 1
        else:
            self._fresh = segment + 1
        if segment == self.segments:
            return None
        self.move(segment, RESERVED)
        return segment, marked

    def _next(self, begin: int, marked: bool) -> int:
        """The first free segment from `begin` on with a mark, or without; else `segments`."""
        for first in range(begin, self.segments, SCAN_SEGMENTS):
            end = min(first + SCAN_SEGMENTS, self.segments)
            if begin == first and self._state[first] == FREE and self._marked[first] == marked:
                return first
            found = (self._states[first:end] == FREE) & (self._marks[first:end] == marked)
            if found.any():
                return first + int(found.argmax())
        return self.segments

    def move(self, segment: int, state: int) -> None:
        """Gives a segment another state; one that becomes FREE can be taken again."""
        old = self._state[segment]
        if old == state:
            return
        self._state[segment] = state
        clean = self.is_clean(segment)
        if old == FREE:
            self.free -= 1
            self.free_clean -= clean
        elif old == USED:
            self.used -= 1
        if state == FREE:
            self.free += 1
            self.free_clean += clean
            (self._clean if clean else self._unclean).append(segment)
        elif state == USED:
            self.used += 1

    def give_back(self, segments: Words, state: int) -> None:
        """Gives segments that are USED another state, FREE or QUARANTINED; like `move`, in bulk."""
        assert (self._states[segments] == USED).all(), "gives back what is not used"
        self._states[segments] = state
        self.used -= len(segments)
        if state == FREE:
            clean = self._marks[segments] != self.default_clean
            self.free += len(segments)
            self.free_clean += int(np.count_nonzero(clean))
            self._clean.extend(segments[clean].tolist())
            self._unclean.extend(segments[~clean].tolist())

    # Loading a table (derived.py, checkpoint.py): before anything is taken -----------------------

    def load_marks(self, words: Words, bits: Words) -> None:
        """Takes in durable marks: `bits` of 64 segments each, from segment 64 x `words` on."""
        at = (words[:, np.newaxis] * np.uint64(64) + np.arange(64, dtype=np.uint64)).ravel()
        marks = np.unpackbits(bits.astype("<u8").view(np.uint8), bitorder="little")
        there = at < self.segments
        self._marks[at[there]] = marks[there]

    def load_used(self, used: Picked) -> None:
        """These segments are in use; all others are free."""
        self._states[:] = used * np.uint8(USED)
        free = ~used
        self.free = int(np.count_nonzero(free))
        self.free_clean = int(np.count_nonzero(free & (self._marks != self.default_clean)))
        self.used = self.segments - self.free

    def is_used_by(self, picked: Picked) -> bool:
        """Whether just these segments are in use, and none of them is marked clean."""
        used = self._states == USED
        return bool(
            (used == picked).all() and not (used & (self._marks != self.default_clean)).any()
        )

    def unclean_free(self) -> int:
        """How many free segments wait to be cleaned."""
        return self.free - self.free_clean

    def self_check(self) -> None:
        """Recounts; for tests and the simulator."""
        free = [s for s in range(self.segments) if self._state[s] == FREE]
        assert self.free == len(free)
        assert self.free_clean == sum(self.is_clean(s) for s in free)
        assert self.used == self._state.count(USED)
        waiting = set(self._clean) | set(self._unclean)
        fresh = {s for s in free if s >= (self._old if self._marked[s] else self._fresh)}
        assert set(free) <= waiting | fresh, "a free segment that nobody can take"
