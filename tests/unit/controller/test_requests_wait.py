"""A request that waits is known while it waits, and what for: `segue status` shows it."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

from segue.controller.api import make_api
from segue.controller.controller import Controller
from segue.controller.locks import Locks
from segue.controller.waits import Waits
from tests.unit.controller.test_waits import Clock, settled

PATH = "/v1/jobs/rebalance"
SCOPE = {
    "type": "http",
    "method": "POST",
    "path": PATH,
    "raw_path": PATH.encode(),
    "query_string": b"",
    "headers": [(b"content-type", b"application/json")],
    "scheme": "http",
    "server": ("x", 80),
    "client": ("x", 1),
}


def test_a_request_that_waits_is_seen() -> None:
    async def main() -> None:
        clock = Clock()
        waits = Waits(clock.now_ns)
        c = SimpleNamespace(clock=clock, waits=waits, locks=Locks(waits))
        app = make_api(cast(Controller, c))

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"{}", "more_body": False}

        async def send(message: Any) -> None:
            pass

        await c.locks.acquire(("jobs",), exclusive=True)
        asked = asyncio.ensure_future(app(cast(Any, SCOPE), cast(Any, receive), send))
        await settled()
        [work] = waits.works
        assert str(work.what) == f"request POST {PATH}"
        assert [wait.kind for wait in work.waits] == ["lock"]
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
        assert not waits.works

    asyncio.run(main())
