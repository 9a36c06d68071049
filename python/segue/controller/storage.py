"""The controller's own hands on containers, for production: `Storage` over `_native`.

Blocking calls run in threads of their own pool; `_native.StorageHandle` lets go of the
interpreter meanwhile.  Every handle carries the lock of the controller's fence (rule 11), which
ends with this process, its threads' I/O included.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from errno import ENODEV
from functools import partial
from typing import TypeVar

from segue import _native
from segue.controller.ports import CreatedContainer, Ending, Stamp
from segue.wire.messages import ContainerSpec

T = TypeVar("T")
THREADS = 8


class NativeStorage:
    """`segue.controller.ports.Storage` over real containers."""

    def __init__(self) -> None:
        self._handles: dict[int, _native.StorageHandle] = {}
        self._until_ns = 0
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="segue-storage")

    async def create(
        self,
        uri: str,
        size_bytes: int,
        segment_bytes: int,
        identity: bytes,
        installation: bytes,
        cache: str,
    ) -> CreatedContainer:
        """See `Storage.create`."""
        made = await self._run(
            partial(
                _native.create_container,
                uri,
                size_bytes,
                segment_bytes,
                identity,
                installation,
                cache,
            )
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

    def has_fence(self, container: int) -> bool | None:
        """See `Storage.has_fence`."""
        handle = self._handles.get(container)
        return None if handle is None else handle.has_fence()

    async def open(self, spec: ContainerSpec, installation: bytes, fence: int) -> Stamp:
        """See `Storage.open`."""
        if spec.container not in self._handles:
            self._handles[spec.container] = await self._run(
                partial(
                    _native.StorageHandle, spec.uri, spec.cache, spec.identity, installation, fence
                )
            )
        handle = self._handles[spec.container]
        handle.set_lease(self._until_ns)
        handle.set_policy(spec.uri)
        header = await self._run(handle.header)
        return Stamp(header["term"], header["commit"])

    async def remove(self, spec: ContainerSpec) -> None:
        """See `Storage.remove`."""
        handle = self._handles.pop(spec.container, None)
        if handle is not None:
            await self._run(handle.close)
        await self._run(
            partial(_native.remove_container, spec.uri, spec.identity, spec.cache),
        )

    async def zero(self, container: int, offset_bytes: int, length_bytes: int) -> None:
        """See `Storage.zero`."""
        await self._run(partial(self._handle(container).zero, offset_bytes, length_bytes))

    async def copy(
        self, source: int, source_bytes: int, target: int, target_bytes: int, length_bytes: int
    ) -> None:
        """See `Storage.copy`."""
        await self._run(
            partial(
                self._handle(target).copy_from,
                self._handle(source),
                source_bytes,
                target_bytes,
                length_bytes,
            )
        )

    async def flush(self, container: int) -> None:
        """See `Storage.flush`."""
        await self._run(self._handle(container).flush)

    async def fence_ended(self, container: int, holder: int, ending: Ending) -> bool:
        """See `Storage.fence_ended`."""
        return await self._run(partial(self._handle(container).fence_ended, holder, ending))

    def extend(self, until_ns: int) -> None:
        """See `Storage.extend`."""
        self._until_ns = max(self._until_ns, until_ns)
        for handle in self._handles.values():
            handle.set_lease(self._until_ns)

    async def stamp(self, container: int, stamp: Stamp) -> None:
        """See `Storage.stamp`."""
        await self._run(partial(self._handle(container).stamp, stamp.term, stamp.commit))

    def close(self) -> None:
        """Let go of all containers; calls still running finish first."""
        self._pool.shutdown()
        for handle in self._handles.values():
            handle.close()
        self._handles.clear()

    def _handle(self, container: int) -> _native.StorageHandle:
        handle = self._handles.get(container)
        if handle is None:
            raise OSError(ENODEV, f"container {container} is not open")
        return handle

    async def _run(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, call)
