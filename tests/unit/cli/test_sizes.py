"""Sizes as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segue.cli.sizes import format_exact, format_size, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("512", 512),
        ("512B", 512),
        ("4k", 4096),
        ("10G", 10 << 30),
        ("10GiB", 10 << 30),
        ("10 GiB", 10 << 30),
        ("1.5M", 3 << 19),
        ("16E", 16 << 60),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "G", "10GB", "-1", "1e9", "0x10", "0.3K", "10 G 5", "٣K٤"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match=r"no size|whole number"):
        parse_size(text)


@given(st.integers(0, 2**64))
def test_what_is_printed_without_about_is_exact(size: int) -> None:
    text = format_size(size)
    assert text.startswith("~") or parse_size(text) == size
    assert parse_size(format_exact(size)) == size
