"""Where data is put: the choice of a location, for first writes and for movements.

A disk's segments may lie in any container of its pool that is neither leaving nor drained and that
can write its blocks (`may_hold`); where several could, decision 0010 says which.  What is taken is
a reservation, volatile, until the commit that names it; which segments are free stands in
`space.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from segue.controller.record import container_of, location_of, segment_of
from segue.controller.space import FREE, RESERVED
from segue.controller.table import Disk

if TYPE_CHECKING:
    from segue.controller.controller import Controller


class NoPlace(Exception):
    """The container may not be added to the flush set of a disk that several agents serve."""


def may_share(c: Controller, disk: Disk, container: int) -> bool:
    """Several agents need a block no smaller than the container's write unit (section 2)."""
    return c.table.containers[container].row.write_unit_bytes <= disk.block_bytes


def may_hold(c: Controller, disk: Disk, number: int) -> bool:
    """Whether new segments of the disk may be put into that container."""
    container = c.table.containers.get(number)
    if container is None or not c.may_allocate(number):
        return False
    if container.row.segment_bytes != disk.segment_bytes:
        return False
    return (
        number in disk.containers or len(c.peers_of(disk.disk)) <= 1 or may_share(c, disk, number)
    )


def take_location(c: Controller, disk: Disk, segment: int) -> tuple[int, bool, bool] | None:
    """Reserves a location for the disk: (location, clean, used before), None if the pool is full.

    Where a job moves the segment to, then in the disk's own containers, then in others; in a clean
    segment before an unclean one, in the emptiest container first (decision 0010); where a server
    is away only if there is no other place, and never in a container that this term has not found.
    """
    aim = [n for n in c.jobs.targets(disk.disk, segment) if may_hold(c, disk, n)]
    own = [n for n in disk.containers if may_hold(c, disk, n)]
    others = [n for n in c.table.containers if n not in disk.containers and may_hold(c, disk, n)]
    for away in (False, True):
        for numbers in (aim, own, others):
            there = [n for n in numbers if not c.missing(n)]
            found = _take(c, [n for n in there if c.storage.is_away(n) == away])
            if found is not None:
                return found
    return None


def _take(c: Controller, numbers: list[int]) -> tuple[int, bool, bool] | None:
    spaces = [(number, c.table.containers[number].space) for number in numbers]
    spaces.sort(key=lambda item: -item[1].free / item[1].segments)
    for clean in (True, False):
        for number, space in spaces:
            found = space.take(clean)
            if found is not None:
                if not space.default_clean:
                    c.background.clean_ahead(number)
                segment, recycled = found
                return location_of(number, segment), clean, recycled
    return None


def take_destination(c: Controller, disk: Disk, targets: Sequence[int]) -> tuple[int, bool] | None:
    """Reserves a location for a movement: (location, used before), or None; unclean ones first.

    Never where the server is away: hosts that write to the extent would wait for it.
    """
    for number in targets:
        if not may_hold(c, disk, number) or c.storage.is_away(number) or c.missing(number):
            continue
        space = c.table.containers[number].space
        for clean in (False, True):
            found = space.take(clean)
            if found is not None:
                return location_of(number, found[0]), found[1]
    return None


def give_back(c: Controller, location: int) -> None:
    """The reservation is not used after all."""
    space = c.table.containers[container_of(location)].space
    assert space.state(segment_of(location)) == RESERVED, "given back twice"
    space.move(segment_of(location), FREE)
