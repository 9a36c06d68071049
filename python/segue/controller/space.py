"""The segments of one container: which are free, which of those are clean, who takes the next.

Derived from the table and rebuilt at every start (design, section 3: nothing is stored twice);
only the clean marks are durable.  A reservation is volatile: it becomes `USED` when the commit
that names the location is applied, or is given back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

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
        self._fresh = 0
        """No free segment without a mark lies below this one, but for those in the queues."""
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
        if clean != self.default_clean:
            return None
        while self._fresh < self.segments:
            segment = self._fresh
            self._fresh += 1
            if self._state[segment] == FREE and self.is_clean(segment) == clean:
                self.move(segment, RESERVED)
                return segment, False
        return None

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

    def queue_marked(self) -> None:
        """After a load: lets free segments that differ from the default be taken."""
        queue = self._unclean if self.default_clean else self._clean
        queue.extend(segment for segment in self.marks() if self._state[segment] == FREE)

    def marks(self) -> Iterator[int]:
        """The segments whose mark differs from the default, ascending: what a checkpoint keeps."""
        at = self._marked.find(1)
        while at >= 0:
            yield at
            at = self._marked.find(1, at + 1)

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
        fresh = set(range(self._fresh, self.segments))
        assert set(free) <= waiting | fresh, "a free segment that nobody can take"
