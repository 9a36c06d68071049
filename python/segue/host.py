"""A host that remembers what it wrote: for the demo and for tests of whole installations.

When the connection breaks it connects again and repeats the request, as QEMU and nbdkit's `retry`
filter do; whether the first attempt took effect does not matter, the bytes are the same.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from operator import methodcaller
from typing import TypeVar

from segue import _native

T = TypeVar("T")
MIB = 1 << 20
RETRY_S = 60.0
PAUSE_S = 0.01


@dataclass
class Tally:
    """What some hosts did and saw together."""

    writes: int = 0
    zeroes: int = 0
    flushes: int = 0
    reads: int = 0
    written_bytes: int = 0
    read_bytes: int = 0
    wrong: list[str] = field(default_factory=list)
    """One sentence for every read that was not what had been written."""
    broken_connections: int = 0
    slowest_s: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, **counts: int) -> None:
        """Count; hosts run in threads of their own."""
        with self.lock:
            for name, count in counts.items():
                setattr(self, name, getattr(self, name) + count)


class Host:
    """One connection to a disk, and the disk's image as it must read.

    Hosts that share a disk share the image, and keep to ranges of their own: `image` is changed
    when the write has been acknowledged.  All methods raise OSError when an error lasts longer
    than `RETRY_S`.
    """

    def __init__(self, uri: str, disk: str, image: bytearray, tally: Tally) -> None:
        self.disk = disk
        self.image = image
        self.tally = tally
        self._uri = uri
        self._client: _native.NbdClient | None = None

    def write(self, offset: int, data: bytes, *, fua: bool = False) -> None:
        """Write."""
        self._retried(methodcaller("pwrite", data, offset, fua=fua))
        self.image[offset : offset + len(data)] = data
        self.tally.add(writes=1, written_bytes=len(data))

    def zero(self, offset: int, length: int) -> None:
        """Write zeroes; whole segments may be given back."""
        self._retried(methodcaller("zero", length, offset))
        self.image[offset : offset + length] = bytes(length)
        self.tally.add(zeroes=1)

    def flush(self) -> None:
        """Flush."""
        self._retried(methodcaller("flush"))
        self.tally.add(flushes=1)

    def compare(self, offset: int, length: int) -> None:
        """Read, and note in the tally what is not as it must be."""
        got: bytes = self._retried(methodcaller("pread", length, offset))
        self.tally.add(reads=1, read_bytes=length)
        want = self.image[offset : offset + length]
        if got != want:
            wrong = [i for i in range(length) if got[i] != want[i]]
            self.tally.wrong.append(
                f"{self.disk}, {self._uri}: {len(wrong)} bytes from offset {offset + wrong[0]}"
            )

    def compare_all(self) -> None:
        """Read the whole disk."""
        for offset in range(0, len(self.image), MIB):
            self.compare(offset, min(MIB, len(self.image) - offset))

    def close(self) -> None:
        """Disconnect; the other end may be dead already."""
        client, self._client = self._client, None
        if client is not None:
            with contextlib.suppress(OSError):
                client.close()

    def _retried(self, request: Callable[[_native.NbdClient], T]) -> T:
        begun = time.monotonic()
        while True:
            try:
                if self._client is None:
                    self._client = _native.NbdClient(self._uri, self.disk)
                result = request(self._client)
            except OSError:
                if time.monotonic() - begun > RETRY_S:
                    raise
                if self._client is not None:
                    self._client = None
                    self.tally.add(broken_connections=1)
                time.sleep(PAUSE_S)
            else:
                with self.tally.lock:
                    self.tally.slowest_s = max(self.tally.slowest_s, time.monotonic() - begun)
                return result
