"""The client's calls about disks."""

from __future__ import annotations

from urllib.parse import quote

from segue.api.disks import (
    CreateDisk,
    DiskDrawing,
    DiskInfo,
    DiskMap,
    DiskProblems,
    RenameDisk,
    ResizeDisk,
)
from segue.api.explain import Explanation
from segue.api.latency import DiskLatency
from segue.client.agents import Agents
from segue.client.connection import ApiError


class Disks(Agents):
    """``/v1/disks``."""

    def disks(self) -> list[DiskInfo]:
        """All disks, by number."""
        return self.call("GET", "disks", list[DiskInfo])

    def disk(self, name: str) -> DiskInfo:
        """The disk of that name."""
        return self.call("GET", f"disks/{quote(name, safe='')}", DiskInfo)

    def create_disk(
        self,
        name: str,
        size_bytes: int,
        block_bytes: int = 4096,
        segment_bytes: int | None = None,
        container: str | None = None,
    ) -> DiskInfo:
        """Make a thin disk, all zero; `segment_bytes` names the pool, `container` where in it."""
        body = CreateDisk(name, size_bytes, block_bytes, segment_bytes, container)
        return self.call("POST", "disks", DiskInfo, body)

    def resize_disk(self, name: str, size_bytes: int, force: bool = False) -> DiskInfo:
        """Give a disk another size; shrinking over data is refused unless `force`."""
        body = ResizeDisk(size_bytes, force)
        return self.call("POST", f"disks/{quote(name, safe='')}/resize", DiskInfo, body)

    def rename_disk(self, name: str, new: str) -> DiskInfo:
        """Give a disk another name; hosts that have it go on."""
        body = RenameDisk(new)
        return self.call("POST", f"disks/{quote(name, safe='')}/rename", DiskInfo, body)

    def delete_disk(self, name: str, force: bool = False) -> None:
        """Delete a disk and what is on it; refused while hosts use it, unless `force`."""
        query = "?force=true" if force else ""
        self.call("DELETE", f"disks/{quote(name, safe='')}{query}", type(None))

    def clear_error(self, name: str) -> DiskInfo:
        """Take note of the disk's flush errors, and end them."""
        return self.call("POST", f"disks/{quote(name, safe='')}/clear-error", DiskInfo)

    def disk_map(self, name: str, first_segment: int = 0, max_runs: int = 1000) -> DiskMap:
        """Where the segments lie, from `first_segment` on; 10,000 runs at most."""
        query = f"first_segment={first_segment}&max_runs={max_runs}"
        return self.call("GET", f"disks/{quote(name, safe='')}/map?{query}", DiskMap)

    def disk_drawing(self, name: str, cells: int = 1000) -> DiskDrawing:
        """The same summed up in equal cells, so many at most; 10,000 is the end."""
        return self.call("GET", f"disks/{quote(name, safe='')}/drawing?cells={cells}", DiskDrawing)

    def disk_latency(self, name: str) -> DiskLatency:
        """How long the disk's hosts waited, by operation and cause."""
        return self.call("GET", f"disks/{quote(name, safe='')}/latency", DiskLatency)

    def disk_problems(self, name: str) -> list[str]:
        """What may keep the disk from being opened, one sentence each; empty: nothing."""
        return self.call("GET", f"disks/{quote(name, safe='')}/problems", DiskProblems).problems

    def explain(self, name: str, offset_bytes: int) -> Explanation:
        """The byte at that offset: which entry, where, why, and who is at it."""
        path = f"disks/{quote(name, safe='')}/explain?offset={offset_bytes}"
        return self.call("GET", path, Explanation)

    def disk_uris(self, name: str, agent: str | None = None) -> list[str]:
        """NBD URIs of the disk, at the agents that are there (or the one named)."""
        self.disk(name)
        uris = [
            _with_export(uri, name)
            for info in self.agents()
            if info.state == "present" and agent in (None, info.name)
            for uri in info.listens
        ]
        if self.is_url and uris:
            uris = [uri for uri in uris if not uri.startswith("nbd+unix:")]
            if not uris:
                raise ApiError(
                    f"the agents of {self.where} listen on sockets of their machine only"
                )
        if not uris:
            who = "no agent" if agent is None else f"no agent called {agent}"
            raise ApiError(f"{who} is there to serve {name}")
        return uris


def _with_export(uri: str, export: str) -> str:
    """``nbd://h:p`` or ``nbd+unix:///?socket=S`` with the export put in its place."""
    base, question, query = uri.partition("?")
    return f"{base}{'' if base.endswith('/') else '/'}{export}{question}{query}"
