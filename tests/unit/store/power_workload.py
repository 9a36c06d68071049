"""Run under strace by test_power_loss: commits, pipelined commits, checkpoints, two terms.

Says what has been acknowledged by one write per line to the acks file.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from random import Random

from segue.store import sqlite_file
from segue.store.contract import Loaded
from segue.store.page_format import LEAF_WORDS
from segue.store.pages import PageSpace, PageTree
from segue.store.sqlite import SqliteStore

ROOT_EVERY = 12


def body(number: int) -> bytes:
    """The body of commit `number`: now short, now over several database pages."""
    return Random(number).randbytes(30 if number % 5 else 9000)


def word(number: int) -> tuple[int, int]:
    """What commit `number` does to the tree."""
    rng = Random(-number)
    return rng.randrange(40 * LEAF_WORDS), rng.randrange(1 << 64)


def tree_after(number: int) -> dict[int, int]:
    """The words of the tree that includes commits up to `number`."""
    return {i: w for i, w in map(word, range(1, number + 1)) if w}


async def term(path: str, space: PageSpace, tree: PageTree, ack: Callable[[str], None]) -> None:
    """Commits and checkpoints of one term."""
    store = SqliteStore(path)
    loaded: Loaded = await store.begin_term()
    ack(f"term {loaded.term}")
    number = loaded.number
    for step in range(36):
        group = range(number + 1, number + 1 + (4 if step % 3 == 0 else 1))
        ack(f"asked {group[-1]}")
        await asyncio.gather(*[store.append(loaded.term, n, body(n)) for n in group])
        number = group[-1]
        ack(f"commit {number}")
        for n in group:
            tree.set(*word(n))
        if step % ROOT_EVERY == ROOT_EVERY - 1:
            out: dict[int, bytes] = {}
            root = tree.flush(out) + space.next_id.to_bytes(8, "little")
            freed = space.take_freed()
            await store.checkpoint(loaded.term, number, root, out, freed)
            ack(f"checkpoint {number}")
    await store.close()


def main(path: str) -> None:
    """Two terms in one process, so that the WAL is emptied, unlinked and made again."""
    sqlite_file.WAL_FRAMES = 60
    sqlite_file.SWEEP_ROWS = 16
    fd = os.open(path + ".acks", os.O_WRONLY | os.O_CREAT, 0o600)

    def ack(text: str) -> None:
        os.write(fd, text.encode() + b"\n")

    space = PageSpace()
    tree = PageTree(space)
    for _ in range(2):
        asyncio.run(term(path, space, tree, ack))


if __name__ == "__main__":
    main(sys.argv[1])
