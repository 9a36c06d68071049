"""A request that waits is known while it waits, and what for: `segue status` shows it.

Whoever asked for it may go meanwhile: then it is not begun.
"""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from segue.controller.api import make_api
from segue.controller.controller import Controller
from segue.controller.locks import Locks
from segue.controller.waits import Waits
from tests.unit.controller.test_waits import Clock, settled

REBALANCE = ("POST", "/v1/jobs/rebalance", b"{}")
CREATE = ("POST", "/v1/disks", b'{"name": "d", "size_bytes": 4096}')
REMOVE = ("DELETE", "/v1/containers/c", b"")


class Client:
    """One request to an API whose controller has nothing but locks, and what was answered."""

    def __init__(self, waits: Waits, locks: Locks, request: tuple[str, str, bytes]) -> None:
        method, path, body = request
        self.scope = {
            "type": "http",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": [(b"content-type", b"application/json")],
            "scheme": "http",
            "server": ("x", 80),
            "client": ("x", 1),
        }
        self.body = body
        self.sent: list[Any] = []
        self.has_gone = asyncio.Event()
        c = SimpleNamespace(clock=Clock(), waits=waits, locks=locks)
        app = make_api(cast(Controller, c))
        self._bodies = [{"type": "http.request", "body": body, "more_body": False}]
        self.asked = asyncio.ensure_future(
            app(cast(Any, self.scope), cast(Any, self._receive), self._send)
        )

    async def _receive(self) -> dict[str, Any]:
        if self._bodies:
            return self._bodies.pop()
        await self.has_gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        self.sent.append(message)


def test_a_request_that_waits_is_seen() -> None:
    async def main() -> None:
        waits = Waits()
        locks = Locks(waits)
        await locks.acquire(("jobs",), exclusive=True)
        client = Client(waits, locks, REBALANCE)
        await settled()
        [work] = waits.works
        assert str(work.what) == "request POST /v1/jobs/rebalance"
        assert [wait.kind for wait in work.waits] == ["lock"]
        client.asked.cancel()
        await asyncio.gather(client.asked, return_exceptions=True)
        assert not waits.works

    asyncio.run(main())


@pytest.mark.parametrize(
    ("request_", "lock"), [(CREATE, ("disks",)), (REMOVE, ("containers",))], ids=["POST", "DELETE"]
)
def test_what_nobody_waits_for_any_more_is_not_begun(
    request_: tuple[str, str, bytes], lock: tuple[str]
) -> None:
    async def main() -> None:
        waits = Waits()
        locks = Locks(waits)
        await locks.acquire(lock, exclusive=True)
        client = Client(waits, locks, request_)
        await settled()
        client.has_gone.set()
        await settled()
        assert not client.asked.done()
        locks.release(lock, exclusive=True)
        await client.asked
        assert [m["status"] for m in client.sent if "status" in m] == [409]
        assert b"has gone; nothing was begun" in client.sent[-1]["body"]

    asyncio.run(main())
