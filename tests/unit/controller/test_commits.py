"""A commit's outcome is known before anybody who waits for it goes on."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from segue.controller.changes import AnyChange, FenceEnded
from segue.controller.commits import Commits, TermEnded
from segue.controller.table import Table
from segue.controller.waits import Waits
from segue.store.contract import Store, StoreError


class SlowStore:
    """Appends when the test says so."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.may_end: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def append(self, term: int, number: int, body: bytes) -> None:
        self.begun.set()
        await self.may_end


class Counter:
    """In a table's place: counts what was applied."""

    number = 0

    def apply(self, changes: list[AnyChange]) -> None:
        self.number += 1


def commits_over(store: SlowStore, failures: list[BaseException]) -> tuple[Commits, Counter]:
    table = Counter()
    made = Commits(cast(Store, store), cast(Table, table), 1, failures.append, Waits())
    return made, table


async def commit_until_known(commits: Commits, held: list[str]) -> None:
    held.append("lock")
    try:
        await commits.commit(FenceEnded(1))
    finally:
        held.remove("lock")


@pytest.mark.parametrize("fails", [False, True])
def test_who_is_cancelled_keeps_its_locks_until_the_outcome_is_known(fails: bool) -> None:
    async def main() -> None:
        store, held, failures = SlowStore(), list[str](), list[BaseException]()
        commits, table = commits_over(store, failures)
        task = asyncio.create_task(commit_until_known(commits, held))
        other = asyncio.create_task(commits.commit(FenceEnded(2)))
        await store.begun.wait()
        for _ in range(3):
            task.cancel()
            await asyncio.sleep(0)
        assert held == ["lock"] and not task.done()
        store.may_end.set_exception(StoreError("gone")) if fails else store.may_end.set_result(None)
        ends = await asyncio.gather(task, other, return_exceptions=True)
        assert isinstance(ends[0], asyncio.CancelledError)
        assert not held
        assert (table.number, len(failures)) == ((0, 1) if fails else (1, 0))
        assert isinstance(ends[1], TermEnded) if fails else ends[1] is None

    asyncio.run(main())
