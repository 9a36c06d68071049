"""Commits that would contradict the table: refused before they are durable, whatever let them pass.

A record that cannot be applied would end every term at its start, for good.  So each commit is
looked at once more when everything before it is in the table: each row that it names must be there.
Locks and checks of the procedures see to that; what is found here is our own mistake, and ends this
term with the table whole.
"""

from __future__ import annotations

from collections.abc import Iterable

from segue.controller.changes import (
    Allocated,
    AnyChange,
    Cleaned,
    CleaningBegun,
    Completed,
    ContainerDraining,
    ContainerGone,
    ContainerLeaving,
    ContainerLinger,
    Copied,
    Discarded,
    DiskContainers,
    DiskDeleted,
    DiskRenamed,
    DiskResized,
    FlushCleared,
    GrowthBegun,
    JobChanged,
    JobEnded,
    MovementAbandoned,
    MovementBegun,
    MovementEnded,
    Written,
)
from segue.controller.record import container_of
from segue.controller.table import Table

_NAMES: dict[type, tuple[str, str]] = {
    **dict.fromkeys(
        (ContainerDraining, ContainerGone, ContainerLeaving, ContainerLinger),
        ("containers", "container"),
    ),
    **dict.fromkeys(
        (
            Allocated,
            Discarded,
            DiskContainers,
            DiskDeleted,
            DiskRenamed,
            DiskResized,
            FlushCleared,
            GrowthBegun,
            MovementBegun,
        ),
        ("disks", "disk"),
    ),
    **dict.fromkeys(
        (Completed, Copied, MovementAbandoned, MovementEnded, Written), ("records", "extent")
    ),
    **dict.fromkeys((JobChanged, JobEnded), ("jobs", "job")),
}
"""Change -> the table's rows, and the field that names one of them."""
_ENDS = frozenset((Completed, ContainerGone, DiskDeleted, MovementAbandoned, MovementEnded))
"""After these the row that they name is gone."""


class Contradiction(Exception):
    """A commit names what is not there."""


def check(table: Table, changes: Iterable[AnyChange]) -> None:
    """Raises `Contradiction` for changes that the table, as it is, cannot take in."""
    gone: set[tuple[str, int]] = set()
    for change in changes:
        kind = type(change)
        names = _NAMES.get(kind)
        if names is None:
            if isinstance(change, Cleaned | CleaningBegun):
                _check_cleaning(table, change, gone)
            continue
        rows, field = names
        number: int = getattr(change, field)
        if number not in getattr(table, rows) or (gone and (rows, number) in gone):
            raise Contradiction(f"{change!r}: there is no such row among the {rows}")
        if kind in _ENDS:
            gone.add((rows, number))


def _check_cleaning(
    table: Table, change: Cleaned | CleaningBegun, gone: set[tuple[str, int]]
) -> None:
    """A container that is given up takes along what is being zeroed there."""
    for location in change.locations:
        number = container_of(location)
        if number not in table.containers or ("containers", number) in gone:
            raise Contradiction(f"{change!r}: there is no such row among the containers")
        if isinstance(change, Cleaned) and location not in table.cleaning:
            raise Contradiction(f"{change!r}: there is no such row among what is being zeroed")
