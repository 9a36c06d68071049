"""The deliberate mistakes that the simulator must see: see `mutants.py`.

Each names the rule or promise it breaks.  `old` must occur exactly once in the file.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutation:
    """A textual patch of one file."""

    name: str
    path: str
    old: str
    new: str


MUTATIONS: list[Mutation] = []
