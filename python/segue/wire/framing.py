"""Frames: how messages are cut out of a byte stream.

A frame is the payload's length in bytes (4 bytes, little-endian, 1 to `MAX_FRAME_BYTES`) and the
payload, one message.  No I/O and no knowledge of messages.
"""

from __future__ import annotations

from collections.abc import Iterator

from segue.wire.messages import MAX_FRAME_BYTES

HEADER_BYTES = 4


class FrameError(Exception):
    """The stream is not made of frames: nothing after this can be trusted."""


def frame(payload: bytes) -> bytes:
    """`payload` as one frame; raises `FrameError` if it is empty or too long."""
    return _header(len(payload)) + payload


def frames(payloads: list[bytes]) -> bytes:
    """Several payloads as consecutive frames, in one string for one write."""
    parts: list[bytes] = []
    for payload in payloads:
        parts += (_header(len(payload)), payload)
    return b"".join(parts)


def _header(length: int) -> bytes:
    if not 0 < length <= MAX_FRAME_BYTES:
        raise FrameError(f"a frame of {length} bytes; 1 to {MAX_FRAME_BYTES} are allowed")
    return length.to_bytes(HEADER_BYTES, "little")


class FrameDecoder:
    """Cuts a stream, fed in pieces of any size, into payloads."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._wanted_bytes = 0
        """How long `_rest` must be before it is worth looking at again."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yields the payloads that `data` completes, in order; to be run to its end.

        Raises `FrameError` at a length out of range, after the payloads before it; the decoder is
        of no use afterwards.
        """
        if self._rest:
            self._rest += data
            if len(self._rest) < self._wanted_bytes:
                return
            data = bytes(self._rest)
            self._rest.clear()
        at, end = 0, len(data)
        self._wanted_bytes = 0
        while end - at >= HEADER_BYTES:
            start = at + HEADER_BYTES
            length = int.from_bytes(data[at:start], "little")
            if not 0 < length <= MAX_FRAME_BYTES:
                raise FrameError(f"a frame of {length} bytes announced")
            if end - start < length:
                self._wanted_bytes = HEADER_BYTES + length
                break
            at = start + length
            yield data[start:at]
        self._rest += data[at:]

    @property
    def pending_bytes(self) -> int:
        """Bytes of a frame that is not complete yet (0: the stream may end here cleanly)."""
        return len(self._rest)
