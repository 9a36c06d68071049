"""The controller's own hands on containers, for production: `Storage` over `_native`.

Blocking calls run in threads, so many for each container that one which hangs holds up no other;
`_native.StorageHandle` lets go of the interpreter meanwhile.  Every handle carries the lock of the
controller's fence (rule 11), which ends with this process, its threads' I/O included.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from errno import ENODEV
from functools import partial
from typing import Any, TypeVar
from urllib.parse import unquote_to_bytes

from segue import _native
from segue.controller.ports import CreatedContainer, Ending, Note, Room, Stamp
from segue.wire.messages import ContainerSpec

T = TypeVar("T")
THREADS = 8
"""Calls under way at once at one container."""
LOOKS = -1
"""The pool of those who only look: a file system that hangs must not take a container's threads."""
LOOK_S = 1.0
LAST_CALLS_S = 10.0
"""How long calls still under way are waited for at a clean stop."""


class NativeStorage:
    """`segue.controller.ports.Storage` over real containers."""

    def __init__(self) -> None:
        self._handles: dict[int, _native.StorageHandle] = {}
        self._until_ns = 0
        self._pools: dict[int, ThreadPoolExecutor] = {}
        """By container; 0: for what is not one yet, or no more; `LOOKS`."""
        self._calls: set[Future[Any]] = set()

    async def create(
        self,
        uri: str,
        size_bytes: int,
        segment_bytes: int,
        identity: bytes,
        installation: bytes,
        term: int,
        cache: str,
        erase: bool,
    ) -> CreatedContainer:
        """See `Storage.create`."""
        made = await self._run(
            0,
            partial(
                _native.create_container,
                uri,
                size_bytes,
                segment_bytes,
                identity,
                installation,
                term,
                cache,
                erase=erase,
            ),
        )
        return CreatedContainer(
            segments=made["segments"],
            write_unit_bytes=made["write_unit_bytes"],
            clean=made["clean"],
        )

    def away_s(self, container: int) -> float | None:
        """See `Storage.away_s`."""
        handle = self._handles.get(container)
        return None if handle is None else handle.away_s()

    async def room(self, uri: str) -> Room | None:
        """See `Storage.room`; a file system that does not answer within a second is not known."""
        path = _file_of(uri)
        if path is None:
            return None
        try:
            return await asyncio.wait_for(self._run(LOOKS, partial(_room, path)), LOOK_S)
        except OSError:
            return None

    def has_fence(self, container: int) -> bool | None:
        """See `Storage.has_fence`."""
        handle = self._handles.get(container)
        return None if handle is None else handle.has_fence()

    async def open(self, spec: ContainerSpec, installation: bytes, fence: int) -> Stamp:
        """See `Storage.open`."""
        if spec.container not in self._handles:
            self._handles[spec.container] = await self._run(
                spec.container,
                partial(
                    _native.StorageHandle, spec.uri, spec.cache, spec.identity, installation, fence
                ),
            )
        handle = self._handles[spec.container]
        handle.set_lease(self._until_ns)
        handle.set_policy(spec.uri)
        header = await self._run(spec.container, handle.header)
        return Stamp(header["term"], header["commit"])

    async def remove(self, spec: ContainerSpec) -> None:
        """See `Storage.remove`."""
        handle = self._handles.pop(spec.container, None)
        if handle is not None:
            await self._run(spec.container, handle.close)
        pool = self._pools.pop(spec.container, None)
        if pool is not None:
            pool.shutdown(wait=False)
        await self._run(0, partial(_native.remove_container, spec.uri, spec.identity, spec.cache))

    def forget(self, container: int) -> None:
        """See `Storage.forget`; its calls under way keep what they use until they end."""
        handle = self._handles.pop(container, None)
        pool = self._pools.pop(container, None)
        if pool is not None:
            if handle is not None:
                pool.submit(handle.close)
            pool.shutdown(wait=False)

    async def zero(self, container: int, offset_bytes: int, length_bytes: int) -> None:
        """See `Storage.zero`."""
        await self._run(
            container, partial(self._handle(container).zero, offset_bytes, length_bytes)
        )

    async def copy(
        self, source: int, source_bytes: int, target: int, target_bytes: int, length_bytes: int
    ) -> None:
        """See `Storage.copy`."""
        await self._run(
            target,
            partial(
                self._handle(target).copy_from,
                self._handle(source),
                source_bytes,
                target_bytes,
                length_bytes,
            ),
        )

    async def flush(self, container: int) -> None:
        """See `Storage.flush`."""
        await self._run(container, self._handle(container).flush)

    async def note(self, container: int) -> Note | None:
        """See `Storage.note`."""
        found = await self._run(container, self._handle(container).note)
        return None if found is None else Note(*found)

    async def clear_note(self, container: int, note: Note) -> None:
        """See `Storage.clear_note`."""
        call = partial(self._handle(container).clear_note, note.errno, note.holder, note.serial)
        await self._run(container, call)

    async def fence_ended(self, container: int, holder: int, ending: Ending) -> bool:
        """See `Storage.fence_ended`."""
        call = partial(self._handle(container).fence_ended, holder, ending)
        return await self._run(container, call)

    def is_away(self, container: int) -> bool:
        """See `Storage.is_away`."""
        handle = self._handles.get(container)
        return handle is None or handle.away_s() is not None

    def extend(self, until_ns: int) -> None:
        """See `Storage.extend`."""
        self._until_ns = max(self._until_ns, until_ns)
        for handle in self._handles.values():
            handle.set_lease(self._until_ns)

    async def stamp(self, container: int, stamp: Stamp) -> None:
        """See `Storage.stamp`."""
        call = partial(self._handle(container).stamp, stamp.term, stamp.commit)
        await self._run(container, call)

    def close(self) -> bool:
        """Let go of all containers, and wait a while for calls still under way; whether all ended.

        One may never end: a write to a server that has gone, and cannot prove that it has ended.
        """
        for pool in self._pools.values():
            pool.shutdown(wait=False, cancel_futures=True)
        late = wait(list(self._calls), timeout=LAST_CALLS_S).not_done
        if not late:
            for handle in self._handles.values():
                handle.close()
        self._handles.clear()
        return not late

    def _handle(self, container: int) -> _native.StorageHandle:
        handle = self._handles.get(container)
        if handle is None:
            raise OSError(ENODEV, f"container {container} is not open")
        return handle

    async def _run(self, container: int, call: Callable[[], T]) -> T:
        pool = self._pools.get(container)
        if pool is None:
            pool = ThreadPoolExecutor(THREADS, thread_name_prefix=f"segue-storage-{container}")
            self._pools[container] = pool
        under_way = pool.submit(call)
        self._calls.add(under_way)
        under_way.add_done_callback(self._calls.discard)
        return await asyncio.wrap_future(under_way)


def _file_of(uri: str) -> bytes | None:
    """The path of a file container, whatever wraps it; None: it is no file."""
    scheme, _, path = uri.partition("://")
    return unquote_to_bytes(path) if scheme.split("+")[-1] == "file" else None


def _room(path: bytes) -> Room:
    there, file = os.statvfs(os.path.dirname(path)), os.stat(path)
    return Room(
        file_system=file.st_dev,
        total_bytes=there.f_blocks * there.f_frsize,
        free_bytes=there.f_bavail * there.f_frsize,
        file_bytes=file.st_size,
        allocated_bytes=file.st_blocks * 512,
    )
