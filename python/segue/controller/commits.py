"""Makes commits durable, many at a time.

Procedures call `commit` with their changes and wait.  While one group is being written, what
arrives is gathered into the next; a group is one record, atomic, with one sync.  The table takes a
group in only when it is durable, before any of its procedures goes on: whoever reads the table
reads what is durable, and whoever still waits holds the locks of what it changes.

Interleavings: a group in flight and the next one being gathered touch disjoint rows, because each
procedure holds its locks until its own commit has returned.  A crash between the store's sync and
`apply` leaves a durable group that nobody was told of: the new term finds it in the log.  An
append that fails has an unknown outcome: nothing is retried, the term ends (`on_failure`) and the
next one reads what is there.  A procedure that decides by a row whose removal is in flight would
commit what cannot be applied: locks exclude that, and `contradictions.py` looks once more.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from segue import failpoints
from segue.controller import contradictions
from segue.controller.changes import AnyChange, encode_changes
from segue.controller.table import Table
from segue.controller.waits import Waits, current_work
from segue.store.contract import Store, StoreError

log = logging.getLogger("segue.controller.commits")


class TermEnded(Exception):
    """This controller may not commit any more; its process must exit."""


class _Outcome(asyncio.Future[int]):
    """A commit's number, once it is durable.

    A procedure that is cancelled while it waits must not leave before the outcome is known: its
    locks guard it.  So this is not cancelled; asyncio then cancels the waiting task with the
    outcome (a shield does the same at twice the cost).
    """

    def cancel(self, msg: object = None) -> bool:
        """Refuses."""
        return False


class Commits:
    """The only way to change the durable table."""

    def __init__(
        self,
        store: Store,
        table: Table,
        term: int,
        on_failure: Callable[[BaseException], None],
        waits: Waits,
    ) -> None:
        self._store = store
        self._table = table
        self._term = term
        self._on_failure = on_failure
        self._waits = waits
        self._gathered: list[AnyChange] = []
        self._waiting: list[_Outcome] = []
        self._writer: asyncio.Task[None] | None = None
        self._ended: BaseException | None = None
        self.log_bytes = 0
        """Bytes of records since the last checkpoint."""
        self.groups = 0
        self.changes = 0

    async def commit(self, *changes: AnyChange) -> None:
        """Returns when the changes are durable and in the table; all or none of them.

        Raises `TermEnded`, after which nothing is known of their outcome.
        """
        if self._ended is not None:
            raise TermEnded from self._ended
        loop = asyncio.get_running_loop()
        done = _Outcome(loop=loop)
        self._gathered.extend(changes)
        self._waiting.append(done)
        if self._writer is None:
            self._writer = loop.create_task(self._write())
            self._writer.add_done_callback(self._writer_ended)
        with self._waits.on("commit", "the store"):
            number = await done
        work = current_work()
        if work is not None:
            work.commit = number
            if log.isEnabledFor(logging.DEBUG):
                log.debug("event=committed commit=%d %s", number, work.ids)

    async def _write(self) -> None:
        try:
            while self._gathered:
                changes, self._gathered = self._gathered, []
                waiting, self._waiting = self._waiting, []
                await self._append(changes)
                for done in waiting:
                    done.set_result(self._table.number)
            self._writer = None
        except BaseException as error:
            self._fail(error, waiting)
            if not isinstance(error, StoreError):
                raise

    def _writer_ended(self, writer: asyncio.Task[None]) -> None:
        # Cancelled before its first step: the loop is closing.
        if writer.cancelled() and self._ended is None:
            self._fail(asyncio.CancelledError(), [])

    async def _append(self, changes: Sequence[AnyChange]) -> None:
        contradictions.check(self._table, changes)
        body = encode_changes(changes)
        failpoints.hit("commit.before")
        await self._store.append(self._term, self._table.number + 1, body)
        failpoints.hit("commit.durable")
        self._table.apply(changes)
        self.log_bytes += len(body)
        self.groups += 1
        self.changes += len(changes)

    def _fail(self, error: BaseException, waiting: list[_Outcome]) -> None:
        self._ended = error
        for done in waiting + self._waiting:
            if not done.done():
                done.set_exception(TermEnded(str(error)))
        self._on_failure(error)
