"""The store on SQLite: one file, one process, one thread that commits (DESIGN.md, section 8).

`SqliteStore` is the asynchronous shell: it queues what is asked to its thread and settles futures
when answers come back.  `sqlite_file.py` has the tables and transactions, `place.py` the lock and
what file systems are refused, `sqlite_wal.py` what SQLite would overlook.

What finds no room waits in the thread and is done again until there is some; why that is safe
stands in `sqlite_file.py`.  Appends wait in their order, all behind the first; whatever else is
asked for goes past them, term reads above all: leases live by those.
"""

from __future__ import annotations

import asyncio
import logging
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import groupby, islice
from typing import NamedTuple, TypeVar, cast

from .contract import (
    Loaded,
    LogRecord,
    NoRoom,
    StoreCorrupt,
    StoreError,
    StoreFailed,
    StoreFull,
    StoreTooNew,
    Superseded,
)
from .mark import refuse_lost
from .place import (
    NO_ROOM,
    InstallationLock,
    create_file,
    lacks_room,
    refuse_network_file_system,
    sync_folder,
)
from .sqlite_file import (
    SQLITE_ERRORS,
    SqliteFile,
    connect,
    copy_wal,
    read_pages,
    store_error,
)
from .sqlite_wal import wal_damage

STAGE_PAGES = 32
"""Pages written in one transaction ahead of a checkpoint: a commit waits for one of these."""
ROOM_S = 0.5
"""Pause before what has found no room is done again."""
COPY_AGAIN_S = 5.0
"""Before the WAL, which has found none, is copied again."""

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


class _Job(NamedTuple):
    """What the thread is to do: `call`, or (a commit) append `record` with its neighbours.

    Nobody waits for the result where there is no future.
    """

    future: asyncio.Future[object] | None
    call: Callable[[], object] | None
    record: LogRecord | None


_Result = tuple[asyncio.Future[object] | None, object, BaseException | None]


class SqliteStore:
    """`Store` in one SQLite file: WAL, synchronous=FULL.

    Commits waiting together share one transaction.  `path` is the database, `path.lock` the
    installation's lock.  Raises at once `StoreInUse`, `StoreUnsafe`, `StoreTooNew`,
    `StoreCorrupt`, `StoreFailed`, `StoreFull`, or `StoreError` for a folder that is not there.
    """

    def __init__(self, path: str, *, exclusive: bool = True, must_exist: bool = False) -> None:
        """Open or create the store.

        `exclusive=False` takes no lock and does not look for damage in the WAL: for a second
        controller on the same machine, kept apart by terms alone.  With `must_exist` nothing is
        created: a store that is missing or empty is damaged, and left as it is.
        """
        self.path = os.path.abspath(path)
        self._lock: InstallationLock | None = None
        self._reader: sqlite3.Connection | None = None
        self._closed = False
        self._broken: Exception | None = None  # the thread's, like the next one
        self._copying: threading.Thread | None = None
        self._copy_again = 0.0  # not before then, where the last copy found no room
        self._held: list[_Job] = []  # what waits for room
        self._again = 0.0
        self._full_since: float | None = None
        self._giving_up = False
        self._checkpointing = asyncio.Lock()
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._file = self._open(exclusive, must_exist)
        self._thread = threading.Thread(target=self._run, name="segue-store", daemon=True)
        self._thread.start()

    def _open(self, exclusive: bool, must_exist: bool) -> SqliteFile:
        folder = os.path.dirname(self.path)
        try:
            refuse_network_file_system(folder)
            if exclusive:
                # SQLite itself would not live through it: see `sqlite_file.py`.
                if lacks_room(folder):
                    raise StoreFull(f"{folder} has no room for the store's index")
                self._lock = InstallationLock(self.path + ".lock")
                if damage := wal_damage(self.path + "-wal"):
                    raise StoreCorrupt(damage)
            if must_exist:
                # Before SQLite sees it, which deletes the WAL of an empty file.
                refuse_lost(self.path)
            else:
                create_file(self.path)
            file = SqliteFile(self.path, must_exist=must_exist, alone=exclusive)
            # Not only when the file is new: a crash may have come between the two.
            sync_folder(folder)
            return file
        except OSError as error:
            self._unlock()
            kind = StoreFull if error.errno in NO_ROOM else StoreError
            raise kind(f"{self.path}: {error.strerror}") from error
        except StoreFailed as error:
            self._unlock()
            # For its index SQLite has other words (SQLITE_IOERR_SHMSIZE, SQLITE_CANTOPEN).  No
            # transaction's outcome is at stake: whoever opens it next finds what there is.
            if lacks_room(folder):
                raise StoreFull(str(error)) from error
            raise
        except StoreError:
            self._unlock()
            raise

    def _unlock(self) -> None:
        if self._lock:
            self._lock.release()

    # The store's contract --------------------------------------------------------------------

    async def begin_term(self) -> Loaded:
        """See `Store.begin_term`."""
        head, checkpoint, log = await self._do(self._file.begin_term)
        await self._do(self._file.write_afresh)
        while await self._do(partial(self._file.sweep, head.term)):
            pass
        self._close_reader()
        self._reader = reader = connect(self.path, read_only=True)
        return Loaded(
            term=head.term,
            number=head.number,
            checkpoint_number=checkpoint.number,
            root=checkpoint.root,
            log=log,
            read_pages=partial(read_pages, reader),
        )

    async def newest_term(self) -> int:
        """See `Store.newest_term`."""
        return await self._do(self._file.newest_term)

    async def append(self, term: int, number: int, body: bytes) -> None:
        """See `Store.append`."""
        await self._queue(None, LogRecord(term, number, body))

    async def checkpoint(
        self,
        term: int,
        number: int,
        root: bytes,
        pages: Mapping[int, bytes],
        freed: Sequence[int],
    ) -> None:
        """See `Store.checkpoint`; commits go on between its pieces."""
        async with self._checkpointing:
            self._close_reader()
            waiting = iter(pages.items())
            while piece := dict(islice(waiting, STAGE_PAGES)):
                await self._do(partial(self._file.stage, term, piece))
            replace = partial(self._file.checkpoint, term, number, root, len(pages), freed)
            await self._do(replace)
            while await self._do(partial(self._file.sweep, term)):
                pass

    def no_room(self) -> NoRoom | None:
        """See `Store.no_room`."""
        since = self._full_since
        return None if since is None else NoRoom(self.path, time.monotonic() - since)

    def stop_waiting(self) -> None:
        """From now on what finds no room is not waited for: it fails, and all after it."""
        self._giving_up = True
        self._jobs.put(_Job(None, lambda: None, None))

    async def close(self) -> None:
        """See `Store.close`."""
        if not self._closed:
            self._closed = True
            self._giving_up = True
            self._close_reader()
            self._jobs.put(None)
        while self._thread.is_alive():
            await asyncio.to_thread(self._thread.join)
        self._unlock()

    def _close_reader(self) -> None:
        if self._reader:
            self._reader.close()
            self._reader = None

    # The thread ------------------------------------------------------------------------------

    async def _do(self, call: Callable[[], _T]) -> _T:
        return cast(_T, await self._queue(call, None))

    def _queue(
        self, call: Callable[[], object] | None, record: LogRecord | None
    ) -> asyncio.Future[object]:
        future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        if self._closed:
            future.set_exception(StoreFailed("the store is closed"))
        else:
            self._jobs.put(_Job(future, call, record))
        return future

    def _run(self) -> None:
        stopping = False
        while not stopping:
            asked = self._asked()
            stopping = None in asked
            jobs = list(filter(None, asked))
            if stopping or self._giving_up or time.monotonic() >= self._again:
                jobs, self._held = self._held + jobs, []
            for is_append, group in groupby(jobs, key=lambda job: job.call is None):
                if is_append:
                    self._settle_soon(self._append(list(group)))
                else:
                    for job in group:
                        self._settle_soon(self._call(job))
            self._copy_full_wal()
            if not self._held and not self._copy_again:
                self._room_found()
        if self._copying:
            self._copying.join()
        self._file.close()

    def _asked(self) -> list[_Job | None]:
        """Waits until something is asked for, or what waits for room is to be done again."""
        pause_s = max(0.0, self._again - time.monotonic()) if self._held else None
        asked: list[_Job | None] = []
        with suppress(queue.Empty):
            asked.append(self._jobs.get(timeout=pause_s))
            while True:
                asked.append(self._jobs.get_nowait())
        return asked

    def _copy_full_wal(self) -> None:
        if self._copying or self._broken or time.monotonic() < self._copy_again:
            return
        if self._file.wal_is_full():
            self._copying = threading.Thread(target=self._copy_wal, name="segue-store-wal")
            self._copying.start()

    def _copy_wal(self) -> None:
        """In a thread of its own: the long part; the rest goes between two commits."""
        try:
            copy_wal(self.path)
        except SQLITE_ERRORS as error:
            # Nothing is lost: the WAL grows, and the next copy begins where this one did.
            if not isinstance(store_error(error, "WAL"), StoreFull):
                _log.warning("store %s: copying the WAL: %s", self.path, error)
        self._jobs.put(_Job(None, self._finish_wal_copy, None))

    def _finish_wal_copy(self) -> None:
        self._copying = None
        self._copy_again = 0.0
        try:
            self._file.finish_wal_copy()
        except StoreFull as error:
            self._copy_again = time.monotonic() + COPY_AGAIN_S
            self._found_no_room(error)

    # No room ---------------------------------------------------------------------------------

    def _hold(self, jobs: list[_Job], error: StoreFull) -> list[_Result]:
        """They wait for room, unless nothing waits any more."""
        if self._giving_up:
            self._broken = failed = StoreFailed(f"stopped while there was no room: {error}")
            return [(job.future, None, failed) for job in jobs]
        self._found_no_room(error)
        self._held += jobs
        self._again = time.monotonic() + ROOM_S
        return []

    def _found_no_room(self, error: StoreFull) -> None:
        if self._full_since is None:
            self._full_since = time.monotonic()
            _log.warning(
                "event=store_full path=%s error=%r: its file system has no room; what needs some "
                "waits and is tried again, the rest goes on",
                self.path,
                str(error),
            )

    def _room_found(self) -> None:
        if self._full_since is not None:
            for_s = time.monotonic() - self._full_since
            self._full_since = None
            if self._broken is None:
                _log.warning("event=store_has_room path=%s after_s=%.1f", self.path, for_s)

    # What is done ----------------------------------------------------------------------------

    def _append(self, jobs: list[_Job]) -> list[_Result]:
        if any(job.record for job in self._held):
            self._held += jobs
            return []
        records = [job.record for job in jobs if job.record]
        try:
            self._refuse_after_failure()
            done = self._file.append(records)
        except StoreFull as error:
            return self._hold(jobs, error)
        except Exception as error:
            self._remember(error)
            return [(job.future, None, error) for job in jobs]
        refused = Superseded("the term or the number is not the newest one")
        return [(job.future, None, refused if i >= done else None) for i, job in enumerate(jobs)]

    def _call(self, job: _Job) -> list[_Result]:
        assert job.call is not None
        try:
            self._refuse_after_failure()
            return [(job.future, job.call(), None)]
        except StoreFull as error:
            return self._hold([job], error)
        except Exception as error:
            self._remember(error)
            return [(job.future, None, error)]

    def _refuse_after_failure(self) -> None:
        if self._broken is not None:
            raise StoreFailed(f"the store has failed before: {self._broken}")

    def _remember(self, error: Exception) -> None:
        """After an unknown outcome or damage nothing more is tried."""
        if isinstance(error, StoreFailed | StoreCorrupt | StoreTooNew) and self._broken is None:
            _log.error("store %s: %s", self.path, error)
            self._broken = error

    @staticmethod
    def _settle_soon(results: list[_Result]) -> None:
        future = results[0][0] if results else None
        # The loop may be closed: whoever asked is gone then, and with them the wish to know.
        with suppress(RuntimeError):
            if future is not None:
                future.get_loop().call_soon_threadsafe(_settle, results)


def _settle(results: list[_Result]) -> None:
    for future, value, error in results:
        if future is None or future.done():
            continue  # done: cancelled while it was carried out
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(value)
