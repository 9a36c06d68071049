"""A commit that could not be applied never becomes durable."""

from __future__ import annotations

import asyncio
import typing

import msgspec
import pytest

from segue.controller.changes import (
    AnyChange,
    Cleaned,
    CleaningBegun,
    Completed,
    ContainerAdded,
    ContainerDraining,
    ContainerGone,
    ContainerLinger,
    DiskDeleted,
    DiskMade,
    DiskRenamed,
    FlushCleared,
    JobChanged,
    JobEnded,
    JobMade,
    Written,
)
from segue.controller.commits import Commits, TermEnded
from segue.controller.contradictions import Contradiction, check
from segue.controller.record import location_of
from segue.controller.table import ENDED_JOBS, Table
from segue.controller.waits import Waits

CONTAINER = ContainerAdded(1, "c", "file:///c", b"i" * 16, 1 << 16, 100, "page", 1, True)
DISK = DiskMade(1, "d", 1 << 20, 1 << 16, 4096, [1])


def a_table() -> Table:
    table = Table()
    table.apply([CONTAINER, DISK])
    return table


@pytest.mark.parametrize(
    "changes",
    [
        [ContainerLinger(2, 1.0)],
        [ContainerGone(1), ContainerLinger(1, 1.0)],
        [ContainerGone(1), ContainerDraining(1, False)],
        [FlushCleared(2)],
        [DiskDeleted(1, []), DiskRenamed(1, "e")],
        [JobChanged(1, 0, True)],
        [Written(7, 0, 1)],
        [Completed(7)],
        [CleaningBegun([location_of(2, 0)], 1)],
        [ContainerGone(1), CleaningBegun([location_of(1, 0)], 1)],
        [Cleaned([location_of(1, 0)])],
        [ContainerGone(1), Cleaned([location_of(1, 0)])],
    ],
)
def test_rows_that_are_not_there(changes: list[AnyChange]) -> None:
    with pytest.raises(Contradiction, match="no such row"):
        check(a_table(), changes)


def test_every_change_that_takes_a_row_for_granted_is_looked_at() -> None:
    """A table that has nothing in it: whatever it cannot take in is refused before."""
    unapplied = []
    for kind in typing.get_args(AnyChange):
        change = msgspec.convert([kind.__struct_config__.tag, *fields_of(kind)], kind)
        try:
            check(Table(), [change])
            Table().apply([change])
        except Contradiction:
            pass
        except Exception:
            unapplied.append(kind.__name__)
    assert not unapplied


def fields_of(kind: type) -> list[object]:
    """Some value of each field's type."""
    values: dict[object, object] = {int: 1, str: "x", bytes: b"x", bool: False, float: 1.0}
    return [values.get(field.type, []) for field in msgspec.structs.fields(kind)]


def test_rows_that_are_there() -> None:
    check(a_table(), [ContainerLinger(1, 1.0), DiskRenamed(1, "e"), FlushCleared(1)])
    check(a_table(), [DiskDeleted(1, []), ContainerGone(1)])


def test_the_term_ends_with_the_table_whole() -> None:
    bodies = []

    class Store:
        async def append(self, term: int, number: int, body: bytes) -> None:
            bodies.append(body)

    async def main() -> None:
        failures: list[BaseException] = []
        commits = Commits(Store(), a_table(), 1, failures.append, Waits())  # type: ignore[arg-type]
        await commits.commit(DiskDeleted(1, []))
        late = asyncio.create_task(commits.commit(FlushCleared(1)))
        with pytest.raises(TermEnded):
            await late
        [failure] = failures
        assert isinstance(failure, Contradiction)
        assert len(bodies) == 1
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)

    asyncio.run(main())


def test_the_job_that_ended_last_is_remembered_longest() -> None:
    """However old it is: an operator may cancel it while its end is being committed."""
    table = a_table()
    for job in range(1, ENDED_JOBS + 3):
        table.apply([JobMade(job, "rebalance", 0, 0, 0, 0, 0)])
    for job in range(2, ENDED_JOBS + 3):
        table.apply([JobEnded(job, "done", "")])
    table.apply([JobEnded(1, "done", "")])
    check(table, [JobChanged(1, 0, True)])
    table.apply([JobChanged(1, 0, True)])
    assert 2 not in table.jobs
