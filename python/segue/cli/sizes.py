"""Sizes as people write them, for the command line: see `segue.sizes`."""

from segue.sizes import format_exact, format_size, parse_size

__all__ = ["format_exact", "format_size", "parse_size"]
