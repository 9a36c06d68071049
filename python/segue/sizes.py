"""Sizes as people write them: ``10G``, ``10GiB``, ``512``; units are powers of 1024."""

from __future__ import annotations

import re
from fractions import Fraction

_UNITS = "KMGTPE"
_SIZE = re.compile(rf"([0-9]+(?:\.[0-9]+)?)\s*(?:([{_UNITS}])(?:iB)?|B)?", re.IGNORECASE)


def parse_size(text: str) -> int:
    """Bytes; raises ValueError for what is no size, "10GB" (10^9 or 2^30?) included."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is no size: write 10G or 10GiB (powers of 1024), or bytes")
    number, unit = match.groups()
    size = Fraction(number)
    if unit:
        size *= 1024 ** (_UNITS.index(unit.upper()) + 1)
    if size.denominator != 1:
        raise ValueError(f"{text!r} is no whole number of bytes")
    return int(size)


def format_size(size_bytes: int) -> str:
    """Exact with one decimal at most (``10G``, ``1.5M``), else about (``~3.3G``)."""
    value, unit = Fraction(size_bytes), ""
    for letter in _UNITS:
        if value < 1024:
            break
        value, unit = value / 1024, letter
    tenths = value * 10
    about = "" if tenths.denominator == 1 else "~"
    return f"{about}{float(value):.1f}".removesuffix(".0") + unit


def format_exact(size_bytes: int) -> str:
    """Exact, in the largest unit that it is a whole number of (``1152M``)."""
    unit = ""
    for letter in _UNITS:
        if size_bytes == 0 or size_bytes % 1024:
            break
        size_bytes, unit = size_bytes // 1024, letter
    return f"{size_bytes}{unit}"
