"""The client's calls about containers."""

from __future__ import annotations

from urllib.parse import quote

from segue.api.containers import AddContainer, ContainerInfo, SetLinger
from segue.client.connection import Connection


class Containers(Connection):
    """``/v1/containers``."""

    def containers(self) -> list[ContainerInfo]:
        """All containers, by number."""
        return self.call("GET", "containers", list[ContainerInfo])

    def container(self, name: str) -> ContainerInfo:
        """The container of that name."""
        return self.call("GET", f"containers/{quote(name, safe='')}", ContainerInfo)

    def add_container(
        self,
        name: str,
        uri: str,
        size_bytes: int = 0,
        cache: str | None = None,
        segment_bytes: int | None = None,
        *,
        erase: bool = False,
    ) -> ContainerInfo:
        """Make storage at `uri` into a container; see `AddContainer` for the defaults."""
        body = AddContainer(name, uri, size_bytes, cache, segment_bytes, erase)
        return self.call("POST", "containers", ContainerInfo, body)

    def set_linger(self, name: str, linger_s: float) -> ContainerInfo:
        """So many seconds after its lease a lost agent's I/O has ended there; 0: unknown."""
        path = f"containers/{quote(name, safe='')}/linger"
        return self.call("POST", path, ContainerInfo, SetLinger(linger_s))

    def remove_container(self, name: str, *, lost: bool = False) -> None:
        """Take an empty container out of its pool and give its storage back.

        `lost`: its storage is away for good, nothing is asked of it.
        """
        query = "?lost=true" if lost else ""
        self.call("DELETE", f"containers/{quote(name, safe='')}{query}", type(None))
