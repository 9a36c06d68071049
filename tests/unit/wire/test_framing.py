"""Frames survive any cutting of the stream, and nothing else passes for one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segue.wire.framing import HEADER_BYTES, FrameDecoder, FrameError, frame, frames
from segue.wire.messages import MAX_FRAME_BYTES


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=20), st.data())
def test_any_cutting_gives_the_same_payloads(payloads: list[bytes], data: st.DataObject) -> None:
    stream = frames(payloads)
    decoder = FrameDecoder()
    got: list[bytes] = []
    while stream:
        take = data.draw(st.integers(1, len(stream)))
        got += decoder.feed(stream[:take])
        stream = stream[take:]
    assert got == payloads
    assert decoder.pending_bytes == 0


def test_an_unfinished_frame_is_kept() -> None:
    decoder = FrameDecoder()
    assert list(decoder.feed(frame(b"abc")[:-1])) == []
    assert decoder.pending_bytes == HEADER_BYTES + 2
    assert list(decoder.feed(b"c" + frame(b"d"))) == [b"abc", b"d"]


@pytest.mark.parametrize("length", [0, MAX_FRAME_BYTES + 1, 2**32 - 1])
def test_a_length_out_of_range_is_an_error(length: int) -> None:
    with pytest.raises(FrameError, match=str(length)):
        list(FrameDecoder().feed(length.to_bytes(HEADER_BYTES, "little")))


def test_the_longest_frame_passes() -> None:
    payload = bytes(MAX_FRAME_BYTES)
    assert list(FrameDecoder().feed(frame(payload))) == [payload]


@pytest.mark.parametrize("payload", [b"", bytes(MAX_FRAME_BYTES + 1)])
def test_a_payload_out_of_range_is_not_framed(payload: bytes) -> None:
    with pytest.raises(FrameError):
        frame(payload)
