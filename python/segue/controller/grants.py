"""Which segments an incarnation may hold an entry for: volatile, never too small.

A restriction must reach every agent that may hold a grant (rule 3); one that was never sent an
entry, or has answered that it is invalid, need not be asked.  After a new term everything is
assumed to be held (design, section 4).
"""

from __future__ import annotations

PAGE = 4096


class Grants:
    """A set of segment numbers, kept as pages of bytes that differ from a default."""

    def __init__(self, everything: bool) -> None:
        self._default = 1 if everything else 0
        self._pages: dict[int, bytearray] = {}
        self.marked = 0
        """How often something was marked: whether anything was since."""

    def mark(self, first: int, count: int) -> None:
        """An entry that is not invalid is being sent for these."""
        self.marked += 1
        self._fill(first, count, 1)

    def clear(self, first: int, count: int) -> None:
        """The agent has answered that these are invalid."""
        self._fill(first, count, 0)

    def clear_all(self) -> None:
        """The agent has answered that its whole table is invalid."""
        self._default = 0
        self._pages.clear()

    def any(self, first: int, count: int) -> bool:
        """Whether the agent may hold an entry for any of the run."""
        for page, start, stop in _pages_of(first, count):
            held = self._pages.get(page)
            if held is None:
                if self._default:
                    return True
            elif held.find(1, start, stop) >= 0:
                return True
        return False

    def _fill(self, first: int, count: int, value: int) -> None:
        for page, start, stop in _pages_of(first, count):
            held = self._pages.get(page)
            if held is None:
                if self._default == value:
                    continue
                held = self._pages[page] = bytearray([self._default]) * PAGE
            if stop - start == 1:
                held[start] = value
            else:
                held[start:stop] = bytes([value]) * (stop - start)


def _pages_of(first: int, count: int) -> list[tuple[int, int, int]]:
    if first % PAGE + count <= PAGE:
        return [(first // PAGE, first % PAGE, first % PAGE + count)]
    pieces = []
    end = first + count
    while first < end:
        stop = min(end, (first // PAGE + 1) * PAGE)
        pieces.append((first // PAGE, first % PAGE, first % PAGE + stop - first))
        first = stop
    return pieces
