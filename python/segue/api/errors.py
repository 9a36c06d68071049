"""What the HTTP API says when it does not do what was asked."""

from __future__ import annotations

import msgspec


class ErrorBody(msgspec.Struct, frozen=True):
    """Every answer that is not a success: one clear sentence."""

    error: str
