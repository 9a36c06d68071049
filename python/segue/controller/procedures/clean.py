"""Making freed locations clean again, so that first writes need no record (rule 11).

1. Take free unclean locations, a batch; commit that this copier is about to zero them: from now on
   they are nobody else's.
2. Zero them, flush their container.
3. Commit that they are clean and free.

A crash anywhere leaves them named with the old copier's fence; the new term frees them, unclean,
when that fence has provably ended, and they are cleaned again.  A location whose zeroing fails is
set aside for this term: it stays named, and is tried again by the next.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from segue import failpoints
from segue.controller.changes import Cleaned, CleaningBegun
from segue.controller.procedures.flush_failed import copier_flush
from segue.controller.record import container_of, location_of, segment_of

if TYPE_CHECKING:
    from segue.controller.controller import Controller

log = logging.getLogger("segue.controller.clean")


def take_unclean(c: Controller) -> list[int]:
    """Reserves a batch of free unclean locations of one container.

    While clean ones are few it leaves at least half, and one: a first write that finds nothing
    else takes an unclean one with a record, and need not wait for any zeroing.
    """
    ahead = c.settings.clean_ahead_segments
    for number, container in c.table.containers.items():
        space, taken = container.space, list[int]()
        if not c.may_allocate(number):
            continue
        unclean = space.unclean_free()
        keep = 0 if space.free_clean >= c.settings.clean_batch else max(1, unclean // 2)
        most = min(c.settings.clean_batch, unclean - keep)
        if not container.row.clean:
            most = min(most, ahead - space.free_clean)
        while len(taken) < most and (found := space.take(clean=False)) is not None:
            taken.append(location_of(number, found[0]))
        if taken:
            return taken
    return []


async def clean_batch(c: Controller) -> bool:
    """Cleans one batch; False if there was nothing to clean, or the container failed."""
    locations = take_unclean(c)
    if not locations:
        return False
    await c.commit(CleaningBegun(locations, c.fence))
    failpoints.hit("clean.begun")
    await c.stamp_before_reuse()
    number = container_of(locations[0])
    failures = c.copier_failures.get(number, 0)
    segment_bytes = c.table.containers[number].row.segment_bytes
    try:
        for location in locations:
            await _zero_segment(c, number, segment_of(location) * segment_bytes, segment_bytes)
        await copier_flush(c, number, failures)
    except OSError as error:
        log.warning("event=cleaning_failed container=%d error=%s", number, error)
        return False
    failpoints.hit("clean.zeroed")
    await c.commit(Cleaned(locations))
    return True


async def _zero_segment(c: Controller, number: int, start: int, length: int) -> None:
    for at in range(start, start + length, c.settings.copy_piece_bytes):
        piece = min(c.settings.copy_piece_bytes, start + length - at)
        await c.copier_may_write()
        with c.waits.on("storage", c.name_of_container(number)):
            await c.storage.zero(number, at, piece)
